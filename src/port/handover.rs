// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device that one worker alone reads and writes, and how the others' frames get to it.
//!
//! # How it works
//! A socket may take a part of a frame only, so whoever writes to it must know what is left to be written: its owner. The
//! other workers' frames go through a bounded queue, behind which the owner's bell is rung. The owner sends what waits
//! there before anything of its own, so a flow that changes its worker stays in order.
//!
//! # Bounds
//! [`CAPACITY`] frames wait for the owner. It takes none that the device has no room for, so that a slow device fills the
//! queue, and who has a frame for it is told.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_queue::ArrayQueue;
use wharf_switch::{Frame, Offloads, Pool, Port, Received, Sent};

use crate::bell::Bell;

/// Frames that may wait for the owner.
const CAPACITY: usize = 512;
/// Frame buffers of each size that a worker keeps for reuse.
const IDLE_FRAMES: usize = 64;

/// The way to the owner.
#[derive(Debug)]
struct Handover {
    frames: ArrayQueue<Frame>,
    bell: Bell,
    /// The owner has not heard the bell yet.
    rung: AtomicBool,
}

/// The owner's device.
#[derive(Debug)]
pub struct Owner<P> {
    device: P,
    /// If there are others.
    handover: Option<Arc<Handover>>,
    /// The next one of theirs, which the device had no room for.
    next: Option<Frame>,
}

impl<P> Owner<P> {
    /// Alone so far.
    pub(super) fn new(device: P) -> Self {
        Self { device, handover: None, next: None }
    }

    /// What wakes the owner beside the device.
    pub(super) fn bell(&self) -> Option<&Bell> {
        self.handover.as_ref().map(|handover| &handover.bell)
    }
}

impl<P: Port> Owner<P> {
    /// The device for another worker.
    ///
    /// # Errors
    /// Out of descriptors.
    pub(super) fn remote(&mut self) -> io::Result<Remote> {
        let handover = match &self.handover {
            Some(handover) => Arc::clone(handover),
            None => Arc::clone(self.handover.insert(Arc::new(Handover {
                frames: ArrayQueue::new(CAPACITY),
                bell: Bell::new()?,
                rung: AtomicBool::new(false),
            }))),
        };
        Ok(Remote { handover, offloads: self.device.offloads(), pool: Pool::new(IDLE_FRAMES) })
    }

    /// Sends what was handed over. Returns whether that was all.
    fn forward(&mut self) -> bool {
        let Some(handover) = &self.handover else { return true };
        while let Some(mut frame) = self.next.take().or_else(|| handover.frames.pop()) {
            if self.device.send(&mut frame) == Sent::Full {
                self.next = Some(frame);
                return false;
            }
        }
        true
    }
}

impl<P: AsFd> AsFd for Owner<P> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

impl<P: Port> Port for Owner<P> {
    fn recv(&mut self, frame: &mut Frame) -> Received {
        self.device.recv(frame)
    }

    fn send(&mut self, frame: &mut Frame) -> Sent {
        if self.forward() { self.device.send(frame) } else { Sent::Full }
    }

    fn flush(&mut self) {
        if let Some(handover) = &self.handover {
            // Before the queue is looked at: who puts a frame there afterwards rings once more.
            handover.rung.swap(false, Ordering::AcqRel);
        }
        self.device.flush();
        self.forward();
    }

    fn offloads(&self) -> Offloads {
        self.device.offloads()
    }
}

/// The device of another worker's.
#[derive(Debug)]
pub struct Remote {
    handover: Arc<Handover>,
    offloads: Offloads,
    pool: Pool,
}

impl Port for Remote {
    fn recv(&mut self, _: &mut Frame) -> Received {
        Received::Empty
    }

    fn send(&mut self, frame: &mut Frame) -> Sent {
        let Handover { frames, bell, rung } = self.handover.as_ref();
        // Looked at first, to save a copy in vain.
        if frames.is_full() {
            return Sent::Full;
        }
        if frames.push(frame.copy(&self.pool)).is_err() {
            return Sent::Full;
        }
        if !rung.swap(true, Ordering::AcqRel) {
            bell.ring();
        }
        Sent::Sent
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }
}

#[cfg(test)]
mod tests {
    use wharf_switch::MemoryPort;

    use super::*;

    fn owner_of(limit: usize) -> Owner<MemoryPort> {
        Owner::new(MemoryPort { limit, offloads: Offloads::NONE, ..MemoryPort::default() })
    }

    fn frame(number: u16) -> Frame {
        let mut frame = Pool::new(1).small();
        frame.fill(&number.to_be_bytes().repeat(30));
        frame
    }

    /// The numbers of the frames that the device has taken.
    fn taken(owner: &mut Owner<MemoryPort>) -> Vec<u16> {
        owner.device.outbound.drain(..).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]])).collect()
    }

    fn hears(owner: &Owner<MemoryPort>) -> bool {
        let mut count = [0; 8];
        rustix::io::read(owner.bell().unwrap(), &mut count).is_ok()
    }

    #[test]
    fn frames_of_another_worker_leave_before_those_that_the_owner_has_later() {
        let mut owner = owner_of(0);
        let mut others = [owner.remote().unwrap(), owner.remote().unwrap()];
        assert_eq!(others[0].send(&mut frame(1)), Sent::Sent);
        assert_eq!(others[1].send(&mut frame(2)), Sent::Sent);
        assert_eq!(owner.send(&mut frame(3)), Sent::Sent);
        assert_eq!(taken(&mut owner), [1, 2, 3]);
    }

    #[test]
    fn the_bell_rings_once_for_all_that_the_owner_has_not_fetched_and_again_after_that() {
        let mut owner = owner_of(0);
        let mut other = owner.remote().unwrap();
        for round in [0, 10] {
            assert!(!hears(&owner));
            for number in round..round + 3 {
                assert_eq!(other.send(&mut frame(number)), Sent::Sent);
            }
            assert!(hears(&owner) && !hears(&owner));
            owner.flush();
            assert_eq!(taken(&mut owner), [round, round + 1, round + 2]);
        }
    }

    #[test]
    fn a_full_device_keeps_frames_in_the_queue_and_a_full_queue_refuses() {
        let mut owner = owner_of(1);
        let mut other = owner.remote().unwrap();
        let mut accepted = 0;
        while other.send(&mut frame(accepted)) == Sent::Sent {
            accepted += 1;
            owner.flush();
        }
        // One is in the device, and the owner holds another.
        assert_eq!(usize::from(accepted), CAPACITY + 2);
        assert_eq!(owner.send(&mut frame(accepted)), Sent::Full);
        let mut seen = Vec::new();
        loop {
            match taken(&mut owner) {
                numbers if numbers.is_empty() => break,
                numbers => seen.extend(numbers),
            }
            owner.flush();
        }
        assert_eq!(seen, (0..accepted).collect::<Vec<_>>());
    }
}
