// SPDX-License-Identifier: MIT OR Apache-2.0
//! The PROXY protocol, version 2: a header ahead of a stream that tells a server who its client is.
//!
//! # Sources
//! "The PROXY protocol" by Willy Tarreau, section 2.2 (binary header format).

use std::net::SocketAddr;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY: the stream is on behalf of somebody else.
const PROXY: u8 = 0x21;
/// Version 2, command LOCAL: "the receiver must accept this connection as valid and must use the real connection
/// endpoints".
const LOCAL: u8 = 0x20;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
/// "The sender should use this family when sending LOCAL commands".
const UNSPECIFIED: u8 = 0x00;

/// The header of a connection from `client` to `host`, which are of one family.
pub(super) fn header(client: SocketAddr, host: SocketAddr) -> Vec<u8> {
    let family = if client.is_ipv4() { TCP_OVER_IPV4 } else { TCP_OVER_IPV6 };
    let mut ends = Vec::new();
    for end in [client, host] {
        match end {
            SocketAddr::V4(end) => ends.extend(end.ip().octets()),
            SocketAddr::V6(end) => ends.extend(end.ip().octets()),
        }
    }
    for end in [client, host] {
        ends.extend(end.port().to_be_bytes());
    }
    let len = u16::try_from(ends.len()).unwrap_or(0).to_be_bytes();
    [SIGNATURE, &[PROXY, family], &len, &ends].concat()
}

/// The header of a connection from a client that has no address.
pub(super) fn header_of_nobody() -> Vec<u8> {
    [SIGNATURE, &[LOCAL, UNSPECIFIED], &[0, 0]].concat()
}

#[cfg(test)]
mod tests {
    fn header(client: &str, host: &str) -> Vec<u8> {
        super::header(client.parse().unwrap(), host.parse().unwrap())
    }

    const START: [u8; 13] = [0x0d, 0x0a, 0x0d, 0x0a, 0, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a, 0x21];

    #[test]
    fn both_ends_of_an_ipv4_connection_are_told() {
        let ends = [192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x34, 0x1f, 0x90];
        let expected = [&START[..], &[0x11, 0, 12], &ends].concat();
        assert_eq!(header("192.0.2.1:4660", "198.51.100.2:8080"), expected);
    }

    #[test]
    fn a_client_without_an_address_is_told_of_by_a_header_without_any() {
        assert_eq!(super::header_of_nobody(), [&START[..12], &[0x20, 0, 0, 0]].concat());
    }

    #[test]
    fn both_ends_of_an_ipv6_connection_are_told() {
        let told = header("[2001:db8::1]:4660", "[2001:db8::2]:8080");
        assert_eq!(told[..16], [&START[..], &[0x21, 0, 36]].concat());
        let (addresses, ports) = told[16..].split_at(32);
        assert_eq!((addresses[0], addresses[15], addresses[31]), (0x20, 1, 2));
        assert_eq!(ports, [0x12, 0x34, 0x1f, 0x90]);
    }
}
