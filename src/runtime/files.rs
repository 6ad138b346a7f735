//! The data files in real directories. Segments are opened with O_DIRECT where the file system takes it, everything else
//! goes through the page cache; what counts is synced either way. One process per directory: a lock file says whose it is.
//! Directories are made with mode 0700 and files with 0600: they hold every password and every secret of the clients.
//! Refuses to know what is in the files.

use crate::log::disk::{Disk, Errno};
use crate::log::segment;
use crate::wire::aligned::AlignedBuf;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const LOCK: &str = "lock";
const PROBE: &str = "probe";

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{} is in use by process {pid}", path.display())]
    Busy { path: PathBuf, pid: String },
}

/// The data directory, and the directory of the log if that is another one. Locked as long as this lives.
pub struct FileDisk {
    data_dir: PathBuf,
    log_dir: PathBuf,
    direct: bool,
    _locks: Vec<File>,
}

/// An open data file.
pub struct DataFile(File);

impl FileDisk {
    /// Makes the directories if need be, takes their locks and finds out whether O_DIRECT works in `log_dir`.
    pub fn open(data_dir: &Path, log_dir: &Path) -> Result<FileDisk, FilesError> {
        for dir in [data_dir, log_dir] {
            DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| at(dir, error))?;
        }
        FileDisk::open_existing(data_dir, log_dir)
    }

    /// As [`FileDisk::open`], but refuses directories that do not exist.
    pub fn open_existing(data_dir: &Path, log_dir: &Path) -> Result<FileDisk, FilesError> {
        let data_dir = data_dir.canonicalize().map_err(|error| at(data_dir, error))?;
        let log_dir = log_dir.canonicalize().map_err(|error| at(log_dir, error))?;
        let mut locks = vec![lock(&data_dir)?];
        if log_dir != data_dir {
            locks.push(lock(&log_dir)?);
        }
        let direct = probe_direct(&log_dir)?;
        Ok(FileDisk { data_dir, log_dir, direct, _locks: locks })
    }

    /// The file of a slot, for the loop that writes frames. Without O_DSYNC: the loop asks for it with each write.
    pub fn segment(&self, slot: u32) -> Result<File, Errno> {
        self.options().open(self.full_path(&segment::file_name(slot))).map_err(errno)
    }

    fn full_path(&self, name: &str) -> PathBuf {
        if segment::slot_of(name).is_some() { self.log_dir.join(name) } else { self.data_dir.join(name) }
    }

    fn options(&self) -> OpenOptions {
        let mut options = private();
        if self.direct {
            options.custom_flags(libc::O_DIRECT);
        }
        options
    }

    fn options_for(&self, name: &str) -> OpenOptions {
        if segment::slot_of(name).is_some() { self.options() } else { private() }
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

fn at(path: &Path, error: io::Error) -> FilesError {
    FilesError::Io { path: path.to_path_buf(), error }
}

fn errno(error: io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno)
}

fn lock(dir: &Path) -> Result<File, FilesError> {
    let path = dir.join(LOCK);
    let mut file = private().create(true).truncate(false).open(&path).map_err(|error| at(&path, error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::Error(error)) => return Err(at(&path, error)),
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(|error| at(&path, error))?;
            return Err(FilesError::Busy { path: dir.to_path_buf(), pid: pid.trim().to_string() });
        }
    }
    let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(|error| at(&path, error))?;
    Ok(file)
}

/// Some file systems refuse O_DIRECT when the file is opened, some when it is used.
fn probe_direct(dir: &Path) -> Result<bool, FilesError> {
    let path = dir.join(PROBE);
    let mut block = AlignedBuf::with_capacity(crate::limits::BLOCK_BYTES);
    let mut options = private();
    let attempt = options.create(true).truncate(true).custom_flags(libc::O_DIRECT).open(&path).and_then(|file| {
        file.write_all_at(&block, 0)?;
        file.read_exact_at(&mut block, 0)
    });
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(at(&path, error)),
        _ => {}
    }
    match attempt {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => Ok(false),
        // A full disk is no reason not to start: the real files are there already.
        Err(error) if error.raw_os_error().is_some_and(|code| Errno(code).is_full()) => Ok(false),
        Err(error) => Err(at(&path, error)),
    }
}

impl Disk for FileDisk {
    type File = DataFile;

    fn list(&self) -> Result<Vec<String>, Errno> {
        let mut names = Vec::new();
        for (dir, is_log) in [(&self.data_dir, false), (&self.log_dir, true)] {
            for entry in std::fs::read_dir(dir).map_err(errno)? {
                let Ok(name) = entry.map_err(errno)?.file_name().into_string() else { continue };
                let ours = segment::slot_of(&name).is_some() == is_log && name != LOCK && name != PROBE;
                names.extend(ours.then_some(name));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn open(&self, name: &str) -> Result<Option<DataFile>, Errno> {
        match self.options_for(name).open(self.full_path(name)) {
            Ok(file) => Ok(Some(DataFile(file))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(errno(error)),
        }
    }

    fn create(&self, name: &str) -> Result<DataFile, Errno> {
        self.remove(name)?;
        self.options_for(name).create_new(true).open(self.full_path(name)).map(DataFile).map_err(errno)
    }

    fn len(&self, file: &DataFile) -> Result<u64, Errno> {
        file.0.metadata().map(|metadata| metadata.len()).map_err(errno)
    }

    fn allocate(&self, file: &DataFile, bytes: u64) -> Result<(), Errno> {
        file.0.set_len(bytes).map_err(errno)
    }

    fn read_at(&self, file: &DataFile, offset: u64, buf: &mut [u8]) -> Result<(), Errno> {
        file.0.read_exact_at(buf, offset).map_err(errno)
    }

    fn write_at(&self, file: &DataFile, offset: u64, buf: &[u8]) -> Result<(), Errno> {
        file.0.write_all_at(buf, offset).map_err(errno)
    }

    fn sync(&self, file: &DataFile) -> Result<(), Errno> {
        file.0.sync_data().map_err(errno)
    }

    fn forget_cache(&self, file: &DataFile) -> Result<(), Errno> {
        super::sys::drop_page_cache(&file.0).map_err(errno)
    }

    fn sync_names(&self) -> Result<(), Errno> {
        for dir in [&self.data_dir, &self.log_dir] {
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(errno)?;
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), Errno> {
        match std::fs::remove_file(self.full_path(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(errno(error)),
            _ => Ok(()),
        }
    }

    fn path(&self, name: &str) -> String {
        self.full_path(name).display().to_string()
    }

    fn directory(&self) -> String {
        self.data_dir.display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::recovery::{self, Format};
    use crate::log::tests::world::{self, Model, Server, start};
    use crate::log::{Effect, Journal, LogConfig};
    use std::os::unix::fs::PermissionsExt;

    /// Several lives of a server on real files, log and data apart.
    fn live(root: &Path) {
        let (data, log) = (root.join("data"), root.join("log"));
        let mut model = Model::default();
        for life in 1..4 {
            let disk = FileDisk::open(&data, &log).unwrap();
            Server::run(&disk, &mut model, life, 120).unwrap();
        }
        let disk = FileDisk::open_existing(&data, &log).unwrap();
        let found = start(&disk, &mut model).unwrap();
        assert_eq!(model.check(&disk, &found), model.history.len());
        assert_eq!(found.superblock.boot, 4);
        assert!(log.join("log.0000").exists() && data.join("superblock").exists());
        for name in disk.list().unwrap() {
            let mode = std::fs::metadata(disk.path(&name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        assert_eq!(std::fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_server_lives_on_a_real_disk() {
        live(tempfile::tempdir().unwrap().path());
        // On a disk even where the temporary directory is in memory.
        if let Ok(dir) = tempfile::tempdir_in("/var/tmp") {
            live(dir.path());
        }
    }

    #[test]
    fn a_server_lives_in_memory() {
        let Ok(dir) = tempfile::tempdir_in("/dev/shm") else { return };
        live(dir.path());
    }

    #[test]
    fn a_server_lives_without_o_direct() {
        let dir = tempfile::tempdir().unwrap();
        let mut model = Model::default();
        for life in 1..3 {
            let mut disk = FileDisk::open(dir.path(), dir.path()).unwrap();
            disk.direct = false;
            Server::run(&disk, &mut model, life, 120).unwrap();
        }
    }

    #[test]
    fn a_second_process_is_told_who_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let _first = FileDisk::open(dir.path(), dir.path()).unwrap();
        let second = FileDisk::open(dir.path(), dir.path()).err().unwrap().to_string();
        assert!(second.ends_with(&format!("is in use by process {}", std::process::id())), "{second}");
    }

    #[test]
    fn a_directory_that_must_exist_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("none");
        assert!(FileDisk::open_existing(&missing, &missing).is_err());
        assert!(!missing.exists());
    }

    /// `cargo test --release --lib replay_speed -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement"]
    fn replay_speed() {
        const BATCHES: u64 = 2_000;
        const TXNS: u64 = 500;
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let disk = FileDisk::open(dir.path(), dir.path()).unwrap();
        recovery::format(&disk, &Format { segment_bytes: 64 << 20, ..world::FORMAT }).unwrap();
        let found = recovery::open(&disk).unwrap();
        let mut journal = Journal::new(&found, LogConfig::default(), 1);
        let (mut effects, mut after) = (Vec::new(), found.tail);
        journal.tick(0, &mut effects);
        for epoch in 1..=BATCHES {
            let batch = world::batch_of(after, epoch << 32, &[64; TXNS as usize]);
            after = batch.position();
            journal.append(batch, &mut effects);
            while let Some(effect) = effects.pop() {
                match effect {
                    Effect::Write { op, slot, offset, frame } => {
                        DataFile(disk.segment(slot).unwrap()).0.write_all_at(frame.bytes(), offset).unwrap();
                        journal.written(op, Ok(()), 0, &mut effects);
                    }
                    Effect::Background(job) => journal.background_done(job.run(&disk), 0, &mut effects),
                    Effect::Durable(_) | Effect::Promised(_) | Effect::Installed(_) => {}
                    Effect::Fatal(failure) => panic!("{failure}"),
                }
            }
        }
        let start = std::time::Instant::now();
        let found = recovery::open(&disk).unwrap();
        let opened = start.elapsed();
        let mut txns = 0;
        found.replay(&disk, found.tail.zxid, |batch| txns += batch.txns().len() as u64, |_, _| ()).unwrap();
        assert_eq!(txns, BATCHES * TXNS);
        println!("{txns} transactions, {} bytes: open {opened:?}, replay {:?}", found.bytes_to_load(), start.elapsed() - opened);
    }
}
