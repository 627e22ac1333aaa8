// SPDX-License-Identifier: MIT OR Apache-2.0
//! wharf beside its peers, in one run, on one machine: `cargo bench --bench peers`.
//!
//! # How it works
//! Every contender gets fresh namespaces for every repeat and MTU, and contenders alternate, so that drift of the
//! machine hits all of them alike. "none" is the limit: the same two namespaces without a user stack between them, and
//! between two containers a kernel bridge. The table gives medians with minimum and maximum, and each contender's ratio to
//! the limit.
//!
//! Needs root (for namespaces) and slirp4netns, pasta, vde_switch, iperf3; a missing peer is said and left out, and so
//! is a measure that a peer fails. Wharf itself and its peers run as an ordinary user. Measure only while nothing else runs.

mod chart;
mod contender;
mod lab;
mod measure;
mod neighbors;
mod report;
mod roles;
#[path = "../../tests/scratch/mod.rs"]
mod scratch;
mod spread;

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Parser;

use contender::{Contender, Kind, Programs};
use measure::{Measure, measures};
use report::{Report, Sample};
use scratch::Scratch;

/// Runs wharf and its peers side by side and prints a table.
#[derive(Debug, Parser)]
struct Arguments {
    /// How often each measurement is repeated.
    #[arg(long, default_value_t = 3)]
    repeats: u32,
    /// Seconds of each throughput measurement.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Only these contenders: none, wharf, wharf-2-workers, wharf-as-slirp4netns, slirp4netns, pasta, pasta-tuned, vde.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only measures whose name contains one of these, long ones too.
    #[arg(long, value_delimiter = ',')]
    measure: Vec<String>,
    /// Long measures too: 50,000 connects, long paths, many connections.
    #[arg(long)]
    long: bool,
    /// Says which measures there are, and takes none.
    #[arg(long)]
    list: bool,
    /// Only this MTU.
    #[arg(long)]
    mtu: Option<u32>,
    /// One short round of wharf alone: shows that everything works, measures nothing.
    #[arg(long)]
    smoke: bool,
    /// Writes all samples as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Writes a chart of the throughput.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// The peers that `benches/peers/newest DIR` has unpacked there, instead of the machine's own.
    #[arg(long, value_name = "DIR")]
    peers: Option<PathBuf>,
    /// The wharf to run.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_wharf"))]
    wharf: PathBuf,
    /// What `cargo bench` passes to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// One measure of every way to measure that does not take long.
const SMOKE: [&str; 9] = [
    "TCP up Gbit/s",
    "published port, in",
    "0.1 % loss",
    "round trip",
    "parallel connects",
    "DNS",
    "UDP 1 Gbit/s",
    "idle wake-ups",
    "container to container TCP",
];

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(roles::MARKER) {
        return roles::play(&words.collect::<Vec<_>>());
    }
    let mut arguments = Arguments::parse();
    if arguments.list {
        list();
        return ExitCode::SUCCESS;
    }
    if arguments.smoke {
        arguments.repeats = 1;
        arguments.seconds = 1;
        arguments.only = ["none", "wharf", "wharf-as-slirp4netns", "vde"].map(String::from).into();
        arguments.measure = SMOKE.map(String::from).into();
        arguments.mtu = Some(1500);
    }
    let outcome = arguments.peers.as_deref().map_or(Ok(()), prefer).and_then(|()| run(&arguments));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Arguments {
    fn wants(&self, measure: &Measure) -> bool {
        if self.measure.is_empty() {
            return self.long || !measure.is_long;
        }
        self.measure.iter().any(|part| measure.name.contains(part.as_str()))
    }
}

fn list() {
    for measure in measures() {
        println!("{}{}", measure.name, if measure.is_long { " (long)" } else { "" });
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err(
            "this bench makes network namespaces: run it as root (wharf itself runs unprivileged in it)"
                .into(),
        );
    }
    let directory = Scratch::open_to_all().until_exit();
    let programs = lab::install(&arguments.wharf, &directory)?;
    let kinds = kinds(arguments);
    let mtus = arguments.mtu.map_or(vec![65_520, 1500], |mtu| vec![mtu]);
    let largest = mtus.iter().copied().max().unwrap_or_default();
    let _congestion = lab::allow_cubic()?;
    let mut report = Report::new(&kinds);
    for repeat in 1..=arguments.repeats {
        for &mtu in &mtus {
            for &kind in &kinds {
                eprintln!("peers: round {repeat} of {}, MTU {mtu}, {}", arguments.repeats, kind.name());
                let suitable = |measure: &Measure| measure.suits(kind, mtu, largest);
                for measure in measures().into_iter().filter(|m| arguments.wants(m) && suitable(m)) {
                    take(arguments, &measure, (kind, mtu), &programs, &mut report)?;
                }
            }
        }
    }
    print!("{}", report.text());
    if let Some(path) = &arguments.json {
        std::fs::write(path, report.json()).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if let Some(path) = &arguments.svg {
        std::fs::write(path, chart::draw(&report)).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// Has what is run from here find the programs in `directory` before the machine's own: starts this program anew unless
/// it does.
fn prefer(directory: &Path) -> Result<(), String> {
    let programs = directory.canonicalize().unwrap_or_else(|_| directory.to_owned()).join("usr/bin");
    if !programs.join("slirp4netns").exists() {
        let directory = directory.display();
        return Err(format!(
            "there are no peers in {directory}: `benches/peers/newest {directory}` puts them there"
        ));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own: Vec<_> = std::env::split_paths(&path).collect();
    if own.first() == Some(&programs) {
        eprintln!("peers: those in {} are measured", programs.display());
        return Ok(());
    }
    let path = std::env::join_paths([programs].into_iter().chain(own)).map_err(|error| error.to_string())?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let error = Command::new(program).args(std::env::args_os().skip(1)).env("PATH", path).exec();
    Err(error.to_string())
}

/// The contenders asked for that are there.
fn kinds(arguments: &Arguments) -> Vec<Kind> {
    Kind::ALL
        .into_iter()
        .filter(|kind| arguments.only.is_empty() || arguments.only.iter().any(|name| name == kind.name()))
        .filter(|kind| {
            let present = kind.is_installed();
            if !present {
                eprintln!("peers: {} is not installed and left out", kind.name());
            }
            present
        })
        .collect()
}

/// Takes one measure of a contender made for it.
fn take(
    arguments: &Arguments,
    measure: &Measure,
    (kind, mtu): (Kind, u32),
    programs: &Programs,
    report: &mut Report,
) -> Result<(), String> {
    let seconds = Duration::from_secs(arguments.seconds);
    let values = Contender::start(kind, mtu, measure.distance, programs)
        .and_then(|mut contender| (measure.take)(&mut contender, seconds))
        .map_err(|error| format!("{} of {}: {error}", measure.name, kind.name()));
    match values {
        Err(error) if kind.is_peer() => eprintln!("peers: left out: {error}"),
        values => {
            for (part, value) in values? {
                report.add(Sample { measure: measure.title(part, mtu), kind, value });
            }
        }
    }
    Ok(())
}
