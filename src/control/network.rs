// SPDX-License-Identifier: MIT OR Apache-2.0
//! One network: its workers, who is attached to it, and what is published.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use smoltcp::wire::{Ipv4Cidr, Ipv6Cidr};
use tokio::sync::oneshot;
use wharf_stack::{Config, Ipv4Plan, Ipv6Plan};
use wharf_switch::{
    Addresses, Bindings, DropCounters, Guard, Isolation, Macs, Membership, Policy, PortCounters, PortId,
    Reason, StormControl, Tally, Vlan,
};

use super::error::{Code, Error};
use super::members::{self, Member, Members, Wish};
use super::model::{self, Allow, PortKind};
use super::spec::{Choice, ContainerSpec, Name, NetworkSpec, PortWish, Text};
use super::state::Kept;
use crate::dataplane::{self, Published, Running};
use crate::host::Sources;
use crate::netns::plan::{GATEWAY_MAC, free_network, unique_local};
use crate::port::Device;
use crate::publish::{self, Claim};

/// Where a network or a publication comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `wharf.toml`, which a reload follows.
    File,
    /// A request.
    Api,
    /// A port, and it goes with it.
    Port(Name),
}

/// What a network finds around it when it starts.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// IPv4 networks that are taken: the host's routes, other networks.
    pub taken: Vec<Ipv4Cidr>,
    /// The host's nameservers.
    pub nameservers: Vec<std::net::SocketAddr>,
    /// The host's search list.
    pub search: Vec<String>,
    /// The host reaches IPv6.
    pub has_ipv6: bool,
    /// Sockets that the network may open.
    pub max_sockets: usize,
}

/// A wish to be attached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttachRequest {
    /// The network; by default the only one there is, or the one called `default`.
    pub network: Option<Name>,
    /// The port's name; by default one that nobody has.
    pub name: Option<Name>,
    /// What is fixed for it, beyond what the network's file says.
    pub container: ContainerSpec,
    /// What is at the other end, in words.
    pub at: String,
    /// The interface's name there.
    pub interface: Option<String>,
    /// Ports to be published as long as it is attached, without a name.
    pub publish: Vec<Text<PortWish>>,
}

/// What a port will have, told before there is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The network's name.
    pub network: Name,
    /// The port's name.
    pub name: Name,
    /// Its MAC address and addresses.
    pub member: Member,
    /// Prefix lengths of the network.
    pub ipv4_prefix_len: Option<u8>,
    /// The IPv4 gateway, unless the network has no outside.
    pub ipv4_gateway: Option<std::net::Ipv4Addr>,
    /// The IPv6 gateway's address on the link, unless the network has no outside.
    pub ipv6_gateway: Option<std::net::Ipv6Addr>,
    /// Where names are resolved.
    pub nameserver: Option<IpAddr>,
    /// Domains to be searched.
    pub search: Vec<String>,
    /// Largest IP packet on the link.
    pub mtu: usize,
    /// Queues that the device should have.
    pub workers: usize,
}

/// A port that is attached.
#[derive(Debug)]
struct Attached {
    id: PortId,
    kind: PortKind,
    request: AttachRequest,
    container: ContainerSpec,
    member: Member,
    storm: Arc<StormControl>,
    since: Instant,
    /// Whoever waits for the container's end ends too when this is dropped.
    _leash: oneshot::Sender<Infallible>,
}

/// Something published.
#[derive(Debug)]
struct Publication {
    info: model::Publication,
    wish: String,
    origin: Origin,
    published: Published,
}

/// A network as it runs.
#[derive(Debug)]
pub struct Network {
    name: Name,
    spec: NetworkSpec,
    origin: Origin,
    config: Config,
    /// `None` when a worker is lost.
    running: Option<Running>,
    members: Members,
    attached: BTreeMap<Name, Attached>,
    /// Who has an offer.
    pending: BTreeSet<Name>,
    publications: Vec<Publication>,
}

fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The gateway's configuration of a network that is to be as `spec` says and had what is `kept`.
fn configuration(
    name: &Name,
    spec: &NetworkSpec,
    kept: &Kept,
    around: &Surroundings,
    seed: [u8; 32],
) -> Config {
    let ipv4 = match spec.ipv4 {
        Choice::None => None,
        Choice::This(subnet) => Some(subnet),
        Choice::Auto => {
            let is_free = |subnet: &Ipv4Cidr| {
                !around.taken.iter().any(|taken| crate::netns::plan::overlap(*subnet, *taken))
            };
            let before = kept.ipv4.as_ref().map(|Text(subnet)| *subnet).filter(is_free);
            Some(before.unwrap_or_else(|| free_network(&around.taken)))
        }
    };
    let ipv6 = match spec.ipv6 {
        Choice::None => None,
        Choice::This(prefix) => Some(prefix),
        Choice::Auto => {
            let [.., a, b, c, d, e] = seed;
            let before = kept.ipv6.as_ref().map(|Text(prefix)| *prefix);
            Some(before.unwrap_or_else(|| unique_local([a, b, c, d, e])))
        }
    };
    let domain =
        spec.domain.as_ref().map_or_else(|| format!("{name}.internal"), |Text(domain)| domain.0.clone());
    let others = if spec.search.is_empty() {
        around.search.clone()
    } else {
        spec.search.iter().map(|Text(domain)| domain.0.clone()).collect()
    };
    let nameservers = match spec.dns.as_slice() {
        [] => around.nameservers.clone(),
        own => own.iter().map(|Text(server)| *server).collect(),
    };
    Config {
        mtu_bytes: spec.mtu,
        ipv4: ipv4.map(ipv4_plan),
        ipv6: ipv6.map(Ipv6Plan::new),
        nat64: spec.nat64_prefix(),
        dns64_exclusions: if around.has_ipv6 { Vec::new() } else { vec![Ipv6Cidr::new([0; 16].into(), 0)] },
        nameservers,
        search: [domain].into_iter().chain(others).collect(),
        ntp: spec.ntp.clone(),
        host_loopback: spec.host_loopback,
        allow_link_local: spec.allow_link_local,
        memory_bytes: spec.memory.0.0,
        max_sockets: around.max_sockets,
        ..Config::new(GATEWAY_MAC, seed)
    }
}

/// Every number that a container can have may be leased.
fn ipv4_plan(subnet: Ipv4Cidr) -> Ipv4Plan {
    let plan = Ipv4Plan::new(subnet);
    let host = |number: u32| std::net::Ipv4Addr::from_bits(subnet.address().to_bits() | number);
    let numbers = members::numbers(Some(plan));
    Ipv4Plan { first_lease: host(*numbers.start()), last_lease: host(*numbers.end()), ..plan }
}

impl Network {
    /// Starts a network.
    ///
    /// # Errors
    /// A worker cannot be started.
    pub fn start(
        name: Name,
        spec: NetworkSpec,
        origin: Origin,
        kept: Kept,
        around: &Surroundings,
        notify: dataplane::Notify,
    ) -> Result<Self, Error> {
        let seed = crate::sys::random::seed().map_err(|errno| Error::internal(&errno))?;
        let config = configuration(&name, &spec, &kept, around, seed);
        let options = dataplane::Options {
            sources: Sources { ipv4: spec.outbound_ipv4, ipv6: spec.outbound_ipv6 },
            notify: Some(notify),
            ..dataplane::Options::default()
        };
        let running = dataplane::start(config.clone(), spec.workers, &options)
            .map_err(|error| Error::new(Code::Exhausted, format!("network {name} cannot start: {error}")))?;
        let mut network = Self {
            members: Members::restored(kept.members, &config),
            name,
            spec,
            origin,
            config,
            running: Some(running),
            attached: BTreeMap::new(),
            pending: BTreeSet::new(),
            publications: Vec::new(),
        };
        network.admit_named()?;
        Ok(network)
    }

    /// Gives those that the specification names their addresses.
    fn admit_named(&mut self) -> Result<(), Error> {
        for (name, container) in self.spec.containers.clone() {
            self.member(&name, wish_of(&container))?;
        }
        Ok(())
    }

    /// What belongs to a name, from now on.
    fn member(&mut self, name: &Name, wish: Wish) -> Result<Member, Error> {
        let is_bound = |other: &Name| {
            self.attached.contains_key(other)
                || self.pending.contains(other)
                || self.spec.containers.contains_key(other)
                || self
                    .publications
                    .iter()
                    .any(|publication| publication.info.container.as_deref() == Some(other.as_str()))
        };
        self.members.admit(name, wish, &self.config, |_| true, is_bound)
    }

    fn running(&self) -> Result<&Running, Error> {
        self.running.as_ref().ok_or_else(|| {
            Error::new(Code::Internal, format!("network {} has lost a worker and does not work", self.name))
                .hint("remove it and make it again; please report this as a bug")
        })
    }

    /// What is to be kept of it.
    #[must_use]
    pub fn kept(&self) -> Kept {
        Kept {
            ipv4: self.config.ipv4.map(|plan| Text(plan.subnet)),
            ipv6: self.config.ipv6.map(|plan| Text(plan.subnet)),
            members: self.members.by_name().clone(),
            publications: self.wishes(&Origin::Api),
            made_as: (self.origin == Origin::Api).then(|| self.spec.clone()),
            ..Kept::default()
        }
    }

    fn wishes(&self, origin: &Origin) -> Vec<String> {
        let mut wishes: Vec<_> = self
            .publications
            .iter()
            .filter(|publication| publication.origin == *origin)
            .map(|publication| publication.wish.clone())
            .collect();
        wishes.dedup();
        wishes
    }

    /// Where it comes from.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What it is to be.
    #[must_use]
    pub fn spec(&self) -> &NetworkSpec {
        &self.spec
    }

    /// Its IPv4 network.
    #[must_use]
    pub fn ipv4(&self) -> Option<Ipv4Cidr> {
        self.config.ipv4.map(|plan| plan.subnet)
    }

    /// It lost a worker: everything of it is gone.
    pub fn lost(&mut self) {
        self.publications.clear();
        self.attached.clear();
        // Not in the thread that is lost, nor for ever in ours: the others end by themselves.
        let running = self.running.take();
        std::thread::spawn(move || drop(running));
    }

    /// The nameservers of the host have changed.
    pub fn set_nameservers(&self, servers: &[std::net::SocketAddr]) {
        if let (Some(running), true) = (&self.running, self.spec.dns.is_empty()) {
            running.set_nameservers(servers);
        }
    }

    // ---- ports ----

    /// Sets a name and its addresses aside for somebody who is about to be attached.
    ///
    /// # Errors
    /// The name is attached, or a wish cannot be granted.
    pub fn offer(&mut self, request: &mut AttachRequest) -> Result<Offer, Error> {
        let workers = self.running()?.workers();
        let name = match request.name.clone() {
            Some(name) => name,
            None => self.unused_name()?,
        };
        if self.attached.contains_key(&name) || self.pending.contains(&name) {
            let message = format!("{name} is attached to network {} already", self.name);
            return Err(Error::new(Code::Exists, message)
                .hint(format!("choose another --name, or `wharf detach {name}` first")));
        }
        for Text(wish) in &request.publish {
            if wish.container.as_ref().is_some_and(|container| container != name.as_str()) {
                let message = format!("{} is about somebody else than {name}", wish.text);
                return Err(Error::invalid(message).hint("write it without a name, as in 8080:80"));
            }
        }
        let container = self.container_spec(&name, &request.container);
        membership(&container)?;
        let member = self.member(&name, wish_of(&container))?;
        request.name = Some(name.clone());
        self.pending.insert(name.clone());
        let has_outside = !self.spec.internal;
        Ok(Offer {
            network: self.name.clone(),
            name,
            member,
            ipv4_prefix_len: self.config.ipv4.map(|plan| plan.subnet.prefix_len()),
            ipv4_gateway: self.config.ipv4.filter(|_| has_outside).map(|plan| plan.gateway),
            ipv6_gateway: self.config.ipv6.filter(|_| has_outside).map(|plan| plan.link_local),
            nameserver: {
                let ipv4 = self.config.ipv4.map(|plan| IpAddr::from(plan.dns));
                ipv4.or(self.config.ipv6.map(|plan| plan.dns.into()))
            },
            search: self.config.search.clone(),
            mtu: self.config.mtu_bytes,
            workers,
        })
    }

    /// Nobody was attached after all.
    pub fn withdraw_offer(&mut self, name: &Name) {
        self.pending.remove(name);
    }

    fn unused_name(&self) -> Result<Name, Error> {
        let taken: BTreeSet<&str> = self.attached.keys().chain(&self.pending).map(Name::as_str).collect();
        let mut names = (1..).map(|number| format!("c{number}"));
        let free = names.find(|name| !taken.contains(name.as_str()));
        Name::parse(&free.unwrap_or_default()).map_err(Error::invalid)
    }

    /// What holds for a container: what its own request says, else what the network's specification does.
    fn container_spec(&self, name: &Name, own: &ContainerSpec) -> ContainerSpec {
        let base = self.spec.containers.get(name).cloned().unwrap_or_default();
        let either = |own: &[Name], base: Vec<Name>| {
            let mut all = base;
            all.extend(own.iter().filter(|name| !all.contains(name)).cloned().collect::<Vec<_>>());
            all
        };
        ContainerSpec {
            ipv4: own.ipv4.or(base.ipv4),
            ipv6: own.ipv6.or(base.ipv6),
            mac: own.mac.clone().or(base.mac),
            aliases: either(&own.aliases, base.aliases),
            vlan: own.vlan.or(base.vlan),
            trunk: if own.trunk.is_empty() { base.trunk } else { own.trunk.clone() },
            isolated: own.isolated.or(base.isolated),
            allow: if own.allow.is_empty() { base.allow } else { own.allow.clone() },
        }
    }

    /// Attaches who has an offer.
    ///
    /// # Errors
    /// The switch is full, a queue cannot be watched, or a port that is to be published is not to be had. Nothing is
    /// attached then.
    pub fn attach(
        &mut self,
        request: AttachRequest,
        kind: PortKind,
        queues: Vec<Device>,
        leash: oneshot::Sender<Infallible>,
        next_id: &mut u64,
    ) -> Result<model::Port, Error> {
        let Some(name) = request.name.clone().filter(|name| self.pending.remove(name)) else {
            return Err(Error::invalid("there is no offer to that name"));
        };
        let container = self.container_spec(&name, &request.container);
        let member = self.member(&name, wish_of(&container))?;
        let storm = Arc::<StormControl>::default();
        let policy = policy(&container, self, member, Arc::clone(&storm))?;
        let id = self
            .running()?
            .attach(queues, Some(&Arc::new(policy)))
            .map_err(|error| Error::new(Code::Exhausted, format!("{name} cannot be attached: {error}")))?;
        self.members.seen(&name, seconds_since_1970());
        let wishes = request.publish.clone();
        let since = Instant::now();
        let attached = Attached { id, kind, request, container, member, storm, since, _leash: leash };
        self.attached.insert(name.clone(), attached);
        for Text(wish) in &wishes {
            let wish = PortWish { container: Some(name.as_str().to_owned()), ..wish.clone() };
            if let Err(error) = self.publish(&wish, &Origin::Port(name.clone()), next_id) {
                self.detach(&name);
                return Err(error);
            }
        }
        self.port(&name).ok_or_else(|| Error::not_found(format!("{name} is gone again")))
    }

    /// Detaches a port, and what was published for it.
    pub fn detach(&mut self, name: &Name) -> Option<Vec<model::Publication>> {
        let attached = self.attached.remove(name)?;
        let ended = self.unpublish_where(|publication| publication.origin == Origin::Port(name.clone()));
        if let Some(running) = &self.running {
            running.detach(attached.id);
        }
        Some(ended)
    }

    /// Whether a port of this name is attached.
    #[must_use]
    pub fn is_attached(&self, name: &Name) -> bool {
        self.attached.contains_key(name)
    }

    /// The name of the port with this id, as [`model::Port`] has it.
    #[must_use]
    pub fn name_of(&self, id: &str) -> Option<Name> {
        self.attached.iter().find_map(|(name, attached)| (id_text(attached.id) == id).then(|| name.clone()))
    }

    /// The port of this name.
    #[must_use]
    pub fn port(&self, name: &Name) -> Option<model::Port> {
        let attached = self.attached.get(name)?;
        let counters = self.counters().remove(&attached.id).unwrap_or_default();
        Some(self.describe(name, attached, counters))
    }

    /// Every port.
    #[must_use]
    pub fn ports(&self) -> Vec<model::Port> {
        let mut counters = self.counters();
        let describe = |(name, attached): (&Name, &Attached)| {
            self.describe(name, attached, counters.remove(&attached.id).unwrap_or_default())
        };
        self.attached.iter().map(describe).collect()
    }

    fn counters(&self) -> BTreeMap<PortId, PortCounters> {
        let mut sums = BTreeMap::<PortId, PortCounters>::new();
        let of_workers = self.running.as_ref().and_then(|running| {
            running
                .ask_all(|worker, _| {
                    let counters = |id| Some((id, worker.switch.counters(id)?));
                    worker.switch.ids().filter_map(counters).collect::<Vec<_>>()
                })
                .ok()
        });
        for (id, counters) in of_workers.into_iter().flatten().flatten() {
            *sums.entry(id).or_default() += counters;
        }
        sums
    }

    fn describe(&self, name: &Name, attached: &Attached, counters: PortCounters) -> model::Port {
        let Attached { id, kind, request, container, member, since, .. } = attached;
        model::Port {
            network: self.name.to_string(),
            name: name.to_string(),
            aliases: container.aliases.iter().map(Name::to_string).collect(),
            id: id_text(*id),
            kind: *kind,
            at: request.at.clone(),
            interface: request.interface.clone(),
            mac: Text(member.mac).to_string(),
            ipv4: member.ipv4,
            ipv6: member.ipv6,
            vlan: container.vlan,
            isolated: container.isolated.unwrap_or(self.spec.isolated),
            allow: container.allow.clone(),
            age_secs: since.elapsed().as_secs(),
            rx_frames: counters.rx_frames,
            rx_bytes: counters.rx_bytes,
            tx_frames: counters.tx_frames,
            tx_bytes: counters.tx_bytes,
        }
    }

    // ---- published ports ----

    /// Publishes ports, all that the wish names or none.
    ///
    /// # Errors
    /// It names nobody, or a port is not to be had.
    pub fn publish(
        &mut self,
        wish: &PortWish,
        origin: &Origin,
        next_id: &mut u64,
    ) -> Result<Vec<model::Publication>, Error> {
        if self.spec.internal {
            let message = format!("network {} is internal: nobody outside reaches it", self.name);
            return Err(Error::new(Code::Forbidden, message));
        }
        let name = self.published_name(wish)?;
        let addresses = self.member(&name, Wish::default())?.addresses();
        let claims = publish::bind(std::slice::from_ref(&wish.request)).map_err(|error| in_use(&error))?;
        let mut made = Vec::new();
        for claim in claims {
            match self.publish_one(claim, addresses, &name, *next_id) {
                Ok((info, published)) => {
                    *next_id += 1;
                    made.push(Publication {
                        info,
                        wish: wish.text.clone(),
                        origin: origin.clone(),
                        published,
                    });
                }
                Err(error) => {
                    made.into_iter().for_each(|publication| self.withdraw(publication));
                    return Err(error);
                }
            }
        }
        let infos = made.iter().map(|publication| publication.info.clone()).collect();
        self.publications.extend(made);
        Ok(infos)
    }

    /// Whose ports a wish is about.
    fn published_name(&self, wish: &PortWish) -> Result<Name, Error> {
        match (&wish.container, self.attached.len()) {
            (Some(name), _) => Name::parse(name).map_err(Error::invalid),
            (None, 1) => Ok(self.attached.keys().next().cloned().unwrap_or_else(|| self.name.clone())),
            (None, number) => {
                Err(Error::invalid(format!("{number} containers are attached to {}", self.name))
                    .hint("name the one that is meant, as in 8080:web:80"))
            }
        }
    }

    fn publish_one(
        &self,
        claim: Claim,
        addresses: publish::Addresses,
        name: &Name,
        id: u64,
    ) -> Result<(model::Publication, Published), Error> {
        let Some(target) = claim.target(addresses) else {
            return Err(Error::invalid(format!("{name} has no address")));
        };
        let info = model::Publication {
            id,
            network: self.name.to_string(),
            transport: claim.transport().into(),
            host: claim.host(),
            container: Some(name.to_string()),
            target,
        };
        let published =
            self.running()?.publish(claim.leading_to(target)).map_err(|error| Error::internal(&error))?;
        Ok((info, published))
    }

    fn withdraw(&self, publication: Publication) {
        if let Some(running) = &self.running {
            running.withdraw(publication.published);
        }
    }

    /// Ends what `ends` picks.
    fn unpublish_where(&mut self, ends: impl Fn(&Publication) -> bool) -> Vec<model::Publication> {
        let (ended, stays) = std::mem::take(&mut self.publications).into_iter().partition(ends);
        self.publications = stays;
        let infos = |publication: Publication| {
            let info = publication.info.clone();
            self.withdraw(publication);
            info
        };
        Vec::into_iter(ended).map(infos).collect()
    }

    /// Ends the publication of this number.
    pub fn unpublish(&mut self, id: u64) -> Option<model::Publication> {
        self.unpublish_where(|publication| publication.info.id == id).pop()
    }

    /// What is published.
    #[must_use]
    pub fn publications(&self) -> Vec<model::Publication> {
        self.publications.iter().map(|publication| publication.info.clone()).collect()
    }

    // ---- changes ----

    /// Becomes what `spec` says, which [differs only in what can
    /// change](NetworkSpec::differs_only_in_what_can_change). Flows go on.
    ///
    /// # Errors
    /// What could not be done; the rest is.
    pub fn change(
        &mut self,
        spec: NetworkSpec,
        around: &Surroundings,
        next_id: &mut u64,
    ) -> Result<(), Vec<Error>> {
        self.spec = spec;
        let mut errors = Vec::new();
        errors.extend(self.admit_named().err());
        if let Some(running) = &self.running {
            let own: Vec<_> = self.spec.dns.iter().map(|Text(server)| *server).collect();
            running.set_nameservers(if own.is_empty() { &around.nameservers } else { &own });
        }
        for name in self.attached.keys().cloned().collect::<Vec<_>>() {
            errors.extend(self.renew_policy(&name).err());
        }
        let wished: Vec<String> = self.spec.publish.iter().map(|wish| wish.0.text.clone()).collect();
        self.unpublish_where(|publication| {
            publication.origin == Origin::File && !wished.contains(&publication.wish)
        });
        errors.extend(self.publish_specified(next_id));
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Publishes what the specification names and is not published yet. Returns what is not to be had.
    pub fn publish_specified(&mut self, next_id: &mut u64) -> Vec<Error> {
        let there = self.wishes(&Origin::File);
        let wishes: Vec<_> = self.spec.publish.iter().map(|Text(wish)| wish.clone()).collect();
        let missing = wishes.iter().filter(|wish| !there.contains(&wish.text));
        missing.filter_map(|wish| self.publish(wish, &Origin::File, next_id).err()).collect()
    }

    fn renew_policy(&mut self, name: &Name) -> Result<(), Error> {
        let Some(attached) = self.attached.get(name) else { return Ok(()) };
        let container = self.container_spec(name, &attached.request.container);
        // Whoever is attached keeps the addresses that it has.
        let policy = policy(&container, self, attached.member, Arc::clone(&attached.storm))?;
        self.running()?.set_policy(attached.id, &Arc::new(policy));
        if let Some(attached) = self.attached.get_mut(name) {
            attached.container = container;
        }
        Ok(())
    }

    // ---- looking ----

    /// Every address that somebody has or will get.
    #[must_use]
    pub fn leases(&self) -> Vec<model::Lease> {
        let lease = |(name, member): (&Name, &Member)| {
            let lease = |address| model::Lease {
                network: self.name.to_string(),
                address,
                mac: Text(member.mac).to_string(),
                name: Some(name.to_string()),
                state: "static".to_owned(),
                expires_secs: None,
            };
            member.list().into_iter().map(lease).collect::<Vec<_>>()
        };
        self.members.by_name().iter().flat_map(lease).collect()
    }

    /// Every flow.
    #[must_use]
    pub fn flows(&self) -> Vec<model::Flow> {
        Vec::new()
    }

    /// What went through, and what did not.
    #[must_use]
    pub fn stats(&self) -> model::Stats {
        let books = self.running.as_ref().and_then(|running| {
            running
                .ask_all(|worker, _| {
                    let switch = worker.switch.drops.clone();
                    (worker.switch.tally, switch, worker.gateway.drops().clone(), worker.gateway.load())
                })
                .ok()
        });
        let mut tally = Tally::default();
        let mut load = model::Load::default();
        let (mut switch, mut gateway) = (DropCounters::default(), DropCounters::default());
        for (books, switch_drops, gateway_drops, of_worker) in books.into_iter().flatten() {
            tally += books;
            add(&mut switch, &switch_drops);
            add(&mut gateway, &gateway_drops);
            load += of_worker;
        }
        let Tally { received, replicated, originated, sent, absorbed, dropped, queued } = tally;
        let traffic = |port: model::Port| {
            (
                port.name,
                model::Traffic {
                    rx_frames: port.rx_frames,
                    rx_bytes: port.rx_bytes,
                    tx_frames: port.tx_frames,
                    tx_bytes: port.tx_bytes,
                },
            )
        };
        model::Stats {
            network: self.name.to_string(),
            frames: model::Frames { received, replicated, originated, sent, absorbed, dropped, queued },
            drops: drops("switch", &switch).chain(drops("gateway", &gateway)).collect(),
            load,
            ports: self.ports().into_iter().map(traffic).collect(),
        }
    }

    /// What it is.
    #[must_use]
    pub fn describe_network(&self) -> model::Network {
        model::Network {
            name: self.name.to_string(),
            ipv4: self.config.ipv4.map(|plan| model::Subnet {
                subnet: plan.subnet.to_string(),
                gateway: plan.gateway,
                dns: plan.dns,
            }),
            ipv6: self.config.ipv6.map(|plan| model::Subnet {
                subnet: plan.subnet.to_string(),
                gateway: plan.gateway,
                dns: plan.dns,
            }),
            nat64: self.config.nat64.map(|prefix| prefix.to_string()),
            domain: self.config.search.first().cloned(),
            mtu: self.config.mtu_bytes,
            workers: self.spec.workers,
            internal: self.spec.internal,
            isolated: self.spec.isolated,
            host_loopback: self.spec.host_loopback,
            ports: self.attached.len(),
            up: self.running.is_some(),
        }
    }
}

/// A port's id as clients see it.
pub(super) fn id_text(id: PortId) -> String {
    format!("{}.{}", id.index, id.generation)
}

/// What a container's specification wishes.
fn wish_of(container: &ContainerSpec) -> Wish {
    Wish { mac: container.mac.as_ref().map(|Text(mac)| *mac), ipv4: container.ipv4, ipv6: container.ipv6 }
}

/// Which VLANs a port is on.
fn membership(container: &ContainerSpec) -> Result<Membership, Error> {
    let vlan = |number: u16| {
        let wrong = || Error::invalid(format!("VLAN {number} is out of range: 1 to 4094"));
        Vlan::new(number).ok_or_else(wrong)
    };
    let own = container.vlan.map(vlan).transpose()?.unwrap_or(Vlan::UNTAGGED);
    if container.trunk.is_empty() {
        return Ok(Membership::Access(own));
    }
    let tagged = container.trunk.iter().map(|&number| vlan(number)).collect::<Result<_, _>>()?;
    Ok(Membership::Trunk { tagged, native: Some(own) })
}

/// What a port may do.
fn policy(
    container: &ContainerSpec,
    network: &Network,
    member: Member,
    storm: Arc<StormControl>,
) -> Result<Policy, Error> {
    let may = |what: Allow| container.allow.contains(&what);
    let ipv4: Vec<_> = member.ipv4.map(|address| Ipv4Cidr::new(address, 32)).into_iter().collect();
    let prefix = network.config.ipv6.map(|plan| plan.subnet);
    let ipv6: Vec<_> =
        member.ipv6_sources(prefix).into_iter().map(|address| Ipv6Cidr::new(address, 128)).collect();
    let bindings = Bindings::new(&ipv4, &ipv6).map_err(|error| Error::internal(&error))?;
    Ok(Policy {
        membership: membership(container)?,
        isolation: if container.isolated.unwrap_or(network.spec.isolated) {
            Isolation::Isolated
        } else {
            Isolation::Promiscuous
        },
        storm,
        guard: Guard {
            macs: if may(Allow::AnyMac) { Macs::Any } else { Macs::Only(member.mac) },
            addresses: if may(Allow::AnyAddress) { Addresses::Any } else { Addresses::Bound(bindings) },
            may_serve_dhcp: may(Allow::Dhcp),
            may_route: may(Allow::Router),
        },
    })
}

fn add<R: Reason>(sum: &mut DropCounters<R>, other: &DropCounters<R>) {
    other.iter().for_each(|(reason, count)| sum.count_many(reason, count));
}

fn drops<R: Reason>(at: &str, counters: &DropCounters<R>) -> impl Iterator<Item = model::Drops> {
    counters.iter().map(move |(reason, count)| model::Drops {
        at: at.to_owned(),
        reason: reason.name().to_owned(),
        class: format!("{:?}", reason.class()).to_lowercase(),
        text: reason.text().to_owned(),
        count,
    })
}

fn in_use(error: &publish::Error) -> Error {
    let code = match error.source.kind() {
        std::io::ErrorKind::AddrInUse => Code::InUse,
        std::io::ErrorKind::PermissionDenied => Code::Forbidden,
        _ => Code::Invalid,
    };
    Error::new(code, error.to_string())
}
