// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exit statuses, signals, and the standard streams.

use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;

use super::caller::{
    Running, binary, eventually, finish, inside, kill, outside, scratch, user_command, wharf_run,
};

#[test]
fn status_is_the_commands_own() {
    for status in [0, 1, 42, 255] {
        assert_eq!(inside(&[], &format!("exit {status}")).status, Some(status));
    }
}

#[test]
fn a_signal_that_ends_the_command_is_128_and_its_number() {
    for (name, status) in [("TERM", 143), ("KILL", 137), ("SEGV", 139)] {
        assert_eq!(inside(&[], &format!("kill -{name} $$")).status, Some(status));
    }
}

#[test]
fn a_command_that_is_not_found_is_127_and_one_that_cannot_be_executed_126() {
    for (command, status) in [("/no/such/program", 127), ("no-such-program", 127), ("/etc/passwd", 126)] {
        let finished = finish(&mut wharf_run(&["--", command]));
        assert_eq!(finished.status, Some(status), "{finished:?}");
        assert!(finished.stderr.contains(command), "{finished:?}");
    }
}

#[test]
fn a_name_in_a_path_that_may_not_be_searched_is_still_not_found() {
    let finished = outside("PATH=/root/no:$PATH $WHARF run -- no-such-program");
    assert_eq!(finished.status, Some(127), "{finished:?}");
}

#[test]
fn failures_of_wharf_itself_are_125_and_say_what_to_do() {
    let cases: [(&[&str], &str); 6] = [
        (&["--mtu", "100"], "576"),
        (&["--mtu", "1000"], "--ipv4-only"),
        (&["--cidr", "10.0.2.1/24"], "did you mean 10.0.2.0/24"),
        (&["--ipv4-only", "--ipv6-only"], "cannot be used with"),
        (&["--map-root", "--keep-uid"], "cannot be used with"),
        (&["--no-such-option"], "unexpected argument"),
    ];
    for (args, words) in cases {
        let finished = finish(wharf_run(args).arg("true"));
        assert_eq!(finished.status, Some(125), "{args:?}: {finished:?}");
        assert!(finished.stderr.contains(words), "{args:?}: {finished:?}");
        assert_eq!(finished.stdout, "");
    }
}

#[test]
fn help_that_cannot_be_written_is_a_failure_and_a_reader_that_has_seen_enough_is_none() {
    for what in ["--help", "run --help", "--version", "man", "completions bash"] {
        let full = outside(&format!("$WHARF {what} >/dev/full"));
        assert_eq!(full.status, Some(125), "{what}: {full:?}");
        assert!(full.stderr.contains("No space left on device"), "{what}: {full:?}");
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let read = user_command(binary()).args(["run", "--help"]).stdout(writer).output().unwrap();
    assert_eq!((read.status.code(), read.stderr), (Some(0), Vec::new()));
}

#[test]
fn without_a_command_the_users_shell_reads_standard_input() {
    let mut running = Running::start(&mut wharf_run(&[]));
    running.child.stdin.take().unwrap().write_all(b"echo from-$$\nexit 3\n").unwrap();
    assert_eq!(running.finish(), (Some(3), vec!["from-2".to_owned()]));
}

#[test]
fn standard_streams_carry_every_byte_both_ways() {
    let sent: Vec<u8> = (0..1_u32 << 20).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let mut child = wharf_run(&["--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut received = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            stdin.write_all(&sent).unwrap();
            drop(stdin);
        });
        stdout.read_to_end(&mut received).unwrap();
    });
    assert!(child.wait().unwrap().success());
    assert!(sent == received, "{} bytes sent, {} received", sent.len(), received.len());
}

#[test]
fn standard_output_and_error_are_the_callers_own_files() {
    let directory = scratch("streams");
    let script =
        format!("cd {} && $WHARF run -- sh -c 'echo out; echo err >&2' >out 2>err", directory.display());
    outside(&script).text();
    assert_eq!(std::fs::read_to_string(directory.join("out")).unwrap(), "out\n");
    assert_eq!(std::fs::read_to_string(directory.join("err")).unwrap(), "err\n");
}

/// Counts TERM, HUP, USR1, INT, QUIT and a real-time signal until it is told to end by its input.
const COUNTER: &str = "import signal, sys
count = {}
def got(number, frame):
    count[number] = count.get(number, 0) + 1
    print('got', number, count[number], flush=True)
for number in (1, 2, 3, 10, 15, 40):
    signal.signal(number, got)
print('ready', flush=True)
sys.stdin.read()
";

fn counter() -> Running {
    let mut command = wharf_run(&["--", "python3", "-c", COUNTER]);
    command.process_group(0);
    let mut running = Running::start(&mut command);
    assert_eq!(running.line(), "ready");
    running
}

#[test]
fn a_signal_sent_to_wharf_reaches_the_command() {
    let mut running = counter();
    for signal in [15, 1, 10, 2, 3, 40, 15] {
        let before = if signal == 15 { 1 } else { 0 };
        running.signal(signal);
        let line = running.line();
        assert!(line.starts_with(&format!("got {signal} ")), "{line} after {before}");
    }
    assert_eq!(running.finish().0, Some(0));
}

#[test]
fn a_signal_sent_to_the_whole_group_reaches_the_command_once() {
    let mut running = counter();
    let group = running.pid();
    kill(-group, 15);
    assert_eq!(running.line(), "got 15 1");
    // By the time the next one has come through wharf, a duplicate of the first would have come before it.
    running.signal(10);
    assert_eq!(running.line(), "got 10 1");
    let (status, rest) = running.finish();
    assert_eq!((status, rest), (Some(0), Vec::<String>::new()));
}

#[test]
fn wharf_outlives_interrupts_that_the_command_survives() {
    let mut running = counter();
    let group = running.pid();
    kill(-group, 2);
    assert_eq!(running.line(), "got 2 1");
    kill(-group, 3);
    assert_eq!(running.line(), "got 3 1");
    assert_eq!(running.finish().0, Some(0));
}

#[test]
fn what_still_runs_inside_ends_with_the_command() {
    let mut running = Running::start(&mut wharf_run(&[
        "--",
        "sh",
        "-c",
        "setsid sleep 1000 & sleep 1001 & echo up; read x; exit 0",
    ]));
    assert_eq!(running.line(), "up");
    let pids = super::caller::tree(running.pid());
    eventually("both sleepers run", || super::caller::tree(running.pid()).len() >= 5);
    let pids = [pids, super::caller::tree(running.pid())].concat();
    assert_eq!(running.finish().0, Some(0));
    for pid in pids {
        eventually("every process of the sandbox is gone", || !super::caller::is_alive(pid));
    }
}

#[test]
fn a_status_is_not_lost_when_nobody_hears_what_wharf_says() {
    let finished = outside("$WHARF run -v -p 0:80 -- sh -c 'sleep 0.2; exit 3' 2>/dev/full");
    assert_eq!(finished.status, Some(3), "{finished:?}");
    let finished = outside(
        "exec 3>&1; { $WHARF run -v -p 0:80 -- sh -c 'sleep 0.2; exit 3'; echo $? >&3; } 2>&1 >/dev/null | true",
    );
    assert_eq!(finished.stdout, "3\n", "{finished:?}");
}
