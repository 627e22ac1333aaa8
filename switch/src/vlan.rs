// SPDX-License-Identifier: MIT OR Apache-2.0
//! VLANs: broadcast domains that a switch keeps apart, and the tags that say which one a frame is on.
//!
//! # How it works
//! Inside the switch a frame has no tag: ingress takes it off and notes VLAN and priority beside the bytes
//! ([`Frame::vlan`], [`Frame::priority`]), egress puts it back where the port wants one. A port is
//!
//! | port | untagged or VID 0 comes in | tagged comes in | goes out |
//! |---|---|---|---|
//! | access | on its VLAN | dropped | untagged |
//! | trunk | on its native VLAN; dropped without one | on that VLAN if allowed | tagged, the native VLAN untagged |
//!
//! [`Vlan::UNTAGGED`] has no number on any wire; it is what the gateway is on and what ports without a policy are on.
//! A frame with two tags is dropped: once the outer one is off, the inner one would name a VLAN that nobody checked.
//!
//! # Sources
//! IEEE 802.1Q-2018 sections 6.9 (ingress, egress), 8.6.2 (ingress filtering), 9.6 (tag control information).

use crate::{DropReason, Frame};

/// Bytes of a VLAN tag.
pub(crate) const TAG_LEN: u16 = 4;

/// Bytes of the two MAC addresses, behind which the tag is.
const ADDRESSES_LEN: usize = 12;
const TAG: usize = TAG_LEN as usize;
/// Tag protocol identifier of a customer tag, IEEE 802.1Q table 9-1.
const CUSTOMER_TAG: u16 = 0x8100;
/// Tag protocol identifier of a service tag, IEEE 802.1Q table 9-1.
const SERVICE_TAG: u16 = 0x88a8;
/// Numbers of VLANs, the reserved ones included.
const NUMBERS: u16 = 4096;

/// A VLAN's number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vlan(u16);

impl Vlan {
    /// Frames without a tag.
    pub const UNTAGGED: Self = Self(0);

    /// VLAN `number`, 1 to 4,094 (IEEE 802.1Q table 9-2: 0 is no VLAN, 4,095 is reserved).
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number == 0 || number >= NUMBERS - 1 { None } else { Some(Self(number)) }
    }

    /// The number; 0 for [`Vlan::UNTAGGED`].
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

/// Priority code point and drop eligibility of a frame: the upper four bits of the tag control information.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Priority(pub(crate) u8);

/// Tag control information, IEEE 802.1Q section 9.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    priority: Priority,
    /// VLAN identifier, 12 bits.
    vid: u16,
}

impl Tag {
    fn from_bytes(bytes: [u8; 2]) -> Self {
        let [high, low] = bytes;
        Self { priority: Priority(high >> 4), vid: u16::from_be_bytes([high & 0x0f, low]) }
    }

    fn to_bytes(self) -> [u8; 2] {
        let [high, low] = self.vid.to_be_bytes();
        [self.priority.0 << 4 | high, low]
    }
}

/// Some of the VLANs.
#[derive(Clone, PartialEq, Eq)]
pub struct VlanSet(Box<[u64; NUMBERS as usize / 64]>);

impl VlanSet {
    /// Every VLAN but [`Vlan::UNTAGGED`].
    #[must_use]
    pub fn all() -> Self {
        (1..NUMBERS).filter_map(Vlan::new).collect()
    }

    /// Whether the VLAN is one of them.
    #[must_use]
    pub fn contains(&self, vlan: Vlan) -> bool {
        self.0.get(usize::from(vlan.0 / 64)).is_some_and(|word| word & 1 << (vlan.0 % 64) != 0)
    }

    /// The VLANs in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Vlan> + '_ {
        (0..NUMBERS).map(Vlan).filter(|&vlan| self.contains(vlan))
    }
}

impl Default for VlanSet {
    fn default() -> Self {
        Self(Box::new([0; NUMBERS as usize / 64]))
    }
}

impl FromIterator<Vlan> for VlanSet {
    fn from_iter<I: IntoIterator<Item = Vlan>>(vlans: I) -> Self {
        let mut set = Self::default();
        for vlan in vlans {
            if let Some(word) = set.0.get_mut(usize::from(vlan.0 / 64)) {
                *word |= 1 << (vlan.0 % 64);
            }
        }
        set
    }
}

impl core::fmt::Debug for VlanSet {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_set().entries(self.iter().map(Vlan::number)).finish()
    }
}

/// Which VLANs a port is on, and how their frames look there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership {
    /// One VLAN, without tags: an end station that knows nothing of VLANs.
    Access(Vlan),
    /// Several VLANs, told apart by their tags: a router, another switch, a VM with VLAN interfaces.
    Trunk {
        /// VLANs with tags. [`Vlan::UNTAGGED`] cannot have one and is ignored here.
        tagged: VlanSet,
        /// The VLAN of frames without tag, if they are taken.
        native: Option<Vlan>,
    },
}

impl Default for Membership {
    fn default() -> Self {
        Self::UNTAGGED
    }
}

impl Membership {
    /// The membership of a port without a policy.
    pub(crate) const UNTAGGED: Self = Self::Access(Vlan::UNTAGGED);

    /// Whether the port is on the VLAN.
    #[must_use]
    pub fn includes(&self, vlan: Vlan) -> bool {
        match self {
            Self::Access(own) => *own == vlan,
            Self::Trunk { native, .. } => *native == Some(vlan) || self.is_tagged(vlan),
        }
    }

    /// Whether the VLAN's frames leave the port with a tag.
    #[must_use]
    pub fn is_tagged(&self, vlan: Vlan) -> bool {
        match self {
            Self::Access(_) => false,
            Self::Trunk { tagged, native } => {
                vlan != Vlan::UNTAGGED && *native != Some(vlan) && tagged.contains(vlan)
            }
        }
    }

    /// The VLAN of a frame that came in with a tag (or a priority tag, of VID 0) or without.
    fn classify(&self, vid: u16) -> Option<Vlan> {
        match self {
            Self::Access(own) => (vid == 0).then_some(*own),
            Self::Trunk { native, .. } if vid == 0 => *native,
            Self::Trunk { .. } => Vlan::new(vid).filter(|&vlan| self.includes(vlan)),
        }
    }
}

/// Whether a frame of this EtherType has a VLAN tag.
pub(crate) fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, CUSTOMER_TAG | SERVICE_TAG)
}

/// Finds out which VLAN a received frame is on, notes it in the frame and takes the tag off.
///
/// # Errors
/// [`DropReason::VlanUnknown`], [`DropReason::VlanTagNested`], [`DropReason::FrameTruncated`],
/// [`DropReason::VnetHeaderInvalid`].
pub(crate) fn classify(frame: &mut Frame, membership: &Membership, tagged: bool) -> Result<(), DropReason> {
    let tag = if tagged { Some(pop(frame)?) } else { None };
    frame.priority = tag.map(|tag| tag.priority).unwrap_or_default();
    frame.vlan = membership.classify(tag.map_or(0, |tag| tag.vid)).ok_or(DropReason::VlanUnknown)?;
    Ok(())
}

/// Takes the tag off a frame that has one.
fn pop(frame: &mut Frame) -> Result<Tag, DropReason> {
    let bytes = frame.bytes_mut();
    let &[t0, t1, c0, c1, e0, e1] =
        bytes.get(ADDRESSES_LEN..).and_then(|rest| rest.first_chunk()).ok_or(DropReason::FrameTruncated)?;
    // Service tags are for provider bridges; nobody here is one.
    if u16::from_be_bytes([t0, t1]) != CUSTOMER_TAG {
        return Err(DropReason::VlanUnknown);
    }
    if is_tag(u16::from_be_bytes([e0, e1])) {
        return Err(DropReason::VlanTagNested);
    }
    bytes.copy_within(..ADDRESSES_LEN, TAG);
    frame.trim_front(TAG);
    frame.offload = frame.offload.without_tag().ok_or(DropReason::VnetHeaderInvalid)?;
    Ok(Tag::from_bytes([c0, c1]))
}

/// Has `send` send the frame with the tag of its VLAN, and takes the tag off again. `None`, and nothing is sent, when
/// there is no room for a tag in front of the frame, or nothing to put it behind.
pub(crate) fn with_tag<T>(frame: &mut Frame, send: impl FnOnce(&mut Frame) -> T) -> Option<T> {
    let [t0, t1] = CUSTOMER_TAG.to_be_bytes();
    let [c0, c1] = Tag { priority: frame.priority, vid: frame.vlan.0 }.to_bytes();
    if frame.len() < ADDRESSES_LEN || !frame.grow_front(TAG) {
        return None;
    }
    let bytes = frame.bytes_mut();
    bytes.copy_within(TAG..TAG + ADDRESSES_LEN, 0);
    if let Some(tag) = bytes.get_mut(ADDRESSES_LEN..).and_then(|rest| rest.first_chunk_mut()) {
        *tag = [t0, t1, c0, c1];
    }
    let offload = frame.offload;
    frame.offload = offload.with_tag();
    let sent = send(frame);
    frame.offload = offload;
    frame.bytes_mut().copy_within(..ADDRESSES_LEN, TAG);
    frame.trim_front(TAG);
    Some(sent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Checksum, Offload, Pool};

    fn vlan(number: u16) -> Vlan {
        Vlan::new(number).unwrap()
    }

    fn trunk(tagged: &[u16], native: Option<u16>) -> Membership {
        Membership::Trunk {
            tagged: tagged.iter().map(|&number| vlan(number)).collect(),
            native: native.map(vlan),
        }
    }

    /// A frame whose bytes count up behind the addresses and `types`.
    fn frame(types: &[u16]) -> Frame {
        let mut bytes: Vec<u8> = (0..12).collect();
        bytes.extend(types.iter().flat_map(|word| word.to_be_bytes()));
        bytes.extend(100..200);
        let mut frame = Pool::new(0).small();
        frame.fill(&bytes);
        frame
    }

    /// The VLAN that a port finds a frame on; without types the frame has no tag.
    fn classified(membership: &Membership, types: &[u16]) -> Result<Vlan, DropReason> {
        let mut tagged = frame(types);
        classify(&mut tagged, membership, is_tag(types[0]))?;
        assert_eq!(tagged.bytes(), frame(&[0x0800]).bytes(), "the tag is off");
        Ok(tagged.vlan)
    }

    #[test]
    fn an_access_port_takes_frames_without_a_vlan_only() {
        let access = Membership::Access(vlan(5));
        assert_eq!(classified(&access, &[0x0800]), Ok(vlan(5)));
        assert_eq!(classified(&access, &[0x8100, 0xe000, 0x0800]), Ok(vlan(5)), "a priority tag");
        assert_eq!(classified(&access, &[0x8100, 0x0005, 0x0800]), Err(DropReason::VlanUnknown));
        assert!(!access.is_tagged(vlan(5)));
    }

    #[test]
    fn a_trunk_takes_what_it_is_allowed() {
        let port = trunk(&[5, 6], Some(7));
        for (vid, on) in
            [(5, Ok(vlan(5))), (7, Ok(vlan(7))), (0, Ok(vlan(7))), (8, Err(DropReason::VlanUnknown))]
        {
            assert_eq!(classified(&port, &[0x8100, vid, 0x0800]), on, "{vid}");
        }
        assert_eq!(classified(&port, &[0x8100, 0x0fff, 0x0800]), Err(DropReason::VlanUnknown));
        assert_eq!(classified(&port, &[0x0800]), Ok(vlan(7)));
        assert_eq!(classified(&trunk(&[5], None), &[0x0800]), Err(DropReason::VlanUnknown));
        assert_eq!([5, 7].map(|number| port.is_tagged(vlan(number))), [true, false]);
    }

    #[test]
    fn the_untagged_vlan_never_gets_a_tag() {
        let port = Membership::Trunk { tagged: [Vlan::UNTAGGED].into_iter().collect(), native: None };
        assert!(!port.includes(Vlan::UNTAGGED));
        let native = Membership::Trunk { tagged: VlanSet::all(), native: Some(Vlan::UNTAGGED) };
        assert!(native.includes(Vlan::UNTAGGED) && !native.is_tagged(Vlan::UNTAGGED));
    }

    #[test]
    fn two_tags_and_service_tags_are_refused() {
        let port = trunk(&[5, 6], None);
        for inner in [0x8100, 0x88a8] {
            assert_eq!(classified(&port, &[0x8100, 5, inner, 6, 0x0800]), Err(DropReason::VlanTagNested));
        }
        assert_eq!(classified(&port, &[0x88a8, 5, 0x0800]), Err(DropReason::VlanUnknown));
        let mut short = frame(&[0x8100, 5]);
        short.set_len(17);
        assert_eq!(classify(&mut short, &port, true), Err(DropReason::FrameTruncated));
    }

    #[test]
    fn a_tag_keeps_its_priority_and_moves_the_owed_checksum() {
        let owed = |start| Offload { checksum: Checksum::Partial { start, offset: 6 }, segmentation: None };
        let mut tagged = frame(&[0x8100, 0xd005, 0x0800]);
        let wire = tagged.bytes().to_vec();
        tagged.offload = owed(38);
        classify(&mut tagged, &trunk(&[5], None), true).unwrap();
        assert_eq!((tagged.vlan, tagged.offload), (vlan(5), owed(34)));
        let sent = with_tag(&mut tagged, |frame| (frame.bytes().to_vec(), frame.offload));
        assert_eq!(sent, Some((wire, owed(38))));
        assert_eq!((tagged.bytes(), tagged.offload), (frame(&[0x0800]).bytes(), owed(34)));
    }

    #[test]
    fn a_checksum_from_within_the_tag_is_refused() {
        let mut tagged = frame(&[0x8100, 5, 0x0800]);
        tagged.offload.checksum = Checksum::Partial { start: 17, offset: 6 };
        assert_eq!(classify(&mut tagged, &trunk(&[5], None), true), Err(DropReason::VnetHeaderInvalid));
    }

    #[test]
    fn sets_hold_what_they_were_given() {
        let numbers = [1, 63, 64, 4094];
        let set: VlanSet = numbers.into_iter().map(vlan).collect();
        assert_eq!(set.iter().map(Vlan::number).collect::<Vec<_>>(), numbers);
        assert_eq!(VlanSet::all().iter().count(), 4094);
    }
}
