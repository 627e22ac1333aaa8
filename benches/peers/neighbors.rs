// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two containers on one network, for what is measured between them: the switch alone, without a gateway.
//!
//! ```text
//! limit:  container -- veth -- kernel bridge -- veth -- container
//! vde:    container -- TAP -- vde_plug2tap -- vde_switch -- vde_plug2tap -- TAP -- container
//! wharf:  container -- TAP -- wharf up -- TAP -- container
//! ```

use std::fs;
use std::process::{Child, Command, Stdio};

use crate::contender::{Contender, Kind, as_user, bare_container, wait_for};
use crate::lab::{Lab, shell};
use crate::scratch::Scratch;

/// The addresses of the two.
const ADDRESSES: [&str; 2] = ["10.0.2.10", "10.0.2.11"];
/// Where the second one is reached by the first.
pub(crate) const SECOND: &str = ADDRESSES[1];

/// Two containers and what joins them.
pub(crate) struct Neighbors<'a> {
    lab: &'a Lab,
    containers: Vec<Child>,
    /// The programs that join them, and servers.
    programs: Vec<Child>,
    directory: Scratch,
}

impl<'a> Neighbors<'a> {
    /// Makes them in the contender's lab, joined as its kind does it.
    pub(crate) fn start(contender: &'a Contender) -> Result<Self, String> {
        let lab = &contender.lab;
        let directory = Scratch::open_to_all();
        let mut neighbors = Self { lab, containers: Vec::new(), programs: Vec::new(), directory };
        for _ in ADDRESSES {
            neighbors.containers.push(bare_container(lab)?);
        }
        match contender.kind {
            Kind::Vde => neighbors.join_by_vde(contender.mtu)?,
            Kind::Wharf => neighbors.join_by_wharf(contender, 1)?,
            Kind::WharfTwoWorkers => neighbors.join_by_wharf(contender, 2)?,
            _ => neighbors.join_by_bridge(contender.mtu)?,
        }
        for number in 0..ADDRESSES.len() {
            neighbors.root_in(number, "sysctl -qw net.ipv4.tcp_congestion_control=cubic || true")?;
        }
        wait_for(|| neighbors.root_in(0, &format!("ping -c1 -W1 {SECOND}")).ok())?;
        Ok(neighbors)
    }

    fn join_by_bridge(&self, mtu: u32) -> Result<(), String> {
        let host = &self.lab.host;
        shell(&format!("ip -n {host} link add br0 mtu {mtu} type bridge; ip -n {host} link set br0 up"))?;
        for (number, container) in self.containers.iter().enumerate() {
            shell(&format!(
                "ip -n {host} link add port{number} mtu {mtu} master br0 type veth \
                    peer name eth0 mtu {mtu} netns {}
                 ip -n {host} link set port{number} up",
                container.id()
            ))?;
            self.configure(number, "eth0", mtu)?;
        }
        Ok(())
    }

    fn join_by_vde(&mut self, mtu: u32) -> Result<(), String> {
        let socket = self.directory.join("switch").display().to_string();
        // It ends with its standard input.
        let switch = as_user(self.lab, &["vde_switch", "-s", &socket]).stdin(Stdio::piped()).spawn();
        self.programs.push(switch.map_err(|error| error.to_string())?);
        wait_for(|| fs::metadata(format!("{socket}/ctl")).ok())?;
        for number in 0..ADDRESSES.len() {
            self.spawn(number, &["vde_plug2tap", "-s", &socket, "eth0"])?;
            wait_for(|| self.root_in(number, "ip link show dev eth0").ok())?;
            self.configure(number, "eth0", mtu)?;
        }
        Ok(())
    }

    fn join_by_wharf(&mut self, contender: &Contender, workers: u32) -> Result<(), String> {
        let directory = self.directory.display().to_string();
        let (config, run, state) =
            (format!("{directory}/wharf.toml"), format!("{directory}/run"), format!("{directory}/state"));
        let mtu = contender.mtu;
        let text = format!(
            "version = 1\n[networks.default]\nipv4 = \"10.0.2.0/24\"\nmtu = {mtu}\nworkers = {workers}\n"
        );
        fs::write(&config, text).map_err(|error| format!("{config}: {error}"))?;
        let wharf = contender.wharf();
        let words = [&wharf, "up", "--config", &config, "--runtime-dir", &run, "--state-dir", &state]
            .map(AsRef::as_ref);
        let daemon = as_user(self.lab, &words).spawn();
        self.programs.push(daemon.map_err(|error| error.to_string())?);
        wait_for(|| fs::metadata(format!("{run}/attach.sock")).ok())?;
        for (container, address) in self.containers.iter().zip(ADDRESSES) {
            let pid = container.id().to_string();
            let words = [&wharf, "attach", &pid, "--runtime-dir", &run, "--ip", address];
            let status = as_user(self.lab, &words).status().map_err(|error| error.to_string())?;
            if !status.success() {
                return Err(format!("{words:?} ended with {status}"));
            }
        }
        Ok(())
    }

    fn configure(&self, number: usize, interface: &str, mtu: u32) -> Result<(), String> {
        let address = ADDRESSES.get(number).copied().unwrap_or_default();
        self.root_in(
            number,
            &format!("ip link set {interface} mtu {mtu} up; ip addr add {address}/24 dev {interface}"),
        )
    }

    fn inside(&self, number: usize, words: &[&str]) -> Command {
        let pid = self.containers.get(number).map_or(0, Child::id).to_string();
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "-U", "-n", "--"]).args(words).stdin(Stdio::null());
        command
    }

    /// Runs a program in a container until the measurement ends.
    fn spawn(&mut self, number: usize, words: &[&str]) -> Result<(), String> {
        let child = self.inside(number, words).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.programs.push(child.map_err(|error| error.to_string())?);
        Ok(())
    }

    fn root_in(&self, number: usize, script: &str) -> Result<(), String> {
        let output =
            self.inside(number, &["sh", "-ec", script]).output().map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(()) } else { Err(format!("{script}: {said}")) }
    }

    /// A command in the first container.
    pub(crate) fn first(&self, words: &[&str]) -> Command {
        self.inside(0, words)
    }

    /// Runs a program in the second container until the measurement ends.
    pub(crate) fn serve(&mut self, words: &[&str]) -> Result<(), String> {
        self.spawn(1, words)
    }
}

impl Drop for Neighbors<'_> {
    fn drop(&mut self) {
        for child in self.programs.iter_mut().chain(&mut self.containers) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
