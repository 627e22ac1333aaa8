// SPDX-License-Identifier: MIT OR Apache-2.0
//! Log lines on standard error: for people, or as JSON for programs.

use clap::{ArgAction, Args};
use tracing::Level;
use tracing_subscriber::fmt::{self, fmt};

use crate::publish::NOTICE;

/// Behind the options of each command, before the one for help.
const LAST: usize = 900;

/// What is said, and how.
#[derive(Debug, Default, Args)]
pub(crate) struct LogArgs {
    /// Say more: once for notes, twice for details, three times for everything
    #[arg(short, long, action = ArgAction::Count, global = true, display_order = LAST)]
    verbose: u8,
    /// Say less: once for errors only, twice for nothing
    #[arg(short, long, action = ArgAction::Count, global = true, conflicts_with = "verbose", display_order = LAST + 1)]
    quiet: u8,
    /// Log one JSON object per line
    #[arg(long, global = true, display_order = LAST + 2)]
    log_json: bool,
}

impl LogArgs {
    fn level(&self) -> Option<Level> {
        match (self.quiet, self.verbose) {
            (0, 0) => Some(Level::WARN),
            (0, 1) => Some(Level::INFO),
            (0, 2) => Some(Level::DEBUG),
            (0, _) => Some(Level::TRACE),
            (1, _) => Some(Level::ERROR),
            _ => None,
        }
    }
}

pub(crate) fn start(args: &LogArgs) {
    let Some(level) = args.level() else { return };
    let builder = fmt()
        .with_max_level(level)
        .with_writer(|| Unheard(std::io::stderr()))
        .log_internal_errors(false)
        .with_target(false);
    if args.log_json {
        builder.json().flatten_event(true).init();
    } else {
        let colours = rustix::termios::isatty(std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
        builder.with_ansi(colours).event_format(Plain { colours }).init();
    }
}

/// Standard error, where it is no matter that nobody listens or that a disk is full.
struct Unheard(std::io::Stderr);

impl std::io::Write for Unheard {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(self.0.write(bytes).unwrap_or(bytes.len()))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        drop(self.0.flush());
        Ok(())
    }
}

/// `wharf: text key=value`, as a command line tool speaks; the level is named where it is not plain from the text.
struct Plain {
    colours: bool,
}

impl<S, N> fmt::FormatEvent<S, N> for Plain
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    N: for<'a> fmt::FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &fmt::FmtContext<'_, S, N>,
        mut writer: fmt::format::Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> std::fmt::Result {
        let (name, colour) = match *event.metadata().level() {
            Level::ERROR => ("error: ", "\x1b[31m"),
            Level::WARN if event.metadata().target() == NOTICE => ("", ""),
            Level::WARN => ("warning: ", "\x1b[33m"),
            Level::INFO => ("", ""),
            Level::DEBUG => ("debug: ", "\x1b[2m"),
            Level::TRACE => ("trace: ", "\x1b[2m"),
        };
        if self.colours && !colour.is_empty() {
            write!(writer, "wharf: {colour}{name}\x1b[0m")?;
        } else {
            write!(writer, "wharf: {name}")?;
        }
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
