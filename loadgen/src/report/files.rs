//! A report as files for other programs: seconds as CSV, a table as Markdown, the latency distribution as .hgrm.
//! Refuses to change numbers: what stands there is what the JSON has.

use super::{Report, us_text};
use crate::compare::markdown;
use std::fmt::Write;

/// One line per second.
pub fn csv(report: &Report) -> String {
    let mut out = String::from("second,ops,p50_us,p99_us,max_us,wrong,disconnects\n");
    for row in &report.rows {
        let _ = writeln!(
            out,
            "{},{},{:.1},{:.1},{:.1},{},{}",
            row.second, row.ops, row.p50_us, row.p99_us, row.max_us, row.wrong, row.disconnects
        );
    }
    out
}

/// The title and a table with a line per kind of operation.
pub fn md(report: &Report) -> String {
    let mut rows = vec![["operation", "count", "p50", "p90", "p99", "p99.9", "p99.99", "max"].map(str::to_string).to_vec()];
    let all = report.all.iter().map(|latency| ("all".to_string(), latency));
    let each = report.operations.iter().map(|(name, op)| (name.clone(), &op.response));
    for (name, l) in all.chain(each) {
        let times = [l.p50_us, l.p90_us, l.p99_us, l.p999_us, l.p9999_us, l.max_us].map(us_text);
        rows.push([vec![name, l.ops.to_string()], times.to_vec()].concat());
    }
    let mut out = format!("{}\n\n    {}\n\n", report.title, report.header.command);
    let _ = writeln!(out, "{:.0} ops/s over {:.1} s, {} errors.\n", report.ops_per_s, report.seconds, report.errors);
    for why in &report.generator.invalid {
        let _ = writeln!(out, "**INVALID**: {why}\n");
    }
    if !report.curve.is_empty() {
        out += &markdown(&curve_rows(report));
        out += "\n";
    }
    out += &markdown(&rows);
    out
}

/// The load-latency curve as rows of a table.
pub fn curve_rows(report: &Report) -> Vec<Vec<String>> {
    let mut rows = vec![["offered/s", "answered/s", "p50", "p99", "p99.9", "held"].map(str::to_string).to_vec()];
    for point in &report.curve {
        let held = if point.why.is_empty() { "yes".to_string() } else { format!("no: {}", point.why) };
        let times = [point.p50_us, point.p99_us, point.p999_us].map(us_text);
        let rates = [point.offered_per_s, point.ops_per_s].map(|rate| format!("{rate:.0}"));
        rows.push([rates.to_vec(), times.to_vec(), vec![held]].concat());
    }
    rows
}

/// The distribution in ms as HdrHistogram's plotters read it.
pub fn hgrm(report: &Report) -> String {
    let mut out = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
    let (Some(all), count) = (&report.all, report.all.as_ref().map_or(0, |all| all.ops)) else { return out };
    for (quantile, us) in &report.spectrum {
        let total = (quantile * count as f64).round();
        let inverse = if *quantile < 1.0 { format!("{:.2}", 1.0 / (1.0 - quantile)) } else { "inf".into() };
        let _ = writeln!(out, "{:12.3} {quantile:14.12} {total:10.0} {inverse:>14}", us / 1000.0);
    }
    let _ = writeln!(out, "#[Mean    = {:12.3}]", all.mean_us / 1000.0);
    let _ = writeln!(out, "#[Max     = {:12.3}, Total count    = {count:12}]", all.max_us / 1000.0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conductor::Row;
    use crate::report::Latency;

    fn report() -> Report {
        let all = Latency { ops: 1000, p99_us: 1500.0, max_us: 9000.0, ..Latency::default() };
        let rows = vec![Row { second: 0, ops: 500, ..Row::default() }, Row { second: 1, ops: 480, ..Row::default() }];
        Report { all: Some(all), rows, spectrum: vec![(0.5, 800.0), (1.0, 9000.0)], ..Report::default() }
    }

    #[test]
    fn every_second_is_a_line() {
        assert_eq!(csv(&report()).lines().count(), 3);
        assert!(csv(&report()).lines().nth(2).unwrap().starts_with("1,480,"));
    }

    #[test]
    fn the_distribution_ends_with_all_operations() {
        let text = hgrm(&report());
        let last: Vec<&str> = text.lines().rfind(|line| !line.starts_with('#')).unwrap().split_whitespace().collect();
        assert_eq!(last, ["9.000", "1.000000000000", "1000", "inf"]);
    }

    #[test]
    fn a_table_has_a_line_per_operation() {
        assert!(md(&report()).contains("| all"));
        assert!(md(&report()).contains("1.50 ms"));
    }
}
