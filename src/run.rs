// SPDX-License-Identifier: MIT OR Apache-2.0
//! `wharf run`: a command in namespaces of its own, and this process as its gateway.
//!
//! # Path
//! ```text
//! wharf (one thread)                          init (PID 1 inside)
//! plan addresses, read resolv.conf
//! clone ------------------------------------> arm death signal; TAP, addresses, routes
//! write id maps ------------- Mapped -------> resolv.conf, /proc, host name
//!   <------------------------ Device + fds --
//! bind published ports, confine this process
//! start the data plane (threads from here on)
//!   ------------------------- Go -----------> start the command (PID 2)
//! signals, resolv.conf                        reap, cover resolv.conf again
//!   <------------------------ Exited --------
//! ```

pub mod idmap;

mod door;
mod error;
mod gateway;
mod init;
mod messages;
mod supervise;
mod sysfs;
mod terminal;

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, pidfd_open};
use wharf_stack::Config;

use door::Door;
use error::Doing as _;
pub use error::Error;
use gateway::Gateway;
use init::Setup;
use messages::{FromInit, ToInit};
use supervise::{Served, Supervisor};

use crate::channel::Channel;
use crate::control::attach::{Handed, Life};
use crate::control::network::{AttachRequest, Network, Sandbox};
use crate::control::registry::{Registry, Watch};
use crate::control::spec::{PortWish, Text};
use crate::dataplane::{self, PollMode, remarks::Remarks};
use crate::doctor::{self, advice};
use crate::host::{self, HostSocket, HostSockets};
use crate::netns::plan::{Plan, Wishes};
use crate::netns::{DeviceChoice, DeviceKind, INTERFACE, SockDiag};
use crate::port::{Device, Tap};
use crate::publish::{self, Opened};
use crate::resolv::{self, ResolvConf};
use crate::sandbox::{self, Files};
use crate::sys::memory::Code;
use crate::sys::process::{Cloned, clone_into_namespaces};
use crate::sys::signal::{Mask, default_child_signal};

/// What `wharf run` was asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// Largest IP packet on the link, in bytes.
    pub mtu_bytes: usize,
    /// The kind of device.
    pub device: DeviceChoice,
    /// The addresses.
    pub wishes: Wishes,
    /// Nameservers instead of the host's.
    pub dns: Vec<SocketAddr>,
    /// The gateway keeps answers for as long as they hold.
    pub dns_cache: bool,
    /// Search domains instead of the host's.
    pub search: Vec<String>,
    /// The sandbox's host name instead of the host's.
    pub hostname: Option<String>,
    /// Ports of the host that lead into the sandbox.
    pub publish: Vec<PortWish>,
    /// The gateway's address leads to the host's loopback.
    pub host_loopback: bool,
    /// Ports of the gateway that lead to unix sockets of the host.
    pub host_sockets: Vec<HostSocket>,
    /// 169.254.0.0/16 is reachable.
    pub allow_link_local: bool,
    /// User and group ids inside.
    pub ids: idmap::Mode,
    /// Threads that carry packets; each has a queue of the device.
    pub workers: usize,
    /// What an idle one of them does.
    pub poll: PollMode,
    /// Bytes of stream data the relay may hold.
    pub memory_bytes: usize,
    /// The gateway process is confined.
    pub sandbox: bool,
    /// A daemon's network instead of one of its own.
    pub join: Option<Join>,
}

/// A daemon's network that a sandbox joins.
#[derive(Clone, Debug)]
pub struct Join {
    /// The daemon's socket for devices.
    pub socket: PathBuf,
    /// The network, and what the sandbox is called there.
    pub request: AttachRequest,
}

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It exited with this status.
    Exited(i32),
    /// This signal ended it.
    Killed(i32),
    /// It could not be started: the error of `execvp`.
    NotStarted(i32),
}

impl Outcome {
    /// The status for wharf's own caller, as shells count: 126 for a command that cannot be executed, 127 for one that
    /// was not found, 128 + n for signal n.
    #[must_use]
    pub fn exit_status(self) -> u8 {
        let status = match self {
            Self::Exited(status) => status,
            Self::Killed(signal) => 128 + signal,
            Self::NotStarted(libc::ENOENT) => 127,
            Self::NotStarted(_) => 126,
        };
        u8::try_from(status & 0xff).unwrap_or(u8::MAX)
    }
}

/// Runs a command to its end. The calling process must have no threads yet.
///
/// # Errors
/// See [`Error`]; the command did not run, or what became of it is unknown.
pub fn run(options: &Options) -> Result<Outcome, Error> {
    let host = ResolvConf::read(Path::new(resolv::PATH)).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot read {}", resolv::PATH);
        ResolvConf::default()
    });
    let gateway = match &options.join {
        None => Gateway::own(options, &host)?,
        Some(join) => Gateway::of_daemon(join)?,
    };
    let (ours, theirs) = Channel::pair().doing("making a socket pair")?;
    let nofile = rustix::process::getrlimit(Resource::Nofile);
    let setup = Setup {
        interface: gateway.interface(options),
        device: options.device,
        watched: gateway.watched(options),
        hostname: options.hostname.clone(),
        resolv_conf: gateway.resolv_conf(&host),
        command: options.command.clone(),
        mask: Mask::block_all(),
        nofile,
    };
    default_child_signal();
    let cloned = clone_into_namespaces().map_err(|error| Error::Namespaces(advice::namespaces(&error)))?;
    let Cloned::Parent(init) = cloned else { init::main(&setup, &theirs) };
    drop(theirs);
    let guard = Guard { init };
    let status = serve(options, gateway, init, ours, nofile);
    drop(guard);
    status
}

/// The parent's part after the clone, to the end of the command.
fn serve(
    options: &Options,
    gateway: Gateway,
    init: Pid,
    channel: Channel,
    nofile: Rlimit,
) -> Result<Outcome, Error> {
    let written = idmap::write(init, options.ids, idmap::Caller::current())
        .map_err(|error| failure_of_init(init, &channel).unwrap_or(error.into()))?;
    if let Some(reason) = written.fell_back {
        tracing::info!("only your own user id exists in the sandbox: {}", reason.advice());
    }
    let mapped = ToInit::Mapped { ping_groups: written.ping_groups };
    // A failure of init says more than this send's own: it is read below.
    drop(channel.send(&mapped, &[]));
    let (kind, mut queues) = receive_device(&channel)?;
    let has_view = !gateway.watched(options).is_empty();
    let view = if has_view { queues.pop() } else { None };
    let offloads = queues.first().and_then(|queue| Tap::negotiate(queue).ok()).unwrap_or(Tap::OFFLOADS);
    match gateway {
        Gateway::Own { plan, config } => {
            let config = Config { max_sockets: host::raise_open_files(nofile), ..*config };
            let queues = queues.into_iter().map(|queue| Device::Tap(Tap::new(queue, offloads))).collect();
            let view =
                view.map(SockDiag::try_from).transpose().doing("taking the view of the sandbox's sockets")?;
            serve_here(options, &plan, config, kind, Inside { queues, view }, init, channel)
        }
        Gateway::Daemon { client, .. } => {
            let life = pidfd_open(init, PidfdFlags::empty()).doing("watching the sandbox's init")?;
            let handed = Handed {
                kind: kind.into(),
                uso: offloads.uso,
                vnet_header: true,
                is_borrowed: false,
                interface: Some(INTERFACE.to_owned()),
                life: Life::Process,
                has_view,
            };
            queues.extend(view);
            let port = client.hand_over(handed, &queues, Some(&life))?;
            drop(queues);
            tracing::info!("the sandbox is {} on network {}", port.name, port.network);
            let supervisor = Supervisor::new(init, channel, None)?;
            let code = Code::find();
            if options.sandbox {
                sandbox::confine(init, Files { readable: &resolv::directories(), ..Files::default() });
            }
            supervisor.run(None, code)
        }
    }
}

/// Serves the sandbox's device in this process.
fn serve_here(
    options: &Options,
    plan: &Plan,
    config: Config,
    kind: DeviceKind,
    Inside { queues, view }: Inside,
    init: Pid,
    channel: Channel,
) -> Result<Outcome, Error> {
    let requests: Vec<_> = options.publish.iter().filter_map(PortWish::request).cloned().collect();
    let claims = Opened::of(&requests).and_then(|mut opened| publish::bind(&requests, &mut opened));
    let claims = claims.map_err(publish::Error::naming_holder)?;
    if tracing::enabled!(tracing::Level::INFO) {
        say_degraded();
    }
    let follow = options.dns.is_empty().then(|| config.nameservers.clone());
    let supervisor = Supervisor::new(init, channel, follow)?;
    let door = Door::open();
    let remarks = Remarks::new(
        doctor::when_needed(config.memory_bytes).map(|(reason, advice)| (reason, advice.to_string())),
    );
    let code = Code::find();
    // Everything that the next would forbid is open now, and there is still one thread.
    if options.sandbox {
        let connectable: Vec<_> =
            options.host_sockets.iter().map(|socket| socket.directory().to_owned()).collect();
        sandbox::confine(
            init,
            Files {
                readable: &resolv::directories(),
                clearable: door.as_ref().map(Door::runtime),
                connectable: &connectable,
                ..Files::default()
            },
        );
    }
    let dataplane = dataplane::Options {
        poll: options.poll,
        host_sockets: HostSockets::new(&options.host_sockets).doing("leading to the host's sockets")?,
        remarks: Arc::new(remarks),
        ..dataplane::Options::default()
    };
    let running = dataplane::start(config.clone(), queues.len(), &dataplane).doing("starting the gateway")?;
    let port = running.attach(queues, None).doing("attaching the sandbox")?;
    let network = Network::of_sandbox(Sandbox {
        running,
        config,
        has_own_dns: !options.dns.is_empty(),
        host_sockets: options.host_sockets.clone(),
        port,
        kind: kind.into(),
        member: gateway::member(plan),
        interface: INTERFACE.to_owned(),
        publish: options.publish.iter().cloned().map(Text).collect(),
        view,
    });
    let is_watched = !network.watched().is_empty();
    let registry = Arc::new(Registry::of_run(network));
    for claim in claims {
        claim.announce(plan.container());
        registry.publish_claim(claim)?;
    }
    let watch =
        is_watched.then(|| Watch::start(&registry)).transpose().doing("watching the sandbox's sockets")?;
    supervisor.run(Some(Served { registry, door, _watch: watch }), code)
}

/// What the sandbox's init has opened inside.
struct Inside {
    queues: Vec<Device>,
    view: Option<SockDiag>,
}

fn say_degraded() {
    for point in doctor::of_this_process().into_iter().filter(|point| !point.ok) {
        tracing::info!("{}; to mend it: {}", point.found, point.remedy.unwrap_or_default());
    }
}

/// Kills and reaps init when it is dropped, so that no way out of [`run`] leaves a sandbox or a zombie behind.
struct Guard {
    init: Pid,
}

impl Drop for Guard {
    fn drop(&mut self) {
        use rustix::process::{Signal, WaitOptions, kill_process, waitpid};
        let _ = kill_process(self.init, Signal::KILL);
        let _ = rustix::io::retry_on_intr(|| waitpid(Some(self.init), WaitOptions::empty()));
    }
}

/// Waits for the device with its queues, passing on what else init says.
fn receive_device(channel: &Channel) -> Result<(DeviceKind, Vec<OwnedFd>), Error> {
    loop {
        let received = channel.receive::<FromInit>().doing("listening to the sandbox")?;
        let Some((message, fds)) = received else { return Err(Error::InitKilled) };
        match message {
            FromInit::Device(kind) => {
                tracing::debug!(?kind, queues = fds.len(), "device ready");
                return Ok((kind, fds));
            }
            FromInit::Note(text) => tracing::info!("{text}"),
            FromInit::Warning(text) => tracing::warn!("{text}"),
            other => match failure(other) {
                Some(error) => return Err(error),
                None => tracing::debug!("unexpected message"),
            },
        }
    }
}

/// The error that a message of init stands for.
fn failure(message: FromInit) -> Option<Error> {
    match message {
        FromInit::NoDevice { errno, choice } => {
            Some(Error::Device(advice::device(&io::Error::from_raw_os_error(errno), choice)))
        }
        FromInit::Failed { step, errno } => Some(Error::Sandbox { step, errno }),
        _ => None,
    }
}

/// Ends init and looks whether it failed by itself, in which case it is no wonder that its ids could not be mapped.
fn failure_of_init(init: Pid, channel: &Channel) -> Option<Error> {
    // An error means that it is gone already.
    let _ = rustix::process::kill_process(init, rustix::process::Signal::KILL);
    while let Ok(Some((message, _))) = channel.receive::<FromInit>() {
        if let Some(error) = failure(message) {
            return Some(error);
        }
    }
    None
}
