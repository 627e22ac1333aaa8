// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which networks are linked: those of which one says so, and that can be told apart.
//!
//! # How it works
//! A link is of both networks, whichever of them names it. Their prefixes must not overlap, nor those of two networks that
//! one is linked with: an address leads to one place. For the same reason each has a domain of its own.
//!
//! Where two links exclude each other, one that there is comes before one of the file, and that before one of a command.
//! The other waits, as does a link with a network that is not there. Only who asks for what cannot be is refused: a file that
//! contradicts itself, a command that makes a network.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::Inner;
use crate::control::error::{Code, Error};
use crate::control::network::{Network, Origin};
use crate::control::spec::{Name, NetworkSpec};
use crate::netns::plan::overlap;

/// Networks, each with those that it names.
type Wished<'a> = BTreeMap<&'a Name, (&'a Network, &'a [Name])>;

/// Networks that are linked, each with all that it is linked with.
type Links = BTreeMap<Name, BTreeSet<Name>>;

/// A link that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Who names it.
    by: Name,
    /// With whom.
    with: Name,
    /// Why it cannot be, unless it is only that the other network is not there.
    clash: Option<Error>,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { by, with, clash } = self;
        match clash {
            None => write!(f, "network {by} is to be linked with {with}, and there is no network {with} yet"),
            Some(clash) => write!(f, "network {by} is not linked with {with}: {clash}"),
        }
    }
}

impl Inner {
    /// The links of all networks, and those that wait.
    fn links(&self) -> (Links, Vec<Waiting>) {
        let all = self.networks.iter();
        link(&all.map(|(name, network)| (name, (network, network.spec().links.as_slice()))).collect())
    }

    /// Looks whether the networks of a file, which run, can be linked as it says, whatever networks there are beside them.
    ///
    /// # Errors
    /// Two of its links exclude each other, or one cannot be.
    pub(super) fn check_links_of_file(&self, file: &BTreeMap<Name, NetworkSpec>) -> Result<(), Error> {
        let running = file.iter().filter_map(|(name, spec)| {
            let network = self.networks.get(name)?;
            Some((name, (network, spec.links.as_slice())))
        });
        let (_, waiting) = link(&running.collect());
        waiting.into_iter().find_map(|link| link.clash).map_or(Ok(()), Err)
    }

    /// Looks whether a new network can be linked with all that it names, and that name it, beside the links that there are.
    ///
    /// # Errors
    /// It cannot.
    pub(super) fn check_links_of(&self, new: &Name) -> Result<(), Error> {
        let (_, waiting) = self.links();
        let mut its = waiting.into_iter().filter(|link| link.by == *new || link.with == *new);
        its.find_map(|link| link.clash).map_or(Ok(()), Err)
    }

    /// Links the networks as they wish now, and ends other links. Tells which wait.
    pub(super) fn renew_links(&mut self) -> Vec<Waiting> {
        let (links, waiting) = self.links();
        let names: Vec<_> = self.networks.keys().cloned().collect();
        for name in names {
            self.set_links(&name, links.get(&name).into_iter().flatten());
        }
        waiting
    }

    /// Tells those that a network is linked with who is attached to it now.
    pub(super) fn tell_linked(&mut self, name: &Name) {
        let Some(network) = self.networks.get(name) else { return };
        for other in network.links().cloned().collect::<Vec<_>>() {
            let Some(links) = self.networks.get(&other).map(|other| other.links().cloned()) else { continue };
            let links: Vec<_> = links.collect();
            self.set_links(&other, &links);
        }
    }

    fn set_links<'a>(&mut self, name: &Name, others: impl IntoIterator<Item = &'a Name>) {
        let end = |other| self.networks.get(other).map(Network::link_end);
        let ends: Vec<_> = others.into_iter().filter_map(end).collect();
        if let Some(network) = self.networks.get_mut(name)
            && !(ends.is_empty() && network.links().next().is_none())
        {
            network.set_links(ends);
        }
    }
}

/// Links these networks as they wish, and tells which links wait.
fn link(wished: &Wished<'_>) -> (Links, Vec<Waiting>) {
    let mut pairs = Vec::new();
    for (name, (network, links)) in wished {
        pairs.extend(links.iter().map(|with| (precedence(network, with), *name, with)));
    }
    pairs.sort_by_key(|(precedence, ..)| *precedence);
    let (mut links, mut waiting) = (Links::new(), Vec::new());
    for (_, by, with) in pairs {
        let is_there = wished.contains_key(with);
        let clash = obstacle(wished, &links, (by, with));
        if is_there && clash.is_none() {
            links.entry(by.clone()).or_default().insert(with.clone());
            links.entry(with.clone()).or_default().insert(by.clone());
        } else {
            waiting.push(Waiting { by: by.clone(), with: with.clone(), clash });
        }
    }
    (links, waiting)
}

/// What comes first of links that exclude each other: no flow ends for a new one, and the file rules commands.
fn precedence(by: &Network, with: &Name) -> (bool, bool) {
    let is_new = !by.links().any(|linked| linked == with);
    (is_new, *by.origin() != Origin::File)
}

/// Why two networks cannot be linked, beside the `links` that there are. Nothing is in the way of one that is not there.
fn obstacle(wished: &Wished<'_>, links: &Links, (name, other): (&Name, &Name)) -> Option<Error> {
    let network = |name: &Name| wished.get(name).map(|(network, _)| *network);
    let (one, with) = (network(name)?, network(other)?);
    if let Some(what) = in_common(one, with) {
        let message = format!("networks {name} and {other} cannot be linked: {what}");
        return Some(Error::new(Code::InUse, message));
    }
    if !share_a_family(one, with) {
        let message =
            format!("networks {name} and {other} cannot be linked: one has IPv4 only, the other IPv6 only");
        return Some(Error::invalid(message));
    }
    let beside = |one: &Name, new: &Name| {
        let others = links.get(one).into_iter().flatten().filter(|there| *there != new);
        let mut clashes = others.filter_map(|there| {
            let what = in_common(network(new)?, network(there)?)?;
            Some(format!("network {one} cannot be linked with both {there} and {new}: {what}"))
        });
        clashes.next().map(|message| Error::new(Code::InUse, message))
    };
    beside(name, other).or_else(|| beside(other, name))
}

/// What two networks have both, so that nobody can tell which is meant.
fn in_common(one: &Network, other: &Network) -> Option<String> {
    let same_domain = one.domain().zip(other.domain()).filter(|(a, b)| a.eq_ignore_ascii_case(b));
    if let Some((domain, _)) = same_domain {
        return Some(format!("both have the domain {domain}"));
    }
    let others = other.prefixes();
    one.prefixes().into_iter().find_map(|prefix| {
        let overlapping = others.iter().find(|other| overlap(prefix, **other))?;
        Some(format!("{prefix} and {overlapping} overlap"))
    })
}

/// Whether any packet could pass from one to the other.
fn share_a_family(one: &Network, other: &Network) -> bool {
    let others = other.prefixes();
    one.prefixes().iter().any(|a| others.iter().any(|b| a.address().version() == b.address().version()))
}
