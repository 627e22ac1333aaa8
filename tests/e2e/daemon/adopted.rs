// SPDX-License-Identifier: MIT OR Apache-2.0
//! Interfaces that somebody else has made: `wharf attach --tap`, `--tap-fd`, `--veth`.

use super::reach::fixed_network;
use super::{Container, Daemon};
use crate::lab::{Lab, eventually, root, scratch, script};

/// Opens a TAP with flags beyond those of a plain one, `queues` times, and hands it to a command.
const OPEN: &str = r#"
import fcntl, os, struct, subprocess, sys
flags, queues, command = int(sys.argv[1], 16), int(sys.argv[2]), sys.argv[3:]
opened = [os.open("/dev/net/tun", os.O_RDWR) for _ in range(queues)]
for fd in opened:
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"eth0", flags))
for fd in opened:
    command += ["--tap-fd", str(fd)]
sys.exit(subprocess.run(command, pass_fds=opened).returncode)
"#;
const TUN: &str = "0x1001";
const WITH_PACKET_INFO: &str = "0x0002";
const PLAIN: &str = "0x1002";
const VNET_HEADER: &str = "0x5002";
const MULTI_QUEUE: &str = "0x5102";

fn daemon(workers: usize) -> Daemon {
    let mut lab = Lab::new();
    lab.serve_everything();
    Daemon::up(lab, &fixed_network(workers))
}

/// Gives an interface its addresses, as its owner does, and fetches something from outside both ways.
#[track_caller]
fn works(container: &Container, interface: &str, address: &str) {
    assert_eq!(container.says(&format!("ip -o -4 addr show dev {interface}")), "", "it was configured");
    let seen = container.says(&format!(
        "ip link set {interface} up; ip addr add {address}/24 dev {interface}; ip route add default via 10.0.2.2
         curl -sS -m 60 http://198.51.100.1/5000000 >/dev/shm/file$$; curl -sS -m 60 -T /dev/shm/file$$ http://198.51.100.1/
         echo; sha256sum </dev/shm/file$$; rm /dev/shm/file$$"
    ));
    let (sent, received) = seen.split_once('\n').unwrap();
    assert_eq!(received, format!("{sent}  -"));
}

fn open(daemon: &Daemon, container: &Container, flags: &str, queues: usize) -> crate::lab::Finished {
    container.exec(&format!(
        "python3 -c '{OPEN}' {flags} {queues} {}/wharf attach --name opened --ip 10.0.2.66 {}",
        scratch().display(),
        daemon.sockets()
    ))
}

#[test]
fn a_tap_that_is_there_is_taken_as_it_is_and_left_as_it_was() {
    for (workers, kind) in [(1, ""), (2, ""), (2, "multi_queue")] {
        let daemon = daemon(workers);
        let container = Container::new(&daemon.lab);
        container.says(&format!("ip tuntap add dev blue mode tap {kind}"));
        let mac = container.says("ip -o link show dev blue | sed 's/.*ether \\([^ ]*\\).*/\\1/'");
        for _ in 0..2 {
            let attached = daemon.attach(container.pid(), "--tap blue --name web --ip 10.0.2.66");
            assert!(attached.text().contains(&mac), "{attached:?}");
            works(&container, "blue", "10.0.2.66");
            let offload = "ethtool -k blue | grep -c 'tx-checksumming: on'";
            assert_eq!(container.says(offload), "1");
            let again = daemon.attach(container.pid(), "--tap blue --name again");
            if kind.is_empty() {
                assert!(again.stderr.contains("another program has blue open"), "{again:?}");
            }
            daemon.command("detach web").text();
            if kind.is_empty() {
                eventually("it has no offloads", || container.exec(offload).stdout == "0\n");
            }
            container.says("ip addr flush dev blue; ip link set blue down");
        }
    }
}

#[test]
fn a_tap_that_the_caller_has_opened_is_taken_with_all_its_queues() {
    for (workers, flags, queues) in
        [(1, PLAIN, 1), (1, VNET_HEADER, 1), (2, VNET_HEADER, 1), (2, MULTI_QUEUE, 2)]
    {
        let daemon = daemon(workers);
        let container = Container::new(&daemon.lab);
        open(&daemon, &container, flags, queues).text();
        works(&container, "eth0", "10.0.2.66");
        container.says("ip link del eth0");
        eventually("it is detached", || !daemon.command("ls").text().contains("opened"));
    }
}

#[test]
fn a_veth_pair_is_read_at_its_near_end() {
    for workers in [1, 2] {
        let daemon = daemon(workers);
        let (near, far) = (Container::new(&daemon.lab), Container::new(&daemon.lab));
        let (near_pid, far_pid) = (near.pid(), far.pid());
        root(&format!("nsenter -t {near_pid} -n ip link add near0 type veth peer name far0 netns {far_pid}"));
        let attach = "--veth near0 --name web --ip 10.0.2.66 --mac 0a:77:0a:00:02:42";
        let down = daemon.attach(near_pid, attach);
        assert!(down.stderr.contains("`ip link set near0 up` brings it up"), "{down:?}");
        near.says("ip link set near0 up");
        daemon.attach(near_pid, attach).text();
        far.says("ip link set far0 address 0a:77:0a:00:02:42");
        works(&far, "far0", "10.0.2.66");
        let web = daemon.attached("--name other --ip 10.0.2.67");
        let _server = web.serve(&format!("python3 {} 0.0.0.0", script("server.py")), 80);
        assert_eq!(far.says("curl -sS -m 20 http://10.0.2.67/1000 | wc -c"), "1000");
    }
}

#[test]
fn what_cannot_be_taken_is_said() {
    let daemon = daemon(1);
    let container = Container::new(&daemon.lab);
    for (options, words) in [
        ("--tap nothing0", "there is no nothing0 in that namespace"),
        ("--tap lo", "lo is no TAP"),
        ("--veth lo", "lo is no end of a veth pair"),
        ("--tap-fd 77", "nothing is open under the number 77"),
        ("--tap-fd 1", "that is no queue of a TAP"),
        ("--tap a --veth b", "cannot be used with"),
        ("--tap a --ifname b", "cannot be used with"),
        ("--stream /tmp/a", "cannot be used with"),
    ] {
        let seen = daemon.attach(container.pid(), options);
        assert!(seen.status != Some(0) && seen.stderr.contains(words), "{options}: {seen:?}");
    }
    for (flags, words) in [(TUN, "eth0 is a TUN"), (WITH_PACKET_INFO, "open it with IFF_NO_PI")] {
        let seen = open(&daemon, &container, flags, 1);
        assert!(seen.status != Some(0) && seen.stderr.contains(words), "{seen:?}");
    }
    assert!(!container.says("ip -o link").contains("nothing0"));
}
