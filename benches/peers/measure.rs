// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is measured.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::contender::{Contender, Kind, PUBLISHED};
use crate::lab::{HOST, SERVER};
use crate::neighbors::{Neighbors, SECOND};
use crate::roles;

/// Values by name; the name "" is the measure itself.
type Values = BTreeMap<&'static str, f64>;

/// One measure: how it is taken from a contender.
pub(crate) struct Measure {
    pub(crate) name: &'static str,
    at: At,
    pub(crate) take: fn(&mut Contender, Duration) -> Result<Values, String>,
}

/// What a measure is taken of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// A container and the outside, at every MTU.
    EveryMtu,
    /// The same at the largest MTU.
    LargestMtu,
    /// Two containers, at every MTU.
    Neighbors,
    /// The same at Ethernet's MTU.
    NeighborsOnEthernet,
}

const LARGEST_MTU: u32 = 65_520;
const ETHERNET_MTU: u32 = 1500;

impl Measure {
    pub(crate) fn suits(&self, kind: Kind, mtu: u32) -> bool {
        let switches = matches!(kind, Kind::None | Kind::Wharf | Kind::WharfTwoWorkers);
        match self.at {
            At::EveryMtu => kind != Kind::Vde,
            At::LargestMtu => kind != Kind::Vde && mtu == LARGEST_MTU,
            // Its frames are Ethernet's.
            At::Neighbors | At::NeighborsOnEthernet if kind == Kind::Vde => mtu == ETHERNET_MTU,
            At::Neighbors => switches,
            At::NeighborsOnEthernet => switches && mtu == ETHERNET_MTU,
        }
    }

    /// The row of a value in the table.
    pub(crate) fn title(&self, part: &str, mtu: u32) -> String {
        let name = if part.is_empty() { self.name.to_owned() } else { format!("{} {part}", self.name) };
        match self.at {
            At::EveryMtu | At::Neighbors => format!("{name}, MTU {mtu}"),
            At::LargestMtu | At::NeighborsOnEthernet => name,
        }
    }
}

/// Every measure, in the order of the table.
pub(crate) fn measures() -> Vec<Measure> {
    let at = |at| move |name, take| Measure { name, at, take };
    let at_every_mtu = at(At::EveryMtu);
    let once = at(At::LargestMtu);
    vec![
        at_every_mtu("TCP up Gbit/s", |c, t| tcp(c, t, &[])),
        at_every_mtu("TCP down Gbit/s", |c, t| tcp(c, t, &["-R"])),
        at_every_mtu("TCP up, 4 flows Gbit/s", |c, t| tcp(c, t, &["-P", "4"])),
        at_every_mtu("TCP down, 4 flows Gbit/s", |c, t| tcp(c, t, &["-P", "4", "-R"])),
        at_every_mtu("published port, in Gbit/s", |c, t| published(c, t, &[])),
        at_every_mtu("published port, out Gbit/s", |c, t| published(c, t, &["-R"])),
        once("TCP down, 1 % loss Gbit/s", with_loss),
        once("round trip us", round_trips),
        once("connects/s", connects),
        once("UDP 64 B up kpps", |c, t| udp(c, t, "up", "64")),
        once("UDP 1400 B up kpps", |c, t| udp(c, t, "up", "1400")),
        once("UDP 64 B down kpps", |c, t| udp(c, t, "down", "64")),
        once("UDP 1400 B down kpps", |c, t| udp(c, t, "down", "1400")),
        once("start-up ms", start_up),
        once("ready ms", |c, _| Ok(in_milliseconds(c.time_until_ready()?))),
        once("idle RSS MiB", idle),
        at(At::Neighbors)("container to container TCP Gbit/s", tcp_to_neighbor),
        at(At::NeighborsOnEthernet)("container to container round trip us", |c, t| {
            ends_of_times(&neighbor_role(c, "round-trips", t)?)
        }),
        at(At::NeighborsOnEthernet)("container to container connects/s", |c, t| {
            one(&neighbor_role(c, "connects", t)?)
        }),
    ]
}

/// Seconds of processor time that a process and its threads have used.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = [11, 12].iter().filter_map(|&at| fields.get(at)?.parse::<f64>().ok()).sum();
    ticks / 100.0
}

/// A field of a process's status that is an amount of memory.
fn mebibytes(pid: u32, field: &str) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}

fn output(mut command: Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(text) } else { Err(text + &String::from_utf8_lossy(&output.stderr)) }
}

/// How long a server is given until it listens.
const SETTLING: Duration = Duration::from_millis(200);
const IPERF_SERVER: [&str; 3] = ["iperf3", "-s", "-1"];

/// Runs an iperf3 client in the container and gives its report.
fn iperf(contender: &mut Contender, duration: Duration, options: &[&str]) -> Result<Value, String> {
    contender.lab.serve(&IPERF_SERVER)?;
    std::thread::sleep(SETTLING);
    let seconds = duration.as_secs().to_string();
    output(contender.inside(&[&iperf_client(SERVER, &seconds)[..], options].concat())).and_then(parse)
}

fn iperf_client<'a>(to: &'a str, seconds: &'a str) -> [&'a str; 10] {
    ["timeout", "60", "iperf3", "-c", to, "-J", "-O", "1", "-t", seconds]
}

fn tcp_to_neighbor(contender: &mut Contender, duration: Duration) -> Result<Values, String> {
    let mut neighbors = Neighbors::start(contender)?;
    neighbors.serve(&IPERF_SERVER)?;
    std::thread::sleep(SETTLING);
    let seconds = duration.as_secs().to_string();
    let report = output(neighbors.first(&iperf_client(SECOND, &seconds))).and_then(parse)?;
    Ok(Values::from([("", number(&report, "/end/sum_received/bits_per_second")? / 1e9)]))
}

fn number(report: &Value, path: &str) -> Result<f64, String> {
    report.pointer(path).and_then(Value::as_f64).ok_or_else(|| format!("iperf3 reports no {path}"))
}

fn tcp(contender: &mut Contender, duration: Duration, options: &[&str]) -> Result<Values, String> {
    let helper = contender.helper_pid();
    let before = helper.map(cpu_seconds);
    let report = iperf(contender, duration, options)?;
    let rate = number(&report, "/end/sum_received/bits_per_second")?;
    let mut values = Values::from([("", rate / 1e9)]);
    if let (Some(pid), Some(before)) = (helper, before) {
        // The first second is left out of the rate but not of the processor time.
        let bytes = rate / 8.0 * (duration.as_secs_f64() + 1.0);
        values.insert("CPU s/GiB", (cpu_seconds(pid) - before) / (bytes / f64::from(1 << 30)));
        if let Some(peak) = mebibytes(pid, "VmHWM:") {
            values.insert("peak RSS MiB", peak);
        }
    }
    Ok(values)
}

/// One frame in a hundred towards the container is dropped in its own namespace.
fn with_loss(contender: &mut Contender, duration: Duration) -> Result<Values, String> {
    contender.inside_shell(
        "nft 'add table inet loss; add chain inet loss in { type filter hook prerouting priority -300; }
              add rule inet loss in meta l4proto tcp numgen random mod 100 < 1 drop'",
    )?;
    let report = iperf(contender, duration, &["-R"])?;
    Ok(Values::from([("", number(&report, "/end/sum_received/bits_per_second")? / 1e9)]))
}

fn udp(contender: &mut Contender, duration: Duration, direction: &str, size: &str) -> Result<Values, String> {
    match role(contender, &["datagrams", SERVER, direction, size], duration)?.as_slice() {
        &[rate] => Ok(Values::from([("", rate / 1000.0)])),
        other => Err(format!("unexpected: {other:?}")),
    }
}

/// Runs one of this program's own clients against its own server.
fn role(contender: &mut Contender, role: &[&str], duration: Duration) -> Result<Vec<f64>, String> {
    let own = own_program()?;
    contender.lab.serve(&[&own, roles::MARKER, "server"])?;
    std::thread::sleep(SETTLING);
    let seconds = duration.as_secs().to_string();
    let words = [&[own.as_str(), roles::MARKER], role, &[&seconds]].concat();
    output(contender.inside(&words)).map(|text| numbers(&text))
}

/// The same between two containers.
fn neighbor_role(contender: &mut Contender, role: &str, duration: Duration) -> Result<Vec<f64>, String> {
    let own = own_program()?;
    let mut neighbors = Neighbors::start(contender)?;
    neighbors.serve(&[&own, roles::MARKER, "server"])?;
    std::thread::sleep(SETTLING);
    let seconds = duration.as_secs().to_string();
    output(neighbors.first(&[&own, roles::MARKER, role, SECOND, &seconds])).map(|text| numbers(&text))
}

fn own_program() -> Result<String, String> {
    Ok(std::env::current_exe().map_err(|error| error.to_string())?.display().to_string())
}

fn numbers(text: &str) -> Vec<f64> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

fn ends_of_times(numbers: &[f64]) -> Result<Values, String> {
    match numbers {
        &[p50, p99] => Ok(Values::from([("p50", p50), ("p99", p99)])),
        other => Err(format!("unexpected: {other:?}")),
    }
}

fn one(numbers: &[f64]) -> Result<Values, String> {
    match numbers {
        &[rate] => Ok(Values::from([("", rate)])),
        other => Err(format!("unexpected: {other:?}")),
    }
}

fn round_trips(contender: &mut Contender, duration: Duration) -> Result<Values, String> {
    ends_of_times(&role(contender, &["round-trips", SERVER], duration)?)
}

fn connects(contender: &mut Contender, duration: Duration) -> Result<Values, String> {
    one(&role(contender, &["connects", SERVER], duration)?)
}

fn start_up(contender: &mut Contender, _: Duration) -> Result<Values, String> {
    Ok(in_milliseconds(contender.start_up()?))
}

fn in_milliseconds(time: Option<Duration>) -> Values {
    time.map(|time| ("", time.as_secs_f64() * 1e3)).into_iter().collect()
}

/// What a user stack has of memory while nothing happens.
fn idle(contender: &mut Contender, _: Duration) -> Result<Values, String> {
    std::thread::sleep(Duration::from_millis(300));
    let resident = contender.helper_pid().and_then(|pid| mebibytes(pid, "VmRSS:"));
    Ok(resident.map(|resident| ("", resident)).into_iter().collect())
}

/// A client outside and a server inside, through a port of the host's.
fn published(contender: &mut Contender, duration: Duration, options: &[&str]) -> Result<Values, String> {
    let mut server = contender.inside(&["timeout", "60", "iperf3", "-s", "-1"]);
    let mut server = server.stdout(Stdio::null()).spawn().map_err(|error| error.to_string())?;
    std::thread::sleep(Duration::from_millis(200));
    let seconds = duration.as_secs().to_string();
    let port = PUBLISHED.to_string();
    let words = [&iperf_client(HOST, &seconds)[..], &["-p", &port], options].concat();
    let report = output(contender.lab.outside(&words)).and_then(parse);
    let _ = server.kill();
    let _ = server.wait();
    Ok(Values::from([("", number(&report?, "/end/sum_received/bits_per_second")? / 1e9)]))
}

fn parse(text: String) -> Result<Value, String> {
    serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
}
