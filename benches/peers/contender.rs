// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who is measured, and how each of them gets a container its network.

use std::fs;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::lab::{Distance, Lab, SERVER, shell};

/// The port of the host's that leads to the same port of the container's.
pub(crate) const PUBLISHED: u16 = 5201;
/// The address at which pasta forwards queries, as it has none of its own.
const PASTA_NAMESERVER: &str = "192.0.2.53";
const NOBODY: &str = "65534";
const PATIENCE: Duration = Duration::from_secs(10);

/// One of those measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// No user stack: the host's namespace itself is the container.
    None,
    Wharf,
    WharfTwoWorkers,
    /// wharf by the name and with the arguments of the next.
    WharfAsSlirp4netns,
    Slirp4netns,
    /// pasta as shipped.
    Pasta,
    /// pasta with large socket buffers in host and server and a small RTO in the container: its fairest configuration.
    PastaTuned,
    /// A switch between containers, without an outside.
    Vde,
}

impl Kind {
    pub(crate) const ALL: [Self; 8] = [
        Self::None,
        Self::Wharf,
        Self::WharfTwoWorkers,
        Self::WharfAsSlirp4netns,
        Self::Slirp4netns,
        Self::Pasta,
        Self::PastaTuned,
        Self::Vde,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Wharf => "wharf",
            Self::WharfTwoWorkers => "wharf-2-workers",
            Self::WharfAsSlirp4netns => "wharf-as-slirp4netns",
            Self::Slirp4netns => "slirp4netns",
            Self::Pasta => "pasta",
            Self::PastaTuned => "pasta-tuned",
            Self::Vde => "vde",
        }
    }

    /// The program of a peer, and the package that has it.
    const fn peer(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::None | Self::Wharf | Self::WharfTwoWorkers | Self::WharfAsSlirp4netns => None,
            Self::Slirp4netns => Some(("slirp4netns", "slirp4netns")),
            Self::Pasta | Self::PastaTuned => Some(("pasta", "passt")),
            Self::Vde => Some(("vde_plug2tap", "vde2")),
        }
    }

    /// It is somebody else's program, which may fail where ours may not.
    pub(crate) const fn is_peer(self) -> bool {
        self.peer().is_some()
    }

    pub(crate) fn is_installed(self) -> bool {
        self.peer().is_none_or(|(program, _)| shell(&format!("command -v {program}")).is_ok())
    }

    /// The version of what is measured; for the limit, the kernel's.
    pub(crate) fn version(self) -> String {
        match (self, self.peer()) {
            (_, Some((program, package))) => version_of(program, package),
            (Self::None, None) => shell("uname -r").unwrap_or_default().trim().into(),
            (_, None) => env!("CARGO_PKG_VERSION").into(),
        }
    }

    /// Where a container of this kind sends its queries.
    pub(crate) const fn nameserver(self) -> &'static str {
        match self {
            Self::None | Self::Vde => SERVER,
            Self::Wharf | Self::WharfTwoWorkers | Self::WharfAsSlirp4netns | Self::Slirp4netns => "10.0.2.3",
            Self::Pasta | Self::PastaTuned => PASTA_NAMESERVER,
        }
    }
}

/// The version that a program gives itself, or else its package's: unpacked by `benches/peers/newest`, or installed.
fn version_of(program: &str, package: &str) -> String {
    let own = format!("{program} --version 2>&1");
    let package = format!(
        "grep -s '^{package} ' \"$(dirname \"$(command -v {program})\")/../../versions\" ||
         dpkg-query -W -f '${{Version}}' {package}"
    );
    let is_version = |word: &&str| word.starts_with(|first: char| first.is_ascii_digit());
    let found = [own, package].into_iter().find_map(|script| {
        let text = shell(&script).ok()?;
        text.lines().next()?.split_whitespace().find(is_version).map(str::to_owned)
    });
    found.unwrap_or_else(|| "unknown".into())
}

/// A container with its network, ready to be measured.
#[derive(Debug)]
pub(crate) struct Contender {
    pub(crate) kind: Kind,
    pub(crate) lab: Lab,
    pub(crate) mtu: u32,
    programs: Programs,
    /// The process that is the user stack.
    helper: Option<Child>,
    /// A process whose network namespace is the container's.
    container: Option<Child>,
    container_pid: Option<u32>,
}

/// `ip netns exec HOST setpriv ... WORDS`: an ordinary user on the host.
pub(crate) fn as_user(lab: &Lab, words: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args([
        "netns",
        "exec",
        &lab.host,
        "setpriv",
        "--reuid",
        NOBODY,
        "--regid",
        NOBODY,
        "--clear-groups",
        "--",
    ]);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    command
}

impl Contender {
    /// Makes namespaces and starts the user stack in them.
    pub(crate) fn start(
        kind: Kind,
        mtu: u32,
        distance: Distance,
        programs: &Programs,
    ) -> Result<Self, String> {
        let lab = Lab::new(distance)?;
        let programs = programs.clone();
        let mut contender =
            Self { kind, lab, mtu, programs, helper: None, container: None, container_pid: None };
        contender.connect()?;
        contender.inside_shell("sysctl -qw net.ipv4.tcp_congestion_control=cubic || true")?;
        Ok(contender)
    }

    fn connect(&mut self) -> Result<(), String> {
        let mtu = self.mtu.to_string();
        let wharf = self.wharf();
        match self.kind {
            Kind::Vde => Ok(()),
            // A long path has the MTU that the others have outside.
            Kind::None if self.lab.distance != Distance::Near => Ok(()),
            Kind::None => {
                let mtu = self.mtu;
                let (host, server) = (&self.lab.host, &self.lab.server);
                shell(&format!(
                    "ip -n {host} link set out0 mtu {mtu}; ip -n {server} link set in0 mtu {mtu}"
                ))?;
                Ok(())
            }
            Kind::Wharf | Kind::WharfTwoWorkers => {
                let workers = if self.kind == Kind::Wharf { "1" } else { "2" };
                let run = [wharf.as_str(), "run", "-q", "--mtu", &mtu, "--workers", workers];
                let port = format!("{PUBLISHED}:{PUBLISHED}");
                let words = [&run[..], &["-p", &port, "--", "sleep", "1000"]].concat();
                self.helper = Some(as_user(&self.lab, &words).spawn().map_err(|error| error.to_string())?);
                let helper = self.helper_pid().unwrap_or(0);
                self.container_pid = Some(wait_for(|| grandchild(helper))?);
                self.wait_for_interface("eth0")
            }
            Kind::WharfAsSlirp4netns | Kind::Slirp4netns => {
                self.unshare()?;
                let pid = self.container_pid.unwrap_or(0).to_string();
                let socket = self.lab.api_socket();
                let words = [self.slirp4netns(), "-c", "-m", &mtu, "-a", &socket, &pid, "tap0"];
                self.helper = Some(as_user(&self.lab, &words).spawn().map_err(|error| error.to_string())?);
                self.wait_for_interface("tap0")?;
                // It listens some time after the interface is there.
                wait_for(|| self.lab.add_hostfwd(PUBLISHED).ok())
            }
            Kind::Pasta | Kind::PastaTuned => {
                if self.kind == Kind::PastaTuned {
                    let tune = "sysctl -qw net.ipv4.tcp_wmem='4096 33554432 67108864' net.ipv4.tcp_rmem='4096 131072 6291456'
                                sysctl -qw net.core.wmem_max=16777216 net.core.rmem_max=16777216 || true";
                    for namespace in [&self.lab.host, &self.lab.server] {
                        shell(&format!("ip netns exec {namespace} sh -c \"{tune}\""))?;
                    }
                }
                self.unshare()?;
                if self.kind == Kind::PastaTuned {
                    self.inside_shell("sysctl -qw net.ipv4.tcp_rto_min_us=1000 || true")?;
                }
                let pid = self.container_pid.unwrap_or(0).to_string();
                let port = PUBLISHED.to_string();
                let options =
                    ["pasta", "-f", "-q", "--config-net", "--no-map-gw", "--dns-forward", PASTA_NAMESERVER];
                let words = [&options[..], &["--mtu", &mtu, "-t", &port, "-u", "none", &pid]].concat();
                self.helper = Some(as_user(&self.lab, &words).spawn().map_err(|error| error.to_string())?);
                self.wait_for_interface("out0")
            }
        }
    }

    /// The wharf that is measured.
    pub(crate) fn wharf(&self) -> String {
        self.programs.wharf.display().to_string()
    }

    /// The program that takes slirp4netns's arguments.
    fn slirp4netns(&self) -> &str {
        if self.kind == Kind::WharfAsSlirp4netns { &self.programs.as_slirp4netns } else { "slirp4netns" }
    }

    /// A bare container for peers that want to be given one.
    fn unshare(&mut self) -> Result<(), String> {
        let container = bare_container(&self.lab)?;
        self.container_pid = Some(container.id());
        self.container = Some(container);
        Ok(())
    }

    fn wait_for_interface(&self, name: &str) -> Result<(), String> {
        wait_for(|| self.inside_shell(&format!("ip -4 route show default dev {name} | grep -q .")).ok())
            .map(drop)
    }

    /// The user stack's process.
    pub(crate) fn helper_pid(&self) -> Option<u32> {
        self.helper.as_ref().map(Child::id)
    }

    /// A command in the container's network, as its root.
    pub(crate) fn inside(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        match self.container_pid {
            None => {
                command = Command::new("ip");
                command.args(["netns", "exec", &self.lab.host]);
            }
            Some(pid) => {
                command.args(["-t", &pid.to_string(), "-U", "-n", "--"]);
            }
        }
        command.args(words).stdin(Stdio::null());
        command
    }

    pub(crate) fn inside_shell(&self, script: &str) -> Result<Output, String> {
        let output = self.inside(&["sh", "-c", script]).output().map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(output)
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Time from nothing to a command's first instruction in a network that works.
    pub(crate) fn start_up(&self) -> Result<Option<Duration>, String> {
        let wharf = self.wharf();
        let mtu = self.mtu.to_string();
        let words: Vec<&str> = match self.kind {
            Kind::Wharf => vec![&wharf, "run", "-q", "--mtu", &mtu, "--", "true"],
            Kind::Pasta => vec!["pasta", "-q", "--config-net", "--mtu", &mtu, "--", "true"],
            _ => return Ok(None),
        };
        let begun = Instant::now();
        let status = as_user(&self.lab, &words).status().map_err(|error| error.to_string())?;
        if !status.success() {
            return Err(format!("{words:?} ended with {status}"));
        }
        Ok(Some(begun.elapsed()))
    }

    /// Ends the container and what gives it its network.
    fn end(&mut self) {
        for mut child in [self.helper.take(), self.container.take()].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Time from the program's start to its word that the network of another container works.
    pub(crate) fn time_until_ready(&mut self) -> Result<Option<Duration>, String> {
        if !matches!(self.kind, Kind::WharfAsSlirp4netns | Kind::Slirp4netns) {
            return Ok(None);
        }
        // In a container that has no network yet.
        self.end();
        self.unshare()?;
        let (pid, mtu) = (self.container_pid.unwrap_or(0).to_string(), self.mtu.to_string());
        // The shell's own word marks the start.
        let script = "echo >&3; exec \"$@\" >/dev/null";
        let words = ["sh", "-c", &format!("exec 3>&1; {script}"), "sh", self.slirp4netns()];
        let words = [&words[..], &["-r", "3", "-c", "-m", &mtu, &pid, "tap0"]].concat();
        let mut command = as_user(&self.lab, &words);
        let mut child = command.stdout(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
        let mut ready = child.stdout.take().ok_or("no pipe")?;
        let mut byte = [0];
        let mut wait = || ready.read_exact(&mut byte).map(|()| Instant::now());
        let times = wait().and_then(|begun| Ok(wait()? - begun));
        let _ = child.kill();
        let _ = child.wait();
        times.map(Some).map_err(|error| format!("{words:?}: {error}"))
    }
}

/// A process of an ordinary user's in user and network namespaces of its own, without a network.
pub(crate) fn bare_container(lab: &Lab) -> Result<Child, String> {
    let container =
        as_user(lab, &["unshare", "-Urn", "sleep", "1000"]).spawn().map_err(|error| error.to_string())?;
    let pid = container.id();
    let own = fs::read_link("/proc/self/ns/user").map_err(|error| error.to_string())?;
    wait_for(|| fs::read_link(format!("/proc/{pid}/ns/user")).ok().filter(|other| *other != own))?;
    wait_for(|| fs::read_to_string(format!("/proc/{pid}/comm")).ok().filter(|name| name.trim() == "sleep"))?;
    Ok(container)
}

/// What is measured of this tree.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) wharf: PathBuf,
    /// The same under the name by which it takes slirp4netns's arguments.
    pub(crate) as_slirp4netns: String,
}

/// The command that wharf's init runs: the helper's child's child.
fn grandchild(helper: u32) -> Option<u32> {
    let child = |pid: u32| -> Option<u32> {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    let command = child(child(helper)?)?;
    let name = fs::read_to_string(format!("/proc/{command}/comm")).ok()?;
    (name.trim() == "sleep").then_some(command)
}

pub(crate) fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> Result<T, String> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() > end {
            return Err("a user stack did not get ready in time".into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        self.end();
    }
}
