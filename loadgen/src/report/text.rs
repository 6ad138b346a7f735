//! A report for people: one screen, or one line. Refuses averages alone.

use super::{Latency, Report, curve_rows};
use crate::compare::markdown;
use std::fmt::Write;

const BAR: usize = 34;
const BARS_MAX: usize = 12;

/// A count with k or M.
pub fn si(value: f64) -> String {
    match value {
        v if v >= 9_999_500.0 => format!("{:.1}M", v / 1e6),
        v if v >= 9_999.5 => format!("{:.1}k", v / 1e3),
        v => format!("{v:.0}"),
    }
}

/// A time in us, with three digits and its unit.
pub fn us_text(us: f64) -> String {
    match us {
        v if v >= 999_500.0 => format!("{:.2} s", v / 1e6),
        v if v >= 99_950.0 => format!("{:.0} ms", v / 1e3),
        v if v >= 9_995.0 => format!("{:.1} ms", v / 1e3),
        v if v >= 999.5 => format!("{:.2} ms", v / 1e3),
        v => format!("{v:.0} us"),
    }
}

fn quantiles(l: &Latency) -> String {
    let [p50, p90, p99, p999, max] = [l.p50_us, l.p90_us, l.p99_us, l.p999_us, l.max_us].map(us_text);
    format!("p50 {p50:>8}  p90 {p90:>8}  p99 {p99:>8}  p99.9 {p999:>8}  max {max:>8}")
}

/// The headline alone.
pub fn one_line(report: &Report) -> String {
    let mut line = format!("{}: {} ops/s", report.scenario, si(report.ops_per_s));
    if let Some(all) = &report.all {
        let [p50, p99, p999] = [all.p50_us, all.p99_us, all.p999_us].map(us_text);
        let _ = write!(line, ", p50 {p50}, p99 {p99}, p99.9 {p999}");
    }
    let _ = write!(line, ", errors {}", report.errors);
    if !report.generator.invalid.is_empty() {
        line += ", INVALID: the generator was the bottleneck";
    }
    line
}

/// All that matters, on one screen.
pub fn screen(report: &Report) -> String {
    let mut out = String::new();
    let f = &mut out;
    let _ = writeln!(f, "{}", report.title);
    header_lines(f, report);
    if report.ops > 0 {
        let offered = report.offered_per_s.map_or(String::new(), |rate| format!(", {} offered", si(rate)));
        let _ = writeln!(f, "  throughput   {:.0} ops/s ({} in {:.2} s{offered})", report.ops_per_s, report.ops, report.seconds);
    }
    latency_lines(f, report);
    stability_lines(f, report);
    for line in markdown(&curve_rows(report)).lines().filter(|_| !report.curve.is_empty()) {
        let _ = writeln!(f, "    {line}");
    }
    resource_lines(f, report);
    verdict_lines(f, report);
    out
}

fn header_lines(f: &mut String, report: &Report) {
    let header = &report.header;
    if header.cores > 0 {
        let _ = writeln!(
            f,
            "  on           {} ({} cores, {} MB), Linux {}, load {}",
            header.cpu, header.cores, header.memory_mb, header.kernel, header.load_average
        );
    }
    if let Some(disk) = &header.disk {
        let [p50, p99, max] = [disk.p50_us, disk.p99_us, disk.max_us].map(us_text);
        let _ =
            writeln!(f, "  disk         {}: {:.0} durable writes/s, p50 {p50}, p99 {p99}, max {max}", disk.directory, disk.writes_per_s);
    }
    let versions: Vec<&str> = header.server_versions.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
    if !versions.is_empty() {
        let round_trip = header.round_trip_us.map_or(String::new(), |us| format!(", {} away", us_text(us)));
        let _ = writeln!(f, "  server       {}{round_trip}", versions.join(", "));
    }
}

/// What a server says of itself that is worth a place on the screen, by its name in `mntr`.
const FIGURES: [(&str, &str); 5] = [
    ("zk_znode_count", "znodes"),
    ("zk_num_alive_connections", "connections"),
    ("zk_watch_count", "watches"),
    ("zk_avg_latency", "avg latency ms"),
    ("zk_max_latency", "max latency ms"),
];

fn figure_lines(f: &mut String, report: &Report) {
    for (server, figures) in &report.server_figures {
        let known = FIGURES.iter().filter_map(|(name, text)| Some(format!("{text} {}", figures.get(*name)?.1)));
        let known: Vec<String> = known.collect();
        if !known.is_empty() {
            let _ = writeln!(f, "  {server:12} says: {}", known.join(", "));
        }
    }
}

fn latency_lines(f: &mut String, report: &Report) {
    let Some(all) = &report.all else { return };
    let name = if report.service.is_some() { "response" } else { "latency" };
    let _ = writeln!(f, "  {name:12} {}", quantiles(all));
    if let Some(service) = &report.service {
        let _ = writeln!(f, "  service      {}", quantiles(service));
    }
    if report.operations.len() > 1 {
        for (name, op) in &report.operations {
            let _ = writeln!(f, "    {name:10} {}  ({})", quantiles(&op.response), si(op.response.ops as f64));
        }
    }
    if report.servers.len() > 1 {
        for (name, latency) in &report.servers {
            let _ = writeln!(f, "  {name:21} {}  ({})", quantiles(latency), si(latency.ops as f64));
        }
    }
    bars(f, &report.bars);
}

/// How many operations took how long, in a dozen bars at most.
fn bars(f: &mut String, bars: &[(f64, u64)]) {
    let total: u64 = bars.iter().map(|(_, count)| count).sum();
    if bars.len() < 2 {
        return;
    }
    for group in bars.chunks(bars.len().div_ceil(BARS_MAX)) {
        let share = group.iter().map(|(_, count)| *count as f64).sum::<f64>() / total as f64;
        let bar = "#".repeat((share * BAR as f64).round() as usize);
        let _ = writeln!(f, "    up to {:>8} {bar:BAR$} {:6.2} %", us_text(group[group.len() - 1].0), share * 100.0);
    }
}

fn stability_lines(f: &mut String, report: &Report) {
    if let Some(worst) = report.worst_second_ops {
        let share = if report.ops_per_s > 0.0 { 100.0 * worst as f64 / report.ops_per_s } else { 0.0 };
        let _ = write!(f, "  worst second {} ops ({share:.0} % of the mean)", si(worst as f64));
        let _ = writeln!(f, ", {} of {} seconds below half", report.slow_seconds, report.rows.len());
    }
    if report.ops > 0 {
        let (ms, at) = (report.longest_stall_ms, report.longest_stall_at_s);
        let _ = writeln!(f, "  longest stall {} at {at:.1} s", us_text(ms * 1000.0));
    }
    if report.events > 0 {
        let wrong = |miss: &str| report.misses.get(miss).copied().unwrap_or(0);
        let (lost, twice) = (wrong("lost-event"), wrong("duplicate-event"));
        let _ = writeln!(f, "  events       {} delivered, {lost} lost, {twice} duplicated", report.events);
    }
    if report.disconnects + report.expiries > 0 {
        let _ = writeln!(f, "  connections  {} lost, {} sessions expired", report.disconnects, report.expiries);
    }
    for action in &report.actions {
        let recovery = action.recovery_s.map_or("never back to 90 %".into(), |s| format!("back to 90 % after {s:.1} s"));
        let _ = writeln!(f, "  at {:5.1} s   {}: {recovery}", action.at_s, action.command);
    }
    if let Some(spread) = &report.spread {
        let _ = writeln!(
            f,
            "  {} runs       {} to {} ops/s, p99 {} to {}; this is the median",
            spread.runs,
            si(spread.ops_per_s_min),
            si(spread.ops_per_s_max),
            us_text(spread.p99_us_min),
            us_text(spread.p99_us_max)
        );
    }
}

fn resource_lines(f: &mut String, report: &Report) {
    let generator = &report.generator;
    if let Some(us) = report.client_cpu_us_per_op {
        let _ = write!(f, "  generator    {us:.2} us CPU/op, busiest thread {:.0} %", generator.thread_running_percent);
        let _ = write!(f, " (waiting for a core {:.0} %)", generator.thread_waiting_percent);
        let _ = match generator.lag_p99_us {
            Some(lag) => writeln!(f, ", late by p99 {}", us_text(lag)),
            None => writeln!(f),
        };
    }
    if let Some(us) = report.server_cpu_us_per_op {
        let _ = writeln!(f, "  server CPU   {us:.2} us/op");
    }
    if let Some(percent) = report.server_cpu_percent {
        let _ = writeln!(f, "  server load  {percent:.1} % of one core");
    }
    if let (Some(per_op), Some(per_s)) = (report.server_disk_bytes_per_op, report.server_disk_bytes_per_s) {
        let _ = writeln!(f, "  server disk  {per_op:.0} B written per operation, {:.1} MB/s", per_s / 1e6);
    }
    figure_lines(f, report);
    let mb = |bytes: u64| bytes as f64 / 1e6;
    if let (Some(before), Some(after)) = (report.server_rss_before_bytes, report.server_rss_after_bytes) {
        let _ = writeln!(f, "  server RSS   {:.1} MB before, {:.1} MB after", mb(before), mb(after));
    }
    if let Some(bytes) = report.bytes_per_node {
        let _ = writeln!(f, "  memory       {bytes:.0} B per node");
    }
    if let Some(bytes) = report.bytes_per_session {
        let _ = writeln!(f, "  memory       {bytes:.0} B per session");
    }
    if let Some(rate) = report.sessions_per_s {
        let _ = writeln!(f, "  opening      {rate:.0} sessions/s");
    }
}

fn verdict_lines(f: &mut String, report: &Report) {
    if report.unsent > 0 {
        let _ = writeln!(f, "  UNSENT       {} operations were due and found no room: the server could not keep up", report.unsent);
    }
    if let Some(checked) = report.checked_at_end {
        let _ = writeln!(f, "  at the end   {checked} nodes looked at");
    }
    if let Some(why) = &report.ended_early {
        let _ = writeln!(f, "  ENDED EARLY  {why}");
    }
    for why in &report.generator.invalid {
        let _ = writeln!(f, "  INVALID      {why}");
    }
    let _ = writeln!(f, "  errors       {}", report.errors);
    for (miss, count) in &report.misses {
        let _ = writeln!(f, "    {miss}: {count}");
    }
    for (code, count) in &report.codes {
        let _ = writeln!(f, "    error code {code} ({}): {count}", falconer::wire::response::code::name(*code));
    }
    for example in &report.examples {
        let _ = writeln!(f, "    {example}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!(si(1234.0), "1234");
        assert_eq!(si(123_456.0), "123.5k");
        assert_eq!(si(12_345_678.0), "12.3M");
        for (us, text) in [(4.0, "4 us"), (1234.0, "1.23 ms"), (12_345.0, "12.3 ms"), (123_456.0, "123 ms"), (2_500_000.0, "2.50 s")] {
            assert_eq!(us_text(us), text);
        }
    }

    #[test]
    fn an_error_stands_on_the_screen_and_in_the_line() {
        let report = Report { errors: 3, examples: vec!["key 7 is wrong".into()], ..Report::default() };
        assert!(screen(&report).contains("errors       3") && screen(&report).contains("key 7 is wrong"));
        assert!(one_line(&report).contains("errors 3"));
    }
}
