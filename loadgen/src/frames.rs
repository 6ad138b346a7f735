//! Cuts a byte stream into frames: four bytes of length, then the frame. Frames that arrive whole are lent from the
//! caller's buffer, only one that is cut by a read is copied. Refuses lengths that no server sends.

/// The longest frame taken from a server: a list of some ten million children.
const FRAME_BYTES_MAX: usize = 512 << 20;

/// The peer does not speak the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a frame of {0} bytes")]
pub struct BadLength(pub i32);

/// The unfinished frame of one connection.
#[derive(Default)]
pub struct Frames {
    partial: Vec<u8>,
}

impl Frames {
    /// Takes what was read and hands over every frame that is complete, without its length.
    pub fn feed<E: From<BadLength>>(&mut self, mut bytes: &[u8], mut on_frame: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        while !self.partial.is_empty() {
            let wanted = self.missing()?;
            if wanted == 0 {
                let whole = std::mem::take(&mut self.partial);
                on_frame(&whole[4..])?;
                break;
            }
            if bytes.is_empty() {
                return Ok(());
            }
            let (now, later) = bytes.split_at(wanted.min(bytes.len()));
            self.partial.extend_from_slice(now);
            bytes = later;
        }
        while let Some(len) = frame_len(bytes)? {
            let Some(frame) = bytes.get(4..4 + len) else { break };
            on_frame(frame)?;
            bytes = &bytes[4 + len..];
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }

    /// Bytes until the partial frame's length, or the frame itself, is whole.
    fn missing(&self) -> Result<usize, BadLength> {
        Ok(match frame_len(&self.partial)? {
            None => 4 - self.partial.len(),
            Some(len) => 4 + len - self.partial.len(),
        })
    }
}

/// The length that stands at the front; None if it is not there yet.
fn frame_len(bytes: &[u8]) -> Result<Option<usize>, BadLength> {
    let Some(head) = bytes.first_chunk::<4>() else { return Ok(None) };
    let len = i32::from_be_bytes(*head);
    if len < 0 || len as usize > FRAME_BYTES_MAX { Err(BadLength(len)) } else { Ok(Some(len as usize)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_gives_the_same_frames() {
        let mut stream = Vec::new();
        for frame in [&b"first"[..], b"", b"the third one", b"x"] {
            stream.extend_from_slice(&(frame.len() as i32).to_be_bytes());
            stream.extend_from_slice(frame);
        }
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let (mut frames, mut seen) = (Frames::default(), Vec::new());
                for part in [&stream[..first], &stream[first..second], &stream[second..]] {
                    let on_frame = |frame: &[u8]| {
                        seen.push(frame.to_vec());
                        Ok::<(), BadLength>(())
                    };
                    frames.feed(part, on_frame).unwrap();
                }
                assert_eq!(seen, [&b"first"[..], b"", b"the third one", b"x"], "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn absurd_lengths_are_refused() {
        let result = Frames::default().feed::<BadLength>(&[0xff, 0, 0, 0, 1], |_| Ok(()));
        assert_eq!(result, Err(BadLength(i32::from_be_bytes([0xff, 0, 0, 0]))));
    }
}
