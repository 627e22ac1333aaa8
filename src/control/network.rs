// SPDX-License-Identifier: MIT OR Apache-2.0
//! One network: its workers, who is attached to it, and what is published.

mod attached;
mod automatic;
mod links;
mod looking;
mod names;
mod plan;
mod policy;
mod published;
mod ways;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use smoltcp::wire::{EthernetAddress, Ipv4Cidr};
use wharf_stack::{Config, Zone};
use wharf_switch::PortId;

use super::error::{Code, Error};
use super::members::{Member, Members, Others, Wish};
use super::model::{self, PortKind};
use super::spec::{ContainerSpec, Name, NetworkSpec, PortWish, Text};
use super::state::Kept;
use crate::dataplane::{self, Running};
use crate::host::{HostSocket, HostSockets, SocketLimit, Ways};
use crate::netns::SockDiag;
use crate::publish::{Leaving, Opened};
use attached::Attached;
pub use attached::{AttachRequest, Attachment, Detached, Offer};
pub use automatic::{Changes, Heard, Refused, Watched};
pub(super) use links::LinkEnd;
use plan::configuration;
use policy::{policy, wish_of};
use published::Publication;
pub(crate) use published::refusal;

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
    /// How many sockets all networks may open together.
    pub sockets: SocketLimit,
    /// Unix sockets beneath these directories may be connected to.
    pub connectable: Vec<PathBuf>,
}

impl Surroundings {
    /// The host's sockets that a network leads to.
    ///
    /// # Errors
    /// This process may not connect to one of them.
    pub(super) fn host_sockets(&self, name: &Name, spec: &NetworkSpec) -> Result<HostSockets, Error> {
        let sockets = || spec.host_sockets.iter().map(|Text(socket)| socket);
        let is_closed =
            |socket: &&HostSocket| !self.connectable.iter().any(|open| socket.path.starts_with(open));
        if let Some(closed) = sockets().find(is_closed) {
            let path = closed.path.display();
            let message = format!("network {name} cannot lead to {path}: this daemon has given that up");
            let directory = closed.directory().display();
            let hint = format!("start it with the network in its file, or with --host-sockets {directory}");
            return Err(Error::new(Code::Forbidden, message).hint(hint));
        }
        HostSockets::new(sockets()).map_err(|error| Error::internal(&error))
    }
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
    /// What ports of the gateway lead to.
    pub host_sockets: Vec<HostSocket>,
    /// Its port.
    pub port: PortId,
    /// What kind of device that is.
    pub kind: PortKind,
    /// Its addresses.
    pub member: Member,
    /// The interface's name in it.
    pub interface: String,
    /// What is published as long as it listens.
    pub publish: Vec<Text<PortWish>>,
    /// What it listens on.
    pub view: Option<SockDiag>,
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
    /// Its names, as its forwarder was told last.
    zone: Arc<Zone>,
    /// The networks that it is linked with.
    links: Vec<LinkEnd>,
    attached: BTreeMap<Name, Attached>,
    /// Who has an offer, and what belonged to them before.
    pending: BTreeMap<Name, Option<Member>>,
    publications: Vec<Publication>,
    /// Publications that had to make way for others, or could not follow their container, and were not told of yet.
    ended: Vec<model::Publication>,
    /// Ports made by command that somebody else had when the network started.
    unbound: Vec<model::Publication>,
    /// Names of unix sockets that are published no more.
    leaving: Vec<Leaving>,
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
        let ways = Ways { network: ways::of_network(&spec)?, ..Ways::default() };
        let options = dataplane::Options {
            ways: ways.clone(),
            host_sockets: around.host_sockets(&name, &spec)?,
            socket_limit: around.sockets.clone(),
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
            ways,
            zone: Arc::default(),
            links: Vec::new(),
            attached: BTreeMap::new(),
            pending: BTreeMap::new(),
            publications: Vec::new(),
            ended: Vec::new(),
            unbound: Vec::new(),
            leaving: Vec::new(),
        };
        network.restore_leases(&kept.leases);
        // Before the file has its way: what a name's container has leased is nobody else's.
        network.reserve_members();
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
        let Sandbox {
            running,
            config,
            has_own_dns,
            host_sockets,
            port,
            kind,
            member,
            interface,
            publish,
            view,
        } = sandbox;
        let dns =
            if has_own_dns { config.nameservers.iter().copied().map(Text).collect() } else { Vec::new() };
        let spec = NetworkSpec {
            dns,
            dns_cache: config.dns_cache,
            host_loopback: config.host_loopback,
            host_sockets: host_sockets.into_iter().map(Text).collect(),
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
                publish,
                ..AttachRequest::default()
            },
            container: ContainerSpec::default(),
            member,
            storm: Arc::default(),
            since: Instant::now(),
            view: view.map(Arc::new),
            refused: BTreeSet::new(),
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
            zone: Arc::default(),
            links: Vec::new(),
            attached: [(name.clone(), attached)].into(),
            pending: BTreeMap::new(),
            publications: Vec::new(),
            ended: Vec::new(),
            unbound: Vec::new(),
            leaving: Vec::new(),
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

    /// Has the gateway's ports lead to the host's sockets that the specification names now.
    fn lead_to_host_sockets(&self, around: &Surroundings) -> Result<(), Error> {
        let sockets = around.host_sockets(&self.name, &self.spec)?;
        if let Some(running) = &self.running {
            running.set_host_sockets(&sockets);
        }
        Ok(())
    }

    /// The nameservers of the host have changed.
    pub fn set_nameservers(&self, servers: &[SocketAddr]) {
        if let (Some(running), true) = (&self.running, self.spec.dns.is_empty()) {
            running.set_nameservers(servers);
        }
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
        let before = std::mem::replace(&mut self.spec, spec);
        let mut errors = Vec::new();
        if before.host_sockets != self.spec.host_sockets {
            errors.extend(self.lead_to_host_sockets(around).err());
        }
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
        let is_away = |name: &&Name| !self.attached.contains_key(*name);
        let away: Vec<_> = self.members.by_name().keys().filter(is_away).cloned().collect();
        away.iter().for_each(|name| self.retarget(name));
        self.redirect_specified();
        self.unpublish_unspecified();
        // A running daemon makes no unix sockets.
        errors.extend(self.publish_specified(next_id, &mut Opened::default()));
        let unseen = |(name, attached): (&Name, &Attached)| {
            self.check_view(name, &attached.request, &attached.container, attached.view.as_deref()).err()
        };
        errors.extend(self.attached.iter().filter_map(unseen));
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    fn renew_policy(&mut self, name: &Name) -> Result<(), Error> {
        let Some(attached) = self.attached.get(name) else { return Ok(()) };
        let container = self.container_spec(name, &attached.request.container);
        self.check_external(&container.external().collect::<Vec<_>>(), Some(name))?;
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
