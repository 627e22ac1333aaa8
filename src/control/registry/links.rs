// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which networks are linked: those of which one says so, and that can be told apart.
//!
//! # How it works
//! A link is of both networks, whichever of them names it. Their prefixes must not overlap, nor those of two networks that
//! one is linked with: an address leads to one place. For the same reason each has a domain of its own.

use std::collections::{BTreeMap, BTreeSet};

use smoltcp::wire::IpCidr;

use super::Inner;
use crate::control::error::{Code, Error};
use crate::control::network::{Network, Origin};
use crate::control::spec::{Name, NetworkSpec};

/// Networks that are linked, each with all that it is linked with.
type Links = BTreeMap<Name, BTreeSet<Name>>;

/// A link that cannot be.
#[derive(Debug)]
pub(super) struct Unlinked {
    /// Who says that it is to be.
    pub(super) by: Name,
    /// With whom.
    with: Name,
    /// Why it cannot.
    pub(super) error: Error,
}

impl Unlinked {
    /// Whether it would be this network's.
    pub(super) fn is_of(&self, name: &Name) -> bool {
        self.by == *name || self.with == *name
    }
}

impl Inner {
    /// The links of all networks but those that are `gone`, after these changes; and those that cannot be.
    fn links(&self, changes: &[(Name, NetworkSpec)], gone: &[Name]) -> (Links, Vec<Unlinked>) {
        let networks: BTreeMap<_, _> =
            self.networks.iter().filter(|(name, _)| !gone.contains(name)).collect();
        let (mut links, mut unlinked) = (Links::new(), Vec::new());
        for (name, network) in &networks {
            let changed = changes.iter().find(|(changed, _)| changed == *name).map(|(_, spec)| spec);
            for other in &changed.unwrap_or(network.spec()).links {
                match obstacle(&networks, &links, (name, other)) {
                    Some(error) => {
                        unlinked.push(Unlinked { by: (*name).clone(), with: other.clone(), error });
                    }
                    None => {
                        links.entry((*name).clone()).or_default().insert(other.clone());
                        links.entry(other.clone()).or_default().insert((*name).clone());
                    }
                }
            }
        }
        (links, unlinked)
    }

    /// Links that are wished after these changes and cannot be.
    pub(super) fn unlinked(&self, changes: &[(Name, NetworkSpec)], gone: &[Name]) -> Vec<Unlinked> {
        self.links(changes, gone).1
    }

    /// [`unlinked`](Self::unlinked), where the file has the wish.
    ///
    /// # Errors
    /// There is one.
    pub(super) fn refuse_unlinked_of_file(
        &self,
        changes: &[(Name, NetworkSpec)],
        gone: &[Name],
    ) -> Result<(), Error> {
        let is_of_file = |link: &Unlinked| {
            self.networks.get(&link.by).is_some_and(|network| *network.origin() == Origin::File)
        };
        let refused = self.unlinked(changes, gone).into_iter().find(is_of_file);
        refused.map_or(Ok(()), |Unlinked { error, .. }| Err(error))
    }

    /// Links the networks as they wish now, and ends other links.
    pub(super) fn renew_links(&mut self) {
        let (links, _) = self.links(&[], &[]);
        let names: Vec<_> = self.networks.keys().cloned().collect();
        for name in names {
            self.set_links(&name, links.get(&name).into_iter().flatten());
        }
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

/// Why two networks cannot be linked, beside the `links` that there are.
fn obstacle(
    networks: &BTreeMap<&Name, &Network>,
    links: &Links,
    (name, other): (&Name, &Name),
) -> Option<Error> {
    let (Some(network), Some(with)) = (networks.get(name), networks.get(other)) else {
        let message = format!("network {name} is to be linked with {other}, and there is no network {other}");
        return Some(Error::not_found(message));
    };
    if let Some(what) = in_common(network, with) {
        let message = format!("networks {name} and {other} cannot be linked: {what}");
        return Some(Error::new(Code::InUse, message));
    }
    let beside = |one: &Name, new: &Name| {
        let others = links.get(one).into_iter().flatten().filter(|there| *there != new);
        let mut clashes = others.filter_map(|there| {
            let what = in_common(networks.get(new)?, networks.get(there)?)?;
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
        let overlapping = others.iter().find(|other| overlap(&prefix, other))?;
        Some(format!("{prefix} and {overlapping} overlap"))
    })
}

fn overlap(a: &IpCidr, b: &IpCidr) -> bool {
    // Addresses of two families are never in one prefix.
    a.contains_subnet(b) || b.contains_subnet(a)
}
