// SPDX-License-Identifier: MIT OR Apache-2.0
//! A small internet for one test: a host that wharf runs on, and a server behind it, each a network namespace.
//!
//! ```text
//! sandbox -- wharf (host namespace) -- 203.0.113.0/24, 2001:db8:1::/64 -- server namespace
//!                                                                         also 198.51.100.1, 2001:db8:2::1
//! ```
//!
//! [`Lab::add_far_end`] makes the server a router to a third namespace with 192.0.2.1 and 2001:db8:3::1.

use std::fs;
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::scratch::Scratch;

/// The user that wharf is run by.
pub(crate) const NOBODY: &str = "65534";
/// How long a command in a sandbox may take.
const TOO_LONG: Duration = Duration::from_secs(300);
/// How long anything else may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The namespaces and what runs in them. All of it is gone when this is dropped.
pub(crate) struct Lab {
    host: String,
    server: String,
    far: Option<String>,
    children: Vec<Child>,
}

/// What is left of a command.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    #[allow(dead_code, reason = "shown when a test fails")]
    pub(crate) stderr: String,
}

impl Finished {
    /// Standard output of a success.
    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        assert_eq!(self.status, Some(0), "{self:#?}");
        &self.stdout
    }
}

/// Runs a command line as root and insists on its success.
#[track_caller]
pub(crate) fn root(line: &str) {
    let output = Command::new("sh").args(["-ec", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn run(mut command: Command) -> Finished {
    let output = command.stdin(Stdio::null()).output().unwrap();
    Finished {
        status: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// What the tests use besides the programs of the machine.
const SCRIPTS: [(&str, &str); 10] = [
    ("datagrams.py", include_str!("datagrams.py")),
    ("frames.py", include_str!("frames.py")),
    ("multicast.py", include_str!("multicast.py")),
    ("flow.py", include_str!("flow.py")),
    ("machine.py", include_str!("machine.py")),
    ("ports.py", include_str!("ports.py")),
    ("server.py", include_str!("server.py")),
    ("git_server.py", include_str!("git_server.py")),
    ("lease.sh", include_str!("lease.sh")),
    ("probe.py", include_str!("probe.py")),
];

/// For [`Lab::inside_after`]: few descriptors, none of which whoever started the tests has left open.
pub(crate) const FEW_DESCRIPTORS: &str =
    "for fd in /proc/self/fd/*; do fd=${fd##*/}; [ $fd -lt 3 ] || eval \"exec $fd>&-\"; done; ulimit -n 48";

/// A directory that the ordinary user can read, with a copy of the binary under test.
pub(crate) fn scratch() -> &'static Path {
    static SCRATCH: OnceLock<Scratch> = OnceLock::new();
    SCRATCH.get_or_init(|| {
        let path = Scratch::open_to_all().until_exit();
        fs::copy(env!("CARGO_BIN_EXE_wharf"), path.join("wharf")).unwrap();
        for (name, text) in SCRIPTS {
            fs::write(path.join(name), text).unwrap();
            fs::set_permissions(path.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        path
    })
}

/// The path of a file of the tests, for the scripts that use it.
pub(crate) fn script(name: &str) -> String {
    scratch().join(name).display().to_string()
}

impl Lab {
    /// Makes the namespaces. The host's resolver is a server that does not exist until a test starts one.
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        assert!(
            rustix::process::geteuid().is_root(),
            "end-to-end tests make network namespaces: run them as root"
        );
        let id = format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let (host, server) = (format!("wh{id}"), format!("ws{id}"));
        for name in [&host, &server] {
            root(&format!(
                "ip netns add {name}
                 ip -n {name} link set lo up
                 ip netns exec {name} sysctl -qw net.ipv4.ping_group_range='0 2147483647'"
            ));
        }
        root(&format!(
            "ip -n {host} link add out0 type veth peer name in0 netns {server}
             ip -n {host} addr add 203.0.113.1/24 dev out0
             ip -n {host} addr add 2001:db8:1::1/64 dev out0 nodad
             ip -n {server} addr add 203.0.113.2/24 dev in0
             ip -n {server} addr add 198.51.100.1/32 dev in0
             ip -n {server} addr add 2001:db8:1::2/64 dev in0 nodad
             ip -n {server} addr add 2001:db8:2::1/128 dev in0 nodad
             ip -n {host} link set out0 up
             ip -n {server} link set in0 up
             ip -n {host} route add default via 203.0.113.2
             ip -n {host} route add default via 2001:db8:1::2
             ip -n {server} route add default via 203.0.113.1
             mkdir -p /etc/netns/{host}
             echo 'nameserver 203.0.113.2' > /etc/netns/{host}/resolv.conf"
        ));
        Self { host, server, far: None, children: Vec::new() }
    }

    /// Another namespace behind the server, at the end of a link whose MTU is `mtu`.
    pub(crate) fn add_far_end(&mut self, mtu: u32) {
        let (server, far) = (&self.server, format!("{}f", self.server));
        root(&format!(
            "ip netns add {far}
             ip -n {far} link set lo up
             ip netns exec {server} sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
             ip -n {server} link add out0 mtu {mtu} type veth peer name in0 mtu {mtu} netns {far}
             ip -n {server} addr add 192.0.2.254/24 dev out0
             ip -n {server} addr add 2001:db8:3::ff/64 dev out0 nodad
             ip -n {far} addr add 192.0.2.1/24 dev in0
             ip -n {far} addr add 2001:db8:3::1/64 dev in0 nodad
             ip -n {server} link set out0 up
             ip -n {far} link set in0 up
             ip -n {far} route add default via 192.0.2.254
             ip -n {far} route add default via 2001:db8:3::ff"
        ));
        self.far = Some(far);
    }

    /// Writes a file of the host's `/etc`, which everything that runs there sees in the machine's place.
    pub(crate) fn set_etc(&self, name: &str, text: &str) {
        fs::write(Path::new("/etc/netns").join(&self.host).join(name), text).unwrap();
    }

    /// Gives the user subordinate ids, as distributions give every user.
    #[allow(dead_code, reason = "for tests that change user ids")]
    pub(crate) fn give_subordinate_ids(&self) {
        for name in ["subuid", "subgid"] {
            self.set_etc(name, &format!("{NOBODY}:100000:65536\n"));
        }
    }

    /// `wharf run OPTIONS -- sh -c SCRIPT` by an ordinary user on the host.
    pub(crate) fn inside(&self, options: &[&str], script: &str) -> Finished {
        self.inside_after(":", options, script)
    }

    /// [`Lab::inside`], in a mount namespace of its own that root has changed by a shell script.
    pub(crate) fn inside_after(&self, changes: &str, options: &[&str], script: &str) -> Finished {
        let mut command = Command::new("timeout");
        command.args(["-k", "5", &TOO_LONG.as_secs().to_string()]);
        let inner = self.inside_command_after(changes, options, script);
        command.arg(inner.get_program()).args(inner.get_args()).current_dir("/");
        for (name, value) in inner.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        run(command)
    }

    /// A shell script on the host, by an ordinary user. The binary under test is `$WHARF`.
    pub(crate) fn by_user(&self, script: &str) -> Finished {
        run(self.by_user_command(script))
    }

    /// The command behind [`Lab::by_user`], to be started by the test.
    pub(crate) fn by_user_command(&self, script: &str) -> Command {
        let mut command = Command::new("timeout");
        let inner = self.lasting_user_command(script);
        command.args(["-k", "5", "60"]).arg(inner.get_program()).args(inner.get_args());
        command.env("WHARF", scratch().join("wharf")).current_dir("/");
        command
    }

    /// [`Lab::by_user_command`] without an end: its process is the shell.
    pub(crate) fn lasting_user_command(&self, script: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.host, "setpriv", "--reuid", NOBODY, "--regid", NOBODY]);
        command.args(["--clear-groups", "--", "sh", "-c", script]);
        command.env("WHARF", scratch().join("wharf")).current_dir("/");
        command
    }

    /// The command behind [`Lab::inside`], to be started by the test. Its process is wharf's.
    pub(crate) fn inside_command(&self, options: &[&str], script: &str) -> Command {
        self.inside_command_after(":", options, script)
    }

    /// The command behind [`Lab::inside_after`].
    pub(crate) fn inside_command_after(&self, changes: &str, options: &[&str], script: &str) -> Command {
        let mut command = Command::new("ip");
        let become_user = format!("exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups -- \"$@\"");
        command.args(["netns", "exec", &self.host, "unshare", "-m", "bash", "-ec"]);
        command.arg(format!("{changes}\n{become_user}")).arg("bash");
        command.arg(scratch().join("wharf")).arg("run").args(options).args(["--", "sh", "-c", script]);
        command.env("HOME", scratch()).env("TMPDIR", scratch()).current_dir("/");
        command
    }

    /// A shell script in the server's namespace, as root.
    pub(crate) fn on_server(&self, script: &str) -> Finished {
        run(in_namespace(&self.server, script))
    }

    /// A shell script in the host's namespace, as root. The binary under test is `$WHARF`.
    pub(crate) fn on_host(&self, script: &str) -> Finished {
        run(in_namespace(&self.host, script))
    }

    /// Starts a server and waits until it listens on `port`.
    pub(crate) fn serve(&mut self, line: &str, port: u16) {
        self.serve_at(line, &format!("sport = :{port}"));
    }

    /// Starts a server and waits until it listens on what a filter of `ss` describes.
    pub(crate) fn serve_at(&mut self, line: &str, filter: &str) {
        self.serve_in(&self.server.clone(), line, filter);
    }

    /// Starts a server on the host and waits until it listens on `port`.
    pub(crate) fn serve_on_host(&mut self, line: &str, port: u16) {
        self.serve_in(&self.host.clone(), line, &format!("sport = :{port}"));
    }

    fn serve_in(&mut self, namespace: &str, line: &str, filter: &str) {
        let mut command = in_namespace(namespace, &format!("exec {line}"));
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        self.children.push(child);
        let end = Instant::now() + PATIENCE;
        let listens = format!("ss -Htuln '{filter}' | grep -q .");
        while run(in_namespace(namespace, &listens)).status != Some(0) {
            let child = self.children.last_mut().unwrap();
            if let Some(status) = child.try_wait().unwrap() {
                let mut text = String::new();
                child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
                panic!("{line} ended with {status}: {text}");
            }
            assert!(Instant::now() < end, "{line} does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts the test server (`server.py`): HTTP on 80, echo on 7, discard on 9, and UDP echo on 7.
    pub(crate) fn serve_everything(&mut self) {
        self.serve_at(&server("203.0.113.2 198.51.100.1 2001:db8:1::2 2001:db8:2::1"), "sport = :80");
    }

    /// [`Lab::serve_everything`] at the far end.
    pub(crate) fn serve_everything_far_away(&mut self) {
        let far = self.far.clone().expect("a far end");
        self.serve_in(&far, &server("192.0.2.1 2001:db8:3::1"), "sport = :80");
    }
}

/// The digest of the first `size` bytes that the test server sends.
pub(crate) fn server_stream(lab: &Lab, size: u64) -> String {
    let sum = lab.on_server(&format!("curl -sS http://127.0.0.1/{size} | sha256sum"));
    sum.text().split_whitespace().next().unwrap().to_owned()
}

/// Words of a shell that send a line as a datagram, and print the line that is the answer.
pub(crate) fn ask_over_udp(address: &str, port: u16, line: &str) -> String {
    format!("timeout 20 bash -c \"exec 3<>/dev/udp/{address}/{port}; echo {line} >&3; head -n1 <&3\"")
}

/// The command line of a role of `datagrams.py`.
pub(crate) fn datagrams(role: &str) -> String {
    format!("python3 {} {role}", script("datagrams.py"))
}

/// The command line of the test server with UDP echo at some addresses.
fn server(addresses: &str) -> String {
    format!("python3 {} {addresses}", script("server.py"))
}

/// A shell script in a network namespace, as root.
fn in_namespace(namespace: &str, script: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, "sh", "-c", script]);
    command.env("WHARF", scratch().join("wharf"));
    command
}

impl Drop for Lab {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for name in [&self.host, &self.server].into_iter().chain(&self.far) {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
        let _ = fs::remove_dir_all(Path::new("/etc/netns").join(&self.host));
    }
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "still not: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A command that a test talks to while it runs. It is killed with the test.
pub(crate) struct Running {
    pub(crate) child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next line of its output, of which there must be one.
    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        self.next_line().expect("the command ended early")
    }

    /// The next line of its output, or `None` at its end.
    pub(crate) fn next_line(&mut self) -> Option<String> {
        self.lines.next().map(Result::unwrap)
    }

    /// A line for its input.
    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Waits for its end, which must be a success.
    #[track_caller]
    pub(crate) fn succeed(mut self) {
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already, in the good case.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
