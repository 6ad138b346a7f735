//! The records of a snapshot. What loads is a tree: it can be walked, its counts agree, and written again it loads again.
#![no_main]

use falconer::tree::State;
use falconer::tree::snapshot::Loader;
use falconer_fuzz::history;
use libfuzzer_sys::fuzz_target;

fn load(records: &[u8]) -> Option<State> {
    let mut loader = Loader::new(true);
    loader.push(records).ok()?;
    loader.finish().ok()
}

fn walk(state: &State, path: &str) -> usize {
    let node = state.find(path).expect("a child that is listed is there");
    assert_eq!(node.path(), path);
    let children: Vec<&str> = node.children().collect();
    assert_eq!(children.len(), node.num_children() as usize);
    let below: usize = children.iter().map(|name| walk(state, &format!("{}/{name}", path.trim_end_matches('/')))).sum();
    assert_eq!(below, node.descendants() as usize);
    below + 1
}

fuzz_target!(|data: &[u8]| {
    let Some(mut state) = load(data) else { return };
    assert_eq!(walk(&state, "/"), state.node_count());
    let ephemerals: usize = state.sessions().map(|(id, _)| state.ephemerals(id).len()).sum();
    assert_eq!(ephemerals, state.ephemeral_count());
    assert_eq!(state.digest(), Some(state.compute_digest()));
    let again = load(&history::snapshot_records(&mut state)).expect("what was written loads");
    assert_eq!((again.digest(), again.node_count()), (state.digest(), state.node_count()));
});
