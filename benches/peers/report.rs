// SPDX-License-Identifier: MIT OR Apache-2.0
//! All values of a run, as text and as JSON.

use std::fmt::Write;

use serde_json::json;

use crate::contender::Kind;
use crate::lab::shell;
use crate::spread::Spread;

/// One value.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) measure: String,
    pub(crate) kind: Kind,
    pub(crate) value: f64,
}

/// All values of a run.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) kinds: Vec<Kind>,
    samples: Vec<Sample>,
    /// Rows in the order in which they first came.
    rows: Vec<String>,
}

fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

impl Report {
    pub(crate) fn new(kinds: &[Kind]) -> Self {
        Self { kinds: kinds.to_vec(), samples: Vec::new(), rows: Vec::new() }
    }

    pub(crate) fn add(&mut self, sample: Sample) {
        if !self.rows.contains(&sample.measure) {
            self.rows.push(sample.measure.clone());
        }
        self.samples.push(sample);
    }

    pub(crate) fn rows(&self) -> &[String] {
        &self.rows
    }

    pub(crate) fn spread(&self, row: &str, kind: Kind) -> Option<Spread> {
        let samples = self.samples.iter().filter(|sample| sample.measure == row && sample.kind == kind);
        Spread::of(samples.map(|sample| sample.value).collect())
    }

    /// The table: median (minimum to maximum), and the ratio to the limit where there is one.
    pub(crate) fn text(&self) -> String {
        let mut table = vec![vec![String::from("median (min-max), x of none")]];
        table[0].extend(self.kinds.iter().map(|kind| kind.name().to_owned()));
        for row in &self.rows {
            let limit = self.spread(row, Kind::None).map(|spread| spread.median);
            let mut cells = vec![row.clone()];
            for &kind in &self.kinds {
                cells.push(self.spread(row, kind).map_or(String::from("-"), |spread| {
                    let limit = limit.filter(|&limit| kind != Kind::None && limit > 0.0);
                    let ratio = limit.map(|limit| spread.median / limit);
                    let ratio = ratio.map(|ratio| format!(" {ratio:.2}x")).unwrap_or_default();
                    format!(
                        "{} ({}-{}){ratio}",
                        short(spread.median),
                        short(spread.least),
                        short(spread.most)
                    )
                }));
            }
            table.push(cells);
        }
        let widths: Vec<usize> = (0..=self.kinds.len())
            .map(|column| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        let mut text = format!("{}\n", machine());
        for kind in &self.kinds {
            let _ = writeln!(text, "{}: {}", kind.name(), kind.version());
        }
        text.push('\n');
        for row in &table {
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(text, "| {cell:width$} ");
            }
            text.push_str("|\n");
            if std::ptr::eq(row, &table[0]) {
                for width in &widths {
                    let _ = write!(text, "|{}", "-".repeat(width + 2));
                }
                text.push_str("|\n");
            }
        }
        text
    }

    /// Every sample, for programs.
    pub(crate) fn json(&self) -> String {
        let samples: Vec<_> = self
            .samples
            .iter()
            .map(|s| json!({"measure": s.measure, "contender": s.kind.name(), "value": s.value}))
            .collect();
        let contenders: Vec<_> =
            self.kinds.iter().map(|kind| json!({"name": kind.name(), "version": kind.version()})).collect();
        let document = json!({"machine": machine(), "contenders": contenders, "samples": samples});
        serde_json::to_string_pretty(&document).unwrap_or_default()
    }
}

/// The machine, its kernel, and the commit that was measured.
fn machine() -> String {
    const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");
    let script = format!(
        "echo \"$(nproc) CPUs ($(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 | xargs)), Linux $(uname -r), \
         commit $(git -C '{REPOSITORY}' rev-parse --short HEAD 2>/dev/null || echo unknown)\""
    );
    shell(&script).unwrap_or_default().trim().to_owned()
}
