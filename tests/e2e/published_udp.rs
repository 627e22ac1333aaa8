// SPDX-License-Identifier: MIT OR Apache-2.0
//! Published UDP ports: clients on the host and beyond it, and a server in the sandbox that says whom it sees.

use std::process::Stdio;

use crate::lab::{Finished, Lab, Running, datagrams, eventually};

/// The test's server in a sandbox on port 53, which answers already.
fn serve_inside(lab: &Lab, options: &[&str], (to, port): (&str, u16)) -> Running {
    let serve = format!("exec {}", datagrams("serve 53"));
    let running = Running::start(lab.inside_command(options, &serve).stderr(Stdio::null()));
    let asked = format!("timeout 1 {}", ask(to, port, 0, "up"));
    eventually("the published server answers", || lab.on_host(&asked).status == Some(0));
    running
}

fn ask(to: &str, port: u16, source: u16, text: &str) -> String {
    datagrams(&format!("ask {to} {port} {source} '{text}'"))
}

#[test]
fn the_server_sees_clients_under_their_own_end_where_it_could_answer_that() {
    let lab = Lab::new();
    lab.on_host("ip addr add 203.0.113.9/24 dev out0; ip addr add 2001:db8:1::9/64 dev out0 nodad").text();
    for workers in ["1", "2"] {
        let options = ["--ipv6-prefix", "2001:db8:5::/64", "-p", "5353:53/udp", "--workers", workers];
        let _server = serve_inside(&lab, &options, ("127.0.0.1", 5353));
        // Also at a second address of the host, from which the answer comes then.
        for (to, client, source) in [
            ("203.0.113.1", "203.0.113.2", 4001),
            ("203.0.113.9", "203.0.113.2", 4002),
            ("2001:db8:1::1", "2001:db8:1::2", 4001),
            ("2001:db8:1::9", "2001:db8:1::2", 4002),
        ] {
            let answer = lab.on_server(&ask(to, 5353, source, "hello"));
            assert_eq!(answer.text(), format!("{to} 5353 {client} {source}\n"));
        }
        let answer = lab.on_server(&ask("203.0.113.1", 5353, 4002, "the same client at the other address"));
        assert!(answer.text().starts_with("203.0.113.1 5353 203.0.113.2 "), "{answer:?}");
        for (to, client) in [
            ("127.0.0.1", "10.0.2.2"),
            ("127.0.0.9", "10.0.2.2"),
            ("::1", "2001:db8:5::2"),
            ("203.0.113.9", "203.0.113.1"),
        ] {
            let answer = lab.on_host(&ask(to, 5353, 0, "hello"));
            let (sender, seen) = answer.text().split_once(" 5353 ").unwrap();
            assert_eq!((sender, seen.split(' ').next()), (to, Some(client)));
        }
    }
}

#[test]
fn clients_of_a_family_that_the_sandbox_does_not_have_are_seen_as_the_gateway() {
    let lab = Lab::new();
    let ipv4 = serve_inside(&lab, &["--ipv4-only", "-p", "5353:53/udp"], ("127.0.0.1", 5353));
    let answer = lab.on_server(&ask("2001:db8:1::1", 5353, 4000, "hello"));
    assert_eq!(answer.text(), "2001:db8:1::1 5353 10.0.2.2 4000\n");
    drop(ipv4);
    let options = ["--ipv6-only", "--ipv6-prefix", "2001:db8:5::/64", "-p", "5354:53/udp"];
    let _ipv6 = serve_inside(&lab, &options, ("127.0.0.1", 5354));
    let answer = lab.on_server(&ask("203.0.113.1", 5354, 4000, "hello"));
    assert_eq!(answer.text(), "203.0.113.1 5354 2001:db8:5::2 4000\n");
}

#[test]
fn clients_on_the_link_alone_are_answered_too() {
    let lab = Lab::new();
    let _server = serve_inside(&lab, &["-p", "5353:53/udp"], ("127.0.0.1", 5353));
    // Duplicate address detection takes its time.
    let is_settled = |shown: &Finished| shown.stdout.contains("fe80:");
    let settled = "ip -6 -o addr show scope link -tentative | grep -o 'fe80:[^/]*'";
    eventually("both have link-local addresses", || {
        is_settled(&lab.on_host(settled)) && is_settled(&lab.on_server(settled))
    });
    let host = lab.on_host(settled);
    let answer = lab.on_server(&ask(&format!("{}%in0", host.text().trim()), 5353, 4001, "hello"));
    assert!(answer.text().starts_with("fe80:") && answer.text().ends_with("::2 4001\n"), "{answer:?}");
}

#[test]
fn large_datagrams_go_both_ways() {
    let lab = Lab::new();
    let options = ["--mtu", "1500", "-p", "5353:53/udp"];
    let _server = serve_inside(&lab, &options, ("127.0.0.1", 5353));
    for size in ["+1400", "+1472", "+1473", "+9000", "+60000"] {
        for to in ["203.0.113.1", "2001:db8:1::1"] {
            let answer = lab.on_server(&ask(to, 5353, 4000, size));
            assert!(answer.text().starts_with(&format!("{to} 5353 ")), "{size}: {answer:?}");
        }
        assert!(lab.on_host(&ask("127.0.0.1", 5353, 0, size)).text().contains(" 10.0.2.2 "), "{size}");
    }
}

#[test]
fn what_the_server_sends_unasked_comes_from_the_published_port() {
    let lab = Lab::new();
    let options = ["-p", "203.0.113.1:5353:53/udp"];
    let _server = serve_inside(&lab, &options, ("203.0.113.1", 5353));
    let heard = lab.on_server(&datagrams("call_back 7000 listen"));
    assert_eq!(heard.text(), "hello 203.0.113.1 5353\n");
}

#[test]
fn many_clients_are_answered_each() {
    let lab = Lab::new();
    let _server = serve_inside(&lab, &["--workers", "2", "-p", "5353:53/udp"], ("127.0.0.1", 5353));
    assert_eq!(lab.on_host(&datagrams("many")).text(), "all answered\n");
}

#[test]
fn a_client_that_is_gone_is_told_of_to_the_server() {
    let lab = Lab::new();
    let mut server = serve_inside(&lab, &["-p", "5353:53/udp"], ("127.0.0.1", 5353));
    lab.on_server(&datagrams("call_back 7001")).text();
    assert_eq!(server.line(), "Connection refused");
}

#[test]
fn dns_and_iperf3_work_through_a_published_port() {
    let lab = Lab::new();
    let script =
        "dnsmasq -k -p 5300 --no-resolv --no-hosts --pid-file --host-record=web.example,198.51.100.1 &
        iperf3 -s -p 5201";
    let options = ["--keep-uid", "-p", "5353:5300/udp", "-p", "5201:5201", "-p", "5201:5201/udp"];
    let _server = Running::start(lab.inside_command(&options, script).stderr(Stdio::null()));
    for (on_server, at) in
        [(true, "203.0.113.1"), (true, "2001:db8:1::1"), (false, "127.0.0.1"), (false, "::1")]
    {
        let dig = format!("dig +short +time=1 +tries=1 -p 5353 web.example @{at}");
        let run = |line: &str| if on_server { lab.on_server(line) } else { lab.on_host(line) };
        eventually("the name is answered", || run(&dig).stdout == "198.51.100.1\n");
        let iperf = format!("iperf3 -u -b 20M -t 1 -J -c {at} -p 5201");
        eventually("iperf3 listens", || {
            run(&format!("socat -u OPEN:/dev/null TCP:[{at}]:5201 || socat -u OPEN:/dev/null TCP:{at}:5201"))
                .status
                == Some(0)
        });
        for reverse in ["", " -R"] {
            let result = run(&format!(
                "{iperf}{reverse} | python3 -c 'import json, sys; print(json.load(sys.stdin)[\"end\"][\"sum\"][\"lost_percent\"] < 50)'"
            ));
            assert_eq!(result.text(), "True\n", "{at}{reverse}");
        }
    }
}

#[test]
fn a_port_that_cannot_be_published_is_named_and_no_command_runs() {
    let lab = Lab::new();
    let _server = serve_inside(&lab, &["-p", "127.0.0.1:5353:53/udp"], ("127.0.0.1", 5353));
    let result = lab.inside(&["-p", "127.0.0.1:5353:53/udp"], "echo started");
    assert_eq!((result.status, result.stdout.as_str()), (Some(125), ""), "{result:?}");
    assert!(
        result.stderr.contains("cannot publish 127.0.0.1:5353/udp: the port is in use; `ss -lunp"),
        "{result:?}"
    );
    // TCP has ports of its own.
    let result = lab.inside(&["-p", "127.0.0.1:5353:53"], "echo started");
    assert_eq!(result.text(), "started\n");
}

#[test]
fn a_port_published_on_the_loopback_alone_still_speaks_to_the_outside() {
    let mut lab = Lab::new();
    lab.serve_everything();
    let script = r#"python3 -c '
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.bind(("", 53))
s.sendto(b"an answer", ("198.51.100.1", 7))
print(s.recv(100).decode())
'"#;
    for options in [
        &["-p", "127.0.0.1:5353:53/udp"][..],
        &["-p", "127.0.0.1:5353:53/udp", "-p", "203.0.113.1:5353:53/udp"],
    ] {
        assert_eq!(lab.inside(options, script).text(), "an answer\n", "{options:?}");
    }
}
