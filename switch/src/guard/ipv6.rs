// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guards' view of IPv6: header chains, Neighbor Discovery, DHCPv6.
//!
//! # How it works
//! The header chain is walked to the upper-layer header, through fragment headers too: a first fragment has to hold it
//! (RFC 7112), or the packet is dropped. So no extension header hides a Router Advertisement. Neighbor Discovery in
//! fragments is dropped whatever it says, as its receivers do (RFC 6980).
//!
//! # Sources
//! RFC 8200 section 4, RFC 4302 section 2.2, RFC 7113 section 3, RFC 6980 section 5, RFC 4861 section 4, RFC 4862
//! section 5.4.2, RFC 3590 section 4, RFC 8415 section 7.2, RFC 4291 appendix A.

use smoltcp::wire::{EthernetAddress, Ipv6Address, Ipv6Packet};

use super::{Addresses, Guard, answers_dhcp, udp_ports};
use crate::DropReason;
use crate::offload::extensions::{Upper, upper_layer};

const UDP: u8 = 17;
const ICMPV6: u8 = 58;

const MLD_REPORT: u8 = 131;
const MLD_DONE: u8 = 132;
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const MLDV2_REPORT: u8 = 143;

/// Neighbor Discovery options that hold the sender's MAC address, RFC 4861 section 4.6.1.
const LINK_LAYER_OPTIONS: [u8; 2] = [1, 2];
/// Where the target of a solicitation or advertisement is, and what follows it, RFC 4861 sections 4.3 and 4.4.
const TARGET: usize = 8;
const TARGET_END: usize = 24;

const DHCP_SERVER: u16 = 547;
const DHCP_CLIENT: u16 = 546;

impl Guard {
    pub(super) fn check_ipv6(&self, mac: EthernetAddress, packet: &[u8]) -> Result<(), DropReason> {
        let ip = Ipv6Packet::new_checked(packet).map_err(|_| DropReason::HeadersUnreadable)?;
        if ip.version() != 6 {
            return Err(DropReason::HeadersUnreadable);
        }
        let source = ip.src_addr();
        let upper = upper_layer(&ip)?;
        let seeks_address = source.is_unspecified() && upper.is_some_and(may_have_no_source);
        if !seeks_address && !self.is_own(mac, source) {
            return Err(DropReason::Ipv6SourceForged);
        }
        match upper {
            Some(Upper { protocol: ICMPV6, bytes, in_fragments }) => {
                self.check_icmpv6(mac, source, bytes, in_fragments)
            }
            Some(Upper { protocol: UDP, bytes, .. }) => {
                let answers = answers_dhcp(udp_ports(bytes)?, DHCP_SERVER, DHCP_CLIENT);
                if answers && !self.may_serve_dhcp { Err(DropReason::DhcpServerForbidden) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    /// Whether a frame from `mac` may say that the address is its sender's.
    fn is_own(&self, mac: EthernetAddress, address: Ipv6Address) -> bool {
        self.has_ipv6(address) || address == link_local_of(mac)
    }

    fn check_icmpv6(
        &self,
        mac: EthernetAddress,
        source: Ipv6Address,
        message: &[u8],
        in_fragments: bool,
    ) -> Result<(), DropReason> {
        let kind = *message.first().ok_or(DropReason::HeadersUnreadable)?;
        // RFC 6980 section 5: "Nodes MUST NOT employ IPv6 fragmentation for sending any of the following Neighbor
        // Discovery and SEcure Neighbor Discovery messages"
        if in_fragments && (ROUTER_SOLICITATION..=REDIRECT).contains(&kind) {
            return Err(DropReason::NdpFragmented);
        }
        match kind {
            ROUTER_ADVERTISEMENT | REDIRECT if !self.may_route => Err(DropReason::RouterForbidden),
            _ if self.addresses == Addresses::Any => Ok(()),
            ROUTER_SOLICITATION => self.check_options(mac, message.get(TARGET..)),
            NEIGHBOR_SOLICITATION | NEIGHBOR_ADVERTISEMENT => {
                let target = message.get(TARGET..TARGET_END).and_then(|bytes| bytes.first_chunk());
                let target = Ipv6Address::from(*target.ok_or(DropReason::HeadersUnreadable)?);
                let claims_target = kind == NEIGHBOR_ADVERTISEMENT || source.is_unspecified();
                let looks_for_one = kind == NEIGHBOR_SOLICITATION && self.addresses == Addresses::Unknown;
                if claims_target && !looks_for_one && !self.is_own(mac, target) {
                    return Err(DropReason::NdpForged);
                }
                self.check_options(mac, message.get(TARGET_END..))
            }
            _ => Ok(()),
        }
    }

    /// Checks that the link-layer address options give the frame's own source.
    fn check_options(&self, mac: EthernetAddress, options: Option<&[u8]>) -> Result<(), DropReason> {
        let mut rest = options.ok_or(DropReason::HeadersUnreadable)?;
        while let [kind, units, ..] = *rest {
            // RFC 4861 section 4.6: "Nodes MUST silently discard an ND packet that contains an option with length zero."
            let len = usize::from(units) * 8;
            let option = rest.get(..len).filter(|option| !option.is_empty());
            let claimed = option.and_then(|option| option.get(2..8)).ok_or(DropReason::HeadersUnreadable)?;
            if LINK_LAYER_OPTIONS.contains(&kind) && !self.has_mac(mac, claimed) {
                return Err(DropReason::NdpForged);
            }
            rest = rest.get(len..).unwrap_or_default();
        }
        Ok(())
    }
}

/// Whether a packet may come from the unspecified address: router solicitation, duplicate address detection, and MLD
/// reports before there is a link-local address.
fn may_have_no_source(upper: Upper<'_>) -> bool {
    let kinds = [ROUTER_SOLICITATION, NEIGHBOR_SOLICITATION, MLD_REPORT, MLD_DONE, MLDV2_REPORT];
    upper.protocol == ICMPV6 && upper.bytes.first().is_some_and(|kind| kinds.contains(kind))
}

/// RFC 4291 appendix A: the modified EUI-64 is the MAC address with ff:fe in the middle and the universal bit flipped.
fn link_local_of(mac: EthernetAddress) -> Ipv6Address {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Address::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{MAC, OTHER, bound, frame};
    use super::*;
    use crate::offload::extensions::{
        AUTHENTICATION, DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, HOST_IDENTITY, MOBILITY, ROUTING, SHIM6,
    };
    use crate::{Checksum, Pool};

    const OWN: &str = "2001:db8::10";
    const FOREIGN: &str = "2001:db8::11";

    fn address(text: &str) -> Ipv6Address {
        text.parse().unwrap()
    }

    fn ipv6(source: Ipv6Address, next: u8, payload: &[u8]) -> Vec<u8> {
        let [high, low] = u16::try_from(payload.len()).unwrap().to_be_bytes();
        let fixed = [0x60, 0, 0, 0, high, low, next, 255];
        frame(0x86dd, &[&fixed[..], &source.octets(), &address("ff02::1").octets(), payload].concat())
    }

    /// A Neighbor Solicitation or Advertisement with one option.
    fn about(kind: u8, target: &str, option: u8, mac: EthernetAddress) -> Vec<u8> {
        [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &address(target).octets(), &[option, 1], &mac.0].concat()
    }

    fn advertisement() -> Vec<u8> {
        [&[ROUTER_ADVERTISEMENT][..], &[0; 15]].concat()
    }

    fn ndp(guard: &Guard, source: &str, message: &[u8]) -> Result<(), DropReason> {
        guard.check_headers(&ipv6(address(source), ICMPV6, message))
    }

    /// The extension headers, each of which says that `next` follows, in front of `payload`.
    fn extension(kind: u8, next: u8, payload: &[u8]) -> Vec<u8> {
        match kind {
            FRAGMENT => [&[next, 0, 0, 1, 0, 0, 0, 9][..], payload].concat(),
            AUTHENTICATION => [&[next, 1][..], &[0; 10], payload].concat(),
            _ => [&[next, 1][..], &[0; 14], payload].concat(),
        }
    }

    #[test]
    fn sources_are_the_ports_own_or_made_from_its_mac() {
        let tcp = |source| ipv6(address(source), 6, &[0; 20]);
        for own in [OWN, "2001:db8:a::77", "fe80::ff:fe00:a"] {
            assert_eq!(bound().check_headers(&tcp(own)), Ok(()), "{own}");
        }
        for forged in [FOREIGN, "fe80::1", "fe80::ff:fe00:b", "::", "::1"] {
            assert_eq!(bound().check_headers(&tcp(forged)), Err(DropReason::Ipv6SourceForged), "{forged}");
        }
        assert_eq!(Guard::default().check_headers(&tcp(OWN)), Err(DropReason::Ipv6SourceForged));
        assert_eq!(Guard::default().check_headers(&tcp("fe80::ff:fe00:a")), Ok(()));
    }

    #[test]
    fn advertisements_are_about_their_sender() {
        for (target, expected) in [(OWN, Ok(())), (FOREIGN, Err(DropReason::NdpForged))] {
            let message = about(NEIGHBOR_ADVERTISEMENT, target, 2, MAC);
            assert_eq!(ndp(&bound(), OWN, &message), expected);
        }
        let unknown = ndp(&Guard::default(), "fe80::ff:fe00:a", &about(NEIGHBOR_ADVERTISEMENT, OWN, 2, MAC));
        assert_eq!(unknown, Err(DropReason::NdpForged));
        let solicitation = about(NEIGHBOR_SOLICITATION, FOREIGN, 1, MAC);
        assert_eq!(ndp(&bound(), OWN, &solicitation), Ok(()), "a question about another");
    }

    #[test]
    fn link_layer_options_give_the_senders_mac() {
        for (kind, option) in [(NEIGHBOR_SOLICITATION, 1), (NEIGHBOR_ADVERTISEMENT, 2)] {
            assert_eq!(ndp(&bound(), OWN, &about(kind, OWN, option, MAC)), Ok(()));
            assert_eq!(ndp(&bound(), OWN, &about(kind, OWN, option, OTHER)), Err(DropReason::NdpForged));
            let behind =
                [about(kind, OWN, 14, OTHER), about(kind, OWN, option, OTHER)[24..].to_vec()].concat();
            assert_eq!(ndp(&bound(), OWN, &behind), Err(DropReason::NdpForged));
        }
        let solicitation = [&[ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0, 1, 1][..], &OTHER.0].concat();
        assert_eq!(ndp(&bound(), OWN, &solicitation), Err(DropReason::NdpForged));
        let mut endless = about(NEIGHBOR_SOLICITATION, OWN, 1, MAC);
        endless[25] = 0;
        assert_eq!(ndp(&bound(), OWN, &endless), Err(DropReason::HeadersUnreadable));
    }

    #[test]
    fn duplicate_address_detection_is_for_addresses_the_port_may_have() {
        let detection = |target| about(NEIGHBOR_SOLICITATION, target, 14, MAC);
        assert_eq!(ndp(&bound(), "::", &detection(OWN)), Ok(()));
        assert_eq!(ndp(&bound(), "::", &detection("fe80::ff:fe00:a")), Ok(()));
        assert_eq!(ndp(&bound(), "::", &detection(FOREIGN)), Err(DropReason::NdpForged));
        assert_eq!(ndp(&Guard::default(), "::", &detection(FOREIGN)), Ok(()), "nothing is known of it yet");
        let claim = about(NEIGHBOR_ADVERTISEMENT, OWN, 2, MAC);
        assert_eq!(ndp(&bound(), "::", &claim), Err(DropReason::Ipv6SourceForged));
    }

    #[test]
    fn an_owed_checksum_becomes_no_option_of_neighbor_discovery() {
        let mut frame = Pool::new(0).small();
        frame.fill(&ipv6(address(OWN), ICMPV6, &about(NEIGHBOR_ADVERTISEMENT, OWN, 2, MAC)));
        for (offset, expected) in [(2, Ok(())), (26, Err(DropReason::VnetHeaderInvalid))] {
            frame.offload.checksum = Checksum::Partial { start: 54, offset };
            assert_eq!(bound().check(&frame), expected);
        }
    }

    #[test]
    fn routers_and_dhcp_servers_are_permitted_ones() {
        let router = Guard { may_route: true, ..bound() };
        for kind in [ROUTER_ADVERTISEMENT, REDIRECT] {
            let message = [&[kind][..], &[0; 39]].concat();
            assert_eq!(ndp(&bound(), OWN, &message), Err(DropReason::RouterForbidden));
            assert_eq!(ndp(&router, OWN, &message), Ok(()));
        }
        let server = Guard { may_serve_dhcp: true, ..bound() };
        for ports in [[2, 0x23, 2, 0x22], [2, 0x23, 2, 0x23], [9, 9, 2, 0x22]] {
            let answer = ipv6(address(OWN), UDP, &[&ports[..], &[0; 8]].concat());
            assert_eq!(bound().check_headers(&answer), Err(DropReason::DhcpServerForbidden));
            assert_eq!(server.check_headers(&answer), Ok(()));
        }
        let request = ipv6(address("fe80::ff:fe00:a"), UDP, &[2, 0x22, 2, 0x23, 0, 8, 0, 0]);
        assert_eq!(Guard::default().check_headers(&request), Ok(()));
    }

    #[test]
    fn fragments_hide_no_neighbor_discovery() {
        let whole = extension(FRAGMENT, ICMPV6, &advertisement());
        assert_eq!(
            bound().check_headers(&ipv6(address(OWN), FRAGMENT, &whole)),
            Err(DropReason::NdpFragmented)
        );
        // The advertisement is in the second fragment, the first one ends in its extension headers.
        let mut options = extension(DESTINATION_OPTIONS, ICMPV6, &[]);
        options[1] = 3;
        let first = extension(FRAGMENT, DESTINATION_OPTIONS, &options);
        assert_eq!(
            bound().check_headers(&ipv6(address(OWN), FRAGMENT, &first)),
            Err(DropReason::HeadersUnreadable)
        );
        let empty = extension(FRAGMENT, ICMPV6, &[]);
        assert_eq!(
            bound().check_headers(&ipv6(address(OWN), FRAGMENT, &empty)),
            Err(DropReason::HeadersUnreadable)
        );
        let mut later = whole;
        later[3] = 0x10;
        assert_eq!(
            bound().check_headers(&ipv6(address(OWN), FRAGMENT, &later)),
            Ok(()),
            "useless without the first"
        );
        assert_eq!(
            bound().check_headers(&ipv6(address(FOREIGN), FRAGMENT, &later)),
            Err(DropReason::Ipv6SourceForged)
        );
    }

    proptest! {
        #[test]
        fn no_chain_of_extension_headers_hides_an_advertisement(
            kinds in prop::collection::vec(prop::sample::select(vec![
                HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION_OPTIONS, MOBILITY, HOST_IDENTITY, SHIM6,
            ]), 0..12),
            cut in 0usize..400,
        ) {
            let (mut next, mut payload) = (ICMPV6, advertisement());
            for &kind in kinds.iter().rev() {
                payload = extension(kind, next, &payload);
                next = kind;
            }
            prop_assert!(bound().check_headers(&ipv6(address(OWN), next, &payload)).is_err());
            payload.truncate(cut);
            prop_assert!(bound().check_headers(&ipv6(address(OWN), next, &payload)).is_err());
        }

        #[test]
        fn no_bytes_make_a_guard_panic(
            ethertype in prop::sample::select(vec![0x0800, 0x0806, 0x86dd]),
            version in prop::sample::select(vec![0x45, 0x60]),
            mut packet in prop::collection::vec(any::<u8>(), 0..120),
        ) {
            if let Some(first) = packet.first_mut() {
                *first = version;
            }
            bound().check_headers(&frame(ethertype, &packet)).ok();
        }
    }
}
