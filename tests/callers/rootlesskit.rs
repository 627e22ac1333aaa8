// SPDX-License-Identifier: MIT OR Apache-2.0
//! RootlessKit, which stands behind rootless Docker and nerdctl. It makes the TAP itself, and configures it.

use super::caller::eventually;
use super::host::{Host, with_each_helper};
use super::script::{EXCURSION, LOOPBACK, OUTSIDE, SERVE, SURVEY, ask, ask_over_udp, network, sh};

const ROOTLESSKIT: &str = "rootlesskit --state-dir=/mnt/run/kit --net=slirp4netns --copy-up=/etc";
pub(crate) const CONTROL: &str = "rootlessctl --socket=/mnt/run/kit/api.sock";

/// Runs a shell script under RootlessKit.
fn inside(host: &Host, options: &str, script: &str) -> String {
    host.by_user(&format!("{ROOTLESSKIT} {options} {}", sh(script))).text().to_owned()
}

/// Starts the test server under RootlessKit and waits until it answers at port 8080 of the machine.
pub(crate) fn start_server(host: &Host, options: &str) {
    host.by_user(&format!("{ROOTLESSKIT} {options} {} >log 2>&1 &", sh(SERVE))).text();
    eventually("the server answers", || {
        let log = host.by_user("grep error: log");
        assert_eq!(log.stdout, "");
        host.by_user(&ask("127.0.0.1:8080")).status == Some(0)
    });
}

#[test]
fn what_rootlesskit_starts_has_a_network() {
    with_each_helper(|host| {
        let options = "--slirp4netns-binary=/mnt/bin/slirp4netns --mtu=65520 --disable-host-loopback";
        let script = format!("{SURVEY}\n{EXCURSION}\n{LOOPBACK}");
        let expected = format!("{}{OUTSIDE}Network is unreachable\n", network("10.0.2", 65_520));
        assert_eq!(inside(host, options, &script), expected);
        eventually("no helper is left", || host.helpers() == 0);
    });
}

#[test]
fn rootlesskit_may_confine_the_helper_and_choose_the_network() {
    with_each_helper(|host| {
        let options =
            "--slirp4netns-sandbox=auto --slirp4netns-seccomp=auto --ipv6 --cidr=10.7.7.0/24 --mtu=1500";
        // The kernel asks for a router when it has found its own address to be free.
        let script = format!(
            "{SURVEY}\n{EXCURSION}
            until ip -o -6 addr show tap0 scope global -tentative | grep -o 'inet6 fd00::'; do sleep 0.05; done
            grep -E '^(CapEff|Seccomp):' /proc/$(pgrep -x slirp4netns)/status
            {}",
            ask("[2001:db8:1::2]")
        );
        let expected = format!(
            "{}{OUTSIDE}inet6 fd00::\nCapEff:\t0000000000000400\nSeccomp:\t2\n2001:db8:1::1",
            network("10.7.7", 1500)
        );
        assert_eq!(inside(host, options, &script), expected);
    });
}

#[test]
fn the_builtin_port_driver_reaches_what_rootlesskit_starts() {
    with_each_helper(|host| {
        let ports = "-p 0.0.0.0:8080:80/tcp -p 0.0.0.0:8011:11/udp";
        start_server(host, &format!("--disable-host-loopback --port-driver=builtin {ports}"));
        // It connects inside: clients have the loopback address.
        assert_eq!(host.on_server(&ask("203.0.113.1:8080")).text(), "::ffff:127.0.0.1");
        assert_eq!(host.on_server(&ask_over_udp("203.0.113.1", 8011)).text(), "127.0.0.1\n");
        let added = host.by_user(&format!("{CONTROL} add-ports 127.0.0.1:8081:80/tcp"));
        assert_eq!(host.by_user(&ask("127.0.0.1:8081")).text(), "::ffff:127.0.0.1");
        host.by_user(&format!("{CONTROL} remove-ports {}", added.text().trim())).text();
        assert_eq!(host.by_user(&ask("127.0.0.1:8081")).status, Some(7));
    });
}

/// With `--detach-netns`, RootlessKit 2 has the network in another namespace than that of its child, bound to a path.
#[test]
fn a_detached_network_namespace_is_found_by_its_path() {
    let child = "touch /mnt/run/netns
        unshare -n mount --bind /proc/self/ns/net /mnt/run/netns
        nsenter --net=/mnt/run/netns ip tuntap add name tap0 mode tap
        nsenter --net=/mnt/run/netns ip link set tap0 up mtu 65520
        nsenter --net=/mnt/run/netns ip addr add 10.0.2.100/24 dev tap0
        nsenter --net=/mnt/run/netns ip route add default via 10.0.2.2
        echo up > up
        exec sleep 1000";
    let script = format!(
        "mkfifo up ready
        unshare -Urm {} >/dev/null 2>&1 &
        child=$!
        read line < up
        netns=/proc/$child/root/mnt/run/netns
        slirp4netns --mtu 65520 -r 3 --disable-host-loopback --enable-seccomp --enable-ipv6 \
            --userns-path=/proc/$child/ns/user --netns-type=path $netns tap0 3>ready >log 2>&1 &
        head -c1 ready
        echo
        nsenter -t $child -U -m --preserve-credentials --net=$netns {}",
        sh(child),
        sh(&format!("ip route\n{}", ask("203.0.113.2")))
    );
    let expected = "1
default via 10.0.2.2 dev tap0 
10.0.2.0/24 dev tap0 proto kernel scope link src 10.0.2.100 
::ffff:203.0.113.1";
    with_each_helper(|host| assert_eq!(host.by_user(&script).text(), expected));
}
