//! Finds the knee: the highest rate at which conditions hold and the server keeps up. Doubles until they do not, then
//! halves the gap. Refuses to call a rate held that was offered and not reached.

use crate::gates::Gates;
use crate::plan::PlanError;
use crate::report::{CurvePoint, Report};

/// Where the search begins if nobody says.
pub const FIRST_RATE: f64 = 1000.0;
/// A rate is held if this share of it was answered in time.
const REACHED: f64 = 0.97;
const DOUBLINGS_MAX: usize = 20;
/// Steps between the last rate that was held and the first that was not.
const HALVINGS: usize = 4;
/// How often a rate is tried again at which the generator was the bottleneck: such a run says nothing about the server.
const INVALID_MAX: usize = 2;

/// Runs at one rate after the other. The report of the highest rate that was held, with the whole curve.
pub fn find_max(first_rate: f64, gates: &Gates, mut run: impl FnMut(f64) -> Result<Report, PlanError>) -> Result<Report, PlanError> {
    let (mut curve, mut best): (Vec<CurvePoint>, Option<(f64, Report)>) = (Vec::new(), None);
    let mut failed_at = None;
    let mut rate = first_rate;
    for _ in 0..DOUBLINGS_MAX + HALVINGS {
        let report = valid(rate, &mut run)?;
        let interrupted = report.ended_early.is_some();
        let why = why_not_held(rate, gates, &report);
        curve.push(CurvePoint::of(rate, why.clone(), &report));
        match why.is_empty() {
            true => best = Some((rate, report)),
            false => failed_at = Some((rate, why)),
        }
        let lowest = best.as_ref().map_or(0.0, |(rate, _)| *rate);
        rate = match &failed_at {
            None => rate * 2.0,
            Some((failed, _)) => (lowest + failed) / 2.0,
        };
        let close_enough = failed_at.as_ref().is_some_and(|(failed, _)| failed - lowest < failed / f64::from(1 << HALVINGS));
        if interrupted || close_enough || rate < 1.0 {
            break;
        }
    }
    curve.sort_by(|a, b| a.offered_per_s.total_cmp(&b.offered_per_s));
    match best {
        Some((_, report)) => Ok(Report { curve, ..report }),
        None => {
            let (rate, why) = failed_at.unwrap_or_default();
            Err(PlanError::Refused(format!("at no rate did the conditions hold; at {rate:.0}/s: {why}")))
        }
    }
}

/// A run at this rate that says something about the server, if one of a few does.
fn valid(rate: f64, run: &mut impl FnMut(f64) -> Result<Report, PlanError>) -> Result<Report, PlanError> {
    let mut report = run(rate)?;
    for _ in 0..INVALID_MAX {
        if report.generator.invalid.is_empty() || report.ended_early.is_some() {
            break;
        }
        report = run(rate)?;
    }
    Ok(report)
}

/// Nothing if the rate was held.
fn why_not_held(rate: f64, gates: &Gates, report: &Report) -> String {
    let mut why = gates.broken(report);
    if !report.is_clean() {
        why.push(format!("{} wrong", report.errors));
    }
    if report.unsent > 0 {
        why.push(format!("{} unsent", report.unsent));
    }
    if report.ops_per_s < REACHED * rate {
        why.push(format!("{:.0}/s answered", report.ops_per_s));
    }
    why.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Latency;

    /// A server that does 10,000 a second, with latency that grows to the limit.
    fn server(rate: f64) -> Report {
        let ops_per_s = rate.min(10_000.0);
        let p99_us = 500.0 / (1.0 - (rate / 10_000.0).min(0.999));
        let all = Latency { p99_us, ..Latency::default() };
        Report { ops_per_s, all: Some(all), unsent: u64::from(rate > 10_000.0), ..Report::default() }
    }

    #[test]
    fn the_knee_is_where_the_condition_breaks() {
        let gates: Gates = "p99<2ms".parse().unwrap();
        let report = find_max(FIRST_RATE, &gates, |rate| Ok(server(rate))).unwrap();
        // 500 us / (1 - r) < 2 ms: r < 0.75.
        assert!((6900.0..7500.0).contains(&report.ops_per_s), "{}", report.ops_per_s);
        assert!(report.curve.windows(2).all(|pair| pair[0].offered_per_s < pair[1].offered_per_s));
        assert!(report.curve.iter().any(|point| point.why.starts_with("p99<2ms: it is")));
    }

    #[test]
    fn a_run_that_says_nothing_is_made_again() {
        let gates: Gates = "p99<2ms".parse().unwrap();
        let mut runs = 0;
        let report = find_max(FIRST_RATE, &gates, |rate| {
            runs += 1;
            let mut report = server(rate);
            if runs % 3 != 0 {
                report.generator.invalid.push("a thread ran out of time".into());
            }
            Ok(report)
        });
        assert!((6900.0..7500.0).contains(&report.unwrap().ops_per_s));
    }

    #[test]
    fn a_condition_that_never_holds_has_no_knee() {
        let gates: Gates = "p99<1us".parse().unwrap();
        let error = find_max(FIRST_RATE, &gates, |rate| Ok(server(rate))).err().unwrap().to_string();
        assert!(error.contains("p99<1us: it is"), "{error}");
    }
}
