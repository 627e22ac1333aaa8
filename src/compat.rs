// SPDX-License-Identifier: MIT OR Apache-2.0
//! Other programs' command lines, for callers that know only those: the same arguments, outputs and descriptors, with
//! this gateway behind them.

mod getopt;
pub mod slirp4netns;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// Runs the program that was called by its own name, or as `wharf NAME`; `None` when none was.
pub fn main_of(mut args: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let called = args.next()?;
    if Path::new(&called).file_name()? == slirp4netns::NAME {
        return Some(slirp4netns::main(args));
    }
    (args.next()? == slirp4netns::NAME).then(|| slirp4netns::main(args))
}
