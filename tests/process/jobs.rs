// SPDX-License-Identifier: MIT OR Apache-2.0
//! Job control: a terminal, a shell outside, a shell inside, and the keys that people press.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::caller::{Running, eventually, is_alive, kill, tree, user_command, wharf_run};

/// A command that says when it is there and when it is continued. It has no children: a shell that is stopped while it
/// starts one is stuck in vfork, with or without wharf. Its sleeps are short, since a signal that comes just before one
/// begins is handled after it.
const SLEEPER: &str = "python3 -c 'import signal, time
signal.signal(signal.SIGCONT, lambda *_: print(\"resu\" + \"med\", flush=True))
print(\"up\", flush=True)
while True: time.sleep(0.2)'";

const CTRL_C: &str = "\x03";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

const CTRL_D: &str = "\x04";
const CTRL_Z: &str = "\x1a";

/// A terminal with an interactive bash in it.
struct Terminal {
    keys: File,
    screen: Receiver<Vec<u8>>,
    seen: String,
    shell: Child,
}

impl Terminal {
    fn open() -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
        // The user opens it as its own: /dev/tty is opened with the user's rights.
        let mut line = user_command("setsid");
        // Whoever runs the tests may ignore the signals that a terminal sends, as `nohup` and a shell's `&` do.
        line.args(["--ctty", "--wait", "env", "--default-signal", "bash", "--norc", "--noprofile", "-i"]);
        let other = || Stdio::from(File::options().read(true).write(true).open(&name).unwrap());
        line.stdin(other()).stdout(other()).stderr(other()).env_remove("PS1").env("TERM", "dumb");
        let shell = line.spawn().unwrap();
        let keys = File::from(terminal);
        let mut reader = keys.try_clone().unwrap();
        let (sender, screen) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        let mut this = Self { keys, screen, seen: String::new(), shell };
        // What is typed would else be seen before it is answered.
        this.types("stty -echo\n");
        this.does("PS1='OUT''> '", "OUT> ");
        this
    }

    fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the screen shows `text`; what came before it is forgotten.
    #[track_caller]
    fn shows(&mut self, text: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("the terminal never showed {text:?}, but {:?}", self.seen),
            }
        }
    }

    #[track_caller]
    fn does(&mut self, line: &str, answer: &str) {
        self.types(&format!("{line}\n"));
        self.shows(answer);
    }
}

impl Terminal {
    /// Continues the stopped [`SLEEPER`] in the foreground and interrupts it there.
    #[track_caller]
    fn fg(&mut self, prompt: &str) {
        // It speaks when it is continued, which the shell does after it gave it the terminal.
        self.does("fg", "resumed");
        self.types(CTRL_C);
        self.shows(prompt);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.shell.kill());
        drop(self.shell.wait());
    }
}

#[test]
fn a_shell_inside_has_job_control() {
    let mut terminal = Terminal::open();
    terminal.does("$WHARF run -- bash --norc --noprofile", "# ");
    terminal.does("PS1='IN''> '; echo pid=$$", "pid=2");
    terminal.shows("IN> ");
    terminal.does(SLEEPER, "up");
    terminal.types(CTRL_Z);
    terminal.shows("Stopped");
    terminal.shows("IN> ");
    terminal.does("jobs", "Stopped");
    terminal.shows("IN> ");
    terminal.fg("IN> ");
    terminal.does("echo rc=$?", "rc=130");
    terminal.does("exit 7", "OUT> ");
    terminal.does("echo rc=$?", "rc=7");
}

#[test]
fn a_stopped_shell_inside_is_a_stopped_job_outside_and_comes_back_with_the_terminal() {
    let mut terminal = Terminal::open();
    terminal.does("$WHARF run -- bash --norc --noprofile", "# ");
    terminal.does("PS1='IN''> '", "IN> ");
    terminal.does("suspend", "Stopped");
    terminal.shows("OUT> ");
    terminal.does("echo back''outside", "backoutside");
    terminal.does("fg", "bash --norc");
    terminal.does("echo pid=$$", "pid=2");
    terminal.does("exit 4", "OUT> ");
    terminal.does("echo rc=$?", "rc=4");
}

#[test]
fn keys_reach_a_plain_command_and_stop_wharf_with_it() {
    let mut terminal = Terminal::open();
    terminal.does(&format!("$WHARF run -- {SLEEPER}"), "up");
    terminal.types(CTRL_Z);
    terminal.shows("Stopped");
    terminal.shows("OUT> ");
    terminal.does("ps -o stat= -p $(jobs -p) | cut -c1", "T");
    terminal.shows("OUT> ");
    terminal.fg("OUT> ");
    terminal.does("echo rc=$?", "rc=130");
}

#[test]
fn a_stopped_command_goes_on_in_the_background() {
    let mut terminal = Terminal::open();
    let command = "import time; print(\"up\", flush=True); time.sleep(1); print(\"do\" + \"ne\")";
    terminal.does(&format!("$WHARF run -- python3 -c '{command}'"), "up");
    terminal.types(CTRL_Z);
    terminal.shows("Stopped");
    terminal.shows("OUT> ");
    terminal.does("bg", "done");
    terminal.does("wait; jobs; echo end''.", "end.");
}

#[test]
fn a_background_command_that_reads_the_terminal_stops_and_reads_in_the_foreground() {
    let mut terminal = Terminal::open();
    terminal.does("$WHARF run -- sh -c 'read x; echo got $x' &", "OUT> ");
    terminal.does("until jobs | grep -q Stopped; do sleep 0.1; done; echo stop''ped", "stopped");
    terminal.does("fg", "read x");
    terminal.does("hello", "got hello");
}

#[test]
fn a_pipeline_is_one_job() {
    let mut terminal = Terminal::open();
    terminal.does(&format!("$WHARF run -- {SLEEPER} | cat"), "up");
    terminal.types(CTRL_Z);
    terminal.shows("Stopped");
    terminal.shows("OUT> ");
    terminal.fg("OUT> ");
    terminal.does("echo rc=${PIPESTATUS[0]}", "rc=130");
}

#[test]
fn the_foreground_is_given_back_after_a_shell_inside_took_it() {
    let mut terminal = Terminal::open();
    terminal.does("sh -c '$WHARF run -- bash --norc --noprofile -i; read x; echo got $x'", "# ");
    terminal.types(CTRL_D);
    terminal.does("hello", "got hello");
}

#[test]
fn a_terminal_whose_session_ends_ends_what_runs_in_it() {
    let mut terminal = Terminal::open();
    terminal.does(&format!("$WHARF run -- {SLEEPER}"), "up");
    let family = tree(i32::try_from(terminal.shell.id()).unwrap());
    let is_bash = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() == "bash\n";
    let leader = *family.iter().find(|pid| is_bash(pid)).unwrap();
    let below = tree(leader);
    assert_eq!(below.len(), 4, "bash, wharf, init and the command: {below:?}");
    // The kernel then hangs the terminal up for the foreground group.
    kill(leader, 9);
    for pid in below {
        eventually("everything on the terminal is gone", || !is_alive(pid));
    }
}

#[test]
fn wharf_works_without_any_terminal() {
    let mut command = user_command("setsid");
    command.args(["--wait", super::caller::binary().to_str().unwrap(), "run", "--", "sh", "-c", "echo fine"]);
    assert_eq!(super::caller::finish(&mut command).text(), "fine\n");
}

#[test]
fn a_command_stopped_and_continued_by_signals_goes_on() {
    let mut running =
        Running::start(&mut wharf_run(&["--", "sh", "-c", "echo up; kill -STOP $$; echo on; read x"]));
    assert_eq!(running.line(), "up");
    let stat = format!("/proc/{}/stat", running.pid());
    eventually("wharf stops itself", || {
        std::fs::read_to_string(&stat)
            .unwrap()
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('T'))
    });
    running.signal(18);
    assert_eq!(running.line(), "on");
    assert_eq!(running.finish().0, Some(1));
}
