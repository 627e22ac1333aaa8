// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists for people: a line of headings, columns that stand under each other, `-` for nothing.

use std::fmt;

/// Between two columns.
const GAP: &str = "  ";

/// To which side of its column a text goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// Rows under headings.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<(&'static str, Side)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns; those whose heading begins with `>` are of numbers.
    pub(super) fn new(headings: &[&'static str]) -> Self {
        let column = |heading: &&'static str| match heading.strip_prefix('>') {
            Some(heading) => (heading, Side::Right),
            None => (*heading, Side::Left),
        };
        Self { columns: headings.iter().map(column).collect(), rows: Vec::new() }
    }

    /// Adds a row. What others have named may hold anything; here it cannot steer a terminal.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let printable = |cell: String| match cell.is_empty() {
            true => "-".to_owned(),
            false => cell.replace(char::is_control, "?"),
        };
        self.rows.push(cells.into_iter().map(printable).collect());
    }

    /// Whether it has no rows.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn widths(&self) -> Vec<usize> {
        let width = |(at, (heading, _)): (usize, &(&str, Side))| {
            let cells = self.rows.iter().filter_map(|row| row.get(at));
            cells.map(|cell| cell.chars().count()).chain([heading.len()]).max().unwrap_or(0)
        };
        self.columns.iter().enumerate().map(width).collect()
    }

    fn line<'a>(&self, widths: &[usize], cells: impl Iterator<Item = &'a str>) -> String {
        let cells = cells.zip(widths).zip(&self.columns).map(|((cell, &width), (_, side))| match side {
            Side::Left => format!("{cell:<width$}"),
            Side::Right => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        writeln!(f, "{}", self.line(&widths, self.columns.iter().map(|(heading, _)| *heading)))?;
        for row in &self.rows {
            writeln!(f, "{}", self.line(&widths, row.iter().map(String::as_str)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest() {
        let mut table = Table::new(&["NAME", ">BYTES", "AT"]);
        table.row(["a-name-that-is-longer-than-its-heading", "7", "pid 1"].map(str::to_owned));
        table.row(["web", "1234567", ""].map(str::to_owned));
        let text = "\
NAME                                      BYTES  AT
a-name-that-is-longer-than-its-heading        7  pid 1
web                                     1234567  -
";
        assert_eq!(table.to_string(), text);
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        let mut table = Table::new(&["NAME"]);
        table.row(["\x1b[2J\u{e9}\n".to_owned()]);
        assert_eq!(table.to_string(), "NAME\n?[2J\u{e9}?\n");
    }

    #[test]
    fn a_table_without_rows_is_its_headings() {
        assert_eq!(Table::new(&["NAME", ">BYTES"]).to_string(), "NAME  BYTES\n");
    }
}
