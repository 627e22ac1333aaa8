// SPDX-License-Identifier: MIT OR Apache-2.0
//! Workers as they run, with sockets for ports.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;
use crate::port::Stream;

const MTU: usize = 1500;
const FIRST: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SECOND: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Frames on their way at once: no queue is too short for them.
const WINDOW: u32 = 100;

fn config() -> Config {
    let mac = smoltcp::wire::EthernetAddress([2, 0, 0, 0, 0, 0xff]);
    Config { mtu_bytes: MTU, ..Config::new(mac, [7; 32]) }
}

fn two_workers() -> (Running, Receiver<Notice>) {
    let (tell, told) = channel();
    let notify: Notify = Arc::new(move |notice| {
        // Nobody has to listen.
        let _ = tell.send(notice);
    });
    let options = Options { notify: Some(notify), ..Options::default() };
    (start(config(), 2, &options).unwrap(), told)
}

/// A port, and its peer.
fn attach(running: &Running) -> (PortId, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    (running.attach(vec![Stream::new(ours.into(), MTU).into()], None).unwrap(), theirs)
}

fn say(peer: &mut UnixStream, from: [u8; 6], to: [u8; 6], number: u32) {
    let frame = [&to[..], &from, &[0x88, 0xb5], &number.to_be_bytes(), &[0; 42]].concat();
    let len = u32::try_from(frame.len()).unwrap();
    peer.write_all(&[&len.to_be_bytes()[..], &frame].concat()).unwrap();
}

/// The number in the next frame for `to`.
fn hear(peer: &mut UnixStream, to: [u8; 6]) -> u32 {
    loop {
        let mut prefix = [0; 4];
        peer.read_exact(&mut prefix).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(prefix) as usize];
        peer.read_exact(&mut frame).unwrap();
        if frame[..6] == to {
            return u32::from_be_bytes(frame[14..18].try_into().unwrap());
        }
    }
}

#[test]
fn sockets_of_two_workers_exchange_frames_in_order() {
    let (running, _) = two_workers();
    let ((_, mut first), (_, mut second)) = (attach(&running), attach(&running));
    for round in 0..50 {
        let numbers = round * WINDOW..(round + 1) * WINDOW;
        for number in numbers.clone() {
            say(&mut first, FIRST, SECOND, number);
            say(&mut second, SECOND, FIRST, number);
        }
        for number in numbers {
            assert_eq!(hear(&mut second, SECOND), number);
            assert_eq!(hear(&mut first, FIRST), number);
        }
    }
}

#[test]
fn a_peer_that_hangs_up_is_told_of_once() {
    let (running, told) = two_workers();
    let ((left, first), (_, mut second)) = (attach(&running), attach(&running));
    drop(first);
    assert_eq!(told.recv_timeout(Duration::from_secs(30)), Ok(Notice::PortClosed(left)));
    drop(running.detach(left));
    let (_, mut third) = attach(&running);
    say(&mut third, FIRST, SECOND, 7);
    assert_eq!(hear(&mut second, SECOND), 7);
    assert!(told.try_recv().is_err());
}

/// The process that the next test starts: it may open ever more files, until they suffice for two workers.
#[test]
#[ignore = "a part of the next test, which starts it"]
fn starved() {
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let before = threads();
    let limit = getrlimit(Resource::Nofile);
    for files in 0.. {
        setrlimit(Resource::Nofile, Rlimit { current: Some(files), ..limit }).unwrap();
        let started = start(config(), 2, &Options::default());
        setrlimit(Resource::Nofile, limit).unwrap();
        if started.is_ok() {
            return;
        }
        let patience = std::time::Instant::now() + Duration::from_secs(30);
        // A thread that has been joined may still be listed.
        while threads() != before {
            assert!(
                patience > std::time::Instant::now(),
                "a worker runs that nobody has, with {files} files"
            );
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_network_that_cannot_start_all_its_workers_leaves_none() {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "dataplane::tests::starved", "--ignored", "--test-threads=1"]);
    assert!(command.status().unwrap().success());
}
