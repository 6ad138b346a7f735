//! A line per second while a run goes on, on standard error if that is a terminal. Refuses to write where a program reads.

use crate::conductor::Row;
use crate::report::{si, us_text};
use std::io::{IsTerminal, Write};

/// The live line.
pub struct Live {
    shown: bool,
    any: bool,
}

impl Live {
    /// `wanted`: nobody has asked for silence.
    pub fn new(wanted: bool) -> Live {
        Live { shown: wanted && std::io::stderr().is_terminal(), any: false }
    }

    /// Shows what one of several runs gave.
    pub fn note(&self, text: &str) {
        if self.shown {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Shows a second that has passed.
    pub fn row(&mut self, row: &Row) {
        if !self.shown {
            return;
        }
        self.any = true;
        let (p50, p99, max) = (us_text(row.p50_us), us_text(row.p99_us), us_text(row.max_us));
        let mut line = format!("{:4} s  {:>8} ops/s  p50 {p50:>8}  p99 {p99:>8}  max {max:>8}", row.second + 1, si(row.ops as f64));
        if row.wrong + row.disconnects > 0 {
            line += &format!("  {} wrong, {} connections lost", row.wrong, row.disconnects);
        }
        // Whoever closed the terminal does not want the line.
        let _ = writeln!(std::io::stderr(), "{line}");
    }

    /// Sets the report apart from what was shown.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.any) {
            eprintln!();
        }
    }
}
