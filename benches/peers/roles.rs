// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bench's own small clients and servers: this very program, started again in another namespace.

mod connects;
mod datagrams;
mod echo;
mod long_path;
mod many;
mod names;

use std::io::{Error, Result};
use std::process::ExitCode;
use std::str::FromStr;
use std::thread;
use std::time::Duration;

/// First argument of a program that plays a role.
pub(crate) const MARKER: &str = "--play";

/// Where the server echoes.
const ECHO_PORT: u16 = 7007;
/// Where it takes orders for datagrams.
const CONTROL_PORT: u16 = 7008;
const DATAGRAM_PORT: u16 = 7009;
/// Where it sends more than its clients read.
const PLENTY_PORT: u16 = 7010;
/// Where it accepts and is silent: several, as a client has fewer ports to one of them than flows to hold.
const SILENT_PORTS: std::ops::Range<u16> = 7020..7028;
/// Stack of a thread that serves one of many connections.
const SMALL_STACK: usize = 64 << 10;

/// This program, as a word of a command.
pub(crate) fn program() -> std::result::Result<String, String> {
    Ok(std::env::current_exe().map_err(|error| error.to_string())?.display().to_string())
}

/// Plays a role and prints numbers separated by blanks.
pub(crate) fn play(words: &[String]) -> ExitCode {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match perform(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{words:?}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn perform(words: &[&str]) -> Result<()> {
    match *words {
        ["server"] => serve(),
        ["long-path", near, far, round_trip] => {
            long_path::join(near, far, Duration::from_millis(number(round_trip)?))
        }
        ["hold", to, count] => many::hold(to, number(count)?),
        ["read-slowly", to, count] => many::read_slowly(to, number(count)?),
        ["round-trips", to, seconds] => echo::round_trips(to, in_seconds(seconds)?),
        ["connects", to, clients, before, seconds] => {
            connects::run(to, number(clients)?, number(before)?, in_seconds(seconds)?)
        }
        ["datagrams", to, direction, size, rate, seconds] => {
            let order = datagrams::Order {
                is_up: direction == "up",
                size: number(size)?,
                rate: number(rate)?,
                seconds: number(seconds)?,
            };
            datagrams::run(to, order)
        }
        ["queries", to, names, seconds] => {
            names::as_many_as_answered(to, number(names)?, in_seconds(seconds)?)
        }
        ["paced-queries", to, rate, seconds] => names::paced(to, number(rate)?, in_seconds(seconds)?),
        _ => Err(Error::other("no such role")),
    }
}

/// Every service, each on ports of its own.
fn serve() -> Result<()> {
    thread::spawn(datagrams::serve);
    thread::spawn(names::serve);
    thread::spawn(many::serve_plenty);
    for port in SILENT_PORTS {
        thread::spawn(move || many::serve_silence(port));
    }
    echo::serve()
}

fn number<T: FromStr>(word: &str) -> Result<T> {
    word.parse().map_err(|_| Error::other(format!("{word} is no number of its kind")))
}

fn in_seconds(word: &str) -> Result<Duration> {
    number(word).map(Duration::from_secs)
}

/// The time that `permille` of all do not exceed, in microseconds; nothing of no times.
fn quantile(times: &mut [Duration], permille: usize) -> Option<f64> {
    times.sort_unstable();
    let at = times.len().checked_sub(1)? * permille / 1000;
    Some(times[at].as_secs_f64() * 1e6)
}
