// SPDX-License-Identifier: MIT OR Apache-2.0
//! Containers reach each other by address and by name, and the outside; and nobody else learns their names.

use std::time::Instant;

use super::{Container, Daemon};
use crate::lab::{Lab, Running, eventually, root, scratch, script};

/// A network whose addresses are known beforehand, on the given number of workers.
pub(super) fn fixed_network(workers: usize) -> String {
    format!(
        "[networks.default]
         ipv4 = \"10.0.2.0/24\"
         ipv6 = \"2001:db8:5::/64\"
         workers = {workers}\n"
    )
}

/// A namespace of `ip netns`, which root owns.
pub(super) struct NamedNamespace(pub(super) String);

impl NamedNamespace {
    pub(super) fn new(daemon: &Daemon, suffix: &str) -> Self {
        let namespace = Self(format!("wn{}-{suffix}", daemon.pid()));
        root(&format!("ip netns add {0} && ip -n {0} link set lo up", namespace.0));
        namespace
    }

    pub(super) fn says(&self, daemon: &Daemon, script: &str) -> String {
        daemon.lab.on_host(&format!("ip netns exec {} {script}", self.0)).text().trim().to_owned()
    }
}

impl Drop for NamedNamespace {
    fn drop(&mut self) {
        let _ = std::process::Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

#[test]
fn three_containers_reach_each_other_and_the_outside_over_both_families() {
    let mut lab = Lab::new();
    lab.serve_everything();
    let daemon = Daemon::up(lab, &fixed_network(1));
    let web = daemon.attached("--name web");
    let db = daemon.attached("--name db --ip 10.0.2.50 --ip6 2001:db8:5::50 --mac 02:00:00:00:00:50");
    let cache = NamedNamespace::new(&daemon, "cache");
    let by_root = format!("$WHARF attach {} {} --name cache", cache.0, daemon.sockets());
    daemon.lab.on_host(&by_root).text();
    let _server = db.serve(&format!("python3 {}", script("server.py")), 80);
    for (to, seen) in [("10.0.2.50", "::ffff:10.0.2.10"), ("[2001:db8:5::50]", "2001:db8:5::10")] {
        assert_eq!(web.says(&format!("curl -gsS -m 20 http://{to}/ip")), seen);
    }
    assert_eq!(cache.says(&daemon, "curl -gsS -m 20 http://[2001:db8:5::50]/ip"), "2001:db8:5::11");
    for to in ["10.0.2.11", "2001:db8:5::11"] {
        assert!(web.says(&format!("ping -n -c1 -W9 {to}")).contains("1 received"));
    }
    for to in ["198.51.100.1", "[2001:db8:2::1]"] {
        let fetch = format!("curl -gsS -m 20 http://{to}/100000 | wc -c");
        assert_eq!(web.says(&fetch), "100000", "{to}");
        assert_eq!(cache.says(&daemon, &format!("sh -c '{fetch}'")), "100000", "{to}");
    }
}

#[test]
fn containers_find_each_other_by_name_and_nobody_outside_is_asked() {
    let mut lab = Lab::new();
    let queries = scratch().join(format!("queries-{}", std::process::id()));
    let log = format!("--log-queries --log-facility={}", queries.display());
    lab.serve_names_at("203.0.113.2", &format!("{log} --host-record=www.example,192.0.2.1"));
    let networks = fixed_network(1)
        + "domain = \"ship.test\"
           containers.one.aliases = [\"pool\"]\n";
    let daemon = Daemon::up(lab, &networks);
    let one = daemon.attached("--name one");
    let two = daemon.attached("--name two --alias pool --alias second");
    with_resolver(&two, "ship.test");
    let asked = |question: &str| {
        let mut lines: Vec<_> = two
            .says(&format!("dig +short +tries=1 @10.0.2.3 {question}"))
            .lines()
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines.join(" ")
    };
    assert_eq!(asked("one.ship.test A"), "10.0.2.10");
    assert_eq!(asked("ONE.ship.test AAAA"), "2001:db8:5::10");
    assert_eq!(asked("+tcp pool.ship.test A"), "10.0.2.10 10.0.2.11");
    assert_eq!(asked("pool.ship.test AAAA"), "2001:db8:5::10 2001:db8:5::11");
    assert_eq!(asked("-x 10.0.2.10"), "one.ship.test.");
    assert_eq!(asked("-x 2001:db8:5::11"), "two.ship.test.");
    assert_eq!(asked("@2001:db8:5::3 second.ship.test"), "10.0.2.11");
    let nobody = two.says("dig +tries=1 @10.0.2.3 nobody.ship.test; dig +tries=1 @10.0.2.3 -x 10.0.2.99");
    assert_eq!(nobody.matches("status: NXDOMAIN").count(), 2, "{nobody}");
    assert_eq!(two.says("getent ahostsv4 one | head -n1"), "10.0.2.10       STREAM one.ship.test");
    assert_eq!(two.says("getent hosts 2001:db8:5::10"), "2001:db8:5::10  one.ship.test");
    assert_eq!(asked("www.example"), "192.0.2.1");
    drop(one);
    eventually("the name of who is gone is gone", || asked("one.ship.test").is_empty());
    assert_eq!(asked("pool.ship.test"), "10.0.2.11");
    let seen = std::fs::read_to_string(queries).unwrap();
    assert!(seen.contains("www.example"), "{seen}");
    assert!(!seen.contains("ship.test") && !seen.contains("in-addr") && !seen.contains("ip6.arpa"), "{seen}");
}

/// Has a container ask the network's nameserver.
pub(super) fn with_resolver(container: &Container, domain: &str) {
    let script = format!(
        "mount -t tmpfs none /mnt
         printf 'nameserver 10.0.2.3\\nsearch {domain}\\n' >/mnt/resolv.conf
         mount --bind /mnt/resolv.conf /etc/resolv.conf"
    );
    container.exec(&script).text();
}

/// Bytes per received frame, of which there have to be many.
const BYTES_PER_FRAME: &str =
    "cd /sys/class/net/eth0/statistics; echo $(($(cat rx_bytes) / $(cat rx_packets)))";

#[test]
fn super_frames_cross_between_containers_whole() {
    let daemon = Daemon::up(Lab::new(), &(fixed_network(1) + "mtu = 1500\n"));
    let (from, to) = (daemon.attached("--name from"), daemon.attached("--name to"));
    let _server = to.serve(&format!("python3 {}", script("server.py")), 80);
    let size = 30_000_000;
    let zeros = format!("head -c {size} /dev/zero");
    let put = format!("curl -sS -T - -H 'Transfer-Encoding:' -H 'Content-Length: {size}' http://10.0.2.11/");
    let sent = format!("{zeros} | {put}");
    assert_eq!(from.says(&sent), from.says(&format!("{zeros} | sha256sum | cut -d' ' -f1")));
    // sysfs shows the namespace that it was mounted in.
    let size: u64 = to.says(&format!("mount -t sysfs none /sys; {BYTES_PER_FRAME}")).parse().unwrap();
    assert!(size > 3 * 1500, "{size} bytes a frame");
}

#[test]
fn a_container_is_attached_and_reaches_the_gateway_in_little_time() {
    let daemon = Daemon::up(Lab::new(), &fixed_network(1));
    let container = Container::new(&daemon.lab);
    let start = Instant::now();
    daemon.attach(container.pid(), "").text();
    assert!(container.says("ping -n -c1 -W9 10.0.2.2").contains("1 received"));
    println!("attach, addresses and first ping: {} ms", start.elapsed().as_millis());
}

#[test]
fn a_container_on_two_networks_has_an_interface_in_each() {
    let networks =
        fixed_network(1) + "[networks.back]\nipv4 = \"10.0.9.0/24\"\nipv6 = false\ninternal = true\n";
    let mut lab = Lab::new();
    lab.serve_everything();
    let daemon = Daemon::up(lab, &networks);
    let db = daemon.attached("--network back --name db");
    let web = daemon.attached("--name web --network default");
    daemon.attach(web.pid(), "--network back --name web").text();
    daemon.attach(web.pid(), "--network back --name extra --ifname back7 --no-default-route").text();
    assert_eq!(
        web.says("ip -o link | grep -oE '(eth|back)[0-9]+' | sort -u | tr '\\n' ' '"),
        "back7 eth0 eth1"
    );
    assert_eq!(web.says("ip route show default | cut -d' ' -f1-5"), "default via 10.0.2.2 dev eth0");
    assert!(web.says("ping -n -c1 -W9 -I eth1 10.0.9.10").contains("1 received"));
    assert!(web.says("ping -n -c1 -W9 -I back7 10.0.9.10").contains("1 received"));
    assert_eq!(web.says("curl -sS -m 20 http://198.51.100.1/7 | wc -c"), "7");
    assert_ne!(db.exec("ping -n -c1 -W1 10.0.2.10").status, Some(0), "nobody routes between networks");
}

#[test]
fn a_veth_pair_takes_the_place_of_a_tap() {
    let mut lab = Lab::new();
    lab.serve_everything();
    let daemon = Daemon::up(lab, &fixed_network(2));
    let (veth, tap) =
        (daemon.attached("--name veth --device veth"), daemon.attached("--name tap --device tap"));
    let _servers =
        [&veth, &tap].map(|container| container.serve(&format!("python3 {}", script("server.py")), 80));
    let size = 20_000_000;
    let fetch = |to: &str| format!("curl -gsS -m 60 http://{to}/{size} | sha256sum");
    let expected = veth.says(&fetch("127.0.0.1"));
    for (from, to) in [(&veth, "10.0.2.11"), (&tap, "[2001:db8:5::10]"), (&veth, "198.51.100.1")] {
        assert_eq!(from.says(&fetch(to)), expected, "{to}");
    }
    drop(veth);
    daemon.attached_again("--name veth --device veth");
}

#[test]
fn a_run_joins_the_containers_of_a_network_for_as_long_as_it_lasts() {
    let mut lab = Lab::new();
    lab.serve_everything();
    let daemon = Daemon::up(lab, &fixed_network(1));
    let web = daemon.attached("--name web");
    let script = "getent ahostsv4 web | head -n1 | cut -d' ' -f1
                  ping -n -c1 -W9 web >/dev/null && curl -sS -m 20 http://198.51.100.1/7 | wc -c
                  read rest";
    let mut job = Running::start(&mut daemon.run("--network default --name job", script));
    assert_eq!([job.line(), job.line()], ["10.0.2.10", "7"]);
    assert!(web.says("ping -n -c1 -W9 10.0.2.11").contains("1 received"));
    assert_eq!(web.says("dig +short +tries=1 @10.0.2.3 job.default.internal"), "10.0.2.11");
    job.say("go on");
    job.succeed();
    eventually("it is detached", || !daemon.command("ls").text().contains("job"));
}
