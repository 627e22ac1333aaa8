// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sandbox's PID 1: makes the namespaces habitable, starts the command, reaps, and tells wharf what happens.
//!
//! # How it works
//! Init is a copy of wharf's process without its descriptors. All its signals are blocked and read from a
//! descriptor, so one poll over that and the channel to wharf is its whole life; there is no timer, but for the moment
//! a vanished resolv.conf is waited for. It dies with wharf twice over: by its parent-death signal, armed before
//! anything else, and by the end of the channel, which also covers a wharf that died before the signal was armed. With
//! PID 1 the kernel ends everything else in the PID namespace.
//!
//! # Bounds
//! One message of at most 8 KiB at a time; nothing grows.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{DumpableBehavior, Pid, Rlimit, Signal, WaitOptions};

use super::messages::{FromInit, ToInit};
use super::sysfs;
use super::terminal::foreground_is_ours;
use crate::channel::Channel;
use crate::control::model::Transport;
use crate::doctor::advice;
use crate::netns::{self, Device, DeviceChoice, INTERFACE, Interface, SockDiag, Wanted};
use crate::resolv;
use crate::resolv::mount::Cover;
use crate::sys::process::{close_all_except, exit_now, process_group, spawn};
use crate::sys::signal::{self, Mask, SignalFd};

/// All that init needs to know; it comes with the copied memory.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) interface: Interface,
    pub(super) device: DeviceChoice,
    /// What sockets wharf is to see.
    pub(super) watched: BTreeSet<Transport>,
    pub(super) hostname: Option<String>,
    pub(super) resolv_conf: String,
    pub(super) command: Vec<OsString>,
    /// The signal mask wharf was started with.
    pub(super) mask: Mask,
    /// The limit of open files wharf was started with.
    pub(super) nofile: Rlimit,
}

/// Why the sandbox cannot be made.
struct Failure {
    step: String,
    errno: Option<i32>,
}

impl Failure {
    fn new(step: impl Into<String>, error: &io::Error) -> Self {
        let step = step.into();
        match error.raw_os_error() {
            Some(errno) => Self { step, errno: Some(errno) },
            None => Self { step: format!("{step}: {error}"), errno: None },
        }
    }
}

/// A signal for the whole process group reaches init too; one that wharf forwards within this time is that same one.
const SAME_SIGNAL: Duration = Duration::from_millis(100);

/// How often, and after how long, covering the file is tried again when it failed.
const COVER_RETRIES: u32 = 10;
const COVER_RETRY: Duration = Duration::from_secs(1);

/// How long a host may take between removing its resolv.conf and writing another.
const REPLACEMENT: Duration = Duration::from_millis(300);

/// Runs init and never returns.
pub(super) fn main(setup: &Setup, channel: &Channel) -> ! {
    let run = std::panic::AssertUnwindSafe(|| {
        if let Err(failure) = live(setup, channel) {
            // If wharf is gone there is nobody to tell.
            drop(channel.send(&FromInit::Failed { step: failure.step, errno: failure.errno }, &[]));
        }
    });
    if std::panic::catch_unwind(run).is_err() {
        let step = "serving the command: this is a bug of wharf, please report it".to_owned();
        drop(channel.send(&FromInit::Failed { step, errno: None }, &[]));
    }
    exit_now(125)
}

fn live(setup: &Setup, channel: &Channel) -> Result<(), Failure> {
    let armed = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    armed.map_err(|e| Failure::new("asking to be killed with wharf", &e.into()))?;
    close_all_except(channel.raw_fd());
    let _ = rustix::thread::set_name(c"wharf-init");

    cable(setup, channel)?;
    let Some(ToInit::Mapped { ping_groups }) = receive(channel)? else { return Ok(()) };
    // From here on the command's root must not look into our memory, a copy of wharf's, or take our descriptors.
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let cover = furnish(setup, channel, ping_groups)?;
    let mut init = loop {
        match receive(channel)? {
            Some(ToInit::Go) => break start(setup, channel, cover)?,
            Some(_) => {}
            None => return Ok(()),
        }
    };
    init.serve()
}

fn receive(channel: &Channel) -> Result<Option<ToInit>, Failure> {
    let message = channel.receive::<ToInit>().map_err(|e| Failure::new("listening to wharf", &e))?;
    Ok(message.map(|(message, _)| message))
}

/// Makes the device and sends its queues to wharf.
fn cable(setup: &Setup, channel: &Channel) -> Result<(), Failure> {
    let wanted = Wanted {
        choice: setup.device,
        name: INTERFACE,
        queues: setup.interface.queues,
        mtu_bytes: setup.interface.mtu_bytes,
        lasting: true,
    };
    let device = match Device::open(wanted) {
        Ok(device) => device,
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            let _ = channel.send(&FromInit::NoDevice { errno, choice: setup.device }, &[]);
            exit_now(0)
        }
    };
    let warnings =
        netns::configure(INTERFACE, &setup.interface).map_err(|f| Failure::new(f.step, &f.source))?;
    let view = SockDiag::of(setup.watched.iter().copied());
    let view = view.map_err(|e| Failure::new("looking at what listens in the sandbox", &e))?;
    let view = view.as_ref().map(AsFd::as_fd);
    let fds: Vec<BorrowedFd<'_>> = device.queues.iter().map(AsFd::as_fd).chain(view).collect();
    if let Some(error) = device.fell_back {
        let text = format!("a veth pair takes the place of a TAP: {}", advice::tap(&error));
        let _ = channel.send(&FromInit::Note(text), &[]);
    }
    let sent = channel.send(&FromInit::Device(device.kind), &fds);
    sent.map_err(|e| Failure::new("handing the device to wharf", &e))?;
    for warning in warnings {
        drop(channel.send(&FromInit::Warning(warning), &[]));
    }
    Ok(())
}

/// Everything else the command finds: /proc, names, permissions.
fn furnish(setup: &Setup, channel: &Channel, (first, last): (u32, u32)) -> Result<Cover, Failure> {
    // Mounts of the host go on appearing inside; ours must not appear outside. The kernel has seen to that already,
    // as our user namespace does not own the host's mounts; and "/" need not be a mount.
    let _ = mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC);
    let warn = |text: String| drop(channel.send(&FromInit::Warning(text), &[]));
    let mut cover = Cover::new(setup.resolv_conf.clone());
    if let Err(error) = cover.keep() {
        warn(format!(
            "cannot put a resolv.conf of the sandbox's own over {}: {error}; names may not resolve",
            resolv::PATH
        ));
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    if let Err(error) = mount("proc", "/proc", "proc", flags, None) {
        warn(format!(
            "cannot mount a /proc of the sandbox's own ({error}): ps and the like show the host's processes; this is \
             how it is inside containers whose /proc is partly hidden"
        ));
    }
    if let Err(error) = sysfs::mount_own() {
        let text =
            format!("cannot mount a /sys of the sandbox's own ({error}): it shows the host's interfaces");
        let _ = channel.send(&FromInit::Note(text), &[]);
    }
    let groups = format!("{first}\t{last}");
    if let Err(error) = fs::write("/proc/sys/net/ipv4/ping_group_range", groups) {
        let text = format!("cannot open net.ipv4.ping_group_range ({error}): ping inside needs root");
        let _ = channel.send(&FromInit::Note(text), &[]);
    }
    if let Some(hostname) = &setup.hostname {
        let set = rustix::system::sethostname(hostname.as_bytes());
        set.map_err(|e| Failure::new("setting the host name", &e.into()))?;
        if let Err(error) = resolv::mount::name_in_hosts(hostname) {
            let text = format!("cannot add {hostname} to the sandbox's /etc/hosts: {error}");
            let _ = channel.send(&FromInit::Note(text), &[]);
        }
    }
    Ok(cover)
}

fn start<'a>(setup: &Setup, channel: &'a Channel, cover: Cover) -> Result<Init<'a>, Failure> {
    let signals = SignalFd::new().map_err(|e| Failure::new("listening to signals", &e))?;
    let (program, args) = setup
        .command
        .split_first()
        .ok_or_else(|| Failure { step: "starting a command without a name".to_owned(), errno: None })?;
    let mut command = Command::new(program);
    command.args(args);
    match spawn(&mut command, setup.mask, setup.nofile) {
        Ok(pid) => Ok(Init {
            channel,
            signals,
            cover,
            cover_due: None,
            cover_failures: 0,
            command: pid,
            seen: [None; 65],
        }),
        Err(error) => {
            let errno = match error.raw_os_error() {
                Some(libc::EACCES) if !is_anywhere(program) => libc::ENOENT,
                errno => errno.unwrap_or(libc::EIO),
            };
            drop(channel.send(&FromInit::NotStarted { errno }, &[]));
            exit_now(0)
        }
    }
}

/// Whether a program exists at all. `execvp` says EACCES also when a directory of PATH may not be searched and no other
/// has the program, which for a user means "not found".
fn is_anywhere(program: &OsStr) -> bool {
    if program.as_encoded_bytes().contains(&b'/') {
        return true;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).exists())
}

struct Init<'a> {
    channel: &'a Channel,
    signals: SignalFd,
    cover: Cover,
    /// When to see to it that the host's resolv.conf is covered; only after an event.
    cover_due: Option<Instant>,
    /// How often in a row it could not be covered.
    cover_failures: u32,
    command: Pid,
    /// When each signal last came from a process.
    seen: [Option<Instant>; 65],
}

impl Init<'_> {
    /// Serves until wharf is gone; the command's end ends the process.
    fn serve(&mut self) -> Result<(), Failure> {
        loop {
            let (signal, message) = self.wait()?;
            if signal {
                self.take_signals();
            }
            if message && !self.take_message()? {
                return Ok(());
            }
            if self.cover_due.is_some_and(|due| due <= Instant::now()) {
                self.cover_again();
            }
        }
    }

    fn wait(&self) -> Result<(bool, bool), Failure> {
        let mut fds = [PollFd::new(&self.signals, PollFlags::IN), PollFd::new(self.channel, PollFlags::IN)];
        let timeout = self.cover_due.map(|due| due.saturating_duration_since(Instant::now()));
        let timeout = timeout.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Failure::new("waiting", &error.into())),
        }
        let [signal, message] = fds.map(|fd| !fd.revents().is_empty());
        Ok((signal, message))
    }

    fn take_signals(&mut self) {
        while let Some(received) = self.signals.next() {
            let slot = usize::try_from(received.signal).ok().and_then(|n| self.seen.get_mut(n));
            if let (true, Some(slot)) = (received.from_process, slot) {
                *slot = Some(Instant::now());
            }
        }
        // Whatever came, SIGCHLD merges: ask until nobody has anything to say.
        let options = WaitOptions::NOHANG | WaitOptions::UNTRACED;
        while let Ok(Some((pid, status))) = rustix::process::wait(options) {
            if pid != self.command {
                continue;
            }
            if status.stopped() {
                let in_foreground = foreground_is_ours();
                drop(self.channel.send(&FromInit::Stopped { in_foreground }, &[]));
            } else if let Some(code) = status.exit_status() {
                drop(self.channel.send(&FromInit::Exited(code), &[]));
                exit_now(0);
            } else if let Some(signal) = status.terminating_signal() {
                drop(self.channel.send(&FromInit::Killed(signal), &[]));
                exit_now(0);
            }
        }
    }

    /// False when wharf is gone.
    fn take_message(&mut self) -> Result<bool, Failure> {
        match receive(self.channel)? {
            Some(ToInit::Signal(number)) => self.forward(number),
            Some(ToInit::ResolvConfChanged) => self.look_at_file(),
            Some(_) => {}
            None => return Ok(false),
        }
        Ok(true)
    }

    /// Sends the command a signal that wharf got, unless the command got it as well: somebody who signals the whole
    /// process group (a shell's `kill %1`, `timeout`) means each process once.
    fn forward(&mut self, number: i32) {
        self.take_signals();
        let slot = usize::try_from(number).ok().and_then(|n| self.seen.get_mut(n));
        let recent = slot.and_then(Option::take).is_some_and(|at| at.elapsed() < SAME_SIGNAL);
        // The command may have ended this instant; then SIGCHLD is on its way.
        drop(match self.command_group() {
            None if recent => Ok(()),
            // A shell that stopped itself stopped its group.
            Some(group) if number == libc::SIGCONT => signal::send_to_group(group, number),
            _ => signal::send(self.command, number),
        });
    }

    /// The command's process group if it made one of its own, as shells do. The group it was started in is wharf's,
    /// which has no number in here.
    fn command_group(&self) -> Option<Pid> {
        process_group(Some(self.command))
    }

    /// Something happened to the host's file: covers it again, but gives a host that removes it first and then writes
    /// a new one a moment for that, since covering the lack of a file covers its whole directory.
    fn look_at_file(&mut self) {
        let patience = if self.cover.has_file() { Duration::ZERO } else { REPLACEMENT };
        self.cover_due = Some(Instant::now() + patience);
    }

    fn cover_again(&mut self) {
        self.cover_due = None;
        let Err(error) = self.cover.keep() else {
            self.cover_failures = 0;
            return;
        };
        if self.cover_failures == 0 {
            let text = format!("cannot cover the host's new {} again: {error}", resolv::PATH);
            let _ = self.channel.send(&FromInit::Warning(text), &[]);
        }
        self.cover_failures += 1;
        // The host may be in the middle of something.
        if self.cover_failures <= COVER_RETRIES {
            self.cover_due = Some(Instant::now() + COVER_RETRY);
        }
    }
}
