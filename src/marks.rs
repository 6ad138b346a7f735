//! Two switches for tests, both empty in a release build: `mark!` notes that a rare path was taken, so that a run can say
//! which ones it never saw; `mutant!` brings one known bug back, chosen at run time in a build with the feature `mutants`,
//! so that the simulator can be asked whether it would notice. Refuses to change anything else.

/// Notes that this line was reached. The name is what a report shows.
#[macro_export]
macro_rules! mark {
    ($name:literal) => {{
        #[cfg(any(test, feature = "mutants"))]
        $crate::marks::hit($name);
    }};
}

/// Whether the bug with this name is active. Always false without the feature `mutants`.
#[macro_export]
macro_rules! mutant {
    ($name:ident) => {
        $crate::marks::is_active(stringify!($name))
    };
}

/// Always false: this build has no mutants.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub fn is_active(_name: &str) -> bool {
    false
}

#[cfg(any(test, feature = "mutants"))]
mod switches {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    thread_local! {
        static HITS: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
        #[cfg(feature = "mutants")]
        static ACTIVE: std::cell::Cell<Option<&'static str>> = const { std::cell::Cell::new(None) };
    }

    /// See the macro `mark`.
    pub fn hit(name: &'static str) {
        HITS.with_borrow_mut(|hits| *hits.entry(name).or_default() += 1);
    }

    /// What this thread has hit so far, and how often; starts again from nothing.
    pub fn take_hits() -> BTreeMap<&'static str, u64> {
        HITS.take()
    }

    /// Activates one mutant on this thread, or none.
    #[cfg(feature = "mutants")]
    pub fn activate(name: Option<&'static str>) {
        ACTIVE.set(name);
    }

    /// Whether it is the active one of this thread.
    #[cfg(feature = "mutants")]
    pub fn is_active(name: &str) -> bool {
        ACTIVE.get() == Some(name)
    }
}

#[cfg(any(test, feature = "mutants"))]
pub use switches::*;
