// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who carries the sandbox's packets, as far as it is decided before there is a sandbox.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::path::Path;

use smoltcp::wire::{Ipv4Cidr, Ipv6Cidr};
use wharf_stack::Config;

use super::error::Doing as _;
use super::{Error, Join, Options};
use crate::attach::Client;
use crate::control::members::Member;
use crate::control::model::Transport;
use crate::control::network::Offer;
use crate::control::spec::PortWish;
use crate::host;
use crate::netns::plan::{CONTAINER_MAC, Families, GATEWAY_MAC, Plan, overlap};
use crate::netns::{Interface, Netlink};
use crate::resolv::{self, ResolvConf};
use crate::sys::random;

/// Who carries the sandbox's packets.
pub(super) enum Gateway {
    /// This process, on a network of the sandbox's own.
    Own { plan: Plan, config: Box<Config> },
    /// A daemon.
    Daemon { client: Client, offer: Box<Offer> },
}

impl Gateway {
    pub(super) fn own(options: &Options, host: &ResolvConf) -> Result<Self, Error> {
        let random = random::seed().doing("getting random numbers")?;
        let (plan, routes) = choose_plan(options, random);
        warn_of_overlap(options, &plan, &routes);
        let config = configuration(options, &plan, host, random);
        if config.nameservers.is_empty() {
            tracing::info!(
                "no nameserver in {}: names will not resolve unless --dns names one",
                resolv::PATH
            );
        }
        Ok(Self::Own { plan, config: Box::new(config) })
    }

    pub(super) fn of_daemon(join: &Join) -> Result<Self, Error> {
        let (client, offer) = Client::ask(&join.socket, join.request.clone())?;
        Ok(Self::Daemon { client, offer: Box::new(offer) })
    }

    /// The sandbox's interface.
    pub(super) fn interface(&self, options: &Options) -> Interface {
        match self {
            Self::Own { plan, .. } => plan.interface(options.mtu_bytes, options.workers),
            Self::Daemon { offer, .. } => offer.interface(),
        }
    }

    /// What of the sandbox's sockets matters.
    pub(super) fn watched(&self, options: &Options) -> BTreeSet<Transport> {
        match self {
            Self::Own { .. } => {
                options.publish.iter().filter_map(PortWish::watched).map(Transport::from).collect()
            }
            Self::Daemon { offer, .. } => offer.watched.clone(),
        }
    }

    /// The text of the sandbox's resolv.conf.
    pub(super) fn resolv_conf(&self, host: &ResolvConf) -> String {
        let (nameserver, search) = match self {
            Self::Own { plan, config } => (plan.nameserver(), &config.search),
            Self::Daemon { offer, .. } => (offer.nameserver, &offer.search),
        };
        resolv::render(nameserver, search, &host.options)
    }
}

/// What belongs to the sandbox on a network of its own.
pub(super) fn member(plan: &Plan) -> Member {
    Member { mac: CONTAINER_MAC, ipv4: plan.container4(), ipv6: plan.container6, seen: 0 }
}

fn choose_plan(options: &Options, seed: [u8; 32]) -> (Plan, Vec<Ipv4Cidr>) {
    let routes = Netlink::open().and_then(|mut netlink| netlink.ipv4_routes()).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot read the host's routes; the sandbox's network may hide some of them");
        Vec::new()
    });
    let mut wishes = options.wishes;
    if wishes.families == Families::Both && !Path::new("/proc/net/if_inet6").exists() {
        tracing::info!("this kernel has no IPv6: neither has the sandbox");
        wishes.families = Families::Ipv4;
    }
    let [.., a, b, c, d, e] = seed;
    (Plan::new(&wishes, &routes, [a, b, c, d, e]), routes)
}

fn warn_of_overlap(options: &Options, plan: &Plan, routes: &[Ipv4Cidr]) {
    let Some(ipv4) = plan.ipv4 else { return };
    if let Some(route) = routes.iter().find(|route| overlap(**route, ipv4.subnet)) {
        let by = if options.wishes.cidr.is_some() { "--cidr" } else { "the sandbox's network" };
        tracing::warn!("{by} {} hides the host's {route} from the sandbox", ipv4.subnet);
    }
}

fn configuration(options: &Options, plan: &Plan, host: &ResolvConf, seed: [u8; 32]) -> Config {
    let or_host = |own: &[String], host: &[String]| if own.is_empty() { host.to_vec() } else { own.to_vec() };
    Config {
        mtu_bytes: options.mtu_bytes,
        ipv4: plan.ipv4,
        ipv6: plan.ipv6,
        nat64: plan.nat64,
        dns64_exclusions: if host::has_ipv6() { Vec::new() } else { vec![EVERYTHING_IPV6] },
        nameservers: if options.dns.is_empty() { host.nameservers.clone() } else { options.dns.clone() },
        dns_cache: options.dns_cache,
        search: or_host(&options.search, &host.search),
        hostname: options.hostname.clone(),
        host_loopback: options.host_loopback,
        host_sockets: options.host_sockets.iter().map(|socket| socket.port).collect(),
        allow_link_local: options.allow_link_local,
        memory_bytes: options.memory_bytes,
        ..Config::new(GATEWAY_MAC, seed)
    }
}

/// Every IPv6 address.
const EVERYTHING_IPV6: Ipv6Cidr = Ipv6Cidr::new(Ipv6Addr::UNSPECIFIED, 0);
