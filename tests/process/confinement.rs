// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the gateway process has given up, and what becomes of it when it tries nevertheless.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use wharf::sandbox::Files;

use super::caller::{Running, binary, is_root, scratch, wharf_run};

const SIGSYS: i32 = 31;

/// A field of `/proc/PID/task/TID/status` of every thread.
fn fields(pid: i32, name: &str) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads
        .map(|thread| {
            let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
            line.unwrap_or_else(|| panic!("{name} in {status}")).to_owned()
        })
        .collect()
}

fn all(pid: i32, name: &str, expected: &str) {
    let found = fields(pid, name);
    // The main thread and a worker.
    assert!(found.len() >= 2, "{found:?}");
    assert!(found.iter().all(|value| value == expected), "{name}: {found:?}");
}

const NONE: &str = "0000000000000000";

#[test]
fn every_thread_of_the_gateway_is_without_privileges_and_filtered() {
    let mut running =
        Running::start(&mut wharf_run(&["--workers", "2", "--", "sh", "-c", "echo up; read x"]));
    assert_eq!(running.line(), "up");
    for (name, value) in [("NoNewPrivs", "1"), ("Seccomp", "2"), ("CapEff", NONE), ("CapPrm", NONE)] {
        all(running.pid(), name, value);
    }
    assert_eq!(running.finish().0, Some(1));
}

#[test]
fn the_gateway_of_root_keeps_no_capability() {
    if !is_root() {
        return;
    }
    let mut command = Command::new(binary());
    let mut running = Running::start(command.args(["run", "--", "sh", "-c", "echo up; read x"]));
    assert_eq!(running.line(), "up");
    for name in ["CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"] {
        all(running.pid(), name, NONE);
    }
    assert_eq!(running.finish().0, Some(1));
}

#[test]
fn no_sandbox_leaves_the_gateway_as_it_is() {
    let mut running = Running::start(&mut wharf_run(&["--no-sandbox", "--", "sh", "-c", "echo up; read x"]));
    assert_eq!(running.line(), "up");
    all(running.pid(), "Seccomp", "0");
    all(running.pid(), "NoNewPrivs", "0");
    assert_eq!(running.finish().0, Some(1));
}

#[test]
fn the_command_is_not_confined_with_the_gateway() {
    let script = "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status";
    assert_eq!(super::caller::inside(&[], script).text(), "NoNewPrivs:\t0\nSeccomp:\t0\n");
}

/// What a confined process may try.
const DEEDS: [(&str, fn()); 10] = [
    ("execute", || drop(Command::new("true").status())),
    ("write", || drop(fs::File::create("/tmp/wharf-must-not-exist"))),
    ("unix socket", || drop(std::os::unix::net::UnixDatagram::unbound())),
    ("packet socket", || {
        use rustix::net::{AddressFamily, SocketType};
        drop(rustix::net::socket(AddressFamily::PACKET, SocketType::DGRAM, None));
    }),
    ("signal", || {
        // Continuing what is not stopped would do nothing.
        let _ = rustix::process::kill_process(rustix::process::getppid().unwrap(), Signal::CONT);
    }),
    ("namespace", || drop(wharf::sys::process::new_network_namespace())),
    ("mount", || {
        let _ = rustix::mount::unmount("/nonexistent", rustix::mount::UnmountFlags::DETACH);
    }),
    ("host socket", || drop(UnixStream::connect(std::env::var("AT").unwrap()).unwrap())),
    ("read", files_outside_etc_cannot_be_read),
    ("work", everything_the_gateway_does_works),
];

fn files_outside_etc_cannot_be_read() {
    for path in ["/proc/self/maps", "/usr/bin/env", "/"] {
        assert_eq!(fs::File::open(path).unwrap_err().kind(), ErrorKind::PermissionDenied, "{path}");
    }
    assert!(!fs::read("/etc/passwd").unwrap().is_empty());
}

fn everything_the_gateway_does_works() {
    // A panic, its message and its backtrace end nothing but the thread.
    let thread = std::thread::Builder::new().name("worker".to_owned()).spawn(|| {
        let block = vec![1_u8; 64 << 20];
        std::thread::sleep(Duration::from_millis(1));
        assert!(block.is_empty(), "on purpose");
    });
    assert!(thread.unwrap().join().is_err());
    // Whoever listens is not among those who do.
    let nobody = TcpStream::connect("127.0.0.1:1").unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::ConnectionRefused);
}

/// The process that [`deed`] starts: it is confined as the gateway is, and tries.
#[test]
#[ignore = "a part of other tests, which start it"]
fn confined() {
    let name = std::env::var("DEED").unwrap();
    let (_, deed) = DEEDS.iter().find(|(deed, _)| *deed == name).unwrap();
    let init = Pid::from_raw(rustix::process::getpid().as_raw_pid() + 1).unwrap();
    let at = PathBuf::from(std::env::var("AT").unwrap());
    let (readable, connectable) = ([PathBuf::from("/etc")], at.parent().map(PathBuf::from));
    let files = Files { readable: &readable, connectable: connectable.as_slice(), ..Files::default() };
    wharf::sandbox::confine(init, files);
    deed();
}

fn deed(name: &str) -> ExitStatus {
    deed_at(name, "")
}

fn deed_at(name: &str, path: &str) -> ExitStatus {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "confinement::confined", "--ignored", "--test-threads=1"]);
    command.env("DEED", name).env("AT", path).env("RUST_BACKTRACE", "1").status().unwrap()
}

#[test]
fn what_a_gateway_never_does_kills_the_process_that_tries() {
    for name in ["execute", "write", "unix socket", "packet socket", "signal", "namespace", "mount"] {
        assert_eq!(deed(name).signal(), Some(SIGSYS), "{name}");
    }
    assert!(!fs::exists("/tmp/wharf-must-not-exist").unwrap());
}

#[test]
fn a_confined_process_reads_no_file_but_those_of_etc() {
    assert!(deed("read").success());
}

#[test]
fn a_gateway_that_leads_to_sockets_of_the_host_connects_to_them() {
    let path = scratch("host-socket").join("socket").display().to_string();
    let listener = UnixListener::bind(&path).unwrap();
    assert!(deed_at("host socket", &path).success());
    listener.accept().unwrap();
}

#[test]
fn a_confined_process_goes_on_after_the_panic_of_a_thread() {
    assert!(deed("work").success());
}
