// SPDX-License-Identifier: MIT OR Apache-2.0
//! A port: where frames enter and leave the switch.

use std::collections::VecDeque;

use crate::{DropReason, Frame};

/// A port of a switch: its place in the port table and how often that place was used before, so that a stale id
/// finds nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId {
    /// Place in the port table.
    pub index: u32,
    /// How many ports had this place before.
    pub generation: u32,
}

/// What came of one receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// The buffer holds a frame.
    Frame,
    /// Nothing waits.
    Empty,
    /// Something came that is no frame; it is gone.
    Dropped(DropReason),
    /// The device is gone.
    Closed,
}

/// What came of one send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The device took the frame.
    Sent,
    /// The device has no room now; the frame is the caller's still.
    Full,
    /// The device is gone.
    Closed,
}

/// Frames in and out of a device.
pub trait Port {
    /// Receives one frame into `frame`, whose former content is lost. Never blocks.
    fn recv(&mut self, frame: &mut Frame) -> Received;

    /// Sends one frame. Never blocks; `frame` is only borrowed, so it can be sent again.
    fn send(&mut self, frame: &mut Frame) -> Sent;
}

/// A port in memory: two queues of frames, for tests and benches.
#[derive(Debug, Default)]
pub struct MemoryPort {
    /// Frames the switch has yet to receive.
    pub inbound: VecDeque<Frame>,
    /// Frames the switch has sent, oldest first.
    pub outbound: VecDeque<Vec<u8>>,
    /// How many sent frames `outbound` may hold before it is full; 0 means any number.
    pub limit: usize,
}

impl Port for MemoryPort {
    fn recv(&mut self, frame: &mut Frame) -> Received {
        match self.inbound.pop_front() {
            Some(next) => {
                *frame = next;
                Received::Frame
            }
            None => Received::Empty,
        }
    }

    fn send(&mut self, frame: &mut Frame) -> Sent {
        if self.limit != 0 && self.outbound.len() >= self.limit {
            return Sent::Full;
        }
        self.outbound.push_back(frame.with_vnet_header().to_vec());
        Sent::Sent
    }
}
