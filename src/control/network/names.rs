// SPDX-License-Identifier: MIT OR Apache-2.0
//! A network's names and leases: what the first worker's gateway is told of them, and tells.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use wharf_stack::{LeaseState, LeaseView, Zone, ZoneBuilder, ZoneError};
use wharf_switch::Duration;

use super::{Member, Name, Network, seconds_since_1970};
use crate::control::model;
use crate::control::spec::Text;
use crate::control::state::KeptLease;

/// The worker that has leases and names.
pub(super) const FIRST: usize = 0;

/// Enters the names of one container.
fn enter(zone: &mut ZoneBuilder, name: &Name, aliases: &[Name], member: &Member) -> Result<(), ZoneError> {
    let addresses = member.list();
    zone.host(name.as_str(), &addresses)?;
    aliases.iter().try_for_each(|alias| zone.alias(alias.as_str(), &addresses).map(drop))
}

impl Network {
    /// Lets the forwarder answer for whoever is attached now, if the network has names. They were
    /// [checked](crate::control::spec::NetworkSpec::check).
    pub(super) fn renew_zone(&mut self) {
        let Some(Ok(mut zone)) = self.domain.as_deref().map(Zone::builder) else { return };
        for (name, attached) in &self.attached {
            let entered = enter(&mut zone, name, &attached.container.aliases, &attached.member);
            if let Err(error) = entered {
                tracing::warn!("network {}: {name} is not found under all of its names: {error}", self.name);
            }
        }
        self.zone = Arc::new(zone.build());
        if let Some(running) = &self.running {
            let zone = Arc::clone(&self.zone);
            // A worker that is gone is told of elsewhere.
            let _ = running.ask(FIRST, move |worker, _| worker.gateway.set_zone(zone));
        }
    }

    /// Has DHCP keep the members' addresses for them.
    pub(super) fn reserve_members(&mut self) {
        let members = self.members.by_name().iter();
        let mut wanted = members
            .filter_map(|(name, member)| Some((member.mac, (member.ipv4?, name.clone()))))
            .collect::<BTreeMap<_, _>>();
        let ended: Vec<_> = self.reserved.keys().filter(|mac| !wanted.contains_key(mac)).copied().collect();
        let new: Vec<_> = wanted
            .iter()
            .filter(|(mac, kept)| self.reserved.get(mac) != Some(kept))
            .map(|(mac, (address, name))| (*mac, *address, name.to_string()))
            .collect();
        if ended.is_empty() && new.is_empty() {
            return;
        }
        if let Some(running) = &self.running {
            let told = running.ask(FIRST, move |worker, now| {
                for mac in ended {
                    worker.gateway.release_reservation(now, mac);
                    // It is nobody's any more: a lease would keep the address from who has it next.
                    worker.gateway.release_leases(mac);
                }
                let refused = new.into_iter().filter_map(|(mac, address, name)| {
                    Some((mac, worker.gateway.reserve(now, mac, address, Some(name)).err()?))
                });
                refused.collect::<Vec<_>>()
            });
            for (mac, error) in told.into_iter().flatten() {
                tracing::warn!("network {}: {error}", self.name);
                // What was kept for it before is kept still, and the next look tries again.
                match self.reserved.remove(&mac) {
                    Some(former) => wanted.insert(mac, former),
                    None => wanted.remove(&mac),
                };
            }
        }
        self.reserved = wanted;
    }

    /// Frees what DHCP gave somebody who has left.
    pub(super) fn release_leases(&mut self, member: Member) {
        if let Some(running) = &self.running {
            // A worker that is gone is told of elsewhere.
            let _ = running.ask(FIRST, move |worker, _| worker.gateway.release_leases(member.mac));
        }
        self.reserve_members();
    }

    /// Addresses that DHCP clients without a name have.
    pub(super) fn leased_by_others(&self) -> BTreeSet<IpAddr> {
        let held = |lease: &KeptLease| !self.reserved.contains_key(&lease.mac.0);
        self.kept_leases().into_iter().filter(held).map(|lease| lease.address.into()).collect()
    }

    /// What DHCP clients have.
    pub(super) fn kept_leases(&self) -> Vec<KeptLease> {
        self.ask_leases(|lease| {
            let until = seconds_since_1970() + lease.remaining.as_secs();
            (lease.state == LeaseState::Bound).then(|| KeptLease {
                address: lease.address,
                mac: Text(lease.mac),
                client: lease.client.to_vec(),
                hostname: lease.hostname.map(str::to_owned),
                until,
            })
        })
    }

    /// Who got an address by DHCP since this was last asked.
    pub fn new_leases(&mut self) -> Vec<(IpAddr, String)> {
        let now: BTreeSet<_> = self
            .kept_leases()
            .into_iter()
            .map(|lease| (lease.address.into(), lease.mac.to_string()))
            .collect();
        let new = now.difference(&self.told_leases).cloned().collect();
        self.told_leases = now;
        new
    }

    /// Gives DHCP clients what they had.
    pub(super) fn restore_leases(&self, leases: &[KeptLease]) {
        let (leases, now_secs) = (leases.to_vec(), seconds_since_1970());
        let Some(running) = &self.running else { return };
        let _ = running.ask(FIRST, move |worker, now| {
            for lease in &leases {
                let Some(remaining) = lease.until.checked_sub(now_secs) else { continue };
                worker.gateway.restore_lease(
                    now,
                    &LeaseView {
                        address: lease.address,
                        mac: lease.mac.0,
                        client: &lease.client,
                        hostname: lease.hostname.as_deref(),
                        state: LeaseState::Bound,
                        remaining: Duration::from_secs(remaining),
                        is_reserved: false,
                    },
                );
            }
        });
    }

    fn ask_leases<T: Send + 'static>(
        &self,
        view: impl Fn(&LeaseView<'_>) -> Option<T> + Send + 'static,
    ) -> Vec<T> {
        let leases = self.running.as_ref().and_then(|running| {
            let ask = move |worker: &mut crate::dataplane::LiveWorker, now| {
                worker.gateway.leases(now).filter_map(|lease| view(&lease)).collect()
            };
            running.ask(FIRST, ask).ok()
        });
        leases.unwrap_or_default()
    }

    /// Every address that somebody has or will get.
    #[must_use]
    pub fn leases(&self) -> Vec<model::Lease> {
        let network = self.name.to_string();
        let own = self.members.by_name().iter().flat_map(|(name, member)| {
            member.list().into_iter().map(|address| model::Lease {
                network: self.name.to_string(),
                address,
                mac: Text(member.mac).to_string(),
                name: Some(name.to_string()),
                state: "static".to_owned(),
                expires_secs: None,
            })
        });
        let mut all: Vec<_> = own.collect();
        let by_dhcp = self.ask_leases(move |lease| {
            let is_held = matches!(lease.state, LeaseState::Bound | LeaseState::Offered);
            is_held.then(|| model::Lease {
                network: network.clone(),
                address: lease.address.into(),
                mac: Text(lease.mac).to_string(),
                name: lease.hostname.map(str::to_owned),
                state: lease.state.as_str().to_owned(),
                expires_secs: Some(lease.remaining.as_secs()),
            })
        });
        // A member that asks by DHCP has its own address from there too.
        all.retain(|lease| !by_dhcp.iter().any(|other| other.address == lease.address));
        all.extend(by_dhcp);
        all.sort_by_key(|lease| lease.address);
        all
    }
}
