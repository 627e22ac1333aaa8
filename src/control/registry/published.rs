// SPDX-License-Identifier: MIT OR Apache-2.0
//! Published ports, by command.

use super::{Inner, Registry, end_unlocked};
use crate::control::error::Error;
use crate::control::model::{self, EventKind};
use crate::control::network::{Network, Origin};
use crate::control::spec::{Name, PortWish};
use crate::publish::{Claim, Opened, Request};

impl Registry {
    /// Publishes ports, or a unix socket that is `opened`, which are published again after a restart.
    ///
    /// # Errors
    /// See [`Network::publish`].
    pub fn publish(
        &self,
        request: &model::PublishRequest,
        mut opened: Opened,
    ) -> Result<Vec<model::Publication>, Error> {
        let wish = PortWish::parse(&request.ports).map_err(Error::invalid)?;
        let Some(ports) = wish.request() else {
            let message = "what a container listens on is published as long as it is attached";
            return Err(Error::invalid(message)
                .hint("`wharf attach -p auto`, or publish = [\"auto:NAME\"] in the file"));
        };
        let network = request.network.as_deref().map(Name::parse).transpose().map_err(Error::invalid)?;
        let mut inner = self.lock();
        let published = self.publish_in(&mut inner, network.as_ref(), &wish, ports, &mut opened);
        end_unlocked(inner, ());
        published
    }

    fn publish_in(
        &self,
        inner: &mut Inner,
        network: Option<&Name>,
        wish: &PortWish,
        ports: &Request,
        opened: &mut Opened,
    ) -> Result<Vec<model::Publication>, Error> {
        let name = inner.meant(network)?;
        inner.network(&name)?;
        let Inner { networks, next_id, .. } = inner;
        let Some(network) = networks.get_mut(&name) else { return Ok(Vec::new()) };
        let made = network
            .publish(wish, &Origin::Api, next_id, opened)
            .map_err(|refusal| inner.naming_publication(refusal, std::slice::from_ref(ports)))?;
        inner.save(&name);
        self.tell_ended(inner, &name);
        for publication in &made {
            self.events.tell(name.as_str(), EventKind::Publish(publication.clone()));
        }
        Ok(made)
    }

    /// Tells of publications that a change has ended on its way.
    pub(super) fn tell_ended(&self, inner: &mut Inner, name: &Name) {
        let ended = inner.networks.get_mut(name).map(Network::take_ended);
        for publication in ended.into_iter().flatten() {
            self.events.tell(name.as_str(), EventKind::Unpublish(publication));
        }
    }

    /// Publishes a port of the sandbox of `wharf run` that is bound already.
    ///
    /// # Errors
    /// It cannot be watched.
    pub fn publish_claim(&self, claim: Claim) -> Result<(), Error> {
        let mut inner = self.lock();
        let name = inner.meant(None)?;
        let Inner { networks, next_id, .. } = &mut *inner;
        if let Some(network) = networks.get_mut(&name) {
            network.publish_claims(vec![claim], &name, "", &Origin::Port(name.clone()), next_id)?;
        }
        Ok(())
    }

    /// Ends a publication.
    ///
    /// # Errors
    /// There is none with this number.
    pub fn unpublish(&self, id: u64) -> Result<model::Publication, Error> {
        let mut inner = self.lock();
        let ended = inner
            .networks
            .iter_mut()
            .find_map(|(name, network)| network.unpublish(id).map(|publication| (name.clone(), publication)));
        let Some((name, publication)) = ended else {
            return Err(Error::not_found(format!("nothing published has the number {id}")));
        };
        inner.save(&name);
        self.events.tell(name.as_str(), EventKind::Unpublish(publication.clone()));
        end_unlocked(inner, ());
        Ok(publication)
    }

    /// Everything published, of one network or of all.
    ///
    /// # Errors
    /// There is no such network.
    pub fn publications(&self, network: Option<&Name>) -> Result<Vec<model::Publication>, Error> {
        self.each(network, Network::publications)
    }
}
