// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the world asks of whoever plays a container.

use wharf_switch::Instant;

use crate::container::Part;

/// How one connection stands, seen from the container.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) part: Part,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// Other bytes came than were sent.
    pub(crate) corrupt: bool,
    /// The container broke it off.
    pub(crate) aborted: bool,
    pub(crate) ended: bool,
}

impl Outcome {
    pub(crate) fn new(part: Part) -> Self {
        Self { part, sent: 0, received: 0, corrupt: false, aborted: false, ended: false }
    }
}

/// A container on a port. Frames have a virtio-net header in front when the port has one.
pub(crate) trait Station {
    /// A frame has arrived.
    fn receive(&mut self, now: Instant, frame: Vec<u8>);

    /// Everything the container does at `now`.
    fn advance(&mut self, now: Instant);

    /// The next frame it sends.
    fn transmit(&mut self) -> Option<Vec<u8>>;

    /// When the container acts next.
    fn next(&mut self, now: Instant) -> Option<Instant>;

    /// How its connections stand.
    fn outcomes(&self) -> Vec<Outcome>;

    /// Gives up every connection that is still waiting for an answer.
    fn hang_up(&mut self);

    /// Everything, for a failure's report.
    fn describe(&self) -> String;
}
