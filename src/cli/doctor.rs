// SPDX-License-Identifier: MIT OR Apache-2.0
//! `wharf doctor`: its options and its two ways to say what was found.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;

use super::fail;
use crate::doctor;

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print the points as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: &DoctorArgs) -> ExitCode {
    let points = doctor::examine();
    let mut out = io::stdout().lock();
    let written = if args.json {
        serde_json::to_writer_pretty(&mut out, &points).map_err(io::Error::from).and_then(|()| writeln!(out))
    } else {
        doctor::write_text(&points, &mut out)
    };
    match written {
        Err(error) => fail(&error),
        Ok(()) if doctor::is_fit(&points) => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
    }
}
