// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ports that are published because a container listens on them (`-p auto`).

use std::process::Stdio;

use super::published::serve;
use super::reach::fixed_network;
use super::{Container, Daemon};
use crate::lab::{Lab, Running, datagrams, eventually};

/// A client, before the rest of its URL.
const CLIENT: &str = "curl -gsS -m 20 http://";

/// What a container has published by itself.
fn automatic(daemon: &Daemon, name: &str) -> Vec<String> {
    let published = daemon.command("ports --json");
    let all: Vec<serde_json::Value> = serde_json::from_str(published.text()).unwrap();
    let its = all.iter().filter(|port| port["auto"] == true && port["container"] == name);
    let text = |port: &serde_json::Value| {
        let part = |key: &str| port[key].as_str().unwrap().to_owned();
        format!("{} {} {}", part("transport"), part("host"), part("target"))
    };
    let mut texts: Vec<_> = its.map(text).collect();
    texts.sort();
    texts
}

/// Starts a server, which ends with the test.
fn start(container: &Container, line: &str) -> Running {
    Running::start(container.command(&format!("exec {line}")).stderr(Stdio::null()))
}

#[test]
fn what_a_container_listens_on_is_published_as_long_as_it_does() {
    let daemon = Daemon::up(
        Lab::new(),
        &(fixed_network(1) + r#"publish = ["8081:web:80", "127.0.0.1:auto:web/udp"]"#),
    );
    let web = daemon.attached("--name web -p auto");
    assert!(automatic(&daemon, "web").is_empty());
    let server = start(&web, "python3 -m http.server --bind 0.0.0.0 8080");
    eventually("it is published", || !automatic(&daemon, "web").is_empty());
    let expected = ["tcp 0.0.0.0:8080 10.0.2.10:8080", "tcp [::]:8080 10.0.2.10:8080"];
    assert_eq!(
        automatic(&daemon, "web"),
        expected,
        "both families of the host lead to where somebody listens"
    );
    for to in ["203.0.113.1", "[2001:db8:1::1]"] {
        let fetched = daemon.lab.on_server(&format!("{CLIENT}{to}:8080/ -o /dev/null -w '%{{http_code}}'"));
        assert_eq!(fetched.text(), "200", "{to}");
    }
    let listed = daemon.command("ports");
    assert!(
        listed.text().lines().any(|line| line.contains("0.0.0.0:8080") && line.ends_with("yes")),
        "{listed:?}"
    );
    drop(server);
    eventually("it is withdrawn", || automatic(&daemon, "web").is_empty());
    assert_eq!(daemon.lab.on_server(&format!("{CLIENT}203.0.113.1:8080/")).status, Some(7));
    // Neither what stays inside, nor a port that is published by another number, nor what looks like a client.
    let _others = [
        start(&web, "python3 -m http.server --bind 127.0.0.1 8082"),
        serve(&web),
        start(&web, &datagrams("serve 40000")),
        start(&web, "python3 -m http.server --bind 2001:db8:5::10 8083"),
        start(&web, &datagrams("serve 5353")),
    ];
    let expected = [
        "tcp 0.0.0.0:8083 [2001:db8:5::10]:8083",
        "tcp [::]:8083 [2001:db8:5::10]:8083",
        "udp 127.0.0.1:5353 10.0.2.10:5353",
    ];
    // The test server has more ports than that of the web.
    let expected: Vec<_> = expected.map(str::to_owned).into();
    let seen = || {
        let mut all = automatic(&daemon, "web");
        all.retain(|port| {
            [":8080 ", ":8082 ", ":8083 ", ":80 ", ":40000 ", ":5353 "].iter().any(|at| port.contains(at))
        });
        all
    };
    eventually("what is for all is published", || seen() == expected);
    let asked = daemon.lab.on_host(&datagrams("ask 127.0.0.1 5353 7777 hello"));
    assert!(asked.text().starts_with("127.0.0.1 5353 "), "{asked:?}");
    drop(web);
    eventually("nothing stays", || automatic(&daemon, "web").is_empty());
}

#[test]
fn a_port_that_is_taken_is_told_once_and_published_when_it_is_free() {
    let mut lab = Lab::new();
    lab.serve_on_host("socat TCP4-LISTEN:8080,fork SYSTEM:'echo somebody else'", 8080);
    let daemon = Daemon::up(lab, &fixed_network(1));
    let mut events = Running::start(&mut daemon.lab.lasting_user_command(&format!(
        "exec $WHARF events --json --socket {}/wharf/api.sock",
        daemon.home.display()
    )));
    let web = daemon.attached("--name web -p auto");
    let _server = start(&web, "python3 -m http.server 8080");
    let _other = start(&web, "python3 -m http.server 8081");
    let port =
        |number: u16| automatic(&daemon, "web").iter().any(|port| port.contains(&format!(":{number} ")));
    eventually("the other is published", || port(8081));
    let told = || daemon.log().matches("cannot publish 0.0.0.0:8080: the port is in use").count();
    eventually("it is told", || told() == 1);
    // What is published by hand takes it away from what is published by itself, which comes back.
    let by_hand = daemon.command("publish 203.0.113.1:8081:web:8080").text().to_owned();
    let id = by_hand.lines().nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    assert!(!port(8081));
    daemon.command(&format!("unpublish {id}")).text();
    eventually("it is published again", || port(8081));
    drop(web);
    let mut seen = Vec::new();
    while seen.last().is_none_or(|event: &String| !event.contains("\"detach\"")) {
        seen.push(events.line());
    }
    let count =
        |words: &[&str]| seen.iter().filter(|event| words.iter().all(|word| event.contains(word))).count();
    assert_eq!(count(&["\"publish_failed\"", "\"port\":8080", "the port is in use"]), 1, "{seen:#?}");
    assert_eq!(count(&["\"publish\"", "0.0.0.0:8081", "\"auto\":true"]), 2, "{seen:#?}");
    assert_eq!(count(&["\"unpublish\"", "0.0.0.0:8081", "\"auto\":true"]), 2, "{seen:#?}");
    assert_eq!(told(), 1);
}

#[test]
fn a_sandbox_publishes_by_itself_with_a_daemon_and_without() {
    let mut daemon = Daemon::up(Lab::new(), &fixed_network(2));
    let serve = "python3 -m http.server --bind :: 8080 >/dev/null 2>&1 & echo up; exec sleep 1000";
    let fetched = |daemon: &Daemon| {
        daemon.lab.on_server(&format!("{CLIENT}203.0.113.1:8080/ -o /dev/null -w '%{{http_code}}'")).stdout
    };
    let joined = daemon.run("--network default --name web -p auto", serve);
    let alone = daemon.lab.inside_command(&["-p", "out0:auto"], serve);
    for mut command in [joined, alone] {
        let mut sandbox = Running::start(command.stderr(Stdio::inherit()));
        assert_eq!(sandbox.line(), "up");
        eventually("it is reached", || fetched(&daemon) == "200");
        drop(sandbox);
        eventually("it is not any more", || fetched(&daemon) == "000");
    }
    daemon.stop();
}

#[test]
fn what_nobody_can_see_is_refused() {
    let daemon = Daemon::up(Lab::new(), &(fixed_network(1) + r#"publish = ["auto:vm"]"#));
    let web = Container::new(&daemon.lab);
    web.exec("ip link add near0 type veth peer name far0; ip link set near0 up").text();
    let stream = format!("--stream {}/vm.sock", daemon.home.display());
    for (target, options) in
        [(web.pid().to_string(), "--veth near0 -p auto"), (String::new(), &format!("{stream} --name vm"))]
    {
        let refused = daemon.attach(target, options);
        assert_eq!(refused.status, Some(7), "{refused:?}");
        assert!(refused.stderr.contains("cannot be seen"), "{refused:?}");
    }
    let refused = daemon.command("publish auto:web");
    assert_eq!(refused.status, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("wharf attach -p auto"), "{refused:?}");
    daemon.attach(web.pid(), "--name web").text();
    let told = daemon.reload(&(fixed_network(1) + r#"publish = ["auto:web"]"#));
    assert!(told.contains("what web listens on cannot be seen"), "{told}");
}
