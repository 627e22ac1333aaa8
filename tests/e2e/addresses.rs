// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a sandbox comes by its addresses when it asks the network: DHCP, Router Advertisements, and nobody in the way
//! of duplicate address detection.

use crate::lab::{Lab, script};

/// Starts a DHCP client on an interface without addresses, waits for a lease and its renewal, and uses it.
fn leases(client: &str, renew: &str) {
    let mut lab = Lab::new();
    lab.serve_everything();
    let script = format!(
        "set -e
         cd $(mktemp -d); cp {} .; d=$PWD
         happens() {{
             for i in $(seq 200); do grep -qi \"^$1 10.0.2.100 \" log 2>/dev/null && return; sleep 0.1; done
             cat log >&2; exit 1
         }}
         ip addr flush dev eth0
         {client} &
         happens bound
         {renew}
         happens renew
         tail -n 2 log; curl -sS http://198.51.100.1/3 | wc -c",
        script("lease.sh")
    );
    let result = lab.inside(&["--search", "corp.example", "--mtu", "1500"], &script);
    let text = result.text().to_lowercase();
    let tail: Vec<&str> = text.lines().rev().take(3).collect();
    assert_eq!(tail[2], "renew 10.0.2.100 router=10.0.2.2 dns=10.0.2.3", "{result:?}");
    assert!(tail[1].contains("search=corp.example") && tail[1].contains("mtu=1500"), "{result:?}");
    assert_eq!(tail[0], "3", "{result:?}");
}

#[test]
fn dhclient_gets_a_lease_and_renews_it() {
    leases(
        "printf 'supersede dhcp-renewal-time 2;
                 request subnet-mask, routers, domain-name-servers, domain-search, interface-mtu;' > conf
         dhclient -q -d -cf conf -lf $d/leases -pf $d/pid -sf $d/lease.sh eth0",
        "",
    );
}

#[test]
fn udhcpc_probes_the_address_gets_a_lease_and_renews_it() {
    leases("udhcpc -f -a -i eth0 -O search -O mtu -s $d/lease.sh", "kill -USR1 $!");
}

#[test]
fn dhcpcd_gets_a_lease_and_renews_it() {
    leases(
        "mount -t tmpfs none /var/lib/dhcpcd; mount -t tmpfs none /run
         dhcpcd -q -B -4 -c $d/lease.sh eth0",
        "dhcpcd -q -4 -N eth0",
    );
}

#[test]
fn rdisc6_shows_all_that_a_router_advertises() {
    let lab = Lab::new();
    let options = [
        "--ipv6-prefix",
        "2001:db8:77::/64",
        "--mtu",
        "9000",
        "--search",
        "a.example",
        "--search",
        "b.example",
    ];
    let result = lab.inside(&options, "rdisc6 -1 eth0");
    let text: String = result.text().split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "MTU : 9000 bytes (valid)",
        "Prefix : 2001:db8:77::/64 On-link : Yes Autonomous address conf.: Yes",
        "Recursive DNS server : 2001:db8:77::3",
        "DNS search list : a.example b.example",
        "Source link-layer address: 02:77:68:61:72:02",
        "from fe80::2",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn an_advertisement_alone_makes_the_kernel_reach_the_outside() {
    let mut lab = Lab::new();
    lab.serve_everything();
    // With the link the kernel takes all of wharf's own IPv6 settings down.
    let script = "ip link set eth0 down
                  sysctl -qw net.ipv6.conf.eth0.accept_ra=1 net.ipv6.conf.eth0.autoconf=1
                  ip link set eth0 up
                  for i in $(seq 100); do
                      ip -6 -o addr show dev eth0 scope global -tentative | grep -q . && break; sleep 0.1
                  done
                  ip -6 -o addr show dev eth0 scope global; ip -6 route show default
                  ping -n -c1 -W5 2001:db8:2::1 | grep -o '1 received'
                  curl -sS -g 'http://[2001:db8:2::1]/5' | wc -c";
    let result = lab.inside(&["--ipv6-only", "--ipv6-prefix", "2001:db8:77::/64"], script);
    let lines: Vec<&str> = result.text().lines().collect();
    assert_eq!(lines.len(), 4, "{result:?}");
    assert!(
        lines[0].contains("2001:db8:77:0:77:68ff:fe61:7264/64") && lines[0].contains("dynamic"),
        "{result:?}"
    );
    assert!(lines[1].contains("via fe80::2 dev eth0 proto ra"), "{result:?}");
    assert_eq!(lines[2..], ["1 received", "5"], "{result:?}");
}

#[test]
fn probes_for_addresses_that_are_not_the_gateways_stay_unanswered() {
    let lab = Lab::new();
    let script = format!(
        "for address in 10.0.2.100 10.0.2.50 10.0.2.2 10.0.2.3; do python3 {} arp $address; done",
        script("probe.py")
    );
    let gateway = "answered by 02:77:68:61:72:02\n".repeat(2);
    assert_eq!(lab.inside(&[], &script).text(), format!("silence\nsilence\n{gateway}"));
}

#[test]
fn the_nat64_prefix_is_advertised_when_there_is_one() {
    let lab = Lab::new();
    let script = format!("python3 {} pref64", script("probe.py"));
    assert_eq!(lab.inside(&["--ipv6-only"], &script).text(), "64:ff9b:1::/96 for 1800 s\n");
    assert_eq!(lab.inside(&[], &script).text(), "advertisement without PREF64\n");
}
