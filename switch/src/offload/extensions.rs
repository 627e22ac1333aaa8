// SPDX-License-Identifier: MIT OR Apache-2.0
//! IPv6 extension headers: where the chain of them ends.
//!
//! # Bounds
//! At most [`MAX_EXTENSIONS`] of them are stepped over.
//!
//! # Sources
//! RFC 8200 section 4, RFC 4302 section 2.2 (authentication header), RFC 6564 section 4 (the form of all others).

use smoltcp::wire::Ipv6Packet;

use crate::DropReason;

/// Extension headers stepped over before a packet counts as too odd.
pub const MAX_EXTENSIONS: usize = 8;

pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const AUTHENTICATION: u8 = 51;
pub(crate) const DESTINATION_OPTIONS: u8 = 60;
pub(crate) const MOBILITY: u8 = 135;
pub(crate) const HOST_IDENTITY: u8 = 139;
pub(crate) const SHIM6: u8 = 140;

/// The upper-layer header at the end of a header chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Upper<'a> {
    pub(crate) protocol: u8,
    /// From the header to the end of the packet.
    pub(crate) bytes: &'a [u8],
    /// There is a fragment header in front: the packet may go on in other fragments.
    pub(crate) in_fragments: bool,
}

/// Walks a header chain; `None` for a later fragment, which has none.
///
/// # Errors
/// [`DropReason::HeadersUnreadable`] when the chain is cut off or longer than any that is needed.
pub(crate) fn upper_layer<'a>(ip: &Ipv6Packet<&'a [u8]>) -> Result<Option<Upper<'a>>, DropReason> {
    let mut protocol = u8::from(ip.next_header());
    let mut bytes = ip.payload();
    let mut in_fragments = false;
    for _ in 0..=MAX_EXTENSIONS {
        let units = || bytes.get(1).map(|&length| usize::from(length)).ok_or(DropReason::HeadersUnreadable);
        let len = match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | MOBILITY | HOST_IDENTITY | SHIM6 => {
                (units()? + 1) * 8
            }
            AUTHENTICATION => (units()? + 2) * 4,
            FRAGMENT => {
                let &[_, _, high, low] = bytes.first_chunk().ok_or(DropReason::HeadersUnreadable)?;
                if u16::from_be_bytes([high, low]) >> 3 != 0 {
                    return Ok(None);
                }
                in_fragments = true;
                8
            }
            _ => return Ok(Some(Upper { protocol, bytes, in_fragments })),
        };
        protocol = *bytes.first().ok_or(DropReason::HeadersUnreadable)?;
        bytes = bytes.get(len..).ok_or(DropReason::HeadersUnreadable)?;
    }
    Err(DropReason::HeadersUnreadable)
}
