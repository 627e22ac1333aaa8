// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is measured.

mod datagrams;
mod exchanges;
mod helper;
mod many;
mod resting;
mod throughput;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use crate::contender::{Contender, Kind};
use crate::lab::Distance;
use crate::neighbors::Neighbors;
use crate::roles;

/// Values by name; the name "" is the measure itself.
type Values = BTreeMap<&'static str, f64>;
type Take = fn(&mut Contender, Duration) -> Result<Values, String>;

/// One measure: how it is taken from a contender.
pub(crate) struct Measure {
    pub(crate) name: &'static str,
    at: At,
    pub(crate) distance: Distance,
    /// It takes so long, or so much, that it is taken only when asked for.
    pub(crate) is_long: bool,
    pub(crate) take: Take,
}

/// What a measure is taken of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// A container and the outside, at every MTU.
    EveryMtu,
    /// The same at the largest of the run's MTUs.
    LargestMtu,
    /// Two containers, at every MTU.
    Neighbors,
    /// The same at Ethernet's MTU.
    NeighborsOnEthernet,
}

const ETHERNET_MTU: u32 = 1500;

impl Measure {
    /// Whether it is taken of `kind` at `mtu` in a run whose largest MTU is `largest`.
    pub(crate) fn suits(&self, kind: Kind, mtu: u32, largest: u32) -> bool {
        let switches = matches!(kind, Kind::None | Kind::Wharf | Kind::WharfTwoWorkers);
        match self.at {
            At::EveryMtu => kind != Kind::Vde,
            At::LargestMtu => kind != Kind::Vde && mtu == largest,
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

    const fn new(at: At, name: &'static str, take: Take) -> Self {
        Self { name, at, distance: Distance::Near, is_long: false, take }
    }

    const fn long(self) -> Self {
        Self { is_long: true, ..self }
    }

    /// With the server a round trip of so many milliseconds away.
    const fn over(self, milliseconds: u64) -> Self {
        Self { distance: Distance::Far(Duration::from_millis(milliseconds)), ..self }.long()
    }
}

/// Every measure, in the order of the table.
pub(crate) fn measures() -> Vec<Measure> {
    [throughput(), exchanges(), datagrams(), many(), resting(), between_neighbors()]
        .into_iter()
        .flatten()
        .collect()
}

fn throughput() -> Vec<Measure> {
    let at_every_mtu = |name, take| Measure::new(At::EveryMtu, name, take);
    let once = |name, take| Measure::new(At::LargestMtu, name, take);
    vec![
        at_every_mtu("TCP up Gbit/s", |c, t| throughput::tcp(c, t, &[])),
        at_every_mtu("TCP down Gbit/s", |c, t| throughput::tcp(c, t, &["-R"])),
        at_every_mtu("TCP up, 4 flows Gbit/s", |c, t| throughput::tcp(c, t, &["-P", "4"])),
        at_every_mtu("TCP down, 4 flows Gbit/s", |c, t| throughput::tcp(c, t, &["-P", "4", "-R"])),
        at_every_mtu("published port, in Gbit/s", |c, t| throughput::published(c, t, &[])),
        at_every_mtu("published port, out Gbit/s", |c, t| throughput::published(c, t, &["-R"])),
        once("TCP down, 0.1 % loss Gbit/s", |c, t| throughput::with_loss(c, t, 1)),
        once("TCP down, 1 % loss Gbit/s", |c, t| throughput::with_loss(c, t, 10)),
        once("TCP up, 20 ms and 1 Gbit/s away Mbit/s", |c, t| throughput::far(c, t, &[])).over(20),
        once("TCP down, 20 ms and 1 Gbit/s away Mbit/s", |c, t| throughput::far(c, t, &["-R"])).over(20),
        once("TCP up, 100 ms and 1 Gbit/s away Mbit/s", |c, t| throughput::far(c, t, &[])).over(100),
        once("TCP down, 100 ms and 1 Gbit/s away Mbit/s", |c, t| throughput::far(c, t, &["-R"])).over(100),
    ]
}

fn exchanges() -> Vec<Measure> {
    let once = |name, take| Measure::new(At::LargestMtu, name, take);
    vec![
        once("round trip us", exchanges::round_trips),
        once("connects/s", |c, t| exchanges::connects(c, t, "1", "0")),
        once("parallel connects/s, 8 clients", |c, t| exchanges::connects(c, t, "8", "0")),
        once("connects/s after 50000", |c, t| exchanges::connects(c, t, "1", "50000")).long(),
        once("DNS, 64 in flight", |c, t| exchanges::queries(c, t, exchanges::NEW_NAMES)),
        once("DNS, known names, 64 in flight", |c, t| exchanges::queries(c, t, exchanges::KNOWN_NAMES)),
        once("DNS at 10000/s", |c, t| exchanges::paced_queries(c, t, "10000")),
    ]
}

fn datagrams() -> Vec<Measure> {
    let once = |name, take| Measure::new(At::LargestMtu, name, take);
    vec![
        once("UDP 64 B up kpps", |c, t| datagrams::flood(c, t, "up", "64")),
        once("UDP 1400 B up kpps", |c, t| datagrams::flood(c, t, "up", "1400")),
        once("UDP 64 B down kpps", |c, t| datagrams::flood(c, t, "down", "64")),
        once("UDP 1400 B down kpps", |c, t| datagrams::flood(c, t, "down", "1400")),
        once("UDP 1 Gbit/s of 1400 B up % lost", |c, t| datagrams::at_one_gigabit(c, t, "up")),
        once("UDP 1 Gbit/s of 1400 B down % lost", |c, t| datagrams::at_one_gigabit(c, t, "down")),
    ]
}

fn many() -> Vec<Measure> {
    let long = |name, take| Measure::new(At::LargestMtu, name, take).long();
    vec![
        long("10000 idle flows:", |c, t| many::idle_flows(c, t, 10_000)),
        long("100000 idle flows:", |c, t| many::idle_flows(c, t, 100_000)),
        long("1000 slow readers:", |c, t| many::slow_readers(c, t, 1000)),
    ]
}

fn resting() -> Vec<Measure> {
    let once = |name, take| Measure::new(At::LargestMtu, name, take);
    vec![
        once("start-up ms", resting::start_up),
        once("ready ms", resting::ready),
        once("idle RSS MiB", resting::memory),
        once("idle wake-ups/s", resting::wake_ups),
    ]
}

fn between_neighbors() -> Vec<Measure> {
    let on_ethernet = |name, take| Measure::new(At::NeighborsOnEthernet, name, take);
    vec![
        Measure::new(At::Neighbors, "container to container TCP Gbit/s", throughput::tcp_to_neighbor),
        on_ethernet("container to container round trip us", exchanges::round_trips_to_neighbor),
        on_ethernet("container to container connects/s", exchanges::connects_to_neighbor),
    ]
}

/// How long a server is given until it listens.
const SETTLING: Duration = Duration::from_millis(200);

/// Runs one of this program's own clients against its own server.
fn role(contender: &mut Contender, role: &[&str], duration: Duration) -> Result<Vec<f64>, String> {
    serve(contender)?;
    client(contender, role, duration)
}

/// Starts this program's own server.
fn serve(contender: &mut Contender) -> Result<(), String> {
    contender.lab.serve(&[&roles::program()?, roles::MARKER, "server"])?;
    std::thread::sleep(SETTLING);
    Ok(())
}

/// Runs one of this program's own clients against a server that listens already.
fn client(contender: &Contender, role: &[&str], duration: Duration) -> Result<Vec<f64>, String> {
    output(contender.inside(&in_words(&roles::program()?, role, &duration.as_secs().to_string())))
        .map(|text| numbers(&text))
}

/// [`role`] between two containers.
fn neighbor_role(contender: &mut Contender, role: &[&str], duration: Duration) -> Result<Vec<f64>, String> {
    let own = roles::program()?;
    let mut neighbors = Neighbors::start(contender)?;
    neighbors.serve(&[&own, roles::MARKER, "server"])?;
    std::thread::sleep(SETTLING);
    output(neighbors.first(&in_words(&own, role, &duration.as_secs().to_string()))).map(|text| numbers(&text))
}

fn in_words<'a>(own: &'a str, role: &[&'a str], last: &'a str) -> Vec<&'a str> {
    [&[own, roles::MARKER], role, &[last]].concat()
}

fn output(mut command: Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(text) } else { Err(text + &String::from_utf8_lossy(&output.stderr)) }
}

fn numbers(text: &str) -> Vec<f64> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// Gives each of a role's numbers its name.
fn named(names: &[&'static str], numbers: &[f64]) -> Result<Values, String> {
    if names.len() != numbers.len() {
        return Err(format!("{numbers:?} are not {names:?}"));
    }
    Ok(names.iter().copied().zip(numbers.iter().copied()).collect())
}
