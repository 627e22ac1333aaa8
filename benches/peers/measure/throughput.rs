// SPDX-License-Identifier: MIT OR Apache-2.0
//! TCP throughput by iperf3.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::{SETTLING, Values, helper, output};
use crate::contender::{Contender, PUBLISHED};
use crate::lab::{HOST, SERVER};
use crate::neighbors::{Neighbors, SECOND};

const IPERF_SERVER: [&str; 3] = ["iperf3", "-s", "-1"];
/// A long path's slow start takes seconds.
const LONG_ENOUGH: Duration = Duration::from_secs(5);

/// Some of the longest round trips.
const PARTING: Duration = Duration::from_millis(500);

/// Bits per second from or to the container.
pub(super) fn bits(contender: &mut Contender, duration: Duration, options: &[&str]) -> Result<f64, String> {
    contender.lab.serve(&IPERF_SERVER)?;
    std::thread::sleep(SETTLING);
    let seconds = duration.as_secs().to_string();
    let words = [&iperf_client(SERVER, &seconds)[..], options].concat();
    output(contender.inside(&words)).and_then(|report| received(&report))
}

fn iperf_client<'a>(to: &'a str, seconds: &'a str) -> [&'a str; 10] {
    ["timeout", "60", "iperf3", "-c", to, "-J", "-O", "1", "-t", seconds]
}

/// The rate at the receiver, in bits per second, from iperf3's report.
fn received(report: &str) -> Result<f64, String> {
    let report: Value = serde_json::from_str(report).map_err(|error| format!("{error}: {report}"))?;
    let rate = report.pointer("/end/sum_received/bits_per_second").and_then(Value::as_f64);
    rate.ok_or_else(|| "iperf3 reports no rate".to_owned())
}

fn gigabits(rate: f64) -> Values {
    Values::from([("", rate / 1e9)])
}

/// The rate, and what it costs the user stack.
pub(super) fn tcp(contender: &mut Contender, duration: Duration, options: &[&str]) -> Result<Values, String> {
    let helper = contender.helper_pid();
    let before = helper.map(helper::cpu_seconds);
    let rate = bits(contender, duration, options)?;
    let mut values = gigabits(rate);
    if let (Some(pid), Some(before)) = (helper, before) {
        // The first second is left out of the rate but not of the processor time.
        let bytes = rate / 8.0 * (duration.as_secs_f64() + 1.0);
        values.insert("CPU s/GiB", (helper::cpu_seconds(pid) - before) / (bytes / f64::from(1 << 30)));
        if let Some(peak) = helper::peak(pid) {
            values.insert("peak RSS MiB", peak);
        }
    }
    Ok(values)
}

/// The rate when so many of a thousand frames towards the container are dropped, in its own namespace.
pub(super) fn with_loss(
    contender: &mut Contender,
    duration: Duration,
    permille: u32,
) -> Result<Values, String> {
    contender.inside_shell(&format!(
        "nft 'add table inet loss; add chain inet loss in {{ type filter hook prerouting priority -300; }}
              add rule inet loss in meta l4proto tcp numgen random mod 1000 < {permille} drop'"
    ))?;
    bits(contender, duration, &["-R"]).map(gigabits)
}

/// The rate over a long path, in Mbit/s.
pub(super) fn far(contender: &mut Contender, duration: Duration, options: &[&str]) -> Result<Values, String> {
    let rate = bits(contender, duration.max(LONG_ENOUGH), options)?;
    // Connections that the path takes with it linger in the kernel for minutes, with all that they had to send.
    std::thread::sleep(PARTING);
    Ok(Values::from([("", rate / 1e6)]))
}

/// The rate between a client outside and a server inside, through a port of the host's.
pub(super) fn published(
    contender: &mut Contender,
    duration: Duration,
    options: &[&str],
) -> Result<Values, String> {
    let mut server = contender.inside(&["timeout", "60", "iperf3", "-s", "-1"]);
    let mut server = server.stdout(Stdio::null()).spawn().map_err(|error| error.to_string())?;
    std::thread::sleep(SETTLING);
    let seconds = duration.as_secs().to_string();
    let port = PUBLISHED.to_string();
    let words = [&iperf_client(HOST, &seconds)[..], &["-p", &port], options].concat();
    let rate = output(contender.lab.outside(&words)).and_then(|report| received(&report));
    let _ = server.kill();
    let _ = server.wait();
    rate.map(gigabits)
}

/// The rate between two containers.
pub(super) fn tcp_to_neighbor(contender: &mut Contender, duration: Duration) -> Result<Values, String> {
    let mut neighbors = Neighbors::start(contender)?;
    neighbors.serve(&IPERF_SERVER)?;
    std::thread::sleep(SETTLING);
    let seconds = duration.as_secs().to_string();
    let report = output(neighbors.first(&iperf_client(SECOND, &seconds)))?;
    received(&report).map(gigabits)
}
