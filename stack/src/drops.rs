// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why the gateway let a packet go no further.

wharf_switch::drop_reasons! {
    /// Why the gateway let a packet go no further.
    pub enum DropReason {
        EtherTypeUnknown(Elsewhere, "EtherType is none of IPv4, IPv6, ARP"),
        Ipv4Malformed(Malformed, "IPv4 header truncated or contradictory"),
        Ipv4ChecksumWrong(Malformed, "IPv4 header checksum is wrong"),
        Ipv6Malformed(Malformed, "IPv6 header or extension truncated or contradictory"),
    }
}
