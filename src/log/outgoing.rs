//! Snapshots on their way out to other servers: read piece by piece, and checked as they pass. The last byte of a damaged
//! chunk never leaves, so that no peer gets a whole file of which a part is not what was written: who receives it would
//! find that out at the end, ask again, and be sent the same.
//! Refuses to mend anything: what is damaged here may be needed by the next start, which decides.

use super::disk::{Disk, Errno};
use super::snapshot::{BadSnapshot, Checker, SnapshotPointer};
use std::collections::BTreeMap;

/// For the background thread: what each peer fetches, and how far it has come.
#[derive(Default)]
pub struct OutgoingSnapshots {
    peers: BTreeMap<u16, Outgoing>,
}

struct Outgoing {
    pointer: SnapshotPointer,
    /// Everything before the next piece has passed it.
    checker: Checker,
    /// As it was before the last piece, which may be asked for again.
    before: Checker,
}

impl OutgoingSnapshots {
    /// Fills `buf` with the bytes of our snapshot from `offset` on; returns how many there were, 0 at the end.
    /// [`BadSnapshot::Missing`]: a newer one has replaced it. Any other error: this disk cannot be relied on.
    pub fn read<D: Disk>(
        &mut self,
        disk: &D,
        cluster: u128,
        peer: u16,
        pointer: &SnapshotPointer,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<usize, BadSnapshot> {
        let file = disk.open(&pointer.file_name())?.ok_or(BadSnapshot::Missing)?;
        if disk.len(&file)? != pointer.bytes {
            return Err(BadSnapshot::Other);
        }
        let fresh = Checker::new(cluster, *pointer)?;
        let new = || Outgoing { pointer: *pointer, checker: fresh.clone(), before: fresh.clone() };
        let outgoing = self.peers.entry(peer).or_insert_with(new);
        if outgoing.pointer != *pointer {
            *outgoing = new();
        }
        let read = |at: u64, buf: &mut [u8]| {
            let len = pointer.bytes.saturating_sub(at).min(buf.len() as u64) as usize;
            if len > 0 { disk.read_at(&file, at, &mut buf[..len]).map(|()| len) } else { Ok(0) }
        };
        outgoing.go_to(offset.min(pointer.bytes), fresh, buf, read)?;
        let len = read(offset, buf)?;
        outgoing.checker.pass(&buf[..len]).inspect_err(|_| crate::mark!("a snapshot turns out to be damaged while it is sent"))?;
        if outgoing.checker.passed() == pointer.bytes {
            self.peers.remove(&peer);
        }
        Ok(len)
    }
}

impl Outgoing {
    /// Gets the checker to `offset`: by reading everything before it again, if it has been elsewhere.
    fn go_to(
        &mut self,
        offset: u64,
        fresh: Checker,
        buf: &mut [u8],
        read: impl Fn(u64, &mut [u8]) -> Result<usize, Errno>,
    ) -> Result<(), BadSnapshot> {
        if self.checker.passed() != offset {
            self.checker = if self.before.passed() == offset { self.before.clone() } else { fresh };
        }
        while self.checker.passed() < offset {
            let most = (offset - self.checker.passed()).min(buf.len() as u64) as usize;
            let len = read(self.checker.passed(), &mut buf[..most])?;
            self.checker.pass(&buf[..len])?;
        }
        self.before = self.checker.clone();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::snapshot::SnapshotFile;
    use crate::sim::disk::SimDisk;
    use crate::wire::batch::Position;

    const CLUSTER: u128 = 5;

    fn disk() -> (SimDisk, SnapshotPointer) {
        let disk = SimDisk::new(1);
        let mut file = SnapshotFile::create(&disk, CLUSTER, Position { zxid: 0x1_0000_0007, chain: 9 }).unwrap();
        for chunk in [&b"one"[..], b"", &[3; 500], b"four"] {
            file.push(chunk).unwrap();
        }
        let pointer = file.finish().unwrap();
        (disk, pointer)
    }

    /// What a peer gets that asks for pieces of this size.
    fn fetch(disk: &SimDisk, pointer: &SnapshotPointer, piece: usize) -> Result<Vec<u8>, BadSnapshot> {
        let (mut outgoing, mut got, mut buf) = (OutgoingSnapshots::default(), Vec::new(), vec![0; piece]);
        while (got.len() as u64) < pointer.bytes {
            let len = outgoing.read(disk, CLUSTER, 2, pointer, got.len() as u64, &mut buf)?;
            got.extend_from_slice(&buf[..len]);
        }
        assert!(outgoing.peers.is_empty(), "nothing is kept of what is done");
        Ok(got)
    }

    #[test]
    fn pieces_of_any_size_make_the_file() {
        let (disk, pointer) = disk();
        for piece in [1, 7, 64, 80, 100, 4096] {
            assert_eq!(fetch(&disk, &pointer, piece), Ok(disk.contents(&pointer.file_name())));
        }
    }

    #[test]
    fn no_damaged_file_is_ever_sent_whole() {
        let (disk, pointer) = disk();
        for at in 0..pointer.bytes {
            for piece in [33, 4096] {
                let copy = disk.fork();
                copy.flip(&pointer.file_name(), at, 1 << (at % 8));
                assert!(fetch(&copy, &pointer, piece).is_err(), "byte {at}");
            }
        }
        disk.cut(&pointer.file_name(), pointer.bytes - 1);
        assert_eq!(fetch(&disk, &pointer, 64), Err(BadSnapshot::Other));
    }

    #[test]
    fn another_snapshot_of_the_same_name_is_not_sent() {
        let (disk, pointer) = disk();
        assert_eq!(fetch(&disk, &SnapshotPointer { digest: 1, ..pointer }, 64), Err(BadSnapshot::Other));
        let elsewhere = Position { chain: 8, ..pointer.position };
        assert_eq!(fetch(&disk, &SnapshotPointer { position: elsewhere, ..pointer }, 64), Err(BadSnapshot::Other));
        disk.remove(&pointer.file_name()).unwrap();
        assert_eq!(fetch(&disk, &pointer, 64), Err(BadSnapshot::Missing));
    }

    #[test]
    fn peers_fetch_beside_each_other_and_go_on_where_they_were() {
        let (disk, pointer) = disk();
        let file = disk.contents(&pointer.file_name());
        let (mut outgoing, mut buf) = (OutgoingSnapshots::default(), vec![0; 90]);
        // Again, back, on, and far ahead, as after a new connection or of another sender's pieces.
        for (peer, offset) in [(2, 0), (2, 0), (3, 0), (2, 90), (3, 90), (2, 90), (2, 30), (3, 400), (4, 77), (2, 120)] {
            let len = outgoing.read(&disk, CLUSTER, peer, &pointer, offset, &mut buf).unwrap();
            assert_eq!(buf[..len], file[offset as usize..][..90], "peer {peer} from {offset}");
        }
        assert_eq!(outgoing.read(&disk, CLUSTER, 2, &pointer, pointer.bytes - 4, &mut buf), Ok(4));
        assert_eq!(outgoing.read(&disk, CLUSTER, 2, &pointer, pointer.bytes, &mut buf), Ok(0));
        assert_eq!(outgoing.read(&disk, CLUSTER, 2, &pointer, pointer.bytes + 4, &mut buf), Ok(0));
        disk.flip(&pointer.file_name(), 70, 1);
        assert!(outgoing.read(&disk, CLUSTER, 5, &pointer, 300, &mut buf).is_err(), "what lies before was never checked for it");
    }
}
