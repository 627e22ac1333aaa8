// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names: the forwarder in front of a real server, and the resolv.conf files on both sides.

use std::fs;
use std::path::Path;

use crate::lab::{Lab, Running, scratch};

/// Addresses of `big.example`: an answer of 2,400 bytes.
const MANY: u32 = 150;

impl Lab {
    /// Starts dnsmasq on 203.0.113.2 with the zone `example`.
    fn serve_names(&mut self) {
        let hosts = scratch().join("hosts");
        let many: String = (1..=MANY).map(|n| format!("192.0.2.{n} big.example\n")).collect();
        let rest =
            "198.51.100.1 www.corp.example\n2001:db8:2::1 www.corp.example\n198.51.100.1 v4only.example\n";
        fs::write(&hosts, many + rest).unwrap();
        self.serve_names_at("203.0.113.2", &format!("--addn-hosts={}", hosts.display()));
    }

    /// Starts a dnsmasq on one address. It knows `example` and nothing else.
    pub(crate) fn serve_names_at(&mut self, address: &str, records: &str) {
        let line = format!(
            "dnsmasq -k --conf-file=/dev/null --no-resolv --no-hosts --user=root --pid-file= --local=/example/ \
             --edns-packet-max=4096 --bind-interfaces --except-interface=lo --listen-address={address} {records}"
        );
        self.serve_at(&line, &format!("src {address} and sport = :53"));
    }
}

#[test]
fn dig_gets_its_answers_over_udp_and_tcp_from_every_address_of_the_forwarder() {
    let mut lab = Lab::new();
    lab.serve_names();
    let script =
        "for server in 10.0.2.3 10.0.2.2 2001:db8:77::3 2001:db8:77::2; do for how in +notcp +tcp; do
                      dig +short +tries=1 $how @$server www.corp.example A
                      dig +short +tries=1 $how @$server www.corp.example AAAA
                  done; done
                  dig +tries=1 nothing.example | grep -o 'status: NXDOMAIN'";
    let result = lab.inside(&["--ipv6-prefix", "2001:db8:77::/64"], script);
    let expected = "198.51.100.1\n2001:db8:2::1\n".repeat(8) + "status: NXDOMAIN\n";
    assert_eq!(result.text(), expected, "{result:?}");
}

/// RFC 6761: with a nameserver that lies about them, to be sure that it is not asked.
#[test]
fn names_of_the_sandbox_itself_are_answered_by_the_gateway() {
    let mut lab = Lab::new();
    lab.serve_names_at("203.0.113.2", "--address=/#/192.0.2.66");
    let script = "for name in localhost a.localhost a.test; do dig +short $name A $name AAAA; done
                  dig +short -x 127.0.0.1; dig +short -x ::1; dig a.invalid | grep -o 'status: NXDOMAIN'";
    let expected = "127.0.0.1\n::1\n127.0.0.1\n::1\n192.0.2.66\nlocalhost.\nlocalhost.\nstatus: NXDOMAIN\n";
    assert_eq!(lab.inside(&[], script).text(), expected);
}

/// RFC 7766 section 6.2.3.
#[test]
fn connections_left_open_do_not_keep_anybody_from_asking_by_tcp() {
    let lab = Lab::new();
    let script = "python3 -c '
import socket, subprocess
idle = [socket.create_connection((\"10.0.2.3\", 53)) for _ in range(100)]
subprocess.run([\"dig\", \"+tcp\", \"+tries=1\", \"+short\", \"localhost\"])
'";
    assert_eq!(lab.inside(&[], script).text(), "127.0.0.1\n");
}

#[test]
fn large_answers_come_by_edns_or_truncated_and_then_by_tcp() {
    let mut lab = Lab::new();
    lab.serve_names();
    let script = "dig +noedns +ignore +tries=1 big.example | grep -o 'flags: qr[^;]*'
                  dig +noedns +tries=1 +short big.example | wc -l
                  dig +bufsize=4096 +ignore +tries=1 big.example | grep -o 'flags: qr[^;]*'
                  dig +bufsize=4096 +tries=1 +short big.example | wc -l
                  dig +tcp +tries=1 +short big.example | wc -l";
    // An answer that needs fragments on the sandbox's link goes by TCP as well.
    for (mtu, whole_by_edns) in [("1500", false), ("9000", true)] {
        let result = lab.inside(&["--mtu", mtu], script);
        let lines: Vec<&str> = result.text().lines().collect();
        assert!(lines[0].contains(" tc"), "{result:?}");
        assert_eq!(lines[2].contains(" tc"), !whole_by_edns, "{result:?}");
        let many = MANY.to_string();
        assert_eq!([lines[1], lines[3], lines[4]], [many.as_str(); 3], "{result:?}");
    }
}

#[test]
fn nameservers_that_are_silent_or_absent_are_passed_over() {
    let mut lab = Lab::new();
    lab.serve_names();
    lab.on_server(
        "nft 'add table t; add chain t in { type filter hook input priority 0; }
                        add rule t in ip daddr 198.51.100.1 udp dport 53 drop'",
    )
    .text();
    // The first says nothing, the second that nobody listens.
    lab.set_etc("resolv.conf", "nameserver 198.51.100.1\nnameserver 2001:db8:1::2\nnameserver 203.0.113.2\n");
    let script =
        "dig +short +tries=3 +time=10 www.corp.example; dig +short +tcp +tries=3 +time=10 www.corp.example";
    assert_eq!(lab.inside(&[], script).text(), "198.51.100.1\n198.51.100.1\n");
}

#[test]
fn names_are_found_by_the_hosts_search_list_or_the_users() {
    let mut lab = Lab::new();
    lab.serve_everything();
    lab.serve_names();
    lab.set_etc("resolv.conf", "search corp.example\nnameserver 203.0.113.2\n");
    let script = "curl -4 -sS http://www/7 | wc -c; curl -6 -sS http://www/7 | wc -c";
    assert_eq!(lab.inside(&[], script).text(), "7\n7\n");
    let result = lab.inside(
        &["--search", "example"],
        "curl -sS http://v4only/7 | wc -c; getent hosts www || echo unknown",
    );
    assert_eq!(result.text(), "7\nunknown\n");
}

#[test]
fn a_sandbox_without_ipv4_reaches_hosts_without_ipv6_by_name() {
    let mut lab = Lab::new();
    lab.serve_everything();
    lab.serve_names();
    let script = "curl -sS http://v4only.example/ip; echo
                  curl -sS http://v4only.example/1000000 | wc -c
                  ping -n -c1 -W5 v4only.example | grep -o '1 received'
                  dig +short v4only.example AAAA; dig +short www.corp.example AAAA
                  dig +short ipv4only.arpa AAAA | sort
                  dig +short -x 64:ff9b:1::198.51.100.1";
    let result = lab.inside(&["--ipv6-only"], script);
    let lines: Vec<&str> = result.text().lines().collect();
    let expected = [
        // The server sees the host.
        "::ffff:203.0.113.1",
        "1000000",
        "1 received",
        "64:ff9b:1::c633:6401",
        "2001:db8:2::1",
        "64:ff9b:1::c000:aa",
        "64:ff9b:1::c000:ab",
    ];
    assert_eq!(lines[..expected.len()], expected, "{result:?}");
}

/// RFC 6052 section 2.2 and RFC 8215.
#[test]
fn a_nat64_prefix_may_have_any_length_of_its_rfc() {
    let mut lab = Lab::new();
    lab.serve_everything();
    lab.serve_names();
    let cases = [
        ("2001:db8::/32", "2001:db8:c633:6401::"),
        ("2001:db8:64::/48", "2001:db8:64:c633:64:100::"),
        ("64:ff9b:1:64::/64", "64:ff9b:1:64:c6:3364:100:0"),
        ("fd00:64::/96", "fd00:64::c633:6401"),
    ];
    for (prefix, address) in cases {
        let script = "dig +short v4only.example AAAA; curl -sS http://v4only.example/ip";
        let result = lab.inside(&["--ipv6-only", "--nat64-prefix", prefix], script);
        assert_eq!(result.text(), format!("{address}\n::ffff:203.0.113.1"), "{prefix}");
    }
}

#[test]
fn a_resolv_conf_replaced_by_rename_moves_the_forwarder_and_not_the_sandboxs_file() {
    let mut lab = Lab::new();
    // What the first says holds for an hour, but not longer than the host asks it.
    lab.serve_names_at("203.0.113.2", "--host-record=which.example,192.0.2.1 --local-ttl=3600");
    lab.serve_names_at("198.51.100.1", "--host-record=which.example,192.0.2.2");
    let etc = scratch().join("etc-of-its-own");
    // Everything of the real one, and a file that can be replaced.
    let copy =
        format!("cp -a /etc {etc}; echo nameserver 203.0.113.2 > {etc}/resolv.conf", etc = etc.display());
    lab.on_host(&copy).text();
    let script = "dig +nocookie +short which.example; echo ready; read line
                  for i in $(seq 100); do [ \"$(dig +nocookie +short which.example)\" = 192.0.2.2 ] && break; sleep 0.1; done
                  dig +nocookie +short which.example; grep -v '^#' /etc/resolv.conf";
    let changes = format!("mount --bind {} /etc", etc.display());
    let mut command = lab.inside_command_after(&changes, &["--ipv4-only"], script);
    let mut running = Running::start(&mut command);
    assert_eq!([running.line(), running.line()], ["192.0.2.1", "ready"]);
    replace(&etc.join("resolv.conf"), "nameserver 198.51.100.1\n");
    running.say("go on");
    assert_eq!([running.line(), running.line()], ["192.0.2.2", "nameserver 10.0.2.3"]);
    running.succeed();
}

/// How long an answer lives, and what it is. A query with a cookie is always asked.
const ASK: &str = "dig +nocookie +noall +answer a.example | awk '{print $2, $5}'";

#[test]
fn a_nameserver_is_asked_once_for_an_answer_that_holds() {
    for (options, questions) in [(&[][..], 1), (&["--no-dns-cache"], 3)] {
        let mut lab = Lab::new();
        let log = scratch().join(format!("queries-{questions}"));
        let records = "--host-record=a.example,192.0.2.1 --local-ttl=600 --log-queries --log-facility";
        lab.serve_names_at("203.0.113.2", &format!("{records}={}", log.display()));
        let script = format!("{ASK}; sleep 2; {ASK}; dig +nocookie +short +tcp A.EXAMPLE");
        let result = lab.inside(options, &script);
        let lines: Vec<&str> = result.text().lines().collect();
        assert_eq!((lines[0], lines[2]), ("600 192.0.2.1", "192.0.2.1"), "{result:?}");
        let ttl: u32 = lines[1].strip_suffix(" 192.0.2.1").unwrap().parse().unwrap();
        assert_eq!(ttl < 600, questions == 1, "{result:?}");
        let log = fs::read_to_string(&log).unwrap();
        let asked = log.lines().filter(|line| line.to_lowercase().contains("query[a] a.example"));
        assert_eq!(asked.count(), questions, "{log}");
    }
}

fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}
