// SPDX-License-Identifier: MIT OR Apache-2.0
//! Namespaces of one measurement: a host and a server, joined by veth or by a long path.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::contender::{Programs, wait_for};
use crate::roles;

/// The host's address, as clients of published ports use it.
pub(crate) const HOST: &str = "203.0.113.1";
/// The server's address, as every contender's client uses it.
pub(crate) const SERVER: &str = "203.0.113.2";
const CUBIC_ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";

/// How far the server is from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Distance {
    Near,
    /// A round trip of so long, and a bottleneck: `roles/long_path.rs`.
    Far(Duration),
}

/// A host and a server namespace; gone when dropped.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) host: String,
    pub(crate) server: String,
    pub(crate) distance: Distance,
    children: Vec<Child>,
}

/// Runs a shell script as root.
pub(crate) fn shell(script: &str) -> Result<String, String> {
    let output = Command::new("sh").args(["-ec", script]).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{script}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Copies a program to a directory where every user can run it, under both its names.
pub(crate) fn install(program: &Path, directory: &Path) -> Result<Programs, String> {
    let (wharf, as_slirp4netns) = (directory.join("wharf"), directory.join("slirp4netns"));
    let copy = || {
        fs::copy(program, &wharf)?;
        fs::hard_link(&wharf, &as_slirp4netns)
    };
    copy().map_err(|error| format!("{}: {error}", program.display()))?;
    Ok(Programs { wharf, as_slirp4netns: as_slirp4netns.display().to_string() })
}

/// Namespaces may choose cubic only where the machine allows it; restored when dropped.
#[derive(Debug)]
pub(crate) struct Allowed(Option<String>);

/// Lets the namespaces of this run use cubic, which is what most hosts do.
pub(crate) fn allow_cubic() -> Result<Allowed, String> {
    let before = fs::read_to_string(CUBIC_ALLOWED).map_err(|error| error.to_string())?;
    if before.split_whitespace().any(|name| name == "cubic") {
        return Ok(Allowed(None));
    }
    fs::write(CUBIC_ALLOWED, format!("{} cubic", before.trim())).map_err(|error| error.to_string())?;
    Ok(Allowed(Some(before)))
}

impl Drop for Allowed {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = fs::write(CUBIC_ALLOWED, before.trim());
        }
    }
}

impl Lab {
    pub(crate) fn new(distance: Distance) -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let id = format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let (host, server) = (format!("ph{id}"), format!("ps{id}"));
        let mut lab = Self { host, server, distance, children: Vec::new() };
        for name in [&lab.host, &lab.server] {
            shell(&format!(
                "ip netns add {name}; ip -n {name} link set lo up
                 ip netns exec {name} sysctl -qw net.ipv4.tcp_congestion_control=cubic"
            ))?;
        }
        match distance {
            Distance::Near => lab.join_by_veth()?,
            Distance::Far(round_trip) => lab.join_by_long_path(round_trip)?,
        }
        let Self { host, server, .. } = &lab;
        shell(&format!(
            "ip -n {host} addr add {HOST}/24 dev out0
             ip -n {server} addr add {SERVER}/24 dev in0
             ip -n {host} link set out0 up; ip -n {server} link set in0 up
             ip -n {host} route add default via {SERVER}; ip -n {server} route add default via {HOST}
             mkdir -p /etc/netns/{host}; echo 'nameserver {SERVER}' > /etc/netns/{host}/resolv.conf"
        ))?;
        Ok(lab)
    }

    fn join_by_veth(&self) -> Result<(), String> {
        let Self { host, server, .. } = self;
        shell(&format!("ip -n {host} link add out0 type veth peer name in0 netns {server}")).map(drop)
    }

    /// Also gives TCP what such a path holds.
    fn join_by_long_path(&mut self, round_trip: Duration) -> Result<(), String> {
        let (own, milliseconds) = (roles::program()?, round_trip.as_millis().to_string());
        let words = [&own, roles::MARKER, "long-path", "out0", "in0", &milliseconds];
        let mut path = Command::new("ip");
        path.args(["netns", "exec", &self.host]).args(words).stdin(Stdio::null()).stdout(Stdio::null());
        self.children.push(path.spawn().map_err(|error| error.to_string())?);
        let Self { host, server, .. } = &*self;
        // The far one is made last.
        wait_for(|| shell(&format!("ip -n {host} link set in0 txqueuelen 10000 netns {server}")).ok())?;
        shell(&format!("ip -n {host} link set out0 txqueuelen 10000"))?;
        for name in [host, server] {
            shell(&format!(
                "ip netns exec {name} sysctl -qw \
                    net.ipv4.tcp_rmem='4096 131072 67108864' net.ipv4.tcp_wmem='4096 16384 67108864'"
            ))?;
        }
        Ok(())
    }

    /// Where slirp4netns listens for requests.
    pub(crate) fn api_socket(&self) -> String {
        std::env::temp_dir().join(format!("{}.sock", self.host)).display().to_string()
    }

    /// Asks slirp4netns to publish a TCP port.
    pub(crate) fn add_hostfwd(&self, port: u16) -> Result<(), String> {
        let request = format!(
            "{{\"execute\":\"add_hostfwd\",\"arguments\":{{\"proto\":\"tcp\",\"host_port\":{port},\"guest_port\":{port}}}}}"
        );
        let ask = || {
            let mut stream = UnixStream::connect(self.api_socket())?;
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        };
        let answer = ask().map_err(|error: std::io::Error| error.to_string())?;
        if answer.contains("\"return\"") { Ok(()) } else { Err(answer) }
    }

    /// A command in the server's namespace.
    pub(crate) fn outside(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.server]).args(words).stdin(Stdio::null());
        command
    }

    /// Runs a program in the server's namespace until the measurement ends.
    pub(crate) fn serve(&mut self, words: &[&str]) -> Result<(), String> {
        let mut command = self.outside(words);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.children.push(child.map_err(|error| error.to_string())?);
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = shell(&format!(
            "ip netns del {}; ip netns del {}; rm -rf /etc/netns/{} {}",
            self.host,
            self.server,
            self.host,
            self.api_socket()
        ));
    }
}
