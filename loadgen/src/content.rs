//! What stands in the nodes of a run and what they are called: both follow from numbers, so that a reply can be checked
//! without remembering what was sent. Refuses nothing and knows nothing of replies.

/// The node under which everything happens.
pub const ROOT: &str = "/falconer-loadgen";
/// Children of one directory of the key tree.
pub const KEYS_PER_DIR: u32 = 1000;
/// Key and version stand in front of the filler.
const HEAD_BYTES: usize = 12;
/// Different starts into the filler: a prime, so that neighbours differ.
const STARTS: u64 = 4093;

/// Data for any key and version, of one size.
pub struct Content {
    size: usize,
    filler: Vec<u8>,
}

impl Content {
    /// `size` in bytes.
    pub fn new(size: usize) -> Content {
        let mut dice = Dice::new(0x5eed);
        let filler = (0..size + STARTS as usize).map(|_| dice.next() as u8).collect();
        Content { size, filler }
    }

    pub fn size(&self) -> usize {
        self.size
    }

    fn head(key: u32, version: i32) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[..4].copy_from_slice(b"load");
        head[4..8].copy_from_slice(&key.to_be_bytes());
        head[8..].copy_from_slice(&version.to_be_bytes());
        head
    }

    fn tail(&self, key: u32, version: i32) -> &[u8] {
        let start = ((u64::from(key) << 7) + version as u64) % STARTS;
        &self.filler[start as usize..][..self.size.saturating_sub(HEAD_BYTES)]
    }

    /// Replaces `out` with the data of a key at a version.
    pub fn write(&self, key: u32, version: i32, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&Content::head(key, version)[..HEAD_BYTES.min(self.size)]);
        out.extend_from_slice(self.tail(key, version));
    }

    /// Whether `data` is exactly what was written for this key and version.
    pub fn matches(&self, key: u32, version: i32, data: &[u8]) -> bool {
        let head = &Content::head(key, version)[..HEAD_BYTES.min(self.size)];
        data.len() == self.size && data.starts_with(head) && &data[head.len()..] == self.tail(key, version)
    }
}

/// Appends `value` in decimal, with zeros in front up to `width` digits.
fn push_decimal(out: &mut String, mut value: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let mut start = digits.len();
    while value > 0 || digits.len() - start < width {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
    }
    digits[start..].iter().for_each(|&digit| out.push(digit as char));
}

/// Replaces `out` with the path of the directory that holds `key`.
pub fn write_dir_path(out: &mut String, key: u32) {
    out.clear();
    out.push_str(ROOT);
    out.push_str("/d");
    push_decimal(out, u64::from(key / KEYS_PER_DIR), 4);
}

/// Replaces `out` with the path of `key`.
pub fn write_key_path(out: &mut String, key: u32) {
    write_dir_path(out, key);
    out.push_str("/k");
    push_decimal(out, u64::from(key), 7);
}

/// Replaces `out` with the directory in which connection `number` creates nodes.
pub fn write_own_dir_path(out: &mut String, number: u32) {
    out.clear();
    out.push_str(ROOT);
    out.push_str("/c");
    push_decimal(out, u64::from(number), 4);
}

/// Replaces `out` with the path of the `sequence`-th node that connection `number` creates.
pub fn write_own_path(out: &mut String, number: u32, sequence: u32) {
    write_own_dir_path(out, number);
    out.push_str("/n");
    push_decimal(out, u64::from(sequence), 8);
}

/// A small fast generator (xorshift64*): the same seed gives the same run.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u32) -> u32 {
        ((u64::from(self.next()) * u64::from(end)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_differs_by_key_and_version_at_every_size() {
        for size in [0, 3, 12, 13, 100, 1024] {
            let content = Content::new(size);
            let mut data = Vec::new();
            content.write(70_000, 3, &mut data);
            assert_eq!(data.len(), size);
            assert!(content.matches(70_000, 3, &data));
            assert!(!content.matches(70_000, 3, &[&data[..], b"x"].concat()));
            if size >= HEAD_BYTES {
                assert!(!content.matches(70_000, 4, &data) && !content.matches(70_001, 3, &data));
            }
            if let Some(last) = data.last_mut() {
                *last ^= 1;
                assert!(!content.matches(70_000, 3, &data));
            }
        }
    }

    #[test]
    fn paths_follow_from_numbers() {
        let mut path = String::new();
        write_key_path(&mut path, 12_345);
        assert_eq!(path, "/falconer-loadgen/d0012/k0012345");
        write_own_path(&mut path, 7, 123_456_789);
        assert_eq!(path, "/falconer-loadgen/c0007/n123456789");
    }

    #[test]
    fn dice_stay_in_range_and_hit_everything() {
        let mut dice = Dice::new(1);
        let mut seen = [false; 10];
        (0..1000).for_each(|_| seen[dice.below(10) as usize] = true);
        assert_eq!(seen, [true; 10]);
    }
}
