//! The secret that the servers of an ensemble share. Refuses one that anybody could guess or read, and is never shown.

use super::error::{ConfigError, Place};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What cannot be guessed: 32 bytes.
const BYTES_MIN: usize = 32;
/// More is another file.
const BYTES_MAX: usize = 4096;
/// Permissions of everybody who is neither owner nor group.
const OTHERS: u32 = 0o007;

/// A shared secret; the line end behind it is not part of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads `file`, which was named at `named_at`.
    pub(super) fn read(file: &Path, named_at: &Place) -> Result<Secret, ConfigError> {
        let unreadable = |error| ConfigError::Unreadable { file: file.to_owned(), error };
        let refuse = |what: String| {
            Err(ConfigError::Refused { place: named_at.clone(), what: format!("the secret of the ensemble, {}, {what}", file.display()) })
        };
        let about = std::fs::metadata(file).map_err(unreadable)?;
        if !about.is_file() {
            return refuse("is not a file".into());
        }
        if about.permissions().mode() & OTHERS != 0 {
            return refuse(format!("can be read or changed by everybody: `chmod o= {}`", file.display()));
        }
        if about.len() > BYTES_MAX as u64 {
            return refuse(format!("is longer than {BYTES_MAX} bytes"));
        }
        let mut bytes = std::fs::read(file).map_err(unreadable)?;
        while bytes.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
            bytes.pop();
        }
        if bytes.len() < BYTES_MIN {
            let remedy = format!("`(umask 077; head -c 32 /dev/urandom | base64 > {})`, the same file on every server", file.display());
            return refuse(format!("has {} bytes, at least {BYTES_MIN} are needed: {remedy}", bytes.len()));
        }
        Ok(Secret(bytes))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(not shown)")
    }
}
