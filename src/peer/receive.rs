//! What arrives on a link, as a state machine: it says into which memory the next bytes belong, takes note of how many
//! came, and gives out frames whose seal is right. A batch goes straight into the buffer that the log will write; only
//! what arrives together with smaller frames in front of it is moved, at most [`PEER_READ_AHEAD_BYTES`], and in a stream of
//! batches a few bytes. Refuses frames beyond the bound before it makes room for them, and everything after a bad one.

use super::seal::{MAC_BYTES, Seal};
use crate::limits::{PEER_FRAME_BYTES_MAX, PEER_READ_AHEAD_BYTES};
use crate::wire::raw_batch::RawBatch;
use std::collections::VecDeque;

/// The two lengths in front of each frame.
const LENGTHS_BYTES: usize = 8;
/// Read beyond a batch in one go: its MAC, and a small frame or the start of the next batch.
const AHEAD_OF_BATCH_BYTES: usize = MAC_BYTES + LENGTHS_BYTES + 24 + MAC_BYTES;

/// A message as it arrived, its seal verified: kind and fields, and the batch if it brings one.
#[derive(PartialEq, Eq, Debug)]
pub struct Frame {
    pub fields: Vec<u8>,
    pub batch: Option<RawBatch>,
}

/// Why a link cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadFrame {
    #[error("a frame of {0} bytes, more than any message has")]
    Length(usize),
    #[error("the lengths of a frame contradict each other")]
    Shape,
    #[error("the seal of a frame does not fit: it was changed, or something before it was left out or added")]
    Seal,
}

/// A frame that does not fit the link's own buffer, or has a batch.
struct Partial {
    lengths: [u8; LENGTHS_BYTES],
    fields: Vec<u8>,
    batch: Option<RawBatch>,
    /// How much of fields and batch is there.
    filled: usize,
}

impl Partial {
    fn batch_bytes(&self) -> usize {
        self.batch.as_ref().map_or(0, |batch| batch.bytes().len())
    }

    fn missing(&self) -> usize {
        self.fields.len() + self.batch_bytes() - self.filled
    }

    /// The memory that is not filled yet, in order.
    fn rest_mut(&mut self) -> [&mut [u8]; 2] {
        let filled = self.filled;
        let (in_fields, in_batch) = (filled.min(self.fields.len()), filled.saturating_sub(self.fields.len()));
        let batch = self.batch.as_mut().map_or(&mut [][..], |batch| &mut batch.bytes_mut()[in_batch..]);
        [&mut self.fields[in_fields..], batch]
    }

    /// Moves bytes that have come already.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let [fields, batch] = self.rest_mut();
        let first = bytes.len().min(fields.len());
        fields[..first].copy_from_slice(&bytes[..first]);
        let second = (bytes.len() - first).min(batch.len());
        batch[..second].copy_from_slice(&bytes[first..first + second]);
        self.filled += first + second;
        first + second
    }
}

/// Memory for the next bytes of a link. It owns what it lends: an operation of the kernel may hold on to it.
pub struct Room {
    partial: Option<Partial>,
    link: Vec<u8>,
    /// Where bytes in `link` begin and end, and how far new ones may go.
    start: usize,
    end: usize,
    until: usize,
}

impl Room {
    /// The memory to fill, in order. Some of it may be empty, never all.
    pub fn parts_mut(&mut self) -> [&mut [u8]; 3] {
        let link = &mut self.link[self.end..self.until];
        match &mut self.partial {
            Some(partial) => {
                let [fields, batch] = partial.rest_mut();
                [fields, batch, link]
            }
            None => [&mut [], &mut [], link],
        }
    }
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Room({} bytes there)", self.end - self.start)
    }
}

/// See the module heading.
pub struct Receiver {
    seal: Seal,
    /// None: lent.
    room: Option<Room>,
    frames: VecDeque<Frame>,
    failed: Option<BadFrame>,
}

impl Receiver {
    pub fn new(seal: Seal) -> Receiver {
        let room = Room { partial: None, link: vec![0; PEER_READ_AHEAD_BYTES], start: 0, end: 0, until: 0 };
        Receiver { seal, room: Some(room), frames: VecDeque::new(), failed: None }
    }

    /// Memory for what comes next. Comes back by [`Receiver::filled`].
    pub fn room(&mut self) -> Room {
        let mut room = self.room.take().expect("one receive at a time");
        room.link.copy_within(room.start..room.end, 0);
        room.end -= room.start;
        room.start = 0;
        room.until = match &room.partial {
            Some(_) => (room.end + AHEAD_OF_BATCH_BYTES).min(room.link.len()),
            None => room.link.len(),
        };
        room
    }

    /// `bytes` of the memory were filled, in order.
    pub fn filled(&mut self, mut room: Room, mut bytes: usize) -> Result<(), BadFrame> {
        if let Some(partial) = &mut room.partial {
            let into_partial = bytes.min(partial.missing());
            partial.filled += into_partial;
            bytes -= into_partial;
        }
        room.end += bytes;
        assert!(room.end <= room.until, "no more is filled than there is room");
        let result = match self.failed {
            Some(bad) => Err(bad),
            None => self.read(&mut room),
        };
        self.failed = result.err();
        self.room = Some(room);
        result
    }

    /// The next message. Pings are not given out.
    pub fn next_frame(&mut self) -> Option<Frame> {
        self.frames.pop_front()
    }

    fn read(&mut self, room: &mut Room) -> Result<(), BadFrame> {
        loop {
            let more = match room.partial.take() {
                Some(partial) => self.read_partial(room, partial)?,
                None => self.read_small(room)?,
            };
            if !more {
                return Ok(());
            }
        }
    }

    /// The end of a frame with memory of its own.
    fn read_partial(&mut self, room: &mut Room, partial: Partial) -> Result<bool, BadFrame> {
        let there = &room.link[room.start..room.end];
        let Some(mac) = there.first_chunk::<MAC_BYTES>().filter(|_| partial.missing() == 0) else {
            room.partial = Some(partial);
            return Ok(false);
        };
        let Partial { lengths, fields, batch, .. } = partial;
        let batch_bytes = batch.as_ref().map_or(&[][..], RawBatch::bytes);
        if !self.seal.verify(&[&lengths, &fields, batch_bytes], mac) {
            return Err(BadFrame::Seal);
        }
        room.start += MAC_BYTES;
        self.frames.push_back(Frame { fields, batch });
        Ok(true)
    }

    /// A frame that lies wholly in the link's buffer, or the start of one that gets memory of its own.
    fn read_small(&mut self, room: &mut Room) -> Result<bool, BadFrame> {
        let there = &room.link[room.start..room.end];
        let Some((lengths, rest)) = there.split_first_chunk::<LENGTHS_BYTES>() else { return Ok(false) };
        let (batch, len) = check_lengths(lengths)?;
        if batch > 0 || LENGTHS_BYTES + len + MAC_BYTES > PEER_READ_AHEAD_BYTES {
            let batch = (batch > 0).then(|| RawBatch::with_room(batch));
            let fields = vec![0; len - batch.as_ref().map_or(0, |batch| batch.bytes().len())];
            let mut partial = Partial { lengths: *lengths, fields, batch, filled: 0 };
            let moved = partial.take(rest);
            room.start += LENGTHS_BYTES + moved;
            room.partial = Some(partial);
            return Ok(true);
        }
        let Some((fields, rest)) = rest.split_at_checked(len) else { return Ok(false) };
        let Some(mac) = rest.first_chunk::<MAC_BYTES>() else { return Ok(false) };
        if !self.seal.verify(&[lengths, fields], mac) {
            return Err(BadFrame::Seal);
        }
        if len > 0 {
            self.frames.push_back(Frame { fields: fields.to_vec(), batch: None });
        }
        room.start += LENGTHS_BYTES + len + MAC_BYTES;
        Ok(true)
    }
}

/// The bytes of the batch, and of the whole message. A batch never comes without a kind in front of it.
fn check_lengths(lengths: &[u8; LENGTHS_BYTES]) -> Result<(usize, usize), BadFrame> {
    let [batch, len] = [0, 4].map(|at| u32::from_le_bytes(lengths[at..at + 4].try_into().expect("four bytes")) as usize);
    if len > PEER_FRAME_BYTES_MAX {
        return Err(BadFrame::Length(len));
    }
    if batch > 0 && batch >= len { Err(BadFrame::Shape) } else { Ok((batch, len)) }
}
