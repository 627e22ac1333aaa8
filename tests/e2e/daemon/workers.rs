// SPDX-License-Identifier: MIT OR Apache-2.0
//! A network on two threads: everything goes on as on one, whichever of them is asked.

use super::Daemon;
use super::published::serve;
use super::reach::fixed_network;
use crate::lab::{Lab, script};

/// Asks every port of a range from one socket.
const MANY_DESTINATIONS: &str = r#"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(20)
for host in range(1, 101):
    s.sendto(b"%d" % host, ("198.51.100.%d" % host, 7))
    answer, sender = s.recvfrom(100)
    assert (answer, sender) == (b"%d" % host, ("198.51.100.%d" % host, 7)), (answer, sender)
print("all answered")
"#;

/// Speaks, is silent for longer than a worker polls and less than a mapping lives, and speaks again.
const PAUSES: &str = r#"
import socket, time
tcp = socket.create_connection(("198.51.100.1", 8), timeout=20)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.settimeout(20)
udp.connect(("198.51.100.1", 7))
for pause in (0, 10):
    time.sleep(pause)
    for s in (tcp, udp):
        s.send(b"x")
        assert s.recv(1) == b"x"
print("both answered")
"#;

#[test]
fn two_workers_serve_published_ports_idle_flows_many_destinations_and_neighbors() {
    let mut lab = Lab::new();
    lab.on_server("for i in $(seq 2 100); do ip addr add 198.51.100.$i/32 dev in0; done").text();
    let all: Vec<_> = (1..=100).map(|host| format!("198.51.100.{host}")).collect();
    lab.serve_at(&format!("python3 {} {}", script("server.py"), all.join(" ")), "sport = :80");
    let daemon = Daemon::up(lab, &(fixed_network(2) + r#"publish = ["8080:web:80"]"#));
    let (web, other) = (daemon.attached("--name web"), daemon.attached("--name other"));
    let mut idle = other.command(&format!("exec python3 -c '{PAUSES}'"));
    let mut idle = crate::lab::Running::start(&mut idle);
    let _server = serve(&web);
    assert_eq!(other.says(&format!("python3 -c '{MANY_DESTINATIONS}'")), "all answered");
    for to in ["203.0.113.1", "[2001:db8:1::1]"] {
        // Each connection may come to either worker.
        let fetch = format!("for i in $(seq 20); do curl -gsS -m 20 http://{to}:8080/3; done | wc -c");
        assert_eq!(daemon.lab.on_server(&fetch).text(), "60\n");
    }
    let size = 20_000_000;
    let fetch = |from: &str| format!("curl -gsS -m 60 http://{from}/{size} | sha256sum");
    let expected = web.says(&fetch("127.0.0.1"));
    assert_eq!(other.says(&fetch("10.0.2.10")), expected);
    assert_eq!(other.says(&fetch("[2001:db8:5::10]")), expected);
    assert_eq!(other.says(&fetch("198.51.100.1")), expected);
    assert_eq!(other.says("dig +short +tries=1 @10.0.2.3 web.default.internal"), "10.0.2.10");
    assert_eq!(idle.line(), "both answered");
}
