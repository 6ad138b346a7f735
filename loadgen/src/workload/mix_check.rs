//! Whether the replies to a mix are right. Refuses to send anything.

use super::Port;
use super::mix::{Mix, MixSent};
use super::watching::{Asked, Kind};
use crate::content::Content;
use crate::session::Reply;
use crate::tally::{Miss, Violation};
use falconer::wire::jute::{Malformed, Reader};
use falconer::wire::record::Stat;
use falconer::wire::request::opcode;
use falconer::wire::response::{Response, code};

type Checked = Result<(), Violation>;

impl Mix {
    /// Checks a reply against what was asked and what is known.
    pub(super) fn check(&mut self, port: &mut Port<'_, MixSent>, reply: &Reply<'_, MixSent>) -> Checked {
        let sent = reply.what;
        if let MixSent::CreateSequential = sent {
            self.own[port.index].awaited -= 1;
        }
        match (sent, reply.header.err) {
            (MixSent::Watch(asked), err) => return self.check_watch(port, asked, err, reply.body),
            (_, code::OK) => {}
            (MixSent::Delete { sequence }, code::NO_NODE) if self.own[port.index].unsure.remove(&sequence) => return Ok(()),
            (_, code) => return Err(port.bad_code(&format!("{sent:?}"), code)),
        }
        let mut reader = Reader::new(reply.body);
        let malformed = |_: Malformed| Violation::new(Miss::Malformed, format!("{sent:?}: the reply does not parse"));
        match sent {
            MixSent::Watch(_) => unreachable!("checked above"),
            MixSent::Get { key, floor } => {
                let data = reader.buffer().map_err(malformed)?.unwrap_or(&[]);
                let stat = Stat::decode(&mut reader).map_err(malformed)?;
                self.check_read(key, floor, Some(data), &stat)?;
                self.check_shown(port.index, key, &stat)?;
            }
            MixSent::Exists { key, floor } => {
                let stat = Stat::decode(&mut reader).map_err(malformed)?;
                self.check_read(key, floor, None, &stat)?;
                self.check_shown(port.index, key, &stat)?;
            }
            MixSent::List { dir } => self.check_list(dir, &mut reader).unwrap_or_else(|bad| Err(malformed(bad)))?,
            MixSent::Sync => drop(reader.required().map_err(malformed)?),
            MixSent::Set { key, label } => {
                let stat = Stat::decode(&mut reader).map_err(malformed)?;
                self.check_set(key, label, &stat)?;
                self.check_shown(port.index, key, &stat)?;
            }
            MixSent::Create { sequence } => {
                let number = self.plan.numbers.start + port.index as u32;
                self.plan.paths.own(&mut self.path, number, sequence);
                self.check_path(&reader.required().map_err(malformed)?)?;
            }
            MixSent::CreateSequential => self.check_sequential(port.index, &reader.required().map_err(malformed)?)?,
            MixSent::Delete { .. } | MixSent::DeleteSequential { .. } => {}
            MixSent::MultiSet { .. } | MixSent::MultiCreate { .. } | MixSent::MultiDelete { .. } | MixSent::MultiGet { .. } => {
                let response = Response::decode(opcode::MULTI, &mut reader).map_err(malformed)?;
                self.check_multi(port, sent, &response)?;
            }
        }
        match reader.rest().is_empty() {
            true => Ok(()),
            false => Err(malformed(Malformed)),
        }
    }

    fn check_shown(&self, index: usize, key: u32, stat: &Stat) -> Checked {
        self.watching.shown(index, (key - self.plan.keys.start) as usize, stat.version)
    }

    /// The reply to something that was asked for the sake of a watch.
    fn check_watch(&mut self, port: &mut Port<'_, MixSent>, asked: Asked, err: i32, body: &[u8]) -> Checked {
        let mut reader = Reader::new(body);
        let malformed = |_: Malformed| Violation::new(Miss::Malformed, format!("{asked:?}: the reply does not parse"));
        let (Asked::Set(place) | Asked::Look(place)) = asked else {
            return if err == code::OK { Ok(()) } else { Err(port.bad_code("setWatches", err)) };
        };
        let watch = self.watching.watch(port.index, place);
        let (kind, at) = (watch.kind, watch.at);
        let shown = match (kind, err) {
            (Kind::Exist, code::NO_NODE) => Some(0),
            (Kind::Exist, code::OK) => Some(1),
            (_, code::OK) => {
                let set_for_good = matches!((asked, kind), (Asked::Set(_), Kind::Persistent | Kind::Recursive));
                if set_for_good { None } else { Some(self.check_watched(asked, kind, at, &mut reader).map_err(malformed)??) }
            }
            _ => return Err(port.bad_code(&format!("{kind:?} watch: {asked:?}"), err)),
        };
        match (asked, shown) {
            (Asked::Look(_), Some(shown)) => self.watching.looked(port.index, place, shown),
            _ => {
                let next = self.watching.was_set(port.index, place, shown);
                next.into_iter().for_each(|next| self.watching.ask(port, next, MixSent::Watch(next)));
                Ok(())
            }
        }
    }

    /// What the node of a watch shows, by a get, a list or an exists.
    fn check_watched(&mut self, asked: Asked, kind: Kind, at: usize, reader: &mut Reader<'_>) -> Result<Result<i64, Violation>, Malformed> {
        let mut data = None;
        match (asked, kind) {
            (Asked::Set(_), Kind::Data) => data = Some(reader.buffer()?.unwrap_or(&[])),
            (Asked::Set(_), Kind::Child) => {
                for _ in 0..reader.vector(4)?.unwrap_or(0) {
                    reader.utf8()?;
                }
            }
            _ => {}
        }
        let stat = Stat::decode(reader)?;
        Ok(match kind.is_of_key() {
            true => self.check_read(self.plan.keys.start + at as u32, 0, data, &stat).map(|()| i64::from(stat.version)),
            false => Ok(i64::from(stat.cversion)),
        })
    }

    fn check_path(&self, got: &str) -> Checked {
        match got == self.path {
            true => Ok(()),
            false => Err(Violation::new(Miss::Path, format!("created {got:?} instead of {:?}", self.path))),
        }
    }

    fn check_read(&mut self, key: u32, floor: i32, data: Option<&[u8]>, stat: &Stat) -> Checked {
        let known = self.keys[(key - self.plan.keys.start) as usize];
        let (got, newest) = (stat.version, known.sent - known.skew);
        if got < floor {
            let text = format!("key {key}: stale read: version {got}, but version {floor} was already known");
            return Err(Violation::new(Miss::StaleRead, text));
        }
        if got > newest {
            let text = format!("key {key}: version {got}, but only {newest} was ever written");
            return Err(Violation::new(Miss::FromTheFuture, text));
        }
        let lost = known.skew + known.unsure;
        let label = match data {
            // Sets that were lost make the number in the data run ahead of the version.
            Some(data) if lost > 0 => Content::version_in(data).unwrap_or(got),
            _ => got,
        };
        let right = match data {
            Some(data) => (0..=lost).contains(&(label - got)) && self.content.matches(key, label, data),
            None => lost > 0 || stat.data_length as usize == self.content.size(key, label),
        };
        if !right || data.is_some_and(|data| stat.data_length as usize != data.len()) {
            let bytes = data.map_or(stat.data_length as usize, <[u8]>::len);
            let expected = self.content.size(key, label);
            let text = format!("key {key}: the data of version {got} is not what was written ({bytes} bytes, {expected} expected)");
            return Err(Violation::new(Miss::Data, text));
        }
        self.learn(key, stat)
    }

    fn check_set(&mut self, key: u32, label: i32, stat: &Stat) -> Checked {
        let known = &mut self.keys[(key - self.plan.keys.start) as usize];
        let (last, first) = (label - known.skew, label - known.skew - known.unsure);
        if !(first..=last).contains(&stat.version) {
            let text = format!("key {key}: set made version {} instead of {last}: a write was lost or repeated", stat.version);
            return Err(Violation::new(Miss::Version, text));
        }
        (known.skew, known.unsure) = (label - stat.version, 0);
        let (got, expected) = (stat.data_length as usize, self.content.size(key, label));
        if got != expected {
            let text = format!("key {key}: version {} is {got} bytes long, {expected} were written", stat.version);
            return Err(Violation::new(Miss::Data, text));
        }
        self.learn(key, stat)
    }

    /// A newer version must have a newer mzxid, the same version the same one.
    fn learn(&mut self, key: u32, stat: &Stat) -> Checked {
        let known = &mut self.keys[(key - self.plan.keys.start) as usize];
        let right = match stat.version.cmp(&known.seen) {
            _ if known.mzxid == 0 => true,
            std::cmp::Ordering::Less => stat.mzxid < known.mzxid,
            std::cmp::Ordering::Equal => stat.mzxid == known.mzxid,
            std::cmp::Ordering::Greater => stat.mzxid > known.mzxid,
        };
        if !right {
            let (version, mzxid) = (stat.version, stat.mzxid);
            let text = format!("key {key}: version {version} with mzxid {mzxid:#x}, but version {} had {:#x}", known.seen, known.mzxid);
            return Err(Violation::new(Miss::Mzxid, text));
        }
        if stat.version >= known.seen {
            (known.seen, known.mzxid) = (stat.version, stat.mzxid);
        }
        Ok(())
    }

    /// The directory's children are exactly its keys: as many, and with the same sum of numbers.
    fn check_list(&self, dir: u32, reader: &mut Reader<'_>) -> Result<Checked, Malformed> {
        let keys = self.plan.paths.directories.keys(dir, self.plan.keys_total);
        let expected = keys.len();
        let count = reader.vector(4)?.unwrap_or(0);
        let mut sum = 0;
        for _ in 0..count {
            let name = reader.utf8()?;
            sum += name.get(1..).and_then(|digits| digits.parse::<u64>().ok()).unwrap_or(0);
        }
        let stat = Stat::decode(reader)?;
        let expected_sum: u64 = keys.map(u64::from).sum();
        let right = count == expected && stat.num_children == expected as i32 && sum == expected_sum;
        Ok(match right {
            true => Ok(()),
            false => {
                let text = format!("directory {dir}: {count} names, numChildren {}, {expected} keys were created", stat.num_children);
                Err(Violation::new(Miss::List, text))
            }
        })
    }

    /// Numbers grow for each connection; that nobody else got the same is seen at the end.
    fn check_sequential(&mut self, index: usize, path: &str) -> Checked {
        self.plan.paths.line(&mut self.path, 0);
        let name = path.strip_prefix(self.path.as_str()).and_then(|rest| rest.strip_prefix("/s-"));
        let Some(counter) = name.filter(|name| name.len() == 10).and_then(|name| name.parse::<u32>().ok()) else {
            return Err(Violation::new(Miss::Path, format!("created {path:?}, not {}/s- and ten digits", self.path)));
        };
        let own = &mut self.own[index];
        let before = own.last_counter.replace(counter);
        own.counters.push_back(counter);
        self.given.push(counter);
        match before {
            Some(before) if before >= counter => {
                let text = format!("sequence number {counter} was given after {before}");
                Err(Violation::new(Miss::Sequence, text))
            }
            _ => Ok(()),
        }
    }

    fn check_multi(&mut self, port: &mut Port<'_, MixSent>, sent: MixSent, response: &Response<'_>) -> Checked {
        let Response::Multi(results) = response else { unreachable!("decoded as a multi") };
        let (MixSent::MultiSet { count, .. }
        | MixSent::MultiCreate { count, .. }
        | MixSent::MultiDelete { count, .. }
        | MixSent::MultiGet { count, .. }) = sent
        else {
            unreachable!("only multis come here")
        };
        if results.len() != count as usize {
            let text = format!("{sent:?}: {} results for {count} operations", results.len());
            return Err(Violation::new(Miss::List, text));
        }
        for (at, result) in results.iter().enumerate() {
            let at = at as u32;
            let response = match &result.result {
                Ok(response) => response,
                Err(code) => return Err(port.bad_code(&format!("{sent:?}, operation {at}"), *code)),
            };
            match (sent, response) {
                (MixSent::MultiSet { first, .. }, Response::Stat(stat)) => {
                    let offset = self.owned_offset(port.index, first + at);
                    self.check_part(offset, stat)?;
                }
                (MixSent::MultiCreate { sequence, .. }, Response::Path(path)) => {
                    let number = self.plan.numbers.start + port.index as u32;
                    self.plan.paths.own(&mut self.path, number, sequence + at);
                    self.check_path(path)?;
                }
                (MixSent::MultiDelete { .. }, Response::Done) => {}
                (MixSent::MultiGet { first, .. }, Response::Data(data, stat)) => {
                    self.check_read(self.plan.keys.start + first + at, 0, Some(data.unwrap_or(&[])), stat)?;
                }
                _ => return Err(Violation::new(Miss::Malformed, format!("{sent:?}: a result of another kind"))),
            }
        }
        Ok(())
    }

    /// A set in a multi: the next version, though other sets may be on their way behind it.
    fn check_part(&mut self, offset: usize, stat: &Stat) -> Checked {
        let known = self.keys[offset];
        let key = self.plan.keys.start + offset as u32;
        let newest = known.sent - known.skew;
        if stat.version <= 0 || stat.version > newest {
            let text = format!("key {key}: set made version {}, but only {newest} were sent", stat.version);
            return Err(Violation::new(Miss::Version, text));
        }
        self.learn(key, stat)
    }
}

#[cfg(test)]
#[path = "mix_tests.rs"]
mod tests;
