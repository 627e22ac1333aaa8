// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who has a port of the host: the process, where this user may see it.
//!
//! # How it works
//! The kernel's tables of sockets (`/proc/net/tcp` and its like) give the inode of each, and the links in `/proc/PID/fd` say
//! whose it is. Other users' processes show these to root only. A confined gateway sees neither.
//!
//! # Sources
//! proc(5).

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use wharf_stack::host::Transport;

use super::{End, Request};
use crate::control::error::{Code, Error};

/// A process that has a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pid: u32,
    name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

impl Holder {
    /// Who has a port that is about to be `end`.
    #[must_use]
    pub fn of(transport: Transport, end: &End) -> Option<Self> {
        let at = end.at.inet()?;
        let tables = match (transport, at.is_ipv4()) {
            (Transport::Tcp, true) => &["tcp", "tcp6"][..],
            (Transport::Tcp, false) => &["tcp6"],
            (Transport::Udp, true) => &["udp", "udp6"],
            (Transport::Udp, false) => &["udp6"],
        };
        let tables =
            tables.iter().filter_map(|name| fs::read_to_string(Path::new("/proc/net").join(name)).ok());
        let inode = tables.into_iter().find_map(|table| {
            table
                .lines()
                .filter_map(Socket::parse)
                .find(|socket| socket.keeps(transport, at))
                .map(|s| s.inode)
        })?;
        processes().find(|process| process.has_open(&format!("socket:[{inode}]")))
    }

    /// What is said of a port that cannot be had.
    pub(super) fn hint(&self) -> String {
        format!("{self} has it")
    }

    fn has_open(&self, link: &str) -> bool {
        let files = fs::read_dir(format!("/proc/{}/fd", self.pid)).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok()).any(|target| target.as_os_str() == link)
    }
}

/// A refusal with who has the first of the ports wished for that somebody has: the gateway that refuses cannot see it.
#[must_use]
pub fn named<'a>(refusal: Error, wishes: impl IntoIterator<Item = &'a Request>) -> Error {
    let holder_of = |wish: &Request| wish.ends().find_map(|end| Holder::of(wish.transport, &end));
    match wishes.into_iter().filter(|_| refusal.code == Code::InUse).find_map(holder_of) {
        Some(holder) => refusal.hint(holder.hint()),
        None => refusal,
    }
}

fn processes() -> impl Iterator<Item = Holder> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?.trim_end().to_owned();
        Some(Holder { pid, name })
    })
}

/// A line of the kernel's table.
#[derive(Debug, PartialEq, Eq)]
struct Socket {
    at: SocketAddr,
    state: u8,
    inode: u64,
}

/// The state of a listening TCP socket.
const LISTEN: u8 = 10;

impl Socket {
    /// Number, local end, remote end, state, ..., the inode as the tenth.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (address, port) = fields.nth(1)?.split_once(':')?;
        let at = SocketAddr::new(self::address(address)?, u16::from_str_radix(port, 16).ok()?);
        let state = u8::from_str_radix(fields.nth(1)?, 16).ok()?;
        let inode = fields.nth(5)?.parse().ok()?;
        Some(Self { at, state, inode })
    }

    /// Whether nobody else can have `end` meanwhile. IPv6 sockets on all addresses are of IPv4 too, as far as can be seen.
    fn keeps(&self, transport: Transport, end: SocketAddr) -> bool {
        let (ours, theirs) = (end.ip(), self.at.ip().to_canonical());
        let is_all_of_theirs = ours.is_unspecified() && ours.is_ipv4() == theirs.is_ipv4();
        self.at.port() == end.port()
            && (transport == Transport::Udp || self.state == LISTEN)
            && (ours == theirs || theirs.is_unspecified() || is_all_of_theirs)
    }
}

/// An address as the kernel writes it: words in the machine's own order.
fn address(hex: &str) -> Option<IpAddr> {
    let words = hex.as_bytes().chunks(8);
    let words = words.map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok());
    let words: Vec<_> = words.map(|word| word.map(u32::to_ne_bytes)).collect::<Option<_>>()?;
    match words[..] {
        [word] => Some(Ipv4Addr::from(word).into()),
        [_, _, _, _] => Some(Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn ourselves() -> String {
        let name = fs::read_to_string("/proc/self/comm").unwrap();
        format!("{} (process {})", name.trim_end(), std::process::id())
    }

    fn holder(transport: Transport, at: SocketAddr) -> Option<String> {
        Holder::of(transport, &at.into()).map(|holder| holder.to_string())
    }

    #[test]
    fn a_listener_is_found_by_every_end_that_it_keeps() {
        let (one, all) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("[::]:0").unwrap());
        let at = one.local_addr().unwrap();
        assert_eq!(holder(Transport::Tcp, at), Some(ourselves()));
        assert_eq!(holder(Transport::Tcp, (Ipv4Addr::UNSPECIFIED, at.port()).into()), Some(ourselves()));
        assert_eq!(holder(Transport::Tcp, ([127, 0, 0, 2], at.port()).into()), None);
        assert_eq!(holder(Transport::Udp, at), None);
        let port = all.local_addr().unwrap().port();
        for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            assert_eq!(holder(Transport::Tcp, (address, port).into()), Some(ourselves()));
        }
    }

    #[test]
    fn a_udp_socket_is_found() {
        let socket = UdpSocket::bind("[::1]:0").unwrap();
        assert_eq!(holder(Transport::Udp, socket.local_addr().unwrap()), Some(ourselves()));
    }

    #[test]
    fn a_line_of_the_kernels_table_is_understood() {
        if cfg!(target_endian = "big") {
            return;
        }
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 8211 1 0";
        let expected = Socket { at: "127.0.0.1:8080".parse().unwrap(), state: LISTEN, inode: 8211 };
        assert_eq!(Socket::parse(line), Some(expected));
        assert_eq!(address("00000000000000000000000001000000"), Some(Ipv6Addr::LOCALHOST.into()));
        assert_eq!(Socket::parse("  sl  local_address rem_address   st tx_queue rx_queue"), None);
    }
}
