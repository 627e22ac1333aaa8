// SPDX-License-Identifier: MIT OR Apache-2.0
//! What many connections cost a user stack, and those beside them.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use super::{SETTLING, Values, client, helper, in_words, serve, throughput};
use crate::contender::Contender;
use crate::lab::{SERVER, shell};
use crate::roles;

/// The share of a process's open files that may be connections: wharf keeps a quarter for other things.
const SHARE: f64 = 0.75;

/// MiB of a page.
const PAGE_MEBIBYTES: f64 = 4096.0 / 1_048_576.0;

/// Connections kept until dropped.
struct Kept {
    client: Child,
    count: f64,
}

impl Kept {
    /// Lets a role open `count` of them in the container.
    fn open(contender: &Contender, role: &str, count: u32) -> Result<Self, String> {
        let (own, count) = (roles::program()?, count.to_string());
        let mut command = contender.inside(&in_words(&own, &[role, SERVER], &count));
        let mut client = command.stdout(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
        let output = client.stdout.take().ok_or("no pipe")?;
        let mut kept = Self { client, count: 0.0 };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).map_err(|error| error.to_string())?;
        kept.count = line.trim().parse().map_err(|error| format!("{role}: {error}"))?;
        Ok(kept)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
        // The user stack is to live until it has told the server of all the resets.
        thread::sleep(SETTLING);
    }
}

/// What a flow on which nothing happens costs, and the round trips beside all of them.
pub(super) fn idle_flows(
    contender: &mut Contender,
    duration: Duration,
    count: u32,
) -> Result<Values, String> {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if limit as f64 * SHARE < f64::from(count) {
        eprintln!("peers: {count} flows want a higher limit of open files (ulimit -n) and are left out");
        return Ok(Values::new());
    }
    serve(contender)?;
    let before = median_round_trip(contender, duration)?;
    let helper = contender.helper_pid();
    let resident = helper.and_then(helper::resident);
    let kept = Kept::open(contender, "hold", count)?;
    let beside = median_round_trip(contender, duration)?;
    let mut values = Values::from([
        ("opened", kept.count),
        ("round trip us p50 before", before),
        ("round trip us p50 beside", beside),
    ]);
    if let Some((after, before)) = helper.and_then(helper::resident).zip(resident) {
        values.insert("RSS MiB", after);
        values.insert("RSS KiB each", (after - before) * 1024.0 / kept.count.max(1.0));
    }
    Ok(values)
}

fn median_round_trip(contender: &Contender, duration: Duration) -> Result<f64, String> {
    let times = client(contender, &["round-trips", SERVER], duration)?;
    times.first().copied().ok_or_else(|| "no round trip".into())
}

/// A thousand buffers that grow as they may are more than the kernel gives to all sockets together; then everybody's TCP
/// stands still, with or without a user stack.
const SMALL_BUFFERS: &str =
    "sysctl -qw net.ipv4.tcp_rmem='4096 131072 262144' net.ipv4.tcp_wmem='4096 16384 262144'";

/// What readers cost that take less than there is, and what a download gets beside them.
pub(super) fn slow_readers(
    contender: &mut Contender,
    duration: Duration,
    count: u32,
) -> Result<Values, String> {
    for namespace in [&contender.lab.host, &contender.lab.server] {
        shell(&format!("ip netns exec {namespace} {SMALL_BUFFERS}"))?;
    }
    contender.inside_shell(SMALL_BUFFERS)?;
    serve(contender)?;
    let alone = throughput::bits(contender, duration, &["-R"])?;
    let helper = contender.helper_pid();
    helper.map_or(Ok(()), helper::forget_peak)?;
    let kept = Kept::open(contender, "read-slowly", count)?;
    let beside = throughput::bits(contender, duration, &["-R"])?;
    let mut values = Values::from([("opened", kept.count), ("% left to a download", beside / alone * 100.0)]);
    if let Some(peak) = helper.and_then(helper::peak) {
        values.insert("peak RSS MiB", peak);
    }
    if let Some(pages) = pages_of_tcp() {
        values.insert("kernel's TCP MiB", pages * PAGE_MEBIBYTES);
    }
    Ok(values)
}

/// Pages of memory that the kernel has in TCP's buffers, of the whole machine.
fn pages_of_tcp() -> Option<f64> {
    let counters = fs::read_to_string("/proc/net/sockstat").ok()?;
    let line = counters.lines().find(|line| line.starts_with("TCP:"))?;
    line.split_whitespace().skip_while(|&word| word != "mem").nth(1)?.parse().ok()
}
