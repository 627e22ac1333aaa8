// SPDX-License-Identifier: MIT OR Apache-2.0
//! The configuration file again: what changed in it is done while flows go on, or nothing is.

use std::collections::BTreeMap;

use super::{Inner, Registry, end_unlocked};
use crate::control::error::Error;
use crate::control::model::Reloaded;
use crate::control::network::{Network, Origin};
use crate::control::spec::{File, Name, NetworkSpec};
use crate::publish::Opened;

impl Registry {
    /// Reads the file again and does what changed in it. Either all of it can be done while flows go on, or nothing is.
    ///
    /// # Errors
    /// The file is wrong, there is none, or a change is one that a running network cannot make.
    pub fn reload(&self) -> Result<Reloaded, Error> {
        self.daemon_only()?;
        let mut inner = self.lock();
        let Some(path) = inner.file.clone() else {
            let message = "this daemon has no configuration file";
            return Err(Error::invalid(message).hint("`wharf down`, then `wharf up --config FILE`"));
        };
        let file = File::read(&path).map_err(|error| Error::invalid(error.to_string()))?;
        let mut changes = Vec::new();
        for (name, spec) in &file.networks {
            if let Some(network) = inner.networks.get(name)
                && network.spec() != spec
            {
                if !network.spec().differs_only_in_what_can_change(spec) {
                    let message = format!(
                        "network {name} is up, and only its publish, containers, dns, host_sockets, isolated, links and outbound_... can change"
                    );
                    return Err(Error::invalid(message).hint("for the rest `wharf down`, then `wharf up`"));
                }
                inner.around.host_sockets(name, spec)?;
                changes.push((name.clone(), spec.clone()));
            }
        }
        let is_gone = |(name, network): (&Name, &Network)| {
            (*network.origin() == Origin::File && !file.networks.contains_key(name)).then(|| name.clone())
        };
        let gone: Vec<_> = inner.networks.iter().filter_map(is_gone).collect();
        // What may fail comes first, and is undone then.
        let mut started = Vec::new();
        let outcome = self
            .start_new(&mut inner, &file.networks, &mut started)
            .and_then(|()| inner.check_links_of_file(&file.networks));
        if let Err(error) = outcome {
            let undone: Vec<_> = started.iter().filter_map(|name| self.remove(&mut inner, name)).collect();
            end_unlocked(inner, undone);
            return Err(error);
        }
        let created = started.iter().map(Name::to_string).collect();
        let mut reloaded = Reloaded { created, ..Reloaded::default() };
        let around = inner.around();
        for (name, spec) in changes {
            let Inner { networks, next_id, .. } = &mut *inner;
            let Some(network) = networks.get_mut(&name) else { continue };
            let failed = network.change(spec, &around, next_id).err().into_iter().flatten();
            reloaded.warnings.extend(failed.map(|error| format!("network {name}: {error}")));
            inner.save(&name);
            self.tell_ended(&mut inner, &name);
            reloaded.changed.push(name.to_string());
        }
        let gone: Vec<_> = gone.iter().filter_map(|name| self.remove(&mut inner, name)).collect();
        reloaded.warnings.extend(inner.renew_links().iter().map(ToString::to_string));
        for warning in &reloaded.warnings {
            tracing::warn!("{warning}");
        }
        reloaded.removed.extend(gone.iter().map(|network| network.name().to_string()));
        end_unlocked(inner, gone);
        self.wake_watch();
        Ok(reloaded)
    }

    /// Starts those of a file's networks that are not there yet, and notes which.
    fn start_new(
        &self,
        inner: &mut Inner,
        networks: &BTreeMap<Name, NetworkSpec>,
        started: &mut Vec<Name>,
    ) -> Result<(), Error> {
        for (name, spec) in networks {
            if !inner.networks.contains_key(name) {
                self.start(inner, name, spec.clone(), Origin::File, &mut Opened::default())?;
                started.push(name.clone());
            }
        }
        Ok(())
    }
}
