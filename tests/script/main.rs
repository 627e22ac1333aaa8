// SPDX-License-Identifier: MIT OR Apache-2.0
//! Conversations with the gateway, one per `.pkt` file, each a claim that its name states.
//!
//! # How it works
//! A file is read line by line. Time is virtual, and a line may begin with `+SECONDS` to let some pass.
//!
//! | line | meaning |
//! |---|---|
//! | `with mtu 1280`, `with ipv4-only` ... | configuration, before anything else |
//! | `with published A:P` | the container's port that a port of the host leads to |
//! | `with name NAME A` | a container's name in the domain wharf.internal |
//! | `publish A:P`, `withdraw` | the same while the gateway runs, and its end |
//! | `flow A:P B:Q` | the ends of what `tcp` lines are about; default 10.0.2.100:40000 198.51.100.7:80 |
//! | `< frame` | the container sends this frame |
//! | `< broadcast frame` | the same, to everybody on the link |
//! | `> frame` | the next frame that the container gets reads literally so |
//! | `> nothing` | the container got nothing more |
//! | `host asked: CALL` | the next thing the gateway asked of the host |
//! | `host accepts`, `refuses`, `unreachable`, `silent`, `sends`, `ends`, `resets`, `takes`, `got` | the host's side |
//! | `host breaks`, `host murmurs` | a reset that nothing tells of; an ICMP error that ends nothing |
//! | `host client A:P`, `host has no descriptors`, `host has descriptors` | who connects to the published port |
//! | `drop Reason` | so many `drop` lines, so many drops for this reason |
//! | `flows N` | TCP connections now |
//!
//! The container's TCP numbers are the script's own, the gateway's count from its SYN. `hex` frames are literal bytes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "a test may fail, and its numbers are small"
)]

mod frame;
#[path = "../stage/mod.rs"]
mod stage;
mod text;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use stage::Stage;
use wharf_stack::host::HostError;
use wharf_stack::{ClosedPorts, DropReason, Zone, ZoneBuilder};
use wharf_switch::{Duration, Reason};

/// The ends of the TCP connection a script is about.
#[derive(Clone, Copy, Debug)]
struct Flow {
    container: SocketAddr,
    remote: SocketAddr,
    /// The gateway's first number, once seen.
    first: Option<u32>,
}

struct Runner {
    stage: Stage,
    flow: Flow,
    drops: HashMap<DropReason, u64>,
}

/// Runs one script.
fn run(name: &str, script: &str) {
    let lines = || {
        let numbered = script.lines().zip(1..);
        numbered
            .map(|(line, at)| (line.split('#').next().unwrap().trim(), at))
            .filter(|(line, _)| !line.is_empty())
    };
    let mut config = stage::config();
    let mut published = None;
    let mut zone: Option<ZoneBuilder> = None;
    for (line, at) in lines() {
        let Some(option) = line.strip_prefix("with ") else { continue };
        match option.split_once(' ').unwrap_or((option, "")) {
            ("mtu", bytes) => config.mtu_bytes = bytes.parse().unwrap(),
            ("ipv4-only", _) => (config.ipv6, config.nat64) = (None, None),
            ("sockets", count) => config.max_sockets = count.parse().unwrap(),
            ("memory", bytes) => config.memory_bytes = bytes.parse().unwrap(),
            ("host-loopback", _) => config.host_loopback = true,
            ("host-socket", port) => config.host_sockets.push(port.parse().unwrap()),
            ("closed-ports-unreachable", _) => config.closed_ports = ClosedPorts::Unreachable,
            ("internal", _) => config.internal = true,
            ("no-dns", _) => config.dns_forwarder = false,
            ("published", target) => published = Some(target.parse().unwrap()),
            ("name", host) => {
                let (name, address) = host.split_once(' ').unwrap();
                let zone = zone.get_or_insert_with(|| Zone::builder("wharf.internal").unwrap());
                zone.host(name, &[address.parse().unwrap()]).unwrap();
            }
            _ => panic!("{name}:{at}: no such option: {option}"),
        }
    }
    config.zone = zone.map_or_else(Arc::default, |zone| Arc::new(zone.build()));
    let flow = Flow {
        container: "10.0.2.100:40000".parse().unwrap(),
        remote: "198.51.100.7:80".parse().unwrap(),
        first: None,
    };
    let mut runner = Runner { stage: Stage::new(config), flow, drops: HashMap::new() };
    if let Some(target) = published {
        runner.stage.publish(target);
    }
    // The first Router Advertisement.
    runner.stage.settle();
    while runner.stage.sent().is_some() {}
    for (line, at) in lines() {
        if let Err(error) = runner.step(line) {
            panic!("{name}:{at}: {line}\n{error}");
        }
    }
    if let Some(more) = runner.next_frame(false) {
        panic!("{name}: at the end, more was sent: {more}");
    }
}

impl Runner {
    fn step(&mut self, line: &str) -> Result<(), String> {
        let line = match line.strip_prefix('+') {
            None => line,
            Some(rest) => {
                let (seconds, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                let seconds: f64 = seconds.parse().map_err(|_| "no number of seconds")?;
                self.stage.advance(Duration::from_nanos((seconds * 1e9) as u64));
                rest.trim()
            }
        };
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "" | "with" => {}
            "flow" => {
                let (container, remote) = rest.split_once(' ').ok_or("two ends")?;
                self.flow.container = container.parse().map_err(|_| "no such end")?;
                self.flow.remote = remote.parse().map_err(|_| "no such end")?;
                self.flow.first = None;
            }
            "<" => {
                let frame = frame::parse(rest, &self.flow)?;
                self.stage.receive(&frame);
            }
            ">" => return self.expect_frame(rest),
            "publish" => self.stage.publish(rest.parse().map_err(|_| "no such end")?),
            "withdraw" => self.stage.withdraw(),
            "host" => return self.host(rest),
            "drop" => return self.expect_drop(rest),
            "flows" => {
                let flows = self.stage.workers[0].gateway.load().tcp_flows.to_string();
                return equal(&flows, rest);
            }
            _ => return Err("no such verb".into()),
        }
        Ok(())
    }

    /// The next frame in words; the advertisements that come by themselves only where one is looked for.
    fn next_frame(&mut self, is_advert_wanted: bool) -> Option<String> {
        loop {
            let words = text::render(&self.stage.sent()?, &mut self.flow);
            if is_advert_wanted || !words.contains("ndp router") {
                return Some(words);
            }
        }
    }

    fn expect_frame(&mut self, wanted: &str) -> Result<(), String> {
        let sent = self.next_frame(wanted.contains("ndp router"));
        equal(sent.as_deref().unwrap_or("nothing"), wanted)
    }

    fn expect_drop(&mut self, name: &str) -> Result<(), String> {
        let is_it = |reason: &&DropReason| format!("{reason:?}") == name;
        let reason = DropReason::ALL.iter().find(is_it).ok_or("no such reason")?;
        let wanted = self.drops.entry(*reason).or_default();
        *wanted += 1;
        let got = self.stage.workers[0].gateway.drops().get(*reason);
        equal(&got.to_string(), &wanted.to_string())
    }

    fn host(&mut self, line: &str) -> Result<(), String> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let host = self.stage.host();
        match verb {
            "asked:" => return equal(host.calls.pop_front().as_deref().unwrap_or("nothing"), rest),
            "got" => {
                let at = host.sockets.len() - 1;
                let got = std::mem::take(&mut host.sockets[at].outbox);
                return equal(&format!("{:?}", String::from_utf8_lossy(&got)), rest);
            }
            "client" => {
                host.connects(rest.parse().map_err(|_| "no such client")?);
                self.stage.settle();
                return Ok(());
            }
            "segments" => {
                host.segment_size = Some(rest.parse().map_err(|_| "of what size")?);
                return Ok(());
            }
            "has" => {
                host.is_exhausted = rest == "no descriptors";
                return Ok(());
            }
            _ => {}
        }
        let at = host.latest();
        match verb {
            "accepts" => host.connect_ends(at, Ok(())),
            "refuses" => host.connect_ends(at, Err(HostError::Refused)),
            "unreachable" => host.connect_ends(at, Err(HostError::HostUnreachable)),
            "silent" => host.connect_ends(at, Err(HostError::TimedOut)),
            "sends" => {
                host.sockets[at].inbox.push_back(frame::data(rest)?);
                host.announce(at, true, false, false);
            }
            "ends" => {
                host.sockets[at].ended = true;
                host.announce(at, true, false, true);
            }
            "resets" => {
                host.reset(at);
                host.announce(at, true, true, true);
            }
            "breaks" => host.reset(at),
            "murmurs" => host.announce(at, false, false, true),
            "takes" => {
                host.sockets[at].room =
                    if rest == "all" { usize::MAX } else { rest.parse().map_err(|_| "how much")? };
                if host.sockets[at].room > 0 {
                    host.announce(at, false, true, false);
                }
            }
            _ => return Err("no such verb of the host's".into()),
        }
        self.stage.settle();
        Ok(())
    }
}

fn equal(got: &str, wanted: &str) -> Result<(), String> {
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (got, wanted) = (squeeze(got), squeeze(wanted));
    if got == wanted { Ok(()) } else { Err(format!("wanted: {wanted}\n   got: {got}")) }
}

/// One test per script: the name is the claim.
macro_rules! scripts {
    ($($name:ident),+ $(,)?) => {
        $(
            #[test]
            fn $name() {
                run(stringify!($name), include_str!(concat!(stringify!($name), ".pkt")));
            }
        )+

        #[test]
        fn every_script_is_run() {
            let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/script");
            let files = std::fs::read_dir(here).unwrap().map(|entry| entry.unwrap().file_name());
            let mut names: Vec<String> =
                files.filter_map(|name| Some(name.to_str()?.strip_suffix(".pkt")?.to_owned())).collect();
            names.sort();
            let mut run = vec![$(stringify!($name).to_owned()),+];
            run.sort();
            assert_eq!(names, run);
        }
    };
}

scripts!(
    ack_inside_a_super_frame_keeps_the_connection,
    acknowledgments_out_of_the_window_are_answered_at_a_limited_rate,
    arp_answers_for_the_gateway_only,
    blind_data_is_challenged,
    blocked_host_without_memory_closes_the_window,
    breaking_upload_resets_the_container,
    broadcasts_cause_no_icmp_errors,
    closed_port_may_be_an_unreachable_network,
    client_is_seen_as_itself_or_as_the_gateway,
    client_of_a_published_port_is_connected_to_the_container,
    client_waits_until_the_container_is_found,
    client_with_a_taken_port_gets_another,
    clients_wait_while_the_host_has_no_descriptors,
    clients_wait_while_there_is_no_room_for_their_flows,
    closed_port_of_the_gateway_is_unreachable,
    closed_window_is_probed_as_long_as_it_is_acknowledged,
    dhcp_leads_to_an_address,
    duplicate_address_detection_is_respected,
    host_unreachable_is_told_by_icmp,
    connect_beyond_the_memory_is_refused,
    containers_find_each_other_by_name,
    internal_network_has_no_outside,
    keep_alive_is_answered_and_keeps_the_connection,
    last_hop_is_told_by_icmp,
    little_memory_leaves_a_window_open,
    nat64_connects_to_the_address_inside,
    inbound_icmp_error_resets_the_client,
    inbound_reset_resets_the_client,
    inbound_simultaneous_open_is_refused,
    inbound_syn_is_repeated_and_given_up,
    out_of_order_data_is_reported_and_kept,
    overlapping_fragments_are_dropped,
    port_of_the_gateway_leads_to_a_host_socket,
    refused_connect_resets,
    repeated_syn_with_another_number_opens_anew,
    reset_after_the_hosts_end_resets_the_container,
    reset_behind_a_closed_window_resets_the_container,
    reset_of_the_host_resets_the_container,
    router_solicitation_is_answered,
    silent_host_is_silence,
    small_room_does_not_open_the_window,
    soft_error_does_not_end_a_connect,
    segments_fit_those_of_the_host,
    stream_ends_one_side_after_the_other,
    syn_ack_is_repeated_until_acknowledged,
    syn_is_held_until_the_host_connected,
    unsolicited_reset_outside_the_next_number_is_challenged,
    what_the_host_does_not_take_closes_the_window,
    window_grows_to_what_the_host_takes_at_once,
    withdrawn_port_leaves_its_connections_alone,
    without_a_forwarder_its_address_is_outside,
);
