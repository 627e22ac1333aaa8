// SPDX-License-Identifier: MIT OR Apache-2.0
//! Storm control: how many frames one port may have copied to all the others.
//!
//! # How it works
//! A token bucket per port and kind of traffic, written as the equivalent virtual scheduling algorithm, so that its
//! whole state is one number that workers share without waiting: the moment at which the bucket will be full. A frame
//! moves it on by its tokens' worth of time, unless it would then lie further ahead than a full bucket.
//!
//! A super-frame costs as many tokens as it stands for segments, but no more than a full bucket.
//!
//! # Bounds
//! 24 bytes for each limited kind; a frame costs one compare-and-swap.
//!
//! # Sources
//! ITU-T I.371 annex A (generic cell rate algorithm, virtual scheduling).

use core::num::NonZeroU32;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::{DropReason, Frame, Instant};

const NANOS_PER_SEC: u64 = 1_000_000_000;

/// A limit for one kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Frames per second in the long run; beyond 1,000,000,000 means that many.
    pub frames_per_sec: NonZeroU32,
    /// Frames at once after a silence.
    pub burst_frames: NonZeroU32,
}

impl Rate {
    /// `frames_per_sec` with a burst of as many as come in a second; 0 counts as 1.
    #[must_use]
    pub fn per_sec(frames_per_sec: u32) -> Self {
        let frames = NonZeroU32::new(frames_per_sec).unwrap_or(NonZeroU32::MIN);
        Self { frames_per_sec: frames, burst_frames: frames }
    }
}

/// The limits of a port; `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StormRates {
    /// Frames to ff:ff:ff:ff:ff:ff.
    pub broadcast: Option<Rate>,
    /// Frames to any other group address.
    pub multicast: Option<Rate>,
    /// Frames to an address that is on no known port.
    pub unknown_unicast: Option<Rate>,
}

impl StormRates {
    /// No limits.
    pub const UNLIMITED: Self = Self { broadcast: None, multicast: None, unknown_unicast: None };
}

impl Default for StormRates {
    /// Far above what ARP, DHCP and the learning of addresses need, and an order of magnitude more for multicast, which
    /// may be a stream that somebody wants; far below what copies to 1,000 ports would cost at line rate.
    fn default() -> Self {
        let few = Some(Rate::per_sec(1_000));
        Self { broadcast: few, multicast: Some(Rate::per_sec(10_000)), unknown_unicast: few }
    }
}

/// Traffic that is copied to many ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flooded {
    Broadcast,
    Multicast,
    UnknownUnicast,
}

/// One bucket.
#[derive(Debug)]
struct Meter {
    /// Time in which one token comes in, ns.
    interval: u64,
    /// Time in which the empty bucket fills, ns.
    depth: u64,
    /// When the bucket will be full, ns since the clock's epoch.
    full_at: AtomicU64,
}

impl Meter {
    fn new(rate: Rate) -> Self {
        let interval = (NANOS_PER_SEC / u64::from(rate.frames_per_sec.get())).max(1);
        let depth = interval.saturating_mul(rate.burst_frames.get().into());
        Self { interval, depth, full_at: AtomicU64::new(0) }
    }

    /// Takes `tokens` out, all or none.
    fn admits(&self, tokens: u64, now: Instant) -> bool {
        let cost = self.interval.saturating_mul(tokens).min(self.depth);
        let latest = now.as_nanos().saturating_add(self.depth);
        let spend = |full_at: u64| {
            let then = full_at.max(now.as_nanos()).saturating_add(cost);
            (then <= latest).then_some(then)
        };
        self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_ok()
    }
}

/// The buckets of a port, shared by every worker.
#[derive(Debug)]
pub struct StormControl {
    broadcast: Option<Meter>,
    multicast: Option<Meter>,
    unknown_unicast: Option<Meter>,
}

impl Default for StormControl {
    fn default() -> Self {
        Self::new(StormRates::default())
    }
}

impl StormControl {
    /// Full buckets.
    #[must_use]
    pub fn new(rates: StormRates) -> Self {
        Self {
            broadcast: rates.broadcast.map(Meter::new),
            multicast: rates.multicast.map(Meter::new),
            unknown_unicast: rates.unknown_unicast.map(Meter::new),
        }
    }

    /// Whether the port may have this frame copied.
    ///
    /// # Errors
    /// [`DropReason::BroadcastStorm`], [`DropReason::MulticastStorm`], [`DropReason::UnknownUnicastStorm`].
    pub(crate) fn check(&self, flooded: Flooded, frame: &Frame, now: Instant) -> Result<(), DropReason> {
        let (meter, reason) = match flooded {
            Flooded::Broadcast => (&self.broadcast, DropReason::BroadcastStorm),
            Flooded::Multicast => (&self.multicast, DropReason::MulticastStorm),
            Flooded::UnknownUnicast => (&self.unknown_unicast, DropReason::UnknownUnicastStorm),
        };
        match meter {
            Some(meter) if !meter.admits(tokens_of(frame), now) => Err(reason),
            _ => Ok(()),
        }
    }
}

/// One, or about as many as a super-frame has segments.
fn tokens_of(frame: &Frame) -> u64 {
    let segments = |size: u16| frame.len().div_ceil(size.into()) as u64;
    frame.offload.segmentation.map_or(1, |segmentation| segments(segmentation.size.get()))
}

#[cfg(test)]
mod tests {
    use core::num::NonZeroU16;

    use proptest::prelude::*;

    use super::*;
    use crate::{Duration, Pool, Segmentation, SegmentationKind};

    const START: Instant = Instant::from_secs(1000);

    fn rate(frames: u32, burst: u32) -> Rate {
        Rate {
            frames_per_sec: NonZeroU32::new(frames).unwrap(),
            burst_frames: NonZeroU32::new(burst).unwrap(),
        }
    }

    proptest! {
        #[test]
        fn no_more_pass_than_a_burst_and_what_came_in_since(
            frames in 1u32..5_000,
            burst in 1u32..100,
            gaps in prop::collection::vec(0u64..3_000_000, 1..300),
        ) {
            let meter = Meter::new(rate(frames, burst));
            let (mut now, mut passed) = (START, 0u64);
            for gap in gaps {
                now += Duration::from_nanos(gap);
                passed += u64::from(meter.admits(1, now));
                let came_in = (now.as_nanos() - START.as_nanos()) / meter.interval;
                prop_assert!(passed <= u64::from(burst) + came_in);
            }
        }

        #[test]
        fn traffic_within_the_rate_always_passes(frames in 1u32..1_000_000, burst in 1u32..10) {
            let meter = Meter::new(rate(frames, burst));
            for step in 0..200 {
                prop_assert!(meter.admits(1, START + Duration::from_nanos(step * meter.interval)));
            }
        }
    }

    #[test]
    fn each_kind_has_a_bucket_and_a_reason_of_its_own() {
        let control = StormControl::new(StormRates {
            broadcast: Some(rate(1, 2)),
            multicast: Some(rate(1, 1)),
            unknown_unicast: None,
        });
        let mut frame = Pool::new(0).small();
        frame.set_len(60);
        let check = |flooded| control.check(flooded, &frame, START);
        assert_eq!([check(Flooded::Broadcast), check(Flooded::Broadcast)], [Ok(()); 2]);
        assert_eq!(check(Flooded::Broadcast), Err(DropReason::BroadcastStorm));
        assert_eq!(check(Flooded::Multicast), Ok(()));
        assert_eq!(check(Flooded::Multicast), Err(DropReason::MulticastStorm));
        assert!((0..100_000).all(|_| check(Flooded::UnknownUnicast).is_ok()), "no limit");
        let later = START + Duration::from_secs(1);
        assert_eq!(control.check(Flooded::Multicast, &frame, later), Ok(()));
    }

    #[test]
    fn a_super_frame_costs_what_its_segments_would_but_can_always_pass_a_full_bucket() {
        let control = StormControl::new(StormRates { broadcast: Some(rate(1, 4)), ..StormRates::UNLIMITED });
        let mut frame = Pool::new(0).large();
        frame.set_len(2_500);
        frame.offload.segmentation = Some(Segmentation {
            kind: SegmentationKind::UdpL4,
            size: NonZeroU16::new(1000).unwrap(),
            header_len: 42,
            ecn: false,
        });
        assert_eq!(control.check(Flooded::Broadcast, &frame, START), Ok(()));
        assert_eq!(control.check(Flooded::Broadcast, &frame, START), Err(DropReason::BroadcastStorm));
        frame.set_len(60_000);
        let full = START + Duration::from_secs(4);
        assert_eq!(control.check(Flooded::Broadcast, &frame, full), Ok(()));
    }
}
