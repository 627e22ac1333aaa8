// SPDX-License-Identifier: MIT OR Apache-2.0
//! TCP through the relay.

use crate::lab::{Lab, server_stream};

const GIBIBYTE: u64 = 1 << 30;

/// Downloads and uploads `size` bytes and compares their digests with the server's stream.
pub(crate) fn move_both_ways(options: &[&str], url: &str, size: u64) {
    let mut lab = Lab::new();
    lab.serve_everything();
    let expected = server_stream(&lab, size);
    let expected = expected.as_str();
    let down = lab.inside(options, &format!("curl -sS -g '{url}/{size}' | sha256sum"));
    assert_eq!(down.text().split_whitespace().next(), Some(expected), "download: {down:?}");
    // The digest is the server's: what it got is what was sent.
    let up = lab.inside(
        options,
        &format!("curl -sS -g '{url}/{size}' | curl -sS -g -T - -H 'Transfer-Encoding:' -H 'Content-Length: {size}' '{url}/'"),
    );
    assert_eq!(up.text(), expected, "upload: {up:?}");
}

#[test]
fn curl_moves_a_gibibyte_each_way_over_ipv4() {
    move_both_ways(&[], "http://198.51.100.1", GIBIBYTE);
}

#[test]
fn curl_moves_a_gibibyte_each_way_over_ipv4_at_mtu_1500() {
    move_both_ways(&["--mtu", "1500"], "http://198.51.100.1", GIBIBYTE);
}

#[test]
fn curl_moves_a_gibibyte_each_way_over_ipv6() {
    move_both_ways(&[], "http://[2001:db8:2::1]", GIBIBYTE);
}

#[test]
fn curl_moves_a_gibibyte_each_way_through_nat64() {
    move_both_ways(&["--ipv6-only"], "http://[64:ff9b:1::198.51.100.1]", GIBIBYTE);
}

#[test]
fn two_workers_move_four_streams_unchanged() {
    let mut lab = Lab::new();
    lab.serve_everything();
    let size = 100_000_000;
    let expected = lab.on_server(&format!("curl -sS http://127.0.0.1/{size} | sha256sum"));
    let script = format!("for i in 1 2 3 4; do curl -sS http://198.51.100.1/{size} | sha256sum & done; wait");
    let down = lab.inside(&["--workers", "2"], &script);
    assert_eq!(down.text(), expected.text().repeat(4));
}

const CONCURRENT: &str = r#"
import socket, sys
sockets = []
for number in range(1000):
    s = socket.create_connection(("198.51.100.1", 8), timeout=20)
    sockets.append(s)
for number, s in enumerate(sockets):
    s.sendall(b"%08d" % number)
for number, s in enumerate(sockets):
    got = b""
    while len(got) < 8:
        got += s.recv(8 - len(got))
    assert got == b"%08d" % number, got
print("all answered")
"#;

#[test]
fn a_thousand_connections_live_side_by_side() {
    let mut lab = Lab::new();
    lab.serve_everything();
    let result = lab.inside(&[], &format!("python3 -c '{CONCURRENT}'"));
    assert_eq!(result.text(), "all answered\n", "{result:?}");
}

const SEQUENTIAL: &str = r#"
import socket
for number in range(10000):
    with socket.create_connection((("198.51.100.1", "203.0.113.2")[number % 2], 10), timeout=20) as s:
        assert s.recv(2) == b"x"
        assert s.recv(2) == b""
print("all served")
"#;

#[test]
fn ten_thousand_connections_in_turn_leak_no_descriptor() {
    let mut lab = Lab::new();
    lab.serve_everything();
    let script = format!("python3 -c '{SEQUENTIAL}' && echo done && read line");
    let mut child = lab
        .inside_command(&[], &script)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert_eq!(lines.next().unwrap().unwrap(), "all served");
    assert_eq!(lines.next().unwrap().unwrap(), "done");
    // `ip netns exec` and `setpriv` replace themselves: the child is the gateway.
    let fds = format!("/proc/{}/fd", child.id());
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut open = usize::MAX;
    while open > 40 && std::time::Instant::now() < end {
        open = std::fs::read_dir(&fds).unwrap().count();
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert!(open <= 40, "{open} descriptors are open");
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"\n").unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn half_closed_connections_still_carry_the_answer() {
    let mut lab = Lab::new();
    lab.serve_everything();
    let script = "head -c 3000000 /dev/zero | tr '\\0' 'y' | socat -t 20 - TCP4:198.51.100.1:7 | md5sum
                  head -c 3000000 /dev/zero | tr '\\0' 'y' | md5sum";
    let result = lab.inside(&[], script);
    let sums: Vec<&str> = result.text().lines().collect();
    assert_eq!(sums[0], sums[1]);
}

#[test]
fn refusals_and_errors_look_as_the_kernel_would_show_them() {
    let lab = Lab::new();
    assert_eq!(
        lab.on_host("ip route add unreachable 198.51.100.66; ip route add prohibit 198.51.100.67").status,
        Some(0)
    );
    let script = r#"python3 -c '
import errno, socket
def attempt(address, port):
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    s.settimeout(2)
    try:
        s.connect((address, port))
        # An error that arrives within connect() itself may be lost to the caller: then there is no peer.
        s.getpeername()
        return "connected"
    except TimeoutError:
        return "silence"
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            return attempt(address, port)
        return errno.errorcode[error.errno]
for address in ["198.51.100.1", "2001:db8:2::1", "198.51.100.66", "198.51.100.67", "203.0.113.77", "10.0.2.2", "127.0.0.1", "169.254.169.254"]:
    print(address, attempt(address, 4444))
'"#;
    let result = lab.inside(&[], script);
    // Linux turns "administratively prohibited" into EHOSTUNREACH or EACCES according to the family.
    let expected = "198.51.100.1 ECONNREFUSED\n2001:db8:2::1 ECONNREFUSED\n198.51.100.66 EHOSTUNREACH\n\
                    198.51.100.67 EHOSTUNREACH\n203.0.113.77 silence\n10.0.2.2 ECONNREFUSED\n\
                    127.0.0.1 ECONNREFUSED\n169.254.169.254 EHOSTUNREACH\n";
    assert_eq!(result.text(), expected);
}

#[test]
fn a_filtered_port_is_silent_and_a_rejecting_one_speaks() {
    let mut lab = Lab::new();
    lab.serve_everything();
    let rules = "nft 'add table t; add chain t in { type filter hook input priority 0; }
                      add rule t in tcp dport 5555 drop
                      add rule t in tcp dport 5556 reject with icmp type admin-prohibited'";
    lab.on_server(rules).text();
    let script =
        "curl -sS -m 2 http://198.51.100.1:5555/; echo $?; curl -sS -m 5 http://198.51.100.1:5556/ 2>&1";
    let result = lab.inside(&[], script);
    assert!(result.stdout.starts_with("28\n"), "{result:?}");
    assert!(result.stdout.contains("Failed to connect"), "{result:?}");
}

#[test]
fn the_host_loopback_is_closed_unless_asked_for() {
    let lab = Lab::new();
    let script = "python3 -m http.server --bind 127.0.0.1 8099 >/dev/null 2>&1 & echo $! > $1";
    let pid_file = crate::lab::scratch().join("loopback.pid");
    let start = format!("set -- {}; {script}; sleep 1", pid_file.display());
    lab.on_host(&start).text();
    let closed = lab.inside(&[], "curl -sS -m 5 -o /dev/null http://10.0.2.2:8099/");
    let open = lab.inside(&["--host-loopback"], "curl -sS -m 5 -o /dev/null http://10.0.2.2:8099/");
    lab.on_host(&format!("kill $(cat {})", pid_file.display())).text();
    assert_eq!(closed.status, Some(7), "{closed:?}");
    assert_eq!(open.status, Some(0), "{open:?}");
}
