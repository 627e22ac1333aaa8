// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel says went wrong, in the relay's terms.

use std::net::SocketAddr;

use rustix::io::Errno;
use wharf_stack::host::{Family, HostError, IcmpReport};

use crate::sys::socket;

pub(super) fn host_error(errno: Errno) -> HostError {
    match errno {
        Errno::CONNREFUSED | Errno::CONNRESET | Errno::PIPE => HostError::Refused,
        Errno::TIMEDOUT => HostError::TimedOut,
        Errno::HOSTUNREACH | Errno::HOSTDOWN => HostError::HostUnreachable,
        Errno::ACCESS | Errno::PERM => HostError::NotPermitted,
        Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL | Errno::AGAIN => {
            HostError::Exhausted
        }
        _ => HostError::NetworkUnreachable,
    }
}

pub(super) fn io_errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// What an entry of the error queue says in ICMP's terms; the host's own findings become the ICMP error that a router
/// in its place would send.
pub(super) fn report(error: &socket::QueuedError, family: Family) -> Option<IcmpReport> {
    let unspecified = match family {
        Family::V4 => SocketAddr::from(([0, 0, 0, 0], 0)),
        Family::V6 => SocketAddr::from(([0; 16], 0)),
    };
    let destination = error.destination.unwrap_or(unspecified);
    if error.is_icmp {
        return Some(IcmpReport {
            destination,
            offender: error.offender,
            family: if error.is_ipv6 { Family::V6 } else { Family::V4 },
            kind: error.kind,
            code: error.code,
            mtu: error.info,
            payload: error.payload,
        });
    }
    let errno = Errno::from_raw_os_error(error.errno);
    let (kind, code) = match (family, errno) {
        (Family::V4, Errno::NETUNREACH) => (3, 0),
        (Family::V4, Errno::HOSTUNREACH) => (3, 1),
        (Family::V4, Errno::MSGSIZE) => (3, 4),
        (Family::V4, Errno::ACCESS | Errno::PERM) => (3, 13),
        (Family::V6, Errno::NETUNREACH) => (1, 0),
        (Family::V6, Errno::HOSTUNREACH) => (1, 3),
        (Family::V6, Errno::MSGSIZE) => (2, 0),
        (Family::V6, Errno::ACCESS | Errno::PERM) => (1, 1),
        _ => return None,
    };
    Some(IcmpReport {
        destination,
        offender: None,
        family,
        kind,
        code,
        mtu: error.info,
        payload: error.payload,
    })
}
