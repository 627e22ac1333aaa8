// SPDX-License-Identifier: MIT OR Apache-2.0
//! The text is read by the rules of its specification, not by how it is made.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::control::model::{Drops, Frames, Load, Mode, PortKind, Transport};

/// A family as it is read.
#[derive(Debug, Default)]
struct Read {
    kind: String,
    unit: Option<String>,
    help: Option<String>,
    samples: BTreeMap<(String, BTreeMap<String, String>), f64>,
}

fn is_name(text: &str) -> bool {
    !text.starts_with(|first: char| first.is_ascii_digit())
        && !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// A quoted text and what is behind it.
fn unquoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.strip_prefix('"').expect("a quote").char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return (value, &text[at + 2..]),
            '\\' => value.push(match chars.next().expect("something escaped").1 {
                'n' => '\n',
                escaped @ ('"' | '\\') => escaped,
                other => panic!("\\{other}"),
            }),
            '\n' => panic!("a line break in a label"),
            char => value.push(char),
        }
    }
    panic!("no end of {text}");
}

/// A sample's name, labels and value.
fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let (name, mut rest) = line.split_once('{').expect("labels");
    assert!(is_name(name), "{name}");
    let mut labels = BTreeMap::new();
    loop {
        let (label, value) = rest.split_once('=').expect("a label");
        assert!(is_name(label), "{label}");
        let (value, behind) = unquoted(value);
        assert!(labels.insert(label.to_owned(), value).is_none(), "{label} twice: {line}");
        match behind.strip_prefix(',') {
            Some(more) => rest = more,
            None => {
                let value = behind.strip_prefix("} ").expect("a value").parse().expect("a number");
                return (name.to_owned(), labels, value);
            }
        }
    }
}

/// Reads a whole text, and panics where it breaks a rule.
fn read(text: &str) -> BTreeMap<String, Read> {
    let mut families = BTreeMap::<String, Read>::new();
    let mut current = String::new();
    let lines = text.strip_suffix("# EOF\n").expect("ends with # EOF and a line break");
    for line in lines.lines() {
        let Some(about) = line.strip_prefix("# ") else {
            let (name, labels, value) = sample(line);
            let family = families.get_mut(&current).expect("a sample is of a family");
            let suffix = name.strip_prefix(&current).expect("a sample is in its family's place");
            let wanted = match family.kind.as_str() {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            assert_eq!(suffix, wanted, "{line}");
            assert!(family.kind != "info" || value == 1.0, "{line}");
            assert!(family.kind == "gauge" || value >= 0.0, "{line}");
            assert!(family.samples.insert((name, labels), value).is_none(), "twice: {line}");
            continue;
        };
        let mut words = about.splitn(3, ' ');
        let [what, name, value] = [words.next(), words.next(), words.next()].map(Option::unwrap);
        assert!(is_name(name), "{line}");
        if name != current {
            assert!(!families.contains_key(name), "{name} in two places");
            name.clone_into(&mut current);
        }
        let family = families.entry(name.to_owned()).or_default();
        assert!(family.samples.is_empty(), "samples before {line}");
        match what {
            "TYPE" => {
                assert!(["counter", "gauge", "info"].contains(&value) && family.kind.is_empty(), "{line}");
                value.clone_into(&mut family.kind);
            }
            "UNIT" => {
                assert!(name.ends_with(&format!("_{value}")) && family.unit.is_none(), "{line}");
                family.unit = Some(value.to_owned());
            }
            "HELP" => {
                assert!(family.help.is_none(), "{line}");
                family.help = Some(value.to_owned());
            }
            _ => panic!("{line}"),
        }
    }
    for (name, family) in &families {
        assert!(!family.kind.is_empty() && family.help.is_some(), "{name}");
        assert!(!name.ends_with("_total") && !name.ends_with("_info"), "{name}");
    }
    families
}

fn snapshot() -> Snapshot {
    let network = Network {
        name: "default".to_owned(),
        ipv4: None,
        ipv6: None,
        nat64: None,
        domain: None,
        mtu: 65_520,
        workers: 1,
        internal: false,
        isolated: false,
        links: vec!["other".to_owned()],
        waiting_links: vec!["later".to_owned()],
        host_loopback: false,
        host_sockets: vec!["80:/run/web.sock".to_owned()],
        ports: 1,
        up: true,
    };
    let port = Port {
        network: "default".to_owned(),
        name: "odd \"name\"\\\n".to_owned(),
        aliases: Vec::new(),
        id: "1.0".to_owned(),
        kind: PortKind::Tap,
        at: String::new(),
        interface: None,
        mac: String::new(),
        ipv4: None,
        ipv6: None,
        vlan: None,
        isolated: false,
        allow: Vec::new(),
        age_secs: 0,
        rx_frames: 1,
        rx_bytes: 60,
        tx_frames: 2,
        tx_bytes: u64::from(u32::MAX) + 1,
    };
    let drop = |reason: &str, count| Drops {
        at: "switch".to_owned(),
        reason: reason.to_owned(),
        class: "policy".to_owned(),
        text: String::new(),
        count,
    };
    let stats = Stats {
        network: "default".to_owned(),
        frames: Frames { received: 3, queued: 1, ..Frames::default() },
        drops: vec![drop("SamePort", 0), drop("EgressFull", 7)],
        load: Load { held_bytes: 5, evicted_mappings: 4, dns_hits: 6, ..Load::default() },
        ports: BTreeMap::new(),
    };
    let publication = Publication {
        id: 1,
        network: "default".to_owned(),
        transport: Transport::Tcp,
        host: "127.0.0.1:80".parse().unwrap(),
        interface: None,
        proxy: false,
        auto: false,
        container: None,
        target: "192.0.2.1:80".parse().unwrap(),
    };
    Snapshot {
        info: Info { version: "1.2.3".to_owned(), api: 1, pid: 1, mode: Mode::Daemon },
        networks: vec![network.clone(), Network { name: "lost".to_owned(), ports: 0, up: false, ..network }],
        stats: vec![stats],
        ports: vec![port],
        publications: vec![publication],
    }
}

#[test]
fn every_family_keeps_the_rules_of_the_format_with_and_without_samples() {
    let whole = read(&expose(&snapshot()));
    let Snapshot { info, .. } = snapshot();
    let empty = Snapshot {
        info,
        networks: Vec::new(),
        stats: Vec::new(),
        ports: Vec::new(),
        publications: Vec::new(),
    };
    let empty = read(&expose(&empty));
    assert_eq!(whole.keys().collect::<BTreeSet<_>>(), empty.keys().collect());
    assert_eq!(empty.values().map(|family| family.samples.len()).sum::<usize>(), 1);
}

#[test]
fn values_are_found_under_their_labels() {
    let families = read(&expose(&snapshot()));
    let value = |family: &str, sample: &str, labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        families[family].samples.get(&(sample.to_owned(), labels)).copied()
    };
    let default = ("network", "default");
    let of_drop = |reason| {
        let labels = [default, ("at", "switch"), ("reason", reason), ("class", "policy")];
        value("wharf_drops", "wharf_drops_total", &labels)
    };
    assert_eq!([of_drop("SamePort"), of_drop("EgressFull")], [Some(0.0), Some(7.0)]);
    assert_eq!(value("wharf_build", "wharf_build_info", &[("version", "1.2.3")]), Some(1.0));
    assert_eq!(value("wharf_network_up", "wharf_network_up", &[("network", "lost")]), Some(0.0));
    assert_eq!(value("wharf_publications", "wharf_publications", &[default]), Some(1.0));
    assert_eq!(value("wharf_publications", "wharf_publications", &[("network", "lost")]), Some(0.0));
    assert_eq!(value("wharf_frames", "wharf_frames_total", &[default, ("kind", "received")]), Some(3.0));
    assert_eq!(value("wharf_queued_frames", "wharf_queued_frames", &[default]), Some(1.0));
    let port = [default, ("port", "odd \"name\"\\\n")];
    let transmitted = value("wharf_port_transmit_bytes", "wharf_port_transmit_bytes_total", &port);
    assert_eq!(transmitted, Some(f64::from(u32::MAX) + 1.0));
    assert_eq!(value("wharf_evicted_mappings", "wharf_evicted_mappings_total", &[default]), Some(4.0));
    for (result, count) in [("hit", 6.0), ("miss", 0.0)] {
        let labels = [default, ("result", result)];
        assert_eq!(value("wharf_dns_cache_lookups", "wharf_dns_cache_lookups_total", &labels), Some(count));
    }
}
