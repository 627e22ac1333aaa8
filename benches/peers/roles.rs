// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bench's own small clients and servers: this very program, started again in another namespace.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// First argument of a program that plays a role.
pub(crate) const MARKER: &str = "--play";
const PORT: u16 = 7007;
const CONTROL_PORT: u16 = 7008;
const DATAGRAM_PORT: u16 = 7009;
/// How long a receiver waits for stragglers.
const SILENCE: Duration = Duration::from_millis(500);

/// Plays a role and prints numbers separated by blanks.
pub(crate) fn play(words: &[String]) -> ExitCode {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["server"] => serve(),
        ["round-trips", to, seconds] => round_trips(to, seconds.parse().unwrap_or(1)),
        ["datagrams", to, direction, size, seconds] => {
            datagrams(to, direction, size.parse().unwrap_or(64), seconds.parse().unwrap_or(1))
        }
        ["connects", to, seconds] => connects(to, seconds.parse().unwrap_or(1)),
        _ => Err(std::io::Error::other("no such role")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{words:?}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Echoes byte by byte; a first byte of zero asks for the connection's end.
fn serve() -> std::io::Result<()> {
    std::thread::spawn(serve_datagrams);
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        stream.set_nodelay(true)?;
        std::thread::spawn(move || {
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

fn round_trips(to: &str, seconds: u64) -> std::io::Result<()> {
    let mut stream = TcpStream::connect((to, PORT))?;
    stream.set_nodelay(true)?;
    let mut times = Vec::new();
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut byte = [1];
    while Instant::now() < end {
        let begun = Instant::now();
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    let at = |permille: usize| times[(times.len() - 1) * permille / 1000].as_secs_f64() * 1e6;
    println!("{} {}", at(500), at(990));
    Ok(())
}

fn connects(to: &str, seconds: u64) -> std::io::Result<()> {
    let begun = Instant::now();
    let end = begun + Duration::from_secs(seconds);
    let mut count = 0u32;
    while Instant::now() < end && count < 25_000 {
        let mut stream = TcpStream::connect((to, PORT))?;
        stream.write_all(&[0])?;
        let mut byte = [0; 2];
        while stream.read(&mut byte)? != 0 {}
        count += 1;
    }
    println!("{}", f64::from(count) / begun.elapsed().as_secs_f64());
    Ok(())
}

/// Orders come over TCP: the direction, the size and the seconds. The answer to "up" is what arrived.
fn serve_datagrams() -> std::io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", CONTROL_PORT))?;
    let socket = UdpSocket::bind(("0.0.0.0", DATAGRAM_PORT))?;
    for control in listener.incoming() {
        let mut control = control?;
        let mut order = [0; 3];
        control.read_exact(&mut order)?;
        let size = usize::from(u16::from_be_bytes([order[1], order[2]]));
        if order[0] == b'u' {
            control.write_all(&count(&socket)?.to_be_bytes())?;
        } else {
            let (_, client) = socket.recv_from(&mut [0; 16])?;
            flood(Duration::from_secs(2), |payload| socket.send_to(payload, client), size);
        }
    }
    Ok(())
}

/// Sends as fast as the socket takes it.
fn flood(duration: Duration, mut send: impl FnMut(&[u8]) -> std::io::Result<usize>, size: usize) {
    let payload = vec![7; size];
    let end = Instant::now() + duration;
    while Instant::now() < end {
        for _ in 0..64 {
            // A full queue or a late ICMP error: the next one may go.
            let _ = send(&payload);
        }
    }
}

/// Datagrams per second from the first to the last.
fn count(socket: &UdpSocket) -> std::io::Result<f64> {
    let mut buffer = [0; 2048];
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.recv_from(&mut buffer)?;
    socket.set_read_timeout(Some(SILENCE))?;
    let begun = Instant::now();
    let (mut received, mut last) = (0u32, begun);
    while socket.recv_from(&mut buffer).is_ok() {
        received += 1;
        last = Instant::now();
    }
    socket.set_read_timeout(None)?;
    Ok(f64::from(received) / (last - begun).as_secs_f64().max(1e-6))
}

fn datagrams(to: &str, direction: &str, size: u16, seconds: u64) -> std::io::Result<()> {
    let mut control = TcpStream::connect((to, CONTROL_PORT))?;
    let [high, low] = size.to_be_bytes();
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.connect((to, DATAGRAM_PORT))?;
    let is_up = direction == "up";
    control.write_all(&[if is_up { b'u' } else { b'd' }, high, low])?;
    let rate = if is_up {
        flood(Duration::from_secs(seconds), |payload| socket.send(payload), usize::from(size));
        let mut rate = [0; 8];
        control.read_exact(&mut rate)?;
        f64::from_be_bytes(rate)
    } else {
        socket.send(b"me")?;
        count(&socket)?
    };
    println!("{rate}");
    Ok(())
}
