//! Two or more services under the same load in turn: A B A B, so that what changes on the machine meets all of them.
//! Refuses to print a ratio without its spread.

use crate::report::{Report, si, us_text};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::SocketAddr;

/// One service of a comparison.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Side {
    pub name: String,
    pub servers: Vec<SocketAddr>,
    /// The process whose CPU time and memory to report.
    pub pid: Option<u32>,
}

/// The reports of one side, in the order of the rounds.
pub struct SideReports {
    pub name: String,
    pub reports: Vec<Report>,
}

/// Median, smallest and largest.
fn spread(mut values: Vec<f64>) -> Option<(f64, f64, f64)> {
    values.sort_by(f64::total_cmp);
    Some((*values.get(values.len() / 2)?, *values.first()?, *values.last()?))
}

/// What is compared: name, value, and how it is shown.
type Measure = (&'static str, fn(&Report) -> Option<f64>, fn(f64) -> String);

const MEASURES: [Measure; 7] = [
    ("ops/s", |report| Some(report.ops_per_s), si),
    ("p50", |report| report.all.as_ref().map(|all| all.p50_us), us_text),
    ("p99", |report| report.all.as_ref().map(|all| all.p99_us), us_text),
    ("p99.9", |report| report.all.as_ref().map(|all| all.p999_us), us_text),
    ("longest stall", |report| Some(report.longest_stall_ms * 1000.0), us_text),
    ("server CPU us/op", |report| report.server_cpu_us_per_op, |us| format!("{us:.2}")),
    ("server RSS MB", |report| report.server_rss_after_bytes.map(|bytes| bytes as f64 / 1e6), |mb| format!("{mb:.0}")),
];

/// A Markdown table: medians with their range, and for every other side the ratio to the first, round by round.
pub fn table(sides: &[SideReports]) -> String {
    let mut rows = vec![vec![String::new()]];
    for (at, side) in sides.iter().enumerate() {
        rows[0].push(side.name.clone());
        if at > 0 {
            rows[0].push(format!("{} / {}", side.name, sides[0].name));
        }
    }
    for (name, value, shown) in MEASURES {
        let mut row = vec![name.to_string()];
        for (at, side) in sides.iter().enumerate() {
            row.push(match spread(side.reports.iter().filter_map(value).collect()) {
                Some((median, min, max)) => format!("{} ({} to {})", shown(median), shown(min), shown(max)),
                None => "-".into(),
            });
            if at > 0 {
                let pairs = sides[0].reports.iter().zip(&side.reports);
                let ratios = pairs.filter_map(|(first, other)| Some(value(other)? / value(first).filter(|first| *first > 0.0)?));
                row.push(match spread(ratios.collect()) {
                    Some((median, min, max)) => format!("{median:.2}x ({min:.2} to {max:.2})"),
                    None => "-".into(),
                });
            }
        }
        if row[1..].iter().any(|cell| cell != "-") {
            rows.push(row);
        }
    }
    markdown(&rows)
}

/// A Markdown table: how the operations of each side, of all rounds together, are spread over latencies.
pub fn distribution(sides: &[SideReports]) -> String {
    let of_side = |side: &SideReports| {
        let mut bars: BTreeMap<u64, u64> = BTreeMap::new();
        // Powers of two of a microsecond, some below 1.
        let all = side.reports.iter().flat_map(|report| &report.bars);
        all.for_each(|(upper_us, count)| *bars.entry((upper_us * 1000.0) as u64).or_default() += count);
        bars
    };
    let bars: Vec<BTreeMap<u64, u64>> = sides.iter().map(of_side).collect();
    let mut rows = vec![[vec!["latency".to_string()], sides.iter().map(|side| side.name.clone()).collect()].concat()];
    for upper_ns in bars.iter().flat_map(BTreeMap::keys).collect::<BTreeSet<_>>() {
        let share = |bars: &BTreeMap<u64, u64>| {
            let (count, total) = (bars.get(upper_ns).copied().unwrap_or(0), bars.values().sum::<u64>());
            let percent = 100.0 * count as f64 / total.max(1) as f64;
            format!("{percent:6.2} % {}", "#".repeat((percent / 4.0).round() as usize))
        };
        rows.push([vec![format!("up to {}", us_text(*upper_ns as f64 / 1000.0))], bars.iter().map(share).collect()].concat());
    }
    markdown(&rows)
}

/// A Markdown table with aligned columns; the first row is the heading.
pub fn markdown(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns).map(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0).max(3)).collect();
    let mut out = String::new();
    for (at, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(out, "| {cell:width$} ");
        }
        out += "|\n";
        if at == 0 {
            widths.iter().for_each(|width| out += &format!("|{}", "-".repeat(width + 2)));
            out += "|\n";
        }
    }
    out
}

/// `NAME=HOST:PORT[,HOST:PORT...][@PID]`.
pub fn parse_side(text: &str, resolve: impl Fn(&str) -> Result<SocketAddr, String>) -> Result<Side, String> {
    let (name, rest) = text.split_once('=').ok_or("wanted: NAME=HOST:PORT, or NAME=HOST:PORT@PID")?;
    let (servers, pid) = match rest.rsplit_once('@') {
        Some((servers, pid)) => (servers, Some(pid.parse().map_err(|_| format!("{pid:?} is no process id"))?)),
        None => (rest, None),
    };
    Ok(Side { name: name.into(), servers: servers.split(',').map(resolve).collect::<Result<_, _>>()?, pid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_round_by_round() {
        let side = |name: &str, rates: [f64; 3]| SideReports {
            name: name.into(),
            reports: rates.map(|ops_per_s| Report { ops_per_s, ..Report::default() }).into(),
        };
        let table = table(&[side("A", [100.0, 200.0, 400.0]), side("B", [200.0, 600.0, 800.0])]);
        assert!(table.contains("B / A") && table.contains("200 (100 to 400)") && table.contains("2.00x (2.00 to 3.00)"), "{table}");
    }

    #[test]
    fn the_distribution_adds_up_rounds() {
        let report = |bars: &[(f64, u64)]| Report { bars: bars.to_vec(), ..Report::default() };
        let side = |name: &str, reports| SideReports { name: name.into(), reports };
        let a = side("A", vec![report(&[(0.5, 1), (64.0, 2)]), report(&[(64.0, 1)])]);
        let table = distribution(&[a, side("B", vec![report(&[(64.0, 5)])])]);
        assert_eq!(table.lines().count(), 4, "{table}");
        assert!(table.contains("25.00 %") && table.contains("75.00 %") && table.contains("100.00 %"), "{table}");
    }

    #[test]
    fn a_side_has_a_name_servers_and_perhaps_a_process() {
        let resolve = |text: &str| text.parse::<SocketAddr>().map_err(|error| error.to_string());
        let side = parse_side("zk=127.0.0.1:1,127.0.0.1:2@77", resolve).unwrap();
        assert_eq!((side.name.as_str(), side.servers.len(), side.pid), ("zk", 2, Some(77)));
        assert!(parse_side("127.0.0.1:1", resolve).is_err() && parse_side("a=127.0.0.1:1@x", resolve).is_err());
    }
}
