//! A disk that keeps only what was synced. Files have durable bytes and volatile operations on top of them, names have a
//! durable and a volatile directory. A power cut keeps any subset of what was volatile, torn at 512 bytes, with garbage
//! in sectors that were being written. Faults strike the n-th operation. Everything follows from the seed.
//! Refuses to know what the files mean.

use super::random::Dice;
use crate::limits::BLOCK_BYTES;
use crate::log::disk::{Disk, Errno};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// The unit that a power cut can tear.
const SECTOR: usize = 512;

/// What happens to the operation it strikes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The power goes during the operation: it may have happened in part, and nothing works until [`SimDisk::power_on`].
    PowerCut,
    /// The process dies during the operation, which happens. Nothing works until [`SimDisk::restart`]; the next process
    /// sees what is volatile, a later power cut may still lose it.
    Kill,
    /// The operation fails with this error after a part of a write has been done. Volatile writes of a file whose sync
    /// failed are forgotten, and later syncs of them say nothing (as Linux does).
    Error(Errno),
    /// The operation and all that allocate after it fail with ENOSPC, until [`SimDisk::free_space`].
    Full,
}

/// What every operation answers while the power or the process is gone.
pub const POWER_OFF: Errno = Errno(5);

#[derive(Clone)]
enum Volatile {
    Write { offset: u64, bytes: Vec<u8> },
    Length(u64),
}

#[derive(Clone, Default)]
struct Inode {
    durable: Vec<u8>,
    /// What a read sees.
    current: Vec<u8>,
    volatile: Vec<Volatile>,
    /// By block: the operation that wrote it last.
    written: Vec<u64>,
}

impl Inode {
    fn apply(bytes: &mut Vec<u8>, op: &Volatile) {
        match op {
            Volatile::Length(len) => bytes.resize(*len as usize, 0),
            Volatile::Write { offset, bytes: new } => {
                let (start, end) = (*offset as usize, *offset as usize + new.len());
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[start..end].copy_from_slice(new);
            }
        }
    }

    fn stamp(&mut self, offset: u64, len: usize, op: u64) {
        let blocks = offset as usize / BLOCK_BYTES..(offset as usize + len).div_ceil(BLOCK_BYTES);
        self.written.resize(self.written.len().max(blocks.end), 0);
        self.written[blocks].fill(op);
    }

    fn push(&mut self, op: Volatile) {
        Inode::apply(&mut self.current, &op);
        self.volatile.push(op);
    }
}

#[derive(Clone)]
enum NameOp {
    Link(String, usize),
    Unlink(String),
}

#[derive(Clone)]
struct Inner {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    volatile_names: Vec<NameOp>,
    ops: u64,
    fault: Option<(u64, Fault)>,
    off: bool,
    full: bool,
    /// Reads until one fails.
    read_fails_in: Option<u64>,
    dice: Dice,
}

/// One server's disk. Handles are numbers, so that a test may keep them across a power cut only by mistake.
pub struct SimDisk(RefCell<Inner>);

/// An open file of a [`SimDisk`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SimFile(usize);

impl Inner {
    /// Counts an operation that changes something; Some if it is to fail or to be the last one.
    fn strike(&mut self, allocates: bool) -> Result<Option<Fault>, Errno> {
        if self.off {
            return Err(POWER_OFF);
        }
        self.ops += 1;
        if let Some((at, fault)) = self.fault
            && at == self.ops
        {
            self.off = matches!(fault, Fault::PowerCut | Fault::Kill);
            self.full |= fault == Fault::Full;
            if fault != Fault::Full {
                return Ok(Some(fault));
            }
        }
        if allocates && self.full { Err(Errno::ENOSPC) } else { Ok(None) }
    }

    fn readable(&self) -> Result<(), Errno> {
        if self.off { Err(POWER_OFF) } else { Ok(()) }
    }

    fn power_on(&mut self) {
        self.fault = None;
        self.off = false;
        for inode in 0..self.inodes.len() {
            self.survive(inode);
        }
        let ops = std::mem::take(&mut self.volatile_names);
        let mut names = std::mem::take(&mut self.durable_names);
        for op in ops {
            if self.dice.roll().is_multiple_of(2) {
                Inner::apply_name(&mut names, &op);
            }
        }
        self.names = names.clone();
        self.durable_names = names;
    }

    /// A file after the power came back: every volatile operation kept, lost, or kept in part.
    fn survive(&mut self, inode: usize) {
        let volatile = std::mem::take(&mut self.inodes[inode].volatile);
        let mut bytes = std::mem::take(&mut self.inodes[inode].durable);
        for op in volatile {
            match (self.dice.roll() % 3, &op) {
                (0, _) => {}
                (1, _) | (_, Volatile::Length(_)) => Inode::apply(&mut bytes, &op),
                (_, Volatile::Write { offset, bytes: new }) => self.tear(&mut bytes, *offset, new),
            }
        }
        self.inodes[inode].current = bytes.clone();
        self.inodes[inode].durable = bytes;
    }

    fn tear(&mut self, bytes: &mut Vec<u8>, offset: u64, new: &[u8]) {
        let mut at = offset as usize;
        for sector in new.chunks(SECTOR) {
            let kept = match self.dice.roll() % 8 {
                0..=3 => Some(sector.to_vec()),
                4 => Some(vec![0; sector.len()]),
                5 => Some((0..sector.len()).map(|_| self.dice.roll() as u8).collect()),
                _ => None,
            };
            if let Some(kept) = kept {
                Inode::apply(bytes, &Volatile::Write { offset: at as u64, bytes: kept });
            }
            at += sector.len();
        }
    }

    fn apply_name(names: &mut BTreeMap<String, usize>, op: &NameOp) {
        match op {
            NameOp::Link(name, inode) => names.insert(name.clone(), *inode),
            NameOp::Unlink(name) => names.remove(name),
        };
    }

    fn push_name(&mut self, op: NameOp) {
        Inner::apply_name(&mut self.names, &op);
        self.volatile_names.push(op);
    }
}

impl SimDisk {
    pub fn new(seed: u64) -> SimDisk {
        SimDisk(RefCell::new(Inner {
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            volatile_names: Vec::new(),
            ops: 0,
            fault: None,
            off: false,
            full: false,
            read_fails_in: None,
            dice: Dice::new(seed),
        }))
    }

    /// An independent copy, volatile operations included.
    pub fn fork(&self) -> SimDisk {
        SimDisk(RefCell::new(self.0.borrow().clone()))
    }

    /// Operations so far that change something.
    pub fn ops(&self) -> u64 {
        self.0.borrow().ops
    }

    /// `fault` strikes the operation that makes [`SimDisk::ops`] equal `at`. One fault at a time.
    pub fn strike(&self, at: u64, fault: Fault) {
        self.0.borrow_mut().fault = Some((at, fault));
    }

    /// The read after `reads` others fails, once.
    pub fn strike_read(&self, reads: u64) {
        self.0.borrow_mut().read_fails_in = Some(reads);
    }

    /// The end of [`SimDisk::strike_read`]. True: there was no such read.
    pub fn spare_reads(&self) -> bool {
        self.0.borrow_mut().read_fails_in.take().is_some()
    }

    /// The end of [`Fault::Kill`].
    pub fn restart(&self) {
        let mut inner = self.0.borrow_mut();
        inner.fault = None;
        inner.off = false;
    }

    /// Cuts the power, if it is still on, and turns it on again: what was volatile survives as `seed` will have it.
    pub fn power_on(&self, seed: u64) {
        let mut inner = self.0.borrow_mut();
        inner.dice.stir(seed);
        inner.power_on();
    }

    /// As [`SimDisk::power_on`], but everything that was being written is garbage.
    pub fn power_on_worst(&self) {
        let mut inner = self.0.borrow_mut();
        for inode in 0..inner.inodes.len() {
            let mut ops = std::mem::take(&mut inner.inodes[inode].volatile);
            for op in &mut ops {
                if let Volatile::Write { bytes, .. } = op {
                    bytes.fill_with(|| inner.dice.roll() as u8);
                }
                Inode::apply(&mut inner.inodes[inode].durable, op);
            }
        }
        inner.power_on();
    }

    /// Whether there is no room for anything new, from now on.
    pub fn set_full(&self, full: bool) {
        self.0.borrow_mut().full = full;
    }

    /// The end of [`Fault::Full`].
    pub fn free_space(&self) {
        let mut inner = self.0.borrow_mut();
        inner.full = false;
        inner.fault = None;
    }

    /// Damages one byte of the medium.
    pub fn flip(&self, name: &str, offset: u64, mask: u8) {
        self.damage(name, offset, 1, |bytes| bytes[0] ^= mask);
    }

    /// Damages a range: it holds these bytes, durably.
    pub fn overwrite(&self, name: &str, offset: u64, bytes: &[u8]) {
        self.damage(name, offset, bytes.len() as u64, |range| range.copy_from_slice(&bytes[..range.len()]));
    }

    /// Damages a whole range: it reads as zero.
    pub fn zero(&self, name: &str, offset: u64, len: u64) {
        self.damage(name, offset, len, |bytes| bytes.fill(0));
    }

    /// Changes a range wherever it is: on the medium, and in what a read sees.
    fn damage(&self, name: &str, offset: u64, len: u64, change: impl Fn(&mut [u8])) {
        let mut inner = self.0.borrow_mut();
        let inode = inner.names[name];
        let Inode { durable, current, .. } = &mut inner.inodes[inode];
        for bytes in [durable, current] {
            let end = bytes.len().min((offset + len) as usize);
            if let Some(range) = bytes.get_mut(offset as usize..end).filter(|range| !range.is_empty()) {
                change(range);
            }
        }
    }

    /// Damages a file: it ends at `len`.
    pub fn cut(&self, name: &str, len: u64) {
        let mut inner = self.0.borrow_mut();
        let inode = inner.names[name];
        inner.inodes[inode].durable.truncate(len as usize);
        inner.inodes[inode].current.truncate(len as usize);
    }

    /// When the block at `offset` was written, as [`SimDisk::ops`] counts; 0: never.
    pub fn written(&self, name: &str, offset: u64) -> u64 {
        let inner = self.0.borrow();
        inner.inodes[inner.names[name]].written.get(offset as usize / BLOCK_BYTES).copied().unwrap_or(0)
    }

    /// What a read of the whole file would see.
    pub fn contents(&self, name: &str) -> Vec<u8> {
        let inner = self.0.borrow();
        inner.inodes[inner.names[name]].current.clone()
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn list(&self) -> Result<Vec<String>, Errno> {
        let inner = self.0.borrow();
        inner.readable()?;
        Ok(inner.names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> Result<Option<SimFile>, Errno> {
        let inner = self.0.borrow();
        inner.readable()?;
        Ok(inner.names.get(name).map(|inode| SimFile(*inode)))
    }

    fn create(&self, name: &str) -> Result<SimFile, Errno> {
        let mut inner = self.0.borrow_mut();
        let fault = inner.strike(true)?;
        if !matches!(fault, Some(Fault::Error(_))) {
            inner.inodes.push(Inode::default());
            let inode = inner.inodes.len() - 1;
            if inner.names.contains_key(name) {
                inner.push_name(NameOp::Unlink(name.to_string()));
            }
            inner.push_name(NameOp::Link(name.to_string(), inode));
        }
        outcome(fault)?;
        Ok(SimFile(inner.inodes.len() - 1))
    }

    fn len(&self, file: &SimFile) -> Result<u64, Errno> {
        let inner = self.0.borrow();
        inner.readable()?;
        Ok(inner.inodes[file.0].current.len() as u64)
    }

    fn allocate(&self, file: &SimFile, bytes: u64) -> Result<(), Errno> {
        let mut inner = self.0.borrow_mut();
        let fault = inner.strike(true)?;
        if !matches!(fault, Some(Fault::Error(_))) {
            inner.inodes[file.0].push(Volatile::Length(bytes));
        }
        outcome(fault)
    }

    fn read_at(&self, file: &SimFile, offset: u64, buf: &mut [u8]) -> Result<(), Errno> {
        let mut inner = self.0.borrow_mut();
        inner.readable()?;
        if let Some(left) = inner.read_fails_in.take() {
            inner.read_fails_in = Some(left.checked_sub(1).ok_or(Errno::EIO)?);
        }
        let range = offset as usize..offset as usize + buf.len();
        buf.copy_from_slice(inner.inodes[file.0].current.get(range).ok_or(Errno::EIO)?);
        Ok(())
    }

    fn write_at(&self, file: &SimFile, offset: u64, buf: &[u8]) -> Result<(), Errno> {
        let mut inner = self.0.borrow_mut();
        let grows = offset + buf.len() as u64 > inner.inodes[file.0].current.len() as u64;
        let fault = inner.strike(grows)?;
        let done = match fault {
            Some(Fault::Error(_)) => inner.dice.roll() as usize % (buf.len() + 1),
            _ => buf.len(),
        };
        let ops = inner.ops;
        inner.inodes[file.0].stamp(offset, done, ops);
        inner.inodes[file.0].push(Volatile::Write { offset, bytes: buf[..done].to_vec() });
        outcome(fault)
    }

    fn sync(&self, file: &SimFile) -> Result<(), Errno> {
        let mut inner = self.0.borrow_mut();
        let fault = inner.strike(false)?;
        let inode = &mut inner.inodes[file.0];
        match fault {
            None | Some(Fault::Full | Fault::Kill) => {
                for op in inode.volatile.drain(..) {
                    Inode::apply(&mut inode.durable, &op);
                }
            }
            Some(Fault::Error(_)) => inode.volatile.clear(),
            Some(Fault::PowerCut) => {}
        }
        outcome(fault)
    }

    fn forget_cache(&self, file: &SimFile) -> Result<(), Errno> {
        let mut inner = self.0.borrow_mut();
        inner.readable()?;
        let inode = &mut inner.inodes[file.0];
        inode.current = inode.durable.clone();
        inode.volatile.iter().for_each(|op| Inode::apply(&mut inode.current, op));
        Ok(())
    }

    fn sync_names(&self) -> Result<(), Errno> {
        let mut inner = self.0.borrow_mut();
        let fault = inner.strike(false)?;
        if fault.is_none() {
            inner.durable_names = inner.names.clone();
            inner.volatile_names.clear();
        }
        outcome(fault)
    }

    fn remove(&self, name: &str) -> Result<(), Errno> {
        let mut inner = self.0.borrow_mut();
        let fault = inner.strike(false)?;
        if inner.names.contains_key(name) && !matches!(fault, Some(Fault::Error(_))) {
            inner.push_name(NameOp::Unlink(name.to_string()));
        }
        outcome(fault)
    }

    fn path(&self, name: &str) -> String {
        format!("sim/{name}")
    }

    fn directory(&self) -> String {
        "sim".to_string()
    }
}

fn outcome(fault: Option<Fault>) -> Result<(), Errno> {
    match fault {
        None | Some(Fault::Full) => Ok(()),
        Some(Fault::PowerCut | Fault::Kill) => Err(POWER_OFF),
        Some(Fault::Error(errno)) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_survives_and_the_rest_may_not() {
        let (mut lost, mut kept, mut torn) = (0, 0, 0);
        for seed in 0..100 {
            let disk = SimDisk::new(seed);
            let file = disk.create("a").unwrap();
            disk.write_at(&file, 0, &[1; 2048]).unwrap();
            disk.sync(&file).unwrap();
            disk.sync_names().unwrap();
            disk.write_at(&file, 0, &[2; 2048]).unwrap();
            disk.power_on(seed);
            let bytes = disk.contents("a");
            assert_eq!(bytes.len(), 2048);
            lost += u32::from(bytes == [1; 2048]);
            kept += u32::from(bytes == [2; 2048]);
            torn += u32::from(bytes != [1; 2048] && bytes != [2; 2048]);
        }
        assert!(lost > 10 && kept > 10 && torn > 10, "{lost} {kept} {torn}");
    }

    #[test]
    fn names_need_a_sync_of_their_own() {
        let mut gone = 0;
        for seed in 0..20 {
            let disk = SimDisk::new(seed);
            let file = disk.create("a").unwrap();
            disk.sync(&file).unwrap();
            disk.power_on(seed);
            gone += u32::from(disk.open("a").unwrap().is_none());
        }
        assert!((1..20).contains(&gone));
    }

    #[test]
    fn a_failed_sync_forgets_and_the_next_one_lies() {
        let disk = SimDisk::new(1);
        let file = disk.create("a").unwrap();
        disk.sync_names().unwrap();
        disk.write_at(&file, 0, &[1; 512]).unwrap();
        disk.strike(disk.ops() + 1, Fault::Error(Errno::EIO));
        assert_eq!(disk.sync(&file), Err(Errno::EIO));
        assert_eq!(disk.sync(&file), Ok(()));
        assert_eq!(disk.contents("a"), [1; 512]);
        disk.power_on(1);
        assert!(disk.contents("a").is_empty());
    }

    #[test]
    fn nothing_works_without_power() {
        let disk = SimDisk::new(1);
        disk.strike(1, Fault::PowerCut);
        assert!(disk.create("a").is_err());
        assert_eq!(disk.list(), Err(POWER_OFF));
        disk.power_on(1);
        assert!(disk.list().is_ok());
    }
}
