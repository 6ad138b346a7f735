//! When operations are due in an open loop: at a constant rate or as a Poisson process, in one step or several, for one
//! of several workers that share the load. Refuses to catch up or to skip: what was due stays due, however late it is.

use crate::content::Dice;
use std::time::Duration;

const SECOND_NS: f64 = 1e9;

/// How the times between operations are spread.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Arrivals {
    /// Independent clients: bursts and gaps, as real load has them.
    #[default]
    Poisson,
    /// One every 1/rate seconds.
    Constant,
}

/// A rate held for some time.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Step {
    /// Operations per second of all workers together.
    pub rate: f64,
    /// The last step may have none: it lasts.
    pub length: Option<Duration>,
}

/// The load over time: steps one after the other, then again from the first.
#[derive(Clone, PartialEq, Debug)]
pub struct Schedule {
    pub steps: Vec<Step>,
    pub arrivals: Arrivals,
}

impl Schedule {
    /// `50k`, or steps such as `10k:5s,20k:5s` (repeated until the end).
    pub fn parse(text: &str) -> Result<Vec<Step>, String> {
        let parts: Vec<&str> = text.split(',').collect();
        let step = |(at, part): (usize, &&str)| {
            let (rate, length) = match part.split_once(':') {
                Some((rate, length)) => (rate, Some(duration(length)?)),
                None => (*part, None),
            };
            if length.is_none() && at + 1 < parts.len() {
                return Err(format!("{part}: only the last step may do without a length"));
            }
            if length.is_some_and(|length| length.is_zero()) {
                return Err(format!("{part}: a step takes some time"));
            }
            Ok(Step { rate: count(rate)?, length })
        };
        let steps = parts.iter().enumerate().map(step).collect::<Result<Vec<_>, String>>()?;
        match steps.iter().any(|step| step.rate > 0.0) {
            true => Ok(steps),
            false => Err("a rate above 0 is needed".into()),
        }
    }

    /// The rate per second over the first `duration` of the phase.
    pub fn mean_rate(&self, duration: Duration) -> f64 {
        let (mut left, mut due, mut at) = (duration.as_secs_f64(), 0.0, 0);
        while left > 0.0 {
            let step = self.steps[at % self.steps.len()];
            let length = step.length.map_or(left, |length| length.as_secs_f64().min(left));
            due += step.rate * length;
            left -= length;
            at += 1;
        }
        due / duration.as_secs_f64()
    }
}

/// The arrivals of one worker.
pub struct Pace {
    schedule: Schedule,
    /// This worker's share of the rate.
    share: f64,
    dice: Dice,
    /// The step now, and when it ends.
    step: usize,
    step_end_ns: u64,
    next_ns: u64,
}

impl Pace {
    /// The `part`-th of `parts` workers; nothing is due before [`Pace::start`].
    pub fn new(schedule: Schedule, part: u32, parts: u32, seed: u64) -> Pace {
        let dice = Dice::new(seed ^ (u64::from(part) + 1) << 40);
        Pace { schedule, share: 1.0 / f64::from(parts), dice, step: 0, step_end_ns: u64::MAX, next_ns: u64::MAX }
    }

    /// The first rate without an end: the load of the warm-up.
    pub fn hold(&mut self, now_ns: u64) {
        (self.step, self.step_end_ns) = (0, u64::MAX);
        self.next_ns = now_ns;
        self.advance();
    }

    /// The schedule from its first step on.
    pub fn start(&mut self, from_ns: u64) {
        self.step = 0;
        self.step_end_ns = self.end_after(from_ns);
        self.next_ns = from_ns;
        self.advance();
    }

    /// When the next operation is due; `u64::MAX` if nothing is.
    pub fn next_ns(&self) -> u64 {
        self.next_ns
    }

    fn end_after(&self, from_ns: u64) -> u64 {
        let length = self.schedule.steps[self.step].length;
        length.map_or(u64::MAX, |length| from_ns.saturating_add(length.as_nanos() as u64))
    }

    /// Goes on to the operation after the next.
    pub fn advance(&mut self) {
        let mut from_ns = self.next_ns;
        loop {
            let rate = self.schedule.steps[self.step].rate * self.share;
            let gap = match self.schedule.arrivals {
                _ if rate <= 0.0 => f64::INFINITY,
                Arrivals::Constant => 1.0,
                Arrivals::Poisson => -self.dice.unit().ln(),
            };
            let at = from_ns as f64 + gap / rate * SECOND_NS;
            if at < self.step_end_ns as f64 {
                // f64 holds ns exactly for the first hundred days.
                self.next_ns = at as u64;
                return;
            }
            if self.step_end_ns == u64::MAX {
                self.next_ns = u64::MAX;
                return;
            }
            // Without memory: a new gap from the border is as right as the rest of the old one.
            from_ns = self.step_end_ns;
            self.step = (self.step + 1) % self.schedule.steps.len();
            self.step_end_ns = self.end_after(from_ns);
        }
    }
}

/// A number with k or M behind it.
pub fn count(text: &str) -> Result<f64, String> {
    let text = text.trim();
    let (digits, factor) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 1e3),
        Some((at, 'm' | 'M')) => (&text[..at], 1e6),
        _ => (text, 1.0),
    };
    match digits.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number * factor),
        _ => Err(format!("{text:?} is not a number (such as 500, 50k, 1.5M)")),
    }
}

/// A time such as 500ms, 10s, 2m; a number alone is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let split = text.find(|c: char| c.is_alphabetic()).unwrap_or(text.len());
    let unit_s = match &text[split..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{text:?} is not a time (such as 500ms, 10s, 2m)")),
    };
    let number: f64 = text[..split].parse().map_err(|_| format!("{text:?} is not a time (such as 500ms, 10s, 2m)"))?;
    Duration::try_from_secs_f64(number * unit_s).map_err(|error| format!("{text:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn due(text: &str, arrivals: Arrivals, parts: u32, seconds: u64) -> Vec<u64> {
        let schedule = Schedule { steps: Schedule::parse(text).unwrap(), arrivals };
        let mut all = Vec::new();
        for part in 0..parts {
            let mut pace = Pace::new(schedule.clone(), part, parts, 1);
            assert_eq!(pace.next_ns(), u64::MAX);
            pace.start(5 * SECOND);
            while pace.next_ns() < (5 + seconds) * SECOND {
                all.push(pace.next_ns() - 5 * SECOND);
                pace.advance();
            }
        }
        all
    }

    #[test]
    fn a_constant_rate_is_constant() {
        let times = due("1k", Arrivals::Constant, 1, 2);
        assert!((1999..=2000).contains(&times.len()));
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 1_000_000));
    }

    #[test]
    fn a_poisson_process_has_its_rate_and_its_spread() {
        let times = due("10k", Arrivals::Poisson, 3, 10);
        assert!((98_000..102_000).contains(&times.len()), "{}", times.len());
        let mut per_ms = vec![0u32; 10_000];
        times.iter().for_each(|at| per_ms[(at / 1_000_000) as usize] += 1);
        let mean = times.len() as f64 / 10_000.0;
        let variance = per_ms.iter().map(|&n| (f64::from(n) - mean).powi(2)).sum::<f64>() / 10_000.0;
        assert!((0.9..1.1).contains(&(variance / mean)), "variance {variance}, mean {mean}");
    }

    #[test]
    fn steps_follow_each_other_and_repeat() {
        let times = due("1k:1s,0:500ms,3k:500ms", Arrivals::Constant, 1, 4);
        let between = |from: f64, to: f64| times.iter().filter(|&&at| (from..to).contains(&(at as f64 / 1e9))).count();
        assert!((999..=1000).contains(&between(0.0, 1.0)));
        assert_eq!(between(1.0, 1.5), 0);
        assert!((1499..=1500).contains(&between(1.5, 2.0)));
        assert!((999..=1001).contains(&between(2.0, 3.0)));
        let schedule = Schedule { steps: Schedule::parse("1k:1s,0:500ms,3k:500ms").unwrap(), arrivals: Arrivals::Constant };
        assert!((schedule.mean_rate(Duration::from_secs(4)) - 1250.0).abs() < 1e-6);
    }

    #[test]
    fn words_for_rates_and_times() {
        assert_eq!(count("1.5M"), Ok(1.5e6));
        assert_eq!(duration("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "k", "-1", "5x", "inf"] {
            assert!(count(bad).is_err(), "{bad}");
        }
        for bad in ["", "s", "-1s", "5 parsec"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        for bad in ["1k,2k", "0", "1k:0s", "1k:2s,"] {
            assert!(Schedule::parse(bad).is_err(), "{bad}");
        }
    }
}
