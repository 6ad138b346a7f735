//! Configuration files: every input is read as a zoo.cfg and as TOML. What loads prints as TOML that loads again.
#![no_main]

use falconer::config::{Sources, load};
use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;

fn read(name: &str, text: &[u8]) -> Option<String> {
    let file: PathBuf = std::env::temp_dir().join(format!("falconer-fuzz-{}-{name}", std::process::id()));
    std::fs::write(&file, text).expect("the temporary directory can be written");
    let loaded = load(&Sources { file: Some(file), ..Sources::default() });
    match loaded {
        Ok(loaded) => Some(loaded.config.to_toml()),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            None
        }
    }
}

fuzz_target!(|data: &[u8]| {
    for name in ["zoo.cfg", "falconer.toml"] {
        if let Some(printed) = read(name, data) {
            assert_eq!(read("again.toml", printed.as_bytes()).as_ref(), Some(&printed));
        }
    }
});
