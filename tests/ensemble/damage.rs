//! Data that rots under one server while the others run: what it does at its next start, row by row, and what its operator
//! does about it. docs/faults.md has the same table in words.
//! Refuses to damage more than one server at a time, but for the row in which all are.

use crate::load::Load;
use crate::process::ensemble::{Ensemble, Shape};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SESSIONS: usize = 6;
const PAUSE: Duration = Duration::from_millis(4);
const BETWEEN: u64 = 60;
/// So that there are several snapshots soon.
const SNAPSHOT_TXNS: u64 = 150;

const BLOCK: u64 = 4096;
const LOCAL_HEADER: u64 = 64;
/// Shorter files hold nothing that a test could damage.
const SHORTEST: u64 = 100;
const EXIT_DAMAGED: i32 = 3;

/// What becomes of a server with such damage.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It starts and is one of them again.
    Starts,
    /// It does not start and says this; its operator empties the directory.
    Refuses(&'static str),
}
use Then::{Refuses, Starts};

type How = fn(&mut Damage);

/// What is damaged, how, and what becomes of it.
const ROWS: &[(&str, How, Then)] = &[
    ("a bit of an old log entry", flip_in_log, Refuses("damaged at byte")),
    ("zeros for a log entry", zero_in_log, Refuses("damaged at byte")),
    ("a log entry at the place of another", misdirect_in_log, Refuses("damaged at byte")),
    ("a torn write at the end of the log", tear_tail, Starts),
    ("a log file that is gone", remove_log, Refuses("log.")),
    ("one copy of the superblock", |damage| superblock(damage, 1), Starts),
    ("three copies of the superblock", |damage| superblock(damage, 3), Starts),
    ("all copies of the superblock", |damage| superblock(damage, 4), Refuses("superblock")),
    ("the newest snapshot", |damage| snapshots(damage, 1), Starts),
    ("all snapshots", |damage| snapshots(damage, usize::MAX), Starts),
];

// ---- the log as it lies on the disk

/// Those of a kind, oldest first. One that was only just being made when the server was killed is none yet.
fn files(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a data directory").map(|entry| entry.expect("a data directory").path());
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    let begun = |path: &PathBuf| fs::metadata(path).is_ok_and(|file| file.len() > SHORTEST);
    let mut files: Vec<PathBuf> = entries.filter(named).filter(begun).collect();
    files.sort();
    files
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn number<const N: usize>(file: &File, at: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes[..N], at).expect("the file is long enough");
    u64::from_le_bytes(bytes)
}

/// The newest segment, where each of its frames with a batch begins, and where the last frame ends. docs/data-files.md has
/// the layout.
fn newest_segment(dir: &Path) -> (PathBuf, Vec<u64>, u64) {
    let newest = files(dir, "log.").into_iter().max_by_key(|path| number::<8>(&open(path), 40));
    let path = newest.expect("there is a log");
    let file = open(&path);
    let generation = number::<8>(&file, 40);
    let (mut frames, mut at) = (Vec::new(), BLOCK);
    while number::<4>(&file, at) == u64::from(u32::from_le_bytes(*b"FLOG")) && number::<8>(&file, at + 8) == generation {
        let batch = number::<4>(&file, at + 36);
        if batch > 0 {
            frames.push(at);
        }
        at += (LOCAL_HEADER + batch).next_multiple_of(BLOCK);
    }
    (path, frames, at)
}

/// An entry with others behind it, and the next but one.
fn middle_of_log(dir: &Path) -> (PathBuf, u64, u64) {
    let (path, frames, _) = newest_segment(dir);
    assert!(frames.len() > 8, "{} frames in the newest segment", frames.len());
    (path, frames[frames.len() / 2], frames[frames.len() / 2 + 2])
}

// ---- damage

/// What was there before.
struct Damage {
    dir: PathBuf,
    overwritten: Vec<(PathBuf, u64, Vec<u8>)>,
    removed: Option<PathBuf>,
}

impl Damage {
    fn to(dir: &Path, how: How) -> Damage {
        let mut damage = Damage { dir: dir.to_owned(), overwritten: Vec::new(), removed: None };
        how(&mut damage);
        damage
    }

    fn write(&mut self, path: &Path, at: u64, bytes: &[u8]) {
        let (file, mut before) = (open(path), vec![0; bytes.len()]);
        file.read_exact_at(&mut before, at).and_then(|()| file.write_all_at(bytes, at)).expect("the file is long enough");
        self.overwritten.push((path.to_owned(), at, before));
    }

    fn flip(&mut self, path: &Path, at: u64) {
        let byte = number::<1>(&open(path), at) as u8;
        self.write(path, at, &[byte ^ 0x10]);
    }

    fn put_back(self) {
        for (path, at, before) in self.overwritten {
            open(&path).write_all_at(&before, at).expect("it was written before");
        }
        if let Some(path) = self.removed {
            fs::rename(self.dir.with_extension("removed"), path).expect("it is in the next directory");
        }
    }
}

fn flip_in_log(damage: &mut Damage) {
    let (path, at, _) = middle_of_log(&damage.dir);
    damage.flip(&path, at + LOCAL_HEADER + 50);
}

fn zero_in_log(damage: &mut Damage) {
    let (path, at, _) = middle_of_log(&damage.dir);
    damage.write(&path, at, &[0; BLOCK as usize]);
}

fn misdirect_in_log(damage: &mut Damage) {
    let (path, at, other) = middle_of_log(&damage.dir);
    let mut block = [0; BLOCK as usize];
    open(&path).read_exact_at(&mut block, other).expect("the file is long enough");
    damage.write(&path, at, &block);
}

/// Half of a block, as a power cut may leave it: nothing behind it was ever written.
fn tear_tail(damage: &mut Damage) {
    let (path, _, end) = newest_segment(&damage.dir);
    damage.write(&path, end, &[0xa5; BLOCK as usize / 2]);
}

/// An entry of the directory that is lost.
fn remove_log(damage: &mut Damage) {
    let (path, ..) = newest_segment(&damage.dir);
    fs::rename(&path, damage.dir.with_extension("removed")).expect("the next directory is on the same disk");
    damage.removed = Some(path);
}

fn superblock(damage: &mut Damage, copies: u64) {
    let path = damage.dir.join("superblock");
    (0..copies).for_each(|copy| damage.flip(&path, copy * BLOCK + 100));
}

fn snapshots(damage: &mut Damage, newest: usize) {
    let snapshots = files(&damage.dir, "snapshot.");
    assert!(!snapshots.is_empty(), "{SNAPSHOT_TXNS} transactions make a snapshot");
    snapshots.iter().rev().take(newest).for_each(|path| damage.flip(path, SHORTEST));
}

// ---- the stories

fn shape() -> Shape {
    Shape { data_settings: format!("snapshot_txns = {SNAPSHOT_TXNS}"), ..Shape::voters(3) }
}

/// Each kind of damage, to the leader or a follower, one server killed or all of them; the others acknowledge writes
/// meanwhile. What was damaged is put back where the server refuses, so that the next one finds three again; the last server is
/// emptied instead, as an operator would do it.
pub async fn damaged_data() {
    let mut ensemble = Ensemble::of(&shape());
    let load = Load::start(&ensemble.hosts(0), SESSIONS, PAUSE, 31).await;
    for (round, (what, how, then)) in ROWS.iter().enumerate() {
        load.wait_for_writes(3 * BETWEEN).await;
        let victim = if round % 2 == 0 { ensemble.wait_for_leader() } else { ensemble.wait_for_follower() };
        let killed = if round % 3 == 2 { ensemble.ids() } else { vec![victim] };
        killed.iter().for_each(|id| ensemble.kill(*id));
        let damage = Damage::to(&ensemble.data_dir(victim), *how);
        killed.into_iter().filter(|id| *id != victim).for_each(|id| ensemble.launch(id));
        load.wait_for_writes(BETWEEN).await;
        if let Refuses(says) = then {
            let (code, said) = ensemble.fails_to_start(victim);
            assert!(code == Some(EXIT_DAMAGED) && said.contains(says), "{what}: {code:?} {said}");
            damage.put_back();
        }
        ensemble.launch(victim);
        ensemble.wait_until_all_serve();
        println!("  {what}: server {victim} {}", if *then == Starts { "starts" } else { "refuses" });
    }
    load.wait_for_writes(BETWEEN).await;
    let victim = ensemble.wait_for_follower();
    ensemble.kill(victim);
    Damage::to(&ensemble.data_dir(victim), flip_in_log);
    assert_eq!(ensemble.fails_to_start(victim).0, Some(EXIT_DAMAGED));
    ensemble.wipe(victim);
    ensemble.launch(victim);
    ensemble.wait_until_all_serve();
    load.wait_for_writes(BETWEEN).await;
    load.stop().await.check("damaged data", &mut ensemble).await;
}

/// The same entry, damaged on all: nobody makes up a history without it. What is put back is served.
pub async fn damage_on_all() {
    let mut ensemble = Ensemble::of(&shape());
    let load = Load::start(&ensemble.hosts(0), SESSIONS, PAUSE, 32).await;
    load.wait_for_writes(3 * BETWEEN).await;
    let ids = ensemble.ids();
    ids.iter().for_each(|id| ensemble.kill(*id));
    let damages: Vec<Damage> = ids.iter().map(|id| Damage::to(&ensemble.data_dir(*id), flip_in_log)).collect();
    for id in &ids {
        let (code, said) = ensemble.fails_to_start(*id);
        assert!(code == Some(EXIT_DAMAGED) && said.contains("after zxid 0x"), "{code:?} {said}");
    }
    damages.into_iter().for_each(Damage::put_back);
    ids.iter().for_each(|id| ensemble.launch(*id));
    ensemble.wait_until_all_serve();
    load.wait_for_writes(BETWEEN).await;
    load.stop().await.check("damage on all", &mut ensemble).await;
}
