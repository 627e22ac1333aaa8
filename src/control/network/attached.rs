// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ports of a network: offered, attached, detached.
//!
//! # How it works
//! Somebody who is to be attached needs its addresses before it has a device. So there is an offer first, which holds the name
//! and the addresses; whoever does not come leaves everything as it was.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use smoltcp::wire::IpCidr;
use tokio::sync::oneshot;
use wharf_switch::{PortId, StormControl};

use super::policy::{policy, wish_of};
use super::{Code, Error, Member, Name, Network, Origin, id_text, seconds_since_1970, ways};
use crate::control::model::{self, PortKind, Transport};
use crate::control::spec::{ContainerSpec, PortWish, Text};
use crate::netns::{Interface, Route, Side, SockDiag};
use crate::port::Device;
use crate::publish::Opened;

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
    /// The ways to linked networks.
    #[serde(default)]
    pub links: Vec<LinkedRoute>,
    /// Where names are resolved.
    pub nameserver: Option<IpAddr>,
    /// Domains to be searched.
    pub search: Vec<String>,
    /// Largest IP packet on the link.
    pub mtu: usize,
    /// Queues that the device should have.
    pub workers: usize,
    /// What sockets there are to be seen by a view that comes with the device.
    #[serde(default)]
    pub watched: BTreeSet<Transport>,
}

/// The way to a linked network, whichever interface leads outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkedRoute {
    /// The other network's addresses of one family.
    pub prefix: Text<IpCidr>,
    /// The gateway that leads there.
    pub gateway: IpAddr,
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
            routes: self
                .links
                .iter()
                .map(|link| Route { prefix: link.prefix.0, gateway: link.gateway })
                .collect(),
        }
    }
}

/// What somebody is attached by.
#[derive(Debug)]
pub struct Attachment {
    /// What kind of device it is.
    pub kind: PortKind,
    /// The device, by its queues.
    pub queues: Vec<Device>,
    /// What listens at the other end.
    pub view: Option<SockDiag>,
}

/// A port that is attached.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) id: PortId,
    pub(super) kind: PortKind,
    pub(super) request: AttachRequest,
    pub(super) container: ContainerSpec,
    pub(super) member: Member,
    pub(super) storm: Arc<StormControl>,
    pub(super) since: Instant,
    /// What it listens on, where that matters.
    pub(super) view: Option<Arc<SockDiag>>,
    /// Of that, by the wish, what could not be published at the last look.
    pub(super) refused: BTreeSet<(String, u16)>,
    /// Whoever waits for the container's end ends too when this is dropped.
    pub(super) _leash: Option<oneshot::Sender<Infallible>>,
}

/// What a port leaves behind.
#[derive(Debug, Default)]
pub struct Detached {
    /// What was published for it.
    pub unpublished: Vec<model::Publication>,
    /// Its device, which takes some time to close.
    pub devices: Vec<Device>,
}

impl Network {
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
        container.membership().map_err(Error::invalid)?;
        ways::check_container(&container, &self.spec)?;
        container.check_names(&name).map_err(|error| Error::invalid(error.to_string()))?;
        let before = self.members.by_name().get(&name).copied();
        let member = self.member(&name, wish_of(&container))?;
        request.name = Some(name.clone());
        self.pending.insert(name.clone(), before);
        let has_outside = !self.spec.internal;
        Ok(Offer {
            network: self.name.clone(),
            member,
            ipv4_prefix_len: self.config.ipv4.map(|plan| plan.subnet.prefix_len()),
            ipv4_gateway: self.config.ipv4.filter(|_| has_outside).map(|plan| plan.gateway),
            ipv6_gateway: self.config.ipv6.filter(|_| has_outside).map(|plan| plan.link_local),
            links: self.linked_routes(),
            nameserver: {
                let ipv4 = self.config.ipv4.map(|plan| IpAddr::from(plan.dns));
                ipv4.or(self.config.ipv6.map(|plan| plan.dns.into()))
            },
            search: self.config.search.clone(),
            mtu: self.config.mtu_bytes,
            workers,
            watched: self.watched_transports(&name, request, &container),
            name,
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

    /// The external addresses of somebody who wants to be attached.
    #[must_use]
    pub fn external(&self, request: &AttachRequest) -> Vec<IpAddr> {
        let container = request.name.as_ref().map(|name| self.container_spec(name, &request.container));
        container.as_ref().unwrap_or(&request.container).external().collect()
    }

    /// What holds for a container: what its own request says, else what the network's specification does.
    pub(super) fn container_spec(&self, name: &Name, own: &ContainerSpec) -> ContainerSpec {
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
            external_ipv4: own.external_ipv4.or(base.external_ipv4),
            external_ipv6: own.external_ipv6.or(base.external_ipv6),
        }
    }

    /// Attaches who has an offer, with the unix sockets that it publishes and has `opened`.
    ///
    /// # Errors
    /// The switch is full, a queue cannot be watched, or a port that is to be published is not to be had. Nothing is
    /// attached then.
    pub fn attach(
        &mut self,
        request: AttachRequest,
        attachment: Attachment,
        leash: oneshot::Sender<Infallible>,
        next_id: &mut u64,
        mut opened: Opened,
    ) -> Result<model::Port, Error> {
        let Some(name) = request.name.clone().filter(|name| self.pending.contains_key(name)) else {
            return Err(Error::invalid("there is no offer to that name"));
        };
        let Attachment { kind, queues, view } = attachment;
        let container = self.container_spec(&name, &request.container);
        self.check_view(&name, &request, &container, view.as_ref())?;
        let member = self.member(&name, wish_of(&container))?;
        let storm = Arc::<StormControl>::default();
        let policy = policy(&container, self, member, Arc::clone(&storm))?;
        self.renew_ways_with(Some((&container, member)));
        let id = self.running()?.attach(queues, Some(&Arc::new(policy))).map_err(|error| {
            self.renew_ways();
            Error::new(Code::Exhausted, format!("{name} cannot be attached: {error}"))
        })?;
        self.pending.remove(&name);
        self.members.seen(&name, seconds_since_1970());
        let wishes = request.publish.clone();
        let attached = Attached {
            id,
            kind,
            request,
            container,
            member,
            storm,
            since: Instant::now(),
            view: view.map(Arc::new),
            refused: BTreeSet::new(),
            _leash: Some(leash),
        };
        self.attached.insert(name.clone(), attached);
        self.forget_neighbors(member);
        self.renew_zone();
        self.retarget(&name);
        for Text(wish) in &wishes {
            let wish = PortWish { container: Some(name.as_str().to_owned()), ..wish.clone() };
            if let Err(error) = self.publish(&wish, &Origin::Port(name.clone()), next_id, &mut opened) {
                self.detach(&name);
                return Err(error);
            }
        }
        self.port(&name).ok_or_else(|| Error::not_found(format!("{name} is gone again")))
    }

    /// Detaches a port, and what was published for it.
    pub fn detach(&mut self, name: &Name) -> Option<Detached> {
        let attached = self.attached.remove(name)?;
        let unpublished = self.unpublish_where(|publication| {
            publication.origin == Origin::Port(name.clone()) || publication.is_automatic_of(name)
        });
        let devices = self.running.as_ref().map(|running| running.detach(attached.id)).unwrap_or_default();
        self.forget_neighbors(attached.member);
        self.end_flows(attached.member);
        self.release_leases(attached.member);
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

    /// Ends what a member has left behind: nobody else shall have its connections, nor itself by another way than it has
    /// when it is back. What one worker has handed to another before it lost the port is taken in by then, since every
    /// worker was asked something else in between.
    fn end_flows(&self, member: Member) {
        let addresses = member.sources(self.config.ipv6.map(|plan| plan.subnet));
        if let Some(running) = &self.running {
            // A worker that is gone has no flows.
            let _ = running.ask_all(move |worker, now| {
                worker.gateway.end_flows_of(now, member.mac, &addresses, &mut worker.host);
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
}
