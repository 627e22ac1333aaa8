// SPDX-License-Identifier: MIT OR Apache-2.0
//! `wharf up`: its options.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::fail;
use crate::control::runtime_dir::runtime_dir;
use crate::daemon::{self, Options};

#[derive(Debug, Args)]
pub(super) struct UpArgs {
    /// What networks there are [default: ~/.config/wharf/wharf.toml if it exists, else one network called default]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Keep addresses, and what is made by command, in this directory [default: ~/.local/state/wharf]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Have the sockets in this directory; other commands find them with the same option [default: $XDG_RUNTIME_DIR/wharf]
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
    /// Let networks that are made while it runs lead to unix sockets of the host beneath this directory; may be repeated
    #[arg(long, value_name = "DIR", value_parser = directory)]
    host_sockets: Vec<PathBuf>,
    /// Do not confine the process
    #[arg(long)]
    no_sandbox: bool,
}

/// A directory that is there, by its own name: what is compared with it may not come by another way.
fn directory(text: &str) -> Result<PathBuf, String> {
    let found = std::fs::canonicalize(text).map_err(|error| error.to_string())?;
    if found.is_dir() { Ok(found) } else { Err("not a directory".to_owned()) }
}

/// A directory of the user's, by its variable or below the home directory.
fn user_dir(variable: &str, below_home: &str) -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set(variable).or_else(|| set("HOME").map(|home| home.join(below_home))).map(|base| base.join("wharf"))
}

pub(super) fn main(args: UpArgs) -> ExitCode {
    let own_config = || {
        let path = user_dir("XDG_CONFIG_HOME", ".config")?.join("wharf.toml");
        path.exists().then_some(path)
    };
    let options = Options {
        config: args.config.or_else(own_config),
        state: args.state_dir.or_else(|| user_dir("XDG_STATE_HOME", ".local/state")),
        runtime: args.runtime_dir.unwrap_or_else(runtime_dir),
        host_sockets: args.host_sockets,
        sandbox: !args.no_sandbox,
    };
    match daemon::up(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}
