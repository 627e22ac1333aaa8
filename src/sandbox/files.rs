// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which files the gateway may open: Landlock.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope, path_beneath_rules,
};

/// Forbids opening, making, removing and executing files, but for reading those beneath `directories` and removing those
/// of `removable`; and, where the kernel can, connecting to abstract unix sockets. A directory that does not exist is passed
/// over.
pub(super) fn allow(directories: &[PathBuf], removable: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let removal = removable.map(|directory| Ok(PathBeneath::new(directory, AccessFs::RemoveFile)));
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V9))
        .and_then(|ruleset| ruleset.scope(Scope::AbstractUnixSocket))
        .and_then(Ruleset::create)
        .and_then(|ruleset| ruleset.add_rules(path_beneath_rules(directories, AccessFs::ReadFile)))
        .and_then(|ruleset| ruleset.add_rules(removal.into_iter().collect::<Vec<Result<_, RulesetError>>>()))
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(io::Error::other)?;
    match status.ruleset {
        RulesetStatus::NotEnforced => Err(io::Error::other("this kernel has no Landlock")),
        _ => Ok(()),
    }
}
