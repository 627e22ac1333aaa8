// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packet sockets that behave like a TAP's queue: whole frames behind virtio-net headers, by `read` and `write`.
//!
//! # Sources
//! `packet(7)`; `linux/if_packet.h` of the kernel.
#![allow(unsafe_code, reason = "the addresses and options of packet sockets have no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Bytes asked for as each buffer; the kernel grants what `net.core.rmem_max` and `wmem_max` allow.
const BUFFER_BYTES: libc::c_int = 4 << 20;

/// Opens a packet socket on the interface with this index in the calling thread's network namespace.
///
/// Every frame that arrives there is read; nothing that leaves by it is. With a `fanout` number, all sockets of that
/// number share the frames, one flow to one socket.
///
/// # Errors
/// What the kernel says; `EPERM` without CAP_NET_RAW in the network namespace.
pub fn open(index: u32, fanout: Option<u16>) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // Protocol 0 receives nothing until the socket is bound.
    // SAFETY: socket touches no memory of ours.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
    // Without it we would read what we write, and take our own frames for the container's.
    set(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
    // Faster where known; a pure optimisation.
    drop(set(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1));
    for option in [libc::SO_RCVBUF, libc::SO_SNDBUF] {
        drop(set(&socket, libc::SOL_SOCKET, option, BUFFER_BYTES));
    }
    bind(&socket, index)?;
    if let Some(number) = fanout {
        let kind = libc::c_int::try_from(libc::PACKET_FANOUT_HASH).map_err(io::Error::other)?;
        set(&socket, libc::SOL_PACKET, libc::PACKET_FANOUT, libc::c_int::from(number) | kind << 16)?;
    }
    Ok(socket)
}

fn bind(socket: &OwnedFd, index: u32) -> io::Result<()> {
    // SAFETY: sockaddr_ll is plain data.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let number = |n: libc::c_int| u16::try_from(n).map_err(io::Error::other);
    address.sll_family = number(libc::AF_PACKET)?;
    address.sll_protocol = number(libc::ETH_P_ALL)?.to_be();
    address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    let len = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
    // SAFETY: the address is live and as long as stated.
    let rc = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn set(socket: &OwnedFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
    // SAFETY: the value is live and as long as stated.
    let rc = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), len) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
