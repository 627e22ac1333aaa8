// SPDX-License-Identifier: MIT OR Apache-2.0
//! Containers of rootless Podman that have a helper of their own.

use super::caller::eventually;
use super::host::{Helper, Host, with_each_helper};
use super::script::{EXCURSION, LOOPBACK, OUTSIDE, SERVE, SURVEY, ask, ask_over_udp, network, sh};

/// The options of a container with the machine's programs and a helper of its own.
const SLIRP: &str = "-v /usr:/usr:ro --network slirp4netns";

/// Runs a shell script in a container with these options.
pub(crate) fn in_container(host: &Host, options: &str, script: &str) -> String {
    host.by_user(&format!("podman run --rm {options} localhost/image {}", sh(script))).text().to_owned()
}

/// Starts a container with the test server and waits until it answers the user at `address`.
pub(crate) fn start_server(host: &Host, options: &str, address: &str) {
    host.by_user(&format!("podman run -d {options} localhost/image {}", sh(SERVE))).text();
    eventually("the server in the container answers", || host.by_user(&ask(address)).status == Some(0));
}

#[test]
fn podman_uses_the_helper_that_is_configured() {
    with_each_helper(|host| {
        let format = "{{.Host.Slirp4NetNS.Executable}} {{.Host.Slirp4NetNS.Version}}";
        let shown = host.by_user(&format!("podman info -f '{format}'"));
        let version = match host.helper {
            Helper::Slirp4netns => "version 1.2.0",
            Helper::Wharf => concat!("version 1.3.2 (wharf ", env!("CARGO_PKG_VERSION"), ")"),
        };
        let expected = format!("/mnt/bin/slirp4netns slirp4netns {version}");
        assert_eq!(shown.text().lines().next(), Some(expected.as_str()));
    });
}

#[test]
fn a_container_has_its_network_when_its_first_process_runs() {
    with_each_helper(|host| {
        let host = host.with_image();
        assert_eq!(in_container(host, SLIRP, SURVEY), network("10.0.2", 65_520));
        let script = "ip -o -6 addr show tap0 scope global; ip -6 route show default; cat /etc/hosts";
        let shown = in_container(host, SLIRP, script);
        for line in ["inet6 fd00::", "default via fe80::2 dev tap0 proto ra", "\n10.0.2.100\t"] {
            assert!(shown.contains(line), "{line}: {shown}");
        }
    });
}

#[test]
fn a_container_reaches_the_outside_and_the_host_but_not_its_loopback() {
    with_each_helper(|host| {
        let host = host.with_image();
        host.as_root("python3 /mnt/server.py >/dev/null 2>&1 &").text();
        eventually("the host serves", || host.by_user(&ask("127.0.0.1")).status == Some(0));
        let dns = "dig +short +time=20 +tcp web.example @10.0.2.3";
        let asks = format!("{}; echo; {}", ask("[2001:db8:1::2]"), ask("host.containers.internal"));
        let script = format!("{EXCURSION}\n{dns}\n{LOOPBACK}\n{asks}");
        let expected = "198.51.100.1\nNetwork is unreachable\n2001:db8:1::1\n::ffff:203.0.113.1";
        assert_eq!(in_container(host, SLIRP, &script), format!("{OUTSIDE}{expected}"));
    });
}

#[test]
fn names_are_asked_of_the_hosts_nameservers_as_they_change() {
    let other = "ip addr add 203.0.113.4/24 dev in0
        dnsmasq -k --pid-file= -za 203.0.113.4 --no-resolv --no-hosts --host-record=web.example,198.51.100.4 -u root \
            >/dev/null 2>&1 &
        until ss -Huln 'src 203.0.113.4:53' | grep -q .; do sleep 0.02; done";
    with_each_helper(|host| {
        let host = host.with_image();
        host.on_server(other).text();
        host.by_user(&format!("podman run -d --name one {SLIRP} localhost/image sleep 1000")).text();
        let ask = || host.by_user("podman exec one dig +short +time=20 web.example @10.0.2.3");
        assert_eq!(ask().text(), "198.51.100.1\n");
        // In place: the file is mounted over that of the machine, as container engines do it.
        host.as_root("echo nameserver 203.0.113.4 > /etc/resolv.conf").text();
        eventually("the other nameserver is asked", || ask().text() == "198.51.100.4\n");
    });
}

#[test]
fn every_option_of_podman_changes_what_it_says() {
    with_each_helper(|host| {
        let host = host.with_image();
        let addresses = "set -e
            ip addr add 203.0.113.9/24 dev out0
            ip addr add 2001:db8:1::9/64 dev out0 nodad
            ip link add side0 type veth peer name side1
            ip addr add 203.0.113.10/32 dev side0";
        host.as_root(addresses).text();
        let options =
            format!("{SLIRP}:cidr=10.9.8.0/24,mtu=1400,enable_ipv6=false,outbound_addr=203.0.113.9");
        let script = format!("{SURVEY}\nip -o -6 addr show tap0 scope global\n{}", ask("203.0.113.2"));
        let expected = format!("{}::ffff:203.0.113.9", network("10.9.8", 1400));
        assert_eq!(in_container(host, &options, &script), expected);

        host.as_root("socat TCP-LISTEN:9000,bind=127.0.0.1,fork SYSTEM:'echo loopback' >/dev/null 2>&1 &")
            .text();
        let listens = "ss -Htln 'sport = :9000' | grep -q .";
        eventually("the host's loopback is served", || host.by_user(listens).status == Some(0));
        let options =
            format!("{SLIRP}:allow_host_loopback=true,outbound_addr=side0,outbound_addr6=2001:db8:1::9");
        let script = format!("{LOOPBACK}\n{}; echo; {}", ask("[2001:db8:1::2]"), ask("203.0.113.2"));
        let expected = "loopback\n2001:db8:1::9\n::ffff:203.0.113.10";
        assert_eq!(in_container(host, &options, &script), expected);
    });
}

#[test]
fn a_container_with_the_users_own_id_has_a_network() {
    with_each_helper(|host| {
        let host = host.with_image();
        let options = format!("--userns keep-id {SLIRP}");
        let script = format!("id -u\n{SURVEY}\n{EXCURSION}");
        let expected = format!("4711\n{}{OUTSIDE}", network("10.0.2", 65_520));
        assert_eq!(in_container(host, &options, &script), expected);
    });
}

#[test]
fn podman_has_the_helper_confined() {
    with_each_helper(|host| {
        let host = host.with_image();
        host.by_user(&format!("podman run -d {SLIRP} localhost/image sleep 1000")).text();
        let status = "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/$(pgrep -x slirp4netns)/status";
        let expected = "CapEff:\t0000000000000400\nCapBnd:\t0000000000000400\nNoNewPrivs:\t1\nSeccomp:\t2\n";
        assert_eq!(host.by_user(status).text(), expected);
    });
}

#[test]
fn podmans_own_port_handler_reaches_the_container() {
    with_each_helper(|host| {
        let host = host.with_image();
        let options = format!("--name web {SLIRP} -p 8080:80 -p 8011:11/udp");
        start_server(host, &options, "127.0.0.1:8080");
        // It connects inside the container: clients have the container's own address.
        for client in [host.by_user(&ask("127.0.0.1:8080")), host.on_server(&ask("203.0.113.1:8080"))] {
            assert_eq!(client.text(), "::ffff:10.0.2.100");
        }
        for client in [
            host.by_user(&ask_over_udp("127.0.0.1", 8011)),
            host.on_server(&ask_over_udp("203.0.113.1", 8011)),
        ] {
            assert_eq!(client.text(), "10.0.2.100\n");
        }
    });
}

#[test]
fn the_containers_of_a_pod_share_a_network() {
    with_each_helper(|host| {
        let host = host.with_image();
        let infra = "--infra-image localhost/image --infra-command '/usr/bin/sleep 1000'";
        host.by_user(&format!("podman pod create --name pod {SLIRP} -p 8080:80 {infra}")).text();
        start_server(host, "--pod pod", "127.0.0.1:8080");
        assert_eq!(host.by_user(&ask("127.0.0.1:8080")).text(), "::ffff:10.0.2.100");
        let script = format!("{SURVEY}\n{EXCURSION}\n{}", ask("127.0.0.1"));
        let expected = format!("{}{OUTSIDE}::ffff:127.0.0.1", network("10.0.2", 65_520));
        assert_eq!(in_container(host, "--pod pod", &script), expected);
        assert_eq!(host.helpers(), 1);
    });
}

#[test]
fn a_helper_ends_with_its_container_and_a_restart_brings_another() {
    with_each_helper(|host| {
        let host = host.with_image();
        start_server(host, &format!("--name web {SLIRP} -p 8080:80"), "127.0.0.1:8080");
        host.by_user("podman restart -t 0 web").text();
        eventually("the server answers again", || host.by_user(&ask("127.0.0.1:8080")).status == Some(0));
        eventually("one helper is left", || host.helpers() == 1);
        host.by_user("podman rm -f -t 0 web").text();
        eventually("no helper is left", || host.helpers() == 0);
    });
}
