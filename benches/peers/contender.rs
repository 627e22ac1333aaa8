// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who is measured, and how each of them gets a container its network.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::lab::{Lab, shell};

const NOBODY: &str = "65534";
const PATIENCE: Duration = Duration::from_secs(10);

/// One of those measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// No user stack: the host's namespace itself is the container.
    None,
    Wharf,
    WharfTwoWorkers,
    Slirp4netns,
    /// pasta as shipped.
    Pasta,
    /// pasta with large socket buffers in host and server and a small RTO in the container: its fairest configuration.
    PastaTuned,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] =
        [Self::None, Self::Wharf, Self::WharfTwoWorkers, Self::Slirp4netns, Self::Pasta, Self::PastaTuned];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Wharf => "wharf",
            Self::WharfTwoWorkers => "wharf-2-workers",
            Self::Slirp4netns => "slirp4netns",
            Self::Pasta => "pasta",
            Self::PastaTuned => "pasta-tuned",
        }
    }

    pub(crate) fn is_installed(self) -> bool {
        let program = match self {
            Self::None | Self::Wharf | Self::WharfTwoWorkers => return true,
            Self::Slirp4netns => "slirp4netns",
            Self::Pasta | Self::PastaTuned => "pasta",
        };
        shell(&format!("command -v {program}")).is_ok()
    }

    /// The version a peer gives itself.
    pub(crate) fn version(self) -> String {
        let line = match self {
            Self::None => "uname -r",
            Self::Wharf | Self::WharfTwoWorkers => return env!("CARGO_PKG_VERSION").into(),
            Self::Slirp4netns => "slirp4netns --version | head -1",
            Self::Pasta | Self::PastaTuned => "pasta --version | head -1",
        };
        shell(line).unwrap_or_default().trim().into()
    }
}

/// A container with its network, ready to be measured.
#[derive(Debug)]
pub(crate) struct Contender {
    pub(crate) kind: Kind,
    pub(crate) lab: Lab,
    pub(crate) mtu: u32,
    wharf: std::path::PathBuf,
    /// The process that is the user stack.
    helper: Option<Child>,
    /// A process whose network namespace is the container's.
    container: Option<Child>,
    container_pid: Option<u32>,
}

/// `ip netns exec HOST setpriv ... WORDS`: an ordinary user on the host.
fn as_user(lab: &Lab, words: &[&str]) -> Command {
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
    pub(crate) fn start(kind: Kind, mtu: u32, wharf: &Path) -> Result<Self, String> {
        let lab = Lab::new()?;
        let wharf = wharf.to_path_buf();
        let mut contender =
            Self { kind, lab, mtu, wharf, helper: None, container: None, container_pid: None };
        contender.connect()?;
        contender.inside_shell("sysctl -qw net.ipv4.tcp_congestion_control=cubic || true")?;
        Ok(contender)
    }

    fn connect(&mut self) -> Result<(), String> {
        let mtu = self.mtu.to_string();
        let wharf = self.wharf.display().to_string();
        match self.kind {
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
                let words =
                    [wharf.as_str(), "run", "-q", "--mtu", &mtu, "--workers", workers, "--", "sleep", "1000"];
                self.helper = Some(as_user(&self.lab, &words).spawn().map_err(|error| error.to_string())?);
                let helper = self.helper_pid().unwrap_or(0);
                self.container_pid = Some(wait_for(|| grandchild(helper))?);
                self.wait_for_interface("eth0")
            }
            Kind::Slirp4netns => {
                self.unshare()?;
                let pid = self.container_pid.unwrap_or(0).to_string();
                let words = ["slirp4netns", "-c", "-m", &mtu, &pid, "tap0"];
                self.helper = Some(as_user(&self.lab, &words).spawn().map_err(|error| error.to_string())?);
                self.wait_for_interface("tap0")
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
                let words = [
                    "pasta",
                    "-f",
                    "-q",
                    "--config-net",
                    "--no-map-gw",
                    "--mtu",
                    &mtu,
                    "-t",
                    "none",
                    "-u",
                    "none",
                    &pid,
                ];
                self.helper = Some(as_user(&self.lab, &words).spawn().map_err(|error| error.to_string())?);
                self.wait_for_interface("out0")
            }
        }
    }

    /// A bare container for peers that want to be given one.
    fn unshare(&mut self) -> Result<(), String> {
        let child = as_user(&self.lab, &["unshare", "-Urn", "sleep", "1000"])
            .spawn()
            .map_err(|error| error.to_string())?;
        let pid = child.id();
        self.container = Some(child);
        self.container_pid = Some(pid);
        let own = fs::read_link("/proc/self/ns/user").map_err(|error| error.to_string())?;
        wait_for(|| fs::read_link(format!("/proc/{pid}/ns/user")).ok().filter(|other| *other != own))
            .map(drop)?;
        wait_for(|| {
            fs::read_to_string(format!("/proc/{pid}/comm")).ok().filter(|name| name.trim() == "sleep")
        })
        .map(drop)
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
        let wharf = self.wharf.display().to_string();
        let mtu = self.mtu.to_string();
        let words: Vec<&str> = match self.kind {
            Kind::Wharf => vec![&wharf, "run", "-q", "--mtu", &mtu, "--", "true"],
            Kind::Pasta => vec!["pasta", "-q", "--config-net", "--mtu", &mtu, "--", "true"],
            Kind::None | Kind::WharfTwoWorkers | Kind::Slirp4netns | Kind::PastaTuned => return Ok(None),
        };
        let begun = Instant::now();
        let status = as_user(&self.lab, &words).status().map_err(|error| error.to_string())?;
        if !status.success() {
            return Err(format!("{words:?} ended with {status}"));
        }
        Ok(Some(begun.elapsed()))
    }
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

fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> Result<T, String> {
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
        for child in [self.helper.as_mut(), self.container.as_mut()].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
