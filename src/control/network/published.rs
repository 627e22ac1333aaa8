// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ports of the host that lead to a network's containers.

use super::{Error, Member, Name, Network, Origin, Wish};
use crate::control::error::Code;
use crate::control::model;
use crate::control::spec::{PortWish, Text};
use crate::dataplane::Published;
use crate::netns::Addresses;
use crate::publish::{self, Claim, Leaving, Opened};

/// Something published.
#[derive(Debug)]
pub(super) struct Publication {
    pub(super) info: model::Publication,
    pub(super) wish: String,
    pub(super) origin: Origin,
    published: Published,
}

impl Publication {
    /// Whether it is there because this container listens.
    pub(super) fn is_automatic_of(&self, name: &Name) -> bool {
        self.info.auto && self.info.container.as_deref() == Some(name.as_str())
    }
}

/// Why something is published.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cause<'a> {
    pub(super) wish: &'a str,
    pub(super) origin: &'a Origin,
    /// Only as long as the container listens.
    pub(super) auto: bool,
}

impl Network {
    /// Publishes ports, all that the wish names or none, and a unix socket if it is `opened`. What a container listens on
    /// is [followed](Self::follow) instead.
    ///
    /// # Errors
    /// It names nobody, or a port is not to be had.
    pub fn publish(
        &mut self,
        wish: &PortWish,
        origin: &Origin,
        next_id: &mut u64,
        opened: &mut Opened,
    ) -> Result<Vec<model::Publication>, Error> {
        if self.spec.internal {
            let message = format!("network {} is internal: nobody outside reaches it", self.name);
            return Err(Error::new(Code::Forbidden, message));
        }
        let name = self.published_name(wish)?;
        let Some(request) = wish.request() else { return Ok(Vec::new()) };
        self.make_way(request);
        let claims = publish::bind(std::slice::from_ref(request), opened).map_err(|error| refusal(&error))?;
        self.publish_claims(claims, &name, &wish.text, origin, next_id)
    }

    /// The same with ports that are bound already.
    ///
    /// # Errors
    /// A port cannot be watched, or the container has no address.
    pub fn publish_claims(
        &mut self,
        claims: Vec<Claim>,
        name: &Name,
        wish: &str,
        origin: &Origin,
        next_id: &mut u64,
    ) -> Result<Vec<model::Publication>, Error> {
        let addresses = self.member(name, Wish::default())?.addresses();
        self.publish_at(claims, addresses, name, Cause { wish, origin, auto: false }, next_id)
    }

    /// The same at those of the container's addresses that lead to its server.
    pub(super) fn publish_at(
        &mut self,
        claims: Vec<Claim>,
        addresses: Addresses,
        name: &Name,
        cause: Cause<'_>,
        next_id: &mut u64,
    ) -> Result<Vec<model::Publication>, Error> {
        let Cause { wish, origin, auto } = cause;
        let mut made = Vec::new();
        for claim in claims {
            match self.publish_one(claim, addresses, name, *next_id) {
                Ok((info, published)) => {
                    *next_id += 1;
                    let info = model::Publication { auto, ..info };
                    made.push(Publication { info, wish: wish.to_owned(), origin: origin.clone(), published });
                }
                Err(error) => {
                    made.into_iter().for_each(|publication| self.withdraw(publication));
                    return Err(error);
                }
            }
        }
        let infos: Vec<_> = made.iter().map(|publication| publication.info.clone()).collect();
        self.publications.extend(made);
        self.unbound.retain(|kept| {
            infos.iter().all(|info| (info.transport, info.end()) != (kept.transport, kept.end()))
        });
        Ok(infos)
    }

    /// Publishes what was published before at the same end, under the same number, to where its container is now.
    fn publish_again(
        &mut self,
        before: &model::Publication,
        wish: String,
        origin: Origin,
        opened: &mut Opened,
    ) -> Result<(), Error> {
        let name = before.container.as_deref().map(Name::parse).transpose().map_err(Error::invalid)?;
        let name = name.ok_or_else(|| Error::invalid("a published port of nobody"))?;
        let (transport, port) = (before.transport.into(), before.target.port());
        let claim = Claim::exactly(transport, before.end(), port, before.proxy, opened);
        let claim = claim.map_err(|error| refusal(&error))?;
        let addresses = self.member(&name, Wish::default())?.addresses();
        let (info, published) = self.publish_one(claim, addresses, &name, before.id)?;
        self.publications.push(Publication { info, wish, origin, published });
        Ok(())
    }

    /// Publishes what was published by command when the network ran last. What somebody else has now is kept for the next
    /// time.
    pub fn restore_publications(
        &mut self,
        kept: Vec<model::Publication>,
        next_id: &mut u64,
        opened: &mut Opened,
    ) {
        for before in kept {
            let again = model::Publication { id: *next_id, ..before };
            *next_id += 1;
            if let Err(error) = self.publish_again(&again, String::new(), Origin::Api, opened) {
                tracing::warn!("network {}: {error}", self.name);
                self.unbound.push(again);
            }
        }
    }

    /// What is to be published by the next that runs this network.
    pub(super) fn kept_publications(&self) -> Vec<model::Publication> {
        let by_command = self.publications.iter().filter(|publication| publication.origin == Origin::Api);
        by_command.map(|publication| &publication.info).chain(&self.unbound).cloned().collect()
    }

    /// Has published ports lead to where their container is now.
    pub(super) fn retarget(&mut self, name: &Name) {
        let Some(addresses) = self.members.by_name().get(name).map(Member::addresses) else { return };
        let is_stale = |publication: &Publication| {
            let seen_at = Some(publication.info.target.ip());
            publication.info.container.as_deref() == Some(name.as_str())
                && seen_at != addresses.ipv4.map(Into::into)
                && seen_at != addresses.ipv6.map(Into::into)
        };
        let (stale, right): (Vec<_>, _) =
            std::mem::take(&mut self.publications).into_iter().partition(is_stale);
        self.publications = right;
        for publication in stale {
            match publication.info.transport {
                model::Transport::Tcp => self.redirect(publication, addresses),
                model::Transport::Udp => self.replace(publication),
            }
        }
    }

    /// Has a TCP port lead to other addresses. Its listener stays.
    fn redirect(&mut self, mut publication: Publication, addresses: Addresses) {
        let info = &mut publication.info;
        if let (Some(running), Some(address)) = (&self.running, info.end().led_to(addresses)) {
            info.target.set_ip(address);
            running.redirect(&publication.published, info.target);
        }
        self.publications.push(publication);
    }

    /// Publishes a UDP port anew: another worker may have its container now. If somebody else has taken the port
    /// meanwhile, it ends; one made by command is kept for the next time.
    fn replace(&mut self, publication: Publication) {
        let (info, wish, origin) =
            (publication.info.clone(), publication.wish.clone(), publication.origin.clone());
        self.withdraw(publication);
        let is_by_command = origin == Origin::Api;
        if let Err(error) = self.publish_again(&info, wish, origin, &mut Opened::default()) {
            tracing::warn!("network {}: {error}", self.name);
            if is_by_command {
                self.unbound.push(info.clone());
            }
            self.ended.push(info);
        }
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
        addresses: Addresses,
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
            host: claim.host().at.clone(),
            interface: claim.host().interface.clone(),
            proxy: claim.tells_clients(),
            auto: false,
            container: Some(name.to_string()),
            target,
        };
        let published =
            self.running()?.publish(claim.leading_to(target)).map_err(|error| Error::internal(&error))?;
        Ok((info, published))
    }

    /// What ended without an order to end it, and was not told of yet.
    pub fn take_ended(&mut self) -> Vec<model::Publication> {
        std::mem::take(&mut self.ended)
    }

    fn withdraw(&mut self, publication: Publication) {
        if let Some(running) = &self.running {
            self.leaving.extend(running.withdraw(publication.published));
        }
    }

    /// The names of unix sockets that were published: to be waited for where nobody else waits.
    pub fn take_leaving(&mut self) -> Vec<Leaving> {
        std::mem::take(&mut self.leaving)
    }

    /// Ends what `ends` picks.
    pub(super) fn unpublish_where(&mut self, ends: impl Fn(&Publication) -> bool) -> Vec<model::Publication> {
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

    /// Has a published unix socket lead to where the specification says now: a running daemon could not make it again.
    pub(super) fn redirect_specified(&mut self) {
        for wish in self.missing() {
            let Some(request) = wish.request().filter(|request| request.place.path().is_some()) else {
                continue;
            };
            let same = self.publications.iter().position(|publication| {
                self.is_unspecified(publication)
                    && publication.info.end().at.path() == request.place.path()
                    && publication.info.proxy == request.tells_clients
            });
            // A wish that cannot be met is told where it is published.
            let (Some(at), Ok(name)) = (same, self.published_name(&wish)) else { continue };
            let Ok(member) = self.member(&name, Wish::default()) else { continue };
            let mut publication = self.publications.remove(at);
            publication.wish.clone_from(&wish.text);
            publication.info.container = Some(name.to_string());
            publication.info.target.set_port(*request.ports.start());
            self.redirect(publication, member.addresses());
        }
    }

    /// Ends what the specification no longer names.
    pub(super) fn unpublish_unspecified(&mut self) {
        let unspecified = self.publications.iter().filter(|publication| self.is_unspecified(publication));
        let ids: Vec<_> = unspecified.map(|publication| publication.info.id).collect();
        self.unpublish_where(|publication| ids.contains(&publication.info.id));
    }

    /// Publishes what the specification names and is not published yet. Returns what is not to be had.
    pub fn publish_specified(&mut self, next_id: &mut u64, opened: &mut Opened) -> Vec<Error> {
        let missing = self.missing();
        let publish = |wish: &PortWish| self.publish(wish, &Origin::File, next_id, opened).err();
        missing.iter().filter_map(publish).collect()
    }

    /// Whether the specification named it, and does so no more.
    fn is_unspecified(&self, publication: &Publication) -> bool {
        publication.origin == Origin::File
            && !self.spec.publish.iter().any(|Text(wish)| wish.text == publication.wish)
    }

    /// What the specification names and is not published.
    fn missing(&self) -> Vec<PortWish> {
        let is_there = |wish: &PortWish| {
            let mut there = self.publications.iter().filter(|publication| publication.origin == Origin::File);
            there.any(|publication| publication.wish == wish.text)
        };
        let wishes = self.spec.publish.iter().map(|Text(wish)| wish);
        wishes.filter(|wish| !is_there(wish)).cloned().collect()
    }
}

/// What a client is told of a port that is not to be had.
pub(crate) fn refusal(error: &publish::Error) -> Error {
    let code = match error.source.kind() {
        std::io::ErrorKind::AddrInUse => Code::InUse,
        std::io::ErrorKind::AlreadyExists => Code::Exists,
        std::io::ErrorKind::Unsupported => Code::Unsupported,
        std::io::ErrorKind::PermissionDenied => Code::Forbidden,
        _ => Code::Invalid,
    };
    Error { code, message: error.problem(), hint: error.hint() }
}
