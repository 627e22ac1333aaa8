// SPDX-License-Identifier: MIT OR Apache-2.0
//! `slirp4netns`: a network for a namespace that somebody else made.
//!
//! # Path
//! ```text
//! args     what is asked for, and the descriptors that the caller left open
//! attach   a child joins the namespace and sends the TAP; or a program connects
//! api      listens
//! fence    sandbox and system calls, as far as asked for
//!          the data plane starts; "1" to the ready descriptor
//! tend     until the exit descriptor's other end closes, or the program is gone: requests, and the host's nameservers
//! ```
//!
//! The process stays the one that was started, in the foreground, and every signal but SIGPIPE does to it what it does by
//! default: callers watch it, and end it with SIGTERM or SIGKILL.

mod api;
mod args;
mod attach;
mod bess;
mod fence;
mod forward;
mod plan;
mod tend;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use rustix::process::Resource;

use api::Api;
use api::server::Server;
use args::{Inherited, Options, Request};
use forward::Ports;
use tend::Ends;

use crate::dataplane;
use crate::host::{self, Way, Ways};
use crate::logging;
use crate::resolv::follow::Follower;
use crate::resolv::{self, ResolvConf};
use crate::sys::memory::Code;
use crate::sys::random;

/// What it is called as.
pub(super) const NAME: &str = "slirp4netns";

/// What callers look for in `--version`; the third line would name a library that is not in here.
const VERSION: &str = concat!(
    "slirp4netns version 1.3.2 (wharf ",
    env!("CARGO_PKG_VERSION"),
    ")\ncommit: none\nlibslirp: none\nSLIRP_CONFIG_VERSION_MAX: 4\nlibseccomp: none\n"
);

/// Why there is no network, and the status to exit with.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Failure {
    text: String,
    status: i32,
}

impl Failure {
    fn new(text: &str) -> Self {
        Self { text: text.to_owned(), status: 1 }
    }

    fn with_status(self, status: i32) -> Self {
        Self { status, ..self }
    }
}

/// Names what failed, as `perror(3)` does.
trait Failed<T> {
    fn failed(self, what: &str) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Failed<T> for Result<T, E> {
    fn failed(self, what: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(&format!("{what}: {}", said(&error.into()))))
    }
}

/// The system's own words, without the number.
fn said(error: &io::Error) -> String {
    let text = error.to_string();
    text.split_once(" (os error").map_or_else(|| text.clone(), |(words, _)| words.to_owned())
}

/// Runs the program with these arguments.
pub(super) fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let failure = match args::parse(args) {
        Ok(Request::Help) => return print(args::USAGE),
        Ok(Request::Version) => return print(VERSION),
        Ok(Request::Serve(options)) => {
            logging::start(&logging::LogArgs::default());
            match serve(*options) {
                Ok(()) => return ExitCode::SUCCESS,
                Err(failure) => failure,
            }
        }
        Err(error) => {
            if matches!(error, args::Error::Usage(_)) {
                print(args::USAGE);
            }
            Failure::new(&error.to_string())
        }
    };
    say(&failure);
    ExitCode::from(u8::try_from(failure.status).unwrap_or(1))
}

/// Callers may stop reading when they have seen what they looked for.
fn print(text: &str) -> ExitCode {
    let mut stdout = io::stdout();
    drop(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()));
    ExitCode::SUCCESS
}

/// A line on standard error. Nobody may be listening, or the disk that it goes to be full: the network works on.
fn say(line: &dyn std::fmt::Display) {
    drop(writeln!(io::stderr(), "{line}"));
}

fn serve(options: Options) -> Result<(), Failure> {
    let sources = plan::sources(&options).map_err(|error| Failure::new(&error.to_string()))?;
    let seed = random::seed().failed("getrandom")?;
    let host = ResolvConf::read(Path::new(resolv::PATH)).unwrap_or_default();
    let follow = options.dns.then(|| host.nameservers.clone());
    let mut config = plan::config(&options, host, seed);
    let Some(guest) = attach::attach(&options)? else { return Ok(()) };
    let description = plan::describe(&options, &config, sources);
    let server = options.api_socket.as_deref().map(Server::listen).transpose().failed("api socket")?;
    let follower = Follower::new(follow);
    config.max_sockets = host::raise_open_files(rustix::process::getrlimit(Resource::Nofile));
    let code = Code::find();
    fence::raise(&options, server.as_ref())?;
    let ways = Ways { network: Way { sources, interface: None }, ..Ways::default() };
    let dataplane = dataplane::Options { ways, ..dataplane::Options::default() };
    let running = dataplane::start(config.clone(), 1, &dataplane).failed("data plane")?;
    running.attach(vec![guest.device], None).failed("data plane")?;
    // Standard output may be the ready descriptor, where nothing else is to be read.
    let is_heard = !options.ready.as_ref().is_some_and(Inherited::is_stdout);
    if let Some(Inherited::Open(ready)) = options.ready {
        tell(ready);
    }
    if is_heard {
        print(&description);
    }
    code.release();
    let address = plan::interface_address(options.cidr);
    let api = Api::new(Ports { running: &running, config, guest: address.into() }, address);
    let ends = Ends { exit: options.exit, guest: guest.life };
    tend::tend(ends, server.map(|server| (server, api)), follower, &running).failed("poll")?;
    running.stop();
    drop(guest.reset);
    Ok(())
}

/// Tells the caller that the network works; who does not listen is not waited for.
fn tell(ready: OwnedFd) {
    let _ = rustix::io::write(&ready, b"1");
}
