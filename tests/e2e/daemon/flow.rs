// SPDX-License-Identifier: MIT OR Apache-2.0
//! A flow that stands while other things change, and tells whether any of it was lost.

use std::process::Stdio;

use super::Container;
use crate::lab::{Running, script};

/// `flow.py` in a container, with a server that echoes (`server.py`, port 8).
pub(super) struct StandingFlow(Running);

impl StandingFlow {
    /// Starts one to an address and port, and waits until it stands.
    #[track_caller]
    pub(super) fn start(from: &Container, to: &str) -> Self {
        let line = format!("exec python3 {} {to}", script("flow.py"));
        let mut running = Running::start(from.command(&line).stderr(Stdio::inherit()));
        assert_eq!(running.line(), "up");
        Self(running)
    }

    /// Ends it. All that was sent has to come back.
    #[track_caller]
    pub(super) fn end(mut self) {
        let so_far = self.exchanged();
        // It goes on after everything that has happened.
        assert!(self.exchanged() > so_far);
        self.0.say("end");
        assert_eq!(self.0.line(), "nothing lost");
    }

    /// Numbers that went there and back.
    fn exchanged(&mut self) -> u64 {
        self.0.say("count");
        self.0.line().parse().unwrap()
    }
}
