// SPDX-License-Identifier: MIT OR Apache-2.0
//! When it is ready, and when it ends.

use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;

use super::caller::{eventually, is_alive, kill, user_command};
use super::gateway::{BOTH, Gateway, Program, Target};
use super::interface::MAKE;

#[test]
fn it_is_ready_when_the_interface_is_and_ends_when_the_exit_descriptor_does() {
    for program in BOTH {
        let target = Target::new();
        let mut gateway = Gateway::start(program, &["-c"], &target);
        assert!(target.inside("ip addr show tap0").text().contains("10.0.2.100/24"));
        // Data is no end.
        gateway.child.stdin.as_mut().unwrap().write_all(b"data").unwrap();
        target.inside("ping -c1 -W5 10.0.2.2").text();
        let (status, log) = gateway.end();
        assert_eq!(status.code(), Some(0), "{program:?} {log}");
        assert!(log.contains("sent tapfd=") && log.contains("received tapfd="), "{program:?} {log}");
    }
}

#[test]
fn an_exit_descriptor_that_nobody_opened_is_an_end() {
    let target = Target::new();
    let args = ["-c", "-e", "1010", "-r", "1011", &target.pid(), "tap0", "10/dev/fd/63"];
    let finished = Program::Ours.run(&args);
    assert_eq!(finished.status, Some(0), "{finished:?}");
    assert!(finished.stdout.contains("too many arguments"), "{finished:?}");
}

#[test]
fn a_ready_descriptor_that_nobody_opened_is_no_matter() {
    let target = Target::new();
    let finished = Program::Ours.run(&["-c", "-r", "77", "-e", "77", &target.pid(), "tap0"]);
    assert_eq!(finished.status, Some(0), "{finished:?}");
}

#[test]
fn the_process_that_was_started_is_the_one_that_a_signal_ends() {
    let target = Target::new();
    let mut child = {
        let mut command = user_command(Program::Ours.path());
        command.args(["-c", &target.pid(), "tap0"]).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    eventually("the interface is up", || target.inside("ping -c1 -W1 10.0.2.2").status == Some(0));
    let pid = i32::try_from(child.id()).unwrap();
    assert!(is_alive(pid));
    kill(pid, 15);
    assert_eq!(child.wait().unwrap().signal(), Some(15));
}

const HUP: i32 = 1;
const INT: i32 = 2;
const TERM: i32 = 15;

#[test]
fn signals_do_what_they_do_by_default() {
    for program in BOTH {
        for signal in [HUP, INT, TERM] {
            let target = Target::new();
            let gateway = Gateway::start(program, &["-c"], &target);
            assert_eq!(gateway.end_by(signal).signal(), Some(signal), "{program:?}");
        }
    }
}

#[test]
fn signals_that_the_caller_ignores_are_no_end() {
    for program in BOTH {
        let target = Target::new();
        let mut command = user_command("timeout");
        command.args(["--foreground", "120", "sh", "-c", "trap '' HUP INT; exec \"$@\"", "sh"]);
        command.arg(program.path()).args(["-e", "0", "-r", "1", "-c", &target.pid(), "tap0"]);
        let gateway = Gateway::start_command(&mut command);
        kill(gateway.pid(), HUP);
        kill(gateway.pid(), INT);
        target.inside("ping -c1 -W5 10.0.2.2").text();
        assert_eq!(gateway.end_by(TERM).signal(), Some(TERM), "{program:?}");
    }
}

/// Reads what a TCP client sends by the interface, without virtio-net headers, and answers its SYN.
const PLAIN_READER: &str = r#"
import fcntl, os, socket, struct

def sum16(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2 + 1), data + bytes(2 - len(data) % 2)))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return total

def pseudo(ip): return ip[12:20] + struct.pack("!HH", 6, len(ip) - 20)

tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454ca, struct.pack("16sH22x", b"tap0", 0x0002 | 0x1000))
client = socket.socket()
client.setblocking(False)
client.connect_ex(("10.0.2.2", 9))

def segment():
    while True:
        frame = os.read(tap, 70000)
        if frame[12:14] == b"\x08\x00" and frame[23] == 6:
            ip = frame[14:14 + int.from_bytes(frame[16:18], "big")]
            assert len(frame) <= 1514, "a super-frame"
            assert sum16(pseudo(ip) + ip[20:]) == 0xffff, "an unfinished checksum"
            return frame[:14], ip

ether, ip = segment()
ports, number = ip[22:24] + ip[20:22], int.from_bytes(ip[24:28], "big")
tcp = bytearray(ports + struct.pack("!IIHHHH", 1, number + 1 & 0xffffffff, 0x5012, 65535, 0, 0))
answer = bytearray(struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, 6, 0) + ip[16:20] + ip[12:16])
answer[10:12] = struct.pack("!H", 0xffff ^ sum16(answer))
tcp[16:18] = struct.pack("!H", 0xffff ^ sum16(pseudo(answer + tcp) + tcp))
os.write(tap, ether[6:12] + ether[:6] + ether[12:] + answer + tcp)
segment()
client.send(bytes(5000))
received = 0
while received < 5000: received += len(segment()[1]) - 40
print("whole")
"#;

/// The interface's address and its neighbour's were set before.
fn assert_is_read_plainly(target: &Target, context: &str) {
    let neighbor = "ip neigh replace 10.0.2.2 lladdr 52:55:0a:00:02:02 nud permanent dev tap0";
    let read = target.inside(&format!("{neighbor}; python3 -c '{PLAIN_READER}'"));
    assert_eq!(read.stdout, "whole\n", "{context} {read:?}");
}

/// A device keeps what was offered to it, and whoever reads it next may not know.
#[test]
fn an_interface_that_outlives_the_gateway_can_be_read_plainly_after_a_signal() {
    for confined in [&["-c"][..], &["-c", "--enable-sandbox", "--enable-seccomp"]] {
        for signal in [HUP, INT, TERM] {
            let target = Target::new();
            target.inside(MAKE).text();
            let gateway = Gateway::start(Program::Ours, confined, &target);
            assert_eq!(gateway.end_by(signal).signal(), Some(signal), "{confined:?}");
            assert_is_read_plainly(&target, &format!("{confined:?} {signal}"));
        }
    }
}

/// Opens the interface for the gateway and ends that by SIGTERM.
const LEND_TAP: &str = r#"
import fcntl, os, struct, subprocess, sys
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454ca, struct.pack("16sH22x", b"tap0", 0x0002 | 0x1000 | 0x4000))
args = [sys.argv[1], "--netns-type=tapfd", "-r", "1", str(tap)]
gateway = subprocess.Popen(args, pass_fds=[tap], stdout=subprocess.PIPE)
assert gateway.stdout.read(1) == b"1"
subprocess.run(["ping", "-c1", "-W5", "10.0.2.2"], check=True)
gateway.terminate()
sys.exit(gateway.wait() != -15)
"#;

#[test]
fn an_open_tap_can_be_read_plainly_after_a_signal() {
    let target = Target::new();
    target.inside(&format!("{MAKE}; ip addr add 10.0.2.100/24 dev tap0")).text();
    target.inside(&format!("python3 -c '{LEND_TAP}' {}", Program::Ours.path().display())).text();
    assert_is_read_plainly(&target, "tapfd");
}

#[test]
fn it_outlives_its_target() {
    let target = Target::new();
    let gateway = Gateway::start(Program::Ours, &["-c"], &target);
    let pid = gateway.pid();
    drop(target);
    assert!(is_alive(pid));
    assert_eq!(gateway.end().0.code(), Some(0));
}

#[test]
fn it_works_on_when_nobody_hears_what_it_says() {
    let target = Target::new();
    let mut command = user_command("sh");
    command.args(["-c", "exec \"$@\" 2>/dev/full", "sh"]).arg(Program::Ours.path());
    command.args(["-e", "0", "-r", "1", "-c", &target.pid(), "tap0"]);
    let gateway = Gateway::start_command(&mut command);
    target.inside("ping -c1 -W5 10.0.2.2").text();
    assert_eq!(gateway.end().0.code(), Some(0));
}

#[test]
fn nothing_but_the_word_comes_to_the_ready_descriptor() {
    let target = Target::new();
    let mut command = user_command(Program::Ours.path());
    command.args(["--enable-ipv6", "-e", "0", "-r", "1", "-c", &target.pid(), "tap0", "too", "many"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "1");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}
