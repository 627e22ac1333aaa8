// SPDX-License-Identifier: MIT OR Apache-2.0
//! The API socket.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::gateway::{BOTH, Gateway, Program, Target, socket};

/// What is answered to a request, up to the end of the connection.
pub(crate) fn ask(path: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn errors_are_answered_as_slirp4netns_does_it() {
    let answers = BOTH.map(|program| {
        let target = Target::new();
        let path = socket(&format!("errors-{program:?}"));
        let _gateway = Gateway::start(program, &["-c", "-a", path.to_str().unwrap()], &target);
        let add = |arguments: &str| {
            ask(&path, &format!("{{\"execute\":\"add_hostfwd\",\"arguments\":{{{arguments}}}}}"))
        };
        [
            ask(&path, "{]"),
            ask(&path, "[]"),
            ask(&path, "{}"),
            ask(&path, "{\"execute\":\"bogus\"}\n"),
            ask(&path, &" ".repeat(4096)),
            add("\"proto\":\"TCP\",\"host_port\":2,\"guest_port\":3"),
            add("\"proto\":\"tcp\",\"host_addr\":\"x\",\"host_port\":2,\"guest_port\":3"),
            add("\"proto\":\"tcp\",\"host_port\":0,\"guest_port\":3"),
            add("\"proto\":\"udp\",\"host_port\":2,\"guest_addr\":\"x\",\"guest_port\":3"),
            add("\"proto\":\"udp\",\"host_port\":2"),
            add("\"proto\":\"tcp\",\"host_addr\":\"192.0.2.1\",\"host_port\":8080,\"guest_port\":3"),
            ask(&path, "{\"execute\":\"remove_hostfwd\"}"),
            ask(&path, "{\"execute\":\"remove_hostfwd\",\"arguments\":{\"id\":7}}"),
        ]
    });
    assert_eq!(answers[1], answers[0]);
}

#[test]
fn a_client_may_be_slow_or_silent_and_others_are_served() {
    let target = Target::new();
    let path = socket("slow");
    let args = ["-c", "--enable-sandbox", "--enable-seccomp", "-a", path.to_str().unwrap()];
    let gateway = Gateway::start(Program::Ours, &args, &target);
    let _silent = UnixStream::connect(&path).unwrap();
    let mut slow = UnixStream::connect(&path).unwrap();
    slow.write_all(b"{\"execute\":").unwrap();
    let empty = "{\"return\":{\"entries\":[]},\"entries\":[]}";
    assert_eq!(ask(&path, "{\"execute\":\"list_hostfwd\"}"), empty);
    target.inside("ping -c1 -W5 10.0.2.2").text();
    slow.write_all(b"\"list_hostfwd\"}").unwrap();
    slow.write_all(b"\n").unwrap_or_default();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, empty);
    // Nothing, and no more to come.
    let mut mute = UnixStream::connect(&path).unwrap();
    mute.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    mute.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "{\"error\":{\"desc\":\"bad request: cannot parse JSON\"}}");
    let (status, log) = gateway.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("apifd event") && log.contains("api_handler: got request:"), "{log}");
}

#[test]
fn the_socket_replaces_an_old_one_and_goes_with_the_gateway() {
    for confined in [&[][..], &["--enable-sandbox", "--enable-seccomp"]] {
        let target = Target::new();
        let path = socket(&format!("leaves-{}", confined.len()));
        std::fs::write(&path, "old").unwrap();
        let args = [&["-c", "-a", path.to_str().unwrap()], confined].concat();
        let gateway = Gateway::start(Program::Ours, &args, &target);
        assert!(ask(&path, "{\"execute\":\"list_hostfwd\"}").contains("entries"));
        assert_eq!(gateway.end().0.code(), Some(0));
        assert!(!path.exists(), "{confined:?}");
    }
}

#[test]
fn a_gateway_that_ends_leaves_its_successors_socket() {
    let path = socket("successor");
    let args = ["-c", "--enable-sandbox", "-a", path.to_str().unwrap()];
    let (first, second) = (Target::new(), Target::new());
    let ending = Gateway::start(Program::Ours, &args, &first);
    let _successor = Gateway::start(Program::Ours, &args, &second);
    assert_eq!(ending.end().0.code(), Some(0));
    assert!(ask(&path, "{\"execute\":\"list_hostfwd\"}").contains("\"entries\":[]"));
}
