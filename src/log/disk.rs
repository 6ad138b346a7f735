//! The files of one server as start-up and background jobs see them: a flat set of names, read and written at offsets.
//! Two implementors: `runtime::files::FileDisk` (real directories) and `sim::disk::SimDisk` (loses what was not synced).
//! Knows nothing of what is inside a file. Refuses renames: no format here needs one.

use std::fmt;

/// An operating system error number. Everything a disk can say is one of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub i32);

impl Errno {
    pub const EIO: Errno = Errno(5);
    pub const ENOSPC: Errno = Errno(28);
    pub const EDQUOT: Errno = Errno(122);

    /// Whether room is what is missing: the only error that goes away by itself.
    pub fn is_full(self) -> bool {
        self == Errno::ENOSPC || self == Errno::EDQUOT
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl std::error::Error for Errno {}

/// Synchronous access to the data files. Offsets, lengths and buffers for `superblock` and `log.*` are whole blocks
/// (`limits::BLOCK_BYTES`), because those files may be open with O_DIRECT; `snapshot.*` has no such rule.
pub trait Disk {
    type File;

    /// All names, in order.
    fn list(&self) -> Result<Vec<String>, Errno>;
    /// None if there is no such file.
    fn open(&self, name: &str) -> Result<Option<Self::File>, Errno>;
    /// A new empty file. A file that had the name is removed first.
    fn create(&self, name: &str) -> Result<Self::File, Errno>;
    fn len(&self, file: &Self::File) -> Result<u64, Errno>;
    /// Makes the file `bytes` long; new bytes read as zero. Whether room is reserved depends on the disk.
    fn allocate(&self, file: &Self::File, bytes: u64) -> Result<(), Errno>;
    /// Fills `buf` or fails; reading past the end is EIO.
    fn read_at(&self, file: &Self::File, offset: u64, buf: &mut [u8]) -> Result<(), Errno>;
    /// Writes all of `buf` or fails. Volatile until [`Disk::sync`].
    fn write_at(&self, file: &Self::File, offset: u64, buf: &[u8]) -> Result<(), Errno>;
    /// Data, and the length needed to read it, are on the medium when this returns. Never to be retried after an error.
    fn sync(&self, file: &Self::File) -> Result<(), Errno>;
    /// What is read next comes from the medium, not from a cache. Call after [`Disk::sync`].
    fn forget_cache(&self, file: &Self::File) -> Result<(), Errno>;
    /// Names created and removed so far are on the medium when this returns.
    fn sync_names(&self) -> Result<(), Errno>;
    fn remove(&self, name: &str) -> Result<(), Errno>;
    /// The file as a person would name it.
    fn path(&self, name: &str) -> String;
    /// The data directory as a person would name it.
    fn directory(&self) -> String;
}
