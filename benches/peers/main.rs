// SPDX-License-Identifier: MIT OR Apache-2.0
//! wharf beside its peers, in one run, on one machine: `cargo bench --bench peers`.
//!
//! # How it works
//! Every contender gets fresh namespaces for every repeat and MTU, and contenders alternate, so that drift of the
//! machine hits all of them alike. "none" is the limit: the same two namespaces without a user stack between them, and
//! between two containers a kernel bridge. The
//! table gives medians with minimum and maximum, and each contender's ratio to the limit.
//!
//! Needs root (for namespaces) and slirp4netns, pasta, vde_switch, iperf3; a missing peer is said and left out. Wharf itself and
//! its peers run as an ordinary user. Measure only while nothing else runs.

mod chart;
mod contender;
mod lab;
mod measure;
mod neighbors;
mod report;
mod roles;
mod spread;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use contender::{Contender, Kind};
use measure::{Measure, measures};
use report::{Report, Sample};

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
    /// Only measures whose name contains one of these.
    #[arg(long, value_delimiter = ',')]
    measure: Vec<String>,
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
    /// The wharf to run.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_wharf"))]
    wharf: PathBuf,
    /// What `cargo bench` passes to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(roles::MARKER) {
        return roles::play(&words.collect::<Vec<_>>());
    }
    let mut arguments = Arguments::parse();
    if arguments.smoke {
        arguments.repeats = 1;
        arguments.seconds = 1;
        arguments.only = ["none", "wharf", "wharf-as-slirp4netns", "vde"].map(String::from).into();
        arguments.mtu = Some(1500);
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err(
            "this bench makes network namespaces: run it as root (wharf itself runs unprivileged in it)"
                .into(),
        );
    }
    let programs = lab::install(&arguments.wharf)?;
    let kinds: Vec<Kind> = Kind::ALL
        .into_iter()
        .filter(|kind| arguments.only.is_empty() || arguments.only.iter().any(|name| name == kind.name()))
        .filter(|kind| {
            let present = kind.is_installed();
            if !present {
                eprintln!("peers: {} is not installed and left out", kind.name());
            }
            present
        })
        .collect();
    let wanted = |measure: &Measure| {
        arguments.measure.is_empty()
            || arguments.measure.iter().any(|part| measure.name.contains(part.as_str()))
    };
    let mtus = arguments.mtu.map_or(vec![65_520, 1500], |mtu| vec![mtu]);
    let _congestion = lab::allow_cubic()?;
    let mut report = Report::new(&kinds);
    for repeat in 1..=arguments.repeats {
        for &mtu in &mtus {
            for &kind in &kinds {
                eprintln!("peers: round {repeat} of {}, MTU {mtu}, {}", arguments.repeats, kind.name());
                for measure in
                    measures().into_iter().filter(|measure| wanted(measure) && measure.suits(kind, mtu))
                {
                    let mut contender = Contender::start(kind, mtu, &programs)?;
                    let seconds = Duration::from_secs(arguments.seconds);
                    let values: BTreeMap<&'static str, f64> = (measure.take)(&mut contender, seconds)
                        .map_err(|error| format!("{} of {}: {error}", measure.name, kind.name()))?;
                    for (part, value) in values {
                        report.add(Sample { measure: measure.title(part, mtu), kind, value });
                    }
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
