// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is written as a text in a specification: read once, and written as it is read.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Cidr, Ipv6Cidr};

use crate::host::HostSocket;
use crate::netns::plan::NAT64_PREFIX;
use crate::publish::PortWish;
use crate::values;

/// A value, none at all, or whatever is best.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice<T> {
    /// Not said.
    #[default]
    Auto,
    /// `false`.
    None,
    /// This one.
    This(T),
}

impl<'de, T: Value> Deserialize<'de> for Choice<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Switch(bool),
            Text(String),
            Absent(()),
        }
        match Raw::deserialize(deserializer).map_err(|_| de::Error::custom("write true, false or a text"))? {
            Raw::Switch(false) => Ok(Self::None),
            Raw::Switch(true) => Ok(T::YES.map_or(Self::Auto, Self::This)),
            Raw::Text(text) => T::parse(&text).map(Self::This).map_err(de::Error::custom),
            Raw::Absent(()) => Ok(Self::Auto),
        }
    }
}

impl<T: Value> Serialize for Choice<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_none(),
            Self::None => serializer.serialize_bool(false),
            Self::This(value) => serializer.collect_str(&Text(value.clone())),
        }
    }
}

/// Something that is written as a text.
pub trait Value: Clone {
    /// What `true` means.
    const YES: Option<Self> = None;

    /// Reads it.
    ///
    /// # Errors
    /// What would be right.
    fn parse(text: &str) -> Result<Self, String>;

    /// Writes it as it is read.
    ///
    /// # Errors
    /// The formatter's.
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

/// A value that is read from a text, and written as one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text<T>(pub T);

impl<T: Value> fmt::Display for Text<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f)
    }
}

impl<'de, T: Value> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::parse(&String::deserialize(deserializer)?).map(Self).map_err(de::Error::custom)
    }
}

impl<T: Value> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

macro_rules! value {
    ($type:ty, $parse:path) => {
        impl Value for $type {
            fn parse(text: &str) -> Result<Self, String> {
                $parse(text)
            }

            fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

value!(Ipv4Cidr, values::cidr);
value!(Ipv6Cidr, values::ipv6_prefix);
value!(IpCidr, either_family);
value!(SocketAddr, values::nameserver);
value!(HostSocket, HostSocket::parse);
value!(PortWish, PortWish::parse);

fn either_family(text: &str) -> Result<IpCidr, String> {
    let ipv4 = values::cidr(text).map(IpCidr::from);
    ipv4.or_else(|wrong| values::ipv6_prefix(text).map(IpCidr::from).map_err(|_| wrong))
}

impl Value for EthernetAddress {
    fn parse(text: &str) -> Result<Self, String> {
        values::mac(text)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A prefix for IPv4 destinations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nat64(pub Ipv6Cidr);

impl Value for Nat64 {
    const YES: Option<Self> = Some(Self(NAT64_PREFIX));

    fn parse(text: &str) -> Result<Self, String> {
        values::nat64_prefix(text).map(Self)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A domain name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain(pub String);

impl Value for Domain {
    fn parse(text: &str) -> Result<Self, String> {
        values::domain(text).map(Self)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub usize);

impl Value for Size {
    fn parse(text: &str) -> Result<Self, String> {
        values::size(text).map(Self)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Read back, it is at least 1M.
        write!(f, "{}", self.0)
    }
}

/// The name of a network or a container: one label, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Name(String);

impl Name {
    /// Reads a name.
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        values::container(text).map(Self)
    }

    /// What the only network of a `wharf run` is called, and its sandbox.
    #[must_use]
    pub fn sandbox() -> Self {
        Self("sandbox".to_owned())
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}
