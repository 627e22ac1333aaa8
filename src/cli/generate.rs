// SPDX-License-Identifier: MIT OR Apache-2.0
//! Manual pages and shell completions, made from the command line's own definition.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, written};

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Write every page into this directory instead of printing the first one
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct CompletionArgs {
    /// The shell to complete for
    shell: Shell,
}

pub(super) fn man(args: &ManArgs) -> ExitCode {
    let result = match &args.directory {
        Some(directory) => clap_mangen::generate_to(Cli::command(), directory),
        None => clap_mangen::Man::new(Cli::command()).render(&mut io::stdout()),
    };
    written(result)
}

pub(super) fn completions(args: &CompletionArgs) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "wharf", &mut text);
    written(io::stdout().write_all(&text))
}
