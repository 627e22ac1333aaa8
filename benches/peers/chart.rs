// SPDX-License-Identifier: MIT OR Apache-2.0
//! A bar chart of the throughput rows, as SVG.

use std::fmt::Write;

use crate::report::Report;

const BAR: f64 = 14.0;
const LEFT: f64 = 230.0;
const WIDTH: f64 = 520.0;
/// Between the names of two contenders.
const LEGEND: f64 = 135.0;
const COLOURS: [&str; 8] =
    ["#b8bcc4", "#1769aa", "#5aa9e6", "#0b3d66", "#c77d3a", "#8a9a5b", "#b5c99a", "#7d5ba6"];

/// Draws one group of bars for each throughput row.
pub(crate) fn draw(report: &Report) -> String {
    let rows: Vec<&String> = report
        .rows()
        .iter()
        .filter(|row| row.contains("Gbit/s") && !row.contains("CPU") && !row.contains("RSS"))
        .collect();
    let most = rows
        .iter()
        .flat_map(|row| report.kinds.iter().filter_map(|&kind| report.spread(row, kind)))
        .map(|spread| spread.most)
        .fold(1.0, f64::max);
    let group = BAR * report.kinds.len() as f64 + 14.0;
    let height = 40.0 + group * rows.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        (LEFT + WIDTH + 70.0).max(LEGEND * report.kinds.len() as f64)
    );
    for (at, (kind, colour)) in report.kinds.iter().zip(COLOURS).enumerate() {
        let x = 10.0 + LEGEND * at as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"8\" width=\"10\" height=\"10\" fill=\"{colour}\"/><text x=\"{}\" y=\"17\">{}</text>",
            x + 14.0,
            kind.name()
        );
    }
    for (at, row) in rows.iter().enumerate() {
        let top = 36.0 + group * at as f64;
        let _ = writeln!(svg, "<text x=\"10\" y=\"{}\">{row}</text>", top + group / 2.0);
        for (number, (&kind, colour)) in report.kinds.iter().zip(COLOURS).enumerate() {
            let Some(spread) = report.spread(row, kind) else { continue };
            let y = top + BAR * number as f64;
            let width = spread.median / most * WIDTH;
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{:.1}</text>",
                BAR - 2.0,
                LEFT + width + 4.0,
                y + BAR - 4.0,
                spread.median
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}
