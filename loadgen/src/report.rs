//! What a run prints: one screen of text, or one line of JSON with the same numbers.
//! Refuses to round away an error: any violation is shown with examples and counted in the exit status.

use crate::conductor::Measured;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// What a scenario has besides operations.
pub enum Extra {
    None,
    /// Nodes created by a fill: memory is reported per node.
    Nodes(u32),
    /// Sessions held idle: memory is reported per session.
    Sessions(u32),
}

/// Latencies in microseconds.
#[derive(Serialize, Debug)]
pub struct Latency {
    pub ops: u64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Option<Latency> {
        let us = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        (!histogram.is_empty()).then(|| Latency {
            ops: histogram.len(),
            p50_us: us(0.5),
            p99_us: us(0.99),
            p999_us: us(0.999),
            max_us: histogram.max() as f64 / 1000.0,
        })
    }
}

/// The numbers of one run. Fields are absent where they make no sense or no server process was named.
#[derive(Serialize, Debug, Default)]
pub struct Report {
    pub scenario: &'static str,
    pub title: String,
    pub ops: u64,
    pub seconds: f64,
    pub ops_per_s: f64,
    pub errors: u64,
    pub examples: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all: Option<Latency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read: Option<Latency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write: Option<Latency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cpu_us_per_op: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_cpu_us_per_op: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_cpu_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_rss_before_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_rss_after_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_node: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_session: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions_per_s: Option<f64>,
}

impl Report {
    pub fn new(scenario: &'static str, title: String, measured: &Measured, extra: Extra) -> Report {
        let tally = &measured.tally;
        let (ops, seconds) = (tally.ops(), measured.elapsed.as_secs_f64());
        let per_op = |cpu_ns: u64| (ops > 0).then(|| cpu_ns as f64 / 1000.0 / ops as f64);
        let server_cpu_ns = measured.after.server_cpu_ns_since(&measured.start);
        let mut report = Report {
            scenario,
            title,
            ops,
            seconds,
            ops_per_s: ops as f64 / seconds,
            errors: tally.violations,
            examples: tally.examples.clone(),
            all: Latency::of(&tally.all()),
            read: Latency::of(&tally.reads),
            write: Latency::of(&tally.writes),
            client_cpu_us_per_op: per_op(measured.after.own_cpu_ns_since(&measured.start)),
            server_cpu_us_per_op: server_cpu_ns.and_then(per_op),
            server_cpu_percent: server_cpu_ns.map(|cpu_ns| cpu_ns as f64 / seconds / 1e7),
            server_rss_before_bytes: measured.before.server_rss_bytes(),
            server_rss_after_bytes: measured.after.server_rss_bytes(),
            ..Report::default()
        };
        report.add(measured, extra);
        report
    }

    fn add(&mut self, measured: &Measured, extra: Extra) {
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

    /// The report of a scenario that only deletes.
    pub fn cleaned(title: String, gone: u64, elapsed: Duration) -> Report {
        let seconds = elapsed.as_secs_f64();
        Report { scenario: "clean", title, ops: gone, seconds, ops_per_s: gone as f64 / seconds, ..Report::default() }
    }

    /// Whether every reply was right.
    pub fn is_clean(&self) -> bool {
        self.errors == 0
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and strings only")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        if self.ops > 0 {
            writeln!(f, "  throughput   {:.0} ops/s ({} in {:.2} s)", self.ops_per_s, self.ops, self.seconds)?;
        }
        for (name, latency) in [("latency", &self.all), ("  reads", &self.read), ("  writes", &self.write)] {
            // Reads and writes apart only where there are both.
            if let Some(l) = latency
                && (name == "latency" || (self.read.is_some() && self.write.is_some()))
            {
                write!(f, "  {name:12} p50 {:.0} us  p99 {:.0} us  p99.9 {:.0} us", l.p50_us, l.p99_us, l.p999_us)?;
                writeln!(f, "  max {:.0} us", l.max_us)?;
            }
        }
        self.fmt_resources(f)?;
        writeln!(f, "  errors       {}", self.errors)?;
        self.examples.iter().try_for_each(|example| writeln!(f, "    {example}"))
    }
}

impl Report {
    fn fmt_resources(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(us) = self.client_cpu_us_per_op {
            writeln!(f, "  client CPU   {us:.2} us/op")?;
        }
        if let Some(us) = self.server_cpu_us_per_op {
            writeln!(f, "  server CPU   {us:.2} us/op")?;
        }
        if let Some(percent) = self.server_cpu_percent {
            writeln!(f, "  server load  {percent:.1} % of one core")?;
        }
        let mb = |bytes: u64| bytes as f64 / 1e6;
        if let (Some(before), Some(after)) = (self.server_rss_before_bytes, self.server_rss_after_bytes) {
            writeln!(f, "  server RSS   {:.1} MB before, {:.1} MB after", mb(before), mb(after))?;
        }
        if let Some(bytes) = self.bytes_per_node {
            writeln!(f, "  memory       {bytes:.0} B per node")?;
        }
        if let Some(bytes) = self.bytes_per_session {
            writeln!(f, "  memory       {bytes:.0} B per session")?;
        }
        if let Some(rate) = self.sessions_per_s {
            writeln!(f, "  opening      {rate:.0} sessions/s")?;
        }
        Ok(())
    }
}
