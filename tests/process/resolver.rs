// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sandbox's resolv.conf stays its own whatever the host does to the one below, and the gateway follows the host's.
//!
//! Each test has an /etc of its own: a directory bound there in a private mount namespace, which the test changes from
//! outside just as a host's programs would.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{ChildStderr, Stdio};
use std::time::{Duration, Instant};

use super::caller::{PATIENCE, Running, outside, scratch, user_command};

struct Host {
    etc: PathBuf,
    run: PathBuf,
}

impl Host {
    fn new(name: &str) -> Self {
        let (etc, run) = (scratch(&format!("{name}/etc")), scratch(&format!("{name}/run")));
        for file in ["passwd", "group", "ld.so.cache"] {
            // Only there for programs that want them.
            drop(fs::copy(format!("/etc/{file}"), etc.join(file)));
        }
        Self { etc, run }
    }

    fn write(&self, server: &str) {
        fs::write(self.etc.join("resolv.conf"), format!("nameserver {server}\n")).unwrap();
    }

    fn replace(&self, server: &str) {
        fs::write(self.etc.join("new"), format!("nameserver {server}\n")).unwrap();
        fs::rename(self.etc.join("new"), self.etc.join("resolv.conf")).unwrap();
    }

    fn start(&self, options: &str) -> Sandbox {
        let script = format!(
            "mount --bind {} /etc && exec $WHARF -v run --cidr 192.0.2.0/24 {options} -- \
             sh -c 'while read line; do cat /etc/resolv.conf; echo end; done'",
            self.etc.display()
        );
        let mut command = user_command("unshare");
        command.args(["-Urm", "sh", "-c", &script]).stderr(Stdio::piped());
        let mut running = Running::start(&mut command);
        let log = BufReader::new(running.child.stderr.take().unwrap());
        Sandbox { running, log }
    }
}

struct Sandbox {
    running: Running,
    log: BufReader<ChildStderr>,
}

impl Sandbox {
    fn resolv_conf(&mut self) -> String {
        self.running.child.stdin.as_mut().unwrap().write_all(b"again\n").unwrap();
        let mut text = String::new();
        loop {
            let line = self.running.line();
            if line == "end" {
                return text;
            }
            text.push_str(&line);
            text.push('\n');
        }
    }

    #[track_caller]
    fn is_ours(&mut self) {
        let end = Instant::now() + PATIENCE;
        loop {
            let text = self.resolv_conf();
            if text.contains("nameserver 192.0.2.3\n") && text.matches("\nnameserver ").count() == 1 {
                return;
            }
            if Instant::now() > end {
                // What wharf has to say ends with it.
                self.running.child.kill().unwrap();
                let mut log = String::new();
                self.log.read_to_string(&mut log).unwrap();
                panic!("resolv.conf never named the gateway: {text}\n{log}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Reads the log up to the line that tells of this server.
    #[track_caller]
    fn gateway_asks(&mut self, server: &str) {
        self.says(&["nameservers changed", server]);
    }

    /// Reads the log up to a line with all these words in it.
    #[track_caller]
    fn says(&mut self, words: &[&str]) {
        let mut seen = String::new();
        while self.log.read_line(&mut seen).unwrap() > 0 {
            let line = seen.lines().last().unwrap_or_default();
            if words.iter().all(|word| line.contains(word)) {
                return;
            }
        }
        panic!("the log never said {words:?}:\n{seen}");
    }
}

#[test]
fn files_replaced_by_rename_are_covered_again_and_followed() {
    let host = Host::new("rename");
    host.write("198.51.100.1");
    let mut sandbox = host.start("");
    sandbox.is_ours();
    for server in ["198.51.100.2", "198.51.100.3", "198.51.100.4"] {
        host.replace(server);
        sandbox.gateway_asks(server);
        sandbox.is_ours();
    }
    assert_eq!(fs::read_to_string(host.etc.join("resolv.conf")).unwrap(), "nameserver 198.51.100.4\n");
}

#[test]
fn a_file_written_in_place_is_followed() {
    let host = Host::new("in-place");
    host.write("198.51.100.1");
    let mut sandbox = host.start("");
    sandbox.is_ours();
    host.write("198.51.100.2");
    sandbox.gateway_asks("198.51.100.2");
    sandbox.is_ours();
}

#[test]
fn the_target_of_a_link_replaced_and_the_link_pointed_elsewhere_are_covered_again() {
    let host = Host::new("link");
    let write = |name: &str, server: &str| {
        fs::write(host.run.join("new"), format!("nameserver {server}\n")).unwrap();
        fs::rename(host.run.join("new"), host.run.join(name)).unwrap();
    };
    write("stub", "198.51.100.1");
    symlink(host.run.join("stub"), host.etc.join("resolv.conf")).unwrap();
    let mut sandbox = host.start("");
    sandbox.is_ours();
    write("stub", "198.51.100.2");
    sandbox.gateway_asks("198.51.100.2");
    sandbox.is_ours();
    write("other", "198.51.100.3");
    symlink(host.run.join("other"), host.etc.join("new")).unwrap();
    fs::rename(host.etc.join("new"), host.etc.join("resolv.conf")).unwrap();
    sandbox.gateway_asks("198.51.100.3");
    sandbox.is_ours();
}

#[test]
fn a_file_removed_and_written_anew_is_covered_again() {
    let host = Host::new("removed");
    host.write("198.51.100.1");
    let mut sandbox = host.start("");
    sandbox.is_ours();
    fs::remove_file(host.etc.join("resolv.conf")).unwrap();
    host.write("198.51.100.2");
    sandbox.gateway_asks("198.51.100.2");
    sandbox.is_ours();
}

#[test]
fn a_file_removed_for_good_leaves_the_sandbox_its_own() {
    let host = Host::new("gone");
    host.write("198.51.100.1");
    let mut sandbox = host.start("");
    sandbox.is_ours();
    fs::remove_file(host.etc.join("resolv.conf")).unwrap();
    sandbox.is_ours();
    assert!(!host.etc.join("resolv.conf").exists());
}

#[test]
fn a_missing_file_and_a_dangling_link_are_covered_from_the_start() {
    let host = Host::new("missing");
    host.start("").is_ours();
    assert!(!host.etc.join("resolv.conf").exists());
    symlink(host.run.join("no/such/file"), host.etc.join("resolv.conf")).unwrap();
    host.start("").is_ours();
    assert_eq!(fs::read_dir(&host.run).unwrap().count(), 0);
}

/// The gateway may read only where the file can be expected: whoever leads it elsewhere must hear of it.
#[test]
fn a_link_to_where_the_gateway_may_not_read_is_told() {
    let host = Host::new("elsewhere");
    host.write("198.51.100.1");
    let mut sandbox = host.start("");
    sandbox.is_ours();
    fs::write(host.run.join("resolv.conf"), "nameserver 198.51.100.2\n").unwrap();
    symlink(host.run.join("resolv.conf"), host.etc.join("new")).unwrap();
    fs::rename(host.etc.join("new"), host.etc.join("resolv.conf")).unwrap();
    sandbox.says(&["cannot read /etc/resolv.conf", "its nameservers stay"]);
    sandbox.is_ours();
}

#[test]
fn a_fifo_in_the_files_place_keeps_nobody_waiting() {
    let host = Host::new("fifo");
    let made = outside(&format!("mkfifo {}", host.etc.join("resolv.conf").display()));
    assert_eq!(made.status, Some(0), "{made:?}");
    let mut sandbox = host.start("");
    sandbox.says(&["cannot read /etc/resolv.conf", "no regular file"]);
    sandbox.is_ours();
}

#[test]
fn search_list_and_options_are_the_hosts_unless_given() {
    let host = Host::new("search");
    fs::write(host.etc.join("resolv.conf"), "search a.example b.example\noptions ndots:3\n").unwrap();
    let text = host.start("").resolv_conf();
    assert!(text.contains("\nsearch a.example b.example\noptions ndots:3\n"), "{text}");
    let text = host.start("--search c.example").resolv_conf();
    assert!(text.contains("\nsearch c.example\n"), "{text}");
}
