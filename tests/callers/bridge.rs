// SPDX-License-Identifier: MIT OR Apache-2.0
//! Networks of rootless Podman: bridges in a namespace that has one helper for all containers of the user.

use super::caller::eventually;
use super::host::with_each_helper;
use super::podman::{in_container, start_server};
use super::script::{EXCURSION, OUTSIDE, SURVEY, ask, network, sh};

/// The options of a container with the machine's programs on a bridge.
const BRIDGE: &str = "-v /usr:/usr:ro --network bridge1";

#[test]
fn containers_on_a_bridge_reach_each_other_and_the_outside() {
    with_each_helper(|host| {
        let host = host.with_image();
        host.by_user("podman network create bridge1").text();
        start_server(host, &format!("--name web {BRIDGE} -p 8080:80"), "127.0.0.1:8080");
        let script =
            format!("{EXCURSION}\n{}; echo; hostname -I; getent ahostsv4 web | head -n1", ask("web"));
        let seen = in_container(host, &format!("--name client {BRIDGE}"), &script);
        let lines: Vec<&str> = seen.strip_prefix(OUTSIDE).expect(&seen).lines().collect();
        let [client, own, web] = lines[..] else { panic!("{seen}") };
        assert_eq!(client, format!("::ffff:{}", own.split(' ').next().unwrap()));
        // The port handler connects inside, from the server's own address.
        let handler = host.on_server(&ask("203.0.113.1:8080"));
        assert_eq!(handler.text(), format!("::ffff:{}", web.split(' ').next().unwrap()));
    });
}

#[test]
fn the_namespace_of_the_bridges_has_one_helper_as_long_as_there_are_containers() {
    with_each_helper(|host| {
        let host = host.with_image();
        host.by_user("podman network create bridge1").text();
        for name in ["first", "second"] {
            host.by_user(&format!("podman run -d --name {name} {BRIDGE} localhost/image sleep 1000")).text();
        }
        let survey = host.by_user(&format!("podman unshare --rootless-netns {}", sh(SURVEY)));
        let bridge = |line: &&str| !line.starts_with("10.89.");
        let lines: Vec<&str> = survey.text().lines().filter(bridge).collect();
        assert_eq!(lines, network("10.0.2", 65_520).lines().collect::<Vec<_>>());
        assert_eq!(host.helpers(), 1);
        host.by_user("podman rm -f -t 0 first").text();
        assert_eq!(host.helpers(), 1);
        host.by_user("podman rm -f -t 0 second").text();
        eventually("no helper is left", || host.helpers() == 0);
    });
}
