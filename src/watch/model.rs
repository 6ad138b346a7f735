//! A naive pair of watch tables, written as ZooKeeper's rules read, to compare with. For tests only.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Mode {
    Standard,
    Persistent,
    Recursive,
}

/// path -> connection -> modes.
#[derive(Default)]
struct Table(BTreeMap<String, BTreeMap<u64, BTreeSet<Mode>>>);

impl Table {
    fn add(&mut self, path: &str, conn: u64, mode: Mode) {
        self.0.entry(path.into()).or_default().entry(conn).or_default().insert(mode);
    }

    fn remove(&mut self, path: &str, conn: u64, mode: Option<Mode>) -> bool {
        let Some(modes) = self.0.get_mut(path).and_then(|w| w.get_mut(&conn)) else { return false };
        let before = modes.len();
        modes.retain(|m| mode.is_some_and(|mode| *m != mode));
        let removed = modes.len() < before;
        self.tidy();
        removed
    }

    fn has(&self, path: &str, conn: u64, mode: Option<Mode>) -> bool {
        self.0.get(path).and_then(|w| w.get(&conn)).is_some_and(|modes| mode.is_none_or(|m| modes.contains(&m)))
    }

    fn tidy(&mut self) {
        self.0.values_mut().for_each(|conns| conns.retain(|_, modes| !modes.is_empty()));
        self.0.retain(|_, conns| !conns.is_empty());
    }

    fn trigger(&mut self, path: &str) -> BTreeSet<u64> {
        let mut told = BTreeSet::new();
        for (conn, modes) in self.0.get_mut(path).into_iter().flatten() {
            told.insert(*conn);
            modes.remove(&Mode::Standard);
        }
        let mut above = path;
        while let Some(parent) = path::parent(above) {
            above = parent;
            told.extend(self.0.get(above).into_iter().flatten().filter(|(_, modes)| modes.contains(&Mode::Recursive)).map(|(c, _)| *c));
        }
        self.tidy();
        told
    }

    fn size(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }
}

#[derive(Default)]
struct Model {
    data: Table,
    child: Table,
}

impl Model {
    fn add(&mut self, path: &str, conn: u64, kind: WatchKind) {
        match kind {
            WatchKind::Data => self.data.add(path, conn, Mode::Standard),
            WatchKind::Child => self.child.add(path, conn, Mode::Standard),
            WatchKind::Persistent => {
                self.data.add(path, conn, Mode::Persistent);
                self.child.add(path, conn, Mode::Persistent);
            }
            WatchKind::PersistentRecursive => self.data.add(path, conn, Mode::Recursive),
        }
    }

    fn remove(&mut self, path: &str, conn: u64, kind: WatcherType) -> bool {
        let (data, child) = (&mut self.data, &mut self.child);
        match kind {
            WatcherType::Children => child.remove(path, conn, Some(Mode::Standard)),
            WatcherType::Data => data.remove(path, conn, Some(Mode::Standard)),
            WatcherType::Any => data.remove(path, conn, None) | child.remove(path, conn, None),
            WatcherType::Persistent => data.remove(path, conn, Some(Mode::Persistent)) | child.remove(path, conn, Some(Mode::Persistent)),
            WatcherType::PersistentRecursive => data.remove(path, conn, Some(Mode::Recursive)),
        }
    }

    fn check(&self, path: &str, conn: u64, kind: WatcherType) -> bool {
        match kind {
            WatcherType::Children => self.child.has(path, conn, Some(Mode::Standard)),
            WatcherType::Data => self.data.has(path, conn, Some(Mode::Standard)),
            WatcherType::Any => self.data.has(path, conn, None) || self.child.has(path, conn, None),
            WatcherType::Persistent => self.data.has(path, conn, Some(Mode::Persistent)),
            WatcherType::PersistentRecursive => self.data.has(path, conn, Some(Mode::Recursive)),
        }
    }

    fn drop_conn(&mut self, conn: u64) {
        for table in [&mut self.data, &mut self.child] {
            table.0.values_mut().for_each(|conns| drop(conns.remove(&conn)));
            table.tidy();
        }
    }

    fn fire(&mut self, path: &str, change: usize) -> Vec<Fired> {
        let parent = path::parent(path).unwrap_or("/");
        let kind = [event::NODE_CREATED, event::NODE_DELETED, event::NODE_DATA_CHANGED][change];
        let told = self.data.trigger(path);
        let mut fired: Vec<(u64, i32)> = told.iter().map(|c| (*c, kind)).collect();
        if kind == event::NODE_DELETED {
            fired.extend(self.child.trigger(path).difference(&told).map(|c| (*c, kind)));
        }
        if kind != event::NODE_DATA_CHANGED {
            fired.extend(self.child.trigger(parent).iter().map(|c| (*c, event::NODE_CHILDREN_CHANGED)));
        }
        fired.into_iter().map(|(conn, kind)| Fired { conn: ConnId(conn), kind }).collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Add(usize, u64, usize),
    Remove(usize, u64, usize),
    Change(usize, usize),
    DropConn(u64),
}

/// The last two name no node, but can be watched.
const PATHS: [&str; 10] = ["/", "/a", "/ab", "/a/b", "/a/b/c", "/a/c", "/ä/b", "/ä", "nonsense", ""];
const KINDS: [WatchKind; 4] = [WatchKind::Data, WatchKind::Child, WatchKind::Persistent, WatchKind::PersistentRecursive];

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..PATHS.len(), 1..6u64, 0..4usize).prop_map(|(p, c, k)| Step::Add(p, c, k)),
        2 => (0..PATHS.len(), 1..6u64, 1..6usize).prop_map(|(p, c, k)| Step::Remove(p, c, k)),
        8 => (0..PATHS.len() - 2, 0..3usize).prop_map(|(p, change)| Step::Change(p, change)),
        1 => (1..6u64).prop_map(Step::DropConn),
    ]
}

fn fire(watches: &mut Watches, path: &str, change: usize) -> Vec<Fired> {
    let mut out = Vec::new();
    match change {
        0 => watches.created(path, &mut out),
        1 => watches.deleted(path, &mut out),
        _ => watches.data_changed(path, &mut out),
    }
    out
}

fn compare(watches: &Watches, model: &Model) {
    let (data, child) = (&model.data.0, &model.child.0);
    let conns = |tables: &[&BTreeMap<String, BTreeMap<u64, BTreeSet<Mode>>>]| -> BTreeSet<u64> {
        tables.iter().flat_map(|t| t.values()).flat_map(|w| w.keys().copied()).collect()
    };
    let counts = DataWatches { conns: conns(&[data]).len(), paths: data.len(), watches: model.data.size() };
    assert_eq!(watches.data_watches(), counts);
    assert_eq!(watches.watch_count(), counts.watches + model.child.size());
    assert_eq!(watches.paths.len(), data.keys().chain(child.keys()).collect::<BTreeSet<_>>().len());
    assert_eq!(watches.conns.len(), conns(&[data, child]).len());
    assert_eq!(watches.is_empty(), data.is_empty() && child.is_empty());
    let mut listed = BTreeSet::new();
    watches.for_each_data(|conn, path| assert!(listed.insert((path.to_owned(), conn.0))));
    let expected = data.iter().flat_map(|(p, w)| w.keys().map(|c| (p.clone(), *c))).collect();
    assert_eq!(listed, expected);
    for (path, conn, kind) in PATHS.iter().flat_map(|p| (1..6).flat_map(move |c| (1..6).map(move |k| (p, c, k)))) {
        let kind = WatcherType::from_wire(kind).unwrap();
        assert_eq!(watches.check(path, ConnId(conn), kind), model.check(path, conn, kind));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn watches_agree_with_the_model(steps in prop::collection::vec(step(), 1..120)) {
        let (mut watches, mut model) = (Watches::default(), Model::default());
        for step in steps {
            match step {
                Step::Add(path, conn, kind) => {
                    watches.add(PATHS[path], ConnId(conn), KINDS[kind]);
                    model.add(PATHS[path], conn, KINDS[kind]);
                }
                Step::Remove(path, conn, kind) => {
                    let kind = WatcherType::from_wire(kind as i32).unwrap();
                    prop_assert_eq!(watches.remove(PATHS[path], ConnId(conn), kind), model.remove(PATHS[path], conn, kind));
                }
                Step::Change(path, change) => prop_assert_eq!(fire(&mut watches, PATHS[path], change), model.fire(PATHS[path], change)),
                Step::DropConn(conn) => {
                    watches.drop_conn(ConnId(conn));
                    model.drop_conn(conn);
                }
            }
            compare(&watches, &model);
        }
    }
}

#[test]
fn a_deletion_is_told_once_and_uses_up_both_watches() {
    let mut watches = Watches::default();
    for kind in [WatchKind::Data, WatchKind::Child] {
        watches.add("/a/b", ConnId(1), kind);
    }
    watches.add("/a", ConnId(1), WatchKind::Child);
    watches.add("/a", ConnId(2), WatchKind::PersistentRecursive);
    let event = |conn, kind| Fired { conn: ConnId(conn), kind };
    let told = [event(1, event::NODE_DELETED), event(2, event::NODE_DELETED), event(1, event::NODE_CHILDREN_CHANGED)];
    assert_eq!(fire(&mut watches, "/a/b", 1), told);
    assert_eq!(fire(&mut watches, "/a/b", 1), [event(2, event::NODE_DELETED)]);
    watches.drop_conn(ConnId(2));
    assert!(watches.is_empty() && watches.recursive.is_empty() && watches.paths.len() == 0);
}

#[test]
fn a_new_watch_of_a_path_just_freed_is_a_new_watch() {
    let mut watches = Watches::default();
    watches.add("/a", ConnId(1), WatchKind::Data);
    assert_eq!(fire(&mut watches, "/a", 2).len(), 1);
    watches.add("/b", ConnId(1), WatchKind::Data);
    assert_eq!(fire(&mut watches, "/a", 2), []);
    assert_eq!(fire(&mut watches, "/b", 2).len(), 1);
}
