//! The receive buffers of one ring: a pool that the kernel takes from when bytes arrive, so that idle connections cost no
//! memory. A buffer that came back filled is given back in the same turn. Refuses to lend more than one turn ahead.

use crate::wire::aligned::AlignedBuf;
use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// A buffer with received bytes. Not to be dropped but given back.
#[derive(Debug)]
pub struct Filled {
    buffer: u16,
    len: u32,
}

/// See the module heading.
pub struct Provided {
    /// The ring shared with the kernel: `count` entries of 16 bytes, the tail inside the first.
    entries: NonNull<BufRingEntry>,
    /// `count` buffers one behind the other.
    data: NonNull<u8>,
    /// What the pointers point into. None: leaked.
    memory: Option<(AlignedBuf, AlignedBuf)>,
    count: u16,
    buffer_bytes: u32,
    tail: u16,
    lent: u16,
}

impl Provided {
    /// Registers `count` buffers (a power of two up to 32768) of `buffer_bytes` each as `group` of `uring`, all with the kernel.
    pub fn register(uring: &IoUring, group: u16, count: u16, buffer_bytes: u32) -> io::Result<Provided> {
        assert!(count.is_power_of_two() && count <= 1 << 15, "a buffer ring has 2^n entries");
        let mut entries = AlignedBuf::with_capacity(usize::from(count) * size_of::<BufRingEntry>());
        let mut data = AlignedBuf::with_capacity(usize::from(count) * buffer_bytes as usize);
        let mut provided = Provided {
            entries: NonNull::from(&mut entries[..]).cast(),
            data: NonNull::from(&mut data[..]).cast(),
            memory: Some((entries, data)),
            count,
            buffer_bytes,
            tail: 0,
            lent: count,
        };
        // SAFETY: the entries live until the ring is gone: `Ring` drops its io_uring first, and leaks them if in doubt.
        unsafe { uring.submitter().register_buf_ring_with_flags(provided.entries.addr().get() as u64, count, group, 0) }?;
        for buffer in 0..count {
            provided.give_back(Filled { buffer, len: 0 });
        }
        provided.publish();
        Ok(provided)
    }

    /// The kernel has filled `buffer` with `len` bytes.
    pub fn filled(&mut self, buffer: u16, len: u32) -> Filled {
        assert!(buffer < self.count && len <= self.buffer_bytes, "the kernel returns what it was given");
        self.lent += 1;
        Filled { buffer, len }
    }

    pub fn bytes(&self, data: &Filled) -> &[u8] {
        let start = usize::from(data.buffer) * self.buffer_bytes as usize;
        // SAFETY: inside `data`; the kernel has left this buffer and does not get it back before the `Filled` is consumed.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr().add(start), data.len as usize) }
    }

    /// Queues the buffer for the kernel; `publish` hands over all that are queued.
    pub fn give_back(&mut self, data: Filled) {
        let address = self.data.addr().get() + usize::from(data.buffer) * self.buffer_bytes as usize;
        let at = usize::from(self.tail & (self.count - 1));
        // SAFETY: an entry of the ring's memory, beyond the published tail, which the kernel does not read. The tail of the
        // whole ring stands in the last two bytes of the first entry and is left alone by these three stores.
        let entry = unsafe { self.entries.add(at).as_mut() };
        entry.set_addr(address as u64);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(data.buffer);
        self.tail = self.tail.wrapping_add(1);
        self.lent -= 1;
    }

    /// Lets the kernel see what was given back.
    pub fn publish(&mut self) {
        // SAFETY: the first entry of the ring that was registered with the kernel.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the kernel reads the tail concurrently, so it is written as an atomic; aligned and alive as the ring is.
        unsafe { AtomicU16::from_ptr(tail.cast_mut()) }.store(self.tail, Ordering::Release);
    }

    /// Buffers that came back filled and were not given back yet.
    #[cfg(test)]
    pub fn lent(&self) -> u16 {
        self.lent
    }

    /// Never frees the memory: the kernel may still write to it.
    pub fn leak(&mut self) {
        std::mem::forget(self.memory.take());
    }
}
