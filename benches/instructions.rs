// SPDX-License-Identifier: MIT OR Apache-2.0
//! Instructions that each stage of a packet's path takes, counted by callgrind, beside what was recorded.
//!
//! # How it works
//! Time drifts with the machine and the hour; instructions do not. A stage is run alone under callgrind, twice with
//! different numbers of steps: the difference is the steps' own, without start and set-up. Counts depend on compiler and
//! profile, so each pair has a record of its own in `benches/instructions.json`.
//!
//! A growth of more than [`TOLERANCE`] per cent fails, and so does a stage without a record. `--record` writes down what
//! is counted instead.

mod rig;

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};
use std::{env, fs};

use rig::stages::{self, Stage};

/// First argument of this program when callgrind runs it.
const RUN: &str = "--run";
const RECORDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.json");
/// Per cent.
const TOLERANCE: f64 = 3.0;
/// Steps of the two runs: the first ones warm up pools and tables.
const STEPS: [u64; 2] = [50, 150];

/// Instructions per step of each stage, by compiler and profile.
type Records = BTreeMap<String, BTreeMap<String, u64>>;

fn all() -> Vec<Stage> {
    let mut stages = stages::path();
    stages.extend(stages::turns());
    stages
}

fn title(stage: &Stage) -> String {
    format!("{} {} B", stage.name, stage.bytes)
}

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let outcome = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [RUN, at, steps] => run(at, steps),
        words => compare(words.contains(&"--record")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// Does a stage's step so many times.
fn run(at: &str, steps: &str) -> Result<(), String> {
    let (at, steps): (usize, u64) = (number(at)?, number(steps)?);
    let mut stage = all().into_iter().nth(at).ok_or("no such stage")?;
    (0..steps).for_each(|_| (stage.step)());
    Ok(())
}

fn number<N: std::str::FromStr>(text: &str) -> Result<N, String> {
    text.parse().map_err(|_| format!("`{text}` is no number"))
}

fn compare(is_to_record: bool) -> Result<(), String> {
    let mut records = read()?;
    let key = compiler_and_profile()?;
    let recorded = records.get(&key).cloned().unwrap_or_default();
    println!("instructions per step, {key}");
    let (mut counted, mut complaints) = (BTreeMap::new(), Vec::new());
    for (at, stage) in all().iter().enumerate() {
        let title = title(stage);
        let count = count(at)?;
        match recorded.get(&title) {
            Some(&before) => {
                let growth = growth(before, count);
                println!("{title:>28} {count:>10} {growth:>+7.2} %");
                if growth > TOLERANCE {
                    complaints.push(format!("{title}: {before} instructions have become {count}"));
                }
            }
            None => {
                println!("{title:>28} {count:>10}");
                complaints.push(format!("{title}: nothing is recorded for {key}"));
            }
        }
        counted.insert(title, count);
    }
    if is_to_record {
        records.insert(key, counted);
        return write(&records);
    }
    if complaints.is_empty() {
        return Ok(());
    }
    complaints.push("if it is worth it, `-- --record` writes it down".to_owned());
    Err(complaints.join("\n"))
}

/// Per cent.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn growth(before: u64, now: u64) -> f64 {
    (now as f64 / before.max(1) as f64 - 1.0) * 100.0
}

fn read() -> Result<Records, String> {
    let text = fs::read_to_string(RECORDS).map_err(|error| format!("{RECORDS}: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("{RECORDS}: {error}"))
}

fn write(records: &Records) -> Result<(), String> {
    let text = serde_json::to_string_pretty(records).map_err(|error| error.to_string())?;
    fs::write(RECORDS, text + "\n").map_err(|error| format!("{RECORDS}: {error}"))
}

/// As in `rustc 1.95.0 x86_64 dev`.
fn compiler_and_profile() -> Result<String, String> {
    let version = output(Command::new("rustc").arg("--version"))?;
    let version = version.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    let profile = if cfg!(debug_assertions) { "dev" } else { "bench" };
    Ok(format!("{version} {} {profile}", env::consts::ARCH))
}

/// Instructions of one step.
fn count(at: usize) -> Result<u64, String> {
    let [few, many] = STEPS;
    let more = collected(at, many)?.saturating_sub(collected(at, few)?);
    Ok(more / (many - few))
}

/// Instructions of a whole run.
fn collected(at: usize, steps: u64) -> Result<u64, String> {
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    let report = output(command.args([RUN, &at.to_string(), &steps.to_string()]))?;
    let total = report.lines().find_map(|line| line.split_once("Collected :"));
    total.and_then(|(_, total)| total.trim().parse().ok()).ok_or(report)
}

/// What a program prints, to either side.
fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().display().to_string();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(text.into_owned()) } else { Err(text.into_owned()) }
}
