// SPDX-License-Identifier: MIT OR Apache-2.0
//! What cannot be done is refused with a reason, and changes nothing.

use std::process::Command;

use super::reach::{NamedNamespace, fixed_network};
use super::{Container, Daemon};
use crate::lab::{Finished, Lab};

/// That a command failed with this status, and one line that says all this.
#[track_caller]
fn assert_refused(result: &Finished, status: i32, reasons: &[&str]) {
    assert_eq!((result.status, result.stdout.as_str()), (Some(status), ""), "{result:?}");
    assert!(reasons.iter().all(|reason| result.stderr.contains(reason)), "{reasons:?}: {result:?}");
    assert_eq!(result.stderr.lines().count(), 1, "{result:?}");
}

#[test]
fn whoever_cannot_be_attached_is_told_why_and_gets_no_interface() {
    let networks = fixed_network(1) + "[networks.blue]\nipv4 = \"10.0.9.0/24\"\nipv6 = false\n";
    let daemon = Daemon::up(Lab::new(), &networks);
    let _web = daemon.attached("--name web");
    let late = Container::new(&daemon.lab);
    for (options, status, reasons) in [
        ("--network green", 3, &["there is no network green", "there is blue, default"][..]),
        ("--name web", 4, &["web is attached to network default already", "--name"]),
        ("--name late --ip 10.0.2.10", 4, &["10.0.2.10 belongs to web"]),
        ("--name late --ip6 2001:db8:5::10", 4, &["2001:db8:5::10 belongs to web"]),
        ("--name late --mac 0a:77:0a:00:02:0a", 4, &["belongs to web"]),
        ("--name late --mac 02:77:68:61:72:02", 4, &["the gateway's"]),
        ("--name late --ip 10.0.3.1", 2, &["10.0.3.1 is no address", "10.0.2.0/24"]),
        ("--name late --ip 10.0.2.2", 2, &["10.0.2.2 is no address"]),
        ("--network blue --ip6 2001:db8:5::77", 2, &["is no address", "does not have that family"]),
        ("--name late --vlan 4095", 2, &["VLAN 4095", "1 to 4094"]),
        ("--name late -p 81:81", 5, &["cannot publish", "ip_unprivileged_port_start"]),
        ("--name late --ifname lo", 125, &["lo"]),
    ] {
        assert_refused(&daemon.attach(late.pid(), options), status, reasons);
    }
    let interfaces = late.says("ip -o link show | grep -c eth; ip -o link | grep -c ': lo:'; true");
    assert_eq!(interfaces, "0\n1", "nothing stays");
    daemon.attach(late.pid(), "--name late").text();
}

#[test]
fn who_is_not_there_or_somebody_elses_is_not_attached() {
    let daemon = Daemon::up(Lab::new(), &fixed_network(1));
    let ended = Container::new(&daemon.lab).pid();
    assert_refused(&daemon.attach(ended, ""), 3, &["there is no process"]);
    assert_refused(&daemon.attach("no-such-name", ""), 3, &["there is no namespace no-such-name"]);
    assert_refused(&daemon.attach("/etc/passwd", ""), 125, &["network namespace", "none"]);
    let roots = NamedNamespace::new(&daemon, "roots");
    assert_refused(&daemon.attach(&roots.0, ""), 5, &["cannot be entered", "user 0", "or as root"]);
    let mut others = Command::new("setpriv");
    let others = others.args(["--reuid", "1234", "--regid", "1234", "--clear-groups", "unshare", "-Urn"]);
    let mut others = crate::lab::Running::start(others.args(["sh", "-c", "echo here; exec sleep 1000"]));
    assert_eq!(others.line(), "here");
    assert_refused(&daemon.attach(others.child.id(), ""), 5, &["cannot be entered", "user 1234's"]);
}

#[test]
fn without_a_daemon_and_with_another_users_nobody_is_attached() {
    let daemon = Daemon::up(Lab::new(), &fixed_network(1));
    let container = Container::new(&daemon.lab);
    let nowhere = format!("$WHARF attach {} --runtime-dir /tmp/no-such-directory", container.pid());
    let nowhere = daemon.lab.by_user(&nowhere);
    assert_refused(&nowhere, 3, &["no daemon listens at /tmp/no-such-directory/attach.sock", "wharf up"]);
    // A stranger has a container too, but may not ask this daemon.
    let script = format!("sleep 9 & $WHARF attach $! {}; kill $!", daemon.sockets());
    let stranger = format!("setpriv --reuid 1234 --regid 1234 --clear-groups unshare -Urn sh -c '{script}'");
    let stranger = daemon.lab.on_host(&stranger);
    assert_refused(&Finished { status: Some(3), ..stranger }, 3, &["no daemon listens", "Permission denied"]);
    // The daemon is found by each of its names.
    let socket = format!("{}/wharf/api.sock", daemon.home.display());
    for line in
        [format!("$WHARF attach {{}} --socket {socket}"), format!("WHARF_SOCKET={socket} $WHARF attach {{}}")]
    {
        let container = Container::new(&daemon.lab);
        daemon.lab.by_user(&line.replace("{}", &container.pid().to_string())).text();
    }
}

#[test]
fn a_second_daemon_and_a_directory_that_others_own_are_refused() {
    let daemon = Daemon::up(Lab::new(), &fixed_network(1));
    let second = daemon.lab.by_user(&format!("exec $WHARF {}", daemon.up_options()));
    assert_refused(&second, 125, &["runs already", "wharf down"]);
    let others = daemon.home.join("others");
    std::fs::create_dir(&others).unwrap();
    let others = others.display();
    let third =
        daemon.lab.by_user(&format!("exec $WHARF up --runtime-dir {others} --state-dir {others}/state"));
    assert_refused(&third, 125, &["belongs to somebody else"]);
    daemon.attached("--name web");
}

#[test]
fn a_file_that_is_wrong_is_refused_with_its_line() {
    let daemon = Daemon::up(Lab::new(), &fixed_network(1));
    let with = |text: &str| {
        daemon.configure(text);
        let home = daemon.home.display();
        let line =
            format!("exec $WHARF up --config {home}/wharf.toml --runtime-dir {home}/2 --state-dir {home}/s");
        daemon.lab.by_user(&line)
    };
    for (text, reasons) in [
        ("[networks.default]\nipv44 = false", &["line 3", "ipv44"][..]),
        ("[networks.default]\nipv4 = \"10.0.2.5/24\"", &["line 3", "10.0.2.0/24"]),
        ("[networks.default\n", &["line 2"]),
    ] {
        let refused = with(text);
        assert_eq!(refused.status, Some(125), "{refused:?}");
        let path = daemon.home.join("wharf.toml").display().to_string();
        assert!(refused.stderr.contains(&path), "{refused:?}");
        assert!(reasons.iter().all(|reason| refused.stderr.contains(reason)), "{reasons:?}: {refused:?}");
    }
}

#[test]
fn the_daemon_is_confined() {
    let daemon = Daemon::up(Lab::new(), &fixed_network(2));
    let pid = daemon.pid();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let states: Vec<_> =
        tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).unwrap()).collect();
    assert!(states.len() > 2, "it has its workers");
    for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000"] {
        assert!(states.iter().all(|status| status.contains(line)), "{line}");
    }
}
