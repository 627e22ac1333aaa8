// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ports that are published through the API socket, and their clients.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use super::api::ask;
use super::caller::{PATIENCE, finish, is_root, user_command};
use super::gateway::{BOTH, Gateway, Program, Served, Target, socket};

const FAILED: &str = "{\"error\":{\"desc\":\"bad request: add_hostfwd: slirp_add_hostfwd failed\"}}";
const DONE: &str = "{\"return\":{}}";

/// A namespace with the test server (HTTP on 80, TCP echo on 8, UDP echo on 7), its gateway, and the gateway's API socket.
struct Network {
    // Ended in this order.
    _gateway: Gateway,
    _server: Served,
    target: Target,
    api: PathBuf,
}

impl Network {
    fn new(name: &str, program: Program, options: &[&str]) -> Self {
        let (target, api) = (Target::new(), socket(&format!("{name}-{program:?}-{}", options.len())));
        let gateway =
            Gateway::start(program, &[options, &["-c", "-a", api.to_str().unwrap()]].concat(), &target);
        let server = target.serve_everything();
        Self { _gateway: gateway, _server: server, target, api }
    }

    fn add(&self, arguments: &str) -> String {
        ask(&self.api, &format!("{{\"execute\":\"add_hostfwd\",\"arguments\":{{{arguments}}}}}"))
    }

    /// Publishes TCP port 80 of the interface.
    fn publish(&self, host_addr: &str, host_port: u16) -> String {
        self.add(&format!(
            "\"proto\":\"tcp\",\"host_addr\":\"{host_addr}\",\"host_port\":{host_port},\"guest_port\":80"
        ))
    }

    fn remove(&self, id: u64) -> String {
        remove(&self.api, id)
    }
}

fn remove(api: &Path, id: u64) -> String {
    ask(api, &format!("{{\"execute\":\"remove_hostfwd\",\"arguments\":{{\"id\":{id}}}}}"))
}

fn added(id: u64) -> String {
    format!("{{\"return\":{{\"id\":{id}}}}}")
}

/// A port of TCP and UDP that nobody else takes: below the range that the kernel chooses from.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        let is_free =
            TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok();
        if is_free {
            return port;
        }
    }
}

/// Under which address the server sees a client of this address and port of the host.
fn seen_at(address: &str, port: u16) -> String {
    let url = format!("http://{address}:{port}/ip");
    finish(user_command("curl").args(["-gsS", "-m", "20", &url])).text().to_owned()
}

#[test]
fn published_ports_lead_to_the_interface_until_they_are_removed() {
    let confined = ["--enable-sandbox", "--enable-seccomp", "--disable-host-loopback"];
    for (program, options) in BOTH.into_iter().flat_map(|program| [(program, &[][..]), (program, &confined)])
    {
        let network = Network::new("published", program, options);
        let port = free_port();
        assert_eq!(network.publish("127.0.0.1", port), added(1), "{program:?} {options:?}");
        for _ in 0..3 {
            assert_eq!(seen_at("127.0.0.1", port), "::ffff:10.0.2.2", "{program:?} {options:?}");
        }
        let entry = format!(
            "{{\"id\":1,\"proto\":\"tcp\",\"host_addr\":\"127.0.0.1\",\"host_port\":{port},\
             \"guest_addr\":\"10.0.2.100\",\"guest_port\":80}}"
        );
        let list = ask(&network.api, "{\"execute\":\"list_hostfwd\"}").replace(": ", ":").replace(", ", ",");
        assert!(list.contains(&format!("\"entries\":[{entry}]")), "{program:?}: {list}");
        assert_eq!(network.remove(1), DONE);
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "{program:?}: nobody should listen");
        // Free at once, for others and for us.
        drop(TcpListener::bind(("127.0.0.1", port)).unwrap());
        assert_eq!(network.publish("127.0.0.1", port), added(2), "{program:?}");
        assert_eq!(seen_at("127.0.0.1", port), "::ffff:10.0.2.2");
    }
}

/// A UDP client on the host that is answered what it says.
fn is_echoed(port: u16) -> std::io::Result<()> {
    let client = UdpSocket::bind("127.0.0.1:0")?;
    client.connect(("127.0.0.1", port))?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.send(b"hello")?;
    let mut answer = [0; 100];
    let len = client.recv(&mut answer)?;
    assert_eq!(&answer[..len], b"hello");
    Ok(())
}

#[test]
fn published_udp_ports_lead_to_the_interface_until_they_are_removed() {
    let closed = ["--enable-sandbox", "--enable-seccomp", "--disable-host-loopback"];
    // Where the host's loopback is closed, theirs answers no client there.
    for (program, options) in [(Program::Theirs, &[][..]), (Program::Ours, &[]), (Program::Ours, &closed)] {
        let network = Network::new("published-udp", program, options);
        let port = free_port();
        let to_echo =
            format!("\"proto\":\"udp\",\"host_addr\":\"127.0.0.1\",\"host_port\":{port},\"guest_port\":7");
        for id in 1..4 {
            assert_eq!(network.add(&to_echo), added(id), "{program:?} {options:?}");
            assert_eq!(network.add(&to_echo), FAILED, "{program:?} {options:?}");
            is_echoed(port).unwrap();
            is_echoed(port).unwrap();
            assert_eq!(network.remove(id), DONE);
            assert!(is_echoed(port).is_err(), "{program:?}: the host refuses");
        }
    }
}

#[test]
fn many_ports_come_and_go() {
    let network = Network::new("many", Program::Ours, &[]);
    let ports: Vec<u16> = (0..40).map(|_| free_port()).collect();
    for round in 0..3 {
        for (&port, at) in ports.iter().zip(1..) {
            assert_eq!(network.publish("127.0.0.1", port), added(round * 40 + at));
        }
        for port in [ports[0], ports[20], ports[39]] {
            assert_eq!(seen_at("127.0.0.1", port), "::ffff:10.0.2.2");
        }
        (1..=40).for_each(|at| assert_eq!(network.remove(round * 40 + at), DONE));
    }
}

#[test]
fn open_connections_outlive_the_removal_of_their_port() {
    for program in BOTH {
        let network = Network::new("outlive", program, &[]);
        let port = free_port();
        let to_echo =
            format!("\"proto\":\"tcp\",\"host_addr\":\"127.0.0.1\",\"host_port\":{port},\"guest_port\":8");
        assert_eq!(network.add(&to_echo), added(1));
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        for text in [b"one", b"two"] {
            client.write_all(text).unwrap();
            let mut answer = [0; 3];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, text, "{program:?}");
            network.remove(1);
        }
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}

#[test]
fn a_port_that_is_taken_is_refused_until_it_is_free() {
    for program in BOTH {
        let network = Network::new("taken", program, &[]);
        let port = free_port();
        let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
        assert_eq!(network.publish("127.0.0.1", port), FAILED, "{program:?}");
        drop(taken);
        assert_eq!(network.publish("127.0.0.1", port), added(1), "{program:?}");
        assert_eq!(network.publish("127.0.0.1", port), FAILED, "{program:?}");
    }
}

#[test]
fn a_port_that_nobody_serves_resets_its_clients() {
    for program in BOTH {
        let network = Network::new("unserved", program, &[]);
        let port = free_port();
        let closed =
            format!("\"proto\":\"tcp\",\"host_addr\":\"127.0.0.1\",\"host_port\":{port},\"guest_port\":81");
        assert_eq!(network.add(&closed), added(1));
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let ended = client.read(&mut [0]);
        assert!(
            !matches!(&ended, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock),
            "{program:?}: {ended:?}"
        );
        assert!(!matches!(ended, Ok(1..)), "{program:?}");
    }
}

#[test]
fn ipv6_clients_are_connected_too() {
    let network = Network::new("ipv6", Program::Ours, &["-6"]);
    let port = free_port();
    assert_eq!(network.publish("::1", port), added(1));
    assert_eq!(seen_at("[::1]", port), "::ffff:10.0.2.2");
    let address = network.target.global_ipv6();
    let to = format!(
        "\"proto\":\"tcp\",\"host_addr\":\"::\",\"host_port\":{},\"guest_addr\":\"{address}\",\"guest_port\":80",
        free_port()
    );
    assert_eq!(network.add(&to), added(2));
    let port = to.split("\"host_port\":").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
    assert_eq!(seen_at("[::1]", port), "fd00::2");
}

#[test]
fn the_guests_address_is_any_of_the_network() {
    let network = Network::new("guest", Program::Ours, &[]);
    network.target.inside("ip addr add 10.0.2.55/24 dev tap0").text();
    let to = |guest: &str| {
        let port = free_port();
        let arguments = format!(
            "\"proto\":\"tcp\",\"host_addr\":\"127.0.0.1\",\"host_port\":{port},\"guest_addr\":\"{guest}\",\"guest_port\":80"
        );
        (network.add(&arguments), port)
    };
    // Nothing reaches a namespace's loopback from outside: the interface is what can be meant.
    for (guest, id) in [("10.0.2.55", 1), ("127.0.0.1", 2), ("0.0.0.0", 3), ("::1", 4)] {
        let (answer, port) = to(guest);
        assert_eq!(answer, added(id), "{guest}");
        assert_eq!(seen_at("127.0.0.1", port), "::ffff:10.0.2.2", "{guest}");
    }
    for guest in ["10.0.2.2", "10.0.2.3", "10.0.2.255", "192.0.2.1", "fd00::100"] {
        assert_eq!(to(guest).0, FAILED, "{guest}");
    }
}

/// CAP_NET_BIND_SERVICE is what the sandbox leaves to root.
#[test]
fn root_publishes_privileged_ports_from_within_the_sandbox() {
    if !is_root() {
        return;
    }
    for program in BOTH {
        let (target, api) = (Target::new(), socket(&format!("privileged-{program:?}")));
        let mut command = Command::new("timeout");
        command.args(["--foreground", "60"]).arg(program.path());
        command.args(["-e", "0", "-r", "1", "-c", "--enable-sandbox", "--enable-seccomp", "-a"]);
        command.arg(&api).args([&target.pid(), "tap0"]);
        let _gateway = Gateway::start_command(&mut command);
        let _server = target.serve_everything();
        let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
        let port = (512..1024).rev().find(is_free).expect("a free port");
        let arguments =
            format!("\"proto\":\"tcp\",\"host_addr\":\"127.0.0.1\",\"host_port\":{port},\"guest_port\":80");
        let request = format!("{{\"execute\":\"add_hostfwd\",\"arguments\":{{{arguments}}}}}");
        assert_eq!(ask(&api, &request), added(1), "{program:?}");
        assert_eq!(seen_at("127.0.0.1", port), "::ffff:10.0.2.2", "{program:?}");
    }
}
