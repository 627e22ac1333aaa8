// SPDX-License-Identifier: MIT OR Apache-2.0
//! DHCP on a network of many: each container gets its own address, and nobody takes the others'.

use super::reach::fixed_network;
use super::{Container, Daemon};
use crate::lab::{Lab, script};

/// Takes the address away and asks for one by DHCP; returns what `lease.sh` was told.
pub(super) fn ask(container: &Container, client: &str) -> String {
    let script = format!(
        "set -e
         mount -t tmpfs none /mnt; cp {} /mnt; cd /mnt
         ip addr flush dev eth0
         {client} >/dev/null 2>&1
         grep -i '^bound' -A1 log",
        script("lease.sh")
    );
    container.says(&script).to_lowercase()
}

pub(super) const DHCLIENT: &str =
    "echo 'request subnet-mask, routers, domain-name-servers, domain-search, interface-mtu;' >conf
     dhclient -1 -d -cf conf -lf $PWD/leases -pf $PWD/pid -sf $PWD/lease.sh eth0 >/dev/null 2>&1 &
     until ip -o -4 addr show dev eth0 | grep -q inet; do sleep 0.1; done; kill $!";
pub(super) const UDHCPC: &str = "udhcpc -n -q -i eth0 -O search -O mtu -s $PWD/lease.sh";

#[test]
fn by_dhcp_a_container_gets_its_own_address_and_the_networks_domain() {
    let daemon = Daemon::up(Lab::new(), &(fixed_network(1) + "domain = \"ship.test\"\nmtu = 9000\n"));
    let _first = daemon.attached("--name first");
    for (name, options, address) in [("web", "--ip 10.0.2.77", "10.0.2.77"), ("db", "", "10.0.2.11")] {
        for client in [DHCLIENT, UDHCPC] {
            let container = daemon.attached_again(&format!("--name {name} {options}"));
            let told = ask(&container, client);
            assert!(told.starts_with(&format!("bound {address} router=10.0.2.2 dns=10.0.2.3")), "{told}");
            assert!(told.contains("search=ship.test") && told.contains("mtu=9000"), "{told}");
            assert_eq!(container.says("ip -o -4 addr show dev eth0 | grep -c ' 10.0.2'"), "1");
            assert!(container.says("ping -n -c1 -W9 10.0.2.10").contains("1 received"));
        }
    }
}

/// Asks for an address as ever another client, and takes what it is offered.
const FLOOD: &str = r#"
import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
s.bind(("", 68))
s.settimeout(0.02)
offered = set()
mac = bytes.fromhex(open("/sys/class/net/eth0/address").read().replace(":", ""))
for number in range(1000):
    client = struct.pack("!BBBI", 61, 5, 1, number)
    # As another station too, now and then.
    chaddr = mac if number % 10 else struct.pack("!HI", 0x0200, number)
    head = struct.pack("!BBBBIHH16x16s192x", 1, 1, 6, 0, number, 0, 0x8000, chaddr.ljust(16, b"\0"))
    s.sendto(head + b"\x63\x82\x53\x63" + bytes([53, 1, 1]) + client + b"\xff", ("255.255.255.255", 67))
    try:
        answer = s.recv(2000)
    except TimeoutError:
        continue
    offered.add(answer[16:20])
print(len(offered))
"#;

#[test]
fn one_container_that_takes_every_address_leaves_the_others_served() {
    let daemon = Daemon::up(Lab::new(), &fixed_network(1));
    let (glutton, before) = (daemon.attached("--name glutton"), daemon.attached("--name before"));
    let offered: usize =
        glutton.says(&format!("mount -t sysfs none /sys; python3 -c '{FLOOD}'")).parse().unwrap();
    assert_eq!(offered, 1, "whatever it calls itself, it is offered its own");
    let after = daemon.attached("--name after");
    for (container, address) in [(before, "10.0.2.11"), (after, "10.0.2.12")] {
        let told = ask(&container, UDHCPC);
        assert!(told.starts_with(&format!("bound {address} ")), "{told}");
    }
    for name in ["one", "two", "three"] {
        daemon.attached(&format!("--name {name}"));
    }
}

/// As [`FLOOD`], from a port that may have many MAC addresses: each asks for an address and takes it.
const HERD: &str = r#"
import socket, struct
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
s.bind(("eth0", 0x0800))
s.settimeout(0.1)

def ask(mac, options):
    head = struct.pack("!BBBBIHH16x16s192x", 1, 1, 6, 0, 7, 0, 0x8000, mac.ljust(16, b"\0"))
    dhcp = head + b"\x63\x82\x53\x63" + options + b"\xff"
    udp = struct.pack("!HHHH", 68, 67, 8 + len(dhcp), 0) + dhcp
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, bytes(4), bytes([255] * 4))
    total = sum(struct.unpack("!10H", ip))
    ip = ip[:10] + struct.pack("!H", 0xFFFF - (total % 0xFFFF)) + ip[12:]
    s.send(bytes([255] * 6) + mac + b"\x08\x00" + ip + udp)
    while True:
        answer = s.recv(2000)
        if answer[20 + 14 :][:4] == struct.pack("!HH", 67, 68) and answer[70:76] == mac:
            return answer[58:62], answer[284]

taken = set()
for number in range(300):
    mac = struct.pack("!HI", 0x0200, number)
    try:
        address, kind = ask(mac, bytes([53, 1, 1]))
        address, kind = ask(mac, bytes([53, 1, 3, 54, 4, 10, 0, 2, 2, 50, 4]) + address)
        if kind == 5:
            taken.add(address)
    except TimeoutError:
        pass
print(len(taken))
"#;

#[test]
fn a_port_with_many_stations_takes_no_address_of_who_has_one() {
    let daemon = Daemon::up(Lab::new(), &fixed_network(1));
    let herd = daemon.attached("--name herd --allow any-mac");
    let (one, away) = (daemon.attached("--name one"), daemon.attached("--name away"));
    drop(away);
    let taken: usize = herd.says(&format!("python3 -c '{HERD}'")).parse().unwrap();
    assert!(taken > 100, "only {taken}: those are not many");
    assert!(ask(&one, UDHCPC).starts_with("bound 10.0.2.11 "));
    let away = daemon.attached_again("--name away");
    assert!(ask(&away, UDHCPC).starts_with("bound 10.0.2.12 "));
    // There is an address left for a name that nobody has heard before.
    let late = daemon.attached("--name late");
    assert!(ask(&late, UDHCPC).starts_with("bound 10.0.2."));
}

#[test]
fn a_name_with_another_mac_address_gets_its_address_by_dhcp_all_the_same() {
    let mut daemon = Daemon::up(Lab::new(), &fixed_network(1));
    let asks_as = |daemon: &Daemon, number: u8| {
        let web = daemon.attached_again(&format!("--name web --ip 10.0.2.77 --mac 02:00:00:00:00:0{number}"));
        let told = ask(&web, UDHCPC);
        assert!(told.starts_with("bound 10.0.2.77 "), "{number}: {told}");
        assert!(web.says("ping -n -c1 -W9 10.0.2.2").contains("1 received"));
    };
    asks_as(&daemon, 1);
    asks_as(&daemon, 2);
    // It changes while nobody looks.
    daemon.kill();
    daemon.start();
    asks_as(&daemon, 3);
}
