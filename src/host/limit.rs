// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many sockets all workers of this process may have open together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use wharf_stack::host::HostError;

/// A count of open sockets that workers share, of one network or of many. Clones count together.
#[derive(Clone, Debug)]
pub struct SocketLimit {
    open: Arc<AtomicUsize>,
    most: usize,
}

impl Default for SocketLimit {
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl SocketLimit {
    /// At most so many sockets.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { open: Arc::default(), most }
    }

    /// For a process that may open so many files. An eighth of them is for devices, clients of the API and the like.
    #[must_use]
    pub fn of_process(files: usize) -> Self {
        Self::new(files - files / 8)
    }

    /// How many sockets there may be.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most
    }

    /// A place for one more socket.
    pub(super) fn take(&self) -> Result<Place, HostError> {
        let (place, before) = self.count();
        if before < self.most { Ok(place) } else { Err(HostError::Exhausted) }
    }

    /// The same without a limit, for what no flow has asked for.
    pub(super) fn exceed(&self) -> Place {
        self.count().0
    }

    /// A place, and how many were taken before.
    fn count(&self) -> (Place, usize) {
        // Relaxed: it says nothing about other memory.
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        (Place(Arc::clone(&self.open)), before)
    }
}

/// The place of an open socket, free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::epoll;
    use wharf_stack::host::{Accept, Family, FlowId, Host as _, Owner, Sender, Token};

    use super::*;
    use crate::host::{Listener, Sockets, Ways};

    #[test]
    fn workers_together_open_as_many_as_there_may_be_and_use_what_one_closed() {
        let limit = SocketLimit::new(3);
        let mut workers = [(); 2].map(|()| {
            let mut sockets =
                Sockets::new(epoll::create(epoll::CreateFlags::CLOEXEC).unwrap(), Ways::default());
            sockets.limit = limit.clone();
            sockets
        });
        let token = Token { owner: Owner::Udp, flow: FlowId { index: 1, generation: 0 } };
        let open = |sockets: &mut Sockets| sockets.udp_open(token, Sender::Gateway, Family::V4);
        let [first, second] = &mut workers;
        let socket = open(first).unwrap();
        open(first).unwrap();
        open(second).unwrap();
        for sockets in [&mut *first, &mut *second] {
            assert_eq!(open(sockets), Err(HostError::Exhausted));
        }
        first.close(socket);
        open(second).unwrap();
        assert_eq!(open(first), Err(HostError::Exhausted));
        drop(workers);
        assert_eq!(limit.open.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_process_keeps_files_for_what_is_no_flow() {
        assert_eq!(SocketLimit::of_process(1024).most(), 896);
        assert_eq!(SocketLimit::of_process(usize::MAX).most(), usize::MAX - usize::MAX / 8);
    }

    #[test]
    fn a_client_for_whom_there_is_no_place_waits_in_the_backlog() {
        let mut sockets = Sockets::new(epoll::create(epoll::CreateFlags::CLOEXEC).unwrap(), Ways::default());
        sockets.limit = SocketLimit::new(1);
        let token = Token { owner: Owner::Udp, flow: FlowId { index: 1, generation: 0 } };
        let other = sockets.udp_open(token, Sender::Gateway, Family::V4).unwrap();
        let fd = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        fd.set_nonblocking(true).unwrap();
        let client = std::net::TcpStream::connect(fd.local_addr().unwrap()).unwrap();
        let listener =
            Listener { fd: fd.into(), family: Some(Family::V4), is_wildcard: false, tells_clients: false };
        let listener = sockets.tcp_listen(token, listener).unwrap();
        assert!(matches!(sockets.tcp_accept(listener), Accept::Exhausted));
        sockets.close(other);
        // The listener has a place too, whatever the limit.
        sockets.limit.most = 2;
        let Accept::Client { stream, from } = sockets.tcp_accept(listener) else { panic!("nobody waits") };
        assert_eq!(from, client.local_addr().unwrap());
        assert!(matches!(sockets.tcp_accept(listener), Accept::Exhausted), "its place is taken");
        sockets.tcp_refuse(stream);
        assert!(matches!(sockets.tcp_accept(listener), Accept::Blocked), "and free again");
    }
}
