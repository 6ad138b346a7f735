//! Makes an empty data directory. The superblock comes last: without it, and without traces of use, formatting did not
//! finish and may begin again. Refuses to touch a directory that holds data, or files that are somebody else's.

use super::disk::{Disk, Errno};
use super::recovery::{RecoveryError, io, read_superblock};
use super::segment::{self, SEGMENT_BYTES_MIN, file_name, slot_of};
use super::snapshot;
use super::superblock::{self, Superblock};
use crate::limits::BLOCK_BYTES;

/// Segments that exist before the first start may serve.
pub const SLOTS_AT_FORMAT: u32 = 2;

/// Present from the first step of formatting on, so that an interrupted format can be told from somebody else's files.
const FORMAT_MARKER: &str = "formatting";

/// Identity and geometry of a new data directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Format {
    pub cluster: u128,
    pub server: u64,
    pub incarnation: u128,
    /// Size of a segment, whole blocks. At least [`SEGMENT_BYTES_MIN`]; a server uses `segment::SEGMENT_BYTES_SERVING_MIN`
    /// or more, so that the largest transaction fits.
    pub segment_bytes: u64,
    /// Whether it counts from the beginning: a server that stands alone, or one of a new ensemble. See `Promise::member`.
    pub member: bool,
}

/// Makes an empty data directory. Refuses one that holds data.
pub fn format<D: Disk>(disk: &D, format: &Format) -> Result<(), RecoveryError> {
    let whole = format.segment_bytes.is_multiple_of(BLOCK_BYTES as u64);
    assert!(whole && (SEGMENT_BYTES_MIN..=1 << 31).contains(&format.segment_bytes), "config checks the segment size");
    match read_superblock(disk) {
        Err(RecoveryError::Unformatted { .. }) => {}
        Err(other) => return Err(other),
        Ok(_) => return Err(RecoveryError::Formatted { directory: disk.directory() }),
    }
    refuse_foreign_files(disk)?;
    claim_names(disk).map_err(|e| io(disk, FORMAT_MARKER, 0, e))?;
    for slot in 0..SLOTS_AT_FORMAT {
        segment::prepare(disk, slot, format.segment_bytes).map_err(|e| io(disk, &file_name(slot), 0, e))?;
    }
    let first = Superblock {
        sequence: 1,
        parent: 0,
        cluster: format.cluster,
        server: format.server,
        incarnation: format.incarnation,
        promised_epoch: 0,
        promised_to: 0,
        member: format.member,
        log_floor: 0,
        boot: 0,
        segment_bytes: format.segment_bytes,
        slots: SLOTS_AT_FORMAT,
        snapshot: None,
    };
    first.create(disk).map_err(|e| io(disk, superblock::FILE_NAME, 0, e))?;
    disk.remove(FORMAT_MARKER).map_err(|e| io(disk, FORMAT_MARKER, 0, e))
}

/// Files under our names without a superblock are what an interrupted format left, or somebody's: those are not overwritten.
fn claim_names<D: Disk>(disk: &D) -> Result<(), Errno> {
    if disk.open(FORMAT_MARKER)?.is_none() {
        disk.create(FORMAT_MARKER)?;
    }
    disk.sync_names()
}

fn refuse_foreign_files<D: Disk>(disk: &D) -> Result<(), RecoveryError> {
    let names = disk.list().map_err(|e| io(disk, "", 0, e))?;
    if names.iter().any(|name| name == FORMAT_MARKER) {
        return Ok(());
    }
    match names.iter().find(|name| slot_of(name).is_some() || snapshot::zxid_of(name).is_some()) {
        Some(name) => Err(RecoveryError::Foreign { path: disk.path(name), what: "something else: there is no superblock beside it" }),
        None => Ok(()),
    }
}
