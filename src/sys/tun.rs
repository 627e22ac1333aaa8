// SPDX-License-Identifier: MIT OR Apache-2.0
//! TAP devices: one descriptor per queue, every frame behind a virtio-net header.
//!
//! # Sources
//! `Documentation/networking/tuntap.rst` and `linux/if_tun.h` of the kernel.
#![allow(unsafe_code, reason = "the TUN driver is configured by ioctl")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use super::check;

/// Where the kernel offers TUN and TAP devices.
pub const DEVICE_PATH: &str = "/dev/net/tun";

/// Bytes of the virtio-net header in front of every frame.
pub const VNET_HEADER_LEN: i32 = 10;

/// The largest MTU a TAP takes: 65,535 minus an Ethernet header.
pub const MAX_MTU: usize = 65_521;

/// Which segmentation offloads a device carries beyond checksums, TSO4 and TSO6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Offloads {
    /// Checksums are left to the receiver.
    pub checksum: bool,
    /// TCP super-frames of both families.
    pub tcp: bool,
    /// TCP super-frames whose first segment carries CWR (ECN).
    pub tcp_ecn: bool,
    /// UDP super-frames of both families.
    pub udp: bool,
}

/// Creates the TAP `name`, or attaches to it, and returns one queue.
///
/// The device lives in the calling thread's network namespace and goes away with the last queue. `multi_queue` must be
/// the same for all queues of a device.
///
/// # Errors
/// What the kernel says: `ENOENT`, `ENODEV` or `EACCES` where there is no usable [`DEVICE_PATH`], `EPERM` without
/// CAP_NET_ADMIN in the network namespace.
pub fn open_queue(name: &str, multi_queue: bool) -> io::Result<OwnedFd> {
    attach(open_device()?, name, multi_queue)
}

/// Opens [`DEVICE_PATH`] for a queue in non-blocking mode.
///
/// # Errors
/// What `open(2)` says.
pub fn open_device() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DEVICE_PATH)
}

/// Makes an open [`DEVICE_PATH`] a queue of the TAP `name`, as [`open_queue`] does.
///
/// # Errors
/// What the kernel says: `EBUSY` when the device has its only queue already.
pub fn attach(file: File, name: &str, multi_queue: bool) -> io::Result<OwnedFd> {
    let mut request = request_for(name)?;
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::from_ne_bytes(u16::try_from(flags).map_err(io::Error::other)?.to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes one ifreq, which is live.
    let rc = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    check(rc)?;
    // The kernel's default happens to be 10 too, but a device made by somebody else may differ.
    set_vnet_header_len(&file)?;
    Ok(file.into())
}

/// What a queue belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The device's name.
    pub name: String,
    /// It is a TAP; otherwise a TUN, which has no Ethernet.
    pub is_tap: bool,
    /// Frames have a packet information header in front.
    pub has_packet_info: bool,
    /// Frames have a virtio-net header in front.
    pub has_vnet_header: bool,
}

/// What an open queue belongs to.
///
/// # Errors
/// What the kernel says; `ENOTTY` or `EBADFD` when it is no queue.
pub fn interface(queue: impl AsFd) -> io::Result<Interface> {
    let mut request = described(&queue)?;
    // SAFETY: the kernel has filled the flags in.
    let mut flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
    if flags & libc::IFF_TAP != 0 && flags & libc::IFF_NO_PI != 0 {
        // The same bit says that there is no filter (IFF_NOFILTER): with one, it says what we ask.
        filter_nothing(&queue)?;
        let told = described(&queue);
        unfilter(&queue)?;
        request = told?;
        // SAFETY: as above.
        flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
    }
    let name = request.ifr_name.iter().map(|byte| byte.to_ne_bytes()[0]).take_while(|&byte| byte != 0);
    Ok(Interface {
        name: String::from_utf8_lossy(&name.collect::<Vec<_>>()).into_owned(),
        is_tap: flags & libc::IFF_TAP != 0,
        has_packet_info: flags & libc::IFF_NO_PI == 0,
        has_vnet_header: flags & libc::IFF_VNET_HDR != 0,
    })
}

fn described(queue: impl AsFd) -> io::Result<libc::ifreq> {
    let mut request = request_for("")?;
    // SAFETY: TUNGETIFF writes one ifreq, which is live.
    check(unsafe { libc::ioctl(queue.as_fd().as_raw_fd(), libc::TUNGETIFF, &raw mut request) })?;
    Ok(request)
}

/// Attaches a socket filter that lets everything pass to a TAP that has none.
fn filter_nothing(queue: impl AsFd) -> io::Result<()> {
    let code = u16::try_from(libc::BPF_RET | libc::BPF_K).map_err(io::Error::other)?;
    let mut program = [libc::sock_filter { code, jt: 0, jf: 0, k: u32::MAX }];
    let program = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    // SAFETY: TUNATTACHFILTER reads one program, which is live with its one instruction.
    check(unsafe { libc::ioctl(queue.as_fd().as_raw_fd(), libc::TUNATTACHFILTER, &raw const program) })
}

fn unfilter(queue: impl AsFd) -> io::Result<()> {
    let nothing = libc::sock_fprog { len: 0, filter: std::ptr::null_mut() };
    // SAFETY: TUNDETACHFILTER reads nothing, and its argument is live.
    check(unsafe { libc::ioctl(queue.as_fd().as_raw_fd(), libc::TUNDETACHFILTER, &raw const nothing) })
}

/// The MAC address that the container's side of a TAP has.
///
/// # Errors
/// What the kernel says.
pub fn mac(queue: impl AsFd) -> io::Result<[u8; 6]> {
    let mut request = request_for("")?;
    // SAFETY: SIOCGIFHWADDR writes one ifreq, which is live.
    check(unsafe {
        libc::ioctl(queue.as_fd().as_raw_fd(), libc::SIOCGIFHWADDR as libc::Ioctl, &raw mut request)
    })?;
    // SAFETY: the kernel has filled the address in.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr }.sa_data;
    let [a, b, c, d, e, f, ..] = address.map(|byte| byte.to_ne_bytes()[0]);
    Ok([a, b, c, d, e, f])
}

/// Says how long the virtio-net header in front of every frame is: [`VNET_HEADER_LEN`].
///
/// # Errors
/// What the kernel says.
pub fn set_vnet_header_len(queue: impl AsFd) -> io::Result<()> {
    let len = VNET_HEADER_LEN;
    // SAFETY: TUNSETVNETHDRSZ reads one int, which is live.
    check(unsafe { libc::ioctl(queue.as_fd().as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len) })
}

/// Lets the device outlive its queues; it goes with its network namespace.
///
/// # Errors
/// What the kernel says.
pub fn make_persistent(queue: impl AsFd) -> io::Result<()> {
    let on: libc::c_ulong = 1;
    // SAFETY: TUNSETPERSIST takes its argument by value.
    check(unsafe { libc::ioctl(queue.as_fd().as_raw_fd(), libc::TUNSETPERSIST, on) })
}

/// Offers as many offloads as the kernel takes; `udp` asks for UDP segmentation too. Returns the accepted set.
///
/// The mask belongs to the device, not to the queue: one call is enough.
///
/// # Errors
/// The kernel refused even an empty set.
pub fn set_offloads(queue: impl AsFd, udp: bool) -> io::Result<Offloads> {
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    let full = Offloads { checksum: true, tcp: true, tcp_ecn: true, udp: true };
    let tries = [
        (tcp | libc::TUN_F_TSO_ECN | libc::TUN_F_USO4 | libc::TUN_F_USO6, full),
        (tcp | libc::TUN_F_TSO_ECN, Offloads { udp: false, ..full }),
        (tcp, Offloads { udp: false, tcp_ecn: false, ..full }),
        (libc::TUN_F_CSUM, Offloads { checksum: true, ..Offloads::default() }),
    ];
    for (mask, set) in tries.into_iter().skip(usize::from(!udp)) {
        if set_offload_mask(&queue, mask).is_ok() {
            return Ok(set);
        }
    }
    clear_offloads(&queue)?;
    Ok(Offloads::default())
}

/// Whether the kernel takes UDP super-frames from us (Linux 6.2). The device itself is left to send us none.
///
/// # Errors
/// As of [`set_offloads`].
pub fn takes_udp_segmentation(queue: impl AsFd) -> io::Result<bool> {
    let takes = set_offloads(&queue, true)?.udp;
    set_offloads(queue, false)?;
    Ok(takes)
}

/// Takes back what [`set_offloads`] offered. A device that outlives its queue keeps the offer, and the next program that
/// attaches would be given unfinished checksums without knowing.
///
/// # Errors
/// What the kernel says.
pub fn clear_offloads(queue: impl AsFd) -> io::Result<()> {
    set_offload_mask(queue, 0)
}

fn set_offload_mask(queue: impl AsFd, mask: libc::c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    check(unsafe { libc::ioctl(queue.as_fd().as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(mask)) })
}

pub(super) fn request_for(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: ifreq is plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "interface names have at most 15 bytes"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok(request)
}

/// Whether this process may open [`DEVICE_PATH`]; says why not.
///
/// # Errors
/// What `open(2)` says.
pub fn probe() -> io::Result<()> {
    File::options().read(true).write(true).open(DEVICE_PATH).map(drop)
}
