//! Paths: what ZooKeeper accepts, how they split, how they hash. A path is an absolute, `/`-separated UTF-8 string
//! without a trailing slash; `/` alone is the root. There is no length limit here, only that of the client's frame.
//! Refuses to normalise: a path that is not valid as it stands names nothing.

use xxhash_rust::xxh3::xxh3_64;

/// The root.
pub const ROOT: &str = "/";

/// The hash under which a node is found: xxh3-64 of the whole path, the same on every server and in every transaction.
pub fn hash(path: &str) -> u64 {
    xxh3_64(path.as_bytes())
}

/// Whether ZooKeeper's `PathUtils.validatePath` accepts `path`.
///
/// Refused are: no leading slash, a trailing slash, an empty component, `.` and `..`, control characters, and what
/// Java sees as surrogates or private use, so every character outside the basic plane too.
pub fn validate(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    rest.is_empty() || rest.split('/').all(valid_component)
}

fn valid_component(component: &str) -> bool {
    !matches!(component, "" | "." | "..") && component.chars().all(valid_char)
}

fn valid_char(c: char) -> bool {
    !matches!(c, '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..='\u{ffff}' | '\u{10000}'..)
}

/// The path one level up: `/` for `/a`. None for the root and for a string without a slash.
pub fn parent(path: &str) -> Option<&str> {
    match path.rfind('/') {
        Some(0) if path.len() > 1 => Some(ROOT),
        Some(0) | None => None,
        Some(at) => Some(&path[..at]),
    }
}

/// The last component: `b` for `/a/b`, empty for the root.
pub fn name(path: &str) -> &str {
    path.rfind('/').map_or(path, |at| &path[at + 1..])
}

/// Whether `path` is `ancestor` itself or stands anywhere below it.
pub fn is_within(path: &str, ancestor: &str) -> bool {
    ancestor == ROOT || path.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What a sequential create appends to its path: Java's `%010d` of the parent's count of creates.
pub fn sequential_suffix(creates: i32) -> String {
    format!("{creates:010}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_are_those_of_zookeeper() {
        let good = ["/", "/a", "/a/b", "/...", "/a..", "/.a", "/a b", "/\u{a0}", "/\u{d7ff}", "/\u{f900}", "/\u{ffef}", "/\u{7e}", "/ä/漢"];
        let bad = [
            "",
            "a",
            "a/b",
            "/a/",
            "//",
            "//a",
            "/a//b",
            "/.",
            "/..",
            "/a/.",
            "/a/..",
            "/./a",
            "/../a",
            "/\u{0}",
            "/a\u{0}",
            "/\u{1}",
            "/\u{1f}",
            "/\u{7f}",
            "/\u{9f}",
            "/\u{e000}",
            "/\u{f8ff}",
            "/\u{fff0}",
            "/\u{fffd}",
            "/\u{ffff}",
            "/\u{10000}",
            "/😀",
        ];
        assert_eq!(good.iter().find(|p| !validate(p)), None);
        assert_eq!(bad.iter().find(|p| validate(p)), None);
    }

    #[test]
    fn paths_split_at_the_last_slash() {
        assert_eq!((parent("/a/b"), name("/a/b")), (Some("/a"), "b"));
        assert_eq!((parent("/a"), name("/a")), (Some("/"), "a"));
        assert_eq!((parent("/"), name("/")), (None, ""));
        assert_eq!((parent("a"), name("a")), (None, "a"));
        assert_eq!(parent(""), None);
    }

    #[test]
    fn within_stops_at_component_borders() {
        assert!(is_within("/a/b", "/a") && is_within("/a", "/a") && is_within("/a", "/"));
        assert!(!is_within("/ab", "/a") && !is_within("/", "/a"));
    }

    #[test]
    fn suffixes_look_like_javas() {
        assert_eq!(
            [0, 42, i32::MAX, -1, i32::MIN].map(sequential_suffix),
            ["0000000000", "0000000042", "2147483647", "-000000001", "-2147483648"]
        );
    }
}
