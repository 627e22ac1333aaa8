// SPDX-License-Identifier: MIT OR Apache-2.0
//! wharf's main thread while the command runs: signals, the sandbox's init, and the host's resolv.conf.
//!
//! # How it works
//! One poll without a timeout. Every signal is blocked and read from a descriptor:
//!
//! * from the terminal (INT, QUIT, TSTP, HUP, WINCH by the kernel): the command has got it too, wharf does nothing;
//! * from a process: passed on to init, which passes it on to the command;
//! * when the command stops, wharf stops itself, so that the shell that waits for wharf sees a stopped job; when
//!   it is continued, so is the command.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::door::Door;
use super::error::Doing as _;
use super::messages::{FromInit, ToInit};
use super::terminal::Terminal;
use super::{Error, Outcome};
use crate::channel::Channel;
use crate::control::registry::{Registry, Watch};
use crate::resolv::follow::Follower;
use crate::sys::memory::Code;
use crate::sys::signal::SignalFd;

/// What this process serves the sandbox with, if no daemon does.
pub(super) struct Served {
    pub(super) registry: Arc<Registry>,
    pub(super) door: Option<Door>,
    pub(super) _watch: Option<Watch>,
}

pub(super) struct Supervisor {
    channel: Channel,
    signals: SignalFd,
    init: std::os::fd::OwnedFd,
    terminal: Terminal,
    /// Without inotify a replaced file shows in the sandbox.
    resolv_conf: Follower,
}

impl Supervisor {
    /// Opens all that it needs. `nameservers` are those read from the host's resolv.conf, if the gateway is to follow that.
    pub(super) fn new(
        init: Pid,
        channel: Channel,
        nameservers: Option<Vec<SocketAddr>>,
    ) -> Result<Self, Error> {
        let signals = SignalFd::new().doing("listening to signals")?;
        let init = pidfd_open(init, PidfdFlags::empty()).doing("watching the sandbox's init")?;
        let resolv_conf = Follower::new(nameservers);
        let terminal = Terminal::open();
        Ok(Self { channel, signals, init, terminal, resolv_conf })
    }

    /// Lets the command start and stays until it ended and everything in the sandbox with it.
    pub(super) fn run(mut self, mut served: Option<Served>, code: Code) -> Result<Outcome, Error> {
        // What changed since the file was read and covered, before the watch was there.
        self.resolv_conf_changed(served.as_ref());
        // If init is gone, the loop finds out.
        drop(self.channel.send(&ToInit::Go, &[]));
        // Not before: what has to come back would keep the command waiting.
        code.release();
        let outcome = loop {
            let ready = self.wait(served.as_ref())?;
            if ready.message
                && let Some(outcome) = self.take_message()?
            {
                break outcome;
            }
            if ready.signal {
                self.take_signals();
            }
            if ready.file && self.resolv_conf.changed() {
                self.resolv_conf_changed(served.as_ref());
            }
            if ready.client
                && let Some(Served { registry, door: Some(door), .. }) = &mut served
            {
                door.answer(registry);
            }
        };
        self.resolv_conf.end();
        // Init is a zombie only after the kernel has reaped everything else in its PID namespace.
        let mut fds = [PollFd::new(&self.init, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut fds, None)).doing("waiting for the sandbox's end")?;
        self.terminal.restore();
        outcome
    }

    fn wait(&self, served: Option<&Served>) -> Result<Ready, Error> {
        let file = self.resolv_conf.watch().map(AsFd::as_fd);
        let client = served.and_then(|served| served.door.as_ref()?.listener()).map(AsFd::as_fd);
        let channel = Some(self.channel.as_fd());
        let wanted = [channel, Some(self.signals.as_fd()), file, client];
        let mut fds: Vec<_> = wanted.iter().flatten().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        rustix::io::retry_on_intr(|| poll(&mut fds, None)).doing("waiting for the command")?;
        let mut polled = fds.iter().map(|fd| !fd.revents().is_empty());
        let [message, signal, file, client] =
            wanted.map(|fd| fd.is_some() && polled.next().unwrap_or_default());
        Ok(Ready { message, signal, file, client })
    }

    /// The command's outcome, if this message was its end; the end of the channel is init's death.
    fn take_message(&mut self) -> Result<Option<Result<Outcome, Error>>, Error> {
        let received = self.channel.receive::<FromInit>().doing("listening to the sandbox")?;
        let Some((message, _)) = received else { return Ok(Some(Err(Error::InitKilled))) };
        let outcome = match message {
            FromInit::Exited(status) => Ok(Outcome::Exited(status)),
            FromInit::Killed(signal) => Ok(Outcome::Killed(signal)),
            FromInit::NotStarted { errno } => Ok(Outcome::NotStarted(errno)),
            FromInit::Failed { step, errno } => Err(Error::Sandbox { step, errno }),
            FromInit::Stopped { in_foreground } => {
                self.stop(in_foreground);
                return Ok(None);
            }
            FromInit::Warning(text) => {
                tracing::warn!("{text}");
                return Ok(None);
            }
            FromInit::Note(text) => {
                tracing::info!("{text}");
                return Ok(None);
            }
            FromInit::Device(_) | FromInit::NoDevice { .. } => return Ok(None),
        };
        Ok(Some(outcome))
    }

    /// The command stopped: so do we, threads and all, until somebody continues us.
    fn stop(&mut self, in_foreground: bool) {
        self.terminal.before_stop(in_foreground);
        let _ = kill_process(rustix::process::getpid(), Signal::STOP);
        self.terminal.after_stop();
        self.take_signals();
    }

    fn take_signals(&self) {
        while let Some(received) = self.signals.next() {
            // SIGPIPE calls itself sent by a process, but is the answer to a write of ours.
            let ours = matches!(received.signal, libc::SIGCHLD | libc::SIGPIPE);
            if received.from_process && !ours {
                drop(self.channel.send(&ToInit::Signal(received.signal), &[]));
            }
        }
    }

    /// Init covers the host's new file; the gateway asks the servers it names.
    fn resolv_conf_changed(&mut self, served: Option<&Served>) {
        drop(self.channel.send(&ToInit::ResolvConfChanged, &[]));
        if let (Some(nameservers), Some(served)) = (self.resolv_conf.news(), served) {
            served.registry.set_nameservers(nameservers);
        }
    }
}

struct Ready {
    message: bool,
    signal: bool,
    file: bool,
    client: bool,
}
