// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guards: what a container must not say reaches nobody, unless it may say that.

use std::collections::BTreeMap;

use super::apart::{Capture, send};
use super::reach::fixed_network;
use super::{Container, Daemon};
use crate::lab::Lab;

const GATEWAY: &str = "gateway_mac=02:77:68:61:72:02 gateway=10.0.2.2 gateway6=2001:db8:5::2";

/// Somebody who is lied to, somebody who is impersonated, and who does that.
struct Crime {
    daemon: Daemon,
    victim: Container,
    neighbor: Container,
}

impl Crime {
    fn new() -> Self {
        let daemon = Daemon::up(Lab::new(), &fixed_network(1));
        let (victim, neighbor) = (daemon.attached("--name victim"), daemon.attached("--name neighbor"));
        Self { daemon, victim, neighbor }
    }

    /// What arrives at the victim of all that `frames.py` forges on a container attached with these options.
    #[track_caller]
    fn arrived(&self, options: &str) -> Vec<String> {
        let own = "--name mallory --ip 10.0.2.66 --ip6 2001:db8:5::66";
        let mallory = self.daemon.attached_again(&format!("{own} {options}"));
        let capture = Capture::start(&self.victim);
        let others = format!(
            "victim={} neighbor_mac={} neighbor=10.0.2.11 neighbor6=2001:db8:5::11",
            mac(&self.victim),
            mac(&self.neighbor)
        );
        send(&mallory, "forge", &format!("ipv4=10.0.2.66 ipv6=2001:db8:5::66 {GATEWAY} {others}"));
        let tags = capture.tags();
        tags.iter().map(|tag| tag.trim_start_matches("- ").to_owned()).collect()
    }
}

fn mac(container: &Container) -> String {
    container.says("ip -o link show eth0 | grep -o 'ether [^ ]*' | cut -d' ' -f2")
}

/// What the switch of the only network has dropped, by reason.
fn drops(daemon: &Daemon) -> BTreeMap<String, u64> {
    let stats: serde_json::Value = serde_json::from_str(daemon.command("stats --json").text()).unwrap();
    let drops = stats[0]["drops"].as_array().unwrap().iter();
    drops
        .filter(|drop| drop["at"] == "switch")
        .map(|drop| (drop["reason"].as_str().unwrap().to_owned(), drop["count"].as_u64().unwrap()))
        .collect()
}

#[test]
fn no_forgery_arrives_but_what_its_sender_is_allowed() {
    let crime = Crime::new();
    assert_eq!(crime.arrived(""), Vec::<String>::new());
    let drops = drops(&crime.daemon);
    for (reason, times) in [
        ("source_is_gateway", 1),
        ("source_mac_forged", 1),
        ("ipv4_source_forged", 2),
        ("ipv6_source_forged", 1),
        ("arp_forged", 2),
        ("ndp_forged", 1),
        ("dhcp_server_forbidden", 1),
        ("router_forbidden", 1),
    ] {
        assert_eq!(drops.get(reason), Some(&times), "{reason}");
    }
    assert_eq!(crime.arrived("--allow any-mac"), ["neighbor-mac"]);
    let of_addresses =
        ["arp-gateway", "arp-neighbor", "na-gateway", "neighbor-ipv4", "neighbor-ipv6", "outside-ipv4"];
    assert_eq!(crime.arrived("--allow any-address"), of_addresses);
    assert_eq!(crime.arrived("--allow dhcp"), ["dhcp-offer"]);
    assert_eq!(crime.arrived("--allow router"), ["ra"]);
    let everything = crime.arrived("--allow any-mac --allow any-address --allow dhcp --allow router");
    assert!(!everything.contains(&"gateway-mac".to_owned()), "that is nobody's: {everything:?}");
    assert_eq!(everything.len(), 9, "{everything:?}");
}
