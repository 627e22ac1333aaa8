// SPDX-License-Identifier: MIT OR Apache-2.0
//! *Who are you on this wire?* The gateway's answers about link-layer addresses, and what it learns from questions.
//!
//! # Path
//! ARP frames go to [`arp::Arp::handle`], Neighbor Discovery messages to [`ndp::Ndp::handle`]. Both teach
//! [`neighbors::Neighbors`], which the gateway asks for a container's MAC address before it sends.

pub mod arp;
pub(crate) mod group_query;
pub mod ndp;
pub mod neighbors;

use core::net::{IpAddr, Ipv6Addr};

use smoltcp::wire::EthernetAddress;

pub use self::arp::Arp;
pub use self::ndp::Ndp;
pub use self::neighbors::{Neighbors, Noted, Resolution};
use crate::env::{Cx, Outbox};
use crate::rate_limit::{FairLimit, Rates};
use crate::{Config, DropReason};

/// How many questions about containers the packets of other networks may give rise to, in each worker: everybody on the
/// link hears one. A sender's burst is for a whole /24 at once. RFC 6583 section 7: what a router does whose prefix is
/// scanned.
const QUESTIONS: Rates = Rates { per_second: 500, burst: 512, share_per_second: 32, share_burst: 128 };

/// Everything the gateway does about link-layer addresses.
#[derive(Debug)]
pub(crate) struct Link {
    arp: Arp,
    ndp: Option<Ndp>,
    neighbors: Neighbors,
    questions: FairLimit,
}

/// A host that wants a Router Advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RouterSolicitation {
    /// Its address; `None` when it has none yet.
    pub(crate) from: Option<Ipv6Addr>,
    /// Where it is.
    pub(crate) mac: EthernetAddress,
}

/// What the gateway knows of where a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Located {
    /// There.
    At(EthernetAddress),
    /// The link was asked; [`neighbors::RETRANSMIT`] later it wants to be asked again.
    Asked,
    /// Nobody answers to the address.
    Nowhere,
}

impl Link {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            arp: Arp::new(config.mac),
            ndp: Ndp::new(config),
            neighbors: Neighbors::new(config),
            questions: FairLimit::new(&config.seed, b"questions", &QUESTIONS),
        }
    }

    /// Who is where on the link.
    pub(crate) fn neighbors(&mut self) -> &mut Neighbors {
        &mut self.neighbors
    }

    /// Where the container with `address` is. Asks the link when that is not known, or no longer certain.
    pub(crate) fn locate<H, O: Outbox>(&mut self, cx: &mut Cx<'_, H, O>, address: IpAddr) -> Located {
        let resolution = self.neighbors.resolve(cx.now, address);
        self.follow(cx, address, resolution)
    }

    /// [`locate`](Self::locate) for a packet of `sender` that may be for any address: a question that is beyond the
    /// [limit](QUESTIONS) is not asked, and says nothing about the address.
    ///
    /// # Errors
    /// [`DropReason::NeighborQuestionsExhausted`] when it would have to be asked.
    pub(crate) fn locate_sparingly<H, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        sender: EthernetAddress,
        address: IpAddr,
    ) -> Result<Located, DropReason> {
        let may_ask = || self.questions.take(cx.now, sender);
        let resolution = self.neighbors.resolve_within(cx.now, address, may_ask);
        let resolution = resolution.ok_or(DropReason::NeighborQuestionsExhausted)?;
        Ok(self.follow(cx, address, resolution))
    }

    fn follow<H, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        address: IpAddr,
        resolution: Resolution,
    ) -> Located {
        match resolution {
            Resolution::Known(mac) => Located::At(mac),
            Resolution::Confirm(mac) => {
                self.ask(cx, address, Some(mac));
                Located::At(mac)
            }
            Resolution::Ask => {
                self.ask(cx, address, None);
                Located::Asked
            }
            Resolution::Wait => Located::Asked,
            Resolution::Unreachable => Located::Nowhere,
        }
    }

    /// Asks who has `address`: everybody, or the one that had it.
    fn ask<H, O: Outbox>(&self, cx: &mut Cx<'_, H, O>, address: IpAddr, confirm: Option<EthernetAddress>) {
        let mut frame = cx.env.pool.small();
        match (address, cx.env.config.ipv4, &self.ndp) {
            (IpAddr::V4(address), Some(plan), _) => {
                arp::emit(&mut frame, &self.arp.request(plan.gateway, address), confirm);
            }
            (IpAddr::V6(address), _, Some(ndp)) => {
                ndp::emit(&mut frame, cx.env.config.mac, &ndp.solicitation(address, confirm));
            }
            (IpAddr::V4(_) | IpAddr::V6(_), ..) => return,
        }
        cx.send(&mut frame);
    }

    /// An ARP packet.
    pub(crate) fn handle_arp<H, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        packet: &[u8],
    ) -> Result<(), DropReason> {
        if let Some(reply) = self.arp.handle(cx.now, &mut self.neighbors, packet)? {
            let mut frame = cx.env.pool.small();
            arp::emit(&mut frame, &reply, None);
            cx.send(&mut frame);
        }
        Ok(())
    }

    /// An ICMPv6 message of the types 133 to 137. A Router Solicitation is the caller's to answer.
    pub(crate) fn handle_ndp<H, O: Outbox>(
        &mut self,
        cx: &mut Cx<'_, H, O>,
        envelope: ndp::Envelope,
        message: &[u8],
    ) -> Result<Option<RouterSolicitation>, DropReason> {
        let ndp = self.ndp.as_ref().ok_or(DropReason::Ipv6NotConfigured)?;
        match ndp.handle(cx.now, &mut self.neighbors, envelope, message)? {
            Some(ndp::Answer::Send(answer)) => {
                let mut frame = cx.env.pool.small();
                ndp::emit(&mut frame, cx.env.config.mac, &answer);
                cx.send(&mut frame);
                Ok(None)
            }
            Some(ndp::Answer::RouterSolicited { from, mac }) => Ok(Some(RouterSolicitation { from, mac })),
            None => Ok(None),
        }
    }
}
