// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parsers on their own: the first byte says which.

use smoltcp::wire::EthernetAddress;
use wharf_stack::link::{Arp, Ndp, Neighbors, ndp};
use wharf_stack::local::dhcp4::message::Request;
use wharf_stack::local::dns::answer;
use wharf_stack::local::dns::cache::Cache;
use wharf_stack::local::dns::message::{self, Message};
use wharf_switch::offload::{VNET_HEADER_LEN, complete_checksum, segment};
use wharf_switch::{Checksum, Instant, Offload, Pool};

use super::stage::{CONTAINER_MAC, config};

/// Bytes for one parser.
pub fn codecs(data: &[u8]) {
    let Some((&which, bytes)) = data.split_first() else { return };
    match which % 5 {
        0 => dhcp(bytes),
        1 => dns(bytes),
        2 => neighbors(bytes),
        3 => arp(bytes),
        _ => offload(bytes),
    }
}

fn dhcp(bytes: &[u8]) {
    if let Ok(request) = Request::parse(CONTAINER_MAC, bytes) {
        let _ = request.wants(3);
        assert!(request.chaddr.is_unicast());
        assert!(request.max_answer_len >= 548);
    }
}

fn dns(bytes: &[u8]) {
    let Some(query) = Message::parse(bytes) else { return };
    let _ = (query.kind(), query.class(), query.edns());
    for record in query.records().take(1000) {
        let _ = query.data(&record);
    }
    let refusal = answer::refusal(&query, smoltcp::wire::DnsRcode::ServFail);
    assert!(Message::parse(&refusal).is_some(), "our own reply does not parse");
    let cut = answer::truncate(&query, bytes.to_vec(), 512);
    assert!(cut.len() <= 512, "a reply of {} bytes is no cut one", cut.len());
    let asked = message::question(&query, query.name(), query.kind());
    let Some(asked) = Message::parse(&asked) else { return };
    let mut cache = Cache::new(&[7; 32]);
    cache.keep(Instant::ZERO, &asked, bytes);
    if let Some(kept) = cache.answer(Instant::from_millis(999), &asked) {
        assert_eq!(kept.len(), bytes.len(), "an answer has another length later");
    }
}

fn neighbors(bytes: &[u8]) {
    let config = config();
    let (Some(ndp), mut neighbors) = (Ndp::new(&config), Neighbors::new(&config)) else { return };
    let Some((&flags, rest)) = bytes.split_first() else { return };
    let source = if flags & 1 == 0 { "fe80::64" } else { "::" };
    let destination = if flags & 2 == 0 { "fd00:db8::2" } else { "ff02::1:ff00:2" };
    let envelope = ndp::Envelope {
        mac: if flags & 4 == 0 { CONTAINER_MAC } else { EthernetAddress::BROADCAST },
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        hop_limit: 255,
    };
    if let Ok(Some(ndp::Answer::Send(answer))) = ndp.handle(Instant::ZERO, &mut neighbors, envelope, rest) {
        let mut frame = Pool::new(1).small();
        ndp::emit(&mut frame, config.mac, &answer);
        assert!(frame.len() > 54);
    }
}

fn arp(bytes: &[u8]) {
    let config = config();
    let (mut arp, mut neighbors) = (Arp::new(config.mac), Neighbors::new(&config));
    let _ = arp.handle(Instant::ZERO, &mut neighbors, bytes);
}

fn offload(bytes: &[u8]) {
    let Some((header, frame_bytes)) = bytes.split_first_chunk::<VNET_HEADER_LEN>() else { return };
    let Ok(offload) = Offload::parse(*header, frame_bytes.len()) else { return };
    assert_eq!(Offload::parse(offload.emit(), frame_bytes.len()), Ok(offload), "a header changed on its way");
    let pool = Pool::new(4);
    let mut frame = pool.large();
    frame.fill(frame_bytes);
    frame.offload = offload;
    if offload.segmentation.is_none() {
        if complete_checksum(&mut frame).is_ok() {
            assert!(!matches!(frame.offload.checksum, Checksum::Partial { .. }));
        }
        return;
    }
    let mut total = 0;
    let outcome = segment(&mut frame, &pool, |piece| {
        assert!(piece.offload.segmentation.is_none());
        total += piece.len();
    });
    match outcome {
        Ok(()) => assert!(total > 0, "a super-frame vanished"),
        Err(_) => assert_eq!(total, 0, "a refused super-frame was cut"),
    }
}
