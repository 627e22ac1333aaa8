// SPDX-License-Identifier: MIT OR Apache-2.0
//! A daemon that is killed and started again: who is attached again finds everything as it was.

use super::dhcp::{UDHCPC, ask};
use super::published::serve;
use super::{Container, Daemon};
use crate::lab::{Lab, Running};

/// The addresses of a container's interface, MAC and IP.
fn addresses(container: &Container) -> String {
    container
        .says("(ip -o link show dev eth0; ip -o addr show dev eth0) | grep -oE '(ether|inet6?) [^ ]+' | sort")
}

#[test]
fn after_kill_9_the_same_names_have_the_same_addresses_leases_and_publications() {
    // Both prefixes are left to the daemon.
    let networks = "[networks.default]\npublish = [\"8080:web:80\"]\n";
    let mut lab = Lab::new();
    lab.serve_everything();
    let mut daemon = Daemon::up(lab, networks);
    let before = [daemon.attached("--name db"), daemon.attached("--name web")];
    daemon.command("publish 8081:web:80").text();
    daemon.command("network create green --ipv4 10.0.77.0/24 --ipv6 none").text();
    let known = [addresses(&before[0]), addresses(&before[1])];
    let told = ask(&before[0], UDHCPC);
    assert!(told.starts_with("bound 10."), "{told}");
    daemon.kill();
    assert_ne!(before[1].exec("ping -n -c1 -W1 198.51.100.1").status, Some(0));
    drop(before);
    daemon.start();
    // The other way round, so that nobody gets its address by being the first.
    let web = daemon.attached("--name web");
    let db = daemon.attached("--name db");
    assert_eq!([addresses(&db), addresses(&web)], known);
    assert_eq!(ask(&db, UDHCPC), told);
    let _server = serve(&web);
    for port in [8080, 8081] {
        let seen = daemon.lab.on_server(&format!("curl -sS -m 20 http://203.0.113.1:{port}/ip"));
        assert_eq!(seen.text(), "::ffff:203.0.113.2");
    }
    let green = daemon.attached("--network green");
    assert!(green.says("ping -n -c1 -W9 10.0.77.2").contains("1 received"));
}

#[test]
fn a_running_container_is_attached_again_after_the_daemon_was() {
    let networks = super::reach::fixed_network(1);
    let mut daemon = Daemon::up(Lab::new(), &networks);
    let web = daemon.attached("--name web --ip 10.0.2.77");
    daemon.kill();
    daemon.start();
    // Its interface has gone with the daemon that held it.
    assert_eq!(web.says("ip -o link show dev eth0 2>/dev/null | wc -l"), "0");
    daemon.attach(web.pid(), "--name web").text();
    assert!(addresses(&web).contains("10.0.2.77/24"));
    assert!(web.says("ping -n -c1 -W9 10.0.2.2").contains("1 received"));
}

#[test]
fn told_to_stop_it_ends_well_and_leaves_no_socket() {
    let mut daemon = Daemon::up(Lab::new(), &super::reach::fixed_network(2));
    let web = daemon.attached("--name web");
    daemon.stop();
    assert!(!daemon.home.join("wharf/attach.sock").exists() && !daemon.home.join("wharf/api.sock").exists());
    assert_eq!(web.says("ip -o link show dev eth0 2>/dev/null | wc -l"), "0");
    daemon.start();
    daemon.attach(web.pid(), "--name web").text();
}

#[test]
fn a_udp_port_that_cannot_follow_its_container_is_told_of_and_there_again_after_a_restart() {
    let networks =
        |ipv4: &str| format!("{}containers.web = {{ ipv4 = \"{ipv4}\" }}\n", super::reach::fixed_network(1));
    let lab = Lab::new();
    let address = |verb: &str| format!("ip addr {verb} 203.0.113.8/24 dev out0");
    lab.on_host(&address("add")).text();
    let mut daemon = Daemon::up(lab, &networks("10.0.2.70"));
    daemon.command("publish 203.0.113.8:5353:web:53/udp").text();
    let mut events = Running::start(&mut daemon.lab.lasting_user_command(&format!(
        "exec $WHARF events --json --socket {}/wharf/api.sock",
        daemon.home.display()
    )));
    let is_published = |daemon: &Daemon| daemon.command("ports").text().contains("203.0.113.8:5353");
    assert!(is_published(&daemon));
    daemon.lab.on_host(&address("del")).text();
    daemon.reload(&networks("10.0.2.71"));
    assert!(!is_published(&daemon));
    let web = daemon.attached("--name web");
    let mut seen = Vec::new();
    while seen.last().is_none_or(|event: &String| !event.contains("\"attach\"")) {
        seen.push(events.line());
    }
    let ended = |event: &&String| event.contains("\"unpublish\"") && event.contains("203.0.113.8:5353");
    assert_eq!(seen.iter().filter(ended).count(), 1, "{seen:#?}");
    drop((web, events));
    daemon.lab.on_host(&address("add")).text();
    daemon.stop();
    daemon.start();
    assert!(is_published(&daemon));
}
