// SPDX-License-Identifier: MIT OR Apache-2.0
//! `wharf up`: one process as the switches and gateways of many containers, which come and go while it runs.
//!
//! # Path
//! ```text
//! read the file, the host's routes and nameservers
//! take the runtime directory: lock, api.sock, attach.sock
//! open the unix sockets that are published
//! confine this process, while it has one thread
//! start the networks (threads from here on), as the file says and as they were
//! tell the service manager
//! serve: requests, devices, notices of workers, signals, the host's resolv.conf
//! ```
//!
//! # How it works
//! The daemon enters no namespace and opens no device: `wharf attach` does, and passes what it has made. So all that it
//! ever needs is open, or beneath its state directory, before the first packet.
//!
//! # Sources
//! `sd_notify(3)`, `sd_listen_fds(3)`.

mod service;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use rustix::net::SocketType;
use rustix::process::Resource;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::control::api::{self, Ending};
use crate::control::attach;
use crate::control::error::Error as Refusal;
use crate::control::model::Mode;
use crate::control::network::Surroundings;
use crate::control::registry::{DEFAULT_NETWORK, Registry, Told, UnixSockets, Watch};
use crate::control::runtime_dir::{self, API_SOCKET, ATTACH_SOCKET};
use crate::control::spec::{File, FileError, Name, NetworkSpec};
use crate::control::state::State;
use crate::host::{self, SocketLimit};
use crate::netns::Netlink;
use crate::publish::Opened;
use crate::resolv::follow::Follower;
use crate::resolv::{self, ResolvConf};
use crate::sandbox::{self, Files};
use crate::sys::memory::Code;
use crate::sys::readiness;
use crate::sys::signal::{Mask, SignalFd};
use crate::unix;
use service::Service;

/// Clients that may wait.
const BACKLOG: i32 = 128;
/// Held by the daemon as long as it lives.
const LOCK: &str = "lock";

/// What `wharf up` was asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration; without one there is one network called `default`.
    pub config: Option<PathBuf>,
    /// Where addresses are kept; `None` keeps nothing.
    pub state: Option<PathBuf>,
    /// Where the sockets are.
    pub runtime: PathBuf,
    /// Networks that are made while it runs may lead to unix sockets of the host beneath these.
    pub host_sockets: Vec<PathBuf>,
    /// The process is confined.
    pub sandbox: bool,
}

/// Why the daemon does not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A network.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// Another one runs.
    #[error(
        "a daemon with the sockets in {0} runs already; `wharf down` ends it, or give this one a --runtime-dir"
    )]
    Running(PathBuf),
    /// The system.
    #[error("{doing}: {source}")]
    System {
        /// What was to be done.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
}

trait Doing<T> {
    fn doing(self, what: impl Into<String>) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl Into<String>) -> Result<T, Error> {
        self.map_err(|source| Error::System { doing: what.into(), source: source.into() })
    }
}

/// Serves until it is told to stop. The calling process must have no threads yet.
///
/// # Errors
/// See [`Error`].
pub fn up(options: &Options) -> Result<(), Error> {
    let file = match &options.config {
        Some(path) => File::read(path)?,
        None => default_file(),
    };
    let service = Service::new();
    let doors = Doors::open(&options.runtime)?;
    let state = match &options.state {
        Some(directory) => State::open(directory).doing(format!("making {}", directory.display()))?,
        None => State::default(),
    };
    let host = ResolvConf::read(Path::new(resolv::PATH)).unwrap_or_default();
    let UnixSockets { published, connectable } = UnixSockets::of(&file, &state);
    let connectable = connectable.into_iter().chain(options.host_sockets.iter().cloned());
    let around = Surroundings { connectable: connectable.collect(), ..surroundings(&host) };
    let follower = Follower::new(Some(host.nameservers));
    let _ = Mask::block_all();
    let signals = SignalFd::new().doing("listening to signals")?;
    let code = Code::find();
    let opened = Opened::at(published);
    if options.sandbox {
        confine(options, &doors, &around.connectable);
    }
    let (notices, told) = unbounded_channel();
    let registry = Arc::new(Registry::new(Mode::Daemon, around, state, notices));
    registry.restore(options.config.clone(), file, opened)?;
    let watch = Watch::start(&registry).doing("starting")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().doing("starting")?;
    code.release();
    let served = runtime.block_on(serve(&doors, &registry, told, &signals, follower, &service));
    service.stopping();
    doors.remove();
    // A client that is being answered is not waited for.
    runtime.shutdown_background();
    drop(watch);
    served
}

fn default_file() -> File {
    let networks = Name::parse(DEFAULT_NETWORK).map(|name| (name, NetworkSpec::default()));
    File { version: 1, networks: networks.into_iter().collect() }
}

fn surroundings(host: &ResolvConf) -> Surroundings {
    let taken = Netlink::open().and_then(|mut netlink| netlink.ipv4_routes()).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot read the host's routes; a network may hide some of them");
        Vec::new()
    });
    let files = host::raise_open_files(rustix::process::getrlimit(Resource::Nofile));
    Surroundings {
        taken,
        nameservers: host.nameservers.clone(),
        search: host.search.clone(),
        has_ipv6: host::has_ipv6(),
        sockets: SocketLimit::of_process(files),
        connectable: Vec::new(),
    }
}

fn confine(options: &Options, doors: &Doors, connectable: &[PathBuf]) {
    let mut readable = resolv::directories();
    let config = options.config.as_deref().and_then(Path::parent).map(|parent| match parent {
        parent if parent.as_os_str().is_empty() => PathBuf::from("."),
        parent => parent.to_owned(),
    });
    readable.extend(config);
    let writable: Vec<_> = options.state.iter().cloned().collect();
    sandbox::confine_daemon(Files {
        readable: &readable,
        writable: &writable,
        connectable,
        removable: Some(doors.directory.as_fd()),
        ..Files::default()
    });
}

/// The sockets, and what keeps others from taking them.
#[derive(Debug)]
struct Doors {
    directory: OwnedFd,
    /// Locked, until it is closed; `None` when the sockets are the service manager's.
    lock: Option<std::fs::File>,
    api: UnixListener,
    attach: OwnedFd,
}

impl Doors {
    /// Those that the service manager passed, or new ones in `directory`.
    fn open(path: &Path) -> Result<Self, Error> {
        runtime_dir::make(path).doing(format!("making {}", path.display()))?;
        let directory = std::fs::File::open(path).doing(format!("opening {}", path.display()))?.into();
        if let Some((api, attach)) =
            service::passed_sockets().doing("taking the service manager's sockets")?
        {
            return Ok(Self { directory, lock: None, api: api.into(), attach });
        }
        let lock = std::fs::File::options().create(true).truncate(false).write(true).open(path.join(LOCK));
        let lock = lock.doing("making the lock")?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(Error::Running(path.to_owned()));
        }
        let api = listening(path, API_SOCKET, SocketType::STREAM)?.into();
        let attach = listening(path, ATTACH_SOCKET, SocketType::SEQPACKET)?;
        Ok(Self { directory, lock: Some(lock), api, attach })
    }

    /// Takes the sockets' names away, unless they are the service manager's.
    fn remove(&self) {
        if self.lock.is_some() {
            for name in [API_SOCKET, ATTACH_SOCKET] {
                let _ = rustix::fs::unlinkat(&self.directory, name, rustix::fs::AtFlags::empty());
            }
        }
    }
}

fn listening(directory: &Path, name: &str, kind: SocketType) -> Result<OwnedFd, Error> {
    let path = directory.join(name);
    // A daemon that was killed has left it; whoever runs holds the lock.
    let _ = std::fs::remove_file(&path);
    unix::listen(&path, kind, BACKLOG).doing(format!("listening at {}", path.display()))
}

/// Serves until a signal or a client ends it.
async fn serve(
    doors: &Doors,
    registry: &Arc<Registry>,
    told: UnboundedReceiver<Told>,
    signals: &SignalFd,
    mut follower: Follower,
    service: &Service,
) -> Result<(), Error> {
    let attach = doors.attach.try_clone().doing("duplicating a socket")?;
    let mut devices = tokio::spawn(attach::serve(attach, Arc::clone(registry)));
    let signalled = Ready::of(signals).doing("listening to signals")?;
    let changed = follower.watch().map(Ready::of).transpose().doing("watching resolv.conf")?;
    let ending = Ending::default();
    let api = doors.api.try_clone().and_then(tokio::net::UnixListener::from_std).doing("serving the API")?;
    let mut requests = tokio::spawn(api::serve(api, Arc::clone(registry), ending.clone()));
    // Ends with the runtime.
    tokio::spawn(heed_all(Arc::clone(registry), told));
    service.ready();
    loop {
        tokio::select! {
            // Its last answers are given.
            ended = &mut requests => return ended.map_err(io::Error::other).doing("serving the API"),
            ended = &mut devices => {
                return ended.map_err(io::Error::other).and_then(|ended| ended).doing("serving devices");
            }
            ready = signalled.wait() => {
                ready.doing("listening to signals")?;
                while let Some(received) = signals.next() {
                    match received.signal {
                        libc::SIGTERM | libc::SIGINT => ending.begin(),
                        libc::SIGHUP => reload(registry, service).await,
                        _ => {}
                    }
                }
            }
            ready = wait_for(changed.as_ref()) => {
                ready.doing("watching resolv.conf")?;
                if follower.changed() && let Some(servers) = follower.news() {
                    let registry = Arc::clone(registry);
                    // It waits while somebody has the registry's lock.
                    let _ = tokio::task::spawn_blocking(move || registry.set_nameservers(servers)).await;
                }
            }
        }
    }
}

/// Does what notices ask for, in their order. Nothing else waits for that: a keeper that somebody has stopped takes it long.
async fn heed_all(registry: Arc<Registry>, mut told: UnboundedReceiver<Told>) {
    while let Some(notice) = told.recv().await {
        let registry = Arc::clone(&registry);
        // It waits for workers.
        let _ = tokio::task::spawn_blocking(move || registry.heed(notice)).await;
    }
}

async fn reload(registry: &Arc<Registry>, service: &Service) {
    service.reloading();
    let registry = Arc::clone(registry);
    match tokio::task::spawn_blocking(move || registry.reload()).await {
        Ok(Ok(_)) => tracing::info!("reloaded"),
        Ok(Err(error)) => tracing::error!("not reloaded: {error}"),
        Err(error) => tracing::error!(%error, "not reloaded"),
    }
    service.ready();
}

/// A descriptor of somebody else's that becomes readable.
struct Ready(AsyncFd<OwnedFd>);

impl Ready {
    fn of(fd: impl AsFd) -> io::Result<Self> {
        readiness::watch(fd.as_fd().try_clone_to_owned()?, Interest::READABLE).map(Self)
    }

    async fn wait(&self) -> io::Result<()> {
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}

/// Waits for ever for nothing.
async fn wait_for(ready: Option<&Ready>) -> io::Result<()> {
    match ready {
        Some(ready) => ready.wait().await,
        None => std::future::pending().await,
    }
}
