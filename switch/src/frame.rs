// SPDX-License-Identifier: MIT OR Apache-2.0
//! A frame: one uniquely owned buffer with room in front for headers, and the pool it returns to.
//!
//! # How it works
//! ```text
//! | HEADROOM 32 | vnet header 10 | Ethernet frame, up to 65,535 + 18 bytes |
//!                                ^ start                          ^ start + len
//! ```
//! The odd-looking 42 puts the IP header on a 4-byte boundary. Bytes in front of `start` are free: the virtio-net
//! header is written there at egress, and [`Frame::trim_front`] moves `start` forward so that new headers can be
//! written over payload that is no longer needed.
//!
//! There are two sizes of buffer, so that a one-byte segment that waits for its ACK does not hold 64 KiB.
//! Dropping a frame gives its buffer back to the pool; the most recently used buffer is handed out first, because
//! its cache lines are warm.
//!
//! # Bounds
//! A pool keeps at most a configured number of idle buffers of each size; the rest is freed.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::offload::{Offload, VNET_HEADER_LEN};
use crate::{Priority, Vlan};

/// Bytes in front of the virtio-net header, for tags and length prefixes.
pub const HEADROOM: usize = 32;
/// Where a frame starts in a fresh buffer.
pub const FRAME_START: usize = HEADROOM + VNET_HEADER_LEN;
/// The longest frame: the largest IPv6 packet (its length does not count its header), an Ethernet header and a VLAN tag.
pub const MAX_FRAME_LEN: usize = 65_535 + 40 + 18;
/// The longest frame that fits a small buffer.
pub const SMALL_FRAME_LEN: usize = SMALL_BUFFER_LEN - FRAME_START;
/// Bytes of an Ethernet header.
pub const ETHERNET_HEADER_LEN: usize = 14;

/// Bytes of memory behind a small frame.
pub const SMALL_BUFFER_LEN: usize = 2048;
/// Bytes of memory behind a large frame.
pub const LARGE_BUFFER_LEN: usize = FRAME_START + MAX_FRAME_LEN + 5;

/// Where frames come from and return to.
///
/// A clone is another handle on the same pool.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Mutex<Idle>>,
}

struct Idle {
    small: Vec<Box<[u8]>>,
    large: Vec<Box<[u8]>>,
    keep: usize,
}

impl Pool {
    /// A pool that keeps up to `keep` idle buffers of each size.
    #[must_use]
    pub fn new(keep: usize) -> Self {
        Self { shared: Arc::new(Mutex::new(Idle { small: Vec::new(), large: Vec::new(), keep })) }
    }

    /// An empty frame with room for [`MAX_FRAME_LEN`] bytes.
    #[must_use]
    pub fn large(&self) -> Frame {
        let idle = self.idle().large.pop();
        self.frame(idle.unwrap_or_else(|| vec![0; LARGE_BUFFER_LEN].into_boxed_slice()))
    }

    /// An empty frame with room for [`SMALL_FRAME_LEN`] bytes.
    #[must_use]
    pub fn small(&self) -> Frame {
        let idle = self.idle().small.pop();
        self.frame(idle.unwrap_or_else(|| vec![0; SMALL_BUFFER_LEN].into_boxed_slice()))
    }

    /// An empty frame with room for at least `len` bytes, at most [`MAX_FRAME_LEN`].
    #[must_use]
    pub fn for_len(&self, len: usize) -> Frame {
        if len <= SMALL_FRAME_LEN { self.small() } else { self.large() }
    }

    /// Frees every idle buffer; for a worker that is about to sleep long.
    pub fn trim(&self) {
        let (small, large) = {
            let mut idle = self.idle();
            (core::mem::take(&mut idle.small), core::mem::take(&mut idle.large))
        };
        drop((small, large));
    }

    fn frame(&self, buffer: Box<[u8]>) -> Frame {
        Frame {
            buffer,
            start: FRAME_START,
            len: 0,
            offload: Offload::default(),
            vlan: Vlan::UNTAGGED,
            priority: Priority::default(),
            reassembled: false,
            pool: self.clone(),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        // Buffers carry no invariant that a panic elsewhere could have broken.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let idle = self.idle();
        f.debug_struct("Pool").field("small", &idle.small.len()).field("large", &idle.large.len()).finish()
    }
}

/// One Ethernet frame, from the destination MAC address on, without FCS and, within the switch, without VLAN tag.
pub struct Frame {
    buffer: Box<[u8]>,
    start: usize,
    len: usize,
    /// What the frame still owes.
    pub offload: Offload,
    /// The VLAN it is on.
    pub vlan: Vlan,
    /// What its VLAN tag says, or is to say, beside the VLAN.
    pub priority: Priority,
    /// The packet was put together from fragments: who sent it does not mind that it is cut again.
    pub reassembled: bool,
    pool: Pool,
}

impl Frame {
    /// The frame's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.start + self.len).unwrap_or_default()
    }

    /// The frame's bytes, to be changed.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.buffer.get_mut(self.start..self.start + self.len).unwrap_or_default()
    }

    /// Bytes in the frame.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the frame has no bytes yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How long the frame may become without moving its start.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Bytes of memory behind the frame.
    #[must_use]
    pub fn buffer_len(&self) -> usize {
        self.buffer.len()
    }

    /// Sets the length, at most [`Frame::capacity`]. Bytes gained hold whatever the buffer held.
    pub fn set_len(&mut self, len: usize) {
        self.len = len.min(self.capacity());
    }

    /// Empties the frame and moves its start back to that of a fresh buffer.
    pub fn clear(&mut self) {
        self.start = FRAME_START;
        self.len = 0;
        self.offload = Offload::default();
        self.vlan = Vlan::UNTAGGED;
        self.priority = Priority::default();
        self.reassembled = false;
    }

    /// Takes `count` bytes off the front; the frame's start moves forward.
    pub fn trim_front(&mut self, count: usize) {
        let count = count.min(self.len);
        self.start += count;
        self.len -= count;
    }

    /// Adds `count` bytes at the front (a VLAN tag, a length prefix); the start moves back.
    ///
    /// Returns `false`, changing nothing, when there is no such room.
    #[must_use]
    pub fn grow_front(&mut self, count: usize) -> bool {
        let Some(start) = self.start.checked_sub(count) else { return false };
        self.start = start;
        self.len += count;
        true
    }

    /// Replaces the content; what does not fit is an error of the caller and cut off.
    pub fn fill(&mut self, bytes: &[u8]) {
        self.clear();
        self.set_len(bytes.len());
        let fits = self.len;
        self.bytes_mut().copy_from_slice(bytes.get(..fits).unwrap_or_default());
    }

    /// The same frame in a buffer of `pool`: its bytes, and what it owes and belongs to.
    #[must_use]
    pub fn copy(&self, pool: &Pool) -> Self {
        let mut copy = pool.for_len(self.len);
        copy.fill(self.bytes());
        let Self { buffer: _, start: _, len: _, offload, vlan, priority, reassembled, pool: _ } = *self;
        copy.offload = offload;
        copy.vlan = vlan;
        copy.priority = priority;
        copy.reassembled = reassembled;
        copy
    }

    /// The whole room from the virtio-net header's place on: what a device reads into.
    #[must_use]
    pub fn receive_buffer(&mut self) -> &mut [u8] {
        self.clear();
        self.buffer.get_mut(HEADROOM..).unwrap_or_default()
    }

    /// Takes in the `received` bytes, virtio-net header included, that were read into
    /// [`Frame::receive_buffer`].
    ///
    /// # Errors
    /// [`crate::DropReason::VnetHeaderInvalid`], [`crate::DropReason::FrameTruncated`] or
    /// [`crate::DropReason::FrameTooLong`].
    pub fn accept_received(&mut self, received: usize) -> Result<(), crate::DropReason> {
        let len = received.checked_sub(VNET_HEADER_LEN).ok_or(crate::DropReason::FrameTruncated)?;
        self.accept_plain(len)?;
        let header = self.buffer.get(HEADROOM..FRAME_START).and_then(|bytes| bytes.try_into().ok());
        self.offload = header
            .and_then(|header| Offload::parse(header, len).ok())
            .ok_or(crate::DropReason::VnetHeaderInvalid)?;
        Ok(())
    }

    /// The room for a frame alone: what a device without virtio-net headers reads into.
    #[must_use]
    pub fn plain_receive_buffer(&mut self) -> &mut [u8] {
        self.clear();
        self.buffer.get_mut(FRAME_START..).unwrap_or_default()
    }

    /// Takes in the `received` bytes that were read into [`Frame::plain_receive_buffer`]. They owe nothing. Where there were
    /// more than fitted, `received` may say so.
    ///
    /// # Errors
    /// [`crate::DropReason::FrameTruncated`] or [`crate::DropReason::FrameTooLong`].
    pub fn accept_plain(&mut self, received: usize) -> Result<(), crate::DropReason> {
        if received < ETHERNET_HEADER_LEN {
            return Err(crate::DropReason::FrameTruncated);
        }
        if received > self.capacity() {
            return Err(crate::DropReason::FrameTooLong);
        }
        self.set_len(received);
        Ok(())
    }

    /// The frame with its virtio-net header in front, as a device wants it.
    ///
    /// The header is written into the room before the frame; the frame's own bytes stay as they are.
    #[must_use]
    pub fn with_vnet_header(&mut self) -> &[u8] {
        let header = self.offload.emit();
        let Some(from) = self.start.checked_sub(VNET_HEADER_LEN) else { return &[] };
        if let Some(room) = self.buffer.get_mut(from..self.start) {
            room.copy_from_slice(&header);
        }
        self.buffer.get(from..self.start + self.len).unwrap_or_default()
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        let buffer = core::mem::take(&mut self.buffer);
        let mut idle = self.pool.idle();
        let keep = idle.keep;
        let shelf = if buffer.len() == SMALL_BUFFER_LEN { &mut idle.small } else { &mut idle.large };
        if shelf.len() < keep {
            shelf.push(buffer);
        }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame").field("len", &self.len).field("offload", &self.offload).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Checksum;

    #[test]
    fn a_dropped_buffer_is_the_next_one_handed_out() {
        let pool = Pool::new(4);
        let mut frame = pool.large();
        frame.fill(&[7; 60]);
        let address = frame.bytes().as_ptr();
        drop(frame);
        let mut again = pool.large();
        again.set_len(60);
        assert_eq!(again.bytes().as_ptr(), address);
    }

    #[test]
    fn the_ip_header_is_four_byte_aligned_in_the_buffer() {
        assert_eq!((FRAME_START + ETHERNET_HEADER_LEN) % 4, 0);
    }

    #[test]
    fn received_bytes_lose_their_vnet_header_and_get_it_back() {
        let pool = Pool::new(1);
        let mut frame = pool.large();
        let mut wire = vec![0u8; VNET_HEADER_LEN];
        wire.extend_from_slice(&[9; 60]);
        frame.receive_buffer()[..wire.len()].copy_from_slice(&wire);
        frame.accept_received(wire.len()).unwrap();
        assert_eq!(frame.bytes(), &[9; 60]);
        assert_eq!(frame.with_vnet_header(), wire);
    }

    #[test]
    fn plain_bytes_are_the_frame_and_owe_nothing() {
        let mut frame = Pool::new(1).large();
        frame.plain_receive_buffer()[..60].copy_from_slice(&[9; 60]);
        frame.accept_plain(60).unwrap();
        assert_eq!((frame.bytes(), frame.offload), (&[9; 60][..], Offload::default()));
        assert_eq!(frame.accept_plain(13), Err(crate::DropReason::FrameTruncated));
        assert_eq!(frame.accept_plain(LARGE_BUFFER_LEN), Err(crate::DropReason::FrameTooLong));
    }

    #[test]
    fn a_copy_owes_and_belongs_to_what_the_frame_does() {
        for len in [60, SMALL_FRAME_LEN + 1] {
            let mut frame = Pool::new(1).large();
            frame.fill(&vec![9; len + 2]);
            frame.trim_front(2);
            frame.offload.checksum = Checksum::Partial { start: 34, offset: 16 };
            frame.vlan = Vlan::new(7).unwrap();
            frame.priority = Priority(0xb);
            frame.reassembled = true;
            let copy = frame.copy(&Pool::new(1));
            assert_eq!(copy.bytes(), frame.bytes());
            let marks = |frame: &Frame| (frame.offload, frame.vlan, frame.priority, frame.reassembled);
            assert_eq!(marks(&copy), marks(&frame));
            assert_eq!(copy.buffer_len() == SMALL_BUFFER_LEN, len == 60);
        }
    }

    #[test]
    fn trimming_keeps_room_for_the_vnet_header() {
        let pool = Pool::new(1);
        let mut frame = pool.small();
        frame.fill(&[1, 2, 3, 4]);
        frame.trim_front(3);
        assert_eq!(frame.bytes(), &[4]);
        assert_eq!(frame.with_vnet_header().len(), VNET_HEADER_LEN + 1);
        assert!(frame.grow_front(3));
        assert_eq!(frame.len(), 4);
    }
}
