// SPDX-License-Identifier: MIT OR Apache-2.0
//! A changed `wharf.toml` while everybody works.

use super::Daemon;
use super::flow::StandingFlow;
use super::published::serve;
use super::reach::fixed_network;
use crate::lab::Lab;

#[test]
fn what_can_change_changes_and_flows_go_on() {
    let mut lab = Lab::new();
    lab.serve_everything();
    let publishes = |port: u16| format!("publish = [\"{port}:web:80\"]\n");
    let aliases = |alias: &str| format!("containers.web.aliases = [\"{alias}\"]\n");
    let daemon = Daemon::up(lab, &(fixed_network(1) + &publishes(8080) + &aliases("old")));
    let (web, other) = (daemon.attached("--name web"), daemon.attached("--name other"));
    let _server = serve(&web);
    let neighbors = StandingFlow::start(&other, "10.0.2.10 8");
    let outside = StandingFlow::start(&web, "198.51.100.1 8");
    let status = |port: u16| {
        daemon.lab.on_server(&format!("curl -sS -m 20 -o /dev/null http://203.0.113.1:{port}/3")).status
    };
    let asked = |name: &str| other.says(&format!("dig +short +tries=1 @10.0.2.3 {name}.default.internal"));
    assert_eq!((status(8080), status(8081)), (Some(0), Some(7)));
    assert_eq!((asked("old"), asked("new")), ("10.0.2.10".to_owned(), String::new()));

    let changed = fixed_network(1) + &publishes(8081) + &aliases("new");
    let said = daemon.reload(&changed);
    assert!(!said.contains("not reloaded"), "{said}");
    assert_eq!((status(8080), status(8081)), (Some(7), Some(0)));
    assert_eq!((asked("old"), asked("new")), (String::new(), "10.0.2.10".to_owned()));
    neighbors.end();

    daemon.reload(&(fixed_network(1) + "isolated = true\n" + &publishes(8081) + &aliases("new")));
    assert_ne!(other.exec("ping -n -c1 -W1 10.0.2.10").status, Some(0), "they are isolated");
    daemon.reload(&changed);
    assert!(other.says("ping -n -c1 -W9 10.0.2.10").contains("1 received"), "they are isolated no more");
    outside.end();
}

#[test]
fn what_cannot_change_is_refused_with_the_reason_and_nothing_changes() {
    let daemon = Daemon::up(Lab::new(), &(fixed_network(1) + "publish = [\"8080:web:80\"]\n"));
    let web = daemon.attached("--name web");
    let _server = serve(&web);
    let other = daemon.attached("--name other");
    let flow = StandingFlow::start(&other, "10.0.2.10 8");
    let published = |port: u16| {
        daemon.lab.on_server(&format!("curl -sS -m 20 -o /dev/null http://203.0.113.1:{port}/3")).status
    };
    for (networks, reason) in [
        (fixed_network(1) + "mtu = 1500\npublish = [\"8081:web:80\"]\n", "only its publish"),
        (fixed_network(2) + "publish = [\"8081:web:80\"]\n", "only its publish"),
        (fixed_network(1) + "publish = [\"8081:web:80\"]\nunknown = 1\n", "unknown"),
        ("[networks.default".to_owned(), "line 2"),
    ] {
        let said = daemon.reload(&networks);
        assert!(said.contains("not reloaded") && said.contains(reason), "{said}");
        assert_eq!((published(8080), published(8081)), (Some(0), Some(7)));
    }
    flow.end();
}

#[test]
fn networks_appear_and_vanish_with_the_file() {
    let blue = "[networks.blue]\nipv4 = \"10.0.9.0/24\"\nipv6 = false\n";
    let daemon = Daemon::up(Lab::new(), &fixed_network(1));
    let web = daemon.attached("--name web");
    daemon.reload(&(fixed_network(1) + blue));
    let sky = daemon.attached("--network blue --name sky");
    assert!(sky.says("ping -n -c1 -W9 10.0.9.2").contains("1 received"));
    daemon.reload(&fixed_network(1));
    assert_eq!(daemon.attach(web.pid(), "--network blue").status, Some(3));
    assert_ne!(sky.exec("ping -n -c1 -W1 10.0.9.2").status, Some(0));
    assert!(web.says("ping -n -c1 -W9 10.0.2.2").contains("1 received"));
}
