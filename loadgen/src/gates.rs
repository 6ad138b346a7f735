//! Conditions on a report, for scripts: `p99<5ms,errors=0,worst>0.8*mean`, and the comparison with an earlier report.
//! Refuses to pass a run in which the load generator was the bottleneck.

use crate::pace::{count, duration};
use crate::report::{Report, us_text};
use std::str::FromStr;

/// What a condition is about. Times are in us, rates per second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Field {
    P50,
    P90,
    P99,
    P999,
    P9999,
    Max,
    Stall,
    Ops,
    /// Operations in the worst second.
    Worst,
    Errors,
    Unsent,
}

const FIELDS: [(&str, Field); 12] = [
    ("p50", Field::P50),
    ("p90", Field::P90),
    ("p99", Field::P99),
    ("p99.9", Field::P999),
    ("p999", Field::P999),
    ("p99.99", Field::P9999),
    ("max", Field::Max),
    ("stall", Field::Stall),
    ("ops", Field::Ops),
    ("worst", Field::Worst),
    ("errors", Field::Errors),
    ("unsent", Field::Unsent),
];

impl Field {
    fn is_time(self) -> bool {
        matches!(self, Field::P50 | Field::P90 | Field::P99 | Field::P999 | Field::P9999 | Field::Max | Field::Stall)
    }

    /// The value in a report; None if it has none.
    fn of(self, report: &Report) -> Option<f64> {
        let all = report.all.as_ref();
        match self {
            Field::P50 => all.map(|all| all.p50_us),
            Field::P90 => all.map(|all| all.p90_us),
            Field::P99 => all.map(|all| all.p99_us),
            Field::P999 => all.map(|all| all.p999_us),
            Field::P9999 => all.map(|all| all.p9999_us),
            Field::Max => all.map(|all| all.max_us),
            Field::Stall => Some(report.longest_stall_ms * 1000.0),
            Field::Ops => Some(report.ops_per_s),
            Field::Worst => report.worst_second_ops.map(|ops| ops as f64),
            Field::Errors => Some(report.errors as f64),
            Field::Unsent => Some(report.unsent as f64),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Limit {
    Value(f64),
    /// A multiple of the mean throughput.
    OfMean(f64),
}

/// One condition.
#[derive(Clone, PartialEq, Debug)]
pub struct Gate {
    text: String,
    field: Field,
    /// `<`, `>` or `=`.
    relation: char,
    limit: Limit,
}

/// Conditions that must all hold.
#[derive(Clone, PartialEq, Debug)]
pub struct Gates(Vec<Gate>);

impl FromStr for Gates {
    type Err = String;

    fn from_str(text: &str) -> Result<Gates, String> {
        text.split(',').map(|part| parse_gate(part.trim())).collect::<Result<_, _>>().map(Gates)
    }
}

fn parse_gate(text: &str) -> Result<Gate, String> {
    let at = text.find(['<', '>', '=']).ok_or_else(|| format!("{text:?} is no condition (such as p99<5ms, errors=0)"))?;
    let (name, relation, value) = (text[..at].trim(), text.as_bytes()[at] as char, text[at + 1..].trim());
    let Some((_, field)) = FIELDS.iter().find(|(known, _)| *known == name) else {
        let known: Vec<&str> = FIELDS.iter().map(|(known, _)| *known).collect();
        return Err(format!("{name:?}: one of {}", known.join(", ")));
    };
    let limit = match value.strip_suffix("*mean") {
        Some(factor) if matches!(field, Field::Worst) => Limit::OfMean(count(factor)?),
        _ if field.is_time() && value.ends_with('s') => Limit::Value(duration(value)?.as_secs_f64() * 1e6),
        _ if field.is_time() => return Err(format!("{text:?}: a time with its unit is needed (such as 5ms)")),
        _ => Limit::Value(count(value)?),
    };
    Ok(Gate { text: text.into(), field: *field, relation, limit })
}

impl Gates {
    /// The conditions that do not hold, in words.
    pub fn broken(&self, report: &Report) -> Vec<String> {
        let mut broken: Vec<String> = self.0.iter().filter_map(|gate| gate.broken(report)).collect();
        if !report.generator.invalid.is_empty() {
            broken.push("the run is invalid: the generator was the bottleneck".into());
        }
        broken
    }
}

impl Gate {
    fn broken(&self, report: &Report) -> Option<String> {
        let Some(value) = self.field.of(report) else { return Some(format!("{}: there is no such value", self.text)) };
        let limit = match self.limit {
            Limit::Value(limit) => limit,
            Limit::OfMean(factor) => factor * report.ops_per_s,
        };
        let holds = match self.relation {
            '<' => value < limit,
            '>' => value > limit,
            _ => value == limit,
        };
        let shown = if self.field.is_time() { us_text(value) } else { format!("{value:.0}") };
        (!holds).then(|| format!("{}: it is {shown}", self.text))
    }
}

/// What has become worse than `tolerance` (0.1 is a tenth) allows.
pub fn regressions(report: &Report, baseline: &Report, tolerance: f64) -> Vec<String> {
    let mut worse = Vec::new();
    let mut judge = |name: &str, now: Option<f64>, before: Option<f64>, more_is_better: bool| {
        let (Some(now), Some(before)) = (now, before) else { return };
        let ratio = now / before;
        if before > 0.0 && (if more_is_better { ratio < 1.0 - tolerance } else { ratio > 1.0 + tolerance }) {
            worse.push(format!("{name}: {now:.2}, it was {before:.2} ({ratio:.2}x)"));
        }
    };
    judge("ops/s", Some(report.ops_per_s), Some(baseline.ops_per_s), true);
    judge("p50 in us", Field::P50.of(report), Field::P50.of(baseline), false);
    judge("p99 in us", Field::P99.of(report), Field::P99.of(baseline), false);
    judge("server CPU in us/op", report.server_cpu_us_per_op, baseline.server_cpu_us_per_op, false);
    if report.scenario != baseline.scenario {
        worse.push(format!("{} cannot be compared with {}", report.scenario, baseline.scenario));
    }
    worse
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Latency;

    fn report() -> Report {
        let all = Latency { p50_us: 100.0, p99_us: 4000.0, p999_us: 9000.0, ..Latency::default() };
        Report { ops_per_s: 1000.0, worst_second_ops: Some(850), all: Some(all), ..Report::default() }
    }

    fn broken(text: &str) -> usize {
        text.parse::<Gates>().unwrap().broken(&report()).len()
    }

    #[test]
    fn conditions_hold_or_not() {
        assert_eq!(broken("p99<5ms, errors=0,worst>0.8*mean,ops>999"), 0);
        assert_eq!(broken("p99<4ms"), 1);
        assert_eq!(broken("p99.9<5ms,ops>1k"), 2);
        assert_eq!(broken("worst>0.9*mean"), 1);
        let mut invalid = report();
        invalid.generator.invalid.push("slow".into());
        assert_eq!("errors=0".parse::<Gates>().unwrap().broken(&invalid).len(), 1);
        for bad in ["", "p99", "p98<5ms", "p99<5", "ops<x", "errors=0,"] {
            assert!(bad.parse::<Gates>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_what_became_worse_is_a_regression() {
        let (old, mut new) = (report(), report());
        new.ops_per_s = 950.0;
        assert!(regressions(&new, &old, 0.1).is_empty());
        new.ops_per_s = 850.0;
        new.all.as_mut().unwrap().p99_us = 1.0;
        assert_eq!(regressions(&new, &old, 0.1).len(), 1);
        assert!(regressions(&old, &new, 0.1)[0].contains("p99"));
    }
}
