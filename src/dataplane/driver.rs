// SPDX-License-Identifier: MIT OR Apache-2.0
//! One worker with what wakes it: its thread's loop.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use rustix::event::epoll;
use wharf_stack::Config;
use wharf_stack::host::{HostEvent, Token};
use wharf_switch::{Duration, Fdb, Instant, Policy, Pool, PortId};

use super::exchange::Exchange;
use super::idle::{Clock, Spin};
use super::link::Inlet;
use super::mailbox::Order;
use super::remarks::Remarks;
use super::worker::Worker;
use super::{LiveWorker, Notice, Notify, Options};
use crate::bell::Bell;
use crate::host::{Sockets, Stream};
use crate::port::Device;

/// Frame buffers of each size that a worker keeps for reuse.
const IDLE_FRAMES: usize = 64;
/// Events taken from the kernel at once.
const EVENTS: usize = 256;
/// Exit status of a process whose worker is gone: wharf's own failure.
const WORKER_LOST: i32 = 125;
/// How often it is told whom the guards stop.
const ALARM_INTERVAL: Duration = Duration::from_secs(1);
/// Event data that is no token of a socket: a token's owner makes it larger.
const BELL: u64 = 0;
const FIRST_PORT: u64 = 1;

pub(super) struct Driver {
    pub(super) worker: LiveWorker,
    pub(super) clock: Clock,
    bells: Vec<Arc<Bell>>,
    spin: Spin,
    /// The ports that are watched, each at its place in the port table.
    ports: Vec<Option<PortId>>,
    remarks: Arc<Remarks>,
    notify: Option<Notify>,
    /// When [`Notice::Guard`] was told last.
    alarmed_at: Option<Instant>,
    /// As [`Notice::Leases`] told it last.
    lease_version: u64,
    stopped: bool,
}

/// A worker's end that nobody ordered.
struct CannotWait(rustix::io::Errno);

impl Driver {
    pub(super) fn new(
        config: Config,
        fdb: Arc<Fdb>,
        exchange: Exchange<Stream>,
        bells: &[Arc<Bell>],
        clock: Clock,
        options: &Options,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        if let Some(bell) = bells.get(exchange.number()) {
            epoll::add(&epoll, bell.as_ref(), epoll::EventData::new_u64(BELL), Bell::EVENTS)?;
        }
        let mut sockets = Sockets::new(epoll, options.ways.clone());
        sockets.host_sockets = options.host_sockets.clone();
        sockets.limit = options.socket_limit.clone();
        let number = exchange.number();
        let mut worker = Worker::new(config, fdb, Pool::new(IDLE_FRAMES), sockets, exchange);
        if let Some(bell) = bells.get(number) {
            worker.inlet = Arc::new(Inlet::with_bell(Arc::clone(bell)));
        }
        Ok(Self {
            worker,
            clock,
            bells: bells.to_vec(),
            spin: Spin::new(options.poll),
            ports: Vec::new(),
            remarks: Arc::clone(&options.remarks),
            notify: options.notify.clone(),
            alarmed_at: None,
            lease_version: 0,
            stopped: false,
        })
    }

    /// Attaches a port, of which this worker is the first to hear.
    pub(super) fn attach(&mut self, queue: Device, policy: Option<Arc<Policy>>) -> io::Result<PortId> {
        let id = self.worker.attach(queue, policy).map_err(io::Error::other)?;
        self.watch(id).map(|()| id)
    }

    /// Attaches this worker's queue of a port that another gave its id.
    pub(super) fn attach_as(
        &mut self,
        id: PortId,
        queue: Device,
        policy: Option<Arc<Policy>>,
    ) -> io::Result<()> {
        self.worker.attach_as(id, queue, policy).map_err(io::Error::other)?;
        self.watch(id)
    }

    /// Has the kernel tell of a port, or takes it out again.
    fn watch(&mut self, id: PortId) -> io::Result<()> {
        let place = id.index as usize;
        if self.ports.len() <= place {
            self.ports.resize(place + 1, None);
        }
        if let Some(watched) = self.ports.get_mut(place) {
            *watched = Some(id);
        }
        let Some(port) = self.worker.switch.port(id) else { return Ok(()) };
        let data = epoll::EventData::new_u64(FIRST_PORT + u64::from(id.index));
        let epoll = self.worker.host.epoll();
        let added = port.watched().try_for_each(|(fd, events)| epoll::add(epoll, fd, data, events));
        if added.is_err() {
            self.detach(id);
        }
        Ok(added?)
    }

    pub(super) fn detach(&mut self, id: PortId) -> Option<Device> {
        let port = self.worker.detach(id)?;
        self.forget(id, &port);
        Some(port)
    }

    /// Stops watching a port that is detached. Its descriptor may have a copy elsewhere, so that closing it is not enough.
    fn forget(&mut self, id: PortId, port: &Device) {
        for (fd, _) in port.watched() {
            // Fails for a device that the kernel has taken away.
            let _ = epoll::delete(self.worker.host.epoll(), fd);
        }
        if let Some(watched) = self.ports.get_mut(id.index as usize)
            && *watched == Some(id)
        {
            *watched = None;
        }
    }

    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }

    /// Runs until it is told to stop.
    pub(super) fn run_to_the_end(&mut self, inbox: &Receiver<Order>) {
        let run = std::panic::AssertUnwindSafe(|| self.run(inbox));
        match std::panic::catch_unwind(run) {
            Ok(Ok(())) => return,
            Ok(Err(CannotWait(errno))) => tracing::error!(%errno, "cannot wait for events"),
            // The panic has said what it is.
            Err(_) => {}
        }
        tracing::error!("a worker ended unexpectedly, and its network with it; please report this as a bug");
        match &self.notify {
            Some(notify) => notify(Notice::WorkerLost),
            None => std::process::exit(WORKER_LOST),
        }
    }

    fn run(&mut self, inbox: &Receiver<Order>) -> Result<(), CannotWait> {
        let mut kernel_events = Vec::with_capacity(EVENTS);
        let mut events = Vec::with_capacity(EVENTS);
        while !self.stopped {
            let now = self.clock.now();
            let outlook = self.worker.turn(now, &events);
            self.remarks.heed(self.worker.gateway.drops());
            self.tell_of_changes(now);
            for number in self.worker.exchange.take_wakes() {
                if let Some(bell) = self.bells.get(number) {
                    bell.ring();
                }
            }
            self.worker.links.wake();
            let timeout = self.spin.timeout(&outlook, self.clock.now());
            kernel_events.clear();
            let spare = rustix::buffer::spare_capacity(&mut kernel_events);
            match epoll::wait(self.worker.host.epoll(), spare, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(CannotWait(errno)),
            }
            events.clear();
            for event in &kernel_events {
                let data = event.data.u64();
                if let Some(event) = host_event(data, event.flags) {
                    events.push(event);
                } else if data == BELL {
                    self.obey(inbox);
                } else if let Some(port) = self.port(data) {
                    self.worker.mark_ready(port);
                }
            }
        }
        Ok(())
    }

    /// The port that an event is of. An event of one that has left is its successor's, to whom it does no harm.
    fn port(&self, data: u64) -> Option<PortId> {
        let place = usize::try_from(data.checked_sub(FIRST_PORT)?).ok()?;
        self.ports.get(place).copied().flatten()
    }

    /// Tells whom the guards stopped. Whoever forges a million frames is told of once a second.
    fn tell_of_guards(&mut self, now: Instant) {
        let alarms = &mut self.worker.switch.alarms;
        if alarms.is_empty() || self.alarmed_at.is_some_and(|at| now.since(at) < ALARM_INTERVAL) {
            return;
        }
        self.alarmed_at = Some(now);
        for alarm in alarms.take() {
            if let Some(notify) = &self.notify {
                notify(Notice::Guard(alarm));
            }
        }
    }

    /// Tells what the last turn has changed beyond frames.
    fn tell_of_changes(&mut self, now: Instant) {
        self.tell_of_guards(now);
        let leases = self.worker.gateway.lease_version();
        if leases != self.lease_version {
            self.lease_version = leases;
            if let Some(notify) = &self.notify {
                notify(Notice::Leases);
            }
        }
        while let Some((id, port)) = self.worker.take_closed() {
            self.forget(id, &port);
            close_aside(port);
            if let Some(notify) = &self.notify {
                notify(Notice::PortClosed(id));
            }
        }
    }

    /// Does what others want.
    fn obey(&mut self, inbox: &Receiver<Order>) {
        if let Some(bell) = self.bells.get(self.worker.exchange.number()) {
            bell.silence();
        }
        for order in inbox.try_iter() {
            order(self);
        }
    }
}

/// Closes a device in a thread of its own, as the kernel may take long over it.
fn close_aside(port: Device) {
    // Without a thread it is closed here.
    let _ = std::thread::Builder::new().name("wharf-close".to_owned()).spawn(move || drop(port));
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
