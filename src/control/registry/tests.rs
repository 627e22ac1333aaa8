// SPDX-License-Identifier: MIT OR Apache-2.0
//! What outlives a container, a reload and a daemon; and what is left when a request cannot be served.

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use smoltcp::wire::EthernetAddress;
use tokio::sync::mpsc::unbounded_channel;
use wharf_switch::Offloads;

use super::*;
use crate::control::model::{CreateNetwork, PortKind, PublishRequest, Reloaded};
use crate::control::network::AttachRequest;
use crate::control::spec::{PortWish, Text};
use crate::control::state::KeptLease;
use crate::host::SocketLimit;
use crate::port::Tap;
use crate::scratch::Scratch;

const NETWORK: &str = "version = 1\n[networks.default]\nipv4 = \"192.0.2.0/24\"\nipv6 = false\n";

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// A daemon without sockets, with a file and a state that stay when it goes.
struct Daemon {
    registry: Registry,
    directory: Scratch,
}

impl Daemon {
    fn new(file: &str) -> Self {
        let directory = Scratch::new();
        fs::write(directory.join("wharf.toml"), file).unwrap();
        Self::start(directory)
    }

    fn start(directory: Scratch) -> Self {
        let (notices, _) = unbounded_channel();
        let state = State::open(&directory.join("state")).unwrap();
        let around = Surroundings { sockets: SocketLimit::new(1000), ..Surroundings::default() };
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
        self.attach_with(request, Opened::default())
    }

    /// The same with unix sockets that are published for it.
    fn attach_with(&self, mut request: AttachRequest, opened: Opened) -> Result<model::Port, Error> {
        self.registry.offer(&mut request)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        // Nobody sends, and the port stays.
        std::mem::forget(theirs);
        let queue = Device::Tap(Tap::new(ours, Offloads::NONE));
        let attachment = Attachment { kind: PortKind::Tap, queues: vec![queue], view: None };
        self.registry.attach(request, attachment, oneshot::channel().0, opened)
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

    /// Networks with those that they are linked with.
    fn links(&self) -> Vec<(String, String)> {
        let all = self.registry.networks().into_iter();
        all.map(|network| (network.name, network.links.join(" "))).collect()
    }

    /// Networks with those that they name and are not linked with.
    fn waiting(&self) -> Vec<(String, String)> {
        let all = self.registry.networks().into_iter();
        all.map(|network| (network.name, network.waiting_links.join(" "))).collect()
    }

    fn create(&self, text: &str, spec: &str) -> Result<model::Network, Error> {
        let spec = toml::from_str(spec).unwrap();
        self.registry.create_network(CreateNetwork { name: text.to_owned(), spec })
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
    let daemon = Daemon::new(NETWORK);
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
    let daemon = Daemon::new(&two_containers("192.0.2.70", "192.0.2.71"));
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
fn a_lease_of_a_named_container_is_its_own_whatever_mac_address_the_file_gives_it_now() {
    let file = |number| {
        format!("{NETWORK}containers.web = {{ ipv4 = \"192.0.2.77\", mac = \"02:00:00:00:00:0{number}\" }}\n")
    };
    for number in [1, 2] {
        let daemon = Daemon::new(&file(1));
        daemon.attach_named("web", None).unwrap();
        let Daemon { registry, directory } = daemon;
        drop(registry);
        // As if it had been killed while the container was there.
        let state = State::open(&directory.join("state")).unwrap();
        let mut kept = state.load(&name("default"));
        kept.leases.push(KeptLease {
            address: Ipv4Addr::new(192, 0, 2, 77),
            mac: Text(EthernetAddress([2, 0, 0, 0, 0, 1])),
            client: vec![1, 2, 3],
            hostname: None,
            until: u64::MAX / 2,
        });
        state.save(&name("default"), &kept);
        drop(state);
        fs::write(directory.join("wharf.toml"), file(number)).unwrap();
        let port = Daemon::start(directory).attach_named("web", None).unwrap();
        assert_eq!(port.ipv4, Some(Ipv4Addr::new(192, 0, 2, 77)), "{number}");
    }
}

#[test]
fn what_was_published_by_command_is_published_again_port_by_port() {
    let daemon = Daemon::new(NETWORK);
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
    let daemon = Daemon::new(&format!("{NETWORK}{two}"));
    let wrong = "[networks.three]\noutbound_ipv4 = \"203.0.113.99\"\n";
    let error = daemon.reload(&format!("{NETWORK}{wrong}")).unwrap_err();
    assert!(error.message.contains("203.0.113.99"), "{error}");
    assert_eq!(daemon.networks(), ["default", "two"]);
    let reloaded = daemon.reload(&format!("{NETWORK}[networks.three]\n")).unwrap();
    assert_eq!((reloaded.created, reloaded.removed), (vec!["three".to_owned()], vec!["two".to_owned()]));
}

#[test]
fn who_has_no_name_gets_one_that_nobody_had() {
    let daemon = Daemon::new(NETWORK);
    let first = daemon.attach(AttachRequest::default()).unwrap();
    daemon.publish(&format!("127.0.0.1:0:{}:80", first.name));
    daemon.detach(&first.name);
    let second = daemon.attach(AttachRequest::default()).unwrap();
    assert_ne!((first.name, first.ipv4), (second.name, second.ipv4));
}

#[test]
fn who_cannot_be_seen_is_not_published_by_itself() {
    let daemon = Daemon::new(&format!("{NETWORK}publish = [\"auto:web\"]\n"));
    let refused = daemon.attach_named("web", None).unwrap_err();
    assert_eq!(refused.code, Code::Unsupported, "{refused}");
    daemon.attach_named("other", None).unwrap();
    let wish = Text(PortWish::parse("auto/udp").unwrap());
    let mut request = AttachRequest { publish: vec![wish], ..AttachRequest::default() };
    let offer = daemon.registry.offer(&mut request).unwrap();
    assert_eq!(offer.watched, [model::Transport::Udp].into());
    daemon.registry.withdraw_offer(&offer);
    let request = PublishRequest { network: None, ports: "auto:other".to_owned() };
    assert_eq!(daemon.registry.publish(&request, Opened::default()).unwrap_err().code, Code::Invalid);
}

#[test]
fn nothing_listens_any_more_for_who_was_refused() {
    let daemon = Daemon::new(NETWORK);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = daemon.directory.join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let (leash, keeper) = UnixStream::pair().unwrap();
    // It ends when it is let go of, and leaves the name: only a listener can answer there.
    let keeper = thread::spawn(move || { &keeper }.read(&mut [0; 1]).unwrap());
    let opened = Opened::received(vec![listener.into(), leash.into()]).unwrap();
    let wishes = [format!("unix:{}:80", path.display()), format!("{}:80", taken.local_addr().unwrap())];
    let publish = wishes.iter().map(|wish| Text(PortWish::parse(wish).unwrap())).collect();
    let request = AttachRequest { publish, ..AttachRequest::default() };
    assert_eq!(daemon.attach_with(request, opened).unwrap_err().code, Code::InUse);
    assert_eq!(keeper.join().unwrap(), 0, "the end");
    assert_eq!(UnixStream::connect(&path).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn an_offer_that_nobody_takes_has_set_nothing_aside() {
    let daemon = Daemon::new(NETWORK);
    daemon.attach_named("db", None).unwrap();
    daemon.detach("db");
    let mut request = AttachRequest { name: Some(name("db")), ..AttachRequest::default() };
    request.container.ipv4 = Some([192, 0, 2, 77].into());
    let offer = daemon.registry.offer(&mut request).unwrap();
    daemon.registry.withdraw_offer(&offer);
    assert_eq!(daemon.address_of("db"), "192.0.2.10");
}

/// A network, with more lines of its table.
fn network(text: &str, ipv4: &str, more: &str) -> String {
    format!("[networks.{text}]\nipv4 = \"{ipv4}\"\nipv6 = false\n{more}\n")
}

fn linked(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, links)| ((*name).to_owned(), (*links).to_owned())).collect()
}

const LINKS_B: &str = "links = [\"b\"]";

#[test]
fn one_side_says_so_and_both_are_linked_until_it_says_so_no_more() {
    let (a, b) = (network("a", "192.0.2.0/25", ""), network("b", "192.0.2.128/25", ""));
    let daemon = Daemon::new(&format!("version = 1\n{a}{b}"));
    assert_eq!(daemon.links(), linked(&[("a", ""), ("b", "")]));
    let with_link = format!("version = 1\n{a}{LINKS_B}\n{b}");
    daemon.reload(&with_link).unwrap();
    assert_eq!(daemon.links(), linked(&[("a", "b"), ("b", "a")]));
    let daemon = daemon.restarted();
    assert_eq!(daemon.links(), linked(&[("a", "b"), ("b", "a")]));
    daemon.create("c", "ipv4 = \"198.51.100.0/24\"\nipv6 = false\nlinks = [\"a\", \"b\"]").unwrap();
    assert_eq!(daemon.links(), linked(&[("a", "b c"), ("b", "a c"), ("c", "a b")]));
    daemon.registry.remove_network(&name("c")).unwrap();
    daemon.reload(&format!("version = 1\n{a}{b}")).unwrap();
    assert_eq!(daemon.links(), linked(&[("a", ""), ("b", "")]));
}

#[test]
fn a_link_of_which_nobody_could_tell_the_ends_apart_is_refused_and_nothing_changes() {
    let (a, b) = (network("a", "192.0.2.0/24", ""), network("b", "198.51.100.0/24", ""));
    let daemon = Daemon::new(&format!("version = 1\n{a}{b}{LINKS_B}\n").replace(LINKS_B, "links = [\"a\"]"));
    let before = linked(&[("a", "b"), ("b", "a")]);
    assert_eq!(daemon.links(), before);
    for (spec, parts) in [
        ("ipv4 = \"192.0.2.128/25\"\nipv6 = false\nlinks = [\"a\"]", ["networks c and a", "192.0.2.0/24"]),
        (
            "ipv4 = \"198.51.0.0/16\"\nipv6 = false\nlinks = [\"a\"]",
            ["a cannot be linked with both b and c", "198.51.0.0/16"],
        ),
        (
            "ipv4 = \"203.0.113.0/24\"\nipv6 = false\nlinks = [\"a\"]\ndomain = \"a.internal\"",
            ["c and a", "domain a.internal"],
        ),
        (
            "ipv4 = false\nipv6 = \"2001:db8:7::/64\"\nlinks = [\"a\"]",
            ["networks c and a cannot be linked", "IPv6 only"],
        ),
        ("links = [\"c\"]", ["network c", "itself"]),
    ] {
        let refused = daemon.create("c", spec).unwrap_err();
        assert!(parts.iter().all(|part| refused.message.contains(part)), "{refused}");
        let refused = daemon.reload(&format!("version = 1\n{a}{b}links = [\"a\"]\n[networks.c]\n{spec}\n"));
        let refused = refused.unwrap_err();
        assert!(parts.iter().all(|part| refused.message.contains(part)), "{refused}");
        assert_eq!(daemon.links(), before);
    }
    // Without a link they may have what they like.
    daemon.create("c", "ipv4 = \"192.0.2.128/25\"\nipv6 = false\ndomain = \"a.internal\"").unwrap();
}

#[test]
fn a_link_lapses_with_a_network_that_was_made_by_command_and_comes_back_with_it() {
    let daemon = Daemon::new(NETWORK);
    let b = "ipv4 = \"198.51.100.0/24\"\nipv6 = false";
    daemon.create("b", b).unwrap();
    daemon.create("c", &format!("ipv4 = \"203.0.113.0/24\"\nipv6 = false\n{LINKS_B}")).unwrap();
    daemon.registry.remove_network(&name("b")).unwrap();
    assert_eq!(daemon.links(), linked(&[("c", ""), ("default", "")]));
    let daemon = daemon.restarted();
    daemon.create("b", b).unwrap();
    assert_eq!(daemon.links(), linked(&[("b", "c"), ("c", "b"), ("default", "")]));
}

#[test]
fn a_network_made_by_command_never_takes_a_link_away() {
    let front = network("front", "192.0.2.0/24", "links = [\"back\"]");
    let file = format!("version = 1\n{front}{}", network("back", "198.51.100.0/24", ""));
    let daemon = Daemon::new(&file);
    let before = linked(&[("back", "front"), ("front", "back")]);
    let twin = "ipv4 = \"198.51.100.0/24\"\nipv6 = false\nlinks = [\"front\"]";
    let refused = daemon.create("aaa", twin).unwrap_err();
    assert!(refused.message.contains("both back and aaa"), "{refused}");
    assert_eq!((refused.code, daemon.links()), (Code::InUse, before.clone()));
    assert_eq!(daemon.restarted().links(), before);
}

#[test]
fn a_link_of_the_file_waits_for_one_that_a_command_made_until_the_daemon_starts_anew() {
    let back = network("back", "198.51.100.0/24", "");
    let daemon = Daemon::new(&format!("version = 1\n{}{back}", network("front", "192.0.2.0/24", "")));
    let twin = "ipv4 = \"198.51.100.0/24\"\nipv6 = false\nlinks = [\"front\"]";
    daemon.create("aaa", twin).unwrap();
    let front = network("front", "192.0.2.0/24", "links = [\"back\"]");
    let reloaded = daemon.reload(&format!("version = 1\n{front}{back}")).unwrap();
    let said = "network front is not linked with back: network front cannot be linked with both aaa and back";
    assert!(matches!(&reloaded.warnings[..], [only] if only.starts_with(said)), "{reloaded:?}");
    assert_eq!(daemon.links(), linked(&[("aaa", "front"), ("back", ""), ("front", "aaa")]));
    assert_eq!(daemon.waiting(), linked(&[("aaa", ""), ("back", ""), ("front", "back")]));
    let daemon = daemon.restarted();
    assert_eq!(daemon.links(), linked(&[("aaa", ""), ("back", "front"), ("front", "back")]));
    assert_eq!(daemon.waiting(), linked(&[("aaa", "front"), ("back", ""), ("front", "")]));
}

#[test]
fn a_file_that_contradicts_itself_is_refused_whatever_a_command_made() {
    let others = network("back", "198.51.100.0/24", "") + &network("twin", "198.51.100.0/25", "");
    let daemon = Daemon::new(&format!("version = 1\n{}{others}", network("front", "192.0.2.0/24", "")));
    // Both of the file's links would wait for this one's.
    daemon.create("aaa", "ipv4 = \"198.51.100.0/24\"\nipv6 = false\nlinks = [\"front\"]").unwrap();
    let front = network("front", "192.0.2.0/24", "links = [\"back\", \"twin\"]");
    let refused = daemon.reload(&format!("version = 1\n{front}{others}")).unwrap_err();
    assert!(refused.message.contains("both back and twin"), "{refused}");
    assert_eq!(daemon.links()[0], ("aaa".to_owned(), "front".to_owned()));
}

#[test]
fn a_link_of_the_file_waits_for_a_network_that_is_not_there() {
    let file = format!("{NETWORK}links = [\"db\"]\n");
    let daemon = Daemon::new(&file);
    assert_eq!(daemon.waiting(), linked(&[("default", "db")]));
    let db = "ipv4 = \"198.51.100.0/24\"\nipv6 = false";
    daemon.create("db", db).unwrap();
    assert_eq!(daemon.links(), linked(&[("db", "default"), ("default", "db")]));
    daemon.registry.remove_network(&name("db")).unwrap();
    assert_eq!(
        daemon.reload(&file).unwrap().warnings,
        ["network default is to be linked with db, and there is no network db yet"]
    );
    let daemon = daemon.restarted();
    assert_eq!(
        (daemon.links(), daemon.waiting()),
        (linked(&[("default", "")]), linked(&[("default", "db")]))
    );
    daemon.create("db", db).unwrap();
    assert_eq!(daemon.links(), linked(&[("db", "default"), ("default", "db")]));
    assert_eq!(daemon.reload(&file).unwrap().warnings, [""; 0]);
}
