// SPDX-License-Identifier: MIT OR Apache-2.0
//! iperf3 where packets get lost, outside and inside. What is lost must cost time and nothing else.
//!
//! iperf3 opens a flow of datagrams with a single short one each way and gives up without it, so these come through.

use serde_json::Value;

use crate::lab::Lab;

/// 1 % of what arrives at an end of the line, by nftables. (What a sender's own rules drop it hears of.)
const AT_AN_END_OF_THE_LINE: &str = "nft 'add table inet loss
    add chain inet loss in { type filter hook input priority 0; }
    add rule inet loss in udp length < 100 accept
    add rule inet loss in meta iifname != lo numgen random mod 100 == 0 counter drop'";

/// 1 % of the frames that reach the container, whatever their size.
const TO_THE_CONTAINER: &str = "nft 'add table netdev loss
    add chain netdev loss in { type filter hook ingress device eth0 priority 0; }
    add rule netdev loss in udp length < 100 accept
    add rule netdev loss in numgen random mod 100 == 0 counter drop'";

/// TCP and UDP both ways for some seconds, with the address that iperf3 answers from; what iperf3 says of each.
fn measure(lab: &Lab, options: &[&str], before: &str) -> Vec<(String, Value)> {
    let runs = ["-t 3", "-t 3 -R", "-t 3 -u -b 20M -l 1400", "-t 3 -u -b 20M -l 1400 -R"];
    // iperf3 begins a UDP run with one datagram that it never repeats: when that is lost, so is the run.
    let client = |(run, port): (&&str, u16)| {
        let client = format!("iperf3 -J -c 203.0.113.2 -p {port} {run}");
        format!("for attempt in 1 2 3; do report=$({client}) && break; sleep 1; done; echo $report\n")
    };
    let clients: String = runs.iter().zip(PORTS).map(client).collect();
    let result = lab.inside(options, &format!("set -e; {before}\n{clients}"));
    let reports = result.text().lines().map(|line| serde_json::from_str(line).unwrap());
    let named: Vec<_> = runs.iter().map(|&run| run.to_owned()).zip(reports).collect();
    assert_eq!(named.len(), runs.len(), "{result:?}");
    named
}

/// iperf3 compares what the receiver counted with what the sender did, for TCP byte by byte.
fn check(reports: &[(String, Value)]) {
    for (run, report) in reports {
        assert!(report.get("error").is_none(), "{run}: {report:#}");
        let end = &report["end"];
        if run.contains("-u") {
            let (packets, lost) =
                (end["sum"]["packets"].as_u64().unwrap(), end["sum"]["lost_packets"].as_u64().unwrap());
            assert!(packets > 1000, "{run}: {end:#}");
            // A busy machine loses some besides.
            assert!(lost * 4 < packets, "{run}: {lost} of {packets} lost");
        } else {
            let (sent, received) =
                (end["sum_sent"]["bytes"].as_u64().unwrap(), end["sum_received"]["bytes"].as_u64().unwrap());
            assert!(received > 1_000_000, "{run}: {end:#}");
            assert!(received <= sent, "{run}: {received} of {sent}");
        }
    }
}

/// One server for each run: one that has not yet heard that its client is gone takes no other.
const PORTS: [u16; 4] = [5201, 5202, 5203, 5204];

fn serve_iperf3() -> Lab {
    let mut lab = Lab::new();
    for port in PORTS {
        lab.serve(&format!("iperf3 -s -p {port}"), port);
    }
    lab
}

#[test]
fn streams_and_datagrams_pass_a_link_that_loses_packets() {
    let lab = serve_iperf3();
    for end in [Lab::on_server, Lab::on_host] {
        end(&lab, AT_AN_END_OF_THE_LINE).text();
    }
    check(&measure(&lab, &[], ":"));
    for end in [Lab::on_server, Lab::on_host] {
        let rules = end(&lab, "nft list chain inet loss in");
        assert!(
            rules.text().contains("counter packets") && !rules.text().contains("packets 0 "),
            "{rules:?}"
        );
    }
}

#[test]
fn streams_and_datagrams_reach_a_container_that_loses_frames() {
    for mtu in ["1500", "65520"] {
        let lab = serve_iperf3();
        check(&measure(&lab, &["--mtu", mtu], TO_THE_CONTAINER));
    }
}
