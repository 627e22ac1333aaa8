// SPDX-License-Identifier: MIT OR Apache-2.0
//! Containers of rootless Podman without a network of Podman's: the daemon's.

use super::caller::eventually;
use super::host::{Helper, Host};
use super::script::{SERVE, ask, sh};

/// The daemon and its commands, by another name of what is called slirp4netns.
const WHARF: &str = "./wharf";

/// Starts a container without a network and attaches it.
fn attached(host: &Host, name: &str, options: &str, command: &str) {
    let options = format!("--name {name} -v /usr:/usr:ro --network none {options}");
    host.by_user(&format!("podman run -d {options} localhost/image {command}")).text();
    let attach = format!("{WHARF} attach --name {name} $(podman inspect -f '{{{{.State.Pid}}}}' {name})");
    host.by_user(&attach).text();
}

#[test]
fn podmans_containers_share_a_network_of_the_daemon_by_name() {
    let host = Host::new(Helper::Wharf);
    let host = host.with_image();
    host.by_user("ln -s /mnt/bin/slirp4netns wharf").text();
    host.by_user(&format!("{WHARF} up >up.log 2>&1 &")).text();
    let networks = format!("{WHARF} networks --json");
    eventually("the daemon serves", || host.by_user(&networks).status == Some(0));
    attached(host, "web", "", &sh(SERVE));
    host.by_user(&format!("{WHARF} publish 127.0.0.1:8080:web:80")).text();
    eventually("the server in the container answers", || {
        host.by_user(&ask("127.0.0.1:8080")).status == Some(0)
    });
    // Podman takes no --dns where it makes no network.
    host.by_user("printf 'nameserver 10.0.2.3\nsearch default.internal\n' >resolv.conf").text();
    attached(host, "client", "-v ./resolv.conf:/etc/resolv.conf:ro", "sleep 1000");
    let in_client =
        |script: &str| host.by_user(&format!("podman exec client {}", sh(script))).text().to_owned();
    assert_eq!(in_client(&ask("web").replace("curl", "curl -4")), "::ffff:10.0.2.11");
    assert_eq!(in_client(&ask("203.0.113.2")), "::ffff:203.0.113.1");
    host.by_user("podman rm -f -t 0 web").text();
    let names = || host.by_user(&format!("{WHARF} ls --json")).stdout;
    eventually("the container that ended is detached", || !names().contains("\"name\":\"web\""));
    host.by_user(&format!("{WHARF} down")).text();
}
