// SPDX-License-Identifier: MIT OR Apache-2.0
//! The API as it is used: a daemon with a container, asked by curl, by the command lines, and by those who mean it no good.
//!
//! They need root, for a container and for a user who is nobody, and the programs that `.ci/setup` installs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

#[path = "scratch/mod.rs"]
mod scratch;

use rustix::process::{Pid, Signal, kill_process};

use scratch::Scratch;

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(20);
const WHARF: &str = env!("CARGO_BIN_EXE_wharf");
/// Nobody's user id.
const NOBODY: &str = "65534";

/// A process that ends with its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn spawn(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    /// Its exit status, when it has ended.
    fn status(&mut self) -> Option<i32> {
        eventually(|| self.0.try_wait().unwrap()).code()
    }
}

fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "nothing happened");
        sleep(Duration::from_millis(10));
    }
}

/// Where the sockets and the state of one test are.
struct Home(Scratch);

impl Home {
    fn new() -> Self {
        Self(Scratch::new())
    }

    fn wharf(&self, arguments: &str) -> Command {
        let mut command = Command::new(WHARF);
        command.args(arguments.split_whitespace());
        command.env("XDG_RUNTIME_DIR", &*self.0).env("XDG_STATE_HOME", &*self.0).env("HOME", &*self.0);
        command.env_remove("WHARF_SOCKET").stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &str) -> Output {
        self.wharf(arguments).output().unwrap()
    }

    /// What a command prints that succeeds.
    fn text(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "wharf {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The exit status of a command that fails, and what it says of it.
    fn failure(&self, arguments: &str) -> (Option<i32>, String) {
        let output = self.run(arguments);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

/// A process in a network namespace of its own.
fn container() -> Process {
    let container = Process::spawn(Command::new("unshare").args(["--net", "sleep", "infinity"]));
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    eventually(|| (namespace(&container.0.id().to_string()) != namespace("self")).then_some(()));
    container
}

/// A daemon and a container called `web`.
struct Stage {
    daemon: Process,
    container: Process,
    home: Home,
}

impl Stage {
    fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests make namespaces: run them as root");
        let home = Home::new();
        let daemon = Process::spawn(&mut home.wharf("up"));
        let container = container();
        eventually(|| home.run("networks").status.success().then_some(()));
        home.text(&format!("attach {} --name web", container.0.id()));
        Self { daemon, container, home }
    }

    fn socket(&self) -> PathBuf {
        self.home.0.join("wharf/api.sock")
    }

    /// What curl prints of an answer, and the status.
    fn curl(&self, arguments: &[&str], path: &str) -> (String, String) {
        answer(Command::new("curl"), &self.socket(), arguments, path)
    }

    /// Echo requests from the container to its gateway, all answered.
    fn ping(&self) -> Process {
        let pid = self.container.0.id().to_string();
        let route =
            Command::new("nsenter").args(["-t", &pid, "-n", "ip", "-4", "route", "show", "default"]).output();
        let route = String::from_utf8(route.unwrap().stdout).unwrap();
        let gateway = route.split_whitespace().nth(2).expect("a default route");
        let ping = ["-t", &pid, "-n", "ping", "-q", "-c", "100", "-i", "0.02", "-W", "5", gateway];
        Process::spawn(Command::new("nsenter").args(ping).stdout(Stdio::piped()))
    }
}

fn answer(mut curl: Command, socket: &Path, arguments: &[&str], path: &str) -> (String, String) {
    curl.args(["-sS", "--max-time", "20", "-w", "\n%{http_code}", "--unix-socket"]).arg(socket);
    let output = curl.args(arguments).arg(format!("http://wharf{path}")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    assert_ne!(status, "000", "{path}: {}", String::from_utf8_lossy(&output.stderr));
    (body.to_owned(), status.to_owned())
}

#[test]
fn command_lines_print_what_the_api_answers() {
    let stage = Stage::new();
    let home = &stage.home;
    let published = home.text("publish 127.0.0.1:0:web:80");
    let port = published.lines().nth(1).and_then(|row| row.split_whitespace().nth(3)).unwrap();
    assert!(port.starts_with("127.0.0.1:") && !port.ends_with(":0"), "{published}");
    assert_eq!(home.text("ports"), published);
    for (command, path, heading, cell) in [
        ("networks", "/v1/networks", "NAME ", "default"),
        ("ports", "/v1/publications", "ID ", port),
        ("leases", "/v1/leases", "NETWORK ", "0a:77:"),
        ("ls --network default", "/v1/ports?network=default", "NETWORK ", "web"),
    ] {
        let text = home.text(command);
        assert!(text.starts_with(heading) && text.contains(cell), "{text}");
        // Traffic and age go on meanwhile.
        let still = |text: &str| {
            let mut list: Vec<serde_json::Value> = serde_json::from_str(text).unwrap();
            let changing = ["age_secs", "rx_frames", "rx_bytes", "tx_frames", "tx_bytes"];
            list.iter_mut().for_each(|item| {
                changing.iter().for_each(|key| drop(item.as_object_mut().unwrap().remove(*key)))
            });
            list
        };
        let (body, status) = stage.curl(&[], path);
        assert_eq!((still(&home.text(&format!("{command} --json"))), status.as_str()), (still(&body), "200"));
    }
    let stats: serde_json::Value = serde_json::from_str(&home.text("stats --json")).unwrap();
    let reasons = stats[0]["drops"].as_array().unwrap().len();
    assert_eq!(home.text("stats --all").matches("\ndefault  ").count(), 2 + reasons);
    assert!(home.text("stats").matches("\ndefault  ").count() < 2 + reasons);

    let id = home.text("ports --json");
    let id = serde_json::from_str::<serde_json::Value>(&id).unwrap()[0]["id"].to_string();
    assert_eq!(home.text(&format!("unpublish {id}")), "");
    assert_eq!(home.run("ports").stdout, b"");
    let created = home.text("network create other --ipv4 10.99.0.0/24 --ipv6 none");
    assert!(created.contains("10.99.0.0/24"), "{created}");
    assert_eq!(home.text("network rm other"), "");
    assert_eq!(home.text("detach web"), "");
    assert_eq!(home.text("ls --json"), "[]\n");
}

#[test]
fn flows_are_listed_by_filter_and_again_and_again() {
    let stage = Stage::new();
    let home = &stage.home;
    let pid = stage.container.0.id().to_string();
    let echo = ["-t", &pid, "-n", "socat", "TCP-LISTEN:80,fork,reuseaddr", "EXEC:cat"];
    let _echo = Process::spawn(Command::new("nsenter").args(echo));
    let published: serde_json::Value =
        serde_json::from_str(&home.text("publish 127.0.0.1:0:web:80 --json")).unwrap();
    let host = published[0]["host"].as_str().unwrap();
    let mut client = eventually(|| {
        let mut client = TcpStream::connect(host).ok()?;
        client.write_all(b"hello").ok()?;
        // Refused, and so reset, until the server listens.
        client.read_exact(&mut [0; 5]).ok()?;
        Some(client)
    });
    let flows = |filter: &str| -> Vec<serde_json::Value> {
        serde_json::from_str(&home.text(&format!("flows --json {filter}"))).unwrap()
    };
    let all = flows("--container web --protocol tcp --state established");
    let [flow] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!(
        (flow["direction"].as_str(), flow["bytes_sent"].as_u64()),
        (Some("inbound"), Some(5)),
        "{flow}"
    );
    for filter in ["--protocol udp", "--state nonsense", "--container nobody"] {
        assert_eq!(flows(filter), Vec::<serde_json::Value>::new(), "{filter}");
    }
    let text = home.text("flows");
    assert!(text.contains("DIRECTION") && text.contains("  inbound  "), "{text}");
    client.write_all(b"!").unwrap();

    let mut watch = Process::spawn(home.wharf("flows --watch --json").stdout(Stdio::piped()));
    let lines: Vec<_> =
        BufReader::new(watch.0.stdout.take().unwrap()).lines().take(2).map(Result::unwrap).collect();
    assert!(lines.iter().all(|line| line.contains("\"established\"")), "{lines:?}");
    // Nobody reads any more.
    assert_eq!(watch.status(), Some(0));
}

#[test]
fn a_failure_has_its_own_exit_status() {
    let stage = Stage::new();
    let home = &stage.home;
    for (arguments, status, hint) in [
        ("ls --network none", 3, "default"),
        ("detach nobody", 3, "nobody"),
        ("unpublish 99", 3, "99"),
        ("network rm default", 5, "configuration file"),
        ("network create default", 4, "already"),
        ("network create a --mtu 100", 2, "1280"),
        ("flows --protocol sctp", 2, "icmpv6"),
        ("reload", 2, "no configuration file; `wharf down`, then `wharf up --config FILE`"),
        ("ls --socket /nonexistent", 125, "/nonexistent"),
        ("ls --run 1", 125, "run-1"),
        ("ls --runtime-dir /nonexistent", 125, "`wharf up --runtime-dir /nonexistent`"),
        ("ls --runtime-dir /nonexistent --socket /nonexistent", 125, "cannot be used with"),
        ("publish 80", 125, "8080:80"),
    ] {
        let (got, text) = home.failure(arguments);
        assert_eq!(got, Some(status), "{arguments}: {text}");
        assert!(text.contains(hint), "{arguments}: {text}");
    }
    let (status, text) = Home::new().failure("ls");
    assert!(status == Some(125) && text.contains("wharf up"), "{text}");
}

#[test]
fn every_command_finds_a_daemon_by_its_directory() {
    let home = Home::new();
    let elsewhere = format!("--runtime-dir {}/elsewhere", home.0.display());
    let mut daemon = Process::spawn(&mut home.wharf(&format!("up {elsewhere}")));
    eventually(|| home.run(&format!("ls {elsewhere}")).status.success().then_some(()));
    assert!(home.text(&format!("networks {elsewhere}")).contains("default"));
    let container = container();
    home.text(&format!("attach {} --name web {elsewhere}", container.0.id()));
    home.text(&format!("detach web {elsewhere}"));
    assert!(home.failure("ls").1.contains("no daemon is running"));
    home.text(&format!("down {elsewhere}"));
    assert_eq!(daemon.status(), Some(0));
}

#[test]
fn a_link_with_a_network_that_is_not_there_is_told_and_listed_as_waiting() {
    let stage = Stage::new();
    let made = stage.home.run("network create front --link typo --link default");
    let told = String::from_utf8(made.stderr).unwrap();
    assert!(
        made.status.success() && told == "wharf: network front is linked with `typo` when it is there\n",
        "{told}"
    );
    let listed = stage.home.text("networks");
    assert!(listed.contains(" default,typo (waiting) "), "{listed}");
    stage.home.text("network create typo");
    let listed = stage.home.text("networks");
    assert!(listed.contains(" default,typo ") && !listed.contains("waiting"), "{listed}");
}

/// The process that removes a published socket.
fn keeper_of(socket: &str) -> Option<Pid> {
    let has_it = |process: &Path| {
        // It is a copy of who published the socket.
        let (name, words) =
            (std::fs::read(process.join("comm")).ok()?, std::fs::read(process.join("cmdline")).ok()?);
        let is_its = name == b"wharf-keeper\n" && String::from_utf8_lossy(&words).contains(socket);
        is_its.then(|| process.file_name()?.to_str()?.parse().ok().and_then(Pid::from_raw)).flatten()
    };
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|process| has_it(&process.path()))
}

#[test]
fn a_published_socket_outlives_signals_to_its_keeper_and_goes_when_it_is_withdrawn() {
    let stage = Stage::new();
    let socket = stage.home.0.join("web.sock");
    let published = stage.home.text(&format!("publish unix:{}:web:80", socket.display()));
    let id = published.lines().nth(1).and_then(|row| row.split_whitespace().next()).unwrap();
    let keeper = eventually(|| keeper_of(&socket.display().to_string()));
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        kill_process(keeper, signal).unwrap();
    }
    assert!(UnixStream::connect(&socket).is_ok());
    stage.home.text(&format!("unpublish {id}"));
    assert!(!socket.exists());
}

#[test]
fn a_keeper_that_somebody_has_stopped_keeps_nobody_for_long() {
    let stage = Stage::new();
    let socket = stage.home.0.join("web.sock");
    let publish = format!("publish unix:{}:web:80", socket.display());
    let published = stage.home.text(&publish);
    let id = published.lines().nth(1).and_then(|row| row.split_whitespace().next()).unwrap();
    let keeper = eventually(|| keeper_of(&socket.display().to_string()));
    kill_process(keeper, Signal::STOP).unwrap();
    stage.home.text(&format!("unpublish {id}"));
    assert!(socket.exists() && !stage.home.text("ls").is_empty());
    kill_process(keeper, Signal::CONT).unwrap();
    eventually(|| (!socket.exists()).then_some(()));
    stage.home.text(&publish);
}

#[test]
fn events_are_printed_until_the_daemon_ends_and_it_ends_with_its_sockets() {
    let mut stage = Stage::new();
    let listening = |arguments: &str| {
        let mut events = Process::spawn(stage.home.wharf(arguments).stdout(Stdio::piped()));
        let lines = BufReader::new(events.0.stdout.take().unwrap());
        (events, lines)
    };
    let (mut events, mut lines) = listening("events");
    let (mut json, mut json_lines) = listening("events --json --network default");
    let (mut gone, gone_lines) = listening("events");
    drop(gone_lines);
    // Nobody says when they listen: told again until they have heard.
    let mut heard = String::new();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut text = String::new();
            lines.read_line(&mut heard).unwrap();
            json_lines.read_line(&mut text).unwrap();
            serde_json::from_str::<serde_json::Value>(&text).unwrap()
        });
        while !reader.is_finished() || gone.0.try_wait().unwrap().is_none() {
            let published = stage.home.text("publish 127.0.0.1:0:web:80 --json");
            let id = serde_json::from_str::<serde_json::Value>(&published).unwrap()[0]["id"].to_string();
            stage.home.text(&format!("unpublish {id}"));
        }
        let event = reader.join().unwrap();
        assert!(event["event"].as_str().unwrap().ends_with("publish"), "{event}");
    });
    assert!(heard.contains("  default  ") && heard.contains("publish"), "{heard}");
    assert_eq!(gone.status(), Some(0));
    // They go on to be read.
    drop(std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink())));
    drop(std::thread::spawn(move || std::io::copy(&mut json_lines, &mut std::io::sink())));

    assert_eq!(stage.home.text("down"), "");
    // It has ended already.
    assert_eq!(stage.daemon.0.try_wait().unwrap().and_then(|status| status.code()), Some(0));
    assert!(!stage.socket().exists());
    assert_eq!([events.status(), json.status()], [Some(0); 2]);
    let (status, text) = stage.home.failure("down");
    assert!(status == Some(125) && text.contains("no daemon"), "{text}");
}

#[test]
fn whoever_means_no_good_disturbs_neither_packets_nor_others() {
    let stage = Stage::new();
    let mut ping = stage.ping();
    let socket = stage.socket();
    // As many as are taken; the next one waits until one of them leaves.
    let silent: Vec<_> = (0..64).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    let mut waiting = UnixStream::connect(&socket).unwrap();
    waiting.write_all(b"GET /v1/info HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    waiting.set_nonblocking(true).unwrap();
    assert_eq!(waiting.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    waiting.set_nonblocking(false).unwrap();
    drop(silent);
    let mut text = String::new();
    waiting.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");

    for bytes in [
        &b"\0\xff\r\n\r\n"[..],
        b"GET",
        b"GET /v1/flows HTTP/1.1\r\nContent-Length: 5\r\n\r\n{",
        &[b'x'; 100_000],
    ] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        // The server may close before it has all of it.
        let _ = stream.write_all(bytes);
    }
    let huge = format!(r#"{{"ports":"{}"}}"#, "8".repeat(70_000));
    std::fs::write(stage.home.0.join("huge"), &huge).unwrap();
    let huge = format!("@{}", stage.home.0.join("huge").display());
    for (arguments, path, status, text) in [
        (&["--json", &huge][..], "/v1/publications", "413", "too_large"),
        (&["--json", "{]"], "/v1/publications", "400", "line 1 column 2"),
        (&["-d", "{}"], "/v1/publications", "400", "application/json"),
        (&["-X", "PATCH"], "/v1/networks", "405", "GET, POST"),
        (&["--path-as-is"], "/v1/../../etc/passwd", "404", "not_found"),
        (
            &["-H", "Transfer-Encoding: chunked", "--json", "{\"ports\":1}"],
            "/v1/publications",
            "400",
            "string",
        ),
    ] {
        let (body, got) = stage.curl(arguments, path);
        assert!(got == status && body.contains(text), "{path}: {got} {body}");
    }
    assert_eq!(ping.status(), Some(0));
    let mut summary = String::new();
    ping.0.stdout.take().unwrap().read_to_string(&mut summary).unwrap();
    assert!(summary.contains(" 0% packet loss"), "{summary}");
}

#[test]
fn another_user_is_refused_even_where_the_socket_is_open_to_all() {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt as _;
    let stage = Stage::new();
    let ask = || {
        let mut curl = Command::new("setpriv");
        curl.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "curl"]);
        answer(curl, &stage.socket(), &["-X", "POST"], "/v1/shutdown")
    };
    for path in [stage.home.0.to_path_buf(), stage.home.0.join("wharf"), stage.socket()] {
        set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }
    let (body, status) = ask();
    assert!(status == "403" && body.contains(&format!("user {NOBODY}")), "{status} {body}");
    assert!(stage.home.text("ls").contains("web"));
}

#[test]
fn a_sandbox_is_looked_at_like_a_daemon_and_named_where_there_are_several() {
    let home = Home::new();
    let sandbox = || {
        let run = Process::spawn(&mut home.wharf("run -- sleep infinity"));
        let pid = run.0.id();
        eventually(|| home.run(&format!("networks --run {pid}")).status.success().then_some(()));
        run
    };
    let mut first = sandbox();
    // The only one is meant.
    assert_eq!(home.text("networks --json").matches("\"name\"").count(), 1);
    for command in ["down", "detach web", "network create a", "reload"] {
        assert_eq!(home.failure(command).0, Some(7), "{command}");
    }
    let second = sandbox();
    let (status, text) = home.failure("networks");
    assert_eq!(status, Some(125));
    for run in [&first, &second] {
        assert!(text.contains(&format!("--run {}", run.0.id())), "{text}");
    }
    // Killed, it leaves its socket, at which nobody answers.
    first.0.kill().unwrap();
    first.0.wait().unwrap();
    assert!(home.text("stats").contains("RECEIVED"));
}
