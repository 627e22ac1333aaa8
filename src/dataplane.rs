// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads that carry frames: the workers of one network, each woken by epoll.
//!
//! # How it works
//! [`start`] makes the workers; [`Running::attach`] gives each of them its queue of a port. What others want of a worker
//! comes through a mailbox and is done between two of its turns, so nothing here stands still for a
//! port that comes or goes. How long a worker looks for more work before it sleeps is [`PollMode`].
//!
//! # Bounds
//! Without traffic and due timers a worker sleeps in `epoll_wait` and is never woken.

mod driver;
pub mod exchange;
mod idle;
pub mod link;
mod mailbox;
pub mod remarks;
#[cfg(test)]
mod tests;
pub mod worker;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use wharf_stack::{Config, Ownership, PublicationId, Route};
use wharf_switch::{Alarm, Fdb, Instant, Policy, PortId, fdb};

use self::driver::Driver;
use self::exchange::Exchange;
use self::idle::Clock;
pub use self::idle::PollMode;
use self::link::Inlet;
use self::mailbox::Mailbox;
use self::remarks::Remarks;
use self::worker::Worker;
use crate::bell::Bell;
use crate::host::{HostSockets, SocketLimit, Sockets, Ways};
use crate::port::Device;
use crate::publish::{Leaving, Publication, SocketFile};

/// How many workers a network may have.
pub const WORKERS: RangeInclusive<usize> = 1..=64;

/// A worker as it runs.
pub type LiveWorker = Worker<Device, Sockets>;

/// How the workers run.
#[derive(Clone, Default)]
pub struct Options {
    /// How long a worker looks for work before it sleeps.
    pub poll: PollMode,
    /// By what way the network's traffic leaves the host.
    pub ways: Ways,
    /// What ports of the gateway lead to.
    pub host_sockets: HostSockets,
    /// How many sockets the workers may open, together with those of other networks.
    pub socket_limit: SocketLimit,
    /// What is said to the operator when there is reason to.
    pub remarks: Arc<Remarks>,
    /// Who hears of a [`Notice`]. Without anybody a lost worker ends the process, and with it the sandbox: a command whose
    /// network is silently gone would wait for ever.
    pub notify: Option<Notify>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { poll, ways, host_sockets, .. } = self;
        let mut options = f.debug_struct("Options");
        options.field("poll", poll).field("ways", ways).field("host_sockets", host_sockets);
        options.finish_non_exhaustive()
    }
}

/// Hears of a [`Notice`], in the worker's thread, which it must not keep.
pub type Notify = Arc<dyn Fn(Notice) + Send + Sync>;

/// Something that happened to a network without anybody's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A worker found a port's device gone and has detached it. [`Running::detach`] ends it for the others.
    PortClosed(PortId),
    /// Guards stopped frames: told at once, then at most every second.
    Guard(Alarm),
    /// Leases have changed that are worth writing down.
    Leases,
    /// A worker ended, which is a bug. The network does not work without it.
    WorkerLost,
}

/// Running workers. Dropping it stops them.
#[derive(Debug)]
pub struct Running {
    threads: Vec<Thread>,
    ownership: Arc<Ownership>,
    /// Counts ports with a single queue, which go to the workers in turn.
    single_queues: AtomicUsize,
}

#[derive(Debug)]
struct Thread {
    mailbox: Mailbox,
    inlet: Arc<Inlet>,
    handle: Option<JoinHandle<()>>,
}

/// A port that is published, until it is withdrawn or the workers stop.
#[derive(Debug)]
pub struct Published {
    /// The number of the worker that watches it.
    worker: usize,
    id: PublicationId,
    /// The name of its unix socket, which goes with it.
    file: Option<SocketFile>,
}

impl Running {
    /// How many workers there are, and so how many queues a port has at best.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.threads.len()
    }

    /// Attaches a port by the queues of its device. Of a device with one queue, one worker reads, and the others write to
    /// it or hand their frames over. A port that is not alone on its network has a policy: see [`wharf_switch::policy`].
    ///
    /// # Errors
    /// The switch is full, a queue cannot be watched, or the device has another number of queues than one or
    /// [`workers`](Self::workers). The port is not attached.
    pub fn attach(&self, queues: Vec<Device>, policy: Option<&Arc<Policy>>) -> io::Result<PortId> {
        let mut queues = self.one_for_each(queues)?.into_iter();
        let mut threads = self.threads.iter();
        let (Some(first), Some(queue)) = (threads.next(), queues.next()) else { return Err(lost()) };
        let first_policy = policy.cloned();
        let id = first.mailbox.ask(move |driver| driver.attach(queue, first_policy))??;
        for (thread, queue) in threads.zip(queues) {
            let policy = policy.cloned();
            let attached = thread.mailbox.ask(move |driver| driver.attach_as(id, queue, policy));
            if let Err(error) = attached.and_then(|result| result) {
                drop(self.detach(id));
                return Err(error);
            }
        }
        Ok(id)
    }

    /// What each worker is given of a device.
    fn one_for_each(&self, mut queues: Vec<Device>) -> io::Result<Vec<Device>> {
        if queues.len() == 1
            && self.workers() > 1
            && let Some(mut queue) = queues.pop()
        {
            let reader = self.single_queues.fetch_add(1, Ordering::Relaxed) % self.workers();
            for _ in 1..self.workers() {
                queues.push(queue.outlet()?);
            }
            queues.insert(reader, queue);
        }
        if queues.len() == self.workers() {
            return Ok(queues);
        }
        let (queues, workers) = (queues.len(), self.workers());
        Err(io::Error::other(format!("the device has {queues} queues, and the network {workers} workers")))
    }

    /// Takes a port out of every worker's switch. Returns its device, which closes when it is dropped: of a TAP that takes the
    /// kernel some 15 ms, in which nobody else should have to wait.
    #[must_use]
    pub fn detach(&self, id: PortId) -> Vec<Device> {
        // A worker that is gone has no port.
        let detach = |thread: &Thread| thread.mailbox.ask(move |driver| driver.detach(id)).ok().flatten();
        self.threads.iter().filter_map(detach).collect()
    }

    /// Gives a port another policy.
    pub fn set_policy(&self, id: PortId, policy: &Arc<Policy>) {
        for thread in &self.threads {
            let policy = Arc::clone(policy);
            thread.mailbox.send(Box::new(move |driver| {
                driver.worker.set_policy(id, Some(policy));
            }));
        }
    }

    /// Lets what is opened from now on leave the host by other ways, when this returns by every worker.
    pub fn set_ways(&self, ways: &Ways) {
        let ways = ways.clone();
        // A worker that is gone opens nothing.
        let _ = self.ask_all(move |worker, _| worker.host.ways = ways.clone());
    }

    /// Sends queries to other nameservers from now on.
    pub fn set_nameservers(&self, servers: &[SocketAddr]) {
        for thread in &self.threads {
            let servers = servers.to_vec();
            thread.mailbox.send(Box::new(move |driver| driver.worker.gateway.set_nameservers(servers)));
        }
    }

    /// Has ports of the gateway lead to other unix sockets of the host from now on.
    pub fn set_host_sockets(&self, sockets: &HostSockets) {
        for thread in &self.threads {
            let sockets = sockets.clone();
            thread.mailbox.send(Box::new(move |driver| {
                driver.worker.gateway.set_host_sockets(sockets.ports().collect());
                driver.worker.host.host_sockets = sockets;
            }));
        }
    }

    /// Where other networks put packets for this one's containers: the inlet of each worker.
    #[must_use]
    pub fn inlets(&self) -> Vec<Arc<Inlet>> {
        self.threads.iter().map(|thread| Arc::clone(&thread.inlet)).collect()
    }

    /// Routes packets to other networks from now on. `networks` are the [inlets](Self::inlets) of each, in the order of
    /// [`Route::network`]; of one that has lost a worker, none.
    pub fn set_routes(&self, routes: &[Route], networks: &[Vec<Arc<Inlet>>]) {
        for (number, thread) in self.threads.iter().enumerate() {
            let routes = routes.to_vec();
            let inlet_of = |inlets: &Vec<Arc<Inlet>>| inlets.get(number % inlets.len().max(1)).cloned();
            let inlets = networks.iter().map(inlet_of).collect();
            thread.mailbox.send(Box::new(move |driver| {
                driver.worker.links.set(inlets);
                driver.worker.gateway.set_routes(routes);
            }));
        }
    }

    /// Publishes a port.
    ///
    /// # Errors
    /// Its socket cannot be watched, and is closed.
    pub fn publish(&self, Publication { listener, port, file }: Publication) -> io::Result<Published> {
        let worker = self.ownership.of_port(&port);
        let id = self.worker(worker)?.ask(move |driver| driver.worker.publish(port, listener))?;
        id.map(|id| Published { worker, id, file })
            .map_err(|error| io::Error::other(format!("a published port cannot be watched: {error:?}")))
    }

    /// Has a published TCP port lead elsewhere from now on. Its clients find it open all the time.
    pub fn redirect(&self, published: &Published, target: SocketAddr) {
        let &Published { worker, id, .. } = published;
        // Else the worker is gone, and the socket with it.
        let redirect = move |driver: &mut Driver| driver.worker.gateway.redirect(id, target);
        let _ = self.worker(worker).and_then(|worker| worker.ask(redirect));
    }

    /// Ends a port's publication. When this returns, the host's port is free; the name of a unix socket is about to be.
    pub fn withdraw(&self, Published { worker, id, file }: Published) -> Option<Leaving> {
        // Else the worker is gone, and the socket with it.
        let _ = self.worker(worker).and_then(|worker| worker.ask(move |driver| driver.worker.withdraw(id)));
        file.map(SocketFile::let_go)
    }

    /// Asks a worker something between two of its turns, which wait for the answer: it is to be quick. Worker 0 has the
    /// leases and the names.
    ///
    /// # Errors
    /// The worker is gone.
    pub fn ask<T: Send + 'static>(
        &self,
        worker: usize,
        question: impl FnOnce(&mut LiveWorker, Instant) -> T + Send + 'static,
    ) -> io::Result<T> {
        self.worker(worker)?.ask(move |driver| question(&mut driver.worker, driver.clock.now()))
    }

    /// Asks every worker the same.
    ///
    /// # Errors
    /// A worker is gone.
    pub fn ask_all<T: Send + 'static>(
        &self,
        question: impl FnMut(&mut LiveWorker, Instant) -> T + Clone + Send + 'static,
    ) -> io::Result<Vec<T>> {
        (0..self.workers()).map(|number| self.ask(number, question.clone())).collect()
    }

    fn worker(&self, number: usize) -> io::Result<&Mailbox> {
        self.threads.get(number).map(|thread| &thread.mailbox).ok_or_else(lost)
    }

    /// Stops the workers and waits for them.
    pub fn stop(self) {
        drop(self);
    }
}

fn lost() -> io::Error {
    io::Error::other("the worker is gone")
}

impl Drop for Running {
    fn drop(&mut self) {
        for thread in &mut self.threads {
            thread.mailbox.send(Box::new(Driver::stop));
            if let Some(handle) = thread.handle.take() {
                let _ = handle.join();
            }
        }
    }
}

/// Starts the workers of one network, so far without ports.
///
/// # Errors
/// What the kernel said when epoll, eventfd or a thread could not be made.
pub fn start(config: Config, workers: usize, options: &Options) -> io::Result<Running> {
    let workers = workers.max(1);
    let key = config.seed.first_chunk().copied().unwrap_or_default();
    let fdb = Arc::new(Fdb::new(fdb::DEFAULT_CAPACITY, key));
    let ownership = Arc::new(Ownership::new(config.clone(), workers));
    let exchanges = Exchange::new(Arc::clone(&ownership), workers);
    let share = Config {
        memory_bytes: config.memory_bytes / workers,
        max_sockets: config.max_sockets / workers,
        ..config
    };
    let bells = (0..workers).map(|_| Ok(Arc::new(Bell::new()?))).collect::<io::Result<Vec<_>>>()?;
    // One clock: the workers share the forwarding database, which ages.
    let clock = Clock::start();
    // If one cannot be started, those that run are stopped with it.
    let mut running = Running { threads: Vec::new(), ownership, single_queues: AtomicUsize::new(0) };
    for (exchange, bell) in exchanges.into_iter().zip(&bells) {
        let (mailbox, inbox) = Mailbox::new(Arc::clone(bell));
        let name = format!("wharf-{}", exchange.number());
        let mut driver = Driver::new(share.clone(), Arc::clone(&fdb), exchange, &bells, clock, options)?;
        let inlet = Arc::clone(&driver.worker.inlet);
        let handle = std::thread::Builder::new().name(name).spawn(move || driver.run_to_the_end(&inbox))?;
        running.threads.push(Thread { mailbox, inlet, handle: Some(handle) });
    }
    Ok(running)
}
