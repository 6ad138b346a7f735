//! A snapshot on its way in from another server: written under its final name, piece after piece, and verified as a whole.
//! What counts is the superblock: until `Journal::install` has named it the file is garbage, which the next start removes.
//! Refuses to become anything but the snapshot that was announced.

use super::disk::{Disk, Errno};
use super::snapshot::{BadSnapshot, SnapshotPointer, read};

/// At most that many bytes are dirty before a sync.
const SYNC_BYTES: u64 = 16 << 20;

/// For the background thread. It can be kept while the link is down and goes on where it was. Dropped unfinished it leaves
/// a file that counts for nothing; [`IncomingSnapshot::abandon`] removes it.
pub struct IncomingSnapshot<'d, D: Disk> {
    disk: &'d D,
    file: D::File,
    cluster: u128,
    pointer: SnapshotPointer,
    received: u64,
    synced: u64,
}

impl<'d, D: Disk> IncomingSnapshot<'d, D> {
    /// Starts the file; one of the same name is replaced. Only when `Journal::receivable` allows it.
    pub fn create(disk: &'d D, cluster: u128, pointer: SnapshotPointer) -> Result<IncomingSnapshot<'d, D>, Errno> {
        let file = disk.create(&pointer.file_name())?;
        Ok(IncomingSnapshot { disk, file, cluster, pointer, received: 0, synced: 0 })
    }

    /// The snapshot that was announced.
    pub fn pointer(&self) -> SnapshotPointer {
        self.pointer
    }

    /// Bytes that are there: the offset at which the sender is to go on.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The next piece. One that does not go on where the last one ended, or is too long, changes nothing and is
    /// [`BadSnapshot::Misplaced`].
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), BadSnapshot> {
        if offset != self.received || bytes.len() as u64 > self.pointer.bytes - self.received {
            return Err(BadSnapshot::Misplaced(self.received));
        }
        self.disk.write_at(&self.file, offset, bytes)?;
        self.received += bytes.len() as u64;
        if self.received - self.synced >= SYNC_BYTES {
            self.disk.sync(&self.file)?;
            self.synced = self.received;
        }
        Ok(())
    }

    /// Syncs file and name and reads everything back. Ok: it is the snapshot that was announced, and the Journal may be
    /// told. Otherwise the file is removed; only [`BadSnapshot::Io`] says that the disk is to blame.
    pub fn finish(self) -> Result<SnapshotPointer, BadSnapshot> {
        let checked = self.check();
        match checked {
            Ok(()) => Ok(self.pointer),
            // A failing disk ends the process: nothing more is asked of it.
            Err(BadSnapshot::Io(errno)) if !errno.is_full() => Err(BadSnapshot::Io(errno)),
            Err(bad) => {
                self.abandon()?;
                Err(bad)
            }
        }
    }

    fn check(&self) -> Result<(), BadSnapshot> {
        self.disk.sync(&self.file)?;
        self.disk.sync_names()?;
        let found = read(self.disk, &self.pointer.file_name(), self.cluster, |_| (), |_| ())?;
        if found == self.pointer { Ok(()) } else { Err(BadSnapshot::Other) }
    }

    /// Removes what was written so far.
    pub fn abandon(self) -> Result<(), Errno> {
        self.disk.remove(&self.pointer.file_name())?;
        self.disk.sync_names()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::outgoing::OutgoingSnapshots;
    use crate::log::snapshot::SnapshotFile;
    use crate::sim::disk::SimDisk;
    use crate::wire::batch::Position;

    fn sender() -> (SimDisk, SnapshotPointer) {
        let disk = SimDisk::new(1);
        let mut file = SnapshotFile::create(&disk, 5, Position { zxid: 0x1_0000_0007, chain: 9 }).unwrap();
        (0..50).for_each(|i| file.push(&vec![i; 1000 * usize::from(i)]).unwrap());
        let pointer = file.finish().unwrap();
        (disk, pointer)
    }

    /// Sends everything from `offset` on in pieces; returns how many there were.
    fn send(from: &SimDisk, pointer: &SnapshotPointer, to: &mut IncomingSnapshot<'_, SimDisk>, pieces: u64) {
        let (mut outgoing, mut buf) = (OutgoingSnapshots::default(), vec![0; 70_000]);
        for _ in 0..pieces {
            let len = outgoing.read(from, 5, 2, pointer, to.received(), &mut buf).unwrap();
            to.write(to.received(), &buf[..len]).unwrap();
        }
    }

    #[test]
    fn what_was_announced_arrives() {
        let ((from, pointer), disk) = (sender(), SimDisk::new(2));
        let mut incoming = IncomingSnapshot::create(&disk, 5, pointer).unwrap();
        send(&from, &pointer, &mut incoming, 3);
        let received = incoming.received();
        assert_eq!(incoming.write(received - 1, b"x"), Err(BadSnapshot::Misplaced(received)));
        assert_eq!(incoming.write(received + 1, b"x"), Err(BadSnapshot::Misplaced(received)));
        send(&from, &pointer, &mut incoming, pointer.bytes.div_ceil(70_000) - 3);
        assert_eq!(incoming.received(), pointer.bytes);
        assert_eq!(incoming.write(pointer.bytes, b"x"), Err(BadSnapshot::Misplaced(pointer.bytes)));
        assert_eq!(incoming.finish(), Ok(pointer));
        disk.power_on_worst();
        assert_eq!(read(&disk, &pointer.file_name(), 5, |_| (), |_| ()), Ok(pointer));
    }

    #[test]
    fn anything_else_is_refused_and_removed() {
        let (from, pointer) = sender();
        for (what, announced) in [
            ("digest", SnapshotPointer { digest: pointer.digest ^ 1, ..pointer }),
            ("chain", SnapshotPointer { position: Position { chain: 8, ..pointer.position }, ..pointer }),
            ("zxid", SnapshotPointer { position: Position { zxid: 9, ..pointer.position }, ..pointer }),
            ("length", SnapshotPointer { bytes: pointer.bytes + 1, ..pointer }),
        ] {
            let disk = SimDisk::new(2);
            let mut incoming = IncomingSnapshot::create(&disk, 5, announced).unwrap();
            send(&from, &pointer, &mut incoming, pointer.bytes.div_ceil(70_000));
            assert!(matches!(incoming.finish(), Err(bad) if !matches!(bad, BadSnapshot::Io(_))), "{what}");
            assert!(disk.open(&announced.file_name()).unwrap().is_none(), "{what}");
        }
        let disk = SimDisk::new(2);
        let mut incoming = IncomingSnapshot::create(&disk, 5, pointer).unwrap();
        send(&from, &pointer, &mut incoming, 3);
        assert!(incoming.finish().is_err(), "a part of it");
        let mut incoming = IncomingSnapshot::create(&disk, 6, pointer).unwrap();
        send(&from, &pointer, &mut incoming, pointer.bytes.div_ceil(70_000));
        assert_eq!(incoming.finish(), Err(BadSnapshot::Header), "another ensemble's");
    }
}
