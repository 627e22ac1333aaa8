// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which work an interface leaves to whoever takes its frames.
//!
//! # Sources
//! `linux/ethtool.h` of the kernel: GSSET_INFO, GSTRINGS, SFEATURES.
#![allow(unsafe_code, reason = "ethtool is an ioctl on structures of variable length")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::net::{AddressFamily, SocketType};

use super::tun::request_for;

const GET_STRINGS: u32 = 0x1b;
const GET_STRING_COUNT: u32 = 0x37;
const SET_FEATURES: u32 = 0x3b;
/// The string set that names the features, in the order of their bits.
const FEATURES: u32 = 4;
const STRING_LEN: usize = 32;

/// Turns features of an interface off; names that this kernel does not know are passed over.
///
/// # Errors
/// What the kernel says; `EPERM` without CAP_NET_ADMIN in the network namespace.
pub fn turn_off(interface: &str, unwanted: impl Fn(&str) -> bool) -> io::Result<()> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    let names = feature_names(&socket, interface)?;
    let blocks = names.len().div_ceil(32);
    // struct ethtool_sfeatures: cmd, size, then { valid, requested } per 32 features.
    let mut request = vec![0_u32; 2 + 2 * blocks];
    let mut header = request.iter_mut();
    if let (Some(command), Some(size)) = (header.next(), header.next()) {
        *command = SET_FEATURES;
        *size = u32::try_from(blocks).map_err(io::Error::other)?;
    }
    for (bit, name) in names.iter().enumerate() {
        if let (true, Some(valid)) = (unwanted(name), request.get_mut(2 + bit / 32 * 2)) {
            *valid |= 1 << (bit % 32);
        }
    }
    ethtool(&socket, interface, &mut request)
}

fn feature_names(socket: impl AsFd, interface: &str) -> io::Result<Vec<String>> {
    // struct ethtool_sset_info: cmd, reserved, 64-bit mask of sets, one count per set asked for.
    let mut info = [GET_STRING_COUNT, 0, 0, 0, 0];
    let mask = (1_u64 << FEATURES).to_ne_bytes();
    let [a, b, c, d, e, f, g, h] = mask;
    info[2] = u32::from_ne_bytes([a, b, c, d]);
    info[3] = u32::from_ne_bytes([e, f, g, h]);
    ethtool(&socket, interface, &mut info)?;
    let count = usize::try_from(info[4]).map_err(io::Error::other)?.min(1024);
    // struct ethtool_gstrings: cmd, string_set, len, then the strings.
    let mut strings = vec![0_u32; 3 + count * STRING_LEN / 4];
    if let [command, set, len, ..] = strings.as_mut_slice() {
        *command = GET_STRINGS;
        *set = FEATURES;
        *len = info[4];
    }
    ethtool(&socket, interface, &mut strings)?;
    let bytes: Vec<u8> = strings.iter().skip(3).flat_map(|word| word.to_ne_bytes()).collect();
    let name = |string: &[u8]| {
        let end = string.iter().position(|byte| *byte == 0).unwrap_or(string.len());
        String::from_utf8_lossy(string.get(..end).unwrap_or(string)).into_owned()
    };
    Ok(bytes.chunks_exact(STRING_LEN).map(name).collect())
}

/// The buffer starts with the command; words keep it aligned as the kernel's structures are.
fn ethtool(socket: impl AsFd, interface: &str, buffer: &mut [u32]) -> io::Result<()> {
    let mut request = request_for(interface)?;
    request.ifr_ifru.ifru_data = buffer.as_mut_ptr().cast();
    // SAFETY: the request is live and points to a live buffer, whose length each command's own fields state.
    let rc = unsafe {
        libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCETHTOOL as libc::Ioctl, &raw mut request)
    };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
