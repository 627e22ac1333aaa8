// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a network is to be: as a table of `wharf.toml`, and as JSON through the API.
//!
//! ```toml
//! version = 1
//!
//! [networks.default]
//! publish = ["8080:web:80"]
//! containers.web = { ipv4 = "10.0.2.10", aliases = ["www"] }
//!
//! [networks.backend]
//! ipv4 = "10.7.0.0/24"
//! ipv6 = false
//! internal = true
//! ```

mod text;

pub use self::text::{Choice, Domain, Name, Nat64, Size, Text, Value};
pub use crate::publish::{PortWish, Wished};

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use serde::{Deserialize, Serialize};
use smoltcp::wire::{EthernetAddress, Ipv4Cidr, Ipv6Cidr};
use wharf_stack::{Zone, ZoneError};
use wharf_switch::{Membership, Vlan};

use super::model::Allow;
use crate::dataplane::WORKERS;
use crate::host::HostSocket;
use crate::netns::plan::{NAT64_PREFIX, overlap};
use crate::netns::{DEFAULT_MTU, MIN_MTU_IPV6};
use crate::sys::tun::MAX_MTU;

/// The version of the file that this program reads.
const VERSION: u32 = 1;
/// The largest file that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Of the format: 1.
    pub version: u32,
    /// Networks by their names.
    #[serde(default)]
    pub networks: BTreeMap<Name, NetworkSpec>,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is wrong; the text shows the line.
    #[error("{path}: {text}")]
    Wrong {
        /// The file.
        path: String,
        /// What is wrong.
        text: String,
    },
}

impl File {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or does not mean anything.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        use std::io::Read as _;
        let name = || path.display().to_string();
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_FILE_BYTES).read_to_string(&mut text))
            .map_err(|source| FileError::Unreadable { path: name(), source })?;
        Self::parse(&text).map_err(|text| FileError::Wrong { path: name(), text })
    }

    /// Parses a file's text.
    ///
    /// # Errors
    /// What is wrong, with the line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: Self = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        if file.version != VERSION {
            return Err(format!("version is {}, and this wharf reads version = {VERSION}", file.version));
        }
        for (name, spec) in &file.networks {
            spec.check(name).map_err(|error| format!("network {name}: {error}"))?;
        }
        file.check_external()?;
        Ok(file)
    }

    /// Whether every external address is that of one container.
    fn check_external(&self) -> Result<(), String> {
        let mut owners = BTreeMap::new();
        for (network, spec) in &self.networks {
            for (name, container) in &spec.containers {
                for address in container.external() {
                    if let Some((other_network, other)) = owners.insert(address, (network, name)) {
                        return Err(format!(
                            "network {network}: container {name}: {address} is the external address of {other} on network \
                             {other_network}"
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkSpec {
    /// `"10.0.2.0/24"`; `false` for none. By default the first free one.
    pub ipv4: Choice<Ipv4Cidr>,
    /// `"fd00:1:2:3::/64"`; `false` for none. By default a random one, which stays.
    pub ipv6: Choice<Ipv6Cidr>,
    /// `true` or a prefix: IPv4 destinations from IPv6. By default on where there is no IPv4.
    pub nat64: Choice<Nat64>,
    /// Nameservers instead of the host's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<Text<SocketAddr>>,
    /// The gateway keeps answers for as long as they hold.
    pub dns_cache: bool,
    /// The domain in which its containers find each other; by default its name under `internal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<Text<Domain>>,
    /// Domains to be searched after its own, instead of the host's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<Text<Domain>>,
    /// NTP servers for DHCP clients.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ntp: Vec<Ipv4Addr>,
    /// Nothing leaves it.
    pub internal: bool,
    /// The gateway's address leads to the host's loopback.
    pub host_loopback: bool,
    /// Ports of the gateway that lead to unix sockets of the host: `PORT:PATH`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub host_sockets: Vec<Text<HostSocket>>,
    /// 169.254.0.0/16 is reachable.
    pub allow_link_local: bool,
    /// Its containers reach the gateway only, not each other.
    pub isolated: bool,
    /// Networks that it is linked with: packets are routed to them and back. One side's word is enough.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Name>,
    /// Largest IP packet on its links, in bytes.
    pub mtu: usize,
    /// Threads that carry its packets.
    pub workers: usize,
    /// Bytes of stream data the relay may hold, such as `"256M"`.
    pub memory: Text<Size>,
    /// The host's IPv4 address that its traffic leaves from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbound_ipv4: Option<Ipv4Addr>,
    /// The host's IPv6 address that its traffic leaves from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbound_ipv6: Option<Ipv6Addr>,
    /// The host's interface that its traffic leaves by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbound_interface: Option<String>,
    /// Published ports: `[IP:]HOSTPORT[-END]:NAME:PORT[-END][/udp]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<Text<PortWish>>,
    /// What is fixed for containers of these names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub containers: BTreeMap<Name, ContainerSpec>,
}

impl Default for NetworkSpec {
    fn default() -> Self {
        Self {
            ipv4: Choice::Auto,
            ipv6: Choice::Auto,
            nat64: Choice::Auto,
            dns: Vec::new(),
            dns_cache: true,
            domain: None,
            search: Vec::new(),
            ntp: Vec::new(),
            internal: false,
            host_loopback: false,
            host_sockets: Vec::new(),
            allow_link_local: false,
            isolated: false,
            links: Vec::new(),
            mtu: DEFAULT_MTU,
            workers: 1,
            memory: Text(Size(256 << 20)),
            outbound_ipv4: None,
            outbound_ipv6: None,
            outbound_interface: None,
            publish: Vec::new(),
            containers: BTreeMap::new(),
        }
    }
}

/// What is fixed for a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContainerSpec {
    /// Its IPv4 address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    /// Its MAC address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<Text<EthernetAddress>>,
    /// Further names, which others may have too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<Name>,
    /// The VLAN that it is on without tags; the gateway is not on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// VLANs that it is on with tags, beside `vlan`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trunk: Vec<u16>,
    /// It reaches the gateway and ports that are not isolated only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolated: Option<bool>,
    /// What it may do that guards forbid the others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Allow>,
    /// The host's IPv4 address that its traffic leaves from, instead of the network's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbound_ipv4: Option<Ipv4Addr>,
    /// The host's IPv6 address that its traffic leaves from, instead of the network's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbound_ipv6: Option<Ipv6Addr>,
    /// The host's interface that its traffic leaves by, instead of the network's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbound_interface: Option<String>,
    /// The host's IPv4 address that is its own outside (one-to-one NAT): its traffic leaves from there, and what it listens
    /// on is published there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_ipv4: Option<Ipv4Addr>,
    /// The host's IPv6 address that is its own outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_ipv6: Option<Ipv6Addr>,
}

impl ContainerSpec {
    /// The host's addresses that are its own outside.
    pub fn external(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.external_ipv4.map(IpAddr::from).into_iter().chain(self.external_ipv6.map(IpAddr::from))
    }

    /// Which VLANs its port is on.
    ///
    /// # Errors
    /// A number is not a VLAN's.
    pub fn membership(&self) -> Result<Membership, String> {
        let vlan =
            |number| Vlan::new(number).ok_or_else(|| format!("VLAN {number} is out of range: 1 to 4094"));
        let own = self.vlan.map(vlan).transpose()?.unwrap_or(Vlan::UNTAGGED);
        if self.trunk.is_empty() {
            return Ok(Membership::Access(own));
        }
        let tagged = self.trunk.iter().copied().map(vlan).collect::<Result<_, _>>()?;
        Ok(Membership::Trunk { tagged, native: Some(own) })
    }

    /// Whether a container can be found by its name and its aliases.
    ///
    /// # Errors
    /// The one by which it cannot.
    pub fn check_names(&self, name: &Name) -> Result<(), ZoneError> {
        // What a name may be does not depend on the domain.
        let mut zone = Zone::builder("internal")?;
        [name].into_iter().chain(&self.aliases).try_for_each(|name| zone.alias(name.as_str(), &[]).map(drop))
    }
}

impl NetworkSpec {
    /// Whether its values go together, for a network of this name.
    ///
    /// # Errors
    /// What does not, in words.
    pub fn check(&self, name: &Name) -> Result<(), String> {
        // One bound for all networks, with IPv6 or without.
        if !(MIN_MTU_IPV6..=MAX_MTU).contains(&self.mtu) {
            return Err(format!("mtu {} is out of range: {MIN_MTU_IPV6} to {MAX_MTU}", self.mtu));
        }
        if !WORKERS.contains(&self.workers) {
            let (least, most) = (WORKERS.start(), WORKERS.end());
            return Err(format!("workers {} is out of range: {least} to {most}", self.workers));
        }
        if self.ipv4 == Choice::None && self.ipv6 == Choice::None {
            return Err("it has neither IPv4 nor IPv6".to_owned());
        }
        if self.nat64_prefix().is_some() && self.ipv6 == Choice::None {
            return Err("nat64 needs IPv6".to_owned());
        }
        if self.links.contains(name) {
            return Err("it is linked with itself".to_owned());
        }
        if self.internal && !self.publish.is_empty() {
            return Err("it is internal, so no port can be published".to_owned());
        }
        if self.internal && !self.host_sockets.is_empty() {
            return Err("it is internal, so no socket of the host can be reached".to_owned());
        }
        let ports: BTreeSet<_> = self.host_sockets.iter().map(|Text(socket)| socket.port).collect();
        if ports.len() < self.host_sockets.len() {
            return Err("host_sockets: a port leads to one socket".to_owned());
        }
        if let (Some(nat64), Choice::This(network)) = (self.nat64_prefix(), self.ipv6)
            && overlap(nat64, network)
        {
            return Err(format!("nat64 {nat64} and ipv6 {network} overlap"));
        }
        for wish in &self.publish {
            if wish.0.container.is_none() {
                return Err(format!("publish {wish}: name the container, as in 8080:web:80 or auto:web"));
            }
        }
        if let Some(Text(domain)) = &self.domain {
            Zone::builder(&domain.0).map_err(|error| error.to_string())?;
        }
        for (name, container) in &self.containers {
            container.check_names(name).map_err(|error| format!("container {name}: {error}"))?;
            container.membership().map_err(|error| format!("container {name}: {error}"))?;
        }
        Ok(())
    }

    /// The prefix under which IPv4 is reached from IPv6.
    #[must_use]
    pub fn nat64_prefix(&self) -> Option<Ipv6Cidr> {
        match self.nat64 {
            Choice::This(Nat64(prefix)) => Some(prefix),
            Choice::Auto => (self.ipv4 == Choice::None).then_some(NAT64_PREFIX),
            Choice::None => None,
        }
    }

    /// Whether a running network can become the other without anybody noticing but by what changed: everything
    /// but who may speak with whom and what is published stays.
    #[must_use]
    pub fn differs_only_in_what_can_change(&self, other: &Self) -> bool {
        let fixed = |spec: &Self| Self {
            publish: Vec::new(),
            containers: BTreeMap::new(),
            dns: Vec::new(),
            host_sockets: Vec::new(),
            isolated: false,
            links: Vec::new(),
            outbound_ipv4: None,
            outbound_ipv6: None,
            outbound_interface: None,
            ..spec.clone()
        };
        fixed(self) == fixed(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
version = 1

[networks.default]
publish = ["127.0.0.1:8080:web:80", "5353:dns:53/udp"]
host_sockets = ["5432:/run/postgresql/.s.PGSQL.5432"]
memory = "64M"
dns = ["192.0.2.53", "[2001:db8::53]:5353"]

[networks.default.containers.web]
ipv4 = "10.0.2.10"
mac = "02:00:00:00:00:0a"
aliases = ["www"]
allow = ["router", "dhcp"]

[networks.backend]
ipv4 = "10.7.0.0/24"
ipv6 = false
nat64 = false
internal = true
mtu = 1500
workers = 2
links = ["default"]
containers.db = { vlan = 5, trunk = [6, 7], isolated = true }
"#;

    #[test]
    fn a_file_says_what_networks_there_are() {
        let file = File::parse(WHOLE).unwrap();
        let names: Vec<_> = file.networks.keys().map(Name::as_str).collect();
        assert_eq!(names, ["backend", "default"]);
        let default = &file.networks[&Name::parse("default").unwrap()];
        assert_eq!((default.ipv4, default.mtu, default.memory.0.0), (Choice::Auto, DEFAULT_MTU, 64 << 20));
        assert_eq!(default.dns[0].0.to_string(), "192.0.2.53:53");
        let web = &default.containers[&Name::parse("web").unwrap()];
        assert_eq!(web.allow, [Allow::Router, Allow::Dhcp]);
        let backend = &file.networks[&Name::parse("backend").unwrap()];
        assert_eq!((backend.ipv6, backend.workers), (Choice::None, 2));
        assert_eq!(backend.nat64_prefix(), None);
    }

    #[test]
    fn a_network_is_the_same_after_a_journey_through_json() {
        for spec in File::parse(WHOLE).unwrap().networks.into_values() {
            let text = serde_json::to_string(&spec).unwrap();
            assert_eq!(serde_json::from_str::<NetworkSpec>(&text).unwrap(), spec, "{text}");
        }
        let nat64: NetworkSpec = serde_json::from_str(r#"{"ipv4": false, "nat64": true}"#).unwrap();
        assert_eq!(nat64.nat64, Choice::This(Nat64(NAT64_PREFIX)));
    }

    #[test]
    fn what_is_wrong_is_shown_with_its_line_and_what_would_be_right() {
        for (text, hints) in [
            ("version = 1\n[networks.a]\nipv44 = false", &["line 3", "ipv44", "ipv4"][..]),
            ("version = 1\n[networks.a]\nipv4 = \"10.0.2.5/24\"", &["line 3", "did you mean 10.0.2.0/24"]),
            ("version = 1\n[networks.\"1\"]", &["line 2", "at least one letter"]),
            ("version = 2", &["version is 2", "version = 1"]),
            ("", &["version"]),
            ("version = 1\n[networks.a]\nmtu = 100", &["network a", "1280 to"]),
            ("version = 1\n[networks.a]\nlinks = [\"b\", \"a\"]", &["network a", "itself"]),
            ("version = 1\n[networks.a]\nlinks = [\"1\"]", &["line 3", "at least one letter"]),
            ("version = 1\n[networks.a]\nworkers = 0", &["1 to 64"]),
            ("version = 1\n[networks.a]\nipv4 = false\nipv6 = false", &["neither"]),
            ("version = 1\n[networks.a]\nipv6 = false\nnat64 = true", &["needs IPv6"]),
            ("version = 1\n[networks.a]\npublish = [\"80:80\"]", &["8080:web:80"]),
            ("version = 1\n[networks.a]\npublish = [\"x\"]", &["line 3", "8080:80"]),
            ("version = 1\n[networks.a]\ninternal = true\npublish = [\"80:a:80\"]", &["internal"]),
            ("version = 1\n[networks.a]\ninternal = true\nhost_sockets = [\"80:/x\"]", &["internal"]),
            ("version = 1\n[networks.a]\nhost_sockets = [\"80:/x\", \"80:/y\"]", &["one socket"]),
            ("version = 1\n[networks.a]\nhost_sockets = [\"80:x\"]", &["line 3", "from the root directory"]),
            ("version = 1\n[networks.a]\ncontainers.b.vlan = 4095", &["container b", "1 to 4094"]),
            ("version = 1\n[networks.a]\nmemory = \"1\"", &["line 3", "at least 1M"]),
            ("version = 1\n[networks.a]\ncontainers.b.aliases = [\"gateway\"]", &["container b", "reserved"]),
            ("version = 1\n[networks.a]\ncontainers.localhost = {}", &["container localhost", "reserved"]),
            (
                "version = 1\n[networks.a]\ncontainers.b.external_ipv4 = \"192.0.2.7\"\n[networks.c]\n\
                 containers.d.external_ipv4 = \"192.0.2.7\"",
                &["container d", "192.0.2.7 is the external address of b on network a"],
            ),
            ("version = 1\n[networks.a]\ndomain = \"localhost\"", &["network a", "wharf.internal"]),
        ] {
            let error = File::parse(text).unwrap_err();
            assert!(hints.iter().all(|hint| error.contains(hint)), "{text}: {error}");
        }
    }

    #[test]
    fn what_can_change_while_flows_go_on_is_known() {
        let spec = NetworkSpec::default();
        let published =
            NetworkSpec { publish: vec![Text(PortWish::parse("80:a:80").unwrap())], ..spec.clone() };
        assert!(spec.differs_only_in_what_can_change(&published));
        let linked = NetworkSpec { links: vec![Name::parse("db").unwrap()], ..spec.clone() };
        assert!(spec.differs_only_in_what_can_change(&linked));
        let led = NetworkSpec {
            host_sockets: vec![Text(HostSocket::parse("5432:/run/postgresql/.s.PGSQL.5432").unwrap())],
            ..spec.clone()
        };
        assert!(spec.differs_only_in_what_can_change(&led));
        assert!(!spec.differs_only_in_what_can_change(&NetworkSpec { mtu: 1500, ..spec.clone() }));
    }
}
