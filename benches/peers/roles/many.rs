// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many connections at once: idle ones, and ones whose client is slow.
//!
//! The clients print how many connections they have, and keep them until they are killed.

use std::io::{Error, Read as _, Result, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

use super::{PLENTY_PORT, SILENT_PORTS, SMALL_STACK};

/// What the server has for each slow reader.
const PLENTY_BYTES: usize = 10_000_000;
/// What a slow reader takes at a time, and how long it waits then: 10 kB/s.
const SIP_BYTES: usize = 1000;
const PAUSE: Duration = Duration::from_millis(100);
/// When a connection that is not made has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Accepts connections and keeps them.
pub(super) fn serve_silence(port: u16) -> Result<()> {
    let kept: Result<Vec<TcpStream>> = TcpListener::bind(("0.0.0.0", port))?.incoming().collect();
    kept.map(drop)
}

/// Sends every client the same amount.
pub(super) fn serve_plenty() -> Result<()> {
    for stream in TcpListener::bind(("0.0.0.0", PLENTY_PORT))?.incoming() {
        let mut stream = stream?;
        reset_when_killed(&stream)?;
        thread::Builder::new()
            .stack_size(SMALL_STACK)
            .spawn(move || stream.write_all(&vec![7; PLENTY_BYTES]))?;
    }
    Ok(())
}

/// Opens connections on which nothing happens.
pub(super) fn hold(to: &str, count: usize) -> Result<()> {
    let _kept = open(to, count, SILENT_PORTS)?;
    loop {
        thread::park();
    }
}

/// Opens connections and reads less from them than there is.
pub(super) fn read_slowly(to: &str, count: usize) -> Result<()> {
    let mut streams = open(to, count, PLENTY_PORT..PLENTY_PORT + 1)?;
    for stream in &streams {
        stream.set_nonblocking(true)?;
    }
    let mut sip = [0; SIP_BYTES];
    loop {
        for stream in &mut streams {
            // One that has nothing yet is asked again next time.
            let _ = stream.read(&mut sip);
        }
        thread::sleep(PAUSE);
    }
}

/// Opens as many as go, up to `count`, and prints how many those are.
fn open(to: &str, count: usize, ports: std::ops::Range<u16>) -> Result<Vec<TcpStream>> {
    let to: IpAddr = to.parse().map_err(Error::other)?;
    let connect = |port| {
        let stream = TcpStream::connect_timeout(&SocketAddr::new(to, port), PATIENCE).ok()?;
        reset_when_killed(&stream).ok().map(|()| stream)
    };
    let streams: Vec<TcpStream> = ports.cycle().take(count).map_while(connect).collect();
    println!("{}", streams.len());
    Ok(streams)
}

/// So that none lives on in the kernel, beside the next measurement.
fn reset_when_killed(stream: &TcpStream) -> Result<()> {
    Ok(set_socket_linger(stream, Some(Duration::ZERO))?)
}
