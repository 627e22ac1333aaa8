// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a frame went no further: a drop is a value with a name, counted in one place.
//!
//! # How it works
//! [`drop_reasons!`](crate::drop_reasons) declares a fieldless enum from one list of
//! `Name(Class, "text")`. The switch has its own list below, the gateway another; [`DropCounters`] holds one
//! number per reason of either.

use core::fmt::Debug;
use core::marker::PhantomData;

/// Whose problem a drop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropClass {
    /// The sender's: the bytes are not what their headers say.
    Malformed,
    /// Nobody's: the frame was meant for somebody else.
    Elsewhere,
    /// The operator's wish: the configuration forbids it.
    Policy,
    /// Ours: a table, queue or budget is full. The only class worth an alarm.
    Exhausted,
}

impl DropClass {
    /// The stable name, as used in listings and as a label of metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Elsewhere => "elsewhere",
            Self::Policy => "policy",
            Self::Exhausted => "exhausted",
        }
    }
}

/// What every list made by [`drop_reasons!`](crate::drop_reasons) can do.
pub trait Reason: Copy + Debug + Eq + 'static {
    /// Every reason, in the order of declaration.
    const ALL: &'static [Self];
    /// Position in [`Reason::ALL`].
    fn index(self) -> usize;
    /// The stable name, as used in listings and as a label of metrics: the variant's own in snake case.
    fn name(self) -> &'static str;
    /// The reason in words.
    fn text(self) -> &'static str;
    /// Whose problem it is.
    fn class(self) -> DropClass;
}

/// Declares an enum of drop reasons from one list: `Name(Class, "text")`.
#[macro_export]
macro_rules! drop_reasons {
    ($(#[$meta:meta])* pub enum $name:ident { $($variant:ident($class:ident, $text:literal)),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $(#[doc = $text] $variant),+
        }

        impl $crate::Reason for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn index(self) -> usize {
                self as usize
            }

            fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => const {
                        const NAME: &str = stringify!($variant);
                        const BYTES: [u8; $crate::snake_case_len(NAME)] = $crate::snake_case(NAME);
                        match core::str::from_utf8(&BYTES) {
                            Ok(name) => name,
                            Err(_) => NAME,
                        }
                    }),+
                }
            }

            fn text(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            fn class(self) -> $crate::DropClass {
                match self { $(Self::$variant => $crate::DropClass::$class),+ }
            }
        }
    };
}

/// Bytes of [`snake_case`]'s result.
#[doc(hidden)]
#[must_use]
pub const fn snake_case_len(name: &str) -> usize {
    let mut len = name.len();
    let mut rest = name.as_bytes();
    while let [_, tail @ ..] = rest {
        if let [b'A'..=b'Z', ..] = tail {
            len += 1;
        }
        rest = tail;
    }
    len
}

/// The name of a variant in snake case, for [`drop_reasons!`](crate::drop_reasons) at compile time.
#[doc(hidden)]
#[must_use]
#[expect(clippy::indexing_slicing, reason = "a wrong index does not compile")]
pub const fn snake_case<const LEN: usize>(name: &str) -> [u8; LEN] {
    let mut snake = [b'_'; LEN];
    let mut at = 0;
    let mut rest = name.as_bytes();
    while let [letter, tail @ ..] = rest {
        if letter.is_ascii_uppercase() && at > 0 {
            at += 1;
        }
        snake[at] = letter.to_ascii_lowercase();
        at += 1;
        rest = tail;
    }
    snake
}

drop_reasons! {
    /// Why the switch let a frame go no further.
    pub enum DropReason {
        FrameTruncated(Malformed, "frame shorter than an Ethernet header"),
        FrameTooLong(Malformed, "frame longer than any link's"),
        VnetHeaderInvalid(Malformed, "virtio-net header contradicts the frame"),
        SourceMacGroup(Malformed, "source MAC address is a group address"),
        ReservedGroupAddress(Elsewhere, "destination in 01:80:c2:00:00:0x is never forwarded"),
        SamePort(Elsewhere, "destination is on the port the frame came from"),
        NobodyElse(Elsewhere, "no other port to flood to"),
        SourceIsGateway(Policy, "source MAC address is the gateway's"),
        VlanUnknown(Policy, "frame of a VLAN that the port is not on"),
        VlanTagNested(Policy, "a VLAN tag within a VLAN tag"),
        PortIsolated(Policy, "the two ports are isolated from each other"),
        BroadcastStorm(Policy, "more broadcast frames than the port may send"),
        MulticastStorm(Policy, "more multicast frames than the port may send"),
        UnknownUnicastStorm(Policy, "more frames to unknown addresses than the port may send"),
        GroupUnheard(Elsewhere, "nobody on the VLAN listens to that group"),
        SourceMacForged(Policy, "source MAC address belongs to another port"),
        Ipv4SourceForged(Policy, "IPv4 source address is not the port's"),
        Ipv6SourceForged(Policy, "IPv6 source address is not the port's"),
        ArpForged(Policy, "ARP sender is not the port's"),
        NdpForged(Policy, "Neighbor Discovery message claims an address that is not the port's"),
        NdpFragmented(Policy, "Neighbor Discovery message in fragments"),
        DhcpServerForbidden(Policy, "the port may not answer DHCP"),
        RouterForbidden(Policy, "the port may not advertise itself as a router or redirect"),
        HeadersUnreadable(Malformed, "headers truncated, contradictory or too many for the guards"),
        EgressFull(Exhausted, "the port did not take the frame"),
        InboxFull(Exhausted, "the worker that owns the flow has no room for the frame"),
        LinkFull(Exhausted, "the linked network has no room for the packet"),
        PortClosed(Elsewhere, "the port is closed"),
        SuperFrameMalformed(Malformed, "a super-frame's headers contradict its segmentation or its length"),
        SuperFrameChecksumWrong(Malformed, "a super-frame came with a finished checksum that is wrong"),
        SuperFrameTooFine(Malformed, "a super-frame would fall into more segments than any real link needs"),
    }
}

/// One counter per reason of `R`.
#[derive(Clone, Debug)]
pub struct DropCounters<R> {
    counts: Vec<u64>,
    reason: PhantomData<R>,
}

impl<R: Reason> Default for DropCounters<R> {
    fn default() -> Self {
        Self { counts: vec![0; R::ALL.len()], reason: PhantomData }
    }
}

impl<R: Reason> DropCounters<R> {
    /// Counts one frame.
    pub fn count(&mut self, reason: R) {
        self.count_many(reason, 1);
    }

    /// Counts `number` frames.
    pub fn count_many(&mut self, reason: R, number: u64) {
        if let Some(count) = self.counts.get_mut(reason.index()) {
            *count += number;
        }
    }

    /// How many frames ended for this reason.
    #[must_use]
    pub fn get(&self, reason: R) -> u64 {
        self.counts.get(reason.index()).copied().unwrap_or(0)
    }

    /// How many frames ended for any reason.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Every reason with its count, also at zero.
    pub fn iter(&self) -> impl Iterator<Item = (R, u64)> + '_ {
        R::ALL.iter().map(|&reason| (reason, self.get(reason)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_follow_the_declaration() {
        for (position, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), position);
            assert!(!reason.text().is_empty());
        }
    }

    #[test]
    fn names_are_labels_and_each_is_anothers() {
        assert_eq!(DropReason::Ipv4SourceForged.name(), "ipv4_source_forged");
        assert_eq!(DropReason::SamePort.name(), "same_port");
        let mut names: Vec<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::ALL.len());
        let is_label =
            |name: &&str| name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
        assert!(names.iter().all(is_label), "{names:?}");
    }

    #[test]
    fn every_reason_is_listed_also_at_zero() {
        let counters = DropCounters::<DropReason>::default();
        assert_eq!(counters.iter().count(), DropReason::ALL.len());
    }

    #[test]
    fn counting_touches_one_reason_only() {
        let mut counters = DropCounters::default();
        counters.count(DropReason::SamePort);
        assert_eq!(counters.get(DropReason::SamePort), 1);
        assert_eq!(counters.total(), 1);
    }
}
