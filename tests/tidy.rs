//! What must never be, as a test: arrows between modules that point up, files without a heading, clocks and I/O in
//! brains, `unsafe` outside the few files that need it, names that say nothing.

use std::fs;
use std::path::{Path, PathBuf};

/// Which modules a module may use, besides itself. `limits` uses nothing.
const MAY_USE: &[(&str, &[&str])] = &[
    ("limits", &[]),
    ("marks", &[]),
    ("wire", &["limits"]),
    ("tree", &["limits", "wire"]),
    ("watch", &["limits", "wire", "tree", "pipeline::message"]),
    ("log", &["limits", "wire"]),
    ("peer", &["limits", "wire"]),
    ("zab", &["limits", "wire", "log::snapshot", "log::Promise"]),
    ("pipeline", &["limits", "wire", "tree", "watch", "log::snapshot", "log::Promise", "zab"]),
    ("config", &["limits", "admin"]),
    ("admin", &["limits", "wire"]),
    ("client", &["limits", "wire"]),
    ("cli", &["limits", "wire", "client", "config", "log", "runtime", "admin"]),
    ("runtime", &["limits", "wire", "tree", "watch", "log", "zab", "pipeline", "peer", "config", "admin"]),
    ("sim", &["limits", "wire", "tree", "watch", "log", "zab", "pipeline", "client"]),
];

/// Modules that decide: no clock, no file, no socket, no thread, no randomness.
const BRAINS: &[&str] = &["wire", "tree", "watch", "log", "peer", "zab", "pipeline", "client"];

const UNSAFE_ALLOWED: &[&str] = &[
    "src/wire/aligned.rs",
    "src/wire/archived.rs",
    "src/runtime/ring.rs",
    "src/runtime/ring/provided.rs",
    "src/runtime/ring/vectored.rs",
    "src/runtime/mesh.rs",
    "src/runtime/commit_ring.rs",
    "src/runtime/sys.rs",
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Every Rust file of the project: (path from the root, text).
fn all() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for dir in ["src", "loadgen", "tests", "benches", "examples", "fuzz"] {
        sources(&root.join(dir), &mut found);
    }
    let name = |path: &Path| path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
    found.iter().map(|path| (name(path), fs::read_to_string(path).expect("source is text"))).collect()
}

/// The code of a file without its tests, which stand at the end.
fn code(text: &str) -> &str {
    text.split("\n#[cfg(test)]").next().unwrap_or(text)
}

fn module(file: &str) -> Option<&str> {
    let rest = file.strip_prefix("src/")?;
    let name = rest.split('/').next()?;
    (!matches!(name, "lib.rs" | "main.rs" | "bin")).then(|| name.trim_end_matches(".rs"))
}

#[test]
fn every_file_says_what_it_is() {
    let bad: Vec<_> =
        all().into_iter().filter(|(_, text)| !text.starts_with("//! ") || text.starts_with("//! To come")).map(|f| f.0).collect();
    assert!(bad.is_empty(), "no heading: {bad:?}");
}

#[test]
fn arrows_only_point_down() {
    for (file, text) in all() {
        let Some(module) = module(&file) else { continue };
        if file.contains("/tests") {
            continue; // tests of the log run on the simulated disk
        }
        let allowed = MAY_USE.iter().find(|(name, _)| *name == module).unwrap_or_else(|| panic!("{module} is not in the table")).1;
        for used in code(&text).split("crate::").skip(1) {
            let fine = used.starts_with(module)
                || allowed.iter().any(|a| used.starts_with(a))
                || used.starts_with("mark!")
                || used.starts_with("mutant");
            assert!(fine, "{file} uses crate::{}", used.lines().next().unwrap_or(""));
        }
    }
}

#[test]
fn brains_do_no_io_and_read_no_clock() {
    let forbidden =
        ["std::fs", "std::thread", "Instant::now", "SystemTime", "std::net::Tcp", "getrandom", "async ", "println!", "RandomState"];
    for (file, text) in all() {
        if module(&file).is_some_and(|m| BRAINS.contains(&m)) {
            for word in forbidden {
                assert!(!code(&text).contains(word), "{file} contains {word}");
            }
        }
    }
}

#[test]
fn unsafe_stays_where_it_is_needed() {
    for (file, text) in all() {
        let uses = text.lines().filter(|l| !l.trim_start().starts_with("//")).any(|l| l.contains("unsafe "));
        if file.starts_with("src/") && uses {
            assert!(UNSAFE_ALLOWED.contains(&file.as_str()), "{file} uses unsafe");
            let (blocks, reasons) =
                (text.matches("unsafe {").count() + text.matches("unsafe impl").count(), text.matches("SAFETY:").count());
            assert!(reasons >= blocks, "{file}: {blocks} unsafe blocks, {reasons} reasons");
        }
    }
}

#[test]
fn names_say_something() {
    for (file, _) in all() {
        for empty in ["util", "helper", "manager", "common"] {
            assert!(!file.contains(empty), "{file}: {empty} says nothing");
        }
    }
}
