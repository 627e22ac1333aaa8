// SPDX-License-Identifier: MIT OR Apache-2.0
//! DNS: a nameserver that answers at once, and clients that ask for a new name each time, or for a few again and again.

use std::collections::VecDeque;
use std::io::{Error, Result};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::quantile;

const PORT: u16 = 53;
/// Queries that a client has open at a time.
const IN_FLIGHT: usize = 64;
/// When a query without an answer is lost.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often a client without answers looks for queries that are lost.
const GLANCE: Duration = Duration::from_millis(20);
const IDS: usize = 1 << 16;

const HEADER_LEN: usize = 12;
/// A response; recursion desired and available.
const RESPONSE: [u8; 2] = [0x81, 0x80];
/// One question and one answer.
const COUNTS: [u8; 8] = [0, 1, 0, 1, 0, 0, 0, 0];
/// The name of the question (behind 12 bytes of header), A, IN, for a minute, 192.0.2.1.
const ANSWER: [u8; 16] = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1];

/// Gives every name the same address.
pub(super) fn serve() -> Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", PORT))?;
    let mut query = [0; 1500];
    loop {
        let (len, client) = socket.recv_from(&mut query)?;
        if let Some(answer) = answer(&query[..len]) {
            // A client that has gone is no reason to end.
            let _ = socket.send_to(&answer, client);
        }
    }
}

fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let name_len = query.get(HEADER_LEN..)?.iter().position(|&byte| byte == 0)?;
    let question = query.get(HEADER_LEN..HEADER_LEN + name_len + 5)?;
    Some([&query[..2], &RESPONSE, &COUNTS, question, &ANSWER].concat())
}

/// The query with this number, for the A record of the name with that one.
fn query(number: u32, name: u32) -> Vec<u8> {
    let label = format!("{name:08x}");
    let [.., high, low] = number.to_be_bytes();
    let mut query = vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 8];
    query.extend(label.as_bytes());
    query.extend(b"\x07example\x03org\0\0\x01\0\x01");
    query
}

fn client(to: &str, patience: Duration) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.connect((to, PORT))?;
    socket.set_read_timeout(Some(patience))?;
    Ok(socket)
}

/// The number that the next answer is for.
fn hear(socket: &UdpSocket) -> Option<usize> {
    let mut answer = [0; 1500];
    let len = socket.recv(&mut answer).ok()?;
    (len > HEADER_LEN).then(|| usize::from(u16::from_be_bytes([answer[0], answer[1]])))
}

fn percent_lost(asked: u32, answered: u32) -> f64 {
    f64::from(asked.saturating_sub(answered)) / f64::from(asked.max(1)) * 100.0
}

/// Queries without an answer yet, by their identifier and in the order of asking.
struct Open {
    since: Vec<Option<Instant>>,
    order: VecDeque<usize>,
    count: usize,
}

impl Open {
    fn new() -> Self {
        Self { since: vec![None; IDS], order: VecDeque::new(), count: 0 }
    }

    fn add(&mut self, id: usize) {
        self.since[id] = Some(Instant::now());
        self.order.push_back(id);
        self.count += 1;
    }

    /// Whether it was open.
    fn close(&mut self, id: usize) -> bool {
        let was_open = self.since[id].take().is_some();
        self.count -= usize::from(was_open);
        was_open
    }

    fn forget_lost(&mut self) {
        while let Some(&id) = self.order.front()
            && self.since[id].is_none_or(|since| since.elapsed() > PATIENCE)
        {
            self.close(id);
            self.order.pop_front();
        }
    }
}

/// Keeps some queries open, for `names` names in turn; prints the answers per second, and how many queries of a hundred had
/// none.
pub(super) fn as_many_as_answered(to: &str, names: u32, duration: Duration) -> Result<()> {
    let socket = client(to, GLANCE)?;
    let mut open = Open::new();
    let (mut asked, mut answered) = (0, 0);
    let begun = Instant::now();
    while begun.elapsed() < duration {
        while open.count < IN_FLIGHT {
            open.add(asked as usize % IDS);
            socket.send(&query(asked, asked % names))?;
            asked += 1;
        }
        answered += u32::from(hear(&socket).is_some_and(|id| open.close(id)));
        open.forget_lost();
    }
    let elapsed = begun.elapsed();
    let unknown = u32::try_from(open.count).unwrap_or(u32::MAX);
    println!("{} {}", f64::from(answered) / elapsed.as_secs_f64(), percent_lost(asked - unknown, answered));
    Ok(())
}

/// Asks at a fixed rate; prints the median and the 99th percentile in microseconds, and how many of a hundred were lost.
pub(super) fn paced(to: &str, rate: u32, duration: Duration) -> Result<()> {
    let socket = client(to, PATIENCE)?;
    let begun = Instant::now();
    let asked_at: Vec<AtomicU64> = (0..IDS).map(|_| AtomicU64::new(0)).collect();
    let (asked, mut times) = thread::scope(|scope| {
        let listener = scope.spawn(|| listen(&socket, begun, &asked_at));
        let asked = ask(&socket, rate, begun, duration, &asked_at);
        (asked, listener.join().unwrap_or_default())
    });
    let lost = percent_lost(asked?, u32::try_from(times.len()).unwrap_or(u32::MAX));
    let (p50, p99) = (quantile(&mut times, 500), quantile(&mut times, 990));
    let (p50, p99) = p50.zip(p99).ok_or_else(|| Error::other("no answer"))?;
    println!("{p50} {p99} {lost}");
    Ok(())
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Asks what is due, and says how much that was.
fn ask(socket: &UdpSocket, rate: u32, begun: Instant, duration: Duration, at: &[AtomicU64]) -> Result<u32> {
    let interval = Duration::from_secs(1) / rate;
    let mut asked = 0;
    while interval * asked < duration {
        thread::sleep((interval * asked).saturating_sub(begun.elapsed()));
        at[asked as usize % IDS].store(nanoseconds(begun.elapsed()), Ordering::Relaxed);
        socket.send(&query(asked, asked))?;
        asked += 1;
    }
    Ok(asked)
}

/// How long each answer took, until no more come.
fn listen(socket: &UdpSocket, begun: Instant, asked_at: &[AtomicU64]) -> Vec<Duration> {
    let mut times = Vec::new();
    while let Some(id) = hear(socket) {
        let asked = asked_at[id].swap(0, Ordering::Relaxed);
        if asked != 0 {
            times.push(begun.elapsed().saturating_sub(Duration::from_nanos(asked)));
        }
    }
    times
}
