//! One machine: its disk, its clocks, the process that runs on it or does not, and what is wrong with it right now.
//! Refuses to act: the world does.

use super::disk::SimDisk;
use super::process::Process;
use super::random::Dice;

const WALL_MS: i64 = 1_700_000_000_000;

/// The clocks of a machine. They start anywhere and run at a rate of their own; only the wall clock ever jumps.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started_ms: u64,
    /// Faster than real time by so many millionths.
    ppm: i64,
    wall_ms: i64,
}

impl Clock {
    fn roll(drift_ppm: u32, dice: &mut Dice) -> Clock {
        let ppm = dice.below(2 * drift_ppm as usize + 1) as i64 - i64::from(drift_ppm);
        let wrong_ms = if drift_ppm > 0 { dice.below(4000) as i64 - 2000 } else { 0 };
        Clock { started_ms: dice.below(100_000) as u64, ppm, wall_ms: WALL_MS + wrong_ms }
    }

    /// The clock that never jumps, at this moment of real time.
    pub fn now_ms(&self, now_us: u64) -> u64 {
        let ran_us = now_us as i64 + now_us as i64 * self.ppm / 1_000_000;
        self.started_ms + ran_us as u64 / 1000
    }

    pub fn wall_ms(&self, now_us: u64) -> i64 {
        self.wall_ms + self.now_ms(now_us) as i64
    }

    pub fn step(&mut self, by_ms: i64) {
        self.wall_ms += by_ms;
    }
}

/// See the module heading.
pub struct Machine {
    pub disk: SimDisk,
    pub clock: Clock,
    pub process: Option<Process>,
    pub paused_until_us: u64,
    pub slow_factor: u64,
    pub slow_until_us: u64,
    pub full_until_us: u64,
    pub fail_next_write: bool,
    pub fail_next_job: bool,
    /// This one of the reads of the next start fails.
    pub fail_read: Option<u64>,
    /// Something on the disk is not what was written: the next start may refuse it.
    pub damaged: bool,
    pub job_running: bool,
    pub next_incarnation: u64,
    /// The name of its process in origins.
    pub run: u32,
    pub formats: u64,
}

impl Machine {
    pub fn new(disk: SimDisk, drift_ppm: u32, dice: &mut Dice) -> Machine {
        Machine {
            disk,
            clock: Clock::roll(drift_ppm, dice),
            process: None,
            paused_until_us: 0,
            slow_factor: 1,
            slow_until_us: 0,
            full_until_us: 0,
            fail_next_write: false,
            fail_next_job: false,
            fail_read: None,
            damaged: false,
            job_running: false,
            next_incarnation: 1,
            run: 0,
            formats: 0,
        }
    }
}
