// SPDX-License-Identifier: MIT OR Apache-2.0
//! All networks of one process, by name: what requests are about.
//!
//! # How it works
//! One lock, since the control plane is asked seldom; whoever holds it may wait for a turn of a worker, not longer. What
//! workers tell without being asked ([`Notice`]) goes through a channel, as its handling takes the lock.

mod links;
mod published;
mod reload;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;

use smoltcp::wire::Ipv4Cidr;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use wharf_switch::{Alarm, Reason as _};

use super::error::{Code, Error};
use super::events::Events;
use super::model::{self, EventKind, Mode};
use super::network::{AttachRequest, Attachment, Detached, Network, Offer, Origin, Surroundings};
use super::spec::{File, Name, NetworkSpec, Text};
use super::state::State;
use crate::dataplane::{Notice, Notify};
use crate::port::Device;
use crate::publish::{self, End, Opened, Request};

mod watch;

pub use watch::Watch;

/// The network that is meant when none is named and there are several, and that there is without a file.
pub const DEFAULT_NETWORK: &str = "default";

/// A [`Notice`] of a network.
pub type Told = (Name, Notice);

/// The networks.
#[derive(Debug)]
pub struct Registry {
    mode: Mode,
    inner: Mutex<Inner>,
    events: Events,
    notices: UnboundedSender<Told>,
    /// Who looks what containers listen on.
    watch: OnceLock<Thread>,
}

#[derive(Debug)]
struct Inner {
    networks: BTreeMap<Name, Network>,
    /// The host's part of it: without the other networks' addresses.
    around: Surroundings,
    state: State,
    file: Option<PathBuf>,
    next_id: u64,
}

impl Inner {
    fn network(&mut self, name: &Name) -> Result<&mut Network, Error> {
        let known = || {
            let names: Vec<_> = self.networks.keys().map(Name::as_str).collect();
            if names.is_empty() {
                "there is none".to_owned()
            } else {
                format!("there is {}", names.join(", "))
            }
        };
        match self.networks.contains_key(name) {
            false => Err(Error::not_found(format!("there is no network {name}")).hint(known())),
            true => self.networks.get_mut(name).ok_or_else(|| Error::not_found(name.as_str())),
        }
    }

    /// The network that is meant when none is named.
    fn meant(&self, name: Option<&Name>) -> Result<Name, Error> {
        if let Some(name) = name {
            return Ok(name.clone());
        }
        let mut names = self.networks.keys();
        match (names.next(), names.next()) {
            (Some(only), None) => Ok(only.clone()),
            (None, _) => {
                Err(Error::not_found("there is no network").hint("make one: `wharf network create NAME`"))
            }
            _ => {
                self.networks.keys().find(|name| name.as_str() == DEFAULT_NETWORK).cloned().ok_or_else(|| {
                    Error::invalid("there are several networks").hint("say which: --network NAME")
                })
            }
        }
    }

    /// What a new network finds around it.
    fn around(&self) -> Surroundings {
        let mut around = self.around.clone();
        around.taken.extend(self.networks.values().filter_map(Network::ipv4).collect::<Vec<Ipv4Cidr>>());
        around
    }

    /// Whether the external addresses of somebody who wants to be attached are nobody's on any network.
    fn check_external(&self, network: &Name, request: &AttachRequest) -> Result<(), Error> {
        let addresses = self.networks.get(network).map(|of| of.external(request)).unwrap_or_default();
        self.networks.iter().try_for_each(|(name, of)| {
            let own = request.name.as_ref().filter(|_| name == network);
            of.check_external(&addresses, own)
        })
    }

    /// A refusal of these ports with the publication that has one of them, if it is that.
    fn naming_publication(&self, refusal: Error, wishes: &[Request]) -> Error {
        let published = |wish: &Request| {
            let (transport, mut ends) = (wish.transport.into(), wish.ends());
            let is_meant = |publication: &model::Publication, end: &End| {
                publication.transport == transport && publication.end().meets(end)
            };
            let all = || self.networks.values().flat_map(Network::publications);
            ends.find_map(|end| all().find(|publication| is_meant(publication, &end)))
        };
        match wishes.iter().filter(|_| refusal.code == Code::InUse).find_map(published) {
            None => refusal,
            Some(model::Publication { id, network, container, .. }) => {
                let whose = container.map_or_else(String::new, |name| format!(" for {name}"));
                let hint = format!("network {network} has it published{whose}: number {id} of `wharf ports`");
                Error { code: Code::Exists, ..refusal }.hint(hint)
            }
        }
    }

    fn save(&self, name: &Name) {
        if let Some(network) = self.networks.get(name) {
            self.state.save(name, &network.kept());
        }
    }
}

/// Ends what takes its time, where nobody waits for the lock: `gone`, and the names of unix sockets.
fn end_unlocked<T>(mut inner: MutexGuard<'_, Inner>, gone: T) {
    let leaving: Vec<_> = inner.networks.values_mut().flat_map(Network::take_leaving).collect();
    drop(inner);
    drop(gone);
    publish::wait_for_all(leaving);
}

impl Registry {
    /// A registry without networks. What workers have to say goes to `notices`, to be handed to
    /// [`heed`](Self::heed).
    #[must_use]
    pub fn new(mode: Mode, around: Surroundings, state: State, notices: UnboundedSender<Told>) -> Self {
        let inner = Inner { networks: BTreeMap::new(), around, state, file: None, next_id: 1 };
        Self { mode, inner: Mutex::new(inner), events: Events::default(), notices, watch: OnceLock::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Whoever panicked has left nothing that would make the others' requests wrong.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The registry of a `wharf run`: one network, which does not change.
    #[must_use]
    pub fn of_run(network: Network) -> Self {
        // Nothing is told: a lost worker ends the process.
        let (notices, _) = tokio::sync::mpsc::unbounded_channel();
        let registry = Self::new(Mode::Run, Surroundings::default(), State::default(), notices);
        registry.lock().networks.insert(network.name().clone(), network);
        registry
    }

    /// Refuses what only a daemon does.
    fn daemon_only(&self) -> Result<(), Error> {
        match self.mode {
            Mode::Daemon => Ok(()),
            Mode::Run => Err(Error::new(Code::Unsupported, "a `wharf run` has one network with one sandbox")
                .hint("`wharf up` serves as many as you like")),
        }
    }

    /// What happens.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// What this process is.
    #[must_use]
    pub fn info(&self) -> model::Info {
        model::Info {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            api: 1,
            pid: std::process::id(),
            mode: self.mode,
        }
    }

    // ---- networks ----

    /// Starts the networks of a file and those that were made through the API, with the unix sockets that are `opened` for
    /// them ([`UnixSockets`]). A port that cannot be published is told, and its network works.
    ///
    /// # Errors
    /// A network of the file cannot be started, or not be linked with another one of it.
    pub fn restore(&self, path: Option<PathBuf>, file: File, mut opened: Opened) -> Result<(), Error> {
        let mut inner = self.lock();
        inner.file = path;
        for (name, spec) in &file.networks {
            self.start(&mut inner, name, spec.clone(), Origin::File, &mut opened)?;
        }
        inner.check_links_of_file(&file.networks)?;
        for name in inner.state.networks() {
            let made_as = inner.state.load(&name).made_as;
            if let Some(spec) = made_as.filter(|_| !inner.networks.contains_key(&name))
                && let Err(error) = self.start(&mut inner, &name, spec, Origin::Api, &mut opened)
            {
                tracing::warn!("network {name} is not there again: {error}");
            }
        }
        for waiting in inner.renew_links() {
            tracing::warn!("{waiting}");
        }
        Ok(())
    }

    fn start(
        &self,
        inner: &mut Inner,
        name: &Name,
        spec: NetworkSpec,
        origin: Origin,
        opened: &mut Opened,
    ) -> Result<(), Error> {
        let kept = inner.state.load(name);
        let publications = kept.publications.clone();
        let around = inner.around();
        let mut network = Network::start(name.clone(), spec, origin, kept, &around, self.notify(name))?;
        for error in network.publish_specified(&mut inner.next_id, opened) {
            tracing::warn!("network {name}: {error}");
        }
        network.restore_publications(publications, &mut inner.next_id, opened);
        inner.networks.insert(name.clone(), network);
        inner.save(name);
        self.events.tell(name.as_str(), EventKind::NetworkUp);
        Ok(())
    }

    fn notify(&self, name: &Name) -> Notify {
        let (notices, name) = (self.notices.clone(), name.clone());
        Arc::new(move |notice| {
            // Nobody listens any more at the end of the process.
            let _ = notices.send((name.clone(), notice));
        })
    }

    /// Makes a network, which is there again after a restart.
    ///
    /// # Errors
    /// It exists, makes no sense, or cannot be started or linked.
    pub fn create_network(&self, request: model::CreateNetwork) -> Result<model::Network, Error> {
        self.daemon_only()?;
        let name = Name::parse(&request.name).map_err(Error::invalid)?;
        request.spec.check(&name).map_err(|text| Error::invalid(format!("network {name}: {text}")))?;
        let mut inner = self.lock();
        if inner.networks.contains_key(&name) {
            return Err(Error::new(Code::Exists, format!("there is a network {name} already")));
        }
        self.start(&mut inner, &name, request.spec, Origin::Api, &mut Opened::default())?;
        if let Err(error) = inner.check_links_of(&name) {
            let undone = self.remove(&mut inner, &name);
            inner.state.forget(&name);
            end_unlocked(inner, undone);
            return Err(error);
        }
        inner.renew_links();
        Ok(inner.network(&name)?.describe_network())
    }

    /// Ends a network and detaches whoever is attached to it.
    ///
    /// # Errors
    /// There is none of that name, or the file says that there is to be one.
    pub fn remove_network(&self, name: &Name) -> Result<(), Error> {
        self.daemon_only()?;
        let mut inner = self.lock();
        if *inner.network(name)?.origin() == Origin::File {
            let message = format!("network {name} stands in the configuration file");
            return Err(Error::new(Code::Forbidden, message).hint("remove it there, then `wharf reload`"));
        }
        let gone = self.remove(&mut inner, name);
        inner.renew_links();
        inner.state.forget(name);
        end_unlocked(inner, gone);
        Ok(())
    }

    fn remove(&self, inner: &mut Inner, name: &Name) -> Option<Network> {
        let gone = inner.networks.remove(name)?;
        self.events.tell(name.as_str(), EventKind::NetworkDown);
        Some(gone)
    }

    /// Every network.
    #[must_use]
    pub fn networks(&self) -> Vec<model::Network> {
        self.lock().networks.values().map(Network::describe_network).collect()
    }

    /// The host has other nameservers from now on.
    pub fn set_nameservers(&self, servers: Vec<std::net::SocketAddr>) {
        let mut inner = self.lock();
        for network in inner.networks.values() {
            network.set_nameservers(&servers);
        }
        inner.around.nameservers = servers;
    }

    // ---- ports ----

    /// Sets a name and addresses aside for who is about to be attached.
    ///
    /// # Errors
    /// See [`Network::offer`].
    pub fn offer(&self, request: &mut AttachRequest) -> Result<Offer, Error> {
        self.daemon_only()?;
        let mut inner = self.lock();
        let name = inner.meant(request.network.as_ref())?;
        request.network = Some(name.clone());
        inner.check_external(&name, request)?;
        inner.network(&name)?.offer(request)
    }

    /// Nobody is attached after all.
    pub fn withdraw_offer(&self, offer: &Offer) {
        let mut inner = self.lock();
        if let Ok(network) = inner.network(&offer.network) {
            network.withdraw_offer(&offer.name);
            // Somebody else's attachment may have been kept in between.
            inner.save(&offer.network);
        }
    }

    /// Attaches who has an offer. `leash` is dropped when it is detached.
    ///
    /// # Errors
    /// See [`Network::attach`].
    pub fn attach(
        &self,
        request: AttachRequest,
        attachment: Attachment,
        leash: oneshot::Sender<Infallible>,
        opened: Opened,
    ) -> Result<model::Port, Error> {
        let mut inner = self.lock();
        let attached = self.attach_to(&mut inner, request, attachment, leash, opened);
        // Who is refused may have had a unix socket published by then.
        end_unlocked(inner, ());
        attached
    }

    fn attach_to(
        &self,
        inner: &mut Inner,
        request: AttachRequest,
        attachment: Attachment,
        leash: oneshot::Sender<Infallible>,
        opened: Opened,
    ) -> Result<model::Port, Error> {
        let name = inner.meant(request.network.as_ref())?;
        // Somebody else may have come since the offer.
        inner.check_external(&name, &request)?;
        let Inner { networks, next_id, .. } = inner;
        let network =
            networks.get_mut(&name).ok_or_else(|| Error::not_found(format!("there is no network {name}")))?;
        let wishes: Vec<_> =
            request.publish.iter().filter_map(|Text(wish)| wish.request().cloned()).collect();
        let port = network
            .attach(request, attachment, leash, next_id, opened)
            .map_err(|refusal| inner.naming_publication(refusal, &wishes))?;
        inner.tell_linked(&name);
        inner.save(&name);
        self.tell_ended(inner, &name);
        let addresses = port.ipv4.map(Into::into).into_iter().chain(port.ipv6.map(Into::into)).collect();
        let kind = EventKind::Attach { name: port.name.clone(), mac: port.mac.clone(), addresses };
        self.events.tell(name.as_str(), kind);
        self.wake_watch();
        Ok(port)
    }

    /// Detaches a port.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn detach(&self, network: Option<&Name>, port: &Name, reason: &str) -> Result<(), Error> {
        self.daemon_only()?;
        let mut inner = self.lock();
        let network = match network {
            Some(network) => network.clone(),
            None => self.network_of(&inner, port)?,
        };
        let devices = self.detach_from(&mut inner, &network, port, reason)?;
        end_unlocked(inner, devices);
        Ok(())
    }

    /// The only network that a port of this name is attached to.
    fn network_of(&self, inner: &Inner, port: &Name) -> Result<Name, Error> {
        let has = |(name, network): (&Name, &Network)| network.is_attached(port).then(|| name.clone());
        let mut networks = inner.networks.iter().filter_map(has);
        match (networks.next(), networks.next()) {
            (Some(network), None) => Ok(network),
            (None, _) => Err(Error::not_found(format!("nobody called {port} is attached"))),
            _ => {
                let message = format!("{port} is attached to several networks");
                Err(Error::invalid(message).hint("say from which it is to be detached: --network NAME"))
            }
        }
    }

    fn detach_from(
        &self,
        inner: &mut Inner,
        network: &Name,
        port: &Name,
        reason: &str,
    ) -> Result<Vec<Device>, Error> {
        let Some(Detached { unpublished, devices }) = inner.network(network)?.detach(port) else {
            return Err(Error::not_found(format!("nobody called {port} is attached to network {network}")));
        };
        inner.tell_linked(network);
        for publication in unpublished {
            self.events.tell(network.as_str(), EventKind::Unpublish(publication));
        }
        let kind = EventKind::Detach { name: port.to_string(), reason: reason.to_owned() };
        self.events.tell(network.as_str(), kind);
        Ok(devices)
    }

    /// Detaches the port with this id, if it is attached still: a name may have gone to another by now.
    pub fn detach_id(&self, network: &Name, id: &str, reason: &str) {
        let mut inner = self.lock();
        let name = inner.networks.get(network).and_then(|network| network.name_of(id));
        // It is attached: its name was just found.
        let devices = name.map(|name| self.detach_from(&mut inner, network, &name, reason));
        end_unlocked(inner, devices);
    }

    /// Does what a [`Notice`] asks for.
    pub fn heed(&self, (network, notice): Told) {
        match notice {
            Notice::PortClosed(id) => {
                self.detach_id(&network, &super::network::id_text(id), "its device is gone");
            }
            Notice::Guard(Alarm { port, reason, count }) => {
                let networks = &self.lock().networks;
                let name = networks.get(&network).and_then(|of| of.name_of(&super::network::id_text(port)));
                let (name, reason) = (name.map(|name| name.to_string()), reason.name().to_owned());
                self.events.tell(network.as_str(), EventKind::Guard { name, reason, count });
            }
            Notice::Leases => {
                let mut inner = self.lock();
                let new = inner.networks.get_mut(&network).map(Network::new_leases);
                inner.save(&network);
                for (address, mac) in new.into_iter().flatten() {
                    self.events.tell(network.as_str(), EventKind::Lease { address, mac });
                }
            }
            Notice::WorkerLost => {
                if let Some(network) = self.lock().networks.get_mut(&network) {
                    network.lost();
                }
                self.events.tell(network.as_str(), EventKind::NetworkLost);
            }
        }
    }

    /// Every port, of one network or of all.
    ///
    /// # Errors
    /// There is no such network.
    pub fn ports(&self, network: Option<&Name>) -> Result<Vec<model::Port>, Error> {
        self.each(network, Network::ports)
    }

    // ---- looking ----

    /// Every address that somebody has or will get, of one network or of all.
    ///
    /// # Errors
    /// There is no such network.
    pub fn leases(&self, network: Option<&Name>) -> Result<Vec<model::Lease>, Error> {
        self.each(network, Network::leases)
    }

    /// Every flow, of one network or of all.
    ///
    /// # Errors
    /// There is no such network.
    pub fn flows(&self, network: Option<&Name>) -> Result<Vec<model::Flow>, Error> {
        self.each(network, Network::flows)
    }

    /// What went through one network or all, and what did not.
    ///
    /// # Errors
    /// There is no such network.
    pub fn stats(&self, network: Option<&Name>) -> Result<Vec<model::Stats>, Error> {
        self.each(network, |network| vec![network.stats()])
    }

    fn each<T>(&self, network: Option<&Name>, list: impl Fn(&Network) -> Vec<T>) -> Result<Vec<T>, Error> {
        let mut inner = self.lock();
        match network {
            Some(name) => Ok(list(inner.network(name)?)),
            None => Ok(inner.networks.values().flat_map(list).collect()),
        }
    }
}

/// What a daemon with a file and a state needs of the file system beyond them, before it is confined.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct UnixSockets {
    /// The sockets that it publishes.
    pub published: BTreeSet<PathBuf>,
    /// The directories of the host's sockets that its networks lead to.
    pub connectable: BTreeSet<PathBuf>,
}

impl UnixSockets {
    /// Looks for all of them.
    #[must_use]
    pub fn of(file: &File, state: &State) -> Self {
        let kept: Vec<_> = state.networks().iter().map(|name| state.load(name)).collect();
        let specs = || file.networks.values().chain(kept.iter().filter_map(|kept| kept.made_as.as_ref()));
        let wished =
            specs().flat_map(|spec| &spec.publish).filter_map(|Text(wish)| wish.request()?.place.path());
        let before = kept.iter().flat_map(|kept| &kept.publications).filter_map(|before| before.host.path());
        let connectable = specs().flat_map(|spec| &spec.host_sockets).map(|Text(socket)| socket.directory());
        Self {
            published: wished.chain(before).map(PathBuf::from).collect(),
            connectable: connectable.map(PathBuf::from).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
