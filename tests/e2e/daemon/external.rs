// SPDX-License-Identifier: MIT OR Apache-2.0
//! A whole address of the host for one container (one-to-one NAT).

use std::process::Stdio;

use super::outbound::{lab, seen};
use super::reach::fixed_network;
use super::{Container, Daemon};
use crate::lab::{Running, datagrams, eventually, script};

/// A lab whose host has a second address of IPv6, too.
fn two_external() -> crate::lab::Lab {
    let mut lab = lab();
    lab.on_host("ip addr add 2001:db8:1::9/64 dev out0 nodad").text();
    lab.serve("socat TCP6-LISTEN:8002,fork,reuseaddr SYSTEM:\"echo \\$SOCAT_PEERADDR\"", 8002);
    lab
}

#[test]
fn a_container_is_its_address_of_the_host_both_ways() {
    let networks = fixed_network(2)
        + "containers.one = { external_ipv4 = \"203.0.113.9\", external_ipv6 = \"2001:db8:1::9\" }\n";
    let daemon = Daemon::up(two_external(), &networks);
    let (one, two) = (daemon.attached("--name one"), daemon.attached("--name two --external-ip 203.0.113.8"));
    let serve = |container: &Container| {
        let lines = [format!("python3 {}", script("server.py")), datagrams("serve 5353")];
        lines.map(|line| Running::start(container.command(&format!("exec {line}")).stderr(Stdio::null())))
    };
    let _servers = (serve(&one), serve(&two));
    assert_eq!(seen(&one), "203.0.113.9 203.0.113.9");
    assert_eq!(seen(&two), "203.0.113.8 203.0.113.8");
    let leaves = one.says("socat -u TCP:[2001:db8:1::2]:8002 -");
    assert!(leaves.contains("2001:0db8:0001:0000:0000:0000:0000:0009"), "{leaves}");
    // Ports below 1024 are for root; of the test server's there is none above.
    let asked = |to: &str| daemon.lab.on_server(&datagrams(&format!("ask {to} 5353 7777 hello"))).stdout;
    for to in ["203.0.113.9", "203.0.113.8", "2001:db8:1::9"] {
        eventually(&format!("{to} is published"), || {
            asked(to) == format!("{to} 5353 {} 7777\n", server_of(to))
        });
    }
    let published = daemon.command("ports");
    for elsewhere in ["0.0.0.0", "[::]", "203.0.113.1:"] {
        assert!(!published.text().contains(elsewhere), "{published:?}");
    }
    let _web = Running::start(one.command("exec python3 -m http.server 8080").stderr(Stdio::null()));
    let fetched = |to: &str| {
        daemon
            .lab
            .on_server(&format!("curl -gsS -m 20 http://{to}:8080/ -o /dev/null -w '%{{http_code}}'"))
            .stdout
    };
    eventually("the web is published", || fetched("203.0.113.9") == "200");
    assert_eq!((fetched("203.0.113.8").as_str(), fetched("203.0.113.1").as_str()), ("000", "000"));
    // The container reaches itself by its own address, as others do.
    assert_eq!(two.says("curl -sS -m 20 http://203.0.113.9:8080/ -o /dev/null -w '%{http_code}'"), "200");
    assert!(
        daemon.lab.on_server("ping -n -c1 -W9 203.0.113.9").text().contains("1 received"),
        "the host answers"
    );
}

/// From where the server asks.
fn server_of(to: &str) -> &'static str {
    if to.contains(':') { "2001:db8:1::2" } else { "203.0.113.2" }
}

#[test]
fn an_external_address_is_one_of_the_hosts_and_nobody_elses() {
    let networks = fixed_network(1) + "[networks.other]\nipv4 = \"10.0.9.0/24\"\n";
    let daemon = Daemon::up(lab(), &networks);
    let _one = daemon.attached("--name one --external-ip 203.0.113.9");
    let late = Container::new(&daemon.lab);
    for (options, status, reason) in [
        (
            "--external-ip 203.0.113.9 --network default",
            4,
            "203.0.113.9 is the external address of one on network default",
        ),
        (
            "--external-ip 203.0.113.9 --network other",
            4,
            "203.0.113.9 is the external address of one on network default",
        ),
        ("--external-ip 203.0.113.99 --network other", 2, "the host has no address 203.0.113.99"),
        ("--external-ip 203.0.113.8 --outbound-ip 203.0.113.1", 125, "cannot be used with"),
    ] {
        let refused = daemon.attach(late.pid(), options);
        assert_eq!(refused.status, Some(status), "{refused:?}");
        assert!(refused.stderr.contains(reason), "{refused:?}");
    }
    let told =
        daemon.reload(&(networks + "[networks.default.containers.two]\nexternal_ipv4 = \"203.0.113.8\"\n"));
    assert!(told.is_empty() || !told.contains("external"), "{told}");
    daemon.attach(late.pid(), "--name two --network default").text();
    assert_eq!(seen(&late), "203.0.113.8 203.0.113.8");
}
