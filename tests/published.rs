// SPDX-License-Identifier: MIT OR Apache-2.0
//! Published ports on a stage: what a script cannot say.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "stage/mod.rs"]
mod stage;

use smoltcp::wire::TcpPacket;
use stage::frames::{self, ETHERNET, IPV4, Tcp};
use stage::{CONTAINER_MAC, Stage, config};
use wharf_switch::{Duration, Offloads};

/// A stage with a published port whose container has said where it is.
fn published(workers: usize) -> Stage {
    let mut stage = Stage::with(config(), workers, Offloads::ALL);
    stage.publish("10.0.2.100:80".parse().unwrap());
    stage.receive(&frames::arp(1, CONTAINER_MAC, [10, 0, 2, 100], [10, 0, 2, 2]));
    stage
}

/// Connections that come and go leave stale deadlines, which are swept out; those of a listener are none of them.
#[test]
fn a_listener_that_rests_wakes_up_although_many_connections_ended() {
    let mut stage = published(1);
    stage.host().is_exhausted = true;
    stage.host().connects("203.0.113.9:5555".parse().unwrap());
    stage.settle();
    for port in 1000..1200 {
        let ends = ([10, 0, 2, 100], [198, 51, 100, 7]);
        let ends = ((ends.0, port).into(), (ends.1, 80).into());
        for (flags, seq) in [("S", 100), ("R", 101)] {
            let header = Tcp { flags: flags.into(), seq, ..Tcp::default() };
            stage.receive(&frames::tcp(ends.0, ends.1, 64, &header, &[]));
        }
    }
    assert_eq!(stage.workers[0].gateway.load().tcp_flows, 0);
    stage.host().is_exhausted = false;
    stage.advance(Duration::from_millis(100));
    assert_eq!(stage.workers[0].gateway.load().tcp_flows, 1);
}

#[test]
fn clients_of_one_port_become_flows_of_every_worker() {
    let mut stage = published(2);
    for port in 5000..5100 {
        stage.host().connects(([203, 0, 113, 9], port).into());
        stage.settle();
    }
    let flows: Vec<_> = stage.workers.iter().map(|worker| worker.gateway.load().tcp_flows).collect();
    assert_eq!(flows.iter().sum::<usize>(), 100);
    assert!(flows.iter().all(|&count| count > 20), "{flows:?}");
}

/// Every worker gets a copy of what the link answers, and goes on receiving into a frame that is large enough for all.
#[test]
fn a_worker_that_was_handed_a_small_frame_receives_large_ones_whole() {
    let mut stage = Stage::with(config(), 2, Offloads::ALL);
    let with_vnet_header = |frame: Vec<u8>| [vec![0; 10], frame].concat();
    let answer = frames::arp(2, CONTAINER_MAC, [10, 0, 2, 100], [10, 0, 2, 2]);
    let (from, to) = ("10.0.2.100:5000".parse().unwrap(), "198.51.100.7:53".parse().unwrap());
    for (told, receives) in [(0, 1), (1, 0)] {
        stage.receive_raw(told, with_vnet_header(answer.clone()));
        stage.settle();
        let dropped =
            |stage: &Stage| stage.workers.iter().map(|worker| worker.switch.tally.dropped).sum::<u64>();
        let before = dropped(&stage);
        for _ in 0..3 {
            stage.receive_raw(receives, with_vnet_header(frames::udp(from, to, 64, &[7; 30_000])));
            stage.settle();
        }
        assert_eq!(dropped(&stage), before, "worker {receives}");
    }
}

/// A client whose port is taken gets another one, and that too must lead the container's answers to its worker.
#[test]
fn a_client_with_a_taken_port_stays_its_workers() {
    let mut stage = published(3);
    for client in 1..40 {
        stage.host().connects(([127, 0, 0, client], 5000).into());
        stage.settle();
    }
    let flows: Vec<_> = stage.workers.iter().map(|worker| worker.gateway.load().tcp_flows).collect();
    assert_eq!(flows.iter().filter(|&&count| count == 39).count(), 1, "{flows:?}");
    // The first Router Advertisement is among what was sent.
    let is_tcp = |frame: &Vec<u8>| frame[12..14] == [8, 0] && frame[ETHERNET + 9] == 6;
    let syns: Vec<_> = std::iter::from_fn(|| stage.sent()).filter(is_tcp).collect();
    assert_eq!(syns.len(), 39);
    for bytes in syns {
        let syn = TcpPacket::new_checked(&bytes[ETHERNET + IPV4..]).unwrap();
        let ack = syn.seq_number().0.cast_unsigned().wrapping_add(1);
        let header = Tcp { flags: "S.".into(), seq: 300, ack, window: 1000, ..Tcp::default() };
        let ends = (([10, 0, 2, 100], 80).into(), ([10, 0, 2, 2], syn.src_port()).into());
        stage.receive(&frames::tcp(ends.0, ends.1, 64, &header, &[]));
        let answer = std::iter::from_fn(|| stage.sent()).find(is_tcp).unwrap();
        let answer = TcpPacket::new_checked(&answer[ETHERNET + IPV4..]).unwrap();
        assert!(answer.ack() && !answer.rst(), "the owner of the answer knows of no such flow");
    }
}

/// The next port takes the place of one that is withdrawn: what was to happen to the first must not happen to it.
#[test]
fn events_and_deadlines_of_a_withdrawn_port_find_nobody() {
    let mut stage = published(1);
    stage.host().is_exhausted = true;
    stage.host().connects("203.0.113.9:5555".parse().unwrap());
    stage.settle();
    // The event of this client has not been heard of when its port is no more.
    stage.host().clients.clear();
    stage.host().connects("203.0.113.9:5556".parse().unwrap());
    stage.withdraw();
    stage.host().calls.clear();
    stage.publish("10.0.2.100:81".parse().unwrap());
    // A client that no event has told of yet: looking for it would be somebody else's doing.
    stage.host().clients.push_back("203.0.113.9:5557".parse().unwrap());
    stage.advance(Duration::from_secs(10));
    assert_eq!(stage.host().calls, [""; 0]);
    stage.host().is_exhausted = false;
    stage.host().clients.clear();
    stage.host().connects("203.0.113.9:5557".parse().unwrap());
    stage.settle();
    assert_eq!(stage.workers[0].gateway.load().tcp_flows, 1);
}

#[test]
fn clients_of_a_withdrawn_port_are_not_waited_for_any_more() {
    let mut stage = Stage::new(config());
    stage.publish("10.0.2.100:80".parse().unwrap());
    stage.host().connects("203.0.113.9:5555".parse().unwrap());
    stage.settle();
    stage.withdraw();
    stage.publish("10.0.2.100:80".parse().unwrap());
    stage.advance(Duration::from_secs(10));
    stage.receive(&frames::arp(1, CONTAINER_MAC, [10, 0, 2, 100], [10, 0, 2, 2]));
    assert_eq!(stage.workers[0].gateway.load().tcp_flows, 0);
    stage.host().connects("203.0.113.9:5555".parse().unwrap());
    stage.settle();
    assert_eq!(stage.workers[0].gateway.load().tcp_flows, 1);
}
