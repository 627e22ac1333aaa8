// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connect, one byte there and back, close.

use std::io::{Error, Read as _, Result, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::ECHO_PORT;

/// Fewer than a client has ports to one server, so that none has to wait for an old connection's end.
const MOST: u32 = 25_000;
/// When one that hangs has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// So many failures say enough.
const HOPELESS: u32 = 100;

/// What became of some connects.
#[derive(Clone, Copy, Default)]
struct Tally {
    made: u32,
    failed: u32,
}

/// Prints the connects per second of all clients together, and how many failed, after `before` that do not count.
pub(super) fn run(to: &str, clients: u32, before: u32, duration: Duration) -> Result<()> {
    let to = SocketAddr::new(to.parse::<IpAddr>().map_err(Error::other)?, ECHO_PORT);
    if repeat(to, before, None).made < before {
        return Err(Error::other("too many connects failed before the measurement"));
    }
    let begun = Instant::now();
    let end = Some(begun + duration);
    let tallies: Vec<Tally> = thread::scope(|scope| {
        let clients: Vec<_> =
            (0..clients).map(|_| scope.spawn(move || repeat(to, MOST / clients, end))).collect();
        clients.into_iter().filter_map(|client| client.join().ok()).collect()
    });
    let made: u32 = tallies.iter().map(|tally| tally.made).sum();
    let failed: u32 = tallies.iter().map(|tally| tally.failed).sum();
    println!("{} {failed}", f64::from(made) / begun.elapsed().as_secs_f64());
    Ok(())
}

/// One after the other, until there are `most`, the time is over or too many have failed.
fn repeat(to: SocketAddr, most: u32, end: Option<Instant>) -> Tally {
    let mut tally = Tally::default();
    while tally.made < most && tally.failed < HOPELESS && end.is_none_or(|end| Instant::now() < end) {
        match connect(to) {
            Ok(()) => tally.made += 1,
            Err(_) => tally.failed += 1,
        }
    }
    tally
}

fn connect(to: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[0])?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    // The server closes first.
    while stream.read(&mut byte)? != 0 {}
    Ok(())
}
