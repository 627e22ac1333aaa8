// SPDX-License-Identifier: MIT OR Apache-2.0
//! Published ports of `wharf.toml` and of `wharf attach -p`, in every form, from the host and from beyond it.

use super::reach::fixed_network;
use super::{Container, Daemon};
use crate::lab::{Lab, Running, datagrams, eventually, script};

/// The test server in a container.
pub(super) fn serve(container: &Container) -> Running {
    container.serve(&format!("python3 {} 0.0.0.0", script("server.py")), 80)
}

/// A client, before the rest of its URL.
const CLIENT: &str = "curl -gsS -m 20 http://";

#[test]
fn every_form_of_a_published_tcp_port_leads_where_it_says() {
    let networks = fixed_network(1)
        + r#"publish = ["8080:web:80", "127.0.0.1:8081:web:80", "[2001:db8:1::1]:8082:web:80", "9007-9010:web:7-10"]"#;
    let daemon = Daemon::up(Lab::new(), &networks);
    let web = daemon.attached("--name web -p 203.0.113.1:8083:80");
    let _server = serve(&web);
    let from_host = |to: &str| daemon.lab.on_host(&format!("{CLIENT}{to}/ip")).text().to_owned();
    let from_outside = |to: &str| daemon.lab.on_server(&format!("{CLIENT}{to}/ip")).text().to_owned();
    assert_eq!(from_outside("203.0.113.1:8080"), "::ffff:203.0.113.2");
    assert_eq!(from_outside("[2001:db8:1::1]:8080"), "2001:db8:1::2");
    assert_eq!(from_outside("[2001:db8:1::1]:8082"), "2001:db8:1::2");
    assert_eq!(from_outside("203.0.113.1:8083"), "::ffff:203.0.113.2");
    assert_eq!(from_host("203.0.113.1:8080"), "::ffff:203.0.113.1");
    assert_eq!(from_host("127.0.0.1:8081"), "::ffff:10.0.2.2");
    for closed in ["203.0.113.1:8081", "203.0.113.1:8082", "[2001:db8:1::1]:8083"] {
        assert_eq!(daemon.lab.on_server(&format!("{CLIENT}{closed}/ip")).status, Some(7), "{closed}");
    }
    assert_eq!(daemon.lab.on_server("socat -u TCP4:203.0.113.1:9010 -").text(), "x");
    assert_eq!(daemon.lab.on_server("echo hi | socat -t 9 - TCP6:[2001:db8:1::1]:9008").text(), "hi\n");
}

#[test]
fn a_port_of_one_interface_is_for_its_clients_only() {
    let daemon = Daemon::up(Lab::new(), &(fixed_network(1) + r#"publish = ["out0:8080:web:80/tcp+proxy"]"#));
    let (web, dns) = (daemon.attached("--name web -p out0:8081:80"), daemon.attached("--name dns"));
    let _servers = (serve(&web), dns.serve(&datagrams("serve 53"), 53));
    let made = daemon.command("publish out0:5353:dns:53/udp");
    assert!(made.text().contains(" udp       0.0.0.0%out0:5353  dns "), "{made:?}");
    for (at, to, client) in [
        ("203.0.113.1", "203.0.113.1", "::ffff:203.0.113.2"),
        ("2001:db8:1::1", "[2001:db8:1::1]", "2001:db8:1::2"),
    ] {
        assert_eq!(daemon.lab.on_server(&format!("{CLIENT}{to}:8081/ip")).text(), client);
        let asked = daemon.lab.on_server(&datagrams(&format!("ask {at} 5353 7777 hello")));
        assert!(asked.text().starts_with(&format!("{at} 5353 ")), "{asked:?}");
    }
    assert_eq!(daemon.lab.on_host(&format!("{CLIENT}127.0.0.1:8081/ip")).status, Some(7));
    let listed = daemon.command("ports").text().to_owned();
    assert!(listed.contains("tcp+proxy  [::%out0]:8080") && listed.contains("0.0.0.0%out0:8081"), "{listed}");
    let refused = daemon.command("publish none0:8082:web:80");
    assert_eq!(refused.status, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("the host has no interface none0"), "{refused:?}");
}

#[test]
fn a_published_udp_port_shows_the_server_its_clients() {
    let networks = fixed_network(1) + r#"publish = ["5353:dns:53/udp"]"#;
    let daemon = Daemon::up(Lab::new(), &networks);
    let dns = daemon.attached("--name dns");
    let _server = dns.serve(&datagrams("serve 53"), 53);
    for (to, client) in [("203.0.113.1", "203.0.113.2"), ("2001:db8:1::1", "2001:db8:1::2")] {
        let seen = daemon.lab.on_server(&datagrams(&format!("ask {to} 5353 7777 hello")));
        assert_eq!(seen.text(), format!("{to} 5353 {client} 7777\n"));
    }
}

#[test]
fn ports_lead_to_containers_that_lack_the_clients_family() {
    let networks = r#"
        [networks.four]
        ipv4 = "10.0.4.0/24"
        ipv6 = false
        publish = ["8084:web:80"]
        [networks.six]
        ipv4 = false
        ipv6 = "2001:db8:6::/64"
        publish = ["8086:web:80"]"#;
    let daemon = Daemon::up(Lab::new(), networks);
    let (four, six) =
        (daemon.attached("--network four --name web"), daemon.attached("--network six --name web"));
    let _servers = (serve(&four), serve(&six));
    let seen = |to: &str| daemon.lab.on_server(&format!("{CLIENT}{to}/ip")).text().to_owned();
    assert_eq!(seen("203.0.113.1:8084"), "::ffff:203.0.113.2");
    assert_eq!(seen("[2001:db8:1::1]:8084"), "::ffff:10.0.4.2");
    assert_eq!(seen("203.0.113.1:8086"), "2001:db8:6::2");
    assert_eq!(seen("[2001:db8:1::1]:8086"), "2001:db8:1::2");
}

#[test]
fn a_container_reaches_a_published_port_of_another_and_its_own_through_the_host() {
    for workers in [1, 2] {
        let networks = fixed_network(workers) + r#"publish = ["8080:web:80", "5353:web:53/udp"]"#;
        let daemon = Daemon::up(Lab::new(), &networks);
        let (web, other) = (daemon.attached("--name web"), daemon.attached("--name other"));
        let _servers = (serve(&web), web.serve(&datagrams("serve 53"), 53));
        for (who, container) in [("another", &other), ("itself", &web)] {
            for (address, url) in [("203.0.113.1", "203.0.113.1"), ("2001:db8:1::1", "[2001:db8:1::1]")] {
                let got = container.says(&format!("{CLIENT}{url}:8080/5 | wc -c"));
                assert_eq!(got, "5", "{who} at {url}, {workers} workers");
                // From one address of the host to another that may be the same: the server sees the host.
                let seen = container.says(&datagrams(&format!("ask {address} 5353 0 hello")));
                let expected = format!("{address} 5353 {address} ");
                assert!(seen.starts_with(&expected), "{who} at {address}, {workers} workers: {seen}");
            }
        }
    }
}

#[test]
fn whoever_has_a_port_is_named_and_of_a_range_nothing_stays() {
    let daemon = Daemon::up(Lab::new(), &fixed_network(1));
    let _web = daemon.attached("--name web -p 127.0.0.1:8080:80");
    let listen = "exec socat TCP4-LISTEN:8092,bind=127.0.0.1 -";
    let _somebody = Running::start(&mut daemon.lab.lasting_user_command(listen));
    let listens = "ss -Htln 'sport = :8092' | grep -q .";
    eventually("somebody listens", || daemon.lab.on_host(listens).status == Some(0));
    let by_socat = "cannot publish 127.0.0.1:8092: the port is in use; socat (process ";
    let container = Container::new(&daemon.lab);
    for (refused, status, why) in [
        (
            daemon.command("publish 127.0.0.1:8080:web:81"),
            4,
            "the port is in use; network default has it published for web: number 1 of",
        ),
        (daemon.command("publish 127.0.0.1:8090-8093:web:80-83"), 4, by_socat),
        (daemon.attach(container.pid(), "-p 127.0.0.1:8090-8093:80-83"), 4, by_socat),
        (daemon.lab.inside(&["-p", "127.0.0.1:8090-8093:80-83"], "true"), 125, by_socat),
    ] {
        assert_eq!(refused.status, Some(status), "{refused:?}");
        assert!(refused.stderr.contains(why), "{refused:?}");
    }
    let published = daemon.command("ports");
    assert_eq!(published.text().lines().count(), 2, "{published:?}");
    assert_eq!(daemon.lab.on_host("ss -Htln 'sport >= :8090 and sport <= :8093'").text().lines().count(), 1);
}

#[test]
fn a_port_of_the_file_that_is_taken_is_told_and_the_network_works() {
    let mut lab = Lab::new();
    lab.serve_on_host("socat TCP4-LISTEN:8080,fork SYSTEM:'echo somebody else'", 8080);
    let networks = fixed_network(1) + r#"publish = ["127.0.0.1:8080:web:80", "127.0.0.1:8081:web:80"]"#;
    let daemon = Daemon::up(lab, &networks);
    assert!(daemon.log().contains("cannot publish 127.0.0.1:8080: the port is in use"), "{}", daemon.log());
    let web = daemon.attached("--name web");
    let _server = serve(&web);
    assert_eq!(daemon.lab.on_host(&format!("{CLIENT}127.0.0.1:8081/5 | wc -c")).text(), "5\n");
    let taken = daemon.attach(Container::new(&daemon.lab).pid(), "-p 127.0.0.1:8082:80 -p 127.0.0.1:8080:80");
    assert_eq!(taken.status, Some(4), "{taken:?}");
    assert!(taken.stderr.contains("cannot publish 127.0.0.1:8080: the port is in use"), "{taken:?}");
    assert_eq!(
        daemon.lab.on_host(&format!("{CLIENT}127.0.0.1:8082/")).status,
        Some(7),
        "nothing stays published"
    );
}

#[test]
fn a_published_port_waits_for_a_container_that_is_not_there() {
    let daemon = Daemon::up(Lab::new(), &(fixed_network(1) + r#"publish = ["8080:web:80"]"#));
    let fetch = || daemon.lab.on_server(&format!("{CLIENT}203.0.113.1:8080/5 -o /dev/null")).status;
    for _ in 0..2 {
        assert!(matches!(fetch(), Some(7 | 56)), "nobody is there, and the client is told");
        let web = daemon.attached_again("--name web");
        let _server = serve(&web);
        assert_eq!(fetch(), Some(0));
        drop(web);
        eventually("it is detached", || !daemon.command("ls").text().contains("web"));
    }
}
