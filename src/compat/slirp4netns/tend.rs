// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the main thread does while the data plane works.

use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::api::Api;
use super::api::server::Server;
use super::args::Inherited;
use super::forward::Publisher;
use crate::dataplane::Running;
use crate::resolv::follow::Follower;

/// Answers requests and follows the host's nameservers until the other end of `exit` closes, which what never was open
/// has.
pub(super) fn tend<P: Publisher>(
    exit: Option<Inherited>,
    mut served: Option<(Server, Api<P>)>,
    mut resolv_conf: Follower,
    running: &Running,
) -> rustix::io::Result<()> {
    match exit {
        Some(Inherited::Closed) => {}
        Some(Inherited::Open(exit)) => attend(Some(&exit), &mut served, &mut resolv_conf, running)?,
        None => attend(None, &mut served, &mut resolv_conf, running)?,
    }
    if let Some((server, _)) = served {
        server.remove();
    }
    eprintln!("do_slirp is exiting");
    Ok(())
}

fn attend<P: Publisher>(
    exit: Option<&OwnedFd>,
    served: &mut Option<(Server, Api<P>)>,
    resolv_conf: &mut Follower,
    running: &Running,
) -> rustix::io::Result<()> {
    loop {
        let ready = wait(exit, served.as_ref().map(|(server, _)| server), resolv_conf)?;
        if ready.exit {
            eprintln!("exitfd event");
            return Ok(());
        }
        if let Some((server, api)) = served {
            server.serve(Instant::now(), api);
        }
        if ready.file
            && resolv_conf.changed()
            && let Some(nameservers) = resolv_conf.news()
        {
            running.set_nameservers(nameservers);
        }
    }
}

struct Ready {
    exit: bool,
    file: bool,
}

fn wait(
    exit: Option<&OwnedFd>,
    server: Option<&Server>,
    resolv_conf: &Follower,
) -> rustix::io::Result<Ready> {
    // Data that comes is nobody's; the end is told without being asked for.
    let exit = exit.map(|exit| PollFd::new(exit, PollFlags::empty()));
    let file = resolv_conf.watch().map(|watch| PollFd::new(watch, PollFlags::IN));
    let (has_exit, has_file) = (exit.is_some(), file.is_some());
    let requests = server.into_iter().flat_map(Server::interests);
    let mut fds: Vec<PollFd<'_>> = exit.into_iter().chain(file).chain(requests).collect();
    let timeout = server.and_then(|server| server.timeout(Instant::now()));
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    rustix::io::retry_on_intr(|| poll(&mut fds, timeout.as_ref()))?;
    let ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
    Ok(Ready { exit: has_exit && ready(0), file: has_file && ready(usize::from(has_exit)) })
}
