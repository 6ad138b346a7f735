//! What stands in the nodes of a run and what they are called: both follow from numbers, so that a reply can be checked
//! without remembering what was sent. Refuses nothing and knows nothing of replies.

use serde::Deserialize;
use std::ops::Range;
use std::sync::Arc;

/// Key and version stand in front of the filler.
const HEAD_BYTES: usize = 12;
/// Different starts into the filler: a prime, so that neighbours differ.
const STARTS: u64 = 4093;

/// How long the data of a node is, in bytes. The same key and version always have the same length.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(untagged)]
pub enum Sizes {
    Fixed(u32),
    /// Evenly from the first to the last.
    Between([u32; 2]),
    /// One of these, as often as its weight says.
    OneOf(Vec<WeightedSize>),
}

/// One length of a distribution.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightedSize {
    #[serde(alias = "count")]
    pub size: u32,
    pub weight: u32,
}

impl Sizes {
    pub fn max(&self) -> usize {
        let max = match self {
            Sizes::Fixed(size) => *size,
            Sizes::Between([_, last]) => *last,
            Sizes::OneOf(list) => list.iter().map(|entry| entry.size).max().unwrap_or(0),
        };
        max as usize
    }

    fn of(&self, key: u32, version: i32) -> usize {
        let drawn = || Dice::new((u64::from(key) << 32) | u64::from(version as u32)).draw();
        let size = match self {
            Sizes::Fixed(size) => *size,
            Sizes::Between([first, last]) => first + ((u64::from(drawn()) * u64::from(last - first + 1)) >> 32) as u32,
            Sizes::OneOf(list) => {
                let mut point = (u64::from(drawn()) * list.iter().map(|entry| u64::from(entry.weight)).sum::<u64>()) >> 32;
                let hit = list.iter().find(|entry| match point.checked_sub(u64::from(entry.weight)) {
                    None => true,
                    Some(rest) => {
                        point = rest;
                        false
                    }
                });
                hit.map_or(0, |entry| entry.size)
            }
        };
        size as usize
    }

    /// What is wrong with it.
    pub fn validate(&self) -> Result<(), String> {
        match self {
            Sizes::Between([first, last]) if first > last => Err(format!("size [{first}, {last}]: the first is the larger")),
            Sizes::OneOf(list) if list.iter().all(|entry| entry.weight == 0) => Err("size: no entry has a weight".into()),
            _ if self.max() > 8 << 20 => Err(format!("size {}: 8 MiB at most", self.max())),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Display for Sizes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Sizes::Fixed(size) => write!(f, "{size} B"),
            Sizes::Between([first, last]) => write!(f, "{first} to {last} B"),
            Sizes::OneOf(list) => {
                let parts: Vec<String> = list.iter().map(|entry| format!("{} x{}", entry.size, entry.weight)).collect();
                write!(f, "{} B", parts.join(", "))
            }
        }
    }
}

/// Data for any key and version.
pub struct Content {
    sizes: Sizes,
    filler: Vec<u8>,
}

impl Content {
    pub fn new(sizes: Sizes) -> Content {
        let mut dice = Dice::new(0x5eed);
        let filler = (0..sizes.max() + STARTS as usize).map(|_| dice.draw() as u8).collect();
        Content { sizes, filler }
    }

    /// Bytes of data of a key at a version.
    pub fn size(&self, key: u32, version: i32) -> usize {
        self.sizes.of(key, version)
    }

    fn head(key: u32, version: i32) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[..4].copy_from_slice(b"load");
        head[4..8].copy_from_slice(&key.to_be_bytes());
        head[8..].copy_from_slice(&version.to_be_bytes());
        head
    }

    fn tail(&self, key: u32, version: i32, size: usize) -> &[u8] {
        let start = ((u64::from(key) << 7) + version as u64) % STARTS;
        &self.filler[start as usize..][..size.saturating_sub(HEAD_BYTES)]
    }

    /// The version that data was written for; None if it is too short to tell.
    pub fn version_in(data: &[u8]) -> Option<i32> {
        data.get(8..HEAD_BYTES).map(|bytes| i32::from_be_bytes(bytes.try_into().expect("four bytes")))
    }

    /// Replaces `out` with the data of a key at a version.
    pub fn write(&self, key: u32, version: i32, out: &mut Vec<u8>) {
        let size = self.size(key, version);
        out.clear();
        out.extend_from_slice(&Content::head(key, version)[..HEAD_BYTES.min(size)]);
        out.extend_from_slice(self.tail(key, version, size));
    }

    /// Whether `data` is exactly what was written for this key and version.
    pub fn matches(&self, key: u32, version: i32, data: &[u8]) -> bool {
        let size = self.size(key, version);
        let head = &Content::head(key, version)[..HEAD_BYTES.min(size)];
        data.len() == size && data.starts_with(head) && &data[head.len()..] == self.tail(key, version, size)
    }
}

/// Appends `value` in decimal, with zeros in front up to `width` digits.
fn push_decimal(out: &mut String, mut value: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let mut start = digits.len();
    (digits.len()..width).for_each(|_| out.push('0'));
    while value > 0 || digits.len() - start < width.min(digits.len()) {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
    }
    digits[start..].iter().for_each(|&digit| out.push(digit as char));
}

/// How keys are spread over directories: the first key of each directory, and their number at the end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Directories {
    /// So many keys in each.
    Even(u32),
    Uneven(Arc<[u32]>),
}

impl Directories {
    /// Directories for `keys` keys, each with as many as the distribution draws for it, at least one.
    pub fn new(counts: &Sizes, keys: u32) -> Directories {
        if let Sizes::Fixed(count) = counts {
            return Directories::Even((*count).max(1));
        }
        let mut starts = vec![0];
        while let Some(&start) = starts.last().filter(|start| **start < keys) {
            let count = counts.of(starts.len() as u32, 0).max(1) as u32;
            starts.push(start.saturating_add(count).min(keys));
        }
        Directories::Uneven(starts.into())
    }

    /// The directory of a key.
    fn of(&self, key: u32) -> u32 {
        match self {
            Directories::Even(count) => key / count,
            Directories::Uneven(starts) => starts.partition_point(|start| *start <= key).saturating_sub(1) as u32,
        }
    }

    /// The keys of a directory, of `keys` in all.
    pub fn keys(&self, directory: u32, keys: u32) -> Range<u32> {
        match self {
            Directories::Even(count) => directory * count..keys.min((directory + 1).saturating_mul(*count)),
            Directories::Uneven(starts) => starts[directory as usize]..starts[directory as usize + 1],
        }
    }

    /// How many directories hold `keys` keys.
    pub fn count(&self, keys: u32) -> u32 {
        match self {
            Directories::Even(count) => keys.div_ceil(*count),
            Directories::Uneven(starts) => starts.len() as u32 - 1,
        }
    }
}

/// The names of all nodes of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Paths {
    /// The node under which everything happens.
    pub root: String,
    pub directories: Directories,
    /// How long the names of keys and of connections' own nodes are; shorter ones than a number needs are as long as it.
    pub names: Sizes,
}

impl Paths {
    /// Replaces `out` with the path of the `number`-th directory of keys.
    pub fn dir(&self, out: &mut String, number: u32) {
        self.begin(out, "/d", number, 4);
    }

    /// Replaces `out` with the path of `key`.
    pub fn key(&self, out: &mut String, key: u32) {
        self.dir(out, self.directories.of(key));
        out.push_str("/k");
        push_decimal(out, u64::from(key), self.digits(key, 7));
    }

    /// Replaces `out` with the directory in which connection `number` creates nodes.
    pub fn own_dir(&self, out: &mut String, number: u32) {
        self.begin(out, "/c", number, 4);
    }

    /// Replaces `out` with the path of the `sequence`-th node that connection `number` creates.
    pub fn own(&self, out: &mut String, number: u32, sequence: u32) {
        self.own_dir(out, number);
        out.push_str("/n");
        push_decimal(out, u64::from(sequence), self.digits(number ^ sequence, 8));
    }

    /// Digits of a name that has one letter in front of them: zeros make it longer.
    fn digits(&self, number: u32, least: usize) -> usize {
        self.names.of(number, 0).saturating_sub(1).max(least)
    }

    /// Replaces `out` with the `number`-th place where sequential nodes are made.
    pub fn line(&self, out: &mut String, number: u32) {
        self.begin(out, "/q", number, 4);
    }

    fn begin(&self, out: &mut String, kind: &str, number: u32, width: usize) {
        out.clear();
        out.push_str(&self.root);
        out.push_str(kind);
        push_decimal(out, u64::from(number), width);
    }
}

/// A small fast generator (xorshift64*): the same seed gives the same run.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn draw(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// A number in (0, 1], for logarithms.
    pub fn unit(&mut self) -> f64 {
        (f64::from(self.draw()) + 1.0) / (f64::from(u32::MAX) + 1.0)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u32) -> u32 {
        ((u64::from(self.draw()) * u64::from(end)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_differs_by_key_and_version_at_every_size() {
        for size in [0, 3, 12, 13, 100, 1024] {
            let content = Content::new(Sizes::Fixed(size as u32));
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
    fn sizes_follow_their_distribution_and_stay_the_same() {
        let list = vec![WeightedSize { size: 10, weight: 9 }, WeightedSize { size: 4000, weight: 1 }];
        let content = Content::new(Sizes::OneOf(list));
        let large = (0..10_000).filter(|&key| content.size(key, 3) == 4000).count();
        assert!((800..1200).contains(&large), "{large}");
        let (content, mut seen, mut data) = (Content::new(Sizes::Between([5, 14])), [0; 20], Vec::new());
        for key in 0..10_000 {
            content.write(key, 1, &mut data);
            assert!(content.matches(key, 1, &data));
            seen[data.len()] += 1;
        }
        assert!(seen.iter().enumerate().all(|(len, &count)| (count > 800) == (5..=14).contains(&len)), "{seen:?}");
        assert!(Sizes::Between([9, 8]).validate().is_err() && Sizes::Fixed(9 << 20).validate().is_err());
    }

    #[test]
    fn paths_follow_from_numbers() {
        let mut path = String::new();
        let mut paths = Paths { root: "/falconer-loadgen".into(), directories: Directories::Even(1000), names: Sizes::Fixed(0) };
        paths.key(&mut path, 12_345);
        assert_eq!(path, "/falconer-loadgen/d0012/k0012345");
        paths.own(&mut path, 7, 123_456_789);
        assert_eq!(path, "/falconer-loadgen/c0007/n123456789");
        paths.names = Sizes::Fixed(30);
        paths.own(&mut path, 7, 12);
        assert_eq!(path, "/falconer-loadgen/c0007/n00000000000000000000000000012");
    }

    #[test]
    fn directories_hold_every_key_once() {
        for counts in [Sizes::Fixed(7), Sizes::Between([1, 9]), Sizes::OneOf(vec![WeightedSize { size: 0, weight: 1 }])] {
            let directories = Directories::new(&counts, 100);
            let mut next = 0;
            for directory in 0..directories.count(100) {
                let keys = directories.keys(directory, 100);
                assert!(keys.start == next && keys.end > next, "{counts}: {keys:?}");
                assert!(keys.clone().all(|key| directories.of(key) == directory));
                next = keys.end;
            }
            assert_eq!(next, 100);
        }
    }

    #[test]
    fn dice_stay_in_range_and_hit_everything() {
        let mut dice = Dice::new(1);
        let mut seen = [false; 10];
        (0..1000).for_each(|_| seen[dice.below(10) as usize] = true);
        assert_eq!(seen, [true; 10]);
    }
}
