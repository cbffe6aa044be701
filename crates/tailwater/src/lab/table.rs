//! The report as a table for a terminal.

use super::Report;
use std::fmt::Write;

const HEADS: [&str; 12] = [
    "",
    "committed",
    "published",
    "phantom",
    "lost",
    "dup. before",
    "after inbox",
    "p50 ms",
    "p99 ms",
    "extra tx",
    "extra rows",
    "CPU ms",
];

/// One line per pattern.
pub fn text(report: &Report) -> String {
    let mut rows = vec![HEADS.map(str::to_owned)];
    for count in &report.counts {
        let number = |n: usize| n.to_string();
        rows.push([
            count.pattern.title().to_owned(),
            number(count.committed),
            number(count.published),
            number(count.phantom),
            number(count.lost),
            number(count.duplicates_before),
            number(count.duplicates_after),
            format!("{:.1}", count.latency.p50_ms),
            format!("{:.0}", count.latency.p99_ms),
            format!("{:.2}", count.load.extra_transactions()),
            format!("{:.2}", count.load.extra_rows()),
            format!("{:.2}", count.load.cpu_ms),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..HEADS.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            let outcome = match column {
                0 => write!(text, "{cell:<0$}", widths[0]),
                _ => write!(text, "  {cell:>0$}", widths[column]),
            };
            outcome.expect("writing to a String cannot fail");
        }
        text.push('\n');
    }
    text.push_str("\nextra: per order, beyond the one transaction and the one row of the order itself; CPU: of the database, per order\n");
    text
}
