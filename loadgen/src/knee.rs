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

/// Runs at one rate after the other. The report of the highest rate that was held, with the whole curve.
pub fn find_max(first_rate: f64, gates: &Gates, mut run: impl FnMut(f64) -> Result<Report, PlanError>) -> Result<Report, PlanError> {
    let (mut curve, mut best): (Vec<CurvePoint>, Option<(f64, Report)>) = (Vec::new(), None);
    let (mut failed_at, mut why) = (None, String::new());
    let mut rate = first_rate;
    for _ in 0..DOUBLINGS_MAX + HALVINGS {
        let report = run(rate)?;
        let interrupted = report.ended_early.is_some();
        let broken = gates.broken(&report).join(", ");
        let held = broken.is_empty() && report.is_clean() && report.unsent == 0 && report.ops_per_s >= REACHED * rate;
        curve.push(CurvePoint::of(rate, held, &report));
        match held {
            true => best = Some((rate, report)),
            false => {
                failed_at = Some(rate);
                let (errors, unsent, answered) = (report.errors, report.unsent, report.ops_per_s);
                why = format!("at {rate:.0}/s: {answered:.0}/s answered, {unsent} unsent, {errors} errors; {broken}");
            }
        }
        let lowest = best.as_ref().map_or(0.0, |(rate, _)| *rate);
        rate = match failed_at {
            None => rate * 2.0,
            Some(failed) => (lowest + failed) / 2.0,
        };
        let close_enough = failed_at.is_some_and(|failed| failed - lowest < failed / f64::from(1 << HALVINGS));
        if interrupted || close_enough || rate < 1.0 {
            break;
        }
    }
    curve.sort_by(|a, b| a.offered_per_s.total_cmp(&b.offered_per_s));
    match best {
        Some((_, report)) => Ok(Report { curve, ..report }),
        None => Err(PlanError::Refused(format!("at no rate did the conditions hold; {why}"))),
    }
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
        assert!(report.curve.iter().any(|point| !point.held));
    }

    #[test]
    fn a_condition_that_never_holds_has_no_knee() {
        let gates: Gates = "p99<1us".parse().unwrap();
        let error = find_max(FIRST_RATE, &gates, |rate| Ok(server(rate))).err().unwrap().to_string();
        assert!(error.contains("p99<1us: it is"), "{error}");
    }
}
