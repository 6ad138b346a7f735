//! Four-letter words: the whitelist from a text, then the answers to every four bytes of the rest that are a word.
#![no_main]

use falconer::admin::fourletter::{Whitelist, argument_bytes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some(list) = Whitelist::parse(text) else { return };
    assert_eq!(Whitelist::parse(&list.to_string()), Some(list), "what is shown parses to the same");
    for word in data.windows(4).map(|w| w.try_into().expect("four bytes")) {
        assert!(!list.allows(word) || argument_bytes(word).is_some());
    }
});
