// SPDX-License-Identifier: MIT OR Apache-2.0
//! `wharf up`: a daemon of an ordinary user, and the containers that come and go.
//!
//! ```text
//! container ---+
//! container ---+-- switch and gateway of a network -- wharf (host namespace) -- the lab's internet
//! container ---+
//! ```
//!
//! A container is a process of the same user in user, network and mount namespaces of its own, as rootless tools make
//! them. The daemon is confined as it is by default: one that calls what it may not is killed, and the test with it.

mod activated;
mod adopted;
mod apart;
mod automatic;
mod churn;
mod commands;
mod dhcp;
mod external;
mod flow;
mod forgeries;
mod linked;
mod machines;
mod multicast;
mod outbound;
mod published;
mod reach;
mod refusals;
mod reload;
mod restart;
mod sockets;
mod together;
mod workers;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::lab::{Finished, Lab, NOBODY, PATIENCE, Running, eventually, run, scratch};

/// A daemon on a lab's host. It is told to stop when this is dropped, and has to do so in good order.
pub(crate) struct Daemon {
    pub(crate) lab: Lab,
    /// Its configuration, state and sockets, and what it says.
    home: PathBuf,
    notified: UnixDatagram,
    process: Option<Child>,
}

impl Daemon {
    /// Starts one with this `wharf.toml`, which lacks its version only.
    #[track_caller]
    pub(crate) fn up(lab: Lab, networks: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let home = scratch().join(format!("daemon{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&home).unwrap();
        let uid = NOBODY.parse().unwrap();
        chown(&home, Some(uid), Some(uid)).unwrap();
        let notify = home.join("notify");
        let notified = UnixDatagram::bind(&notify).unwrap();
        fs::set_permissions(&notify, fs::Permissions::from_mode(0o666)).unwrap();
        notified.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut daemon = Self { lab, home, notified, process: None };
        daemon.configure(networks);
        daemon.start();
        daemon
    }

    /// Writes another `wharf.toml`.
    pub(crate) fn configure(&self, networks: &str) {
        fs::write(self.home.join("wharf.toml"), format!("version = 1\n{networks}")).unwrap();
    }

    /// Starts it, again maybe, and waits until it tells the service manager that it is ready.
    #[track_caller]
    pub(crate) fn start(&mut self) {
        assert!(self.process.is_none());
        let home = self.home.display();
        let line = format!("exec $WHARF {} --config {home}/wharf.toml 2>>{home}/log", self.up_options());
        let mut command = self.lab.lasting_user_command(&line);
        let process = command.env("NOTIFY_SOCKET", self.home.join("notify")).stdin(Stdio::null()).spawn();
        self.process = Some(process.unwrap());
        self.wait_for("READY=1");
    }

    fn up_options(&self) -> String {
        format!("up {} --state-dir {}/state", self.sockets(), self.home.display())
    }

    /// The option that leads a command to this daemon.
    pub(crate) fn sockets(&self) -> String {
        format!("--runtime-dir {}/wharf", self.home.display())
    }

    #[track_caller]
    fn wait_for(&self, state: &str) {
        let mut buffer = [0; 256];
        loop {
            let told = self.notified.recv(&mut buffer);
            let length = told.unwrap_or_else(|error| panic!("no {state}: {error}\n{}", self.log()));
            if buffer[..length].starts_with(state.as_bytes()) {
                return;
            }
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.pid().to_string()]).status();
        assert!(status.unwrap().success(), "{}", self.log());
    }

    /// Has it read its `wharf.toml` again, and returns what it says of that.
    #[track_caller]
    pub(crate) fn reload(&self, networks: &str) -> String {
        let before = self.log().len();
        self.configure(networks);
        self.signal("-HUP");
        self.wait_for("RELOADING=1");
        self.wait_for("READY=1");
        self.log().split_off(before)
    }

    /// Kills it, and leaves everything as it is then.
    pub(crate) fn kill(&mut self) {
        self.signal("-KILL");
        self.process.take().unwrap().wait().unwrap();
    }

    /// Tells it to stop, which it has to do in good order.
    pub(crate) fn stop(&mut self) {
        if self.process.is_some() {
            self.signal("-TERM");
            self.ended();
        }
    }

    /// Waits for its end, which has to be in good order.
    pub(crate) fn ended(&mut self) {
        let status = self.process.take().unwrap().wait().unwrap();
        assert!(status.success(), "the daemon ended with {status}: {}", self.log());
    }

    /// What it has said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.home.join("log")).unwrap_or_default()
    }

    /// `wharf attach` by the daemon's user.
    pub(crate) fn attach(&self, target: impl ToString, options: &str) -> Finished {
        self.lab.by_user(&format!("$WHARF attach {} {} {options}", target.to_string(), self.sockets()))
    }

    /// Any other command of `wharf` by the daemon's user.
    pub(crate) fn command(&self, line: &str) -> Finished {
        self.lab.by_user(&format!("$WHARF {line} --socket {}/wharf/api.sock", self.home.display()))
    }

    /// The command behind `wharf run --network ...`, to be started by the test.
    pub(crate) fn run(&self, options: &str, script: &str) -> Command {
        let line = format!("exec $WHARF run {options} {} -- sh -c \"$SCRIPT\"", self.sockets());
        let mut command = self.lab.lasting_user_command(&line);
        command.env("SCRIPT", script);
        command
    }

    /// A new container, attached with these options.
    #[track_caller]
    pub(crate) fn attached(&self, options: &str) -> Container {
        let container = Container::new(&self.lab);
        self.attach(container.pid(), options).text();
        container
    }

    /// A new container under a name that has just lost its container, which the daemon may not have noticed yet.
    #[track_caller]
    pub(crate) fn attached_again(&self, options: &str) -> Container {
        let container = Container::new(&self.lab);
        eventually("the name is free again", || self.attach(container.pid(), options).status == Some(0));
        container
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return self.stop();
        }
        eprintln!("the daemon said:\n{}", self.log());
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// A process in namespaces of its own. It ends when this is dropped.
pub(crate) struct Container {
    process: Running,
}

impl Container {
    /// One on the lab's host, without a network.
    #[track_caller]
    pub(crate) fn new(lab: &Lab) -> Self {
        let script = "exec unshare -Urnm sh -c 'ip link set lo up; echo here; exec sleep 1000'";
        let mut process = Running::start(&mut lab.lasting_user_command(script));
        assert_eq!(process.line(), "here");
        Self { process }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// A command in it, as its root, whose process is the shell: to be started and killed by the test.
    pub(crate) fn command(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid().to_string(), "-U", "-n", "-m", "sh", "-c", script]).current_dir("/");
        command
    }

    /// A shell script in it, as its root.
    pub(crate) fn exec(&self, script: &str) -> Finished {
        let inner = self.command(script);
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "100"]).arg(inner.get_program()).args(inner.get_args()).current_dir("/");
        run(command)
    }

    /// What a script prints that has to succeed, without white space around it.
    #[track_caller]
    pub(crate) fn says(&self, script: &str) -> String {
        self.exec(script).text().trim().to_owned()
    }

    /// Starts a server and waits until it listens on a TCP or UDP port.
    #[track_caller]
    pub(crate) fn serve(&self, line: &str, port: u16) -> Running {
        let server = Running::start(self.command(&format!("exec {line}")).stderr(Stdio::null()));
        let listens = format!("ss -Htuln 'sport = :{port}' | grep -q .");
        eventually(&format!("{line} listens"), || self.exec(&listens).status == Some(0));
        server
    }
}
