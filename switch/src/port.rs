// SPDX-License-Identifier: MIT OR Apache-2.0
//! A port: where frames enter and leave the switch.

use std::collections::VecDeque;

use crate::{Checksum, DropReason, Frame, SegmentationKind};

/// A port of a switch: its place in the port table and how often that place was used before, so that a stale id
/// finds nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId {
    /// Place in the port table.
    pub index: u32,
    /// How many ports had this place before.
    pub generation: u32,
}

impl PortId {
    /// Stands for the gateway where a frame's origin is named; no port has this id.
    pub const GATEWAY: Self = Self { index: u32::MAX, generation: 0 };
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

/// What a device does with frames that still owe something.
///
/// Without a virtio-net header there is no way to tell the device, and the other three count as absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// Frames go out with a virtio-net header in front.
    pub vnet_header: bool,
    /// An owed checksum may stay owed.
    pub checksum: bool,
    /// TCP super-frames are taken whole; implies that their checksum may be owed.
    pub tso: bool,
    /// UDP super-frames are taken whole.
    pub uso: bool,
}

impl Offloads {
    /// Every offload there is.
    pub const ALL: Self = Self { vnet_header: true, checksum: true, tso: true, uso: true };
    /// Finished frames only.
    pub const NONE: Self = Self { vnet_header: false, checksum: false, tso: false, uso: false };

    /// Whether the device takes `frame` as it is.
    #[must_use]
    pub fn take(self, frame: &Frame) -> bool {
        let checksum = self.vnet_header && self.checksum;
        match (frame.offload.segmentation.map(|segmentation| segmentation.kind), frame.offload.checksum) {
            (Some(SegmentationKind::Tcp4 | SegmentationKind::Tcp6), _) => checksum && self.tso,
            (Some(SegmentationKind::UdpL4), _) => checksum && self.uso,
            (None, Checksum::Partial { .. }) => checksum,
            (None, Checksum::Unverified | Checksum::Valid) => true,
        }
    }
}

/// Frames in and out of a device.
pub trait Port {
    /// Receives one frame into `frame`, whose former content is lost. Never blocks.
    fn recv(&mut self, frame: &mut Frame) -> Received;

    /// Sends one frame. Never blocks; `frame` is only borrowed, so it can be sent again.
    fn send(&mut self, frame: &mut Frame) -> Sent;

    /// Goes on with what [`Port::send`] took although the device did not. Called when the device may have room again; for
    /// devices that never make frames wait there is nothing to do.
    fn flush(&mut self) {}

    /// What the device does with frames that still owe something. Anything else is done in software before
    /// [`Port::send`].
    fn offloads(&self) -> Offloads;
}

/// A port in memory: two queues of frames, for tests and benches.
#[derive(Debug)]
pub struct MemoryPort {
    /// Frames the switch has yet to receive.
    pub inbound: VecDeque<Frame>,
    /// Frames the switch has sent, oldest first; with a virtio-net header in front if `offloads` says so.
    pub outbound: VecDeque<Vec<u8>>,
    /// How many sent frames `outbound` may hold before it is full; 0 means any number.
    pub limit: usize,
    /// What the port takes unfinished.
    pub offloads: Offloads,
    /// The device is gone.
    pub closed: bool,
}

impl Default for MemoryPort {
    fn default() -> Self {
        Self {
            inbound: VecDeque::new(),
            outbound: VecDeque::new(),
            limit: 0,
            offloads: Offloads::ALL,
            closed: false,
        }
    }
}

impl Port for MemoryPort {
    fn recv(&mut self, frame: &mut Frame) -> Received {
        match self.inbound.pop_front() {
            Some(next) => {
                *frame = next;
                Received::Frame
            }
            None if self.closed => Received::Closed,
            None => Received::Empty,
        }
    }

    fn send(&mut self, frame: &mut Frame) -> Sent {
        if self.closed {
            return Sent::Closed;
        }
        if self.limit != 0 && self.outbound.len() >= self.limit {
            return Sent::Full;
        }
        let bytes = if self.offloads.vnet_header { frame.with_vnet_header() } else { frame.bytes() };
        self.outbound.push_back(bytes.to_vec());
        Sent::Sent
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }
}
