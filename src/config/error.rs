//! What can be wrong with settings: one line each, naming where it stands and what would be right.
//! Refuses to carry on: there is no severity, every one of these stops the start.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a setting was given: a line of a file, or a flag.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    Line { file: PathBuf, line: usize },
    Flag(&'static str),
}

impl Place {
    pub(super) fn line(file: &Path, line: usize) -> Place {
        Place::Line { file: file.to_owned(), line }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line { file, line } => write!(f, "{}:{line}", file.display()),
            Place::Flag(name) => write!(f, "{name}"),
        }
    }
}

/// Why there is no configuration. `Display` is a single line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: cannot be read: {error}", file.display())]
    Unreadable { file: PathBuf, error: std::io::Error },
    #[error("{place}: {what}")]
    Syntax { place: Place, what: String },
    #[error("{place}: unknown key {key:?}{}", nearest.map(|n| format!(", did you mean {n:?}?")).unwrap_or_default())]
    Unknown { place: Place, key: String, nearest: Option<&'static str> },
    #[error("{place}: {key}: bad value {value:?}, allowed: {allowed}")]
    BadValue { place: Place, key: String, value: String, allowed: String },
    /// Two settings contradict each other, or one that is needed is missing.
    #[error("{0}")]
    Relation(String),
    #[error("{place}: {what}")]
    Refused { place: Place, what: String },
    #[error("--profile: {name:?} is neither a profile ({known}) nor a file")]
    NoProfile { name: String, known: String },
}
