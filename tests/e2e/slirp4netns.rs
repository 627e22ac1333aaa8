// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is reached through the front end that stands in for slirp4netns.

use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use super::lab::{Finished, Lab, Running, ask_over_udp, datagrams, scratch, script};

const OURS: &str = "$WHARF slirp4netns";
const THEIRS: &str = "/usr/bin/slirp4netns";

/// A shell script that makes a namespace and `in_target`, and a gateway of `program` with these options for it.
fn with_gateway(program: &str, options: &str, script: &str) -> String {
    format!(
        "unshare -rn sleep 50 & target=$!
         while [ \"$(readlink /proc/$target/ns/net)\" = \"$(readlink /proc/self/ns/net)\" ]; do sleep 0.05; done
         {program} -c {options} $target tap0 >/dev/null & gateway=$!
         in_target() {{ nsenter -U --preserve-credentials -n -t $target \"$@\"; }}
         until in_target ping -c1 -W1 10.0.2.2 >/dev/null; do sleep 0.05; done
         {script}"
    )
}

/// A shell script in a namespace that a gateway with these options has configured.
fn through(lab: &Lab, options: &str, script: &str) -> Finished {
    let script = format!("in_target sh -c '{script}'; status=$?; kill $gateway $target; exit $status");
    lab.by_user(&with_gateway(OURS, options, &script))
}

/// The test server in a namespace, and the API socket of its gateway.
struct Served<'a> {
    lab: &'a Lab,
    socket: String,
    _running: Running,
}

impl<'a> Served<'a> {
    fn new(lab: &'a Lab, program: &str, options: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let socket = scratch().join(format!("api{}.sock", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let socket = socket.display().to_string();
        // The gateway ends with this test's end of the standard input, and the rest with the script.
        let inside = format!(
            "in_target timeout 50 python3 {} & server=$!
             in_target timeout 50 {} & datagrams=$!
             until in_target ss -Htln \"sport = :80\" | grep -q .; do sleep 0.05; done
             until in_target ss -Huln \"sport = :53\" | grep -q .; do sleep 0.05; done
             echo ready
             cat <&3 >/dev/null; kill $server $datagrams $target",
            script("server.py"),
            datagrams("serve 53")
        );
        let all =
            format!("exec 3<&0\n{}", with_gateway(program, &format!("-e 3 -a {socket} {options}"), &inside));
        let mut running = Running::start(lab.by_user_command(&all).stderr(Stdio::null()));
        while running.line() != "ready" {}
        Self { lab, socket, _running: running }
    }

    /// What the API answers when it is asked to publish a port.
    fn publish(&self, proto: &str, host: (&str, u16), guest: (&str, u16)) -> String {
        let ((host_addr, host_port), (guest_addr, guest_port)) = (host, guest);
        let request = format!(
            r#"{{"execute":"add_hostfwd","arguments":{{"proto":"{proto}","host_addr":"{host_addr}","host_port":{host_port},"guest_addr":"{guest_addr}","guest_port":{guest_port}}}}}"#
        );
        let ask = format!("echo '{request}' | socat -t 10 - UNIX-CONNECT:{}", self.socket);
        self.lab.on_host(&ask).text().to_owned()
    }
}

#[test]
fn the_outside_is_reached_by_every_protocol() {
    let mut lab = Lab::new();
    lab.serve_everything();
    let confined = "--disable-host-loopback --enable-sandbox --enable-seccomp -6 --mtu=65520";
    let echo = ask_over_udp("203.0.113.2", 7, "text");
    let script = format!(
        "curl -sS -m9 -o /dev/null -w %{{http_code}} http://203.0.113.2/ && ping -c1 -W5 203.0.113.2 >/dev/null &&
        {echo} &&
        until ping -c1 -W1 2001:db8:1::2 >/dev/null 2>&1; do sleep 0.1; done &&
        curl -sS -m9 -o /dev/null -w %{{http_code}} http://[2001:db8:1::2]/"
    );
    assert_eq!(through(&lab, confined, &script).text(), "200text\n200");
}

#[test]
fn names_are_asked_of_the_hosts_nameservers() {
    let mut lab = Lab::new();
    let dns = "dnsmasq -k -p 53 -a 203.0.113.2 --no-resolv --no-hosts --host-record=web.example,198.51.100.1 -u root";
    lab.serve(dns, 53);
    let script =
        "dig +short +time=5 +tries=1 web.example @10.0.2.3; dig +short +tcp +time=5 web.example @10.0.2.3";
    assert_eq!(through(&lab, "", script).text(), "198.51.100.1\n198.51.100.1\n");
    let script = "dig +time=1 +tries=1 web.example @10.0.2.3 >/dev/null; echo $?";
    assert_eq!(through(&lab, "--disable-dns", script).text(), "9\n");
}

#[test]
fn the_gateways_address_is_the_hosts_loopback_unless_that_is_disabled() {
    let mut lab = Lab::new();
    lab.serve_on_host("socat TCP-LISTEN:8000,bind=127.0.0.1,fork,reuseaddr SYSTEM:\"echo loopback\"", 8000);
    let script = "socat -u TCP:10.0.2.2:8000 - 2>&1 | grep -oE \"loopback|unreachable\"";
    assert_eq!(through(&lab, "", script).text(), "loopback\n");
    assert_eq!(through(&lab, "--disable-host-loopback", script).text(), "unreachable\n");
}

#[test]
fn traffic_leaves_from_the_address_that_was_chosen() {
    let mut lab = Lab::new();
    lab.on_host("ip addr add 203.0.113.9/24 dev out0; ip link add side0 type veth peer name side1; ip addr add 203.0.113.10/32 dev side0").text();
    lab.serve("socat TCP-LISTEN:8000,fork,reuseaddr SYSTEM:\"echo \\$SOCAT_PEERADDR\"", 8000);
    // One that ends without reading may take the answer with it.
    lab.serve("socat UDP-LISTEN:8001,fork,reuseaddr SYSTEM:\"read question; echo \\$SOCAT_PEERADDR\"", 8001);
    let script = format!("socat -u TCP:203.0.113.2:8000 -; {}", ask_over_udp("203.0.113.2", 8001, ""));
    for (option, expected) in [
        ("", "203.0.113.1"),
        ("--outbound-addr=203.0.113.9", "203.0.113.9"),
        ("--outbound-addr=side0", "203.0.113.10"),
    ] {
        let shown = through(&lab, option, &script);
        assert_eq!(shown.text(), format!("{expected}\n{expected}\n"), "{option} {shown:?}");
    }
}

const PUBLISHED: &str = r#"{"return":{"id":1}}"#;
const REFUSED: &str = r#"{"error":{"desc":"bad request: add_hostfwd: slirp_add_hostfwd failed"}}"#;

#[test]
fn clients_of_a_published_port_are_seen_as_themselves_unless_they_are_on_the_hosts_loopback() {
    let lab = Lab::new();
    for program in [THEIRS, OURS] {
        for options in ["", "--disable-host-loopback --enable-sandbox --enable-seccomp --mtu=65520"] {
            let served = Served::new(&lab, program, options);
            assert_eq!(served.publish("tcp", ("0.0.0.0", 8080), ("", 80)), PUBLISHED, "{program} {options}");
            let outside = lab.on_server("curl -sS -m 20 http://203.0.113.1:8080/ip");
            assert_eq!(outside.text(), "::ffff:203.0.113.2", "{program} {options}");
            for (address, seen) in [("127.0.0.1", "10.0.2.2"), ("203.0.113.1", "203.0.113.1")] {
                let client = lab.on_host(&format!("curl -sS -m 20 http://{address}:8080/ip"));
                assert_eq!(client.text(), format!("::ffff:{seen}"), "{program} {options}");
            }
        }
    }
}

#[test]
fn ipv6_clients_of_a_published_port_are_seen_as_themselves_where_the_guest_has_ipv6() {
    let lab = Lab::new();
    let served =
        Served::new(&lab, OURS, "-6 --macaddress=52:54:00:12:34:56 --enable-sandbox --enable-seccomp");
    assert_eq!(served.publish("tcp", ("::", 8080), ("", 80)), PUBLISHED);
    let outside = |port: u16| lab.on_server(&format!("curl -gsS -m 20 http://[2001:db8:1::1]:{port}/ip"));
    assert_eq!(outside(8080).text(), "::ffff:10.0.2.2");
    let address = "fd00::5054:ff:fe12:3456";
    served.publish("tcp", ("2001:db8:1::1", 8081), (address, 80));
    assert_eq!(outside(8081).text(), "2001:db8:1::2");
}

#[test]
fn a_privileged_port_is_published_where_the_host_allows_it() {
    let lab = Lab::new();
    lab.on_host("sysctl -qw net.ipv4.ip_unprivileged_port_start=80").text();
    for program in [THEIRS, OURS] {
        let served = Served::new(&lab, program, "--enable-sandbox --enable-seccomp");
        assert_eq!(served.publish("tcp", ("0.0.0.0", 79), ("", 80)), REFUSED, "{program}");
        assert_eq!(served.publish("tcp", ("0.0.0.0", 80), ("", 80)), PUBLISHED, "{program}");
        assert_eq!(lab.on_host("curl -sS -m 20 http://127.0.0.1/ip").text(), "::ffff:10.0.2.2", "{program}");
    }
}

#[test]
fn clients_of_a_published_udp_port_are_seen_as_those_of_tcp() {
    let lab = Lab::new();
    lab.on_host("ip addr add 203.0.113.9/24 dev out0").text();
    let closed = "--disable-host-loopback --enable-sandbox --enable-seccomp --mtu=65520";
    for (program, options) in [(THEIRS, ""), (OURS, ""), (OURS, closed)] {
        let served = Served::new(&lab, program, options);
        assert_eq!(served.publish("udp", ("0.0.0.0", 5353), ("", 53)), PUBLISHED, "{program} {options}");
        let outside = lab.on_server(&datagrams("ask 203.0.113.1 5353 4001 hello"));
        assert_eq!(outside.text(), "203.0.113.1 5353 203.0.113.2 4001\n", "{program} {options}");
        // Theirs carries no large ones, answers from any address, and no client of the loopback if it has all of them.
        if program == OURS {
            let loopback = lab.on_host(&datagrams("ask 127.0.0.1 5353 4002 hello"));
            assert_eq!(loopback.text(), "127.0.0.1 5353 10.0.2.2 4002\n", "{program} {options}");
            let large = lab.on_server(&datagrams("ask 203.0.113.1 5353 4003 +9000"));
            assert_eq!(large.text(), "203.0.113.1 5353 203.0.113.2 4003\n", "{program} {options}");
            let second = lab.on_server(&datagrams("ask 203.0.113.9 5353 4004 hello"));
            assert_eq!(second.text(), "203.0.113.9 5353 203.0.113.2 4004\n", "{options}");
        }
    }
}

#[test]
fn ipv6_clients_of_a_published_udp_port_are_answered() {
    let lab = Lab::new();
    let served =
        Served::new(&lab, OURS, "-6 --macaddress=52:54:00:12:34:56 --enable-sandbox --enable-seccomp");
    assert_eq!(served.publish("udp", ("::", 5353), ("", 53)), PUBLISHED);
    let across = lab.on_server(&datagrams("ask 2001:db8:1::1 5353 4001 hello"));
    assert_eq!(across.text(), "2001:db8:1::1 5353 10.0.2.2 4001\n");
    served.publish("udp", ("::", 5354), ("fd00::5054:ff:fe12:3456", 53));
    let same = lab.on_server(&datagrams("ask 2001:db8:1::1 5354 4002 hello"));
    assert_eq!(same.text(), "2001:db8:1::1 5354 2001:db8:1::2 4002\n");
}
