// SPDX-License-Identifier: MIT OR Apache-2.0
//! The doctor's try: a sandbox like that of `wharf run`, made and taken down.

use std::io;

use rustix::mount::{MountFlags, mount};
use rustix::process::{Signal, WaitOptions};
use serde::{Deserialize, Serialize};

use super::advice::{self, Advice};
use super::{Class, Point};
use crate::channel::Channel;
use crate::netns::{Device, DeviceChoice, DeviceKind, INTERFACE, Wanted};
use crate::run::idmap;
use crate::sys::process::{Cloned, clone_into_namespaces, close_all_except, exit_now, new_network_namespace};
use crate::sys::signal::default_child_signal;

const MTU_BYTES: usize = 1500;

/// What the try's child found: error numbers, where something failed.
#[derive(Debug, Serialize, Deserialize)]
struct Tried {
    tap: Result<DeviceKind, i32>,
    veth: Result<(), i32>,
    proc: Result<(), i32>,
}

/// Everything that only a sandbox shows.
pub(super) fn examine() -> Vec<Point> {
    match examine_inside() {
        Ok(points) => points,
        Err(error) => vec![Point::new("namespaces", Class::Required, Err(advice::namespaces(&error)))],
    }
}

fn examine_inside() -> io::Result<Vec<Point>> {
    let (ours, theirs) = Channel::pair()?;
    default_child_signal();
    let Cloned::Parent(child) = clone_into_namespaces()? else { inside(&theirs) };
    drop(theirs);
    let mut points = vec![Point::new("namespaces", Class::Required, Ok("a sandbox can be made".to_owned()))];
    let ids = idmap::write(child, idmap::Mode::Best, idmap::Caller::current());
    let mapped = ids.is_ok();
    points.extend(id_points(ids));
    let tried = if mapped { try_inside(&ours) } else { None };
    let _ = rustix::process::kill_process(child, Signal::KILL);
    let _ = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(child), WaitOptions::empty()));
    points.extend(tried.into_iter().flat_map(device_points));
    Ok(points)
}

fn try_inside(ours: &Channel) -> Option<Tried> {
    ours.send(&(), &[]).ok()?;
    ours.receive::<Tried>().ok()?.map(|(tried, _)| tried)
}

/// The child's part.
fn inside(channel: &Channel) -> ! {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    close_all_except(channel.raw_fd());
    if let Ok(Some(((), _))) = channel.receive::<()>() {
        let errno = |error: io::Error| error.raw_os_error().unwrap_or(libc::EIO);
        let open = |choice| {
            let wanted = Wanted { choice, name: INTERFACE, queues: 1, mtu_bytes: MTU_BYTES, lasting: true };
            Device::open(wanted).map(|device| device.kind).map_err(errno)
        };
        let tap = open(DeviceChoice::Tap);
        // In a namespace of its own: the name is taken in this one.
        let veth = new_network_namespace().map_err(errno).and_then(|()| open(DeviceChoice::Veth)).map(drop);
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let proc = mount("proc", "/proc", "proc", flags, None).map_err(|error| error.raw_os_error());
        drop(channel.send(&Tried { tap, veth, proc }, &[]));
    }
    exit_now(0)
}

fn id_points(ids: Result<idmap::Written, idmap::Error>) -> Vec<Point> {
    match ids {
        Ok(idmap::Written { fell_back: None, .. }) => {
            vec![Point::new(
                "user-ids",
                Class::Degraded,
                Ok("your user and its subordinate ids are mapped".to_owned()),
            )]
        }
        Ok(idmap::Written { fell_back: Some(reason), .. }) => {
            let Advice { problem, remedy } = reason.advice();
            let problem = format!("only your own user id exists in sandboxes: {problem}");
            vec![Point::new("user-ids", Class::Degraded, Err(Advice { problem, remedy }))]
        }
        Err(error) => vec![Point::new("user-ids", Class::Required, Err(error.advice()))],
    }
}

fn device_points(tried: Tried) -> Vec<Point> {
    let error = io::Error::from_raw_os_error;
    let mut points = Vec::new();
    points.push(match (&tried.tap, &tried.veth) {
        (Ok(_), _) => Point::new("device", Class::Required, Ok("TAP".to_owned())),
        (Err(_), Ok(())) => Point::new("device", Class::Required, Ok("veth pair".to_owned())),
        (Err(errno), Err(_)) => {
            Point::new("device", Class::Required, Err(advice::device(&error(*errno), DeviceChoice::Best)))
        }
    });
    match tried.tap {
        Ok(DeviceKind::Tap(offloads)) if !offloads.tcp => {
            points.push(Point::new("offloads", Class::Degraded, Err(advice::offloads())));
        }
        Ok(_) => points.push(Point::new(
            "offloads",
            Class::Degraded,
            Ok("checksums and TCP segmentation".to_owned()),
        )),
        Err(errno) => points.push(Point::new("tap", Class::Degraded, Err(advice::tap(&error(errno))))),
    }
    let proc = tried.proc.map(|()| "a /proc of the sandbox's own".to_owned());
    points.push(Point::new("proc", Class::Degraded, proc.map_err(|errno| advice::proc_mount(&error(errno)))));
    points
}
