//! docs/compatibility.md promises a row for every trap and a test for every row: here both promises are kept.
//! Refuses to judge whether a test shows what its row says.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const TRAPS: usize = 85;

fn text(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The short names that the page explains, with the files they stand for.
fn files(page: &str) -> BTreeMap<&'static str, String> {
    let names = ["traps", "sessions", "stories", "data", "errors", "session", "watches", "words", "real"];
    let listed = ["traps.rs", "session_traps.rs", "pipeline/tests.rs", "test_wire_data.py", "test_fourletter.py", "test_traps.py"];
    assert_eq!(listed.iter().find(|file| !page.contains(*file)), None, "the page explains its short names");
    let file = |name: &str| match name {
        "traps" => "src/pipeline/tests/traps.rs".to_owned(),
        "sessions" => "src/pipeline/tests/session_traps.rs".to_owned(),
        "stories" => "src/pipeline/tests.rs".to_owned(),
        "words" => "tests/interop/test_fourletter.py".to_owned(),
        "real" => "tests/interop/test_traps.py".to_owned(),
        wire => format!("tests/interop/test_wire_{wire}.py"),
    };
    names.into_iter().map(|name| (name, text(&file(name)))).collect()
}

/// What is missing from the last column of a row: `name in file`, or `short name` before one or more names.
fn missing(column: &str, files: &BTreeMap<&str, String>) -> Vec<String> {
    let mut missing = Vec::new();
    let mut short = "";
    for entry in column.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let (before, rest) = entry.split_once('`').expect("a test in backticks");
        let (name, behind) = rest.split_once('`').expect("a closing backtick");
        short = if before.is_empty() { short } else { before.trim() };
        let found = match behind.strip_prefix(" in ") {
            Some(file) => defines(&text(file), name),
            None => defines(files.get(short).unwrap_or_else(|| panic!("{short:?} is no short name: {entry}")), name),
        };
        if !found {
            missing.push(entry.to_owned());
        }
    }
    missing
}

fn defines(source: &str, test: &str) -> bool {
    source.contains(&format!("fn {test}(")) || source.contains(&format!("def {test}("))
}

#[test]
fn every_trap_has_its_row_and_every_test_exists() {
    let page = text("docs/compatibility.md");
    let files = files(&page);
    let mut traps = Vec::new();
    for row in page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| trap") && !line.starts_with("| input")) {
        let columns: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, what, shown] = columns[..] else { panic!("three columns: {row}") };
        assert_eq!(missing(shown, &files), Vec::<String>::new(), "{name}");
        assert!(shown.contains('`') || what.contains("not there yet"), "{name} is shown by nothing");
        if name.starts_with('T') {
            traps.push(name.to_owned());
        }
    }
    assert_eq!(traps, (1..=TRAPS).map(|n| format!("T{n:02}")).collect::<Vec<_>>());
}

#[test]
fn a_test_that_does_not_exist_is_noticed() {
    let files = files(&text("docs/compatibility.md"));
    let column = "data `test_the_stat_of_a_new_node`, `no_such_test`, traps `nor_this`, `missing` in src/pipeline/auth.rs";
    assert_eq!(missing(column, &files), ["`no_such_test`", "traps `nor_this`", "`missing` in src/pipeline/auth.rs"]);
}

/// Comments in the code point to traps by number.
#[test]
fn numbers_in_the_code_have_a_row() {
    fn visit(dir: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).expect("a folder").flatten().map(|entry| entry.path()) {
            if entry.is_dir() {
                visit(&entry, found);
            } else if entry.extension().is_some_and(|e| e == "rs") {
                found.push(fs::read_to_string(&entry).expect("source is text"));
            }
        }
    }
    let mut sources = Vec::new();
    visit(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut sources);
    for source in &sources {
        for number in source.split("(T").skip(1).filter_map(|rest| rest.get(..2)?.parse::<usize>().ok()) {
            assert!((1..=TRAPS).contains(&number), "T{number} has no row");
        }
    }
}
