// SPDX-License-Identifier: MIT OR Apache-2.0
//! A long path with a bottleneck, for kernels without netem: joins two TAPs, and holds what it carries.
//!
//! ```text
//! TAP -- read --> bottleneck: RATE, a queue of one round trip --> half a round trip --> write -- TAP
//! ```
//! The same both ways. The TAPs offer no offloads, so that the kernel cuts super-frames before they come here.

use std::fs::File;
use std::io::{Read as _, Result, Write as _};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use wharf::sys::tun;

/// Bits per second.
const RATE: f64 = 1e9;
/// More than a frame of any MTU and its virtio-net header.
const FRAME_BYTES: usize = 66_000;

/// Makes TAPs of these names and carries frames between them; only an error ends it.
pub(super) fn join(near: &str, far: &str, round_trip: Duration) -> Result<()> {
    let (near, far) = (open(near)?, open(far)?);
    thread::scope(|scope| {
        scope.spawn(|| carry(&near, &far, round_trip));
        carry(&far, &near, round_trip)
    })
}

/// One that can be waited for.
fn open(name: &str) -> Result<File> {
    let device = File::options().read(true).write(true).open(tun::DEVICE_PATH)?;
    tun::attach(device, name, false).map(File::from)
}

fn carry(from: &File, to: &File, round_trip: Duration) -> Result<()> {
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || deliver(receiver, to));
        let mut bottleneck = Bottleneck { free: Instant::now(), longest_wait: round_trip };
        let mut buffer = vec![0; FRAME_BYTES];
        loop {
            let len = (&*from).read(&mut buffer)?;
            if let Some(passed) = bottleneck.pass(len) {
                // It goes with the program.
                let _ = sender.send((passed + round_trip / 2, Box::from(&buffer[..len])));
            }
        }
    })
}

/// Writes each frame when its time has come.
fn deliver(frames: mpsc::Receiver<(Instant, Box<[u8]>)>, mut to: &File) {
    for (due, frame) in frames {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // An interface that is down loses what it is given.
        let _ = to.write(&frame);
    }
}

/// A line of limited rate with a queue in front.
struct Bottleneck {
    /// When all that waits has passed.
    free: Instant,
    /// The queue's length.
    longest_wait: Duration,
}

impl Bottleneck {
    /// When a frame of `len` bytes has passed; nothing when the queue is full.
    fn pass(&mut self, len: usize) -> Option<Instant> {
        let now = Instant::now();
        let start = self.free.max(now);
        if start - now > self.longest_wait {
            return None;
        }
        self.free = start + Duration::from_secs_f64(len as f64 * 8.0 / RATE);
        Some(self.free)
    }
}
