// SPDX-License-Identifier: MIT OR Apache-2.0
//! A unix stream socket that carries frames, each behind its length in 32 bits of network byte order: the port of a virtual
//! machine.
//!
//! # How it works
//! There is no virtio-net header: frames come and go finished. One read takes as many frames as there are, and the rest of
//! the last one waits for the next read. What the socket does not take waits too, in order, until it is writable again;
//! a frame whose beginning is gone is always finished.
//!
//! # Bounds
//! One frame of the largest size is gathered. A length that no frame of this network has ends the port, as nothing tells
//! where the next frame would begin. 4 MiB of frames wait to be sent; what comes then is dropped.
//!
//! # Sources
//! `-netdev stream` in qemu(1); QEMU's `net/stream.c`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use wharf_switch::frame::ETHERNET_HEADER_LEN;
use wharf_switch::{Frame, Offloads, Port, Received, Sent};

use super::backlog::{Backlog, PREFIX, enlarge_send_buffer};

/// Bytes that one read takes at least, if there are as many: a burst of small frames.
const READ: usize = 16 << 10;
/// Bytes around the largest packet of a frame: an Ethernet header and a VLAN tag.
const AROUND_A_PACKET: usize = ETHERNET_HEADER_LEN + 4;

/// A connected socket.
#[derive(Debug)]
pub struct Stream {
    socket: OwnedFd,
    inbound: Inbound,
    backlog: Backlog,
}

impl Stream {
    /// A port on a connected stream socket, on a link whose packets have at most `mtu_bytes`.
    #[must_use]
    pub fn new(socket: OwnedFd, mtu_bytes: usize) -> Self {
        enlarge_send_buffer(&socket);
        Self { socket, inbound: Inbound::new(mtu_bytes + AROUND_A_PACKET), backlog: Backlog::default() }
    }

    /// Bytes of the front of `bytes` that the socket took.
    fn transmit(&self, bytes: &[u8]) -> Result<usize, Errno> {
        match send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM) => Ok(0),
            outcome => outcome,
        }
    }

    /// Sends a frame that stands behind its length.
    fn transmit_frame(&mut self, bytes: &[u8]) -> Sent {
        let Ok(taken) = self.transmit(bytes) else { return Sent::Closed };
        self.backlog.push_rest(bytes.get(taken..).unwrap_or_default());
        Sent::Sent
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Port for Stream {
    fn recv(&mut self, frame: &mut Frame) -> Received {
        loop {
            match self.inbound.next() {
                Ok(Some(bytes)) => {
                    frame.fill(bytes);
                    return Received::Frame;
                }
                Ok(None) => {}
                Err(ImpossibleLength(len)) => {
                    tracing::warn!(
                        len,
                        "a virtual machine announced a frame of a length that none has: its port is closed"
                    );
                    return Received::Closed;
                }
            }
            match recv(&self.socket, self.inbound.room(), RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return Received::Closed,
                Ok((_, received)) => self.inbound.add(received),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Received::Empty,
                Err(_) => return Received::Closed,
            }
        }
    }

    fn send(&mut self, frame: &mut Frame) -> Sent {
        if !self.backlog.is_empty() {
            return if self.backlog.push(frame.bytes()) { Sent::Sent } else { Sent::Full };
        }
        // Every frame has such room.
        let Some(len) = u32::try_from(frame.len()).ok().filter(|_| frame.grow_front(PREFIX)) else {
            return Sent::Full;
        };
        if let Some(prefix) = frame.bytes_mut().first_chunk_mut() {
            *prefix = len.to_be_bytes();
        }
        let sent = self.transmit_frame(frame.bytes());
        frame.trim_front(PREFIX);
        sent
    }

    fn flush(&mut self) {
        while !self.backlog.is_empty() {
            match self.transmit(self.backlog.bytes()) {
                Ok(0) => return,
                Ok(taken) => self.backlog.advance(taken),
                // The peer is gone, which the next receive tells.
                Err(_) => self.backlog = Backlog::default(),
            }
        }
    }

    fn offloads(&self) -> Offloads {
        Offloads::NONE
    }
}

/// A length that no frame has.
#[derive(Debug, PartialEq, Eq)]
struct ImpossibleLength(usize);

/// What was read, as far as it is no whole frame yet or not taken yet.
#[derive(Debug)]
struct Inbound {
    /// Room for the largest frame behind its length.
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    largest: usize,
}

impl Inbound {
    fn new(largest: usize) -> Self {
        let buffer = vec![0; READ.max(PREFIX + largest)].into_boxed_slice();
        Self { buffer, start: 0, end: 0, largest }
    }

    /// Takes the next whole frame, if there is one.
    fn next(&mut self) -> Result<Option<&[u8]>, ImpossibleLength> {
        let waiting = self.buffer.get(self.start..self.end).unwrap_or_default();
        let Some((prefix, rest)) = waiting.split_first_chunk() else { return Ok(None) };
        let len = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
        if !(ETHERNET_HEADER_LEN..=self.largest).contains(&len) {
            return Err(ImpossibleLength(len));
        }
        let frame = rest.get(..len);
        if frame.is_some() {
            self.start += PREFIX + len;
        }
        Ok(frame)
    }

    /// Where more is to be read to. While no whole frame waits, there is some.
    fn room(&mut self) -> &mut [u8] {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        self.buffer.get_mut(self.end..).unwrap_or_default()
    }

    /// So much was read to the [`room`](Self::room).
    fn add(&mut self, received: usize) {
        self.end += received;
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use wharf_switch::Pool;

    use super::*;

    const MTU: usize = 1500;

    fn pair() -> (Stream, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        (Stream::new(ours, MTU), theirs)
    }

    fn on_the_wire(frames: &[Vec<u8>]) -> Vec<u8> {
        let prefix = |frame: &Vec<u8>| u32::try_from(frame.len()).unwrap().to_be_bytes();
        frames.iter().flat_map(|frame| [&prefix(frame)[..], frame].concat()).collect()
    }

    /// All that the port has to say.
    fn received(port: &mut Stream) -> (Vec<Vec<u8>>, Received) {
        let mut frame = Pool::new(1).large();
        let mut frames = Vec::new();
        loop {
            match port.recv(&mut frame) {
                Received::Frame => frames.push(frame.bytes().to_vec()),
                end => return (frames, end),
            }
        }
    }

    fn say(peer: &OwnedFd, bytes: &[u8]) {
        assert_eq!(send(peer, bytes, SendFlags::empty()), Ok(bytes.len()));
    }

    #[test]
    fn frames_arrive_wherever_the_stream_is_cut() {
        let frames = [vec![1; ETHERNET_HEADER_LEN], vec![2; 60], vec![3; MTU + 18], vec![4; 61]];
        let wire = on_the_wire(&frames);
        for cut in 0..=wire.len() {
            let (mut port, peer) = pair();
            say(&peer, &wire[..cut]);
            let (mut seen, state) = received(&mut port);
            assert_eq!(state, Received::Empty);
            say(&peer, &wire[cut..]);
            seen.extend(received(&mut port).0);
            assert_eq!(seen, frames, "cut at {cut}");
        }
    }

    #[test]
    fn frames_arrive_byte_by_byte_and_many_at_once() {
        let frames: Vec<_> = (0..300_u32).map(|number| number.to_be_bytes().repeat(15)).collect();
        let wire = on_the_wire(&frames);
        let (mut port, peer) = pair();
        let mut seen = Vec::new();
        for byte in &wire {
            say(&peer, &[*byte]);
            seen.extend(received(&mut port).0);
        }
        say(&peer, &wire);
        seen.extend(received(&mut port).0);
        assert_eq!(seen, [frames.clone(), frames].concat());
    }

    #[test]
    fn a_length_that_no_frame_has_ends_the_port_behind_the_frames_before_it() {
        let good = vec![5; 60];
        for len in [0, 13, MTU + 19, 65_536, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
            let (mut port, peer) = pair();
            say(&peer, &on_the_wire(std::slice::from_ref(&good)));
            say(&peer, &u32::try_from(len).unwrap().to_be_bytes());
            assert_eq!(received(&mut port), (vec![good.clone()], Received::Closed), "{len}");
        }
    }

    #[test]
    fn a_peer_that_leaves_ends_the_port_and_half_a_frame_is_none() {
        let (mut port, peer) = pair();
        say(&peer, &on_the_wire(&[vec![6; 60], vec![7; 60]])[..100]);
        drop(peer);
        assert_eq!(received(&mut port), (vec![vec![6; 60]], Received::Closed));
        let mut frame = Pool::new(1).small();
        frame.fill(&[8; 60]);
        assert_eq!(port.send(&mut frame), Sent::Closed);
        assert_eq!(frame.bytes(), [8; 60]);
    }

    #[test]
    fn what_a_slow_peer_leaves_arrives_whole_and_in_order_and_does_not_wait_without_end() {
        let (mut port, peer) = pair();
        let mut frame = Pool::new(1).large();
        let mut sent = 0_u32;
        loop {
            // Sizes of all kinds, so that the socket fills up in the middle of a frame.
            let words = 15 + usize::try_from(sent % 350).unwrap();
            frame.fill(&sent.to_be_bytes().repeat(words));
            match port.send(&mut frame) {
                Sent::Sent => sent += 1,
                Sent::Full => break,
                Sent::Closed => panic!("the peer is there"),
            }
            assert_eq!(frame.len(), 4 * words);
        }
        assert!(port.backlog.bytes().len() > 3 << 20);
        let mut inbound = Inbound::new(MTU + 18);
        let mut seen = 0_u32;
        while let Ok((_, len)) = recv(&peer, inbound.room(), RecvFlags::empty()) {
            inbound.add(len);
            while let Some(frame) = inbound.next().unwrap() {
                assert!(frame.chunks(4).all(|word| word == seen.to_be_bytes()), "frame {seen}");
                seen += 1;
            }
            port.flush();
        }
        assert_eq!(seen, sent);
        assert!(port.backlog.is_empty());
    }
}
