// SPDX-License-Identifier: MIT OR Apache-2.0
//! What outlives a container, a reload and a daemon; and what is left when a request cannot be served.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::sync::mpsc::unbounded_channel;
use wharf_switch::Offloads;

use super::*;
use crate::control::model::PublishRequest;
use crate::control::network::AttachRequest;
use crate::port::Tap;

const NETWORK: &str = "version = 1\n[networks.default]\nipv4 = \"192.0.2.0/24\"\nipv6 = false\n";

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// A daemon without sockets, with a file and a state that stay when it goes.
struct Daemon {
    registry: Registry,
    directory: PathBuf,
}

impl Daemon {
    fn new(test: &str, file: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("wharf-registry-{}-{test}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("wharf.toml"), file).unwrap();
        Self::start(directory)
    }

    fn start(directory: PathBuf) -> Self {
        let (notices, _) = unbounded_channel();
        let state = State::open(&directory.join("state")).unwrap();
        let around = Surroundings { max_sockets: 1000, ..Surroundings::default() };
        let registry = Registry::new(Mode::Daemon, around, state, notices);
        let path = directory.join("wharf.toml");
        let file = File::read(&path).unwrap();
        registry.restore(Some(path), file, Opened::default()).unwrap();
        Self { registry, directory }
    }

    fn restarted(self) -> Self {
        let Self { registry, directory } = self;
        drop(registry);
        Self::start(directory)
    }

    fn reload(&self, file: &str) -> Result<Reloaded, Error> {
        fs::write(self.directory.join("wharf.toml"), file).unwrap();
        self.registry.reload()
    }

    /// Attaches something to which one end of a socket is as good as a TAP.
    fn attach(&self, request: AttachRequest) -> Result<model::Port, Error> {
        let mut request = request;
        self.registry.offer(&mut request)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        // Nobody sends, and the port stays.
        std::mem::forget(theirs);
        let queue = Device::Tap(Tap::new(ours, Offloads::NONE));
        self.registry.attach(request, PortKind::Tap, vec![queue], oneshot::channel().0, Opened::default())
    }

    fn attach_named(&self, text: &str, ipv4: Option<&str>) -> Result<model::Port, Error> {
        let mut request = AttachRequest { name: Some(name(text)), ..AttachRequest::default() };
        request.container.ipv4 = ipv4.map(|address| address.parse().unwrap());
        self.attach(request)
    }

    fn detach(&self, text: &str) {
        self.registry.detach(None, &name(text), "a test").unwrap();
    }

    fn publish(&self, ports: &str) -> Vec<model::Publication> {
        let request = PublishRequest { network: None, ports: ports.to_owned() };
        self.registry.publish(&request, Opened::default()).unwrap()
    }

    /// The host's ports that lead somewhere, and where.
    fn published(&self) -> Vec<(SocketAddr, SocketAddr)> {
        let all = self.registry.publications(None).unwrap();
        all.into_iter().map(|publication| (publication.host.inet().unwrap(), publication.target)).collect()
    }

    fn networks(&self) -> Vec<String> {
        self.registry.networks().into_iter().map(|network| network.name).collect()
    }

    fn address_of(&self, text: &str) -> String {
        let leases = self.registry.leases(None).unwrap();
        leases.iter().find(|lease| lease.name.as_deref() == Some(text)).unwrap().address.to_string()
    }
}

fn two_containers(web: &str, db: &str) -> String {
    format!("{NETWORK}containers.web.ipv4 = \"{web}\"\ncontainers.db.ipv4 = \"{db}\"\n")
}

#[test]
fn the_file_has_its_way_with_the_addresses_of_who_is_away() {
    let daemon = Daemon::new("away", NETWORK);
    assert_eq!(daemon.attach_named("old", None).unwrap().ipv4.unwrap().to_string(), "192.0.2.10");
    daemon.detach("old");
    let reloaded = daemon.reload(&two_containers("192.0.2.10", "192.0.2.11")).unwrap();
    assert_eq!((reloaded.changed, reloaded.warnings), (vec!["default".to_owned()], vec![]));
    // They change places, and the daemon starts with that too.
    daemon.reload(&two_containers("192.0.2.11", "192.0.2.10")).unwrap();
    let daemon = daemon.restarted();
    assert_eq!(
        (daemon.address_of("web"), daemon.address_of("db")),
        ("192.0.2.11".into(), "192.0.2.10".into())
    );
}

#[test]
fn who_is_attached_keeps_its_addresses_until_it_comes_back() {
    let daemon = Daemon::new("attached", &two_containers("192.0.2.70", "192.0.2.71"));
    daemon.attach_named("web", None).unwrap();
    let there = daemon.publish("127.0.0.1:0:web:80")[0].host.inet().unwrap();
    daemon.reload(&two_containers("192.0.2.72", "192.0.2.71")).unwrap();
    assert_eq!(daemon.attach_named("evil", Some("192.0.2.70")).unwrap_err().code, Code::InUse);
    assert_eq!(daemon.published(), [(there, "192.0.2.70:80".parse().unwrap())]);
    daemon.detach("web");
    assert_eq!(daemon.attach_named("web", None).unwrap().ipv4.unwrap().to_string(), "192.0.2.72");
    assert_eq!(daemon.published(), [(there, "192.0.2.72:80".parse().unwrap())]);
}

#[test]
fn what_was_published_by_command_is_published_again_port_by_port() {
    let daemon = Daemon::new("again", NETWORK);
    daemon.attach_named("web", None).unwrap();
    let ports = daemon.publish("127.0.0.1:0:90-92");
    let hosts: Vec<_> = ports.iter().map(|publication| publication.host.inet().unwrap()).collect();
    daemon.registry.unpublish(ports[0].id).unwrap();
    let Daemon { registry, directory } = daemon;
    drop(registry);
    let taken = TcpListener::bind(hosts[1]).unwrap();
    let daemon = Daemon::start(directory);
    assert_eq!(daemon.published(), [(hosts[2], "192.0.2.10:92".parse().unwrap())]);
    drop(taken);
    let daemon = daemon.restarted();
    let again: Vec<_> = daemon.published().into_iter().map(|(host, _)| host).collect();
    assert_eq!(again, [hosts[2], hosts[1]]);
}

#[test]
fn a_reload_that_cannot_be_done_leaves_everything_as_it_is() {
    let two = "[networks.two]\nipv4 = \"198.51.100.0/24\"\nipv6 = false\n";
    let daemon = Daemon::new("whole", &format!("{NETWORK}{two}"));
    let wrong = "[networks.three]\noutbound_ipv4 = \"203.0.113.99\"\n";
    let error = daemon.reload(&format!("{NETWORK}{wrong}")).unwrap_err();
    assert!(error.message.contains("203.0.113.99"), "{error}");
    assert_eq!(daemon.networks(), ["default", "two"]);
    let reloaded = daemon.reload(&format!("{NETWORK}[networks.three]\n")).unwrap();
    assert_eq!((reloaded.created, reloaded.removed), (vec!["three".to_owned()], vec!["two".to_owned()]));
}

#[test]
fn who_has_no_name_gets_one_that_nobody_had() {
    let daemon = Daemon::new("unnamed", NETWORK);
    let first = daemon.attach(AttachRequest::default()).unwrap();
    daemon.publish(&format!("127.0.0.1:0:{}:80", first.name));
    daemon.detach(&first.name);
    let second = daemon.attach(AttachRequest::default()).unwrap();
    assert_ne!((first.name, first.ipv4), (second.name, second.ipv4));
}

#[test]
fn an_offer_that_nobody_takes_has_set_nothing_aside() {
    let daemon = Daemon::new("offer", NETWORK);
    daemon.attach_named("db", None).unwrap();
    daemon.detach("db");
    let mut request = AttachRequest { name: Some(name("db")), ..AttachRequest::default() };
    request.container.ipv4 = Some([192, 0, 2, 77].into());
    let offer = daemon.registry.offer(&mut request).unwrap();
    daemon.registry.withdraw_offer(&offer);
    assert_eq!(daemon.address_of("db"), "192.0.2.10");
}
