//! Jute, ZooKeeper's encoding: big-endian integers, length-prefixed buffers and strings (-1 is null), counted vectors.
//! Reads from a slice without copying, writes by appending. One error: [`Malformed`].
//! Refuses to allocate by a length or count that came from the wire.

use std::borrow::Cow;

/// The bytes do not hold what they should.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed record")]
pub struct Malformed;

/// A cursor over a record.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (first, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*first)
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[b]| b)
    }

    pub fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_be_bytes)
    }

    /// Any byte but zero is true, as Java's readBoolean.
    pub fn bool(&mut self) -> Result<bool, Malformed> {
        self.array().map(|[b]| b != 0)
    }

    /// A buffer; None is null, which has length -1.
    pub fn buffer(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        let len = self.i32()?;
        if len == -1 {
            return Ok(None);
        }
        let len = usize::try_from(len).map_err(|_| Malformed)?;
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(Malformed)?;
        self.rest = rest;
        Ok(Some(bytes))
    }

    /// A string; malformed UTF-8 becomes U+FFFD, as Java's `new String(bytes, UTF_8)` does.
    pub fn string(&mut self) -> Result<Option<Cow<'a, str>>, Malformed> {
        Ok(self.buffer()?.map(String::from_utf8_lossy))
    }

    /// A string that must be there.
    pub fn required(&mut self) -> Result<Cow<'a, str>, Malformed> {
        self.string()?.ok_or(Malformed)
    }

    /// A string that must be there and be UTF-8, without a copy.
    pub fn utf8(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.buffer()?.ok_or(Malformed)?).map_err(|_| Malformed)
    }

    /// The count of a vector whose elements take at least `element_bytes_min` each; None is null, which has count -1.
    /// Every other negative count is an empty vector, as in Java.
    pub fn vector(&mut self, element_bytes_min: usize) -> Result<Option<usize>, Malformed> {
        let count = self.i32()?;
        if count == -1 {
            return Ok(None);
        }
        let count = count.max(0);
        if count as usize > self.rest.len() / element_bytes_min {
            return Err(Malformed);
        }
        Ok(Some(count as usize))
    }
}

pub fn write_i32(out: &mut Vec<u8>, value: i32) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub fn write_i64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub fn write_bool(out: &mut Vec<u8>, value: bool) {
    out.push(u8::from(value));
}

/// A buffer, None as null.
pub fn write_buffer(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        None => write_i32(out, -1),
        Some(bytes) => {
            write_i32(out, bytes.len() as i32);
            out.extend_from_slice(bytes);
        }
    }
}

pub fn write_string(out: &mut Vec<u8>, value: &str) {
    write_buffer(out, Some(value.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_not_believed() {
        let mut reader = Reader::new(&[0x7f, 0xff, 0xff, 0xff, 1, 2]);
        assert_eq!(reader.buffer(), Err(Malformed));
        let mut reader = Reader::new(&[0, 0, 0, 3, 1, 2, 3, 4]);
        assert_eq!(reader.vector(2), Err(Malformed));
        let mut reader = Reader::new(&[0xff, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(reader.buffer(), Ok(None));
        assert_eq!(reader.i32(), Err(Malformed));
        let below_null = [0xff, 0xff, 0xff, 0xfe];
        assert_eq!(Reader::new(&below_null).buffer(), Err(Malformed));
        assert_eq!(Reader::new(&below_null).vector(4), Ok(Some(0)));
    }

    #[test]
    fn bad_utf8_is_replaced_or_refused() {
        let bytes = [0, 0, 0, 3, b'a', 0xff, b'b'];
        assert_eq!(Reader::new(&bytes).required().unwrap(), "a\u{fffd}b");
        assert_eq!(Reader::new(&bytes).utf8(), Err(Malformed));
    }
}
