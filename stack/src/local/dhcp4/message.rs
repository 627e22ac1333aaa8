// SPDX-License-Identifier: MIT OR Apache-2.0
//! DHCP messages: reading what a client says, writing what the server answers.
//!
//! # How it works
//! The fixed part goes through smoltcp's view; the options are iterated and written through it too. An answer first
//! gets the options that every answer of its kind has, then those the client asked for as long as there is room.
//!
//! # Sources
//! RFC 2131 section 2 (format), RFC 2132 (options), RFC 3397 (domain search), RFC 6842 (client identifier).

use core::net::Ipv4Addr;

use smoltcp::wire::{
    ArpHardware, DhcpFlags, DhcpMessageType, DhcpOpCode, DhcpOption, DhcpPacket, EthernetAddress, Ipv4Cidr,
};

use crate::DropReason;

/// Option codes of RFC 2132, RFC 3397, RFC 3442.
pub mod code {
    #![allow(missing_docs, reason = "the names are those of the RFCs")]
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DOMAIN_NAME_SERVER: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN_NAME: u8 = 15;
    pub const INTERFACE_MTU: u8 = 26;
    pub const BROADCAST_ADDRESS: u8 = 28;
    pub const NTP_SERVERS: u8 = 42;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_IDENTIFIER: u8 = 54;
    pub const PARAMETER_REQUEST_LIST: u8 = 55;
    pub const MESSAGE: u8 = 56;
    pub const MAX_MESSAGE_SIZE: u8 = 57;
    pub const RENEWAL_TIME: u8 = 58;
    pub const REBINDING_TIME: u8 = 59;
    pub const CLIENT_IDENTIFIER: u8 = 61;
    pub const DOMAIN_SEARCH: u8 = 119;
    pub const CLASSLESS_STATIC_ROUTE: u8 = 121;
}

/// RFC 2131 section 2: "the first four octets of the 'options' field ... 99, 130, 83 and 99".
const MAGIC: u32 = 0x6382_5363;
/// Bytes before the options.
const HEADER_LEN: usize = 240;
/// RFC 1542 section 2.1: "the minimum ... BOOTP message ... 300 octets"; some clients and relays insist.
const MIN_MESSAGE_LEN: usize = 300;
/// RFC 2131 section 2: a client must take "a message of up to 576 octets, the minimum IP datagram size".
const DEFAULT_MAX_SIZE: usize = 576;
/// IP and UDP headers, which the maximum message size includes.
const LOWER_HEADERS_LEN: usize = 28;
/// The longest answer we make, whatever the client would take.
const MAX_ANSWER_LEN: usize = 1472;

/// What a client says.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The message's type.
    pub kind: DhcpMessageType,
    /// Transaction id.
    pub xid: u32,
    /// The client cannot receive unicast before it has an address.
    pub broadcast: bool,
    /// The client's address, once it has one.
    pub ciaddr: Ipv4Addr,
    /// The relay agent's address, if there is one.
    pub giaddr: Ipv4Addr,
    /// Whose frame brought it: the client's own, or a relay agent's.
    pub from: EthernetAddress,
    /// The client's MAC address.
    pub chaddr: EthernetAddress,
    /// Option 61.
    pub client_id: Option<&'a [u8]>,
    /// Option 50.
    pub requested: Option<Ipv4Addr>,
    /// Option 54.
    pub server_id: Option<Ipv4Addr>,
    /// Option 51, in seconds.
    pub lease_secs: Option<u32>,
    /// Option 55.
    pub wanted: Option<&'a [u8]>,
    /// Option 12.
    pub hostname: Option<&'a [u8]>,
    /// Bytes an answer may have.
    pub max_answer_len: usize,
}

impl<'a> Request<'a> {
    /// Reads a message that a frame `from` somebody has brought.
    ///
    /// # Errors
    /// [`DropReason::DhcpMalformed`], [`DropReason::DhcpNotRequest`], [`DropReason::DhcpSenderForged`].
    pub fn parse(from: EthernetAddress, message: &'a [u8]) -> Result<Self, DropReason> {
        let packet = DhcpPacket::new_checked(message).map_err(|_| DropReason::DhcpMalformed)?;
        if packet.opcode() != DhcpOpCode::Request {
            return Err(DropReason::DhcpNotRequest);
        }
        if packet.hardware_type() != ArpHardware::Ethernet
            || packet.hardware_len() != 6
            || packet.magic_number() != MAGIC
            || !packet.client_hardware_address().is_unicast()
        {
            return Err(DropReason::DhcpMalformed);
        }
        let mut request = Self {
            kind: DhcpMessageType::Unknown(0),
            xid: packet.transaction_id(),
            broadcast: packet.flags().contains(DhcpFlags::BROADCAST),
            ciaddr: packet.client_ip(),
            giaddr: packet.relay_agent_ip(),
            from,
            chaddr: packet.client_hardware_address(),
            client_id: None,
            requested: None,
            server_id: None,
            lease_secs: None,
            wanted: None,
            hostname: None,
            max_answer_len: DEFAULT_MAX_SIZE - LOWER_HEADERS_LEN,
        };
        let mut rest = message.get(HEADER_LEN..).unwrap_or_default();
        while let Some((kind, data)) = next_option(&mut rest) {
            request.take_option(kind, data);
        }
        // Nobody takes addresses under foreign names; what a relay agent asks for is on its own account.
        if request.giaddr.is_unspecified() && request.chaddr != from {
            return Err(DropReason::DhcpSenderForged);
        }
        // A message without a type is BOOTP, which has no leases.
        if matches!(request.kind, DhcpMessageType::Unknown(_)) {
            return Err(DropReason::DhcpNotRequest);
        }
        Ok(request)
    }

    fn take_option(&mut self, kind: u8, data: &'a [u8]) {
        let address =
            || data.first_chunk::<4>().filter(|_| data.len() == 4).map(|&bytes| Ipv4Addr::from(bytes));
        match (kind, data) {
            (code::MESSAGE_TYPE, &[kind]) => self.kind = DhcpMessageType::from(kind),
            (code::REQUESTED_ADDRESS, _) => self.requested = address(),
            (code::SERVER_IDENTIFIER, _) => self.server_id = address(),
            (code::LEASE_TIME, &[a, b, c, d]) => self.lease_secs = Some(u32::from_be_bytes([a, b, c, d])),
            (code::PARAMETER_REQUEST_LIST, data) => self.wanted = Some(data),
            (code::HOST_NAME, data) => self.hostname = Some(data),
            // RFC 2132 section 9.14: "Its minimum length is 2."
            (code::CLIENT_IDENTIFIER, data) if data.len() >= 2 => self.client_id = Some(data),
            (code::MAX_MESSAGE_SIZE, &[a, b]) => {
                // RFC 2132 section 9.10: "The minimum legal value is 576 octets."
                let size = usize::from(u16::from_be_bytes([a, b])).max(DEFAULT_MAX_SIZE);
                self.max_answer_len = (size - LOWER_HEADERS_LEN).min(MAX_ANSWER_LEN);
            }
            _ => {}
        }
    }

    /// Whether the client wants option `code`; one that does not say gets everything.
    #[must_use]
    pub fn wants(&self, code: u8) -> bool {
        self.wanted.is_none_or(|wanted| wanted.contains(&code))
    }
}

/// Splits the first option off; smoltcp's iterator would tie the data to its view instead of to the message.
fn next_option<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    loop {
        match **rest {
            [0, ref after @ ..] => *rest = after,
            [255, ..] | [] | [_] => return None,
            [kind, len, ref after @ ..] => {
                let (data, after) = after.split_at_checked(len.into())?;
                *rest = after;
                return Some((kind, data));
            }
        }
    }
}

/// An answer in the making.
#[derive(Debug)]
pub struct Answer {
    bytes: Vec<u8>,
    used: usize,
    limit: usize,
}

impl Answer {
    /// An answer to `request`, so far without options but its own type and what every answer has.
    #[must_use]
    pub fn new(kind: DhcpMessageType, request: &Request<'_>, server: Ipv4Addr, yiaddr: Ipv4Addr) -> Self {
        let limit = request.max_answer_len.max(MIN_MESSAGE_LEN);
        let mut bytes = vec![0; limit];
        let mut packet = DhcpPacket::new_unchecked(bytes.as_mut_slice());
        packet.set_opcode(DhcpOpCode::Reply);
        packet.set_hardware_type(ArpHardware::Ethernet);
        packet.set_hardware_len(6);
        packet.set_transaction_id(request.xid);
        packet.set_your_ip(yiaddr);
        packet.set_relay_agent_ip(request.giaddr);
        packet.set_client_hardware_address(request.chaddr);
        packet.set_magic_number(MAGIC);
        // RFC 2131 section 4.1: a relay agent is told to broadcast a DHCPNAK, because the client has no address.
        let relayed_nak = kind == DhcpMessageType::Nak && !request.giaddr.is_unspecified();
        if request.broadcast || relayed_nak {
            packet.set_flags(DhcpFlags::BROADCAST);
        }
        // RFC 2131 table 3: ciaddr is that of the request in a DHCPACK, else 0.
        if kind == DhcpMessageType::Ack {
            packet.set_client_ip(request.ciaddr);
        }
        let mut answer = Self { bytes, used: HEADER_LEN, limit: limit - 1 };
        answer.push(code::MESSAGE_TYPE, &[kind.into()]);
        answer.push(code::SERVER_IDENTIFIER, &server.octets());
        // RFC 6842 section 3: "If the 'client identifier' option is present in a message received from a client, the
        // server MUST return the 'client identifier' option, unaltered, in its response message."
        if let Some(id) = request.client_id {
            answer.push(code::CLIENT_IDENTIFIER, id);
        }
        answer
    }

    /// Adds an option, if there is room. Data longer than 255 bytes is split (RFC 3396).
    pub fn push(&mut self, kind: u8, data: &[u8]) {
        if !self.has_room_for(data.len()) {
            return;
        }
        for piece in data.chunks(255) {
            let Some(room) = self.bytes.get_mut(self.used..) else { return };
            let mut writer = smoltcp::wire::DhcpOptionWriter::new(room);
            if writer.emit(DhcpOption { kind, data: piece }).is_ok() {
                self.used += 2 + piece.len();
            }
        }
    }

    /// Adds an option with as many of the names, written as labels, as there is room for.
    pub fn push_names(&mut self, kind: u8, names: &[Vec<u8>]) {
        let mut list = Vec::new();
        for name in names {
            if !self.has_room_for(list.len() + name.len()) {
                break;
            }
            list.extend_from_slice(name);
        }
        if !list.is_empty() {
            self.push(kind, &list);
        }
    }

    fn has_room_for(&self, len: usize) -> bool {
        self.used + len + 2 * len.div_ceil(255).max(1) <= self.limit
    }

    /// Adds an option with the ways by `gateway`, if there are any and room for all (RFC 3442: prefix length, the octets of
    /// the prefix that it covers, router).
    pub fn push_routes(&mut self, prefixes: &[Ipv4Cidr], gateway: Ipv4Addr) {
        let mut routes = Vec::new();
        for prefix in prefixes {
            let significant = usize::from(prefix.prefix_len().div_ceil(8));
            routes.push(prefix.prefix_len());
            routes.extend(prefix.network().address().octets().into_iter().take(significant));
            routes.extend(gateway.octets());
        }
        if !routes.is_empty() {
            self.push(code::CLASSLESS_STATIC_ROUTE, &routes);
        }
    }

    /// Adds an option with a number in seconds.
    pub fn push_secs(&mut self, kind: u8, secs: u32) {
        self.push(kind, &secs.to_be_bytes());
    }

    /// Adds an option with addresses, unless there are none.
    pub fn push_addresses(&mut self, kind: u8, addresses: &[Ipv4Addr]) {
        if !addresses.is_empty() {
            let octets: Vec<u8> = addresses.iter().flat_map(|address| address.octets()).collect();
            self.push(kind, &octets);
        }
    }

    /// The finished message.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        if let Some(end) = self.bytes.get_mut(self.used) {
            *end = 255;
        }
        self.bytes.truncate((self.used + 1).max(MIN_MESSAGE_LEN));
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);

    fn request(options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN];
        bytes[..3].copy_from_slice(&[1, 1, 6]);
        bytes[28..34].copy_from_slice(&MAC.0);
        bytes[236..240].copy_from_slice(&MAGIC.to_be_bytes());
        bytes.extend_from_slice(options);
        bytes
    }

    #[test]
    fn options_are_read_past_padding_and_up_to_the_end() {
        let bytes = request(&[0, 0, 53, 1, 1, 50, 4, 10, 0, 2, 7, 255, 54, 4, 1, 1, 1, 1]);
        let request = Request::parse(MAC, &bytes).unwrap();
        assert_eq!(request.requested, Some(Ipv4Addr::new(10, 0, 2, 7)));
        assert_eq!(request.server_id, None, "behind the end option");
    }

    #[test]
    fn a_truncated_option_ends_the_list() {
        let bytes = request(&[53, 1, 1, 12, 200, b'a']);
        assert_eq!(Request::parse(MAC, &bytes).unwrap().hostname, None);
    }

    #[test]
    fn bootp_and_replies_are_no_requests() {
        assert_eq!(Request::parse(MAC, &request(&[255])).unwrap_err(), DropReason::DhcpNotRequest);
        let mut reply = request(&[53, 1, 2]);
        reply[0] = 2;
        assert_eq!(Request::parse(MAC, &reply).unwrap_err(), DropReason::DhcpNotRequest);
        assert_eq!(Request::parse(MAC, &reply[..239]).unwrap_err(), DropReason::DhcpMalformed);
    }

    #[test]
    fn an_option_without_room_is_left_out_and_the_message_still_ends() {
        let bytes = request(&[53, 1, 1, 255]);
        let mut answer = Answer::new(
            DhcpMessageType::Offer,
            &Request::parse(MAC, &bytes).unwrap(),
            Ipv4Addr::LOCALHOST,
            Ipv4Addr::LOCALHOST,
        );
        answer.push(code::DOMAIN_SEARCH, &[1; 400]);
        answer.push(code::DOMAIN_NAME, &[2; 10]);
        let bytes = answer.finish();
        assert_eq!(bytes.len(), 300);
        assert!(DhcpPacket::new_checked(&bytes[..]).unwrap().options().all(|option| option.kind != 119));
        assert_eq!(bytes[240 + 3 + 6 + 12], 255);
    }

    #[test]
    fn a_long_option_is_split() {
        let bytes = request(&[53, 1, 1, 57, 2, 5, 220, 255]);
        let request = Request::parse(MAC, &bytes).unwrap();
        assert_eq!(request.max_answer_len, 1472);
        let mut answer =
            Answer::new(DhcpMessageType::Offer, &request, Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST);
        answer.push(code::DOMAIN_SEARCH, &[1; 300]);
        let bytes = answer.finish();
        let packet = DhcpPacket::new_checked(&bytes[..]).unwrap();
        let lens: Vec<_> =
            packet.options().filter(|option| option.kind == 119).map(|option| option.data.len()).collect();
        assert_eq!(lens, [255, 45]);
    }
}
