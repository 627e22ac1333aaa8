// SPDX-License-Identifier: MIT OR Apache-2.0
//! *Who are you on this wire?* The gateway's answers about link-layer addresses, and what it learns from questions.
//!
//! # Path
//! ARP frames go to [`arp::Arp::handle`], Neighbor Discovery messages to [`ndp::Ndp::handle`]. Both teach
//! [`neighbors::Neighbors`], which the gateway asks for a container's MAC address before it sends.

pub mod arp;
pub mod ndp;
pub mod neighbors;

use core::net::Ipv6Addr;

use smoltcp::wire::EthernetAddress;

pub use self::arp::Arp;
pub use self::ndp::Ndp;
pub use self::neighbors::{Neighbors, Noted, Resolution};
use crate::env::{Cx, Outbox};
use crate::{Config, DropReason};

/// Everything the gateway does about link-layer addresses.
#[derive(Debug)]
pub(crate) struct Link {
    arp: Arp,
    ndp: Option<Ndp>,
    neighbors: Neighbors,
}

/// A host that wants a Router Advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RouterSolicitation {
    /// Its address; `None` when it has none yet.
    pub(crate) from: Option<Ipv6Addr>,
    /// Where it is.
    pub(crate) mac: EthernetAddress,
}

impl Link {
    pub(crate) fn new(config: &Config) -> Self {
        Self { arp: Arp::new(config.mac), ndp: Ndp::new(config), neighbors: Neighbors::new(config) }
    }

    /// Who is where on the link.
    pub(crate) fn neighbors(&mut self) -> &mut Neighbors {
        &mut self.neighbors
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
