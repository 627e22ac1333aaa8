// SPDX-License-Identifier: MIT OR Apache-2.0
//! Socket calls that need more than the crates offer: error queues, hop limits, fragmentation and the host's own addresses of
//! datagrams, segment sizes of streams, interfaces.
//!
//! # Sources
//! ip(7), ipv6(7) (`IP_RECVERR`, `IP_RECVTTL`, `IP_MTU_DISCOVER`, `IP_PKTINFO`), recv(2) (`MSG_ERRQUEUE`), tcp(7)
//! (`TCP_MAXSEG`), socket(7) (`SO_BINDTODEVICE`), cmsg(3).
#![allow(unsafe_code, reason = "system calls")]
#![allow(clippy::cast_possible_truncation, reason = "sizes of small C structures")]

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Room for the few small control messages we ask for.
#[repr(align(8))]
struct ControlBuffer([u8; 256]);

/// An entry of a socket's error queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuedError {
    /// Where the packet was going.
    pub destination: Option<SocketAddr>,
    /// `errno` of the error.
    pub errno: i32,
    /// An ICMP message (either family), rather than the host itself.
    pub is_icmp: bool,
    /// It is about IPv6.
    pub is_ipv6: bool,
    /// ICMP type; 0 when the host itself found out.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// The MTU, where the error names one.
    pub info: u32,
    /// Who sent the ICMP message.
    pub offender: Option<IpAddr>,
    /// The first bytes of what the packet carried; zero where there were fewer.
    pub payload: [u8; 8],
}

/// What came of receiving a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceivedDatagram {
    /// Payload bytes.
    pub len: usize,
    /// Its sender.
    pub from: SocketAddr,
    /// The host's address that it came to, if that was asked for.
    pub to: Option<IpAddr>,
    /// TTL or hop limit it arrived with, if the kernel said.
    pub hop_limit: Option<u8>,
}

fn set_int(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` lives across the call and `len` is its size.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Payload bytes of the segments that a connection's data is cut into now (`TCP_MAXSEG`), options not counted.
///
/// # Errors
/// What the kernel said.
pub fn segment_size(fd: BorrowedFd<'_>) -> io::Result<u16> {
    let mut value: i32 = 0;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` lives across the call and `len` is its size.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_MAXSEG,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    u16::try_from(value).map_err(io::Error::other)
}

/// Asks for ICMP errors in the socket's error queue, or no longer.
///
/// # Errors
/// What the kernel said.
pub fn queue_errors(fd: BorrowedFd<'_>, is_ipv6: bool, on: bool) -> io::Result<()> {
    if is_ipv6 {
        set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, i32::from(on))
    } else {
        set_int(fd, libc::IPPROTO_IP, libc::IP_RECVERR, i32::from(on))
    }
}

/// Asks for the hop limit of every datagram.
///
/// # Errors
/// What the kernel said.
pub fn report_hop_limits(fd: BorrowedFd<'_>, is_ipv6: bool) -> io::Result<()> {
    if is_ipv6 {
        set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1)
    } else {
        set_int(fd, libc::IPPROTO_IP, libc::IP_RECVTTL, 1)
    }
}

/// Asks for the host's address that every datagram came to.
///
/// # Errors
/// What the kernel said.
pub fn report_own_addresses(fd: BorrowedFd<'_>, is_ipv6: bool) -> io::Result<()> {
    if is_ipv6 {
        set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
    } else {
        set_int(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
    }
}

/// Sets the hop limit of what the socket sends; -1 is the host's default.
///
/// # Errors
/// What the kernel said.
pub fn set_hop_limit(fd: BorrowedFd<'_>, is_ipv6: bool, hop_limit: i32) -> io::Result<()> {
    if is_ipv6 {
        set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, hop_limit)
    } else {
        set_int(fd, libc::IPPROTO_IP, libc::IP_TTL, hop_limit)
    }
}

/// Leaves the choice of a port to `connect`, which knows the destination, where the socket is bound to an address alone.
///
/// # Errors
/// What the kernel said.
pub fn choose_port_at_connect(fd: BorrowedFd<'_>) -> io::Result<()> {
    // For IPv6 sockets too.
    set_int(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// Lets a socket use one interface only. Everybody may do so, once for each socket (Linux 5.7).
///
/// # Errors
/// `ENODEV` when there is no such interface.
pub fn bind_to_interface(fd: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let len = libc::socklen_t::try_from(name.len()).map_err(io::Error::other)?;
    // SAFETY: the name is live and as long as stated; the kernel takes it without a NUL at its end.
    let rc = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, name.as_ptr().cast(), len)
    };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Forbids or allows that what the socket sends is fragmented, here and, in IPv4, by routers.
///
/// Where it is forbidden, what is larger than the known path MTU is refused with `EMSGSIZE` and the MTU in the error
/// queue.
///
/// # Errors
/// What the kernel said.
pub fn set_dont_fragment(fd: BorrowedFd<'_>, is_ipv6: bool, on: bool) -> io::Result<()> {
    if is_ipv6 {
        let how = if on { libc::IPV6_PMTUDISC_DO } else { libc::IPV6_PMTUDISC_DONT };
        set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, how)
    } else {
        let how = if on { libc::IP_PMTUDISC_DO } else { libc::IP_PMTUDISC_DONT };
        set_int(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, how)
    }
}

fn address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that this is a sockaddr_in, which fits into the storage.
            let v4 = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that this is a sockaddr_in6, which fits into the storage.
            let v6 = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// The outcome of one `recvmsg`: bytes, sender, and the control messages through a visitor.
fn receive_message(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: i32,
    mut visit: impl FnMut(i32, i32, &[u8]),
) -> io::Result<(usize, Option<SocketAddr>)> {
    let mut control = ControlBuffer([0; 256]);
    // SAFETY: all-zero is a valid value of these plain C structures.
    let (mut name, mut message) =
        unsafe { (mem::zeroed::<libc::sockaddr_storage>(), mem::zeroed::<libc::msghdr>()) };
    let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: every pointer in `message` names a live buffer of the stated length.
    let received = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags) };
    let len = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: `message` was filled in by the kernel; its control buffer is `control`.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: a header that CMSG_FIRSTHDR or CMSG_NXTHDR returned lies inside the control buffer, and so does
        // its data of `cmsg_len` bytes less the header.
        let (level, kind, data) = unsafe {
            let start = libc::CMSG_DATA(header);
            let overhead = start.offset_from(header.cast()).unsigned_abs();
            let data =
                std::slice::from_raw_parts(start, ((*header).cmsg_len as usize).saturating_sub(overhead));
            ((*header).cmsg_level, (*header).cmsg_type, data)
        };
        visit(level, kind, data);
        // SAFETY: as above.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Ok((len, address(&name)))
}

/// Receives one datagram with its sender and hop limit.
///
/// # Errors
/// What the kernel said; an ICMP error of an earlier datagram may come this way.
pub fn receive_datagram(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<ReceivedDatagram> {
    let (mut hop_limit, mut to) = (None, None);
    let (len, from) =
        receive_message(fd, buffer, libc::MSG_DONTWAIT, |level, kind, data| match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                let value = data.first_chunk::<4>().map(|bytes| i32::from_ne_bytes(*bytes));
                hop_limit = value.and_then(|value| u8::try_from(value).ok());
            }
            // `struct in_pktinfo`: the interface, our address, the header's, which is a group's at times.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let own = data.get(4..).and_then(|data| data.first_chunk::<4>());
                to = own.map(|&octets| Ipv4Addr::from(octets).into());
            }
            // `struct in6_pktinfo`: the header's address, the interface.
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let header = data.first_chunk::<16>().map(|&octets| Ipv6Addr::from(octets));
                to = header.filter(|address| !address.is_multicast()).map(IpAddr::from);
            }
            _ => {}
        })?;
    let from = from.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(ReceivedDatagram { len, from, to, hop_limit })
}

/// Sends datagrams: as many of `segment` bytes as `data` has, the last of which may be shorter; without `segment` one. They
/// leave from an address of the host's if one is given.
///
/// # Errors
/// What the kernel said; it may be about an earlier datagram. `EINVAL`, `EIO` or `EMSGSIZE` when it cannot segment here.
pub fn send_datagrams(
    fd: BorrowedFd<'_>,
    data: &[u8],
    segment: Option<u16>,
    to: SocketAddr,
    from: Option<IpAddr>,
) -> io::Result<()> {
    let mut controls = Controls::new();
    if let Some(segment) = segment {
        controls.push((libc::SOL_UDP, libc::UDP_SEGMENT), segment);
    }
    match from {
        None => {}
        Some(IpAddr::V4(from)) => {
            let spec_dst = libc::in_addr { s_addr: u32::from_ne_bytes(from.octets()) };
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: spec_dst,
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            controls.push((libc::IPPROTO_IP, libc::IP_PKTINFO), info);
        }
        Some(IpAddr::V6(from)) => {
            let ipi6_addr = libc::in6_addr { s6_addr: from.octets() };
            let info = libc::in6_pktinfo { ipi6_addr, ipi6_ifindex: 0 };
            controls.push((libc::IPPROTO_IPV6, libc::IPV6_PKTINFO), info);
        }
    }
    send_message(fd, data, to, &controls)
}

/// Control messages of a send, one behind the other.
struct Controls {
    buffer: ControlBuffer,
    len: usize,
}

impl Controls {
    fn new() -> Self {
        Self { buffer: ControlBuffer([0; 256]), len: 0 }
    }

    /// Adds a message whose data is `data`; there is room for a few small ones.
    fn push<T: Copy>(&mut self, (level, kind): (i32, i32), data: T) {
        // SAFETY: only computes.
        let (space, len) =
            unsafe { (libc::CMSG_SPACE(size_of::<T>() as u32), libc::CMSG_LEN(size_of::<T>() as u32)) };
        assert!(self.len + space as usize <= self.buffer.0.len(), "few control messages");
        // SAFETY: the buffer is aligned for headers, as is every multiple of CMSG_SPACE, and has `space` bytes from here
        // on: room for a header and for `data` behind it.
        unsafe {
            let header = self.buffer.0.as_mut_ptr().add(self.len).cast::<libc::cmsghdr>();
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = len as _;
            libc::CMSG_DATA(header).cast::<T>().write_unaligned(data);
        }
        self.len += space as usize;
    }
}

fn send_message(fd: BorrowedFd<'_>, data: &[u8], to: SocketAddr, controls: &Controls) -> io::Result<()> {
    // SAFETY: all-zero is a valid value of these plain C structures.
    let (mut name, mut message) =
        unsafe { (mem::zeroed::<libc::sockaddr_storage>(), mem::zeroed::<libc::msghdr>()) };
    message.msg_namelen = write_address(&mut name, to);
    message.msg_name = (&raw mut name).cast();
    let mut iov = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = controls.buffer.0.as_ptr().cast_mut().cast();
    message.msg_controllen = controls.len as _;
    // SAFETY: the kernel only reads what `message` names, all of which lives across the call.
    let sent =
        unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Writes a socket address as the kernel reads it. Returns its length.
fn write_address(storage: &mut libc::sockaddr_storage, address: SocketAddr) -> libc::socklen_t {
    let storage = (&raw mut *storage).cast::<u8>();
    match address {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as _,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: a sockaddr_storage has room for every address, and is aligned for it.
            unsafe { storage.cast::<libc::sockaddr_in>().write(raw) };
            size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as _,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { storage.cast::<libc::sockaddr_in6>().write(raw) };
            size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}

/// Takes the oldest entry off the socket's error queue.
///
/// # Errors
/// `WouldBlock` when it is empty.
pub fn receive_error(fd: BorrowedFd<'_>) -> io::Result<Option<QueuedError>> {
    const ORIGIN_ICMP: u8 = 2;
    const ORIGIN_ICMP6: u8 = 3;
    /// `struct sock_extended_err` without its trailing address.
    const FIXED: usize = 16;
    let mut found = None;
    let mut payload = [0; 8];
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    let (_, destination) = receive_message(fd, &mut payload, flags, |level, kind, data| {
        let is_ipv6 = (level, kind) == (libc::IPPROTO_IPV6, libc::IPV6_RECVERR);
        if !is_ipv6 && (level, kind) != (libc::IPPROTO_IP, libc::IP_RECVERR) {
            return;
        }
        let Some(&[e0, e1, e2, e3, origin, icmp_kind, code, _, i0, i1, i2, i3, _, _, _, _]) =
            data.first_chunk::<FIXED>()
        else {
            return;
        };
        found = Some(QueuedError {
            destination: None,
            errno: i32::from_ne_bytes([e0, e1, e2, e3]),
            is_icmp: matches!(origin, ORIGIN_ICMP | ORIGIN_ICMP6),
            is_ipv6,
            kind: icmp_kind,
            code,
            info: u32::from_ne_bytes([i0, i1, i2, i3]),
            offender: data.get(FIXED..).and_then(offender),
            payload: [0; 8],
        });
    })?;
    Ok(found.map(|error: QueuedError| QueuedError { destination, payload, ..error }))
}

/// Reads the socket address behind a `sock_extended_err` (`SO_EE_OFFENDER`).
fn offender(bytes: &[u8]) -> Option<IpAddr> {
    let &[f0, f1, ..] = bytes else { return None };
    match i32::from(u16::from_ne_bytes([f0, f1])) {
        libc::AF_INET => {
            let octets: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            Some(Ipv4Addr::from(octets).into())
        }
        libc::AF_INET6 => {
            let octets: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}
