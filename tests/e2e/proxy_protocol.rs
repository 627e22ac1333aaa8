// SPDX-License-Identifier: MIT OR Apache-2.0
//! Published ports whose servers are told who their clients are: HAProxy, whose protocol it is, and a server that speaks
//! first.

use std::fs;
use std::process::Stdio;

use crate::lab::{Lab, Running, eventually, scratch};

/// Answers with what the header has said: client, host, port of the host.
pub(crate) const HAPROXY: &str = r#"
defaults
    mode http
    timeout connect 20s
    timeout client 20s
    timeout server 20s
frontend web
    bind :::80 v4v6 accept-proxy
    http-request return status 200 content-type text/plain lf-string "%[src] %[dst] %[dst_port]"
"#;

#[test]
fn haproxy_sees_the_true_client_also_where_the_sandbox_sees_the_gateway() {
    let lab = Lab::new();
    let configuration = scratch().join("proxy_protocol.cfg");
    fs::write(&configuration, HAPROXY).unwrap();
    let script = format!("exec haproxy -db -f {}", configuration.display());
    for (options, port) in
        [(&["-p", "8080:80/tcp+proxy"][..], 8080), (&["--ipv4-only", "-p", "8081:80/tcp+proxy"], 8081)]
    {
        let _server = Running::start(lab.inside_command(options, &script).stderr(Stdio::null()));
        let ask = |to: &str| format!("curl -gsS -m 20 http://{to}:{port}/");
        eventually("haproxy answers", || lab.on_host(&ask("127.0.0.1")).status == Some(0));
        for to in ["127.0.0.1", "::1"] {
            let url = if to.contains(':') { "[::1]" } else { to };
            assert_eq!(lab.on_host(&ask(url)).text(), format!("{to} {to} {port}"));
        }
        assert_eq!(lab.on_server(&ask("203.0.113.1")).text(), format!("203.0.113.2 203.0.113.1 {port}"));
        let seen = lab.on_server(&ask("[2001:db8:1::1]"));
        assert_eq!(seen.text(), format!("2001:db8:1::2 2001:db8:1::1 {port}"));
    }
}

/// Says whom the header names before it hears anything else, and prints how much follows.
const SPEAKS_FIRST: &str = r#"
import socket
listener = socket.create_server(("::", 25), family=socket.AF_INET6, dualstack_ipv6=True)
print("listening", flush=True)
while True:
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as stream:
        header = stream.read(28)
        connection.sendall(b"220 " + socket.inet_ntoa(header[16:20]).encode() + b"\n")
        print(len(stream.read()), flush=True)
"#;

#[test]
fn the_header_comes_before_the_client_says_anything_and_before_all_that_it_says() {
    let lab = Lab::new();
    let script = format!("exec python3 -c '{SPEAKS_FIRST}'");
    let options = ["-p", "8025:25/tcp+proxy"];
    let mut server = Running::start(lab.inside_command(&options, &script).stderr(Stdio::null()));
    assert_eq!(server.line(), "listening");
    let to = "TCP4:203.0.113.1:8025";
    for (client, follows) in [
        // It hears the greeting before it sends its end.
        ("bash -c 'exec 3<>/dev/tcp/203.0.113.1/8025; head -n 1 <&3'".to_owned(), "0"),
        (format!("socat -t 20 - {to} < /dev/null"), "0"),
        (format!("head -c 3000000 /dev/zero | socat -t 20 - {to}"), "3000000"),
    ] {
        assert_eq!(lab.on_server(&client).text(), "220 203.0.113.2\n", "{client}");
        assert_eq!(server.line(), follows, "{client}");
    }
}
