//! The watches of a mix: every connection keeps some of each kind, sets a one-shot one again when it has fired, and takes
//! all of them along when its session is taken up again (setWatches), as client libraries do. No two watches of one
//! connection can be told of the same change, so every event belongs to exactly one of them.
//!
//! Checked: an event that nobody asked for, or that came twice; a reply that shows a change before the event that tells it;
//! and at the end, that no event is missing. Refuses to know how keys and nodes come about.

use crate::session::{Session, Span};
use crate::tally::{Miss, Violation};
use crate::workload::Port;
use falconer::wire::jute::{write_i32, write_string};
use falconer::wire::request::{Request, SetWatches, StringList};
use std::collections::HashMap;

/// When the last so many changes of a watched key were due is remembered.
const REMEMBERED: usize = 64;
/// Modes of addWatch on the wire.
const PERSISTENT: i32 = 0;
const PERSISTENT_RECURSIVE: i32 = 1;

/// What kind of watch. `at` of the kinds on keys is the key's place, of the others a neighbour's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A key, one shot, set by reading it.
    Data,
    /// A neighbour's directory, one shot, set by listing it.
    Child,
    /// The node that a neighbour creates next, one shot, set by asking whether it exists.
    Exist,
    /// A key, for good.
    Persistent,
    /// A neighbour's directory and all below it, for good.
    Recursive,
}

impl Kind {
    fn is_one_shot(self) -> bool {
        matches!(self, Kind::Data | Kind::Child | Kind::Exist)
    }

    /// Whether it is about a key.
    pub fn is_of_key(self) -> bool {
        matches!(self, Kind::Data | Kind::Persistent)
    }
}

/// What was asked for the sake of a watch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// Sets the watch in this place.
    Set(u32),
    /// Looks, without watching, what its node is like now.
    Look(u32),
    /// Takes all watches along to another connection.
    Restore,
}

/// What a node shows that its changes count up: the version of a key, the cversion of a directory, whether a node exists.
pub type Shown = i64;

/// One watch of one connection.
#[derive(Clone, Debug)]
pub struct Watch {
    pub kind: Kind,
    pub at: usize,
    pub path: String,
    /// The server has it.
    set: bool,
    /// One shot: what its node showed when it was set. For good: what the node showed less the events until then.
    seen: Option<Shown>,
    /// Events since it was set or restored.
    events: i64,
}

/// The watches of one worker's connections.
#[derive(Default)]
pub struct Watching {
    of: Vec<Vec<Watch>>,
    /// When changes of watched keys were due, by version modulo [`REMEMBERED`].
    due_ns: HashMap<usize, [u64; REMEMBERED]>,
    settled: Vec<bool>,
}

/// What follows from an event.
pub enum Told {
    /// It is to be set again, at the same node or, after [`Kind::Exist`], another one.
    SetAgain(u32),
    Stays,
}

impl Watching {
    /// `wanted` are kinds and places for each connection; the paths are set by whoever knows them.
    pub fn new(wanted: Vec<Vec<(Kind, usize, String)>>) -> Watching {
        let watch = |(kind, at, path)| Watch { kind, at, path, set: false, seen: None, events: 0 };
        let settled = vec![false; wanted.len()];
        let of: Vec<Vec<Watch>> = wanted.into_iter().map(|list| list.into_iter().map(watch).collect()).collect();
        let keys = of.iter().flatten().filter(|watch| watch.kind.is_of_key());
        let due_ns = keys.map(|watch| (watch.at, [0; REMEMBERED])).collect();
        Watching { of, due_ns, settled }
    }

    pub fn watch(&mut self, index: usize, place: u32) -> &mut Watch {
        &mut self.of[index][place as usize]
    }

    /// A session has been opened or taken up again: what is to be asked, in order.
    pub fn opened(&mut self, index: usize, resumed: bool) -> Vec<Asked> {
        let mut asked = Vec::new();
        for (place, watch) in self.of[index].iter_mut().enumerate() {
            watch.set &= resumed;
            watch.events = 0;
            if !watch.set || !watch.kind.is_one_shot() {
                watch.seen = None;
            }
            match (watch.set, watch.kind.is_one_shot()) {
                (false, _) => asked.push(Asked::Set(place as u32)),
                (true, false) => asked.push(Asked::Look(place as u32)),
                (true, true) => {}
            }
        }
        if self.of[index].iter().any(|watch| watch.set) {
            asked.insert(0, Asked::Restore);
        }
        asked
    }

    /// Sends what `asked` says.
    pub fn ask<S>(&self, port: &mut Port<'_, S>, asked: Asked, what: S) {
        let span = Span { due_ns: port.now_ns, begun_ns: port.now_ns };
        let request = match asked {
            Asked::Restore => return self.restore(port, what, span),
            Asked::Look(place) => {
                let path = self.of[port.index][place as usize].path.as_str().into();
                Request::Exists { path, watch: false }
            }
            Asked::Set(place) => {
                let watch = &self.of[port.index][place as usize];
                let path = watch.path.as_str().into();
                match watch.kind {
                    Kind::Data => Request::GetData { path, watch: true },
                    Kind::Child => Request::GetChildren2 { path, watch: true },
                    Kind::Exist => Request::Exists { path, watch: true },
                    Kind::Persistent => Request::AddWatch { path, mode: PERSISTENT },
                    Kind::Recursive => Request::AddWatch { path, mode: PERSISTENT_RECURSIVE },
                }
            }
        };
        *port.running += 1;
        port.send(&request, what, span);
    }

    fn restore<S>(&self, port: &mut Port<'_, S>, what: S, span: Span) {
        let list = |wanted: &dyn Fn(&Watch) -> bool| {
            let paths = || self.of[port.index].iter().filter(|watch| watch.set && wanted(watch));
            let mut raw = Vec::new();
            write_i32(&mut raw, paths().count() as i32);
            paths().for_each(|watch| write_string(&mut raw, &watch.path));
            raw
        };
        // A watch by exists on a node that is there waits for its data and its end, as one by getData does.
        let exists = |watch: &Watch| watch.kind == Kind::Exist && watch.seen != Some(1);
        let data = list(&|watch| watch.kind == Kind::Data || (watch.kind == Kind::Exist && !exists(watch)));
        let (exist, child) = (list(&exists), list(&|watch| watch.kind == Kind::Child));
        let (persistent, recursive) = (list(&|watch| watch.kind == Kind::Persistent), list(&|watch| watch.kind == Kind::Recursive));
        let read = |raw| StringList::from_encoded(raw).expect("just encoded");
        let set = SetWatches {
            relative_zxid: port.session.last_zxid(),
            data: read(&data),
            exist: read(&exist),
            child: read(&child),
            persistent: read(&persistent),
            persistent_recursive: read(&recursive),
        };
        // Servers from before persistent watches know only the first form.
        let newer = !set.persistent.is_empty() || !set.persistent_recursive.is_empty();
        let request = if newer { Request::SetWatches2(set) } else { Request::SetWatches(set) };
        *port.running += 1;
        Session::set_watches(port.session, &request, what, span, port.now_ns);
    }

    /// The reply to [`Asked::Set`]: what the node shows, if the reply says it.
    pub fn was_set(&mut self, index: usize, place: u32, shown: Option<Shown>) -> Option<Asked> {
        let watch = self.watch(index, place);
        watch.set = true;
        match watch.kind.is_one_shot() {
            true => watch.seen = shown,
            // Its count begins with what the node is like now.
            false => return Some(Asked::Look(place)),
        }
        None
    }

    /// The reply to [`Asked::Look`].
    pub fn looked(&mut self, index: usize, place: u32, shown: Shown) -> Result<(), Violation> {
        let watch = self.watch(index, place);
        let Watch { kind, ref path, set, seen, events, .. } = *watch;
        let miss = |miss, text: String| Err(Violation::new(miss, format!("{kind:?} watch of {path}: {text}")));
        match seen {
            _ if !set => {}
            Some(seen) if kind.is_one_shot() && seen != shown => {
                return miss(Miss::LostEvent, format!("set at {seen}, now {shown}, and no event"));
            }
            Some(seen) if !kind.is_one_shot() && shown - seen > events => {
                return miss(Miss::LostEvent, format!("{} changes and {events} events", shown - seen));
            }
            Some(seen) if !kind.is_one_shot() && shown - seen < events => {
                return miss(Miss::DuplicateEvent, format!("{} changes and {events} events", shown - seen));
            }
            None if !kind.is_one_shot() => watch.seen = Some(shown - events),
            _ => {}
        }
        Ok(())
    }

    /// A reply to this connection shows a key at a version: its event, if one was asked for, must have come before.
    pub fn shown(&self, index: usize, key: usize, version: i32) -> Result<(), Violation> {
        let watch = self.of[index].iter().find(|watch| watch.kind == Kind::Data && watch.at == key && watch.set);
        match watch.and_then(|watch| Some((watch, watch.seen?))) {
            Some((watch, seen)) if i64::from(version) > seen => {
                let text = format!("{}: watched at version {seen}, now {version}, and no event", watch.path);
                Err(Violation::new(Miss::LostEvent, text))
            }
            _ => Ok(()),
        }
    }

    /// A change of a key is asked for, to be made by its `version`.
    pub fn will_change(&mut self, key: usize, version: i32, due_ns: u64) {
        if let Some(due) = self.due_ns.get_mut(&key) {
            due[version as usize % REMEMBERED] = due_ns;
        }
    }

    /// An event. What follows, and of a key when the change was due.
    pub fn told(&mut self, index: usize, path: &str) -> Result<(Told, Option<u64>), Violation> {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let fits = |watch: &Watch| watch.path == path || (watch.kind == Kind::Recursive && watch.path == parent);
        let watches = self.of.get_mut(index).into_iter().flatten();
        let Some((place, watch)) = watches.enumerate().find(|(_, watch)| watch.set && fits(watch)) else {
            let text = format!("an event for {path}, which was not watched, or a second one");
            return Err(Violation::new(Miss::DuplicateEvent, text));
        };
        watch.events += 1;
        let version = watch.seen.map(|seen| if watch.kind.is_one_shot() { seen + 1 } else { seen + watch.events });
        let due = |due: &[u64; REMEMBERED]| due[version? as usize % REMEMBERED].into();
        let due_ns = if watch.kind.is_of_key() { self.due_ns.get(&watch.at).and_then(due) } else { None };
        let told = if watch.kind.is_one_shot() {
            (watch.set, watch.seen) = (false, None);
            Told::SetAgain(place as u32)
        } else {
            Told::Stays
        };
        Ok((told, due_ns))
    }

    /// Nothing more will change for this connection's sake: what is to be asked before it closes. Once.
    pub fn settle(&mut self, index: usize) -> Vec<Asked> {
        if std::mem::replace(&mut self.settled[index], true) {
            return Vec::new();
        }
        (0..self.of[index].len() as u32).map(Asked::Look).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watching(kind: Kind) -> Watching {
        Watching::new(vec![vec![(kind, 3, "/r/d/k".into())]])
    }

    #[test]
    fn a_one_shot_watch_fires_once_and_is_set_again() {
        let mut watching = watching(Kind::Data);
        assert_eq!(watching.opened(0, false), [Asked::Set(0)]);
        assert!(watching.was_set(0, 0, Some(5)).is_none());
        watching.will_change(3, 6, 77);
        assert!(watching.shown(0, 3, 5).is_ok());
        assert_eq!(watching.shown(0, 3, 6).unwrap_err().miss, Miss::LostEvent);
        let (told, due_ns) = watching.told(0, "/r/d/k").unwrap();
        assert!(matches!(told, Told::SetAgain(0)) && due_ns == Some(77));
        assert!(watching.shown(0, 3, 6).is_ok());
        assert_eq!(watching.told(0, "/r/d/k").err().unwrap().miss, Miss::DuplicateEvent);
    }

    #[test]
    fn a_change_that_nobody_told_is_seen_at_the_end() {
        for kind in [Kind::Data, Kind::Child, Kind::Exist] {
            let mut watching = watching(kind);
            watching.was_set(0, 0, Some(0));
            assert_eq!(watching.settle(0), [Asked::Look(0)]);
            assert!(watching.looked(0, 0, 0).is_ok());
            assert_eq!(watching.looked(0, 0, 1).unwrap_err().miss, Miss::LostEvent);
            assert!(watching.settle(0).is_empty());
        }
    }

    #[test]
    fn a_watch_for_good_tells_every_change_once() {
        let mut watching = watching(Kind::Recursive);
        assert_eq!(watching.was_set(0, 0, None), Some(Asked::Look(0)));
        // A change before the first look counts as one before it.
        assert!(watching.told(0, "/r/d/k/n1").is_ok());
        watching.looked(0, 0, 10).unwrap();
        assert!(watching.told(0, "/r/d/k/n2").is_ok() && watching.looked(0, 0, 11).is_ok());
        assert_eq!(watching.looked(0, 0, 12).unwrap_err().miss, Miss::LostEvent);
        assert!(watching.told(0, "/r/d/k/n2").is_ok());
        assert_eq!(watching.looked(0, 0, 11).unwrap_err().miss, Miss::DuplicateEvent);
        assert!(watching.told(0, "/r/d/other").is_err());
    }

    #[test]
    fn watches_come_along_when_a_session_is_taken_up_again_and_die_with_it() {
        let mut watching = Watching::new(vec![vec![(Kind::Data, 3, "/k".into()), (Kind::Persistent, 4, "/l".into())]]);
        assert_eq!(watching.opened(0, true), [Asked::Set(0), Asked::Set(1)], "none was set yet");
        watching.was_set(0, 0, Some(1));
        watching.was_set(0, 1, None);
        assert_eq!(watching.opened(0, true), [Asked::Restore, Asked::Look(1)]);
        assert_eq!(watching.opened(0, false), [Asked::Set(0), Asked::Set(1)]);
        assert!(watching.told(0, "/k").is_err());
    }
}
