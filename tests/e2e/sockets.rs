// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unix sockets of the host that lead into a sandbox.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;

use crate::lab::{Lab, Running, eventually, scratch, script, server_stream};

/// A path for a socket of a test.
pub(crate) fn socket_path(name: &str) -> String {
    scratch().join(format!("{name}.sock")).display().to_string()
}

/// A client of a socket, before the path of its URL.
pub(crate) fn client(socket: &str) -> String {
    format!("curl -sS -m 60 --unix-socket {socket} http://web")
}

/// Starts the test server in a sandbox with these options, and waits until it answers at `socket`.
fn serve_inside(lab: &Lab, options: &[&str], socket: &str) -> Running {
    let mut sandbox = lab.inside_command(options, &format!("exec python3 {}", script("server.py")));
    let server = Running::start(sandbox.stderr(Stdio::null()));
    let ask = format!("{}/0", client(socket));
    eventually("the server answers", || lab.on_host(&ask).status == Some(0));
    server
}

#[test]
fn a_unix_socket_of_the_host_is_its_owners_and_leads_into_the_sandbox_as_long_as_that_lives() {
    let lab = Lab::new();
    for (name, options, seen) in [
        ("four", &["--workers", "1"][..], "::ffff:10.0.2.2"),
        ("two", &["--workers", "2"], "::ffff:10.0.2.2"),
        ("six", &["--ipv6-only", "--ipv6-prefix", "2001:db8:5::/64"], "2001:db8:5::2"),
    ] {
        let socket = socket_path(name);
        let publish = format!("unix:{socket}:80");
        let options = [options, &["-p", &publish]].concat();
        let mut server = serve_inside(&lab, &options, &socket);
        assert_eq!(lab.on_host(&format!("{}/ip", client(&socket))).text(), seen, "{name}");
        let mode = fs::symlink_metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
        let _ = server.child.kill();
        eventually("the socket is gone with its sandbox, which was killed", || !Path::new(&socket).exists());
    }
}

const SIZE: u64 = 64 << 20;

#[test]
fn streams_through_a_unix_socket_are_unchanged_and_close_one_way_at_a_time() {
    let mut lab = Lab::new();
    lab.serve_everything();
    let expected = server_stream(&lab, SIZE);
    let (web, echo) = (socket_path("stream-web"), socket_path("stream-echo"));
    let (to_web, to_echo) = (format!("unix:{web}:80"), format!("unix:{echo}:7"));
    for workers in ["1", "2"] {
        let server = serve_inside(&lab, &["--workers", workers, "-p", &to_web, "-p", &to_echo], &web);
        let down = lab.on_host(&format!("{}/{SIZE} | sha256sum", client(&web)));
        assert_eq!(down.text().split_whitespace().next(), Some(&*expected), "down, {workers} workers");
        let put = format!("curl -sS -m 60 -T - -H 'Transfer-Encoding:' -H 'Content-Length: {SIZE}'");
        let up = format!("{}/{SIZE} | {put} --unix-socket {web} http://web/", client(&web));
        assert_eq!(lab.on_host(&up).text(), expected, "up, {workers} workers");
        // The end of what is said comes long before the end of the answer.
        let both = format!("{}/{SIZE} | socat -t 60 - UNIX-CONNECT:{echo} | sha256sum", client(&web));
        let echoed = lab.on_host(&both);
        assert_eq!(echoed.text().split_whitespace().next(), Some(&*expected), "echo, {workers} workers");
        drop(server);
    }
}

#[test]
fn what_is_at_the_path_already_is_replaced_only_if_nobody_listens_there() {
    let lab = Lab::new();
    let [stale, live, file] = ["stale", "live", "file"].map(socket_path);
    drop(UnixListener::bind(&stale).unwrap());
    let _somebody = UnixListener::bind(&live).unwrap();
    fs::write(&file, "mine").unwrap();
    // The user that wharf is run by must be free to remove it, or to be told that it is in use.
    lab.on_host(&format!("chown 65534 {stale} {live} {file}")).text();
    let absent = socket_path("no-such-directory/x");
    for (path, problem) in [
        (&live, "somebody listens there; `ss -lxp src "),
        (&file, "what is there is no socket, and stays"),
        (&absent, "there is no such directory"),
    ] {
        let other = socket_path("never");
        let (first, second) = (format!("unix:{other}:80"), format!("unix:{path}:80"));
        let refused = lab.inside(&["-p", &first, "-p", &second], "echo started");
        assert_eq!((refused.status, refused.stdout.as_str()), (Some(125), ""), "{refused:?}");
        assert!(refused.stderr.contains(&format!("cannot publish unix:{path}: {problem}")), "{refused:?}");
        eventually("nothing stays of the other", || !Path::new(&other).exists());
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    let publish = format!("unix:{stale}:80");
    let _server = serve_inside(&lab, &["-p", &publish], &stale);
}

#[test]
fn servers_that_ask_for_clients_are_told_that_they_have_no_address() {
    let lab = Lab::new();
    let configuration = scratch().join("sockets.cfg");
    fs::write(&configuration, crate::proxy_protocol::HAPROXY).unwrap();
    let socket = socket_path("proxy");
    let publish = format!("unix:{socket}:80/tcp+proxy");
    let script = format!("exec haproxy -db -f {}", configuration.display());
    let _server = Running::start(lab.inside_command(&["-p", &publish], &script).stderr(Stdio::null()));
    let ask = format!("{}/", client(&socket));
    eventually("haproxy answers", || lab.on_host(&ask).status == Some(0));
    assert_eq!(lab.on_host(&ask).text(), "::ffff:10.0.2.2 ::ffff:10.0.2.100 80");
}
