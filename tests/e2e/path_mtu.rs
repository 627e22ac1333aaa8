// SPDX-License-Identifier: MIT OR Apache-2.0
//! A path with a link narrower than the sandbox's: what may not be fragmented finds its MTU, the rest is cut.

use crate::lab::Lab;

/// What a far link of 1,300 bytes takes of a UDP or ICMP payload behind an IPv4 or IPv6 header.
const FAR_MTU: u32 = 1300;

fn lab() -> Lab {
    let mut lab = Lab::new();
    lab.add_far_end(FAR_MTU);
    lab.serve_everything_far_away();
    lab
}

#[test]
fn ping_hears_the_mtu_from_the_router_and_later_from_the_gateway() {
    let lab = lab();
    // The second answer is the container's own, which has learned; what fits arrives.
    let script = "ping -n -M do -c1 -W5 -s 1400 192.0.2.1; ping -n -M do -c1 -W5 -s 1400 192.0.2.1 2>&1
                  ping -n -M do -c1 -W5 -s 1272 192.0.2.1
                  ping -n -M do -c1 -W5 -s 1400 2001:db8:3::1; ping -n -M do -c1 -W5 -s 1400 2001:db8:3::1 2>&1
                  ping -n -M do -c1 -W5 -s 1252 2001:db8:3::1";
    for (sender, sender6) in [("203.0.113.2", "2001:db8:1::2"), ("10.0.2.2", "2001:db8:77::2")] {
        let options = &["--mtu", "1500", "--ipv6-prefix", "2001:db8:77::/64"];
        let result = lab.inside(options, script);
        for part in [
            &format!("From {sender} icmp_seq=1 Frag needed and DF set (mtu = 1300)"),
            "message too long, mtu=1300",
            "1280 bytes from 192.0.2.1",
            &format!("From {sender6} icmp_seq=1 Packet too big: mtu=1300"),
            "1260 bytes from 2001:db8:3::1",
        ] {
            assert!(result.text().contains(part), "{part} in {result:#?}");
        }
    }
}

#[test]
fn nat64_adds_what_its_longer_header_takes() {
    let lab = lab();
    let script = "ping -n -M do -c1 -W5 -s 1400 64:ff9b:1::192.0.2.1; ping -n -M do -c1 -W5 -s 1272 64:ff9b:1::192.0.2.1";
    let result = lab.inside(&["--mtu", "1500", "--nat64-prefix", "64:ff9b:1::/96"], script);
    for part in ["Packet too big: mtu=1320", "1280 bytes from 64:ff9b:1::"] {
        assert!(result.text().contains(part), "{part} in {result:#?}");
    }
}

#[test]
fn a_udp_socket_that_forbids_fragments_learns_the_mtu_and_goes_on() {
    let lab = lab();
    let script = r#"python3 -c '
import errno, socket
V4 = (socket.AF_INET, "192.0.2.1", socket.IPPROTO_IP, 10, 14, 28)
V6 = (socket.AF_INET6, "2001:db8:3::1", socket.IPPROTO_IPV6, 23, 24, 48)
DO = 2
for family, to, level, mtu_discover, mtu, headers in [V4, V6]:
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(10)
    s.setsockopt(level, mtu_discover, DO)
    s.connect((to, 7))
    s.send(bytes(1400))
    try:
        s.recv(2000)
    except OSError as error:
        print(error.errno == errno.EMSGSIZE, s.getsockopt(level, mtu))
    largest = s.getsockopt(level, mtu) - headers
    s.send(bytes(largest))
    print(len(s.recv(2000)) == largest)
'"#;
    // First the router finds out, then the host knows.
    for _ in 0..2 {
        let result = lab.inside(&["--mtu", "1500"], script);
        assert_eq!(result.text(), "True 1300\nTrue\n".repeat(2), "{result:#?}");
    }
}

#[test]
fn what_may_be_fragmented_arrives_whole() {
    let lab = lab();
    let script = r#"python3 -c '
import socket
DONT = 0
v4 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
v4.setsockopt(socket.IPPROTO_IP, 10, DONT)
v4.settimeout(10)
for size in [1272, 1273, 1400, 4000, 30000]:
    data = bytes(i * 7 & 255 for i in range(size))
    v4.sendto(data, ("192.0.2.1", 7))
    assert v4.recv(65535) == data, size
print("unchanged")
'"#;
    for workers in ["1", "2"] {
        let result = lab.inside(&["--mtu", "1500", "--workers", workers], script);
        assert_eq!(result.text(), "unchanged\n", "{result:#?}");
    }
}

/// No IPv6 router makes fragments: the first datagram that is too large is lost, and with IPv4 the one that a kernel
/// marked so of its own accord. The sender need do nothing but repeat itself.
#[test]
fn a_sender_that_does_not_ask_loses_one_datagram_at_most() {
    let lab = lab();
    let script = r#"python3 -c '
import socket
for family, to in [(socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8:3::1")]:
    s = socket.socket(family, socket.SOCK_DGRAM)
    lost = 0
    for size in [1200, 1400, 1500, 4000, 30000]:
        data = bytes(i * 7 & 255 for i in range(size))
        while lost < 2:
            s.sendto(data, (to, 7))
            s.settimeout(10 if lost else 2)
            try:
                assert s.recv(65535) == data, size
                break
            except TimeoutError:
                lost += 1
    print(lost)
'"#;
    let result = lab.inside(&["--mtu", "9000"], script);
    assert_eq!(result.text(), "1\n1\n", "{result:#?}");
}
