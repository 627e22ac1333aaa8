// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads that carry frames: one worker each, woken by epoll.
//!
//! # How it works
//! [`start`] gives every worker its queue of the TAP and a thread. What others want of it comes through a [`Mailbox`] and
//! is done between turns. How long a worker looks for more work before it sleeps is [`PollMode`].
//!
//! # Bounds
//! Without traffic and due timers a worker sleeps in `epoll_wait` and is never woken.

pub mod exchange;
mod idle;
mod mailbox;
pub mod remarks;
pub mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

use rustix::event::epoll;
use wharf_stack::host::{HostEvent, Token};
use wharf_stack::{Config, Ownership, PublicationId};
use wharf_switch::{Fdb, Pool, PortId, fdb};

use self::exchange::Exchange;
pub use self::idle::PollMode;
use self::idle::{Clock, Spin};
use self::mailbox::{Bell, Mailbox, Order, answer};
use self::remarks::Remarks;
use self::worker::Worker;
use crate::host::{Sockets, Sources, Stream};
use crate::port::Device;
use crate::publish::Publication;

/// Frame buffers of each size that a worker keeps for reuse.
const IDLE_FRAMES: usize = 64;
/// Events taken from the kernel at once.
const EVENTS: usize = 256;
/// Exit status of a process whose worker is gone: wharf's own failure.
const WORKER_LOST: i32 = 125;
/// Event data that is no token of a socket: a token's owner makes it larger.
const BELL: u64 = 0;
const FIRST_PORT: u64 = 1;

/// How the workers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long a worker looks for work before it sleeps.
    pub poll: PollMode,
    /// The host's addresses that the network's traffic leaves from.
    pub sources: Sources,
}

/// Running workers. Dropping it stops them.
#[derive(Debug)]
pub struct Running {
    threads: Vec<Thread>,
    ownership: Arc<Ownership>,
}

#[derive(Debug)]
struct Thread {
    mailbox: Mailbox,
    handle: Option<JoinHandle<()>>,
}

/// A port that is published, until it is withdrawn or the workers stop.
#[derive(Debug)]
pub struct Published {
    /// The number of the worker that watches it.
    worker: usize,
    id: PublicationId,
}

impl Running {
    /// Sends queries to other nameservers from now on.
    pub fn set_nameservers(&self, servers: Vec<SocketAddr>) {
        for thread in &self.threads {
            thread.mailbox.send(Order::Nameservers(servers.clone()));
        }
    }

    /// Publishes a port.
    ///
    /// # Errors
    /// Its socket cannot be watched, and is closed.
    pub fn publish(&self, publication: Publication) -> io::Result<Published> {
        let worker = self.ownership.of_port(&publication.port);
        let id = self.worker(worker)?.ask(|reply| Order::Publish { publication, reply })?;
        id.map(|id| Published { worker, id })
            .map_err(|error| io::Error::other(format!("a published port cannot be watched: {error:?}")))
    }

    /// Ends a port's publication. When this returns, the host's port is free.
    pub fn withdraw(&self, Published { worker, id }: Published) {
        // Else the worker is gone, and the socket with it.
        let _ = self.worker(worker).and_then(|worker| worker.ask(|reply| Order::Withdraw { id, reply }));
    }

    fn worker(&self, number: usize) -> io::Result<&Mailbox> {
        self.threads
            .get(number)
            .map(|thread| &thread.mailbox)
            .ok_or_else(|| io::Error::other("no such worker"))
    }

    /// Stops the workers and waits for them.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for thread in &mut self.threads {
            thread.mailbox.send(Order::Stop);
            if let Some(handle) = thread.handle.take() {
                let _ = handle.join();
            }
        }
    }
}

/// Starts the gateway of one network on the queues of its device, with one worker for each, which makes `remarks` when
/// there is reason to.
///
/// # Errors
/// What the kernel said when epoll, eventfd or a thread could not be made.
pub fn start(
    config: Config,
    queues: Vec<Device>,
    options: &Options,
    remarks: Remarks,
) -> io::Result<Running> {
    let remarks = Arc::new(remarks);
    let key = config.seed.first_chunk().copied().unwrap_or_default();
    let fdb = Arc::new(Fdb::new(fdb::DEFAULT_CAPACITY, key));
    let ownership = Arc::new(Ownership::new(config.clone(), queues.len()));
    let exchanges = Exchange::new(Arc::clone(&ownership), queues.len());
    let workers = queues.len().max(1);
    let share = Config {
        memory_bytes: config.memory_bytes / workers,
        max_sockets: config.max_sockets / workers,
        ..config
    };
    let bells = queues.iter().map(|_| Ok(Arc::new(Bell::new()?))).collect::<io::Result<Vec<_>>>()?;
    // One clock: the workers share the forwarding database, which ages.
    let clock = Clock::start();
    let mut threads = Vec::new();
    for ((queue, exchange), bell) in queues.into_iter().zip(exchanges).zip(&bells) {
        let (mailbox, inbox) = Mailbox::new(Arc::clone(bell));
        let name = format!("wharf-{}", exchange.number());
        let mut driver =
            Driver::new(share.clone(), Arc::clone(&fdb), queue, exchange, &bells, clock, options)?;
        driver.remarks = Arc::clone(&remarks);
        let handle = std::thread::Builder::new().name(name).spawn(move || driver.run_to_the_end(&inbox))?;
        threads.push(Thread { mailbox, handle: Some(handle) });
    }
    Ok(Running { threads, ownership })
}

/// One worker with what wakes it.
struct Driver {
    worker: Worker<Device, Sockets>,
    bells: Vec<Arc<Bell>>,
    clock: Clock,
    spin: Spin,
    ports: Vec<PortId>,
    remarks: Arc<Remarks>,
}

impl Driver {
    fn new(
        config: Config,
        fdb: Arc<Fdb>,
        queue: Device,
        exchange: Exchange<Stream>,
        bells: &[Arc<Bell>],
        clock: Clock,
        options: &Options,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        if let Some(bell) = bells.get(exchange.number()) {
            epoll::add(&epoll, bell.as_ref(), epoll::EventData::new_u64(BELL), Bell::EVENTS)?;
        }
        epoll::add(&epoll, &queue, epoll::EventData::new_u64(FIRST_PORT), queue.events())?;
        let sockets = Sockets::new(epoll, options.sources);
        let mut worker = Worker::new(config, fdb, Pool::new(IDLE_FRAMES), sockets, exchange);
        let port = worker.attach(queue, None).map_err(io::Error::other)?;
        Ok(Self {
            worker,
            bells: bells.to_vec(),
            clock,
            spin: Spin::new(options.poll),
            ports: vec![port],
            remarks: Arc::default(),
        })
    }

    /// Runs until it is told to stop. A worker that cannot go on ends the process, and with it the sandbox: a command
    /// whose network is silently gone would wait for ever.
    fn run_to_the_end(&mut self, inbox: &Receiver<Order>) {
        let run = std::panic::AssertUnwindSafe(|| self.run(inbox));
        if std::panic::catch_unwind(run).ok() != Some(true) {
            tracing::error!(
                "a worker ended unexpectedly, and the sandbox with it; please report this as a bug"
            );
            std::process::exit(WORKER_LOST);
        }
    }

    /// Returns whether it was told to stop.
    fn run(&mut self, inbox: &Receiver<Order>) -> bool {
        let mut kernel_events = Vec::with_capacity(EVENTS);
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            let now = self.clock.now();
            let outlook = self.worker.turn(now, &events);
            self.remarks.heed(self.worker.gateway.drops());
            for number in self.worker.exchange.take_wakes() {
                if let Some(bell) = self.bells.get(number) {
                    bell.ring();
                }
            }
            let timeout = self.spin.timeout(&outlook, self.clock.now());
            kernel_events.clear();
            let spare = rustix::buffer::spare_capacity(&mut kernel_events);
            match epoll::wait(self.worker.host.epoll(), spare, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => {
                    tracing::error!(%errno, "cannot wait for events");
                    return false;
                }
            }
            events.clear();
            for event in &kernel_events {
                let data = event.data.u64();
                if let Some(event) = host_event(data, event.flags) {
                    events.push(event);
                } else if data == BELL {
                    if !self.obey(inbox) {
                        return true;
                    }
                } else if let Some(&port) =
                    data.checked_sub(FIRST_PORT).and_then(|at| self.ports.get(usize::try_from(at).ok()?))
                {
                    self.worker.mark_ready(port);
                }
            }
        }
    }

    /// Applies orders. Returns whether the worker goes on.
    fn obey(&mut self, inbox: &Receiver<Order>) -> bool {
        if let Some(bell) = self.bells.get(self.worker.exchange.number()) {
            bell.silence();
        }
        for order in inbox.try_iter() {
            match order {
                Order::Nameservers(servers) => self.worker.gateway.set_nameservers(servers),
                Order::Publish { publication: Publication { listener, port }, reply } => {
                    answer(&reply, self.worker.publish(port, listener));
                }
                Order::Withdraw { id, reply } => {
                    self.worker.withdraw(id);
                    answer(&reply, ());
                }
                Order::Stop => return false,
            }
        }
        true
    }
}

fn host_event(data: u64, flags: epoll::EventFlags) -> Option<HostEvent> {
    let token = Token::unpack(data)?;
    let error = flags.contains(epoll::EventFlags::ERR);
    // Reading stops at an urgent mark although there is more: such a socket is read until it has nothing.
    let hangup = flags.intersects(epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::PRI);
    Some(HostEvent {
        token,
        readable: flags.contains(epoll::EventFlags::IN),
        writable: flags.contains(epoll::EventFlags::OUT),
        error: error || hangup,
    })
}
