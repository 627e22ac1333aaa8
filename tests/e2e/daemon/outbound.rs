// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which of the host's addresses and interfaces a container's traffic leaves by, as the server outside sees it.

use super::{Container, Daemon};
use crate::lab::{Lab, ask_over_udp, eventually, scratch};

/// A host with two more addresses, the second on an interface that has no way to the server.
pub(super) fn lab() -> Lab {
    let mut lab = Lab::new();
    lab.on_host("ip addr add 203.0.113.9/24 dev out0 && ip addr add 203.0.113.8/24 dev out0").text();
    lab.on_host(
        "ip link add aside0 type veth peer name aside1 && ip link set aside0 up && ip link set aside1 up",
    )
    .text();
    lab.serve("socat TCP-LISTEN:8000,fork,reuseaddr SYSTEM:\"echo \\$SOCAT_PEERADDR\"", 8000);
    lab.serve("socat UDP-LISTEN:8001,fork,reuseaddr SYSTEM:\"read question; echo \\$SOCAT_PEERADDR\"", 8001);
    lab
}

/// From where the server sees a container, over TCP and UDP.
#[track_caller]
pub(super) fn seen(container: &Container) -> String {
    let by_udp = ask_over_udp("203.0.113.2", 8001, "");
    container.says(&format!("socat -u TCP:203.0.113.2:8000 -; {by_udp}")).replace('\n', " ")
}

#[test]
fn a_container_leaves_from_its_own_address_else_from_its_networks() {
    let networks = "[networks.default]
         ipv4 = \"10.0.2.0/24\"
         outbound_ipv4 = \"203.0.113.9\"
         containers.special = { outbound_ipv4 = \"203.0.113.8\" }\n";
    let daemon = Daemon::up(lab(), networks);
    let special = daemon.attached("--name special");
    let plain = daemon.attached("--name plain");
    let named = daemon.attached("--name named --outbound-ip 203.0.113.1");
    assert_eq!(seen(&special), "203.0.113.8 203.0.113.8");
    assert_eq!(seen(&plain), "203.0.113.9 203.0.113.9");
    assert_eq!(seen(&named), "203.0.113.1 203.0.113.1");
    let changed =
        networks.replace("203.0.113.9", "203.0.113.8").replace("{ outbound_ipv4 = \"203.0.113.8\" }", "{}");
    daemon.reload(&changed);
    for container in [&special, &plain] {
        assert_eq!(seen(container), "203.0.113.8 203.0.113.8");
    }
}

#[test]
fn an_interface_that_leads_nowhere_is_no_way_out_and_one_that_does_is() {
    let daemon = Daemon::up(lab(), "[networks.default]\nipv4 = \"10.0.2.0/24\"\n");
    let aside = daemon.attached("--outbound-interface aside0");
    let out = daemon.attached("--outbound-interface out0");
    assert_eq!(seen(&out), "203.0.113.1 203.0.113.1");
    let fetched = aside.exec("socat -u TCP:203.0.113.2:8000,connect-timeout=3 -");
    assert_ne!(fetched.status, Some(0), "{fetched:?}");
}

#[test]
fn an_address_or_interface_that_the_host_has_not_is_refused() {
    let daemon = Daemon::up(lab(), "[networks.default]\nipv4 = \"10.0.2.0/24\"\n");
    let container = Container::new(&daemon.lab);
    for (option, reason) in [
        ("--outbound-ip 203.0.113.99", "the host has no address 203.0.113.99"),
        ("--outbound-interface nowhere0", "the host has no interface nowhere0"),
    ] {
        let refused = daemon.attach(container.pid(), option);
        assert_eq!(refused.status, Some(2), "{refused:?}");
        assert!(refused.stderr.contains(reason), "{refused:?}");
    }
}

/// A VPN that is down, and somebody who comes and goes meanwhile.
#[test]
fn who_lost_its_address_leaves_from_no_other_and_from_it_when_it_is_back() {
    let daemon = Daemon::up(lab(), "[networks.default]\nipv4 = \"10.0.2.0/24\"\n");
    let special = daemon.attached("--name special --outbound-ip 203.0.113.8");
    assert_eq!(seen(&special), "203.0.113.8 203.0.113.8");
    daemon.lab.on_host("ip addr del 203.0.113.8/24 dev out0").text();
    let other = daemon.attached("--name other");
    assert_eq!(seen(&other), "203.0.113.1 203.0.113.1");
    drop(other);
    let fetched = special.exec("socat -u TCP:203.0.113.2:8000,connect-timeout=3 -");
    assert_ne!(fetched.status, Some(0), "{fetched:?}");
    daemon.lab.on_host("ip addr add 203.0.113.8/24 dev out0").text();
    assert_eq!(seen(&special), "203.0.113.8 203.0.113.8");
}

#[test]
fn what_leaves_from_an_address_that_a_kernel_has_formed_goes_the_containers_way_too() {
    let mut lab = lab();
    lab.on_host("ip addr add 2001:db8:1::8/64 dev out0 nodad").text();
    lab.serve("socat TCP6-LISTEN:8002,fork,reuseaddr SYSTEM:\"echo \\$SOCAT_PEERADDR\"", 8002);
    let daemon = Daemon::up(lab, "[networks.default]\nipv4 = false\nipv6 = \"2001:db8:6::/64\"\n");
    let special = daemon.attached("--outbound-ip6 2001:db8:1::8 --mac 02:00:00:00:00:01");
    let formed = "2001:db8:6::ff:fe00:1";
    special.says(&format!("ip addr replace {formed}/64 dev eth0 nodad"));
    for own in ["", &format!(",bind=[{formed}]")] {
        let seen = special.says(&format!("socat -u TCP6:[2001:db8:1::2]:8002{own} -"));
        assert_eq!(seen, "[2001:0db8:0001:0000:0000:0000:0000:0008]", "{own}");
    }
}

/// From where the server sees what a container sends from a port of its own choice.
#[track_caller]
fn seen_from_port(container: &Container, port: u16) -> String {
    let ask = "SYSTEM:\"echo; head -n1 >&2\"";
    container.says(&format!("timeout 20 socat UDP:203.0.113.2:8001,bind=:{port} {ask} 2>&1"))
}

#[test]
fn who_comes_back_goes_its_new_way_from_the_ports_that_it_had_before() {
    let daemon = Daemon::up(lab(), "[networks.default]\nipv4 = \"10.0.2.0/24\"\n");
    let web = daemon.attached("--name web");
    assert_eq!(seen_from_port(&web, 5000), "203.0.113.1");
    drop(web);
    let web = daemon.attached_again("--name web --outbound-ip 203.0.113.8");
    assert_eq!(seen_from_port(&web, 5000), "203.0.113.8");
}

/// A TAP whose owner has begun to send before it is attached, to a gateway that it knows already.
const EARLY: &str = r#"
import fcntl, os, socket, struct, subprocess, sys
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", b"eth0", 0x1002))
subprocess.run("""ip link set eth0 up; ip addr add 10.0.2.66/24 dev eth0; ip route add default via 10.0.2.2
    ip neigh replace 10.0.2.2 lladdr 02:77:68:61:72:02 dev eth0""", shell=True, check=True)
early = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
early.bind(("", 5000))
for _ in range(10):
    early.sendto(b"\n", ("203.0.113.2", 8001))
sys.exit(subprocess.run(sys.argv[1:] + ["--tap-fd", str(tap)], pass_fds=[tap]).returncode)
"#;

#[test]
fn what_waits_to_be_sent_when_its_container_is_attached_goes_the_containers_way() {
    let daemon = Daemon::up(lab(), "[networks.default]\nipv4 = \"10.0.2.0/24\"\n");
    let early = Container::new(&daemon.lab);
    let attach = "attach --name early --ip 10.0.2.66 --outbound-ip 203.0.113.8";
    early.says(&format!("python3 -c '{EARLY}' {}/wharf {attach} {}", scratch().display(), daemon.sockets()));
    eventually("they have left", || daemon.command("flows --json").text().contains("203.0.113.2:8001"));
    let flows = daemon.command("flows --json");
    assert!(flows.text().contains("\"203.0.113.8:"), "{flows:?}");
}
