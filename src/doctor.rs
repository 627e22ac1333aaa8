// SPDX-License-Identifier: MIT OR Apache-2.0
//! `wharf doctor`: does this machine have what a rootless network needs?
//!
//! # How it works
//! Nothing is guessed from settings that can be tried: the doctor makes a sandbox as [`crate::run`] does, with a
//! device in it, and takes it down again. Settings are read only to say why a try failed.
//!
//! Points are *required*, without which `wharf run` fails in the same words, or *degraded*, without which it works
//! less well.

pub mod advice;
mod sandbox;

use std::io;
use std::path::Path;

use rustix::net::{AddressFamily, SocketType, ipproto};
use rustix::process::Resource;
use serde::Serialize;
use wharf_stack::DropReason;

use advice::Advice;

use crate::resolv::{self, ResolvConf};

/// How much depends on a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Nothing works without it.
    Required,
    /// Something works less well without it.
    Degraded,
}

/// One point of the examination.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// What was looked at; stable, for programs.
    pub name: &'static str,
    /// How much depends on it.
    pub class: Class,
    /// It is as it should be.
    pub ok: bool,
    /// What was found.
    pub found: String,
    /// What mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Point {
    fn new(name: &'static str, class: Class, result: Result<String, Advice>) -> Self {
        match result {
            Ok(found) => Self { name, class, ok: true, found, remedy: None },
            Err(advice) => {
                Self { name, class, ok: false, found: advice.problem, remedy: Some(advice.remedy) }
            }
        }
    }
}

/// Descriptors below which a busy sandbox runs short.
const ENOUGH_FILES: u64 = 4096;

/// Oldest kernel with all the calls that cannot be done without: `pidfd_open` came with it.
const KERNEL_REQUIRED: (u32, u32) = (5, 3);
/// Oldest kernel with everything that makes wharf fast: `close_range` and virtio-net headers of all kinds.
const KERNEL_WANTED: (u32, u32) = (5, 15);

/// Examines this machine as the calling user. The calling process must have no threads yet.
#[must_use]
pub fn examine() -> Vec<Point> {
    let mut points = kernel();
    points.extend(sandbox::examine());
    points.extend(of_this_process());
    points.push(Point::new("nameservers", Class::Degraded, nameservers()));
    let ipv6 = if Path::new("/proc/net/if_inet6").exists() {
        Ok("in the kernel".to_owned())
    } else {
        Err(advice::ipv6())
    };
    points.push(Point::new("ipv6", Class::Degraded, ipv6));
    points
}

/// The points that concern the gateway process itself; they cost next to nothing.
#[must_use]
pub fn of_this_process() -> Vec<Point> {
    vec![Point::new("echo", Class::Degraded, echo()), Point::new("open-files", Class::Degraded, open_files())]
}

/// What to say when a packet is first dropped for lack of something. It looks at the machine, and so comes before the
/// gateway process is confined.
#[must_use]
pub fn when_needed(memory_bytes: usize) -> [(DropReason, Advice); 3] {
    let echo = echo().err().unwrap_or_else(|| advice::echo(&io::ErrorKind::PermissionDenied.into()));
    let files = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    [
        (DropReason::EchoNotPermitted, echo),
        (DropReason::HostExhausted, advice::sockets(files)),
        (DropReason::RelayMemoryExhausted, advice::memory(memory_bytes)),
    ]
}

fn kernel() -> Vec<Point> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let at_least = |(major, minor): (u32, u32)| match version(&release) {
        Some(version) if version < (major, minor) => {
            Err(advice::kernel(&release, &format!("{major}.{minor}")))
        }
        _ => Ok(format!("Linux {release}")),
    };
    let required = Point::new("kernel", Class::Required, at_least(KERNEL_REQUIRED));
    let wanted = required.ok.then(|| Point::new("kernel-age", Class::Degraded, at_least(KERNEL_WANTED)));
    [Some(required), wanted.filter(|point| !point.ok)].into_iter().flatten().collect()
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn echo() -> Result<String, Advice> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, Some(ipproto::ICMP));
    match socket {
        Ok(_) => Ok("ping sockets open".to_owned()),
        Err(error) => Err(advice::echo(&error.into())),
    }
}

fn open_files() -> Result<String, Advice> {
    match rustix::process::getrlimit(Resource::Nofile).maximum {
        Some(limit) if limit < ENOUGH_FILES => Err(advice::open_files(limit)),
        Some(limit) => Ok(format!("up to {limit}")),
        None => Ok("no limit".to_owned()),
    }
}

fn nameservers() -> Result<String, Advice> {
    let conf = ResolvConf::read(Path::new(resolv::PATH)).unwrap_or_default();
    let servers: Vec<String> = conf.nameservers.iter().map(|server| server.ip().to_string()).collect();
    if servers.is_empty() { Err(advice::nameservers()) } else { Ok(servers.join(", ")) }
}

/// The text for people.
///
/// # Errors
/// What writing says.
pub fn write_text(points: &[Point], out: &mut impl io::Write) -> io::Result<()> {
    for point in points {
        let mark = match (point.ok, point.class) {
            (true, _) => "ok      ",
            (false, Class::Required) => "MISSING ",
            (false, Class::Degraded) => "degraded",
        };
        writeln!(out, "{mark}  {}: {}", point.name, point.found)?;
        if let Some(remedy) = &point.remedy {
            writeln!(out, "          mend it: {remedy}")?;
        }
    }
    let missing = points.iter().filter(|point| !point.ok && point.class == Class::Required).count();
    let degraded = points.iter().filter(|point| !point.ok && point.class == Class::Degraded).count();
    match (missing, degraded) {
        (0, 0) => writeln!(out, "\nwharf run has all it needs."),
        (0, n) => writeln!(out, "\nwharf run works; {n} point(s) could be better."),
        (n, _) => writeln!(out, "\nwharf run cannot work: {n} required point(s) are missing."),
    }
}

/// Whether `wharf run` can work.
#[must_use]
pub fn is_fit(points: &[Point]) -> bool {
    points.iter().all(|point| point.ok || point.class == Class::Degraded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_read_whatever_follows_the_version() {
        assert_eq!(version("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(version("5.4.0-150-generic"), Some((5, 4)));
        assert_eq!(version("4.18"), Some((4, 18)));
        assert_eq!(version("odd"), None);
    }

    #[test]
    fn only_a_missing_required_point_makes_a_machine_unfit() {
        let advice = || Err(advice::ipv6());
        let degraded = Point::new("a", Class::Degraded, advice());
        let missing = Point::new("b", Class::Required, advice());
        assert!(is_fit(&[degraded.clone(), Point::new("c", Class::Required, Ok(String::new()))]));
        assert!(!is_fit(&[degraded, missing]));
    }

    #[test]
    fn text_names_each_failing_point_with_its_remedy() {
        let points = [Point::new(
            "tap",
            Class::Required,
            Err(advice::tap(&io::Error::from_raw_os_error(libc::ENOENT))),
        )];
        let mut text = Vec::new();
        write_text(&points, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("MISSING   tap: there is no /dev/net/tun"), "{text}");
        assert!(text.contains("mend it: sudo modprobe tun"), "{text}");
        assert!(text.contains("cannot work"), "{text}");
    }
}
