// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the interface looks like from inside, with slirp4netns and with ours.

use super::caller::{eventually, finish, user_command};
use super::gateway::{BOTH, Gateway, Program, Target};

/// Links, IPv4 addresses and routes, without what is chosen at random. A carrier that came just now is told a little later.
const LOOK: &str = "while ip link show tap0 | grep -q NO-CARRIER; do sleep 0.02; done
    ip -o link | sed -E 's/ (permaddr|link-netnsid) .*//; s/link.ether [0-9a-f:]+/link-ether/'
    ip -4 addr; ip -4 route; ip -6 route show default";

/// Makes an interface that outlives the gateway.
pub(crate) const MAKE: &str = "ip tuntap add name tap0 mode tap; ip link set tap0 up; ip link set lo up";

/// What `LOOK` shows when `program` was started with these arguments.
fn look(program: Program, args: &[&str], before: &str) -> String {
    let target = Target::new();
    target.inside(before).text();
    let _gateway = Gateway::start(program, args, &target);
    target.inside(LOOK).text().to_owned()
}

#[test]
fn it_is_configured_as_slirp4netns_does_it() {
    for args in [
        &["-c"][..],
        &["-c", "-m", "65520"],
        &["-c", "--mtu=68"],
        &["-c", "--cidr", "10.9.8.128/25"],
        &["--configure", "--cidr=172.16.0.0/12", "--mtu=9000"],
        &["-c", "--disable-dns", "--disable-host-loopback"],
        &[],
        &["--mtu=65520"],
    ] {
        assert_eq!(look(Program::Ours, args, ":"), look(Program::Theirs, args, ":"), "{args:?}");
    }
}

#[test]
fn a_mac_address_is_set() {
    for program in BOTH {
        let target = Target::new();
        let _gateway = Gateway::start(program, &["-c", "--macaddress", "52:54:00:12:34:56"], &target);
        assert!(target.inside("ip link show tap0").text().contains("52:54:00:12:34:56"), "{program:?}");
    }
}

#[test]
fn an_interface_that_exists_is_attached_to_as_it_is() {
    let before = "ip tuntap add name tap0 mode tap; ip link set tap0 up mtu 9000
        ip addr add 10.0.2.100/24 dev tap0; ip route add default via 10.0.2.2; ip link set lo up";
    let args = ["--mtu", "9000"];
    assert_eq!(look(Program::Ours, &args, before), look(Program::Theirs, &args, before));
    let target = Target::new();
    target.inside(before).text();
    let _gateway = Gateway::start(Program::Ours, &args, &target);
    target.inside("ping -c1 -W5 -s 8900 10.0.2.2").text();
    let again = Program::Ours.run(&[&target.pid(), "tap0"]);
    assert_eq!(again.status, Some(1));
    assert!(again.stderr.contains("ioctl(TUNSETIFF): Device or resource busy"), "{again:?}");
}

#[test]
fn an_address_that_an_interface_has_is_replaced() {
    let elsewhere =
        "ip tuntap add name tap9 mode tap; ip link set tap9 up; ip addr add 192.0.2.7/25 dev tap9";
    for before in [
        "ip addr add 192.0.2.7/25 dev tap0",
        "ip addr add 192.0.2.7/25 dev tap0; ip route add default via 192.0.2.1",
        "ip addr add 192.0.2.7/25 dev tap0; ip route add 203.0.113.0/24 via 192.0.2.1",
        "ip addr add 192.0.2.7/25 dev tap0; ip addr add 192.0.2.8/25 dev tap0",
        "ip addr add 192.0.2.7 peer 198.51.100.7 dev tap0",
        "ip addr add 10.0.2.100/24 brd + dev tap0; ip route add 203.0.113.0/24 via 10.0.2.1",
        // Of two default routes the newer is the first.
        &format!("{elsewhere}; ip route add default via 192.0.2.1"),
    ] {
        let before = format!("{MAKE}; {before}");
        let args = ["-c", "--mtu", "9000"];
        assert_eq!(look(Program::Ours, &args, &before), look(Program::Theirs, &args, &before), "{before}");
    }
}

/// slirp4netns counts a further one as the interface's, and changes its netmask.
#[test]
fn further_addresses_of_an_interface_stay() {
    let before = format!("{MAKE}; ip addr add 192.0.2.7/25 dev tap0; ip addr add 198.51.100.7/25 dev tap0");
    let target = Target::new();
    target.inside(&before).text();
    for _ in 0..2 {
        let _gateway = Gateway::start(Program::Ours, &["-c"], &target);
        let shown = target.inside("ip -4 -o addr show tap0 | awk '{ print $4 }' | sort");
        assert_eq!(shown.text(), "10.0.2.100/24\n198.51.100.7/25\n");
    }
}

/// What `LOOK` shows when `program` was started with `first` and ended, and started again with `second`.
fn look_again(program: Program, first: &[&str], second: &[&str]) -> String {
    let target = Target::new();
    target.inside(MAKE).text();
    assert_eq!(Gateway::start(program, first, &target).end().0.code(), Some(0));
    let _gateway = Gateway::start(program, second, &target);
    target.inside(LOOK).text().to_owned()
}

#[test]
fn the_next_gateway_of_an_interface_configures_it_as_the_first_does() {
    let wishes = ["-c", "--mtu=9000", "--cidr=10.9.8.0/24"];
    let ours = look_again(Program::Ours, &["-c"], &wishes);
    assert_eq!(ours, look_again(Program::Theirs, &["-c"], &wishes));
    assert_eq!(ours, look(Program::Ours, &wishes, MAKE));
    // With the same wishes slirp4netns fails over its own default route.
    assert_eq!(look_again(Program::Ours, &wishes, &wishes), ours);
}

#[test]
fn the_next_gateway_of_an_interface_adds_nothing_to_ipv6() {
    for program in BOTH {
        let target = Target::new();
        target.inside(&format!("echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad; {MAKE}")).text();
        let mut shown = Vec::new();
        for args in [&["-c", "-6"][..], &["-c", "-6", "--cidr=10.9.8.0/24"]] {
            let _gateway = Gateway::start(program, args, &target);
            target.global_ipv6();
            target.inside("rdisc6 -1 tap0").text();
            let look = "ip -6 -o addr show tap0 scope global | awk '{ print $4 }'
                ip -6 route show default | cut -d' ' -f1-5";
            shown.push(target.inside(look).text().to_owned());
        }
        assert_eq!(shown[0].lines().count(), 2, "{program:?} {shown:?}");
        assert_eq!(shown[0], shown[1], "{program:?}");
    }
}

/// A device keeps what was offered to it: the next program would get unfinished checksums.
#[test]
fn an_interface_that_outlives_the_gateway_is_left_as_it_was() {
    let offloads = "ethtool -k tap0 | grep -E '^(tx-checksumming|tcp-segmentation-offload):'";
    for confined in [&[][..], &["--enable-sandbox", "--enable-seccomp"]] {
        let target = Target::new();
        target.inside("ip tuntap add name tap0 mode tap; ip link set tap0 up").text();
        let before = target.inside(offloads).text().to_owned();
        let gateway = Gateway::start(Program::Ours, confined, &target);
        assert_ne!(target.inside(offloads).text(), before);
        assert_eq!(gateway.end().0.code(), Some(0), "{confined:?}");
        assert_eq!(target.inside(offloads).text(), before, "{confined:?}");
    }
}

#[test]
fn a_namespace_is_found_by_its_path_too() {
    for program in BOTH {
        let target = Target::new();
        let (net, user) = (target.namespace("net"), target.namespace("user"));
        let args = ["-c", "--netns-type=path", "--userns-path", &user, &net, "tap0"];
        let _gateway = Gateway::start_with(program, &args);
        target.inside("ping -c1 -W5 10.0.2.2").text();
    }
}

#[test]
fn ipv6_comes_from_the_kernel_by_itself() {
    let target = Target::new();
    target.inside("echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad").text();
    let _gateway = Gateway::start(Program::Ours, &["-c", "-6"], &target);
    eventually("an address and a route", || {
        let shown = target.inside("ip -6 addr show tap0 scope global; ip -6 route").stdout;
        shown.contains("inet6 fd00::") && shown.contains("default via fe80::2 dev tap0 proto ra")
    });
    for address in ["fd00::2", "fd00::3", "fe80::2%tap0"] {
        target.inside(&format!("ping -c1 -W5 {address}")).text();
    }
}

#[test]
fn dhcp_begins_at_fifteen() {
    for program in BOTH {
        let target = Target::new();
        let _gateway = Gateway::start(program, &[], &target);
        let lease = target.inside("ip link set tap0 up; udhcpc -f -q -n -i tap0 -s /bin/true 2>&1");
        let expected = "lease of 10.0.2.15 obtained from 10.0.2.2, lease time 86400";
        assert!(lease.text().contains(expected), "{program:?} {lease:?}");
    }
}

#[test]
fn the_gateway_has_the_usual_mac_address_and_nobody_else_is_there() {
    for program in BOTH {
        let target = Target::new();
        let _gateway = Gateway::start(program, &["-c"], &target);
        let script = "ping -c1 -W5 10.0.2.2; ping -c1 -W5 10.0.2.3; ping -c1 -W9 10.0.2.9 2>&1; ip neigh show 10.0.2.2";
        let shown = target.inside(script);
        assert!(shown.text().contains("lladdr 52:55:0a:00:02:02"), "{program:?} {shown:?}");
        assert!(shown.text().contains("Destination Host Unreachable"), "{program:?} {shown:?}");
    }
}

/// Prints the errors of a TCP connect and of a datagram.
const UNREACHABLE: &str = "
import socket
stream = socket.socket()
stream.settimeout(9)
print(stream.connect_ex((\"10.0.2.2\", 9)))
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.settimeout(9)
datagrams.setsockopt(socket.IPPROTO_IP, 11, 1)
datagrams.connect((\"10.0.2.2\", 9))
datagrams.send(b\"x\")
try: datagrams.recv(9)
except OSError as error: print(error.errno)
";

#[test]
fn the_hosts_loopback_can_be_an_unreachable_network() {
    for program in BOTH {
        let target = Target::new();
        let _gateway = Gateway::start(program, &["-c", "--disable-host-loopback"], &target);
        target.inside("ping -c1 -W5 10.0.2.2").text();
        let tried = target.inside(&format!("python3 -c '{UNREACHABLE}'"));
        assert_eq!(tried.text(), "101\n101\n", "{program:?} {tried:?}");
    }
}

/// Opens a TAP and configures it; its descriptor is 3 for the gateway that takes the script's place in its background.
const OPEN_TAP: &str = r#"
import fcntl, os, struct, subprocess, sys
flags = 0x0002 | 0x1000 | int(sys.argv[1], 16)
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454ca, struct.pack("16sH22x", b"tap0", flags))
os.dup2(tap, 3)
gateway = subprocess.Popen([sys.argv[2], "--netns-type=tapfd", "-r", "1", "3"], pass_fds=[3], stdout=subprocess.PIPE)
while gateway.stdout.read(1) not in (b"1",) or gateway.poll(): pass
subprocess.run("ip addr add 10.0.2.100/24 dev tap0; ip link set tap0 up", shell=True, check=True)
size = sys.argv[3]
sys.stdout.write(subprocess.run(["ping", "-c2", "-W5", "-s", size, "10.0.2.2"], capture_output=True, text=True).stdout)
gateway.kill()
"#;

#[test]
fn an_open_tap_is_taken_with_and_without_virtio_net_headers() {
    for flags in ["0", "4000"] {
        let mut command = user_command("unshare");
        let path = Program::Ours.path();
        command.args(["-rn", "timeout", "30", "python3", "-c", OPEN_TAP, flags]).arg(path).arg("3000");
        let finished = finish(&mut command);
        assert!(finished.text().contains("2 received"), "{flags} {finished:?}");
    }
}
