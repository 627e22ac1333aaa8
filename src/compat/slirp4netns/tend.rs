// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the main thread does while the data plane works.

use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::api::Api;
use super::api::server::Server;
use super::args::Inherited;
use super::forward::Publisher;
use super::say;
use crate::dataplane::Running;
use crate::resolv::follow::Follower;

/// Descriptors that tell of the end by hanging up.
pub(super) struct Ends {
    /// The caller's; what never was open has hung up.
    pub(super) exit: Option<Inherited>,
    /// The guest's.
    pub(super) guest: Option<OwnedFd>,
}

/// Answers requests and follows the host's nameservers until one of `ends` hangs up.
pub(super) fn tend<P: Publisher>(
    Ends { exit, guest }: Ends,
    mut served: Option<(Server, Api<P>)>,
    mut resolv_conf: Follower,
    running: &Running,
) -> rustix::io::Result<()> {
    match exit {
        Some(Inherited::Closed) => say(&"exitfd event"),
        Some(Inherited::Open(exit)) => {
            attend([Some(&exit), guest.as_ref()], &mut served, &mut resolv_conf, running)?;
        }
        None => attend([None, guest.as_ref()], &mut served, &mut resolv_conf, running)?,
    }
    if let Some((server, _)) = served {
        server.remove();
    }
    say(&"do_slirp is exiting");
    Ok(())
}

fn attend<P: Publisher>(
    ends: [Option<&OwnedFd>; 2],
    served: &mut Option<(Server, Api<P>)>,
    resolv_conf: &mut Follower,
    running: &Running,
) -> rustix::io::Result<()> {
    loop {
        let ready = wait(ends, served.as_ref().map(|(server, _)| server), resolv_conf)?;
        if ready.exit {
            say(&"exitfd event");
            return Ok(());
        }
        if ready.guest {
            say(&"the guest has closed its connection");
            return Ok(());
        }
        if let Some((server, api)) = served {
            server.serve(Instant::now(), api);
        }
        if ready.file
            && resolv_conf.changed()
            && let Some(nameservers) = resolv_conf.news()
        {
            running.set_nameservers(&nameservers);
        }
    }
}

struct Ready {
    exit: bool,
    guest: bool,
    file: bool,
}

fn wait(
    [exit, guest]: [Option<&OwnedFd>; 2],
    server: Option<&Server>,
    resolv_conf: &Follower,
) -> rustix::io::Result<Ready> {
    // Data that comes is nobody's; the end is told without being asked for.
    let end = |fd| PollFd::new(fd, PollFlags::empty());
    let file = resolv_conf.watch().map(|watch| PollFd::new(watch, PollFlags::IN));
    let first = [exit.map(end), guest.map(end), file];
    let are_there = first.each_ref().map(Option::is_some);
    let requests = server.into_iter().flat_map(Server::interests);
    let mut fds: Vec<PollFd<'_>> = first.into_iter().flatten().chain(requests).collect();
    let timeout = server.and_then(|server| server.timeout(Instant::now()));
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    rustix::io::retry_on_intr(|| poll(&mut fds, timeout.as_ref()))?;
    let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
    let [exit, guest, file] = are_there.map(|is_there| is_there && ready.next().unwrap_or(false));
    Ok(Ready { exit, guest, file })
}
