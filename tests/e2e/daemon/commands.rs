// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands that change and show a daemon that is confined and busy.

use super::Daemon;
use super::flow::StandingFlow;
use super::published::serve;
use super::reach::fixed_network;
use crate::lab::Lab;

fn fetch(daemon: &Daemon, port: u16) -> Option<i32> {
    daemon.lab.on_server(&format!("curl -sS -m 20 -o /dev/null http://203.0.113.1:{port}/3")).status
}

#[test]
fn ports_are_published_and_containers_detached_while_a_flow_stands() {
    let mut lab = Lab::new();
    lab.serve_everything();
    let daemon = Daemon::up(lab, &fixed_network(1));
    let (web, other) = (daemon.attached("--name web"), daemon.attached("--name other"));
    let _server = serve(&web);
    let flow = StandingFlow::start(&other, "198.51.100.1 8");
    daemon.command("publish 8080-8081:web:80-81").text();
    assert_eq!(fetch(&daemon, 8080), Some(0));
    let taken = daemon.command("publish 127.0.0.1:8082:web:80 203.0.113.1:8080:web:80");
    assert_ne!(taken.status, Some(0), "{taken:?}");
    let again = daemon.command("publish 203.0.113.1:8080:web:80");
    assert_eq!(again.status, Some(4), "{again:?}");
    assert!(again.stderr.contains("8080: the port is in use"), "{again:?}");
    daemon.command("unpublish 1").text();
    assert_eq!(fetch(&daemon, 8080), Some(7));
    daemon.command("detach web").text();
    assert_eq!(web.says("ip -o link show dev eth0 2>/dev/null | wc -l"), "0");
    assert_eq!(daemon.command("detach web").status, Some(3));
    daemon.attach(web.pid(), "--name web").text();
    assert!(other.says("ping -n -c1 -W9 10.0.2.10").contains("1 received"));
    flow.end();
}

#[test]
fn every_listing_shows_what_there_is() {
    let mut lab = Lab::new();
    lab.serve_everything();
    let daemon = Daemon::up(lab, &(fixed_network(2) + "publish = [\"8080:web:80\"]\n"));
    let (web, _other) = (daemon.attached("--name web"), daemon.attached("--name other"));
    let flow = StandingFlow::start(&web, "198.51.100.1 8");
    for (line, parts) in [
        ("ls", &["web", "other", "10.0.2.10", "2001:db8:5::11"][..]),
        ("networks", &["default", "10.0.2.0/24"]),
        ("ports", &["8080", "web"]),
        ("leases", &["10.0.2.10", "10.0.2.11", "web"]),
        ("flows", &["198.51.100.1:8", "198.51.100.1:7", "10.0.2.10"]),
        ("stats", &["default"]),
    ] {
        for option in ["", "--json"] {
            let said = daemon.command(&format!("{line} {option}"));
            assert!(parts.iter().all(|part| said.text().contains(part)), "{parts:?}: {said:?}");
        }
    }
    flow.end();
}

#[test]
fn reload_and_down_by_command_do_what_they_say() {
    let mut daemon = Daemon::up(Lab::new(), &fixed_network(1));
    let web = daemon.attached("--name web");
    let _server = serve(&web);
    daemon.configure(&(fixed_network(1) + "publish = [\"8080:web:80\"]\n"));
    daemon.command("reload").text();
    assert_eq!(fetch(&daemon, 8080), Some(0));
    daemon.configure(&(fixed_network(1) + "mtu = 1500\n"));
    let refused = daemon.command("reload");
    assert_eq!(refused.status, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("only its publish"), "{refused:?}");
    assert_eq!(fetch(&daemon, 8080), Some(0));
    daemon.command("down").text();
    daemon.ended();
    assert_eq!(daemon.command("ls").status, Some(125));
}
