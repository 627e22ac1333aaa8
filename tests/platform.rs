// SPDX-License-Identifier: MIT OR Apache-2.0
//! What we assume of Linux, tried on this one. A rule of the code that rests on such a fact names its test.
//!
//! Each test has a network namespace of its own: it needs root, and a usable /dev/net/tun.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::io::{IoSliceMut, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::net::SendFlags;
use wharf::host::{Listener, Sockets, Sources, Way, Ways};
use wharf::publish::{Bound, Publication};
use wharf::sys::{process, socket, tun};
use wharf_stack::host::{
    Accept, Ends, Family, FlowId, Host, HostError, Io, Outgoing, Owner, Sender, StreamRead, Token, Transport,
};

const PATIENCE: Duration = Duration::from_secs(10);

fn run(line: &str) -> String {
    let output = Command::new("sh").args(["-ec", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A network namespace for the calling thread, with loopback up.
fn own_network() {
    assert!(rustix::process::geteuid().is_root(), "platform tests make network namespaces: run them as root");
    process::new_network_namespace().unwrap();
    run("ip link set lo up; sysctl -qw net.ipv4.ping_group_range='0 2147483647'");
}

fn sockets() -> Sockets {
    Sockets::new(epoll::create(epoll::CreateFlags::CLOEXEC).unwrap(), Ways::default())
}

fn token(owner: Owner) -> Token {
    Token { owner, flow: FlowId { index: 1, generation: 0 } }
}

fn outgoing(to: SocketAddr) -> Outgoing {
    Outgoing { to, from: None, hop_limit: 64, dont_fragment: false }
}

/// The flags of the next event, or `None` when there is none for a while.
fn next_event(sockets: &Sockets, patience: Duration) -> Option<epoll::EventFlags> {
    let mut events = Vec::with_capacity(8);
    let timeout = patience.try_into().unwrap();
    epoll::wait(sockets.epoll(), rustix::buffer::spare_capacity(&mut events), Some(&timeout)).unwrap();
    events.first().map(|event| event.flags)
}

fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "it never happened");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Why `outside::allowed` refuses these although they do not look like loopback.
#[test]
fn unspecified_and_mapped_addresses_reach_loopback_listeners() {
    own_network();
    let listener = TcpListener::bind("127.0.0.1:4000").unwrap();
    let listener6 = TcpListener::bind("[::1]:4000").unwrap();
    for address in ["0.0.0.0:4000", "127.9.9.9:4000", "[::ffff:127.0.0.1]:4000", "[::ffff:0.0.0.0]:4000"] {
        let reached = TcpStream::connect(address);
        assert_eq!(reached.is_ok(), address != "127.9.9.9:4000", "{address}: {reached:?}");
    }
    assert!(TcpStream::connect("[::]:4000").is_ok());
    drop((listener, listener6));
}

/// Why the DNS forwarder may keep a port for a while: its peer alone reaches it, and errors about it are its peer's.
#[test]
fn a_datagram_socket_with_a_peer_hears_nobody_else() {
    own_network();
    for local in ["127.0.0.1:0", "[::1]:0"] {
        let (server, stranger) = (UdpSocket::bind(local).unwrap(), UdpSocket::bind(local).unwrap());
        server.set_nonblocking(true).unwrap();
        let to = server.local_addr().unwrap();
        let mut sockets = sockets();
        let socket = sockets.udp_connect(token(Owner::Dns), Sender::Gateway, to).unwrap();
        let mut buffer = [0; 16];
        // A CPU has one queue for the datagrams of all namespaces: where another test fills it, ours are lost.
        let (len, port) = eventually(|| {
            assert_eq!(sockets.send_to(socket, outgoing(to), b"query"), Ok(Io::Done(())));
            server.recv_from(&mut buffer).ok()
        });
        assert_eq!(&buffer[..len], b"query");
        let datagram = eventually(|| {
            stranger.send_to(b"forged", port).unwrap();
            server.send_to(b"reply", port).unwrap();
            let Io::Done(datagram) = sockets.recv_from(socket, &mut buffer) else { return None };
            Some(datagram)
        });
        assert_eq!((datagram.from, &buffer[..datagram.len]), (to, &b"reply"[..]));
        // A probe is answered as one to a closed port is, which the prober's next call tells.
        stranger.connect(port).unwrap();
        let refused = eventually(|| stranger.send(b"probe").err());
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        drop(server);
        let report = eventually(|| {
            // It fails with what an earlier one brought about.
            let _ = sockets.send_to(socket, outgoing(to), b"query");
            sockets.icmp_report(socket)
        });
        assert_eq!(report.destination, to);
    }
}

/// Why nobody can tell the next query's port from the last one's (RFC 6056 section 3.3).
#[test]
fn the_host_draws_ports_at_random() {
    own_network();
    let to = SocketAddr::from(([127, 0, 0, 1], 9));
    let mut sockets = sockets();
    let mut port = || {
        let socket = sockets.udp_connect(token(Owner::Dns), Sender::Gateway, to).unwrap();
        i32::from(sockets.ends(socket).local.unwrap().port())
    };
    let ports: Vec<i32> = (0..32).map(|_| port()).collect();
    let near = ports.windows(2).filter(|pair| (pair[0] - pair[1]).abs() < 16).count();
    assert!(near < 8, "{ports:?}");
}

/// Why datagrams may leave together: they arrive as they were.
#[test]
fn datagrams_that_leave_together_arrive_one_by_one_in_order() {
    own_network();
    for local in ["127.0.0.1:0", "[::1]:0"] {
        let server = UdpSocket::bind(local).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let to = server.local_addr().unwrap();
        let mut sockets = sockets();
        let socket = sockets.udp_open(token(Owner::Udp), Sender::Gateway, Family::of(to.ip())).unwrap();
        let datagrams = [1400, 1400, 1400, 9, 9, 1400, 0, 2000, 1400, 1400];
        let datagrams: Vec<Vec<u8>> = (0..).zip(datagrams).map(|(mark, len)| vec![mark; len]).collect();
        for data in &datagrams {
            assert_eq!(sockets.send_to(socket, outgoing(to), data), Ok(Io::Done(())));
        }
        assert_eq!(sockets.flush(), 0);
        let mut buffer = [0; 4000];
        for data in &datagrams {
            let len = server.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], data);
        }
    }
}

/// Why a worker that is not scheduled for a moment loses nothing.
#[test]
fn more_datagrams_wait_in_front_of_a_host_socket_than_of_one_as_it_comes() {
    own_network();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let flood = |to: SocketAddr| {
        for _ in 0..2000 {
            sender.send_to(&[0; 1400], to).unwrap();
        }
    };
    let mut buffer = [0; 1400];

    let ordinary = UdpSocket::bind("127.0.0.1:0").unwrap();
    ordinary.set_nonblocking(true).unwrap();
    flood(ordinary.local_addr().unwrap());
    let usual = std::iter::from_fn(|| ordinary.recv(&mut buffer).ok()).count();

    let mut sockets = sockets();
    let socket = sockets.udp_open(token(Owner::Udp), Sender::Gateway, Family::V4).unwrap();
    let contact = outgoing(sender.local_addr().unwrap());
    assert_eq!(sockets.send_to(socket, contact, b"here"), Ok(Io::Done(())));
    let (_, own) = sender.recv_from(&mut buffer).unwrap();
    flood(own);
    let held =
        std::iter::from_fn(|| matches!(sockets.recv_from(socket, &mut buffer), Io::Done(_)).then_some(()));
    let held = held.count();
    assert!(held > usual * 3 / 2, "{held} datagrams waited, {usual} do so in front of an ordinary socket");
}

/// What waits to leave together is not lost to the refusal of an earlier datagram.
#[test]
fn datagrams_that_leave_together_survive_an_earlier_refusal() {
    own_network();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let (to, nobody) = (server.local_addr().unwrap(), SocketAddr::from(([127, 0, 0, 1], 9)));
    let mut sockets = sockets();
    let socket = sockets.udp_open(token(Owner::Udp), Sender::Gateway, Family::V4).unwrap();
    assert_eq!(sockets.send_to(socket, outgoing(nobody), b"x"), Ok(Io::Done(())));
    // The refusal may stand in the way of the first, which is told.
    while sockets.send_to(socket, outgoing(to), b"lead").is_err() {}
    assert_eq!(sockets.send_to(socket, outgoing(nobody), b"y"), Ok(Io::Done(())));
    while sockets.send_to(socket, outgoing(to), b"lead").is_err() {}
    for data in [b"one!", b"two!"] {
        assert_eq!(sockets.send_to(socket, outgoing(to), data), Ok(Io::Done(())));
    }
    assert_eq!(sockets.flush(), 0);
    let mut buffer = [0; 16];
    for expected in [b"lead", b"lead", b"one!", b"two!"] {
        let len = server.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], expected);
    }
}

/// Why a datagram is sent again after a refusal.
#[test]
fn a_refusal_fails_the_next_send_to_somebody_else_and_names_its_own_destination() {
    own_network();
    let live = UdpSocket::bind("127.0.0.1:4001").unwrap();
    let refused: SocketAddr = "127.0.0.1:4002".parse().unwrap();
    let mut sockets = sockets();
    let id = sockets.udp_open(token(Owner::Udp), Sender::Gateway, Family::V4).unwrap();
    assert_eq!(sockets.send_to(id, outgoing(refused), b"nobody"), Ok(Io::Done(())));
    let live_address = live.local_addr().unwrap();
    eventually(|| {
        (sockets.send_to(id, outgoing(live_address), b"first") == Err(HostError::Refused)).then_some(())
    });
    let report = sockets.icmp_report(id).unwrap();
    assert_eq!((report.destination, report.kind, report.code), (refused, 3, 3));
    assert_eq!(&report.payload[..6], b"nobody");
    assert_eq!(sockets.icmp_report(id), None);
    assert_eq!(sockets.send_to(id, outgoing(live_address), b"again"), Ok(Io::Done(())));
}

/// Why a report without an offender is answered with the packet at hand: it names neither port nor payload.
#[test]
fn a_datagram_too_large_for_its_path_is_refused_with_the_mtu() {
    own_network();
    run("ip link set lo mtu 1400");
    let mut sockets = sockets();
    for (family, address, kind, code) in
        [(Family::V4, IpAddr::from([127, 0, 0, 1]), 3, 4), (Family::V6, "::1".parse().unwrap(), 2, 0)]
    {
        let receiver = UdpSocket::bind((address, 0)).unwrap();
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        let allowed = outgoing(receiver.local_addr().unwrap());
        let forbidden = Outgoing { dont_fragment: true, ..allowed };
        let udp = sockets.udp_open(token(Owner::Udp), Sender::Gateway, family).unwrap();
        let echo = sockets.echo_open(token(Owner::Echo), Sender::Gateway, family).unwrap();
        let mut request = [0; 1500];
        request[0] = if family == Family::V4 { 8 } else { 128 };
        for (id, port) in [(udp, allowed.to.port()), (echo, 0)] {
            let to = SocketAddr::new(address, port);
            assert!(
                sockets.send_to(id, Outgoing { to, ..forbidden }, &request).is_err(),
                "{family:?} {port}"
            );
            let report = sockets.icmp_report(id).unwrap();
            assert_eq!((report.kind, report.code, report.mtu), (kind, code, 1400));
            assert_eq!((report.destination.ip(), report.offender), (address, None));
            assert_eq!(sockets.icmp_report(id), None);
            assert_eq!(sockets.send_to(id, Outgoing { to, ..forbidden }, &request[..1000]), Ok(Io::Done(())));
            assert_eq!(sockets.send_to(id, Outgoing { to, ..allowed }, &request), Ok(Io::Done(())));
        }
        let mut buffer = [0; 2000];
        let sizes = [receiver.recv(&mut buffer).unwrap(), receiver.recv(&mut buffer).unwrap()];
        assert_eq!(sizes, [1000, 1500]);
    }
}

/// Why the event that ends a connect must not be thought of as that alone.
#[test]
fn one_edge_can_tell_of_the_connect_the_first_data_and_the_end() {
    own_network();
    let listener = TcpListener::bind("127.0.0.1:4003").unwrap();
    let mut sockets = sockets();
    let id =
        sockets.tcp_connect(token(Owner::Tcp), Sender::Gateway, listener.local_addr().unwrap(), 64).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(b"x").unwrap();
    drop(stream);
    std::thread::sleep(Duration::from_millis(50));
    let flags = next_event(&sockets, PATIENCE).unwrap();
    assert!(
        flags.contains(epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP),
        "{flags:?}"
    );
    assert_eq!(next_event(&sockets, Duration::from_millis(50)), None, "it comes once only");
    assert_eq!(sockets.tcp_error(id), None);
}

/// Why the relay asks the container for segments that are a multiple of the host's.
#[test]
fn the_segment_size_of_a_connection_is_known_once_it_is_made() {
    own_network();
    run("ip link set lo mtu 1500");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut sockets = sockets();
    let socket =
        sockets.tcp_connect(token(Owner::Tcp), Sender::Gateway, listener.local_addr().unwrap(), 64).unwrap();
    assert!(next_event(&sockets, PATIENCE).is_some());
    // An Ethernet link's, less the timestamps that Linux sends.
    assert_eq!(sockets.tcp_segment_size(socket), Some(1448));
}

/// Why -1 puts a hop limit back after the connect.
#[test]
fn a_socket_knows_both_its_ends() {
    own_network();
    let mut sockets = sockets();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let stream = sockets.tcp_connect(token(Owner::Tcp), Sender::Gateway, to, 64).unwrap();
    let (_, from) = listener.accept().unwrap();
    assert_eq!(sockets.ends(stream), Ends { local: Some(from), peer: Some(to) });
    let datagrams = sockets.udp_open(token(Owner::Udp), Sender::Gateway, Family::V4).unwrap();
    sockets.send_to(datagrams, outgoing(to), b"x").unwrap();
    let ends = sockets.ends(datagrams);
    assert!(ends.local.is_some_and(|end| end.port() != 0) && ends.peer.is_none(), "{ends:?}");
}

#[test]
fn a_hop_limit_of_minus_one_is_the_hosts_default() {
    own_network();
    let probe = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket::set_hop_limit(probe.as_fd(), false, 5).unwrap();
    assert_eq!(probe.ttl().unwrap(), 5);
    socket::set_hop_limit(probe.as_fd(), false, -1).unwrap();
    assert_eq!(probe.ttl().unwrap(), 64);
}

/// Why the echo relay puts the container's identifier back.
#[test]
fn ping_sockets_rewrite_the_identifier() {
    own_network();
    let mut sockets = sockets();
    let id = sockets.echo_open(token(Owner::Echo), Sender::Gateway, Family::V4).unwrap();
    let request = [8, 0, 0, 0, 0x12, 0x34, 0, 7, b'h', b'i'];
    let loopback = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), 0);
    assert_eq!(sockets.send_to(id, outgoing(loopback), &request), Ok(Io::Done(())));
    let mut reply = [0; 64];
    let len = eventually(|| match sockets.recv_from(id, &mut reply) {
        Io::Done(datagram) => Some(datagram.len),
        Io::Blocked | Io::Broken => None,
    });
    assert_eq!((reply[0], &reply[6..len]), (0, &[0, 7, b'h', b'i'][..]));
    assert_ne!(reply[4..6], [0x12, 0x34]);
}

/// Why a super-frame crosses a TAP in one call, whatever the device's MTU and with a VLAN tag too.
#[test]
fn a_tap_takes_a_super_frame_larger_than_its_mtu_whole() {
    own_network();
    let queue = tun::open_queue("tap9", false).unwrap();
    assert!(tun::set_offloads(&queue, false).unwrap().tcp);
    run(
        "ip link set tap9 mtu 1500 address 02:00:00:00:00:01 up; sysctl -qw net.ipv6.conf.tap9.disable_ipv6=1",
    );
    let mut bytes = 0;
    for (tag, packets) in [(&[][..], 1), (&[0x81, 0, 0, 5], 2)] {
        let behind = u16::try_from(tag.len()).unwrap();
        let mut frame = Vec::new();
        // Checksum owed from byte 34, or behind the tag, to be stored 16 further; TCP over IPv4, 1,448 bytes a segment.
        for half in [0x0101u16.to_le(), 54 + behind, 1448, 34 + behind, 16] {
            frame.extend_from_slice(&half.to_ne_bytes());
        }
        frame.extend_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
        frame.extend_from_slice(tag);
        frame.extend_from_slice(&[8, 0, 0x45, 0]);
        frame.extend_from_slice(&30_040u16.to_be_bytes());
        frame.extend_from_slice(&[0, 0, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        frame.extend_from_slice(&[0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
        frame.resize(frame.len() + 30_000, 7);
        assert_eq!(rustix::io::write(&queue, &frame), Ok(frame.len()));
        let received = run("cat /proc/net/dev | grep tap9 | awk '{print $2, $3}'");
        bytes += frame.len() - 10;
        assert_eq!(received.trim(), format!("{bytes} {packets}"), "tag {tag:?}");
    }
}

/// Why the number of workers is fixed when a device is made.
#[test]
fn a_single_queue_tap_refuses_a_second_queue() {
    own_network();
    let _queue = tun::open_queue("tap8", false).unwrap();
    assert!(tun::open_queue("tap8", true).is_err());
    let _first = tun::open_queue("tap7", true).unwrap();
    assert!(tun::open_queue("tap7", true).is_ok());
}

/// Why a relay that closes with a linger time of zero resets its peer.
#[test]
fn closing_without_lingering_is_a_reset() {
    own_network();
    let listener = TcpListener::bind("127.0.0.1:4005").unwrap();
    let mut sockets = sockets();
    let id =
        sockets.tcp_connect(token(Owner::Tcp), Sender::Gateway, listener.local_addr().unwrap(), 64).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    sockets.tcp_reset(id);
    let error = stream.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

/// Urgent data is relayed as what it is by RFC 6093: ordinary data with a mark.
#[test]
fn urgent_data_stays_in_the_stream() {
    own_network();
    let listener = TcpListener::bind("127.0.0.1:4006").unwrap();
    let mut sockets = sockets();
    let id =
        sockets.tcp_connect(token(Owner::Tcp), Sender::Gateway, listener.local_addr().unwrap(), 64).unwrap();
    let (stream, _) = listener.accept().unwrap();
    for (bytes, flags) in [(b"be", SendFlags::empty()), (b"fo", SendFlags::OOB), (b"re", SendFlags::empty())]
    {
        rustix::net::send(&stream, bytes, flags).unwrap();
    }
    drop(stream);
    std::thread::sleep(Duration::from_millis(50));
    let (mut got, mut buffer) = (Vec::new(), [0; 16]);
    loop {
        match sockets.tcp_recv(id, &mut buffer) {
            StreamRead::Data(len) => got.extend_from_slice(&buffer[..len]),
            StreamRead::End => break,
            other => panic!("{other:?} after {got:?}"),
        }
    }
    assert_eq!(got, b"before");
}

/// Why a listener is asked again until it has nobody: an edge tells that clients came, not how many.
#[test]
fn clients_of_a_listener_are_told_of_once_and_accepted_one_by_one() {
    own_network();
    let listener = TcpListener::bind("127.0.0.1:4010").unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut clients: Vec<_> = (0..3).map(|_| TcpStream::connect("127.0.0.1:4010").unwrap()).collect();
    let mut sockets = sockets();
    let listener =
        Listener { fd: listener.into(), family: Some(Family::V4), is_wildcard: false, tells_clients: false };
    let listener = sockets.tcp_listen(token(Owner::Listener), listener).unwrap();
    assert!(next_event(&sockets, PATIENCE).unwrap().contains(epoll::EventFlags::IN));
    assert_eq!(next_event(&sockets, Duration::ZERO), None, "one edge for all of them");
    let mut accept = || match sockets.tcp_accept(listener) {
        Accept::Client { stream, from } => {
            assert_eq!(from, clients.remove(0).local_addr().unwrap());
            Some(stream)
        }
        Accept::Blocked => None,
        other => panic!("{other:?}"),
    };
    let streams: Vec<_> = (0..3).filter_map(|_| accept()).collect();
    assert_eq!(streams.len(), 3);
    assert!(accept().is_none());
}

#[test]
fn an_accepted_client_is_adopted_with_what_it_has_said_or_reset() {
    own_network();
    let listener = TcpListener::bind("127.0.0.1:4011").unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut sockets = sockets();
    let listener =
        Listener { fd: listener.into(), family: Some(Family::V4), is_wildcard: false, tells_clients: false };
    let listener = sockets.tcp_listen(token(Owner::Listener), listener).unwrap();
    let accept = |sockets: &mut Sockets| {
        let mut client = TcpStream::connect("127.0.0.1:4011").unwrap();
        client.write_all(b"hello").unwrap();
        assert!(next_event(sockets, PATIENCE).is_some());
        match sockets.tcp_accept(listener) {
            Accept::Client { stream, .. } => (client, stream),
            other => panic!("{other:?}"),
        }
    };
    let (_client, stream) = accept(&mut sockets);
    let socket = sockets.tcp_adopt(token(Owner::Tcp), stream).unwrap();
    assert!(next_event(&sockets, PATIENCE).unwrap().contains(epoll::EventFlags::IN));
    let mut buffer = [0; 8];
    let (first, second) = buffer.split_at_mut(3);
    let mut buffers = [first, second].map(IoSliceMut::new);
    assert_eq!(sockets.tcp_recv_vectored(socket, &mut buffers), StreamRead::Data(5));
    assert_eq!(&buffer, b"hello\0\0\0");
    assert_eq!(sockets.tcp_recv(socket, &mut buffer), StreamRead::Blocked);
    let (mut client, stream) = accept(&mut sockets);
    sockets.tcp_refuse(stream);
    assert_eq!(client.read(&mut buffer).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

/// The edge that told of what the client has said is gone when the header is read: both come together.
#[test]
fn a_header_of_the_proxy_protocol_is_read_in_any_portions_and_with_what_follows() {
    own_network();
    let listener = TcpListener::bind("127.0.0.1:4012").unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut sockets = sockets();
    let listener =
        Listener { fd: listener.into(), family: Some(Family::V4), is_wildcard: false, tells_clients: true };
    let listener = sockets.tcp_listen(token(Owner::Listener), listener).unwrap();
    let mut client = TcpStream::connect("127.0.0.1:4012").unwrap();
    client.write_all(b"hello").unwrap();
    let stream = match sockets.tcp_accept(listener) {
        Accept::Client { stream, .. } => stream,
        other => panic!("{other:?}"),
    };
    let socket = sockets.tcp_adopt(token(Owner::Tcp), stream).unwrap();
    let mut buffer = [0; 64];
    assert_eq!(sockets.tcp_recv(socket, &mut buffer[..10]), StreamRead::Data(10));
    let (in_the_header, behind) = buffer[10..].split_at_mut(10);
    let mut buffers = [in_the_header, behind].map(IoSliceMut::new);
    assert_eq!(sockets.tcp_recv_vectored(socket, &mut buffers), StreamRead::Data(18 + 5));
    let port = client.local_addr().unwrap().port().to_be_bytes();
    assert_eq!(buffer[12..24], [0x21, 0x11, 0, 12, 127, 0, 0, 1, 127, 0, 0, 1]);
    assert_eq!((&buffer[24..26], &buffer[28..33]), (&port[..], &b"hello"[..]));
    assert_eq!(sockets.tcp_recv(socket, &mut buffer), StreamRead::Blocked);
}

/// Why a published UDP port answers from the address that was spoken to.
#[test]
fn a_datagram_says_which_of_our_addresses_it_came_to_and_another_leaves_from_there() {
    own_network();
    run("ip addr add 192.0.2.1/32 dev lo; ip addr add 2001:db8::1/128 dev lo");
    // Until the kernel has taken it over, what is sent to it is lost.
    eventually(|| run("ip -6 route show table local").contains("2001:db8::1").then_some(()));
    for (all, client, own) in [
        ("0.0.0.0:4020", "127.0.0.1:0", ["127.0.0.1", "127.0.0.9", "192.0.2.1"]),
        ("[::]:4020", "[::1]:0", ["::1", "2001:db8::1", "2001:db8::1"]),
    ] {
        let bound = Bound::new(Transport::Udp, all.parse::<SocketAddr>().unwrap()).unwrap();
        let Publication { listener, .. } = bound.leading_to("192.0.2.9:53".parse().unwrap());
        let mut sockets = sockets();
        let socket = sockets.udp_listen(token(Owner::Port), listener).unwrap();
        for own in own {
            let own: IpAddr = own.parse().unwrap();
            let client = UdpSocket::bind(client).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.send_to(b"question", (own, 4020)).unwrap();
            let mut buffer = [0; 100];
            let datagram = eventually(|| match sockets.recv_from(socket, &mut buffer) {
                Io::Done(datagram) => Some(datagram),
                Io::Blocked => None,
                Io::Broken => panic!("no error is expected"),
            });
            assert_eq!((datagram.to, &buffer[..datagram.len]), (Some(own), &b"question"[..]));
            let answer = Outgoing { from: Some(own), ..outgoing(datagram.from) };
            assert_eq!(sockets.send_to(socket, answer, b"answer"), Ok(Io::Done(())));
            let (len, sender) = client.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..len], sender), (&b"answer"[..], SocketAddr::new(own, 4020)));
        }
    }
}

/// The host's address that the traffic shall leave from is heeded by a published port too, unless it answers somebody.
#[test]
fn a_published_port_on_all_addresses_speaks_to_strangers_from_the_chosen_one() {
    own_network();
    run("ip addr add 192.0.2.1/32 dev lo; ip addr add 192.0.2.2/32 dev lo");
    let sources = Sources { ipv4: Some("192.0.2.2".parse().unwrap()), ipv6: None };
    let ways = Ways { network: Way { sources, interface: None }, ..Ways::default() };
    let mut sockets = Sockets::new(epoll::create(epoll::CreateFlags::CLOEXEC).unwrap(), ways);
    for (at, from) in [("0.0.0.0:4021", "192.0.2.2:4021"), ("192.0.2.1:4022", "192.0.2.1:4022")] {
        let bound = Bound::new(Transport::Udp, at.parse::<SocketAddr>().unwrap()).unwrap();
        let Publication { listener, .. } = bound.leading_to("192.0.2.9:53".parse().unwrap());
        let socket = sockets.udp_listen(token(Owner::Port), listener).unwrap();
        let stranger = UdpSocket::bind("192.0.2.1:0").unwrap();
        stranger.set_read_timeout(Some(PATIENCE)).unwrap();
        let to = outgoing(stranger.local_addr().unwrap());
        assert_eq!(sockets.send_to(socket, to, b"x"), Ok(Io::Done(())));
        assert_eq!(stranger.recv_from(&mut [0]).unwrap().1, from.parse().unwrap());
    }
}

/// An address that the host has lost is none that others take the place of: what was to leave from it does not leave.
#[test]
fn nothing_leaves_from_another_address_than_the_chosen_one() {
    own_network();
    run("ip addr add 192.0.2.1/32 dev lo");
    let server = UdpSocket::bind("192.0.2.1:4023").unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let to = outgoing(server.local_addr().unwrap());
    let sources = Sources { ipv4: Some("192.0.2.2".parse().unwrap()), ipv6: None };
    let ways = Ways { network: Way { sources, interface: None }, ..Ways::default() };
    let mut sockets = Sockets::new(epoll::create(epoll::CreateFlags::CLOEXEC).unwrap(), ways);
    let socket = sockets.udp_open(token(Owner::Udp), Sender::Gateway, Family::V4).unwrap();
    for _ in 0..2 {
        assert_eq!(sockets.send_to(socket, to, b"lost"), Err(HostError::SourceMissing));
    }
    assert_eq!(sockets.udp_connect(token(Owner::Dns), Sender::Gateway, to.to), Err(HostError::SourceMissing));
    let connected = sockets.tcp_connect(token(Owner::Tcp), Sender::Gateway, to.to, 64);
    assert_eq!(connected, Err(HostError::SourceMissing));
    run("ip addr add 192.0.2.2/32 dev lo");
    assert_eq!(sockets.send_to(socket, to, b"back"), Ok(Io::Done(())));
    let mut buffer = [0; 8];
    let (len, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..len], from.ip()), (&b"back"[..], IpAddr::from([192, 0, 2, 2])));
}

/// A socket that has spoken to the host's loopback can no longer be bound: its datagrams say where they leave from.
#[test]
fn a_socket_that_began_with_loopback_leaves_from_the_chosen_address_too() {
    own_network();
    run("ip addr add 192.0.2.1/32 dev lo; ip addr add 192.0.2.2/32 dev lo");
    let server = UdpSocket::bind("192.0.2.1:4024").unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let local = UdpSocket::bind("127.0.0.1:0").unwrap();
    local.set_read_timeout(Some(PATIENCE)).unwrap();
    let sources = Sources { ipv4: Some("192.0.2.2".parse().unwrap()), ipv6: None };
    let ways = Ways { network: Way { sources, interface: None }, ..Ways::default() };
    let mut sockets = Sockets::new(epoll::create(epoll::CreateFlags::CLOEXEC).unwrap(), ways);
    let socket = sockets.udp_open(token(Owner::Udp), Sender::Gateway, Family::V4).unwrap();
    for (receiver, from) in [(&local, [127, 0, 0, 1]), (&server, [192, 0, 2, 2]), (&local, [127, 0, 0, 1])] {
        let to = outgoing(receiver.local_addr().unwrap());
        assert_eq!(sockets.send_to(socket, to, b"x"), Ok(Io::Done(())));
        assert_eq!(receiver.recv_from(&mut [0]).unwrap().1.ip(), IpAddr::from(from));
    }
    run("ip addr del 192.0.2.2/32 dev lo");
    let lost = sockets.send_to(socket, outgoing(server.local_addr().unwrap()), b"lost");
    assert!(lost.is_err(), "{lost:?}");
}
