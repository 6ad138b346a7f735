//! The numbers of one run, as they are printed, saved and compared. Refuses to round away an error, and to call a run
//! valid in which the load generator itself was the bottleneck.

mod files;
mod header;
mod html;
mod text;

pub use files::{csv, curve_rows, hgrm, md};
pub use header::Header;
pub use html::{compare_html, html};
pub use text::{one_line, screen, si, us_text};

use crate::actions::ActionDone;
use crate::conductor::{Measured, Row};
use crate::figures::Figures;
use crate::process::Look;
use crate::tally::{Latencies, Op, Times};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// A worker thread that runs or wants to run for a larger share of the time cannot offer more load.
const THREAD_BUSY_MAX: f64 = 0.9;
/// A generator that is late by more than this, and by more than a tenth of the p99, spoils the latencies.
const LAG_US_MAX: f64 = 1000.0;

/// What a run has besides operations.
#[derive(Clone, Copy)]
pub enum Extra {
    None,
    /// Nodes created by a fill: memory is reported per node.
    Nodes(u32),
    /// Sessions held idle: memory is reported per session.
    Sessions(u32),
}

/// Latencies in microseconds.
#[derive(Clone, Serialize, Deserialize, Debug, Default)]
pub struct Latency {
    pub ops: u64,
    pub mean_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub p9999_us: f64,
    pub max_us: f64,
}

impl Latency {
    fn of(histogram: &Latencies) -> Option<Latency> {
        let us = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        (!histogram.is_empty()).then(|| Latency {
            ops: histogram.len(),
            mean_us: histogram.mean() / 1000.0,
            p50_us: us(0.5),
            p90_us: us(0.9),
            p99_us: us(0.99),
            p999_us: us(0.999),
            p9999_us: us(0.9999),
            max_us: histogram.max() as f64 / 1000.0,
        })
    }
}

/// Both times of one kind of operation.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub struct OpReport {
    /// From when the schedule wanted it.
    pub response: Latency,
    /// From when it was sent; only in an open loop.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub service: Option<Latency>,
}

/// The load generator's own part.
#[derive(Clone, Serialize, Deserialize, Debug, Default)]
pub struct Generator {
    /// CPU time of the whole process, % of one core.
    pub cpu_percent: f64,
    /// The busiest worker thread: running, and waiting for a core, % of the time.
    pub thread_running_percent: f64,
    pub thread_waiting_percent: f64,
    /// How late it noticed that an operation was due; only in an open loop.
    pub lag_p99_us: Option<f64>,
    pub lag_max_us: Option<f64>,
    /// Why the run says more about the generator than about the server; empty if it does not.
    pub invalid: Vec<String>,
}

/// How runs of the same load differ.
#[derive(Clone, Serialize, Deserialize, Debug, Default)]
pub struct Spread {
    pub runs: u32,
    pub ops_per_s_min: f64,
    pub ops_per_s_max: f64,
    pub p99_us_min: f64,
    pub p99_us_max: f64,
}

/// What one rate gave, in the search for the highest.
#[derive(Clone, Serialize, Deserialize, Debug, Default)]
#[serde(default)]
pub struct CurvePoint {
    pub offered_per_s: f64,
    pub ops_per_s: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    /// Why this rate does not count as held; nothing if the server kept up and the conditions held.
    pub why: String,
}

impl CurvePoint {
    pub fn of(offered_per_s: f64, why: String, report: &Report) -> CurvePoint {
        let all = report.all.clone().unwrap_or_default();
        let (p50_us, p99_us, p999_us) = (all.p50_us, all.p99_us, all.p999_us);
        CurvePoint { offered_per_s, ops_per_s: report.ops_per_s, p50_us, p99_us, p999_us, why }
    }
}

/// The numbers of one run. Fields are absent where they make no sense or no server process was named.
#[derive(Clone, Serialize, Deserialize, Debug, Default)]
#[serde(default)]
pub struct Report {
    pub scenario: String,
    pub title: String,
    pub header: Header,
    pub ops: u64,
    pub seconds: f64,
    pub ops_per_s: f64,
    /// What the schedule wanted; only in an open loop.
    pub offered_per_s: Option<f64>,
    /// Operations that were due and never sent.
    pub unsent: u64,
    pub errors: u64,
    pub misses: BTreeMap<String, u64>,
    pub codes: BTreeMap<i32, u64>,
    pub examples: Vec<String>,
    pub ended_early: Option<String>,
    /// Nodes and directories looked at after the load.
    pub checked_at_end: Option<u64>,
    pub disconnects: u64,
    pub expiries: u64,
    pub events: u64,
    pub all: Option<Latency>,
    pub service: Option<Latency>,
    pub read: Option<Latency>,
    pub write: Option<Latency>,
    pub operations: BTreeMap<String, OpReport>,
    pub servers: BTreeMap<String, Latency>,
    /// Operations in the worst whole second, and whole seconds below half of the mean.
    pub worst_second_ops: Option<u64>,
    pub slow_seconds: u32,
    pub longest_stall_ms: f64,
    pub longest_stall_at_s: f64,
    pub actions: Vec<ActionDone>,
    pub generator: Generator,
    pub spread: Option<Spread>,
    pub client_cpu_us_per_op: Option<f64>,
    pub server_cpu_us_per_op: Option<f64>,
    pub server_cpu_percent: Option<f64>,
    /// What the servers have had written to their disks, per operation and second.
    pub server_disk_bytes_per_op: Option<f64>,
    pub server_disk_bytes_per_s: Option<f64>,
    /// What the servers say of themselves (mntr, /metrics): at the start of the measured phase, and at its end.
    pub server_figures: BTreeMap<String, BTreeMap<String, (f64, f64)>>,
    pub server_rss_before_bytes: Option<u64>,
    pub server_rss_after_bytes: Option<u64>,
    pub bytes_per_node: Option<f64>,
    pub bytes_per_session: Option<f64>,
    pub sessions_per_s: Option<f64>,
    pub rows: Vec<Row>,
    /// Share of operations, and the latency in us that they did not exceed: response, then service.
    pub spectrum: Vec<(f64, f64)>,
    pub service_spectrum: Vec<(f64, f64)>,
    /// Operations by response time: up to how many us (powers of two), and how many took longer than the one before.
    pub bars: Vec<(f64, u64)>,
    /// Latency by offered load, if the highest rate was looked for.
    pub curve: Vec<CurvePoint>,
}

/// The quantiles of a latency spectrum: ever closer to 1.
fn spectrum(histogram: &Latencies) -> Vec<(f64, f64)> {
    let mut points = Vec::new();
    let mut rest = 1.0;
    while !histogram.is_empty() && rest * histogram.len() as f64 >= 1.0 {
        for step in [1.0, 0.75, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15] {
            let quantile: f64 = 1.0 - rest * step;
            points.push((quantile, histogram.value_at_quantile(quantile) as f64 / 1000.0));
        }
        rest /= 10.0;
    }
    if !histogram.is_empty() {
        points.push((1.0, histogram.max() as f64 / 1000.0));
    }
    points
}

/// Counts between powers of two of a microsecond.
fn bars(histogram: &Latencies) -> Vec<(f64, u64)> {
    let mut bars: Vec<(f64, u64)> = Vec::new();
    for value in histogram.iter_recorded() {
        let upper_us = (value.value_iterated_to().max(1) as f64 / 1000.0).log2().ceil().exp2();
        while bars.last().is_some_and(|(last, _)| *last < upper_us / 2.0) {
            bars.push((bars[bars.len() - 1].0 * 2.0, 0));
        }
        match bars.last_mut() {
            Some((last, count)) if *last == upper_us => *count += value.count_at_value(),
            _ => bars.push((upper_us, value.count_at_value())),
        }
    }
    bars
}

/// Start and end of every number that a server told both times.
fn figures(start: &Look, end: &Look) -> BTreeMap<String, BTreeMap<String, (f64, f64)>> {
    let of = |(server, last): (&String, &Figures)| {
        let first = start.figures.get(server)?;
        let pairs = last.iter().filter_map(|(name, value)| Some((name.clone(), (*first.get(name)?, *value))));
        Some((server.clone(), pairs.collect()))
    };
    end.figures.iter().filter_map(of).collect()
}

impl Report {
    pub fn new(scenario: &str, title: String, header: Header, measured: &Measured, extra: Extra) -> Report {
        let (tally, seconds) = (&measured.tally, measured.elapsed.as_secs_f64());
        let all = tally.times(|_| true);
        // In an open loop what ended in time counts for the throughput, what was due in time for the latency.
        let in_rows: u64 = tally.ticks.iter().map(|&ops| u64::from(ops)).sum();
        let ops = if all.service.is_empty() { tally.count() } else { in_rows };
        let server_cpu_ns = measured.after.server_cpu_ns_since(&measured.start);
        let disk_bytes = measured.after.server_disk_bytes_since(&measured.start);
        let per_op = |cpu_ns: u64| (ops > 0).then(|| cpu_ns as f64 / 1000.0 / ops as f64);
        let mut report = Report {
            scenario: scenario.into(),
            title,
            ops,
            seconds,
            ops_per_s: if seconds > 0.0 { ops as f64 / seconds } else { 0.0 },
            unsent: tally.unsent,
            errors: tally.wrong(),
            misses: tally.misses.iter().map(|(miss, count)| (kebab(miss), *count)).collect(),
            codes: tally.codes.clone(),
            examples: tally.examples.clone(),
            ended_early: measured.ended_early.clone(),
            disconnects: tally.disconnects,
            expiries: tally.expiries,
            events: tally.events,
            all: Latency::of(&all.response),
            service: Latency::of(&all.service),
            read: Latency::of(&tally.times(Op::is_read).response),
            write: Latency::of(&tally.times(|op| !op.is_read()).response),
            operations: tally.ops.iter().filter_map(|(op, times)| Some((op.name().to_string(), op_report(times)?))).collect(),
            longest_stall_ms: measured.stall.1.as_secs_f64() * 1000.0,
            longest_stall_at_s: measured.stall.0,
            actions: measured.actions.clone(),
            client_cpu_us_per_op: per_op(measured.after.own_cpu_ns_since(&measured.start)),
            server_cpu_us_per_op: server_cpu_ns.and_then(per_op),
            server_cpu_percent: server_cpu_ns.map(|cpu_ns| cpu_ns as f64 / seconds / 1e7),
            server_disk_bytes_per_op: disk_bytes.filter(|_| ops > 0).map(|bytes| bytes as f64 / ops as f64),
            server_disk_bytes_per_s: disk_bytes.filter(|_| seconds > 0.0).map(|bytes| bytes as f64 / seconds),
            server_figures: figures(&measured.start, &measured.after),
            server_rss_before_bytes: measured.before.server_rss_bytes(),
            server_rss_after_bytes: measured.after.server_rss_bytes(),
            rows: measured.rows.clone(),
            spectrum: spectrum(&all.response),
            service_spectrum: spectrum(&all.service),
            bars: bars(&all.response),
            ..Report::default()
        };
        for (name, latencies) in header.servers.iter().zip(&tally.servers) {
            report.servers.extend(Latency::of(latencies).map(|latency| (name.clone(), latency)));
        }
        report.header = header;
        report.add_stability();
        report.add_generator(measured);
        report.add_extra(measured, extra);
        report
    }

    fn add_stability(&mut self) {
        self.worst_second_ops = self.rows.iter().map(|row| row.ops).min();
        let half = self.ops_per_s / 2.0;
        self.slow_seconds = self.rows.iter().filter(|row| (row.ops as f64) < half).count() as u32;
    }

    fn add_generator(&mut self, measured: &Measured) {
        let (tally, percent) = (&measured.tally, |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64);
        let thread = tally.thread;
        let own_ns = measured.after.own_cpu_ns_since(&measured.start);
        let generator = &mut self.generator;
        generator.cpu_percent = percent(own_ns, measured.elapsed.as_nanos() as u64);
        generator.thread_running_percent = percent(thread.running, thread.elapsed);
        generator.thread_waiting_percent = percent(thread.waiting, thread.elapsed);
        if thread.wanted() > THREAD_BUSY_MAX {
            let (running, waiting) = (generator.thread_running_percent, generator.thread_waiting_percent);
            let text = format!(
                "a thread of the generator ran {running:.0} % and waited for a core {waiting:.0} % of the time (more -t, or a machine of its own)"
            );
            generator.invalid.push(text);
        }
        if let Some(lag) = Latency::of(&tally.lag) {
            (generator.lag_p99_us, generator.lag_max_us) = (Some(lag.p99_us), Some(lag.max_us));
            let p99_us = self.all.as_ref().map_or(0.0, |all| all.p99_us);
            if lag.p99_us > LAG_US_MAX && lag.p99_us > p99_us / 10.0 {
                generator.invalid.push(format!("the generator was late: p99 {} (more -t, --spin, or an idle core)", us_text(lag.p99_us)));
            }
        }
    }

    fn add_extra(&mut self, measured: &Measured, extra: Extra) {
        let grown = |to: Option<u64>, count: u32| Some((to? as f64 - measured.before.server_rss_bytes()? as f64) / f64::from(count));
        match extra {
            Extra::None => {}
            Extra::Nodes(count) => self.bytes_per_node = grown(self.server_rss_after_bytes, count),
            Extra::Sessions(count) => {
                self.bytes_per_session = grown(measured.opened.server_rss_bytes(), count);
                self.sessions_per_s = Some(f64::from(count) / measured.opening.as_secs_f64());
            }
        }
    }

    /// The report of a command that only deletes.
    pub fn cleaned(title: String, gone: u64, elapsed: Duration) -> Report {
        let seconds = elapsed.as_secs_f64();
        Report { scenario: "clean".into(), title, ops: gone, seconds, ops_per_s: gone as f64 / seconds, ..Report::default() }
    }

    /// Whether every reply was right.
    pub fn is_clean(&self) -> bool {
        self.errors == 0
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and strings only")
    }

    /// The run with the median throughput, with the spread of all.
    pub fn median(mut reports: Vec<Report>) -> Report {
        reports.sort_by(|a, b| a.ops_per_s.total_cmp(&b.ops_per_s));
        let p99 = |report: &Report| report.all.as_ref().map_or(0.0, |all| all.p99_us);
        let spread = Spread {
            runs: reports.len() as u32,
            ops_per_s_min: reports[0].ops_per_s,
            ops_per_s_max: reports[reports.len() - 1].ops_per_s,
            p99_us_min: reports.iter().map(p99).fold(f64::INFINITY, f64::min),
            p99_us_max: reports.iter().map(p99).fold(0.0, f64::max),
        };
        // What was wrong in any of the runs must not vanish with it.
        let wrong: Vec<Report> = reports.iter().filter(|report| !report.is_clean()).cloned().collect();
        let mut median = reports.swap_remove(reports.len() / 2);
        median.spread = (spread.runs > 1).then_some(spread);
        median.errors = wrong.iter().map(|report| report.errors).sum();
        median.examples = wrong.iter().flat_map(|report| report.examples.clone()).take(5).collect();
        median.misses.clear();
        for (miss, count) in wrong.iter().flat_map(|report| &report.misses) {
            *median.misses.entry(miss.clone()).or_default() += count;
        }
        median
    }
}

fn op_report(times: &Times) -> Option<OpReport> {
    Some(OpReport { response: Latency::of(&times.response)?, service: Latency::of(&times.service) })
}

/// The name of a unit variant as it stands in JSON.
fn kebab(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        _ => unreachable!("unit variants become strings"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::latencies;

    #[test]
    fn a_spectrum_ends_where_single_operations_begin() {
        let mut histogram = latencies();
        (1..=1000).for_each(|us| histogram.record(us * 1000).unwrap());
        let points = spectrum(&histogram);
        assert!(points.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 <= pair[1].1));
        assert!((points.last().unwrap().1 - 1000.0).abs() < 2.0);
        assert!(spectrum(&latencies()).is_empty());
    }

    #[test]
    fn bars_hold_every_operation_once() {
        let mut histogram = latencies();
        [3_000, 3_500, 5_000, 60_000].iter().for_each(|ns| histogram.record(*ns).unwrap());
        assert_eq!(bars(&histogram), [(4.0, 2), (8.0, 1), (16.0, 0), (32.0, 0), (64.0, 1)]);
    }

    #[test]
    fn the_median_keeps_what_was_wrong_in_the_others() {
        let report = |ops_per_s: f64, errors: u64| Report {
            ops_per_s,
            errors,
            misses: [("data".to_string(), errors)].into_iter().filter(|(_, count)| *count > 0).collect(),
            ..Report::default()
        };
        let median = Report::median(vec![report(300.0, 0), report(100.0, 2), report(200.0, 0)]);
        assert_eq!((median.ops_per_s, median.errors, median.misses["data"]), (200.0, 2, 2));
        let spread = median.spread.unwrap();
        assert_eq!((spread.runs, spread.ops_per_s_min, spread.ops_per_s_max), (3, 100.0, 300.0));
    }
}
