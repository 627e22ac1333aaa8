// SPDX-License-Identifier: MIT OR Apache-2.0
//! Datagrams one way, as fast as they go or at a fixed rate, counted at the other end.
//!
//! The client orders them over TCP. Whoever is the server's end of the flow says there what it has counted: what
//! arrived of an upload, what it sent of a download.

use std::io::{Read as _, Result, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_recv_buffer_size;

use super::{CONTROL_PORT, DATAGRAM_PORT};

/// How long a receiver waits for the first.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a receiver waits for stragglers.
const SILENCE: Duration = Duration::from_millis(500);
/// Between the bursts of a fixed rate.
const BREATH: Duration = Duration::from_micros(100);
/// What is lost is to be lost on the way, not in front of a reader that is late.
const RECEIVE_BUFFER: usize = 4 << 20;

/// What is to be sent.
#[derive(Clone, Copy)]
pub(super) struct Order {
    pub(super) is_up: bool,
    /// Bytes of payload.
    pub(super) size: u16,
    /// Datagrams per second; 0 is as fast as the socket takes them.
    pub(super) rate: u32,
    pub(super) seconds: u16,
}

/// What came of it.
struct Arrived {
    count: u32,
    /// From the first to the last.
    span: Duration,
}

impl Order {
    fn to_bytes(self) -> [u8; 9] {
        let mut bytes = [0; 9];
        bytes[0] = u8::from(self.is_up);
        bytes[1..3].copy_from_slice(&self.size.to_be_bytes());
        bytes[3..7].copy_from_slice(&self.rate.to_be_bytes());
        bytes[7..].copy_from_slice(&self.seconds.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; 9]) -> Self {
        let [is_up, s0, s1, r0, r1, r2, r3, t0, t1] = bytes;
        Self {
            is_up: is_up != 0,
            size: u16::from_be_bytes([s0, s1]),
            rate: u32::from_be_bytes([r0, r1, r2, r3]),
            seconds: u16::from_be_bytes([t0, t1]),
        }
    }

    /// Sends for the time ordered and says how many.
    fn send(self, mut send: impl FnMut(&[u8]) -> Result<usize>) -> u32 {
        let payload = vec![7; usize::from(self.size)];
        let begun = Instant::now();
        let duration = Duration::from_secs(self.seconds.into());
        let mut sent = 0;
        while begun.elapsed() < duration {
            let due = if self.rate == 0 { sent + 64 } else { due(self.rate, begun.elapsed()) };
            while sent < due {
                // A full queue or a late ICMP error: it is lost, and the next one may go.
                let _ = send(&payload);
                sent += 1;
            }
            if self.rate != 0 {
                std::thread::sleep(BREATH);
            }
        }
        sent
    }
}

/// How many datagrams are due after `elapsed` at `rate` per second.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of some seconds")]
fn due(rate: u32, elapsed: Duration) -> u32 {
    (f64::from(rate) * elapsed.as_secs_f64()) as u32
}

/// Carries out one order after the other.
pub(super) fn serve() -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", CONTROL_PORT))?;
    let socket = UdpSocket::bind(("0.0.0.0", DATAGRAM_PORT))?;
    set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER)?;
    for control in listener.incoming() {
        let mut control = control?;
        let mut order = [0; 9];
        control.read_exact(&mut order)?;
        let order = Order::from_bytes(order);
        if order.is_up {
            let Arrived { count, span } = receive(&socket)?;
            control.write_all(&count.to_be_bytes())?;
            control.write_all(&span.as_secs_f64().to_be_bytes())?;
        } else {
            let (_, client) = socket.recv_from(&mut [0; 16])?;
            let sent = order.send(|payload| socket.send_to(payload, client));
            control.write_all(&sent.to_be_bytes())?;
        }
    }
    Ok(())
}

/// Counts what arrives until nothing more does.
fn receive(socket: &UdpSocket) -> Result<Arrived> {
    let mut buffer = [0; 2048];
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut count = u32::from(socket.recv_from(&mut buffer).is_ok());
    socket.set_read_timeout(Some(SILENCE))?;
    let begun = Instant::now();
    let mut last = begun;
    while count > 0 && socket.recv_from(&mut buffer).is_ok() {
        count += 1;
        last = Instant::now();
    }
    socket.set_read_timeout(None)?;
    Ok(Arrived { count, span: last - begun })
}

/// Prints the datagrams per second that arrived, and how many of a hundred did not.
pub(super) fn run(to: &str, order: Order) -> Result<()> {
    let mut control = TcpStream::connect((to, CONTROL_PORT))?;
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER)?;
    socket.connect((to, DATAGRAM_PORT))?;
    control.write_all(&order.to_bytes())?;
    let (sent, arrived) = if order.is_up {
        let sent = order.send(|payload| socket.send(payload));
        let (mut count, mut span) = ([0; 4], [0; 8]);
        control.read_exact(&mut count)?;
        control.read_exact(&mut span)?;
        let span = Duration::from_secs_f64(f64::from_be_bytes(span));
        (sent, Arrived { count: u32::from_be_bytes(count), span })
    } else {
        socket.send(b"me")?;
        let arrived = receive(&socket)?;
        let mut sent = [0; 4];
        control.read_exact(&mut sent)?;
        (u32::from_be_bytes(sent), arrived)
    };
    let rate = f64::from(arrived.count.saturating_sub(1)) / arrived.span.as_secs_f64().max(1e-6);
    let lost = f64::from(sent.saturating_sub(arrived.count)) / f64::from(sent.max(1));
    println!("{rate} {}", lost * 100.0);
    Ok(())
}
