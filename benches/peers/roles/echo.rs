// SPDX-License-Identifier: MIT OR Apache-2.0
//! One byte there and back.

use std::io::{Error, Read as _, Result, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::{ECHO_PORT, quantile};

/// Echoes byte by byte; a first byte of zero asks for the connection's end.
pub(super) fn serve() -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", ECHO_PORT))?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        stream.set_nodelay(true)?;
        thread::spawn(move || {
            let mut byte = [0];
            while let Ok(1) = stream.read(&mut byte) {
                if stream.write_all(&byte).is_err() || byte == [0] {
                    break;
                }
            }
        });
    }
    Ok(())
}

/// Prints the median and the 99th percentile in microseconds.
pub(super) fn round_trips(to: &str, duration: Duration) -> Result<()> {
    let mut stream = TcpStream::connect((to, ECHO_PORT))?;
    stream.set_nodelay(true)?;
    let mut times = Vec::new();
    let end = Instant::now() + duration;
    let mut byte = [1];
    while Instant::now() < end {
        let begun = Instant::now();
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        times.push(begun.elapsed());
    }
    let (p50, p99) = (quantile(&mut times, 500), quantile(&mut times, 990));
    let (p50, p99) = p50.zip(p99).ok_or_else(|| Error::other("no round trip"))?;
    println!("{p50} {p99}");
    Ok(())
}
