//! Plans that are kept as files: each once showed a bug, or shows a known one when it is brought back. They are replayed
//! by the tests. A changed server may draw other numbers, so what is kept is the plan, not its seed alone.
//! Refuses a file with anything in it that it does not know.

use super::plan::Plan;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Where they are, from the root of the repository.
pub const DIRECTORY: &str = "src/sim/regressions";

/// One file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Regression {
    /// What it showed.
    pub what: String,
    /// The known bug that it notices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mutant: Option<String>,
    pub plan: Plan,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadRegression {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: std::io::Error },
    #[error("{path} is no plan: {why}")]
    Text { path: PathBuf, why: String },
}

impl Regression {
    pub fn read(path: &Path) -> Result<Regression, BadRegression> {
        let text = std::fs::read_to_string(path).map_err(|error| BadRegression::Io { path: path.into(), error })?;
        toml::from_str(&text).map_err(|error| BadRegression::Text { path: path.into(), why: error.to_string() })
    }

    pub fn write(&self, path: &Path) -> Result<(), BadRegression> {
        let text = toml::to_string(self).map_err(|error| BadRegression::Text { path: path.into(), why: error.to_string() })?;
        std::fs::write(path, text).map_err(|error| BadRegression::Io { path: path.into(), error })
    }
}

/// All files of a directory, by name.
pub fn all(directory: &Path) -> Result<Vec<(String, Regression)>, BadRegression> {
    let bad = |error| BadRegression::Io { path: directory.into(), error };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(bad)? {
        paths.push(entry.map_err(bad)?.path());
    }
    paths.sort();
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    paths.iter().map(|path| Ok((name(path), Regression::read(path)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::world;

    #[test]
    fn what_was_mended_stays_so() {
        let kept = all(&Path::new(env!("CARGO_MANIFEST_DIR")).join(DIRECTORY)).unwrap();
        assert!(!kept.is_empty());
        for (name, Regression { plan, .. }) in kept {
            println!("{name}");
            world::run(plan);
        }
    }
}
