// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host's nameservers: which to ask first.
//!
//! # How it works
//! In the order of the host's configuration, but a server that kept silent is asked last for a while. Silence is
//! forgotten with the first answer.
//!
//! # Bounds
//! [`MAX_NAMESERVERS`].

use core::net::SocketAddr;
use std::sync::Arc;

use wharf_switch::{Duration, Instant};

/// Nameservers kept; the resolvers we know read three.
pub const MAX_NAMESERVERS: usize = 8;
/// How long a silent server is asked last.
pub const PENALTY: Duration = Duration::from_secs(30);

/// The nameservers, in order of preference.
#[derive(Debug, Default)]
pub struct Nameservers {
    servers: Vec<(SocketAddr, Option<Instant>)>,
    /// In which to ask now.
    order: Arc<[SocketAddr]>,
    /// Until when, unless one of them changes its ways.
    order_until: Instant,
}

impl Nameservers {
    /// Takes another list; servers that stay keep their reputation.
    pub fn set(&mut self, addresses: &[SocketAddr]) {
        let mut servers: Vec<(SocketAddr, Option<Instant>)> = Vec::new();
        for &address in addresses {
            if servers.len() < MAX_NAMESERVERS && servers.iter().all(|&(known, _)| known != address) {
                let known = self.servers.iter().find(|&&(known, _)| known == address);
                servers.push((address, known.and_then(|&(_, failed)| failed)));
            }
        }
        self.servers = servers;
        self.order_until = Instant::ZERO;
    }

    /// Whether a server is on the list.
    #[must_use]
    pub fn contains(&self, address: SocketAddr) -> bool {
        self.servers.iter().any(|&(known, _)| known == address)
    }

    /// The order in which to ask now.
    #[must_use]
    pub fn order(&mut self, now: Instant) -> Arc<[SocketAddr]> {
        if now >= self.order_until {
            self.sort(now);
        }
        Arc::clone(&self.order)
    }

    fn sort(&mut self, now: Instant) {
        let shunned_until =
            |failed: Option<Instant>| failed.map(|failed| failed + PENALTY).filter(|&until| until > now);
        let in_rank = |shunned| {
            let rank = self.servers.iter().filter(move |server| shunned_until(server.1).is_some() == shunned);
            rank.map(|&(address, _)| address)
        };
        self.order = in_rank(false).chain(in_rank(true)).collect();
        let ends = self.servers.iter().filter_map(|&(_, failed)| shunned_until(failed));
        self.order_until = ends.min().unwrap_or(Instant::FAR);
    }

    /// A server kept silent.
    pub fn note_silence(&mut self, now: Instant, address: SocketAddr) {
        self.note(address, Some(now));
    }

    /// A server answered.
    pub fn note_answer(&mut self, address: SocketAddr) {
        self.note(address, None);
    }

    fn note(&mut self, address: SocketAddr, failed: Option<Instant>) {
        if let Some(server) = self.servers.iter_mut().find(|(known, _)| *known == address)
            && server.1 != failed
        {
            server.1 = failed;
            self.order_until = Instant::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 53))
    }

    fn at(secs: u64) -> Instant {
        Instant::from_secs(secs)
    }

    #[test]
    fn a_silent_server_is_asked_last_for_half_a_minute() {
        let mut servers = Nameservers::default();
        servers.set(&[server(1), server(2), server(3)]);
        servers.note_silence(at(100), server(1));
        assert_eq!(*servers.order(at(129)), [server(2), server(3), server(1)]);
        assert_eq!(*servers.order(at(130)), [server(1), server(2), server(3)]);
        servers.note_silence(at(131), server(1));
        servers.note_answer(server(1));
        assert_eq!(*servers.order(at(132)), [server(1), server(2), server(3)]);
    }

    #[test]
    fn a_new_list_keeps_reputations_and_no_duplicates() {
        let mut servers = Nameservers::default();
        servers.set(&[server(1)]);
        servers.note_silence(at(0), server(1));
        servers.set(&[server(1), server(1), server(2)]);
        assert!(servers.contains(server(2)) && !servers.contains(server(3)));
        assert_eq!(*servers.order(at(1)), [server(2), server(1)]);
        servers.set(&(0..20).map(server).collect::<Vec<_>>());
        assert_eq!(servers.order(at(1)).len(), MAX_NAMESERVERS);
    }
}
