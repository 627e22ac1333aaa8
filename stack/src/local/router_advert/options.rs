// SPDX-License-Identifier: MIT OR Apache-2.0
//! Router Advertisement options that smoltcp does not know, in its grammar: a `parse` from and an `emit` into
//! [`NdiscOption`].
//!
//! # Sources
//! RFC 4191 section 2.3 (route information), RFC 8106 section 5 (RDNSS, DNSSL), RFC 8781 section 4 (PREF64).

use core::net::Ipv6Addr;

use smoltcp::wire::{Ipv6Cidr, NdiscOption, NdiscOptionType};

use crate::local::name;

const ROUTE_INFO: u8 = 24;
const RDNSS: u8 = 25;
const DNSSL: u8 = 31;
const PREF64: u8 = 38;
/// Bytes before the addresses or names: type, length, reserved, lifetime.
const HEADER_LEN: usize = 8;
/// RFC 8781 section 4: prefix lengths by their code.
const PREFIX_LENS: [u8; 6] = [96, 64, 56, 48, 40, 32];

/// A Router Advertisement option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouterOption {
    /// Recursive DNS servers.
    Rdnss {
        /// Seconds from now.
        lifetime_secs: u32,
        /// Their addresses, one at least.
        servers: Vec<Ipv6Addr>,
    },
    /// DNS search list.
    Dnssl {
        /// Seconds from now.
        lifetime_secs: u32,
        /// The names as labels, one after the other.
        names: Vec<u8>,
    },
    /// A prefix that the router leads to, with medium preference.
    RouteInfo {
        /// Seconds from now; 0 takes the route away.
        lifetime_secs: u32,
        /// The prefix.
        prefix: Ipv6Cidr,
    },
    /// The prefix under which IPv4 addresses are reached.
    Pref64 {
        /// Seconds from now, at most 65,528; rounded down to a multiple of 8.
        lifetime_secs: u32,
        /// The prefix.
        prefix: Ipv6Cidr,
    },
}

impl RouterOption {
    /// The option, if it is one of these and well formed.
    #[must_use]
    pub fn parse(option: &NdiscOption<&[u8]>) -> Option<Self> {
        let NdiscOptionType::Unknown(kind) = option.option_type() else { return None };
        let data = option.data();
        match kind {
            // RFC 8106 section 5.1: "The minimum value [of Length] is 3 if one IPv6 address is contained".
            RDNSS => {
                let (lifetime_secs, addresses) = split_lifetime(data)?;
                let (chunks, rest) = addresses.as_chunks::<16>();
                let servers: Vec<Ipv6Addr> = chunks.iter().map(|&octets| Ipv6Addr::from(octets)).collect();
                (rest.is_empty() && !servers.is_empty()).then_some(Self::Rdnss { lifetime_secs, servers })
            }
            DNSSL => {
                let (lifetime_secs, names) = split_lifetime(data)?;
                let names = trim_names(names)?;
                Some(Self::Dnssl { lifetime_secs, names: names.to_vec() })
            }
            PREF64 => {
                let (&[high, low], rest) = data.split_first_chunk::<2>()?;
                let field = u16::from_be_bytes([high, low]);
                let prefix: [u8; 12] = rest.try_into().ok()?;
                let len = *PREFIX_LENS.get(usize::from(field & 7))?;
                let mut octets = [0; 16];
                octets[..12].copy_from_slice(&prefix);
                let prefix = Ipv6Cidr::new(Ipv6Addr::from(octets), len);
                Some(Self::Pref64 { lifetime_secs: u32::from(field & !7), prefix })
            }
            ROUTE_INFO => {
                let (&[len, _, a, b, c, d], rest) = data.split_first_chunk::<6>()?;
                let mut octets = [0; 16];
                octets.get_mut(..rest.len())?.copy_from_slice(rest);
                let is_whole = len <= 128 && rest.len() >= usize::from(len.div_ceil(8));
                let lifetime_secs = u32::from_be_bytes([a, b, c, d]);
                // RFC 4191 section 2.3: bits behind the prefix length "MUST be initialized to zero by the sender and ignored
                // by the receiver".
                let kept = u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0);
                let network = Ipv6Addr::from(u128::from_be_bytes(octets) & kept);
                is_whole.then(|| Self::RouteInfo { lifetime_secs, prefix: Ipv6Cidr::new(network, len) })
            }
            _ => None,
        }
    }

    /// Bytes of the option, a multiple of 8.
    #[must_use]
    pub fn buffer_len(&self) -> usize {
        match self {
            Self::Rdnss { servers, .. } => HEADER_LEN + 16 * servers.len(),
            Self::Dnssl { names, .. } => (HEADER_LEN + names.len()).next_multiple_of(8),
            Self::Pref64 { .. } => 16,
            Self::RouteInfo { prefix, .. } => HEADER_LEN + route_prefix_len(*prefix),
        }
    }

    /// Writes the option into a buffer of [`RouterOption::buffer_len`] bytes.
    pub fn emit(&self, buffer: &mut [u8]) {
        let Ok(units) = u8::try_from(self.buffer_len() / 8) else { return };
        if buffer.len() < self.buffer_len() {
            return;
        }
        let mut option = NdiscOption::new_unchecked(buffer);
        let kind = match self {
            Self::Rdnss { .. } => RDNSS,
            Self::Dnssl { .. } => DNSSL,
            Self::Pref64 { .. } => PREF64,
            Self::RouteInfo { .. } => ROUTE_INFO,
        };
        option.set_option_type(NdiscOptionType::Unknown(kind));
        option.set_data_len(units);
        let data = option.data_mut();
        data.fill(0);
        match self {
            Self::Rdnss { lifetime_secs, servers } => {
                let addresses: Vec<u8> = servers.iter().flat_map(|server| server.octets()).collect();
                put(data, 2, &lifetime_secs.to_be_bytes());
                put(data, 6, &addresses);
            }
            Self::Dnssl { lifetime_secs, names } => {
                put(data, 2, &lifetime_secs.to_be_bytes());
                put(data, 6, names);
            }
            Self::RouteInfo { lifetime_secs, prefix } => {
                let octets = prefix.address().octets();
                put(data, 0, &[prefix.prefix_len()]);
                put(data, 2, &lifetime_secs.to_be_bytes());
                put(data, 6, octets.get(..route_prefix_len(*prefix)).unwrap_or_default());
            }
            Self::Pref64 { lifetime_secs, prefix } => {
                let code = PREFIX_LENS.iter().position(|&len| len == prefix.prefix_len()).unwrap_or(0);
                let lifetime = u16::try_from((*lifetime_secs).min(65_528)).unwrap_or(0) & !7;
                put(data, 0, &(lifetime | u16::try_from(code).unwrap_or(0)).to_be_bytes());
                put(data, 2, prefix.address().octets().first_chunk::<12>().unwrap_or(&[0; 12]));
            }
        }
    }
}

/// RFC 4191 section 2.3: the bytes of the prefix come in blocks of 8, as many as it needs.
fn route_prefix_len(prefix: Ipv6Cidr) -> usize {
    usize::from(prefix.prefix_len().div_ceil(64)) * 8
}

/// Reserved bytes and lifetime off the front.
fn split_lifetime(data: &[u8]) -> Option<(u32, &[u8])> {
    let (&[_, _, a, b, c, d], rest) = data.split_first_chunk::<6>()?;
    Some((u32::from_be_bytes([a, b, c, d]), rest))
}

/// The names without the padding behind them; `None` when a label runs over the end.
fn trim_names(bytes: &[u8]) -> Option<&[u8]> {
    let mut at = 0;
    let mut end = 0;
    while let Some(&len) = bytes.get(at) {
        if len == 0 && at == end {
            break;
        }
        at += 1 + usize::from(len);
        if len == 0 {
            if at - end > name::MAX_NAME_LEN {
                return None;
            }
            end = at;
        }
    }
    // RFC 8106 section 5.2: the names end where padding begins, and each ends with an empty label.
    (at == end || bytes.get(at) == Some(&0)).then(|| bytes.get(..end))?
}

fn put(data: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(room) = data.get_mut(at..at + bytes.len()) {
        room.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn emitted(option: &RouterOption) -> Vec<u8> {
        let mut bytes = vec![0xee; option.buffer_len()];
        option.emit(&mut bytes);
        let view = NdiscOption::new_checked(&bytes[..]).unwrap();
        assert_eq!(RouterOption::parse(&view).as_ref(), Some(option));
        bytes
    }

    #[test]
    fn rdnss_is_written_as_rfc_8106_draws_it() {
        let option =
            RouterOption::Rdnss { lifetime_secs: 1800, servers: vec!["2001:db8::53".parse().unwrap()] };
        let expected = [25, 3, 0, 0, 0, 0, 7, 8, 0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53];
        assert_eq!(emitted(&option), expected);
    }

    #[test]
    fn dnssl_is_padded_with_zeros_to_eight_bytes() {
        let names = b"\x03eng\x07example\x00\x03lab\x00".to_vec();
        let option = RouterOption::Dnssl { lifetime_secs: 1800, names };
        let mut expected = vec![31, 4, 0, 0, 0, 0, 7, 8];
        expected.extend_from_slice(b"\x03eng\x07example\x00\x03lab\x00");
        expected.extend_from_slice(&[0; 6]);
        assert_eq!(emitted(&option), expected);
    }

    #[test]
    fn pref64_is_written_as_rfc_8781_draws_it() {
        let prefix = Ipv6Cidr::new("64:ff9b:1::".parse().unwrap(), 96);
        let option = RouterOption::Pref64 { lifetime_secs: 1800, prefix };
        assert_eq!(emitted(&option), [38, 2, 7, 8, 0, 0x64, 0xff, 0x9b, 0, 1, 0, 0, 0, 0, 0, 0]);
        let prefix = Ipv6Cidr::new("2001:db8:64::".parse().unwrap(), 48);
        let option = RouterOption::Pref64 { lifetime_secs: 65_528, prefix };
        assert_eq!(emitted(&option)[..4], [38, 2, 0xff, 0xfb]);
    }

    #[test]
    fn route_information_is_read_as_it_was_written() {
        for (prefix, len) in
            [("::/0", 8), ("2001:db8::/32", 16), ("2001:db8:0:1::/64", 16), ("2001:db8::/65", 24)]
        {
            let option = RouterOption::RouteInfo { lifetime_secs: 1800, prefix: prefix.parse().unwrap() };
            assert_eq!(emitted(&option).len(), len, "RFC 4191 section 2.3: {prefix}");
        }
    }

    #[test]
    fn malformed_options_are_no_options() {
        let cases: [&[u8]; 6] = [
            &[24, 1, 64, 0, 0, 0, 7, 8],
            &[24, 3, 129, 0, 0, 0, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8],
            &[25, 1, 0, 0, 0, 0, 7, 8],
            &[25, 2, 0, 0, 0, 0, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8],
            &[31, 2, 0, 0, 0, 0, 7, 8, 9, b'a', b'a', b'a', b'a', b'a', b'a', b'a'],
            &[38, 2, 7, 0x0e, 0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0],
        ];
        for bytes in cases {
            assert_eq!(RouterOption::parse(&NdiscOption::new_checked(bytes).unwrap()), None, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_parsing_panic(kind in prop_oneof![Just(24u8), Just(25), Just(31), Just(38)], bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() { *first = kind; }
            if let Ok(view) = NdiscOption::new_checked(&bytes[..])
                && let Some(option) = RouterOption::parse(&view) {
                let mut again = vec![0; option.buffer_len()];
                option.emit(&mut again);
                let reparsed = RouterOption::parse(&NdiscOption::new_checked(&again[..]).unwrap());
                prop_assert_eq!(reparsed, Some(option));
            }
        }
    }
}
