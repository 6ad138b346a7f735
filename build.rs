//! Tells the library when it was built, for the version that clients see: SOURCE_DATE_EPOCH (seconds since 1970) if it is
//! set, so that builds can be reproduced, else now. Refuses to look at anything else.

use std::time::{SystemTime, UNIX_EPOCH};

#[path = "src/admin/date.rs"]
#[allow(dead_code)]
mod date;

fn main() {
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo::rerun-if-changed=src");
    let fixed = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse().ok());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as i64);
    println!("cargo::rustc-env=FALCONER_BUILD_DATE={}", date::build_date(fixed.unwrap_or_else(now)));
}
