// SPDX-License-Identifier: MIT OR Apache-2.0
//! A new interface in a container's namespace, made and configured there by the helper.

use std::io;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::{Client, Done, Error, Options, Target, helper, request};
use crate::control::attach::Handed;
use crate::control::network::Offer;
use crate::doctor::advice;
use crate::netns::{
    self, Device, DeviceChoice, DeviceKind, INTERFACE, Interface, Netlink, Side, SockDiag, Wanted,
};
use crate::port::Tap;

/// Interfaces that a name is looked for among.
const MAX_INTERFACES: u32 = 1000;

/// An interface to be made.
#[derive(Clone, Debug)]
pub struct New {
    /// Where it is to be.
    pub target: Target,
    /// Its name; by default the first free of eth0, eth1, ...
    pub name: Option<String>,
    /// The kind of device.
    pub device: DeviceChoice,
    /// Traffic to elsewhere leaves by it.
    pub default_route: bool,
}

/// What the helper made.
#[derive(Debug, Serialize, Deserialize)]
struct Made {
    interface: String,
    device: DeviceKind,
    takes_uso: bool,
    warnings: Vec<String>,
}

pub(super) fn attach(options: &Options, new: &New) -> Result<Done, Error> {
    let place = new.target.open()?;
    let (client, offer) = Client::ask(&options.socket, request(options, new.target.to_string()))?;
    let interface = interface(new, &offer);
    let (made, fds) = helper::in_namespace(&new.target, &place.namespace, || {
        let (made, mut fds) = build(new, &interface)?;
        let view = SockDiag::of(offer.watched.iter().copied());
        let unseen = |source| netns::Failure { step: "looking at what listens there", source };
        fds.extend(view.map_err(unseen)?.map(OwnedFd::from));
        Ok((made, fds))
    })?;
    let handed = Handed {
        kind: made.device.into(),
        uso: made.takes_uso,
        vnet_header: true,
        is_borrowed: false,
        interface: Some(made.interface),
        life: place.life,
        has_view: !offer.watched.is_empty(),
    };
    let port = client.hand_over(handed, &fds, place.life_fd.as_ref())?;
    Ok(Done { port, offer, warnings: made.warnings })
}

/// The interface that was offered.
fn interface(new: &New, offer: &Offer) -> Interface {
    let mut interface = offer.interface();
    if !new.default_route {
        interface.ipv4 = interface.ipv4.map(|side| Side { gateway: None, ..side });
        interface.ipv6 = interface.ipv6.map(|side| Side { gateway: None, ..side });
    }
    interface
}

fn build(new: &New, interface: &Interface) -> Result<(Made, Vec<OwnedFd>), netns::Failure> {
    let failed = |step| move |source| netns::Failure { step, source };
    let name = match &new.name {
        Some(name) => name.clone(),
        None => free_name().map_err(failed("looking for a free name"))?,
    };
    let wanted = Wanted {
        choice: new.device,
        name: &name,
        queues: interface.queues,
        mtu_bytes: interface.mtu_bytes,
        lasting: false,
    };
    let device = Device::open(wanted).map_err(|error| {
        let text = match error.raw_os_error() {
            Some(libc::EBUSY | libc::EINVAL | libc::EEXIST) => format!("there is a {name} already"),
            _ => advice::device(&error, new.device).to_string(),
        };
        netns::Failure { step: "making the interface", source: io::Error::other(text) }
    })?;
    let takes_uso = match device.kind {
        DeviceKind::Tap(_) => device.queues.first().and_then(|queue| Tap::negotiate(queue).ok()),
        DeviceKind::Veth => None,
    };
    let mut warnings = netns::configure(&name, interface)?;
    if let Some(error) = &device.fell_back {
        warnings.push(format!("a veth pair takes the place of a TAP: {}", advice::tap(error)));
    }
    let made = Made {
        interface: name,
        device: device.kind,
        takes_uso: takes_uso.is_some_and(|offloads| offloads.uso),
        warnings,
    };
    Ok((made, device.queues))
}

/// The first of eth0, eth1, ... that nobody has.
fn free_name() -> io::Result<String> {
    let mut netlink = Netlink::open()?;
    let prefix = INTERFACE.trim_end_matches('0');
    let mut names = (0..MAX_INTERFACES).map(|number| format!("{prefix}{number}"));
    names.find(|name| netlink.link_index(name).is_err()).ok_or_else(|| io::Error::other("all are taken"))
}
