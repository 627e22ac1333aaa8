// SPDX-License-Identifier: MIT OR Apache-2.0
//! Published ports: clients on the host and beyond it reach a server in the sandbox.

use std::process::{Command, Stdio};

use crate::lab::{FEW_DESCRIPTORS, Finished, Lab, Running, eventually, script};

/// Starts the test server in a sandbox with these options and waits until `url` answers on the host.
fn serve_inside(lab: &Lab, options: &[&str], url: &str) -> Running {
    serve(lab, lab.inside_command(options, &format!("exec python3 {}", script("server.py"))), url)
}

/// Starts a sandbox and waits until `url` answers on the host.
fn serve(lab: &Lab, mut sandbox: Command, url: &str) -> Running {
    let server = Running::start(sandbox.stderr(Stdio::null()));
    eventually("the published server answers", || {
        lab.on_host(&format!("curl -gsS -m 5 -o /dev/null {url}")).status == Some(0)
    });
    server
}

#[test]
fn the_server_sees_clients_under_their_own_address_where_it_could_answer_that() {
    let lab = Lab::new();
    let options = ["--ipv6-prefix", "2001:db8:5::/64", "-p", "8080:80"];
    let _server = serve_inside(&lab, &options, "http://127.0.0.1:8080/0");
    let from_host =
        |url: &str| lab.on_host(&format!("curl -gsS -m 20 http://{url}:8080/ip")).text().to_owned();
    let from_outside =
        |url: &str| lab.on_server(&format!("curl -gsS -m 20 http://{url}:8080/ip")).text().to_owned();
    assert_eq!(from_outside("203.0.113.1"), "::ffff:203.0.113.2");
    assert_eq!(from_outside("[2001:db8:1::1]"), "2001:db8:1::2");
    assert_eq!(from_host("203.0.113.1"), "::ffff:203.0.113.1");
    assert_eq!(from_host("127.0.0.1"), "::ffff:10.0.2.2");
    assert_eq!(from_host("[::1]"), "2001:db8:5::2");
}

#[test]
fn clients_of_a_family_that_the_sandbox_does_not_have_are_seen_as_the_gateway() {
    let lab = Lab::new();
    let ipv4 = serve_inside(&lab, &["--ipv4-only", "-p", "8080:80"], "http://127.0.0.1:8080/0");
    let seen = lab.on_server("curl -gsS -m 20 http://[2001:db8:1::1]:8080/ip");
    assert_eq!(seen.text(), "::ffff:10.0.2.2");
    drop(ipv4);
    let options = ["--ipv6-only", "--ipv6-prefix", "2001:db8:5::/64", "-p", "8081:80"];
    let _ipv6 = serve_inside(&lab, &options, "http://127.0.0.1:8081/0");
    let seen = lab.on_server("curl -gsS -m 20 http://203.0.113.1:8081/ip");
    assert_eq!(seen.text(), "2001:db8:5::2");
}

/// Moves `size` bytes each way between the server namespace and a sandbox's server, and compares their digests.
fn move_both_ways(options: &[&str], url: &str, size: u64) {
    let mut lab = Lab::new();
    lab.serve_everything();
    let _server = serve_inside(&lab, options, "http://127.0.0.1:8080/0");
    let own = format!("curl -sS http://127.0.0.1/{size}");
    let expected = lab.on_server(&format!("{own} | sha256sum"));
    let expected = expected.text().split_whitespace().next().unwrap();
    let down = lab.on_server(&format!("curl -gsS {url}/{size} | sha256sum"));
    assert_eq!(down.text().split_whitespace().next(), Some(expected), "to the client: {down:?}");
    let put = format!("curl -gsS -T - -H 'Transfer-Encoding:' -H 'Content-Length: {size}' {url}/");
    let up = lab.on_server(&format!("{own} | {put}"));
    assert_eq!(up.text(), expected, "to the sandbox: {up:?}");
}

const QUARTER_GIBIBYTE: u64 = 256 << 20;

#[test]
fn a_quarter_of_a_gibibyte_moves_each_way_over_ipv4() {
    move_both_ways(&["-p", "8080:80"], "http://203.0.113.1:8080", QUARTER_GIBIBYTE);
}

#[test]
fn a_quarter_of_a_gibibyte_moves_each_way_over_ipv6_at_mtu_1500() {
    move_both_ways(&["--mtu", "1500", "-p", "8080:80"], "http://[2001:db8:1::1]:8080", QUARTER_GIBIBYTE);
}

const CONCURRENT: &str = r#"
import socket, sys
count = int(sys.argv[1])
sockets = [socket.create_connection(("203.0.113.1", 8008), timeout=20) for _ in range(count)]
for number, s in enumerate(sockets):
    s.sendall(b"%08d" % number)
for number, s in enumerate(sockets):
    got = b""
    while len(got) < 8:
        part = s.recv(8 - len(got))
        assert part, number
        got += part
    assert got == b"%08d" % number, got
print("all answered")
"#;

#[test]
fn two_hundred_clients_live_side_by_side() {
    let lab = Lab::new();
    for workers in ["1", "2"] {
        let options = ["--workers", workers, "-p", "8008:8", "-p", "8080:80"];
        let _server = serve_inside(&lab, &options, "http://127.0.0.1:8080/0");
        let result = lab.on_server(&format!("python3 -c '{CONCURRENT}' 200"));
        assert_eq!(result.text(), "all answered\n", "{workers} workers: {result:?}");
    }
}

const IN_TURN: &str = r#"
import socket
sockets = [socket.create_connection(("203.0.113.1", 8008), timeout=20) for _ in range(80)]
for s in sockets:
    s.sendall(b"x")
for s in sockets:
    assert s.recv(1) == b"x"
    s.close()
print("all answered")
"#;

#[test]
fn clients_beyond_the_hosts_descriptors_wait_for_their_turn() {
    let lab = Lab::new();
    let script = format!("exec python3 {}", script("server.py"));
    let sandbox = lab.inside_command_after(FEW_DESCRIPTORS, &["-p", "8008:8", "-p", "8080:80"], &script);
    let _server = serve(&lab, sandbox, "http://127.0.0.1:8080/0");
    let result = lab.on_server(&format!("python3 -c '{IN_TURN}'"));
    assert_eq!(result.text(), "all answered\n", "{result:?}");
}

#[test]
fn two_workers_move_streams_unchanged() {
    move_both_ways(&["--workers", "2", "-p", "8080:80"], "http://203.0.113.1:8080", 50_000_000);
}

#[test]
fn half_closed_connections_still_carry_the_answer() {
    let lab = Lab::new();
    let _server = serve_inside(&lab, &["-p", "8007:7", "-p", "8080:80"], "http://127.0.0.1:8080/0");
    let script = "head -c 3000000 /dev/zero | tr '\\0' 'y' | socat -t 20 - TCP4:203.0.113.1:8007 | md5sum
                  head -c 3000000 /dev/zero | tr '\\0' 'y' | md5sum";
    let result = lab.on_server(script);
    let sums: Vec<&str> = result.text().lines().collect();
    assert_eq!(sums[0], sums[1]);
}

/// What curl says of a connection that ended at once: the reset may come before it has looked, or after.
#[track_caller]
fn assert_reset(result: &Finished) {
    assert!(matches!(result.status, Some(7 | 56)), "{result:?}");
}

#[test]
fn a_port_that_nobody_serves_resets_its_clients_at_once() {
    let lab = Lab::new();
    let _server = serve_inside(&lab, &["-p", "8080:80", "-p", "8081:81"], "http://127.0.0.1:8080/0");
    let result = lab.on_server("curl -sS -m 20 http://203.0.113.1:8081/");
    assert_reset(&result);
}

#[test]
fn a_port_that_the_sandbox_rejects_by_icmp_resets_its_clients_at_once() {
    let lab = Lab::new();
    let rules = "nft add table inet t
        nft 'add chain inet t in { type filter hook input priority 0; }'
        nft add rule inet t in tcp dport 81 reject with icmpx type admin-prohibited";
    let both = format!("{rules}\nexec python3 {}", script("server.py"));
    let sandbox = lab.inside_command(&["-p", "8080:80", "-p", "8081:81"], &both);
    let _server = serve(&lab, sandbox, "http://127.0.0.1:8080/0");
    for url in ["203.0.113.1", "[2001:db8:1::1]"] {
        assert_reset(&lab.on_server(&format!("curl -gsS -m 20 http://{url}:8081/")));
    }
}

#[test]
fn a_port_that_cannot_be_published_is_named_and_no_command_runs() {
    let lab = Lab::new();
    let _server = serve_inside(&lab, &["-p", "127.0.0.1:8080:80"], "http://127.0.0.1:8080/0");
    let refused = |wish: &str, problem: &str| {
        let result = lab.inside(&["-p", "127.0.0.1:8090:80", "-p", wish], "echo started");
        assert_eq!((result.status, result.stdout.as_str()), (Some(125), ""), "{result:?}");
        assert!(result.stderr.contains(problem), "{result:?}");
        assert_eq!(result.stderr.lines().count(), 1, "{result:?}");
    };
    refused("127.0.0.1:8080:80", "cannot publish 127.0.0.1:8080: the port is in use");
    refused("81:81", "cannot publish 0.0.0.0:81: ports below net.ipv4.ip_unprivileged_port_start");
    refused("198.51.100.9:8081:81", "cannot publish 198.51.100.9:8081: the host has no address 198.51.100.9");
}

#[test]
fn ranges_and_free_ports_lead_where_they_say() {
    let lab = Lab::new();
    // Ports 7 to 10 of the test server; 10 sends one byte.
    let options = ["-p", "8080:80", "-p", "127.0.0.1:9007-9010:7-10"];
    let server = serve_inside(&lab, &options, "http://127.0.0.1:8080/0");
    assert_eq!(lab.on_host("socat -u TCP4:127.0.0.1:9010 -").text(), "x");
    assert_eq!(lab.on_host("echo hi | socat -t 5 - TCP4:127.0.0.1:9008").text(), "hi\n");
    drop(server);
    let result = lab.inside(&["-p", "127.0.0.1:0:80"], "true");
    assert_eq!(result.status, Some(0), "{result:?}");
    let (said, port) = result.stderr.trim().rsplit_once("127.0.0.1:").unwrap();
    assert_eq!(said, "wharf: port ", "{result:?}");
    let (port, target) = port.split_once(' ').unwrap();
    assert!(port.parse::<u16>().unwrap() > 0);
    assert_eq!(target, "of the host leads to 10.0.2.100:80");
}
