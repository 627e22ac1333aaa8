// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unix sockets of the host that a sandbox reaches at ports of its gateway.

use std::process::Stdio;

use crate::lab::{Lab, Running, script, server_stream};
use crate::sockets::socket_path;

const SIZE: u64 = 64 << 20;
/// Network options with a known gateway.
const FIXED: [&str; 4] = ["--cidr", "10.0.2.0/24", "--ipv6-prefix", "2001:db8:5::/64"];

/// Starts the test server on the host, at a unix socket and its echo.
pub(crate) fn serve_at(lab: &mut Lab, socket: &str) {
    lab.serve_on_host(&format!("python3 {} {socket}", script("server.py")), 80);
}

#[test]
fn streams_to_a_socket_of_the_host_are_unchanged_and_close_one_way_at_a_time() {
    let mut lab = Lab::new();
    lab.serve_everything();
    let expected = server_stream(&lab, SIZE);
    let socket = socket_path("host-streams");
    serve_at(&mut lab, &socket);
    let (web, echo) = (format!("8080:{socket}"), format!("7:{socket}.echo"));
    for (workers, gateway, end) in [
        ("1", "10.0.2.2", "TCP4:10.0.2.2:7"),
        ("2", "10.0.2.2", "TCP4:10.0.2.2:7"),
        ("1", "[2001:db8:5::2]", "TCP6:[2001:db8:5::2]:7"),
        ("2", "[2001:db8:5::2]", "TCP6:[2001:db8:5::2]:7"),
    ] {
        let options =
            [&FIXED[..], &["--workers", workers, "--host-socket", &web, "--host-socket", &echo]].concat();
        let get = format!("curl -gsS -m 60 http://{gateway}:8080/{SIZE}");
        let put = format!(
            "curl -gsS -m 60 -T - -H 'Transfer-Encoding:' -H 'Content-Length: {SIZE}' http://{gateway}:8080/"
        );
        let all = format!(
            "{get} | sha256sum | cut -d' ' -f1; {get} | {put}; echo
             {get} | socat -t 60 - {end} | sha256sum | cut -d' ' -f1"
        );
        let sums = lab.inside(&options, &all);
        assert_eq!(sums.text(), format!("{expected}\n").repeat(3), "{gateway}, {workers} workers: {sums:?}");
    }
}

const TWO_HUNDRED: &str = r#"
import socket
sockets = [socket.create_connection(("10.0.2.2", 7), timeout=20) for _ in range(200)]
for number, s in enumerate(sockets):
    s.sendall(b"%08d" % number)
    s.shutdown(socket.SHUT_WR)
for number, s in enumerate(sockets):
    assert s.makefile("rb").read() == b"%08d" % number, number
print("all answered")
"#;

#[test]
fn two_hundred_connections_to_a_socket_live_side_by_side() {
    let mut lab = Lab::new();
    let socket = socket_path("host-many");
    serve_at(&mut lab, &socket);
    let echo = format!("7:{socket}.echo");
    for workers in ["1", "2"] {
        let options = [&FIXED[..], &["--workers", workers, "--host-socket", &echo]].concat();
        let result = lab.inside(&options, &format!("python3 -c '{TWO_HUNDRED}'"));
        assert_eq!(result.text(), "all answered\n", "{workers} workers: {result:?}");
    }
}

#[test]
fn a_socket_that_nobody_listens_at_refuses_and_no_other_port_is_open() {
    let mut lab = Lab::new();
    let socket = socket_path("host-late");
    let (stale, late) = (socket_path("host-stale"), format!("80:{socket}"));
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    lab.on_host(&format!("chmod 777 {stale}")).text();
    let stale = format!("81:{stale}");
    let options = [&FIXED[..], &["--host-socket", &late, "--host-socket", &stale]].concat();
    let script = "for port in 80 81 82; do curl -s -m 20 http://10.0.2.2:$port/ip; echo $?; done
                  read line
                  curl -sS -m 20 http://10.0.2.2/ip; curl -gsS -m 20 'http://[2001:db8:5::2]/ip'; echo";
    let mut sandbox = Running::start(lab.inside_command(&options, script).stderr(Stdio::null()));
    for port in [80, 81, 82] {
        assert_eq!(sandbox.line(), "7", "port {port}");
    }
    // A service that comes later is found.
    serve_at(&mut lab, &socket);
    sandbox.say("");
    assert_eq!(sandbox.line(), "nobodynobody");
    sandbox.succeed();
}
