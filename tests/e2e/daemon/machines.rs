// SPDX-License-Identifier: MIT OR Apache-2.0
//! Virtual machines, and what behaves like one: frames in a stream of bytes, on a socket of `wharf attach --stream`.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use super::dhcp::{DHCLIENT, UDHCPC, ask};
use super::reach::fixed_network;
use super::{Container, Daemon};
use crate::lab::{Lab, Running, eventually, scratch, script, server_stream};

/// A `wharf attach --stream` that waits.
struct Waiting {
    process: Running,
    socket: String,
    /// What it tells that QEMU takes.
    options: String,
    mac: String,
}

impl Waiting {
    #[track_caller]
    fn start(daemon: &Daemon, name: &str, options: &str) -> Self {
        let socket = daemon.home.join(format!("{name}.sock")).display().to_string();
        let line =
            format!("exec $WHARF attach --stream {socket} --name {name} {options} {}", daemon.sockets());
        let mut process = Running::start(&mut daemon.lab.lasting_user_command(&line));
        let options = loop {
            let line = process.line();
            if line.contains("-netdev stream") {
                break line.trim().to_owned();
            }
        };
        let mac = options.rsplit_once("mac=").unwrap().1.to_owned();
        Self { process, socket, options, mac }
    }

    /// Waits until it has handed its machine over.
    #[track_caller]
    fn attached(mut self) {
        assert!(self.process.line().contains("is attached to network"));
        self.process.succeed();
    }
}

/// A container whose interface is a machine's card.
#[track_caller]
pub(super) fn machine(daemon: &Daemon, name: &str, options: &str) -> (Container, Running) {
    let waiting = Waiting::start(daemon, name, options);
    let container = Container::new(&daemon.lab);
    let line = format!("exec python3 {} {} eth0 {}", script("machine.py"), waiting.socket, waiting.mac);
    let mut card = Running::start(container.command(&line).stderr(Stdio::inherit()));
    assert_eq!(card.line(), "up");
    waiting.attached();
    (container, card)
}

#[test]
fn machines_that_are_waited_for_keep_nobody_from_being_attached() {
    let daemon = Daemon::up(Lab::new(), &fixed_network(1));
    // More than may ask at once.
    let waiting: Vec<_> = (0..65).map(|number| Waiting::start(&daemon, &format!("vm{number}"), "")).collect();
    daemon.attached("--name web");
    assert!(daemon.command("leases").text().contains("vm64"));
    drop(waiting);
    eventually("their addresses are free again", || !daemon.command("leases").text().contains("vm64"));
}

fn ports(daemon: &Daemon) -> String {
    daemon.command("ls").text().to_owned()
}

#[test]
fn the_firmware_of_qemu_gets_the_machines_own_addresses() {
    let daemon = Daemon::up(Lab::new(), &fixed_network(1));
    let waiting = Waiting::start(&daemon, "vm", "--ip 10.0.2.77 --mac 0a:77:0a:00:02:4d");
    let qemu = format!(
        "cd {}; qemu-system-x86_64 -nographic -machine pc,graphics=off -m 64 -no-reboot \
         -boot n,reboot-timeout=0 {} </dev/null | tr -d '\\r'",
        scratch().display(),
        waiting.options
    );
    let seen = daemon.lab.by_user(&qemu);
    waiting.attached();
    let said = seen.text();
    for line in ["net0: 10.0.2.77/255.255.255.0 gw 10.0.2.2", "net0: 2001:db8:5:0:877:aff:fe00:24d/64"] {
        assert!(said.contains(line), "{line}: {said}");
    }
    eventually("the machine is detached", || !ports(&daemon).contains("vm"));
}

#[test]
fn a_machine_speaks_with_containers_other_machines_and_outside_whoever_of_two_workers_reads_it() {
    for workers in [1, 2] {
        let mut lab = Lab::new();
        lab.serve_everything();
        let daemon = Daemon::up(lab, &fixed_network(workers));
        let (first, _cards) = machine(&daemon, "first", "--ip 10.0.2.71");
        let (second, _cards_too) = machine(&daemon, "second", "--ip 10.0.2.72");
        for (machine, client, address) in [(&first, DHCLIENT, "10.0.2.71"), (&second, UDHCPC, "10.0.2.72")] {
            let told = ask(machine, client);
            assert!(told.starts_with(&format!("bound {address} router=10.0.2.2")), "{told}");
        }
        let web = daemon.attached("--name web --ip 10.0.2.70");
        let size = 20_000_000;
        let digest = server_stream(&daemon.lab, size);
        let server = format!("python3 {} 0.0.0.0 ::", script("server.py"));
        let _servers = [&web, &first].map(|container| container.serve(&server, 80));
        for (from, to) in
            [(&first, "198.51.100.1"), (&first, "10.0.2.70"), (&web, "10.0.2.71"), (&second, "10.0.2.71")]
        {
            let there = format!("curl -sS -m 60 http://{to}/{size} | tee file | sha256sum");
            let back = format!("curl -sS -m 60 -T file http://{to}/");
            let seen = from.says(&format!("mount -t tmpfs none /tmp; cd /tmp; {there}; {back}"));
            assert_eq!(seen, format!("{digest}  -\n{digest}"), "{to} with {workers} workers");
        }
        let has_address = "ip -6 addr show dev eth0 scope global -tentative | grep -q 2001:db8:5:";
        eventually("there is an IPv6 address", || first.exec(has_address).status == Some(0));
        assert_eq!(first.says("curl -gsS -m 20 http://[2001:db8:2::1]/1000 | wc -c"), "1000");
    }
}

#[test]
fn an_impossible_length_ends_the_port_with_a_word() {
    let daemon = Daemon::up(Lab::new(), &fixed_network(1));
    let waiting = Waiting::start(&daemon, "vm", "");
    let mut peer = UnixStream::connect(&waiting.socket).unwrap();
    waiting.attached();
    assert!(ports(&daemon).contains("vm"));
    peer.write_all(&1_000_000_u32.to_be_bytes()).unwrap();
    eventually("the machine is detached", || !ports(&daemon).contains("vm"));
    assert!(daemon.log().contains("of a length that none has"), "{}", daemon.log());
}

#[test]
fn who_ends_the_waiting_leaves_neither_a_socket_nor_a_name() {
    let daemon = Daemon::up(Lab::new(), &fixed_network(1));
    let mut waiting = Waiting::start(&daemon, "vm", "");
    let pid = waiting.process.child.id();
    daemon.lab.on_host(&format!("kill -INT {pid}")).text();
    assert_eq!(waiting.process.child.wait().unwrap().code(), Some(130));
    assert!(!std::path::Path::new(&waiting.socket).exists());
    drop(Waiting::start(&daemon, "vm", ""));
    // One that was killed has left its socket, which is in nobody's way.
    Waiting::start(&daemon, "other", "");
    let again = Waiting::start(&daemon, "vm", "");
    let seen = daemon.attach("", &format!("--name third --stream {}", again.socket));
    assert!(seen.status != Some(0) && seen.stderr.contains("in use"), "{seen:?}");
}
