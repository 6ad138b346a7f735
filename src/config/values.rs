//! Values that are more than a number or a word: paths, addresses, lists of cores.
//! Refuses to say why: the table of settings says what is allowed.

use super::Pinning;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::PathBuf;

pub(super) fn parse_path(text: &str) -> Option<PathBuf> {
    (!text.is_empty() && !text.contains('\0')).then(|| PathBuf::from(text))
}

pub(super) fn resolve(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse() {
        return Some(address);
    }
    let mut found: Vec<IpAddr> = (text, 0).to_socket_addrs().ok()?.map(|a| a.ip()).collect();
    found.sort_by_key(IpAddr::is_ipv6);
    found.first().copied()
}

pub(super) fn parse_pinning(text: &str) -> Option<Pinning> {
    match text {
        "auto" => return Some(Pinning::Auto),
        "none" => return Some(Pinning::None),
        _ => {}
    }
    /// More than the kernel's CPU_SETSIZE is a slip.
    const CPU_MAX: usize = 1023;
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse::<usize>().ok()?, last.trim().parse::<usize>().ok()?);
        if first > last || last > CPU_MAX {
            return None;
        }
        for cpu in first..=last {
            if cpus.contains(&cpu) {
                return None;
            }
            cpus.push(cpu);
        }
    }
    Some(Pinning::Cpus(cpus))
}

pub(super) fn show_pinning(pinning: &Pinning) -> String {
    match pinning {
        Pinning::Auto => "auto".into(),
        Pinning::None => "none".into(),
        Pinning::Cpus(cpus) => cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(","),
    }
}
