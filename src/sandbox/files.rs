// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which files the gateway may open: Landlock.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope, path_beneath_rules,
};

/// What stays allowed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Files<'a> {
    /// Files beneath these directories may be read. One that does not exist is passed over.
    pub readable: &'a [PathBuf],
    /// Files beneath these may be made, read, replaced and removed.
    pub writable: &'a [PathBuf],
    /// Files of this one may be removed.
    pub removable: Option<BorrowedFd<'a>>,
    /// Files and directories beneath this one may be removed.
    pub clearable: Option<BorrowedFd<'a>>,
    /// Unix sockets beneath these directories may be connected to (Linux 7.1; before that all that have a path, but only
    /// where there is such a directory).
    pub connectable: &'a [PathBuf],
}

/// Forbids opening, making, removing and executing files but as `files` says; and, where the kernel can, connecting to
/// abstract unix sockets.
pub(super) fn allow(files: Files<'_>) -> io::Result<()> {
    let removable = files.removable.map(|directory| PathBeneath::new(directory, AccessFs::RemoveFile));
    let clearing = AccessFs::RemoveFile | AccessFs::RemoveDir;
    let clearable = files.clearable.map(|directory| PathBeneath::new(directory, clearing));
    let removal = removable.into_iter().chain(clearable).map(Ok::<_, RulesetError>);
    let keeping = AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::MakeReg
        | AccessFs::RemoveFile
        | AccessFs::Truncate;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V9))
        .and_then(|ruleset| ruleset.scope(Scope::AbstractUnixSocket))
        .and_then(Ruleset::create)
        .and_then(|ruleset| ruleset.add_rules(path_beneath_rules(files.readable, AccessFs::ReadFile)))
        .and_then(|ruleset| ruleset.add_rules(path_beneath_rules(files.writable, keeping)))
        .and_then(|ruleset| ruleset.add_rules(removal))
        .and_then(|ruleset| ruleset.add_rules(path_beneath_rules(files.connectable, AccessFs::ResolveUnix)))
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(io::Error::other)?;
    match status.ruleset {
        RulesetStatus::NotEnforced => Err(io::Error::other("this kernel has no Landlock")),
        _ => Ok(()),
    }
}
