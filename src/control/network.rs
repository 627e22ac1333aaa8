// SPDX-License-Identifier: MIT OR Apache-2.0
//! One network: its workers, who is attached to it, and what is published.

mod looking;
mod names;
mod plan;
mod policy;
mod published;
mod ways;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use smoltcp::wire::{EthernetAddress, Ipv4Cidr};
use tokio::sync::oneshot;
use wharf_stack::Config;
use wharf_switch::{PortId, StormControl};

use super::error::{Code, Error};
use super::members::{Member, Members, Others, Wish};
use super::model::{self, PortKind};
use super::spec::{ContainerSpec, Name, NetworkSpec, PortWish, Text};
use super::state::Kept;
use crate::dataplane::{self, Running};
use crate::host::Ways;
use crate::netns::{Interface, Side};
use crate::port::Device;
use plan::configuration;
use policy::{membership, policy, wish_of};
use published::Publication;

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
    pub nameservers: Vec<SocketAddr>,
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
    pub ipv4_gateway: Option<Ipv4Addr>,
    /// The IPv6 gateway's address on the link, unless the network has no outside.
    pub ipv6_gateway: Option<Ipv6Addr>,
    /// Where names are resolved.
    pub nameserver: Option<IpAddr>,
    /// Domains to be searched.
    pub search: Vec<String>,
    /// Largest IP packet on the link.
    pub mtu: usize,
    /// Queues that the device should have.
    pub workers: usize,
}

impl Offer {
    /// The interface that it is about.
    #[must_use]
    pub fn interface(&self) -> Interface {
        Interface {
            mac: self.member.mac,
            mtu_bytes: self.mtu,
            queues: self.workers,
            ipv4: self.member.ipv4.zip(self.ipv4_prefix_len).map(|(address, prefix_len)| Side {
                address,
                prefix_len,
                gateway: self.ipv4_gateway,
            }),
            ipv6: self.member.ipv6.map(|address| Side {
                address,
                prefix_len: 64,
                gateway: self.ipv6_gateway,
            }),
        }
    }
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
    _leash: Option<oneshot::Sender<Infallible>>,
}

/// What a port leaves behind.
#[derive(Debug, Default)]
pub struct Detached {
    /// What was published for it.
    pub unpublished: Vec<model::Publication>,
    /// Its device, which takes some time to close.
    pub devices: Vec<Device>,
}

/// The only container of a network that is its own: that of `wharf run`, which runs already.
#[derive(Debug)]
pub struct Sandbox {
    /// The workers.
    pub running: Running,
    /// What they were started with.
    pub config: Config,
    /// The host's nameservers are not followed.
    pub has_own_dns: bool,
    /// Its port.
    pub port: PortId,
    /// What kind of device that is.
    pub kind: PortKind,
    /// Its addresses.
    pub member: Member,
    /// The interface's name in it.
    pub interface: String,
}

/// A network as it runs.
#[derive(Debug)]
pub struct Network {
    name: Name,
    spec: NetworkSpec,
    origin: Origin,
    config: Config,
    /// In which its containers find each other, if they do.
    domain: Option<String>,
    /// `None` when a worker is lost.
    running: Option<Running>,
    members: Members,
    /// What DHCP keeps for members.
    reserved: BTreeMap<EthernetAddress, (Ipv4Addr, Name)>,
    /// Leases that somebody was told of.
    told_leases: BTreeSet<(IpAddr, String)>,
    /// As the workers were told last.
    ways: Ways,
    attached: BTreeMap<Name, Attached>,
    /// Who has an offer, and what belonged to them before.
    pending: BTreeMap<Name, Option<Member>>,
    publications: Vec<Publication>,
    /// Ports made by command that somebody else had when the network started.
    unbound: Vec<model::Publication>,
}

fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
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
            ways: Ways { network: ways::of_network(&spec)?, ..Ways::default() },
            notify: Some(notify),
            ..dataplane::Options::default()
        };
        let running = dataplane::start(config.clone(), spec.workers, &options)
            .map_err(|error| Error::new(Code::Exhausted, format!("network {name} cannot start: {error}")))?;
        let mut network = Self {
            members: Members::restored(kept.members.clone(), &config),
            name,
            spec,
            origin,
            domain: config.search.first().cloned(),
            config,
            running: Some(running),
            reserved: BTreeMap::new(),
            told_leases: BTreeSet::new(),
            ways: Ways::default(),
            attached: BTreeMap::new(),
            pending: BTreeMap::new(),
            publications: Vec::new(),
            unbound: Vec::new(),
        };
        network.restore_leases(&kept.leases);
        for error in network.admit_named() {
            tracing::warn!("network {}: {error}", network.name);
        }
        network.reserve_members();
        network.renew_zone();
        Ok(network)
    }

    /// The network of a sandbox, which has the same name.
    #[must_use]
    pub fn of_sandbox(sandbox: Sandbox) -> Self {
        let name = Name::sandbox();
        let Sandbox { running, config, has_own_dns, port, kind, member, interface } = sandbox;
        let dns =
            if has_own_dns { config.nameservers.iter().copied().map(Text).collect() } else { Vec::new() };
        let spec = NetworkSpec {
            dns,
            host_loopback: config.host_loopback,
            allow_link_local: config.allow_link_local,
            mtu: config.mtu_bytes,
            workers: running.workers(),
            ..NetworkSpec::default()
        };
        let attached = Attached {
            id: port,
            kind,
            request: AttachRequest {
                at: "the sandbox".to_owned(),
                interface: Some(interface),
                ..AttachRequest::default()
            },
            container: ContainerSpec::default(),
            member,
            storm: Arc::default(),
            since: Instant::now(),
            _leash: None,
        };
        Self {
            spec,
            origin: Origin::Api,
            config,
            domain: None,
            running: Some(running),
            members: Members::of_one(name.clone(), member),
            reserved: BTreeMap::new(),
            told_leases: BTreeSet::new(),
            ways: Ways::default(),
            attached: [(name.clone(), attached)].into(),
            pending: BTreeMap::new(),
            publications: Vec::new(),
            unbound: Vec::new(),
            name,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Gives those that the specification names their addresses, all at once: two may change places. Whoever is attached
    /// keeps what it has until it comes back. Returns what cannot be.
    fn admit_named(&mut self) -> Vec<Error> {
        let is_here = |name: &Name| self.attached.contains_key(name) || self.pending.contains_key(name);
        let mut away: Vec<_> = self
            .spec
            .containers
            .iter()
            .filter(|(name, _)| !is_here(name))
            .map(|(name, container)| (name.clone(), wish_of(container)))
            .collect();
        self.members.retain(|name, member| {
            let wish = away.iter().find(|(other, _)| other == name).map(|(_, wish)| *wish);
            wish.is_none_or(|wish| wish.is_granted_by(member))
        });
        // First those that leave no choice.
        away.sort_by_key(|(_, wish)| *wish == Wish::default());
        away.into_iter().filter_map(|(name, wish)| self.member(&name, wish).err()).collect()
    }

    /// What belongs to a name, from now on.
    ///
    /// # Errors
    /// A wish cannot be granted.
    fn member(&mut self, name: &Name, wish: Wish) -> Result<Member, Error> {
        let is_bound = |other: &Name| {
            self.attached.contains_key(other)
                || self.pending.contains_key(other)
                || self.spec.containers.contains_key(other)
                || self
                    .publications
                    .iter()
                    .any(|publication| publication.info.container.as_deref() == Some(other.as_str()))
        };
        if let Some(member) = self.members.by_name().get(name)
            && wish == Wish::default()
        {
            return Ok(*member);
        }
        let leased = self.leased_by_others();
        let others = Others { have: &|address| leased.contains(&address), are_bound: &is_bound };
        let member = self.members.admit(name, wish, &self.config, &others)?;
        self.reserve_members();
        Ok(member)
    }

    fn running(&self) -> Result<&Running, Error> {
        self.running.as_ref().ok_or_else(|| {
            Error::new(Code::Internal, format!("network {} has lost a worker and does not work", self.name))
                .hint("start wharf again; please report this as a bug")
        })
    }

    /// What is to be kept of it.
    #[must_use]
    pub fn kept(&self) -> Kept {
        Kept {
            ipv4: self.config.ipv4.map(|plan| Text(plan.subnet)),
            ipv6: self.config.ipv6.map(|plan| Text(plan.subnet)),
            members: self.members.by_name().clone(),
            publications: self.kept_publications(),
            leases: self.kept_leases(),
            made_as: (self.origin == Origin::Api).then(|| self.spec.clone()),
            ..Kept::default()
        }
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
    pub fn set_nameservers(&self, servers: &[SocketAddr]) {
        if let (Some(running), true) = (&self.running, self.spec.dns.is_empty()) {
            running.set_nameservers(servers);
        }
    }

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
        if self.attached.contains_key(&name) || self.pending.contains_key(&name) {
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
        ways::of_container(&container, &self.spec)?;
        self.check_names(&name, &container)?;
        let before = self.members.by_name().get(&name).copied();
        let member = self.member(&name, wish_of(&container))?;
        request.name = Some(name.clone());
        self.pending.insert(name.clone(), before);
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
        if let Some(before) = self.pending.remove(name) {
            self.members.restore(name, before);
            self.reserve_members();
        }
    }

    /// A name that nobody has or had, and that nothing is said of.
    fn unused_name(&self) -> Result<Name, Error> {
        let known = self.attached.keys().chain(self.pending.keys()).chain(self.members.by_name().keys());
        let mut taken: BTreeSet<&str> = known.chain(self.spec.containers.keys()).map(Name::as_str).collect();
        taken
            .extend(self.publications.iter().filter_map(|publication| publication.info.container.as_deref()));
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
            outbound_ipv4: own.outbound_ipv4.or(base.outbound_ipv4),
            outbound_ipv6: own.outbound_ipv6.or(base.outbound_ipv6),
            outbound_interface: own.outbound_interface.clone().or(base.outbound_interface),
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
        let Some(name) = request.name.clone().filter(|name| self.pending.contains_key(name)) else {
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
        self.pending.remove(&name);
        self.members.seen(&name, seconds_since_1970());
        let wishes = request.publish.clone();
        let since = Instant::now();
        let attached = Attached { id, kind, request, container, member, storm, since, _leash: Some(leash) };
        self.attached.insert(name.clone(), attached);
        self.forget_neighbors(member);
        self.renew_zone();
        self.renew_ways();
        self.retarget(&name);
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
    pub fn detach(&mut self, name: &Name) -> Option<Detached> {
        let attached = self.attached.remove(name)?;
        let unpublished =
            self.unpublish_where(|publication| publication.origin == Origin::Port(name.clone()));
        let devices = self.running.as_ref().map(|running| running.detach(attached.id)).unwrap_or_default();
        self.forget_neighbors(attached.member);
        self.renew_zone();
        self.renew_ways();
        Some(Detached { unpublished, devices })
    }

    /// Has the gateways look anew who is at a member's addresses: nobody is kept waiting for who has gone, and who has
    /// come is not held to be absent because it was.
    fn forget_neighbors(&self, member: Member) {
        let addresses = member.list();
        if let Some(running) = &self.running {
            // A worker that is gone is told of elsewhere.
            let _ = running.ask_all(move |worker, _| {
                addresses.iter().for_each(|&address| worker.gateway.forget_neighbor(address));
            });
        }
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
        errors.extend(self.admit_named());
        if let Some(running) = &self.running {
            let own: Vec<_> = self.spec.dns.iter().map(|Text(server)| *server).collect();
            running.set_nameservers(if own.is_empty() { &around.nameservers } else { &own });
        }
        for name in self.attached.keys().cloned().collect::<Vec<_>>() {
            errors.extend(self.renew_policy(&name).err());
        }
        self.renew_zone();
        self.renew_ways();
        let published: BTreeSet<_> =
            self.publications.iter().filter_map(|publication| publication.info.container.clone()).collect();
        for name in published.iter().filter_map(|name| Name::parse(name).ok()) {
            if !self.attached.contains_key(&name) {
                self.retarget(&name);
            }
        }
        self.unpublish_unspecified();
        errors.extend(self.publish_specified(next_id));
        if errors.is_empty() { Ok(()) } else { Err(errors) }
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
}

/// A port's id as clients see it.
pub(super) fn id_text(id: PortId) -> String {
    format!("{}.{}", id.index, id.generation)
}
