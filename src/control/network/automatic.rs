// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ports that are published as long as a container listens on them.
//!
//! # How it works
//! What a container listens on is asked for without the registry, as that takes the kernel some time, and compared here with
//! what is published. A port that cannot be had is told once and tried again at every look, until nobody listens on it any
//! more. Ports that are published by hand have precedence.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use wharf_switch::PortId;

use super::attached::Attached;
use super::published::refusal;
use super::{AttachRequest, Error, Name, Network, Origin};
use crate::control::error::Code;
use crate::control::model::{self, Transport};
use crate::control::spec::{ContainerSpec, PortWish, Text, Wished};
use crate::netns::{Addresses, Listening, SockDiag};
use crate::publish::{self, End, Opened, Place, Request, auto};

/// A container whose ports are published by themselves, and what is to be looked at for that.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Its port.
    pub id: PortId,
    /// Its sockets.
    pub view: Arc<SockDiag>,
    /// What sockets count.
    pub transports: BTreeSet<Transport>,
}

/// What a container listens on.
pub type Heard = BTreeMap<Transport, Vec<Listening>>;

/// What a look has changed.
#[derive(Debug, Default)]
pub struct Changes {
    /// New publications.
    pub published: Vec<model::Publication>,
    /// Those that are no more.
    pub unpublished: Vec<model::Publication>,
    /// What cannot be published, and was not told yet.
    pub refused: Vec<Refused>,
}

/// A port that cannot be published.
#[derive(Debug)]
pub struct Refused {
    /// The container.
    pub name: Name,
    /// The port.
    pub request: Request,
    /// Why.
    pub error: Error,
}

/// A wish for what a container listens on.
struct Automatic {
    wish: auto::Wish,
    /// As it was written.
    text: String,
    origin: Origin,
}

/// A port that is to be published.
struct Due {
    request: Request,
    /// Where the container listens on it.
    container: Addresses,
    text: String,
    origin: Origin,
}

impl Due {
    fn port(&self) -> u16 {
        self.request.first
    }

    /// Whether a publication is what this would be.
    fn is(&self, publication: &super::Publication) -> bool {
        let info = &publication.info;
        let target = info.end().led_to(self.container);
        publication.wish == self.text && target.map(|ip| (ip, self.port()).into()) == Some(info.target)
    }
}

impl Network {
    /// The wishes of and for a container.
    fn automatic(&self, name: &Name, request: &AttachRequest, container: &ContainerSpec) -> Vec<Automatic> {
        let own = request.publish.iter().map(|Text(wish)| (wish, Origin::Port(name.clone())));
        let is_its = |wish: &PortWish| wish.container.as_deref() == Some(name.as_str());
        let of_file = self.spec.publish.iter().map(|Text(wish)| wish).filter(move |wish| is_its(wish));
        let wishes = own.chain(of_file.map(|wish| (wish, Origin::File)));
        let wishes = wishes.filter_map(|(wish, origin)| Automatic::of(wish, origin));
        wishes.chain(container.external().flat_map(|address| Automatic::at(address, name))).collect()
    }

    /// What sockets of a container are looked at.
    pub(super) fn watched_transports(
        &self,
        name: &Name,
        request: &AttachRequest,
        container: &ContainerSpec,
    ) -> BTreeSet<Transport> {
        let wishes = self.automatic(name, request, container).into_iter();
        wishes.map(|automatic| automatic.wish.transport.into()).collect()
    }

    /// Whether everything can be seen that is to be looked at.
    ///
    /// # Errors
    /// Nobody was inside to open a view.
    pub(super) fn check_view(
        &self,
        name: &Name,
        request: &AttachRequest,
        container: &ContainerSpec,
        view: Option<&SockDiag>,
    ) -> Result<(), Error> {
        if view.is_some() || self.watched_transports(name, request, container).is_empty() {
            return Ok(());
        }
        let message = format!("what {name} listens on cannot be seen, so it cannot be published by itself");
        Err(Error::new(Code::Unsupported, message).hint(
            "attach it again, by an interface that `wharf attach` or `wharf run` makes; or publish its ports by number",
        ))
    }

    /// Whom to look at.
    #[must_use]
    pub fn watched(&self) -> Vec<Watched> {
        let watched = |(name, attached): (&Name, &Attached)| {
            let view = Arc::clone(attached.view.as_ref()?);
            let transports = self.watched_transports(name, &attached.request, &attached.container);
            (!transports.is_empty()).then_some(Watched { id: attached.id, view, transports })
        };
        self.attached.iter().filter_map(watched).collect()
    }

    /// Has what is published be what the container with this port listens on.
    pub fn follow(&mut self, id: PortId, heard: &Heard, next_id: &mut u64) -> Changes {
        let mut changes = Changes { unpublished: self.take_ended(), ..Changes::default() };
        let Some(name) = self.attached.iter().find_map(|(name, of)| (of.id == id).then(|| name.clone()))
        else {
            return changes;
        };
        let due = self.due(&name, heard);
        let is_over = |publication: &super::Publication| {
            publication.is_automatic_of(&name) && !due.iter().any(|due| due.is(publication))
        };
        changes.unpublished.extend(self.unpublish_where(is_over));
        let refused = self.attached.get_mut(&name).map(|attached| std::mem::take(&mut attached.refused));
        let mut still_refused = BTreeSet::new();
        for due in due {
            let is_there =
                |publication: &super::Publication| publication.is_automatic_of(&name) && due.is(publication);
            if self.publications.iter().any(is_there) {
                continue;
            }
            match self.publish_due(&name, &due, next_id) {
                Ok(published) => changes.published.extend(published),
                Err(error) => {
                    let port = (due.text.clone(), due.port());
                    if !refused.as_ref().is_some_and(|refused| refused.contains(&port)) {
                        let Due { request, .. } = due;
                        changes.refused.push(Refused { name: name.clone(), request, error });
                    }
                    still_refused.insert(port);
                }
            }
        }
        if let Some(attached) = self.attached.get_mut(&name) {
            attached.refused = still_refused;
        }
        changes
    }

    /// What is to be published of what a container listens on.
    fn due(&self, name: &Name, heard: &Heard) -> Vec<Due> {
        let Some(attached) = self.attached.get(name) else { return Vec::new() };
        let container = attached.member.addresses();
        let mut all = Vec::new();
        for Automatic { wish, text, origin } in self.automatic(name, &attached.request, &attached.container) {
            let sockets = heard.get(&wish.transport.into()).map_or(&[][..], Vec::as_slice);
            for (port, container) in auto::reachable(wish.transport, sockets, container) {
                let (request, origin) = (wish.port(port), origin.clone());
                if !self.is_by_hand(name, &request) {
                    all.push(Due { request, container, text: text.clone(), origin });
                }
            }
        }
        all
    }

    /// Whether a port of a container is published by hand, or what it would take of the host is.
    fn is_by_hand(&self, name: &Name, request: &Request) -> bool {
        let ends: Vec<_> = request.ends().collect();
        let transport = Transport::from(request.transport);
        self.publications.iter().filter(|publication| !publication.info.auto).any(|publication| {
            let info = &publication.info;
            let is_its = info.container.as_deref() == Some(name.as_str());
            let is_the_same = is_its && info.target.port() == request.first;
            info.transport == transport && (is_the_same || meets(&ends, &info.end()))
        })
    }

    fn publish_due(
        &mut self,
        name: &Name,
        due: &Due,
        next_id: &mut u64,
    ) -> Result<Vec<model::Publication>, Error> {
        let claims = publish::bind(std::slice::from_ref(&due.request), &mut Opened::default());
        let claims = claims.map_err(|error| refusal(&error))?;
        claims.iter().for_each(|claim| claim.announce(due.container));
        let cause = super::published::Cause { wish: &due.text, origin: &due.origin, auto: true };
        self.publish_at(claims, due.container, name, cause, next_id)
    }

    /// Ends what was published by itself where something is to be published by hand. It is told of after that.
    pub(super) fn make_way(&mut self, request: &Request) {
        let ends: Vec<_> = request.ends().collect();
        let transport = Transport::from(request.transport);
        let automatic = self.publications.iter().filter(|publication| publication.info.auto);
        let in_the_way = automatic
            .map(|publication| &publication.info)
            .filter(|info| info.transport == transport && meets(&ends, &info.end()));
        // Of a port with two ends both go.
        let ports: BTreeSet<_> = in_the_way.map(port_of).collect();
        let gone = self.unpublish_where(|publication| {
            publication.info.auto && ports.contains(&port_of(&publication.info))
        });
        self.ended.extend(gone);
    }
}

impl Automatic {
    fn of(wish: &PortWish, origin: Origin) -> Option<Self> {
        match &wish.wished {
            Wished::Listening(automatic) => {
                Some(Self { wish: automatic.clone(), text: wish.text.clone(), origin })
            }
            Wished::Ports(_) => None,
        }
    }

    /// Everything at a container's external address.
    fn at(address: IpAddr, name: &Name) -> [Self; 2] {
        [Transport::Tcp, Transport::Udp].map(|transport| Self {
            wish: auto::Wish {
                place: Place::Address(address),
                transport: transport.into(),
                tells_clients: false,
            },
            text: format!("external {address} {transport}"),
            origin: Origin::Port(name.clone()),
        })
    }
}

/// The container's port that something leads to.
fn port_of(info: &model::Publication) -> (Option<String>, Transport, u16) {
    (info.container.clone(), info.transport, info.target.port())
}

fn meets(ends: &[End], end: &End) -> bool {
    ends.iter().any(|other| other.meets(end))
}
