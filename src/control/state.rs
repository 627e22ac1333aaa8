// SPDX-License-Identifier: MIT OR Apache-2.0
//! What outlives the daemon: each network's addresses, leases and what was made through the API, a JSON file each.
//!
//! # How it works
//! A file is written whole beside the old one and renamed over it, at every change. Who is killed in between leaves the
//! old one. That is as safe as the file system's renames are; nothing is flushed to the disk, since addresses
//! that a power failure forgets are only given anew.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use smoltcp::wire::{EthernetAddress, Ipv4Cidr, Ipv6Cidr};

use super::members::Member;
use super::model::Publication;
use super::spec::{Name, NetworkSpec, Text};

/// The version of the files.
const VERSION: u32 = 1;

/// What is kept of one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Of the format.
    pub version: u32,
    /// The IPv4 network that was chosen.
    pub ipv4: Option<Text<Ipv4Cidr>>,
    /// The IPv6 network that was chosen.
    pub ipv6: Option<Text<Ipv6Cidr>>,
    /// Who has which addresses.
    pub members: BTreeMap<Name, Member>,
    /// Who has an address by DHCP.
    #[serde(default)]
    pub leases: Vec<KeptLease>,
    /// What was published through the API.
    #[serde(default)]
    pub publications: Vec<Publication>,
    /// The network was made through the API, and this is what it is to be.
    #[serde(default)]
    pub made_as: Option<NetworkSpec>,
}

/// An address that a DHCP client has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptLease {
    /// The address.
    pub address: Ipv4Addr,
    /// The client's MAC address.
    pub mac: Text<EthernetAddress>,
    /// What tells the client from others.
    pub client: Vec<u8>,
    /// What the client calls itself.
    pub hostname: Option<String>,
    /// Until when, in seconds since 1970.
    pub until: u64,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            version: VERSION,
            ipv4: None,
            ipv6: None,
            members: BTreeMap::new(),
            leases: Vec::new(),
            publications: Vec::new(),
            made_as: None,
        }
    }
}

/// The directory of the files; without one nothing is kept.
#[derive(Clone, Debug, Default)]
pub struct State(Option<PathBuf>);

impl State {
    /// The directory, made if it does not exist, for its owner alone.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(directory: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        Ok(Self(Some(directory.to_owned())))
    }

    /// What was kept of a network. A file that cannot be understood is put aside, and said so.
    #[must_use]
    pub fn load(&self, network: &Name) -> Kept {
        let Some(path) = self.path(network) else { return Kept::default() };
        match read(&path) {
            Ok(kept) => kept,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Kept::default(),
            Err(error) => {
                let aside = path.with_extension("broken");
                tracing::warn!(%error, "cannot use {}; it is now {}", path.display(), aside.display());
                // Else it is overwritten.
                let _ = fs::rename(&path, aside);
                Kept::default()
            }
        }
    }

    /// Keeps this of a network.
    pub fn save(&self, network: &Name, kept: &Kept) {
        let Some(path) = self.path(network) else { return };
        let temporary = path.with_extension("new");
        let written = serde_json::to_vec(kept)
            .map_err(io::Error::other)
            .and_then(|bytes| fs::write(&temporary, bytes))
            .and_then(|()| fs::rename(&temporary, &path));
        if let Err(error) = written {
            tracing::warn!(%error, "cannot write {}: addresses will not outlive the daemon", path.display());
        }
    }

    /// Keeps nothing of a network any more.
    pub fn forget(&self, network: &Name) {
        if let Some(path) = self.path(network) {
            let _ = fs::remove_file(path);
        }
    }

    /// The networks that something is kept of.
    #[must_use]
    pub fn networks(&self) -> Vec<Name> {
        let entries = self.0.as_ref().and_then(|directory| fs::read_dir(directory).ok());
        let names = entries.into_iter().flatten().flatten().filter_map(|entry| {
            let path = entry.path();
            let is_ours = path.extension().is_some_and(|extension| extension == "json");
            Name::parse(path.file_stem()?.to_str()?).ok().filter(|_| is_ours)
        });
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    fn path(&self, network: &Name) -> Option<PathBuf> {
        Some(self.0.as_ref()?.join(format!("{network}.json")))
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    serde_json::from_slice(&fs::read(path)?).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn what_is_saved_is_loaded_by_the_next() {
        let directory = Scratch::new();
        let network = Name::parse("default").unwrap();
        let ipv4 = Some(Text("10.0.2.0/24".parse().unwrap()));
        let kept = Kept { ipv4, ..Kept::default() };
        State::open(&directory).unwrap().save(&network, &kept);
        let next = State::open(&directory).unwrap();
        assert_eq!(next.load(&network), kept);
        assert_eq!(next.networks(), std::slice::from_ref(&network));
        next.forget(&network);
        assert_eq!(next.load(&network), Kept::default());
    }

    #[test]
    fn a_broken_file_is_put_aside_rather_than_lost() {
        let directory = Scratch::new();
        let network = Name::parse("default").unwrap();
        let state = State::open(&directory).unwrap();
        fs::write(directory.join("default.json"), "{\"version\": 1, ").unwrap();
        assert_eq!(state.load(&network), Kept::default());
        assert!(directory.join("default.broken").exists());
        assert!(state.networks().is_empty());
    }
}
