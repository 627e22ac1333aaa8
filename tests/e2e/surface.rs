// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a user sees first: addresses, routes, resolver, pings and paths.

use crate::lab::{FEW_DESCRIPTORS, Lab};

#[test]
fn a_sandbox_looks_like_a_small_machine_on_a_small_network() {
    let lab = Lab::new();
    let script = "ip -br addr; ip route; cat /etc/resolv.conf; ping -c1 -W5 10.0.2.2 | grep -o '1 received'";
    let result = lab.inside(&[], script);
    for part in ["10.0.2.100/24", "default via 10.0.2.2 dev eth0", "nameserver 10.0.2.3", "1 received"] {
        assert!(result.text().contains(part), "{part} in {result:?}");
    }
}

#[test]
fn ping_reaches_gateway_and_outside_in_both_families() {
    let lab = Lab::new();
    let script = "for to in 10.0.2.2 10.0.2.3 198.51.100.1 2001:db8:2::1 64:ff9b:1::198.51.100.1; do
                      ping -n -c2 -i0.2 -W5 $to | grep -o '2 received'
                  done; ping -n -c1 -W5 -s 20000 198.51.100.1 | grep -o '20008 bytes'
                  ping -n -c1 -W5 -s 20000 2001:db8:2::1 | grep -o '20008 bytes'";
    let result = lab.inside(&["--mtu", "1500", "--nat64-prefix", "64:ff9b:1::/96"], script);
    let big = "20008 bytes\n".repeat(2);
    assert_eq!(result.text(), "2 received\n".repeat(5) + &big);
}

#[test]
fn traceroute_shows_the_gateway_and_goes_on_in_every_mode() {
    let mut lab = Lab::new();
    lab.serve_everything();
    for (mode, to) in [
        ("-I", "198.51.100.1"),
        ("-U -p 33434", "198.51.100.1"),
        ("-T -p 80", "198.51.100.1"),
        ("-6 -I", "2001:db8:2::1"),
        ("-6 -U", "2001:db8:2::1"),
        ("-6 -T -p 80", "2001:db8:2::1"),
    ] {
        let result = lab.inside(&[], &format!("traceroute -n -q1 -w5 {mode} {to}"));
        let hops: Vec<&str> = result.text().lines().skip(1).collect();
        let gateway = if mode.contains('6') { "::2 " } else { "10.0.2.2" };
        assert_eq!(hops.len(), 2, "{mode}: {result:?}");
        assert!(hops[0].contains(gateway), "{mode}: {result:?}");
        assert!(hops[1].contains(to), "{mode}: {result:?}");
    }
}

#[test]
fn mtr_shows_both_hops_without_loss() {
    let lab = Lab::new();
    let result = lab.inside(&[], "mtr -n -r -c 3 -i 0.2 198.51.100.1");
    let hops: Vec<&str> = result.text().lines().filter(|line| line.contains("|--")).collect();
    assert_eq!(hops.len(), 2, "{result:?}");
    assert!(hops.iter().all(|hop| hop.contains(" 0.0%")), "{result:?}");
}

/// One refused and one live destination from one socket, in turn: the refusals of the one must not cost the other.
#[test]
fn errors_of_one_destination_cost_the_other_no_datagram() {
    let mut lab = Lab::new();
    lab.serve_everything();
    let script = r#"python3 -c '
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
# A socket that is not connected hears of errors only so: IP_RECVERR.
s.setsockopt(socket.IPPROTO_IP, 11, 1)
refused, lost = 0, 0
def persist(call, *arguments):
    global refused
    while True:
        try:
            return call(*arguments)
        except ConnectionRefusedError:
            refused += 1
            s.recv(100, socket.MSG_ERRQUEUE)
for number in range(10000):
    persist(s.sendto, b"nobody", ("203.0.113.2", 4444))
    persist(s.sendto, b"%d" % number, ("198.51.100.1", 7))
    try:
        while persist(s.recv, 100) != b"%d" % number:
            pass
    except TimeoutError:
        lost += 1
print("lost", lost, "refused", refused > 0)
'"#;
    let result = lab.inside(&[], script);
    assert_eq!(result.text(), "lost 0 refused True\n", "{result:?}");
}

/// Answers at each of a hundred addresses from there.
const HUNDRED_ECHOES: &str = r#"
import select, socket
servers = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(100)]
for i, s in enumerate(servers, 10):
    s.bind(("198.51.100.%d" % i, 6007))
while True:
    for s in select.select(servers, [], [])[0]:
        s.sendto(*s.recvfrom(100))
"#;

#[test]
fn one_socket_hears_from_a_hundred_destinations_with_every_number_of_workers() {
    for workers in ["1", "2", "3"] {
        let mut lab = Lab::new();
        lab.serve_everything();
        let add = "for i in $(seq 10 109); do ip addr add 198.51.100.$i/32 dev in0; done";
        lab.on_server(add).text();
        lab.serve(&format!("python3 -c '{HUNDRED_ECHOES}'"), 6007);
        let script = r#"python3 -c '
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
for i in range(10, 110):
    s.sendto(b"%d" % i, ("198.51.100.%d" % i, 6007))
answered = set()
try:
    while len(answered) < 100:
        data, (address, _) = s.recvfrom(100)
        assert address == "198.51.100.%d" % int(data), (address, data)
        answered.add(address)
except TimeoutError:
    pass
print(len(answered), "answered")
'"#;
        let result = lab.inside(&["--workers", workers], script);
        assert_eq!(result.text(), "100 answered\n", "{workers} workers: {result:?}");
    }
}

#[test]
fn large_datagrams_and_their_fragments_pass_both_ways() {
    let mut lab = Lab::new();
    lab.serve_everything();
    let script = r#"python3 -c '
import socket
for family, to in [(socket.AF_INET, "198.51.100.1"), (socket.AF_INET6, "2001:db8:2::1")]:
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(10)
    for size in [0, 1, 1452, 1472, 1473, 4000, 30000, 65000]:
        data = bytes(i * 7 & 255 for i in range(size))
        s.sendto(data, (to, 7))
        assert s.recv(65535) == data, size
print("unchanged")
'"#;
    for options in [&["--mtu", "1500"][..], &["--mtu", "1500", "--workers", "2"], &[]] {
        let result = lab.inside(options, script);
        assert_eq!(result.text(), "unchanged\n", "{options:?}: {result:?}");
    }
}

/// Those that leave and arrive together are still those that they were.
#[test]
fn bursts_of_datagrams_pass_both_ways_unchanged() {
    let mut lab = Lab::new();
    lab.serve_everything();
    let script = r#"python3 -c '
import socket, sys
for to in sys.argv[1:]:
    s = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(10)
    s.connect((to, 7))
    for size in [1, 64, 1200, 1400]:
        # Few enough for the smallest receive buffer on the way.
        sent = [bytes([i, size & 255]) * (size // 2) + bytes([i]) for i in range(40)] + [b"short", b"shorter", bytes(size)]
        for data in sent:
            s.send(data)
        got = [s.recv(65535) for _ in sent]
        # The kernel itself may change their order, where a thread moves to another processor.
        assert sorted(got) == sorted(sent), (to, size)
print("unchanged")
' "#;
    let (both, translated) = ("198.51.100.1 2001:db8:2::1", "64:ff9b:1::198.51.100.1");
    for (options, to) in [
        (&[][..], both),
        (&["--mtu", "1500"], both),
        (&["--mtu", "1300"], both),
        (&["--device", "veth"], both),
        (&["--ipv6-only"], translated),
    ] {
        let result = lab.inside(options, &format!("{script}{to}"));
        assert_eq!(result.text(), "unchanged\n", "{options:?}: {result:?}");
    }
}

#[test]
fn a_degraded_point_is_said_once_when_it_is_first_needed() {
    let lab = Lab::new();
    lab.on_host("sysctl -qw net.ipv4.ping_group_range='1 0'").text();
    let remedy = "sudo sysctl -w net.ipv4.ping_group_range='0 2147483647'";
    let times = |options: &[&str], script: &str| lab.inside(options, script).stderr.matches(remedy).count();
    let needs_it = "ping -n -c3 -i0.2 -W1 198.51.100.1; ping -n -c1 -W1 2001:db8:2::1; true";
    assert_eq!(times(&[], "ping -n -c1 -W5 10.0.2.2"), 0);
    assert_eq!(times(&[], needs_it), 1);
    assert_eq!(times(&["-q"], needs_it), 0);
    // In the beginning, and when it is needed.
    assert_eq!(times(&["-v"], "true"), 1);
    assert_eq!(times(&["-v"], needs_it), 2);
}

#[test]
fn running_out_of_descriptors_is_said_with_its_remedy_and_harms_no_flow_that_lives() {
    let mut lab = Lab::new();
    lab.serve_everything();
    let script = r#"python3 -c '
import socket
old = socket.create_connection(("198.51.100.1", 8))
sockets = []
for number in range(40):
    try:
        sockets.append(socket.create_connection(("198.51.100.1", 8)))
    except ConnectionRefusedError:
        print("no more")
        break
for number in range(40):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(10)
        s.sendto(b"datagrams pass", ("198.51.100.1", 7))
        answer = s.recv(100).decode()
print(answer)
old.sendall(b"still here")
print(old.recv(100).decode())
'"#;
    let result = lab.inside_after(FEW_DESCRIPTORS, &[], script);
    assert_eq!(result.text(), "no more\ndatagrams pass\nstill here\n", "{result:?}");
    assert_eq!(result.stderr.matches("LimitNOFILE=").count(), 1, "{result:?}");
}
