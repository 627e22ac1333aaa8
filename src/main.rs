// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `wharf` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    wharf::cli::main()
}
