// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unix sockets of the host that lead to containers of the daemon, which is confined and makes none itself.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::published::serve;
use super::reach::fixed_network;
use super::{Container, Daemon};
use crate::host_sockets::serve_at;
use crate::lab::{Lab, eventually};
use crate::sockets::{client, socket_path};

/// Whether a socket leads to a server.
fn answers(daemon: &Daemon, socket: &str) -> bool {
    daemon.lab.on_host(&format!("{}/ip", client(socket))).status == Some(0)
}

fn exists(socket: &str) -> bool {
    Path::new(socket).exists()
}

#[test]
fn sockets_of_the_file_of_an_attachment_and_of_a_command_lead_to_a_container() {
    for workers in [1, 2] {
        let [file, port, command] =
            ["file", "port", "command"].map(|name| socket_path(&format!("{name}{workers}")));
        let daemon = Daemon::up(
            Lab::new(),
            &(fixed_network(workers) + &format!("publish = [\"unix:{file}:web:80\"]\n")),
        );
        let web = daemon.attached(&format!("--name web -p unix:{port}:80"));
        let _server = serve(&web);
        let here = Path::new(&command).parent().unwrap().display();
        let publish = format!(
            "cd {here} && $WHARF publish unix:command{workers}.sock:web:80 --json --socket {}/wharf/api.sock",
            daemon.home.display()
        );
        let made = daemon.lab.by_user(&publish).text().to_owned();
        assert!(made.contains(&format!("\"host\":\"unix:{command}\"")), "{made}");
        let listed = daemon.command("ports").text().to_owned();
        for socket in [&file, &port, &command] {
            let seen = daemon.lab.on_host(&format!("{}/ip", client(socket)));
            assert_eq!(seen.text(), "::ffff:10.0.2.2", "{socket}");
            assert!(listed.contains(&format!(" tcp       unix:{socket} ")), "{listed}");
        }
        let ids: Vec<_> =
            listed.lines().skip(1).map(|line| line.split_whitespace().next().unwrap()).collect();
        daemon.command(&format!("unpublish {}", ids[2])).text();
        assert!(!exists(&command), "it is gone when it is withdrawn");
        daemon.command("detach web").text();
        assert!(!exists(&port) && exists(&file));
        drop(daemon);
        eventually("it is gone with the daemon", || !exists(&file));
    }
}

#[test]
fn a_socket_that_is_not_to_be_had_is_named_and_nothing_is_published() {
    let daemon = Daemon::up(Lab::new(), &fixed_network(1));
    let _web = daemon.attached("--name web");
    let (live, other) = (socket_path("refused-live"), socket_path("refused-other"));
    daemon.command(&format!("publish unix:{live}:web:80")).text();
    let in_use = format!("cannot publish unix:{live}: somebody listens there");
    let container = Container::new(&daemon.lab);
    let both = format!("-p unix:{other}:80 -p unix:{live}:81 -p 127.0.0.1:8080:80");
    for refused in
        [daemon.command(&format!("publish unix:{live}:web:81")), daemon.attach(container.pid(), &both)]
    {
        assert_eq!(refused.status, Some(4), "{refused:?}");
        assert!(refused.stderr.contains(&in_use), "{refused:?}");
    }
    // Bound by the client already when the daemon refuses.
    let refused = daemon.command(&format!("publish unix:{other}:web:80 --network none"));
    assert_eq!(refused.status, Some(3), "{refused:?}");
    eventually("nothing stays of it", || !exists(&other));
    assert_eq!(daemon.command("ports").text().lines().count(), 2);
    let by_hand = format!(
        "curl -sS -m 20 --unix-socket {}/wharf/api.sock http://wharf/v1/publications --json '{{\"ports\":\"unix:{other}:web:80\"}}'",
        daemon.home.display()
    );
    let answer = daemon.lab.by_user(&by_hand);
    assert!(
        answer.text().contains("\"unsupported\"") && answer.text().contains("`wharf publish`"),
        "{answer:?}"
    );
}

#[test]
fn a_running_daemon_that_is_given_a_socket_by_its_file_says_who_can_make_it() {
    let socket = socket_path("reloaded");
    let daemon = Daemon::up(Lab::new(), &fixed_network(1));
    let web = daemon.attached("--name web");
    let _server = serve(&web);
    let said = daemon.reload(&(fixed_network(1) + &format!("publish = [\"unix:{socket}:web:80\"]\n")));
    assert!(
        said.contains(&format!("cannot publish unix:{socket}: ")) && said.contains("`wharf publish`"),
        "{said}"
    );
    daemon.command(&format!("publish unix:{socket}:web:80")).text();
    assert!(answers(&daemon, &socket));
}

#[test]
fn a_socket_of_the_file_leads_elsewhere_by_reload() {
    let socket = socket_path("elsewhere");
    let leading_to = |port: u16| fixed_network(1) + &format!("publish = [\"unix:{socket}:web:{port}\"]\n");
    let daemon = Daemon::up(Lab::new(), &leading_to(81));
    let web = daemon.attached("--name web");
    let _server = serve(&web);
    assert!(!answers(&daemon, &socket), "nobody serves port 81");
    let said = daemon.reload(&leading_to(80));
    assert!(answers(&daemon, &socket), "{said}");
    assert!(daemon.command("ports").text().contains(&format!("unix:{socket} ")));
    let twice = leading_to(80).replace("[\"", &format!("[\"unix:{socket}:web:82\", \""));
    let said = daemon.reload(&twice);
    assert!(said.contains(&format!("cannot publish unix:{socket}: ")), "{said}");
    assert!(answers(&daemon, &socket), "the other wish is met still");
}

#[test]
fn after_kill_9_sockets_are_there_again_and_lead_where_their_container_is() {
    let (file, command) = (socket_path("again-file"), socket_path("again-command"));
    let networks = fixed_network(1) + &format!("publish = [\"unix:{file}:web:80\"]\n");
    let mut daemon = Daemon::up(Lab::new(), &networks);
    let web = daemon.attached("--name web");
    daemon.command(&format!("publish unix:{command}:web:80")).text();
    daemon.kill();
    drop(web);
    daemon.start();
    // It comes back at another address, and the sockets stay what they are.
    let web = daemon.attached("--name web --ip 10.0.2.77");
    let _server = serve(&web);
    assert!(daemon.command("ports").text().contains("10.0.2.77:80"));
    assert!(answers(&daemon, &file) && answers(&daemon, &command));
}

#[test]
fn a_sandbox_that_joins_the_daemon_brings_its_socket() {
    let socket = socket_path("joined");
    let daemon = Daemon::up(Lab::new(), &fixed_network(1));
    let script = format!("exec python3 {}", crate::lab::script("server.py"));
    let mut joined = daemon.run(&format!("--network default --name web -p unix:{socket}:80"), &script);
    let server = crate::lab::Running::start(joined.stderr(std::process::Stdio::null()));
    eventually("the server answers", || answers(&daemon, &socket));
    drop(server);
    eventually("the socket is gone with the sandbox", || !exists(&socket));
}

#[test]
fn what_is_no_service_refuses_containers_and_the_operator_hears_why() {
    let (mut lab, socket) = (Lab::new(), socket_path("forbidden"));
    serve_at(&mut lab, &socket);
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(&socket, Some(0), Some(0)).unwrap();
    let daemon = Daemon::up(lab, &(fixed_network(1) + &format!("host_sockets = [\"8080:{socket}\"]\n")));
    let web = daemon.attached("--name web");
    for _ in 0..2 {
        let refused = web.exec("timeout 20 socat -u OPEN:/dev/null TCP:10.0.2.2:8080");
        assert!(refused.stderr.contains("Connection refused"), "{refused:?}");
    }
    let told = format!("containers cannot be led to {socket}: Permission denied");
    assert_eq!(daemon.log().matches(&told).count(), 1, "{}", daemon.log());
}

#[test]
fn containers_reach_a_socket_of_the_host_where_their_network_names_it() {
    for workers in [1, 2] {
        let mut lab = Lab::new();
        let socket = socket_path(&format!("host-daemon{workers}"));
        serve_at(&mut lab, &socket);
        let named = format!("host_sockets = [\"8080:{socket}\"]\n");
        let mut daemon = Daemon::up(lab, &(fixed_network(workers) + &named));
        let create = |name: &str, socket: &str| {
            daemon.command(&format!("network create {name} --ipv4 10.0.7.0/24 --host-socket 8081:{socket}"))
        };
        let refused = create("other", "/run/elsewhere.sock");
        assert_eq!(refused.status, Some(5), "{refused:?}");
        assert!(refused.stderr.contains("--host-sockets /run"), "{refused:?}");
        let by_hand = format!(
            "curl -sS -m 20 --unix-socket {}/wharf/api.sock http://wharf/v1/networks --json \
             '{{\"name\":\"back\",\"spec\":{{\"host_sockets\":[\"80:{}/../x.sock\"]}}}}'",
            daemon.home.display(),
            Path::new(&socket).parent().unwrap().display()
        );
        let answer = daemon.lab.by_user(&by_hand).text().to_owned();
        assert!(answer.contains("leads back by"), "{answer}");
        // In a directory that the daemon has kept.
        create("green", &socket).text();
        let reaches = |daemon: &Daemon| {
            let (web, green) = (daemon.attached("--name web"), daemon.attached("--network green --name web"));
            for url in ["10.0.2.2:8080", "[2001:db8:5::2]:8080"] {
                assert_eq!(web.says(&format!("curl -gsS -m 20 http://{url}/ip")), "nobody", "{url}");
            }
            assert_eq!(green.says("curl -sS -m 20 http://10.0.7.2:8081/ip"), "nobody");
            assert_eq!(green.exec("curl -sS -m 20 http://10.0.7.2:8080/ip").status, Some(7));
        };
        reaches(&daemon);
        let networks = daemon.command("networks --json").text().to_owned();
        assert!(networks.contains(&format!("\"host_sockets\":[\"8080:{socket}\"]")), "{networks}");
        daemon.kill();
        daemon.start();
        reaches(&daemon);
    }
}

#[test]
fn a_reload_has_ports_of_the_gateway_lead_to_other_sockets() {
    for workers in [1, 2] {
        let mut lab = Lab::new();
        let [one, other] = ["one", "other"].map(|name| socket_path(&format!("reload-{name}{workers}")));
        serve_at(&mut lab, &format!("{one} {other}"));
        let leading =
            |host_socket: &str| fixed_network(workers) + &format!("host_sockets = [\"{host_socket}\"]\n");
        let daemon = Daemon::up(lab, &leading(&format!("8080:{one}")));
        let web = daemon.attached("--name web");
        let reached = || {
            let status = |port: u16| web.exec(&format!("curl -sS -m 20 http://10.0.2.2:{port}/ip")).status;
            [status(8080), status(8081)]
        };
        assert_eq!(reached(), [Some(0), Some(7)]);
        let said = daemon.reload(&leading(&format!("8081:{other}")));
        assert!(!said.contains("not reloaded"), "{said}");
        assert_eq!(reached(), [Some(7), Some(0)]);
        let said = daemon.reload(&leading("8080:/run/elsewhere.sock"));
        assert!(said.contains("not reloaded") && said.contains("--host-sockets /run"), "{said}");
        assert_eq!(reached(), [Some(7), Some(0)]);
    }
}
