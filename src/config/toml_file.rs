//! Falconer's own TOML: sections and keys of the table in `settings`, each value of its own type.
//! Refuses everything that is not in the table.

use super::error::{ConfigError, Place};
use super::load::{Draft, nearest};
use super::settings::{Given, SETTINGS};
use super::toml_servers;
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// Takes every key into the draft. `file` names the source in errors; an embedded profile has a made-up one.
pub(super) fn apply(text: &str, file: &Path, draft: &mut Draft) -> Result<(), ConfigError> {
    let root = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        place: Place::line(file, line_of(text, error.span().map_or(0, |span| span.start))),
        what: error.message().replace('\n', ", "),
    })?;
    for (section, content) in root.get_ref() {
        let place = Place::line(file, line_of(text, section.span().start));
        if section.get_ref() == "ensemble" {
            let listed = toml_servers::read(content.get_ref(), &|at| Place::line(file, line_of(text, at)), place)?;
            draft.list(listed);
            continue;
        }
        let DeValue::Table(table) = content.get_ref() else {
            let sections = SETTINGS.iter().map(|s| s.key);
            return Err(ConfigError::Unknown { place, key: section.get_ref().to_string(), nearest: nearest(section.get_ref(), sections) });
        };
        for (key, value) in table {
            let full = format!("{}.{}", section.get_ref(), key.get_ref());
            let place = Place::line(file, line_of(text, key.span().start));
            let Some(setting) = SETTINGS.iter().find(|s| s.key == full) else {
                let nearest = nearest(&full, SETTINGS.iter().map(|s| s.key));
                return Err(ConfigError::Unknown { place, key: full, nearest });
            };
            let shown = text.get(value.span()).unwrap_or_default().trim_matches('"').replace('\n', " ");
            draft.set(setting, &given(value.get_ref()), &full, &shown, place)?;
        }
        if table.is_empty() && !SETTINGS.iter().any(|s| s.key.split('.').next() == Some(section.get_ref())) {
            return Err(ConfigError::Unknown { place, key: section.get_ref().to_string(), nearest: None });
        }
    }
    Ok(())
}

fn given<'a>(value: &'a DeValue<'a>) -> Given<'a> {
    match value {
        DeValue::String(text) => Given::String(text),
        DeValue::Integer(digits) if digits.radix() == 10 => Given::Integer(digits.as_str()),
        DeValue::Boolean(on) => Given::Boolean(*on),
        _ => Given::Other,
    }
}

/// The line, from 1, that holds a byte.
fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at.min(text.len())].iter().filter(|&&b| b == b'\n').count()
}
