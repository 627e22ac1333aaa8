// SPDX-License-Identifier: MIT OR Apache-2.0
//! A blocking conversation with the kernel about links, addresses and routes (rtnetlink).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use smoltcp::wire::Ipv4Cidr;

use super::Route;

/// The metric of a route that gives way to those that the kernel makes for its own links: 0 in IPv4, 256 in IPv6.
const BEHIND_LINKS: u32 = 2048;

/// An rtnetlink socket of the calling thread's network namespace.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl std::fmt::Debug for Netlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Netlink").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Netlink {
    /// Opens the socket.
    ///
    /// # Errors
    /// What `socket(2)` and `bind(2)` say.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The index of the link `name`.
    ///
    /// # Errors
    /// `ENODEV` when there is none.
    pub fn link_index(&mut self, name: &str) -> io::Result<u32> {
        Ok(self.link(name)?.header.index)
    }

    /// Whether frames can pass the link `name`.
    ///
    /// # Errors
    /// `ENODEV` when there is none.
    pub fn has_carrier(&mut self, name: &str) -> io::Result<bool> {
        Ok(self.link(name)?.header.flags.contains(LinkFlags::LowerUp | LinkFlags::Running))
    }

    /// Whether the link `name` is an end of a veth pair.
    ///
    /// # Errors
    /// `ENODEV` when there is none.
    pub fn is_veth(&mut self, name: &str) -> io::Result<bool> {
        Ok(self.link(name)?.attributes.iter().any(|attribute| {
            matches!(attribute, LinkAttribute::LinkInfo(info) if info.contains(&LinkInfo::Kind(InfoKind::Veth)))
        }))
    }

    /// Whether the link `name` is up.
    ///
    /// # Errors
    /// `ENODEV` when there is none.
    pub fn is_up(&mut self, name: &str) -> io::Result<bool> {
        Ok(self.link(name)?.header.flags.contains(LinkFlags::Up))
    }

    fn link(&mut self, name: &str) -> io::Result<LinkMessage> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let mut found = None;
        self.request(RouteNetlinkMessage::GetLink(message), 0, |answer| {
            if let RouteNetlinkMessage::NewLink(link) = answer {
                found = Some(link);
            }
        })?;
        found.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    /// Changes attributes of a link and, if `up`, brings it up.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn set_link(&mut self, index: u32, up: bool, attributes: Vec<LinkAttribute>) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        if up {
            message.header.flags = LinkFlags::Up;
            message.header.change_mask = LinkFlags::Up;
        }
        message.attributes = attributes;
        self.request(RouteNetlinkMessage::SetLink(message), NLM_F_ACK, |_| ())
    }

    /// Sets those of a link's flags that are in `mask` to what they are in `flags`.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn set_flags(&mut self, index: u32, flags: LinkFlags, mask: LinkFlags) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = flags;
        message.header.change_mask = mask;
        self.request(RouteNetlinkMessage::SetLink(message), NLM_F_ACK, |_| ())
    }

    /// The addresses of a link and their prefixes' lengths, in the kernel's order.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn addresses(&mut self, index: u32) -> io::Result<Vec<(IpAddr, u8)>> {
        let mut addresses = Vec::new();
        self.request(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP, |answer| {
            let RouteNetlinkMessage::NewAddress(message) = answer else { return };
            if message.header.index != index {
                return;
            }
            // A point-to-point link's own address is the local one; IPv6 has it in the other attribute only.
            let attributes = || message.attributes.iter();
            let local = attributes().find_map(|attribute| match attribute {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            });
            let address = attributes().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            });
            addresses.extend(local.or(address).map(|address| (address, message.header.prefix_len)));
        })?;
        Ok(addresses)
    }

    /// Creates a link.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn add_link(&mut self, attributes: Vec<LinkAttribute>) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes = attributes;
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        self.request(RouteNetlinkMessage::NewLink(message), flags, |_| ())
    }

    /// Gives a link an address. IPv6 addresses are usable at once, without duplicate address detection.
    ///
    /// # Errors
    /// What the kernel answers; `EOPNOTSUPP`, `EAFNOSUPPORT` or `EACCES` where the family is turned off.
    pub fn add_address(&mut self, index: u32, address: IpAddr, prefix_len: u8) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = prefix_len;
        message.attributes.push(AddressAttribute::Address(address));
        message.attributes.push(AddressAttribute::Local(address));
        match address {
            IpAddr::V4(address) => {
                message.header.family = AddressFamily::Inet;
                let host_bits = u32::MAX.checked_shr(prefix_len.into()).unwrap_or(0);
                let broadcast = Ipv4Addr::from_bits(address.to_bits() | host_bits);
                message.attributes.push(AddressAttribute::Broadcast(broadcast));
            }
            IpAddr::V6(address) => {
                message.header.family = AddressFamily::Inet6;
                if address.is_unicast_link_local() {
                    message.header.scope = AddressScope::Link;
                }
                message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            }
        }
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.request(RouteNetlinkMessage::NewAddress(message), flags, |_| ())
    }

    /// Takes an address from a link. The kernel takes the routes along that need it; with the last address of IPv4 all of
    /// that family.
    ///
    /// # Errors
    /// What the kernel answers; `EADDRNOTAVAIL` when the link does not have it.
    pub fn remove_address(&mut self, index: u32, address: IpAddr, prefix_len: u8) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.index = index;
        message.header.prefix_len = prefix_len;
        message.attributes.push(AddressAttribute::Local(address));
        self.request(RouteNetlinkMessage::DelAddress(message), NLM_F_ACK, |_| ())
    }

    /// Adds the default route of the gateway's family.
    ///
    /// # Errors
    /// What the kernel answers; `EEXIST` when there is a default route.
    pub fn add_default_route(&mut self, index: u32, gateway: IpAddr) -> io::Result<()> {
        self.new_default_route(index, gateway, NLM_F_EXCL)
    }

    /// Adds the default route of the gateway's family in front of others. The same that is there already is left alone.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn prepend_default_route(&mut self, index: u32, gateway: IpAddr) -> io::Result<()> {
        match self.new_default_route(index, gateway, 0) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            result => result,
        }
    }

    /// Adds a route behind those that the kernel makes for its own links. The same that is there already is left alone.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn add_route(&mut self, index: u32, Route { prefix, gateway }: Route) -> io::Result<()> {
        let mut message = route_message(index, gateway);
        message.header.destination_prefix_length = prefix.prefix_len();
        message.attributes.push(RouteAttribute::Destination(IpAddr::from(prefix.address()).into()));
        message.attributes.push(RouteAttribute::Priority(BEHIND_LINKS));
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        match self.request(RouteNetlinkMessage::NewRoute(message), flags, |_| ()) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            result => result,
        }
    }

    fn new_default_route(&mut self, index: u32, gateway: IpAddr, flags: u16) -> io::Result<()> {
        let flags = NLM_F_ACK | NLM_F_CREATE | flags;
        self.request(RouteNetlinkMessage::NewRoute(route_message(index, gateway)), flags, |_| ())
    }

    /// Every IPv4 destination that a routing table of this namespace names, the default route aside.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn ipv4_routes(&mut self) -> io::Result<Vec<Ipv4Cidr>> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        let mut routes = Vec::new();
        self.request(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP, |answer| {
            let RouteNetlinkMessage::NewRoute(route) = answer else { return };
            let len = route.header.destination_prefix_length;
            for attribute in route.attributes {
                if let RouteAttribute::Destination(RouteAddress::Inet(address)) = attribute
                    && len <= 32
                {
                    routes.push(Ipv4Cidr::new(address, len));
                }
            }
        })?;
        Ok(routes)
    }

    /// Sends one request and hands every answer to `each` until the kernel says that it is done.
    fn request(
        &mut self,
        body: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(body);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let goes_on = flags & (NLM_F_ACK | NLM_F_DUMP) != 0;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let answer =
                    NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
                let len = usize::try_from(answer.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
                rest = rest.get(len.max(16)..).unwrap_or(&[]);
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) => {
                        return if error.code.is_none() { Ok(()) } else { Err(error.to_io()) };
                    }
                    NetlinkPayload::InnerMessage(inner) => {
                        each(inner);
                        if !goes_on {
                            return Ok(());
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

/// A route by a gateway, so far to everywhere.
fn route_message(index: u32, gateway: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(gateway);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Gateway(gateway.into()));
    message.attributes.push(RouteAttribute::Oif(index));
    message
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// The address that a link with this MAC forms by itself (RFC 4291 appendix A).
#[must_use]
pub fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}
