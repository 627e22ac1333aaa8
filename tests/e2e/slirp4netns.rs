// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is reached through the front end that stands in for slirp4netns.

use super::lab::{Finished, Lab};

/// A shell script in a namespace that a gateway with these options has configured.
fn through(lab: &Lab, options: &str, script: &str) -> Finished {
    let outer = format!(
        "unshare -rn sleep 50 & target=$!
         while [ \"$(readlink /proc/$target/ns/net)\" = \"$(readlink /proc/self/ns/net)\" ]; do sleep 0.05; done
         $WHARF slirp4netns -c {options} $target tap0 >/dev/null & gateway=$!
         in_target() {{ nsenter -U --preserve-credentials -n -t $target \"$@\"; }}
         until in_target ping -c1 -W1 10.0.2.2 >/dev/null; do sleep 0.05; done
         in_target sh -c '{script}'; status=$?
         kill $gateway $target; exit $status"
    );
    lab.by_user(&outer)
}

#[test]
fn the_outside_is_reached_by_every_protocol() {
    let mut lab = Lab::new();
    lab.serve_everything();
    let confined = "--disable-host-loopback --enable-sandbox --enable-seccomp -6 --mtu=65520";
    let script = "curl -sS -m9 -o /dev/null -w %{http_code} http://203.0.113.2/ && ping -c1 -W5 203.0.113.2 >/dev/null &&
        echo text | socat -T1 - UDP:203.0.113.2:7 &&
until ping -c1 -W1 2001:db8:1::2 >/dev/null 2>&1; do sleep 0.1; done &&
        curl -sS -m9 -o /dev/null -w %{http_code} http://[2001:db8:1::2]/";
    assert_eq!(through(&lab, confined, script).text(), "200text\n200");
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
    lab.serve("socat UDP-LISTEN:8001,fork,reuseaddr SYSTEM:\"echo \\$SOCAT_PEERADDR\"", 8001);
    let script = "socat -u TCP:203.0.113.2:8000 -; echo | socat -T1 - UDP:203.0.113.2:8001";
    for (option, expected) in [
        ("", "203.0.113.1"),
        ("--outbound-addr=203.0.113.9", "203.0.113.9"),
        ("--outbound-addr=side0", "203.0.113.10"),
    ] {
        let shown = through(&lab, option, script);
        assert_eq!(shown.text(), format!("{expected}\n{expected}\n"), "{option} {shown:?}");
    }
}
