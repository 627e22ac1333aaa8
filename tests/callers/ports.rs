// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ports that the helper itself publishes, through its API socket: unlike the callers' own handlers, it shows servers
//! who their clients are.

use super::caller::eventually;
use super::host::{Helper, Host, with_each_helper};
use super::podman;
use super::rootlesskit::{self, CONTROL};
use super::script::{OUTSIDE, ask, ask_over_udp};

const SLIRP: &str = "-v /usr:/usr:ro --network slirp4netns:port_handler=slirp4netns";

/// Who the clients of port 8080 are to the server behind it.
fn assert_that_clients_are_seen(host: &Host) {
    assert_eq!(host.by_user(&ask("127.0.0.1:8080")).text(), "::ffff:10.0.2.2");
    assert_eq!(host.by_user(&ask("203.0.113.1:8080")).text(), "::ffff:203.0.113.1");
    assert_eq!(host.on_server(&ask("203.0.113.1:8080")).text(), "::ffff:203.0.113.2");
    let digest = host.on_server("curl -sS -m 20 http://203.0.113.1:8080/5000000 | sha256sum | cut -c-16");
    assert!(OUTSIDE.ends_with(digest.text()), "{digest:?}");
}

/// UDP port 8011 of the machine leads to a server that says whom it sees.
fn assert_that_udp_clients_are_seen(host: &Host) {
    assert_eq!(host.on_server(&ask_over_udp("203.0.113.1", 8011)).text(), "203.0.113.2\n");
    // With the host's loopback closed, as callers have it, theirs answers nobody there.
    if host.helper == Helper::Wharf {
        assert_eq!(host.by_user(&ask_over_udp("127.0.0.1", 8011)).text(), "10.0.2.2\n");
    }
}

#[test]
fn podmans_containers_see_who_their_clients_are() {
    with_each_helper(|host| {
        let host = host.with_image();
        podman::start_server(
            host,
            &format!("--name web {SLIRP} -p 8080-8082:80-82 -p 8011:11/udp"),
            "127.0.0.1:8080",
        );
        assert_that_clients_are_seen(host);
        assert_that_udp_clients_are_seen(host);
        let listening = host.by_user("ss -Htln 'sport >= :8080 and sport <= :8082' | grep -c .");
        assert_eq!(listening.text(), "3\n");
        host.by_user("podman restart -t 0 web").text();
        eventually("the server answers again", || host.by_user(&ask("127.0.0.1:8080")).status == Some(0));
        host.by_user("podman rm -f -t 0 web").text();
        eventually("the ports are free", || {
            host.by_user("ss -Htln 'sport >= :8080 and sport <= :8082'").text().is_empty()
        });
    });
}

#[test]
fn pods_and_containers_with_the_users_own_id_see_who_their_clients_are() {
    with_each_helper(|host| {
        let host = host.with_image();
        let options =
            format!("--name web --userns keep-id --sysctl net.ipv4.ip_unprivileged_port_start=0 {SLIRP}");
        podman::start_server(host, &format!("{options} -p 8080:80"), "127.0.0.1:8080");
        assert_that_clients_are_seen(host);
        host.by_user("podman rm -f -t 0 web").text();
        eventually("the port is free", || host.helpers() == 0);
        let infra = "--infra-image localhost/image --infra-command '/usr/bin/sleep 1000'";
        host.by_user(&format!("podman pod create --name pod {SLIRP} -p 8080:80 {infra}")).text();
        podman::start_server(host, "--pod pod", "127.0.0.1:8080");
        assert_that_clients_are_seen(host);
    });
}

#[test]
fn what_rootlesskit_starts_sees_who_its_clients_are() {
    with_each_helper(|host| {
        let options = "--slirp4netns-sandbox=auto --slirp4netns-seccomp=auto --disable-host-loopback";
        rootlesskit::start_server(
            host,
            &format!("{options} --port-driver=slirp4netns -p 0.0.0.0:8080:80/tcp -p 0.0.0.0:8011:11/udp"),
        );
        assert_that_clients_are_seen(host);
        assert_that_udp_clients_are_seen(host);
        let added = host.by_user(&format!("{CONTROL} add-ports 127.0.0.1:8081:80/tcp"));
        assert_eq!(host.by_user(&ask("127.0.0.1:8081")).text(), "::ffff:10.0.2.2");
        let again = host.by_user(&format!("{CONTROL} add-ports 127.0.0.1:8081:80/tcp"));
        assert!(again.stderr.contains("conflict"), "{again:?}");
        host.by_user(&format!("{CONTROL} remove-ports {}", added.text().trim())).text();
        assert_eq!(host.by_user(&ask("127.0.0.1:8081")).status, Some(7));
        assert_that_clients_are_seen(host);
    });
}

#[test]
fn a_port_in_use_is_an_error_in_the_helpers_words() {
    with_each_helper(|host| {
        let host = host.with_image();
        host.as_root("socat TCP-LISTEN:8080,fork,reuseaddr SYSTEM:'echo' >/dev/null 2>&1 &").text();
        eventually("the port is taken", || {
            host.by_user("ss -Htln 'sport = :8080' | grep -q .").status == Some(0)
        });
        let podman = format!("podman run --rm {SLIRP} -p 8080:80 localhost/image true");
        let kit = "rootlesskit --net=slirp4netns --copy-up=/etc --port-driver=slirp4netns -p 0.0.0.0:8080:80/tcp true";
        for (command, status) in [(podman.as_str(), 126), (kit, 1)] {
            let refused = host.by_user(command);
            assert_eq!(refused.status, Some(status), "{refused:?}");
            assert!(
                refused.stderr.contains("bad request: add_hostfwd: slirp_add_hostfwd failed"),
                "{refused:?}"
            );
        }
        eventually("no helper is left", || host.helpers() == 0);
    });
}
