//! The client commands, one function each.
//! Refuses to look at the world: input and output are handed in, so that tests can.

use super::connection::{CliError, Connection};
use super::{ClientCommand, To, print};
use crate::wire::extension::{Extension, Page};
use crate::wire::request::{Create, OPEN_ACL, Request};
use std::io::{Read, Write};
use std::time::Duration;

/// Create modes, as ZooKeeper numbers them.
mod mode {
    pub const PERSISTENT: i32 = 0;
    pub const PERSISTENT_SEQUENTIAL: i32 = 2;
    pub const CONTAINER: i32 = 4;
    pub const TTL: i32 = 5;
    pub const TTL_SEQUENTIAL: i32 = 6;
}

/// Connects, does it, and says goodbye.
pub fn run(command: &ClientCommand, input: &mut impl Read, out: &mut impl Write) -> Result<(), CliError> {
    check_paths(command)?;
    let (ClientCommand::Ls { to, .. }
    | ClientCommand::Get { to, .. }
    | ClientCommand::Create { to, .. }
    | ClientCommand::Set { to, .. }
    | ClientCommand::Delete { to, .. }
    | ClientCommand::Stat { to, .. }) = command;
    let mut connection = open(to)?;
    let done = execute(command, &mut connection, input, out).and_then(|()| Ok(out.flush()?));
    connection.close();
    done
}

fn open(to: &To) -> Result<Connection, CliError> {
    let mut connection = Connection::open(&to.server, Duration::from_secs(to.timeout.into()))?;
    to.auth.iter().try_for_each(|auth| connection.authenticate(auth))?;
    Ok(connection)
}

/// A path that no server would take is a slip of the keyboard: say so before connecting.
fn check_paths(command: &ClientCommand) -> Result<(), CliError> {
    let paths = match command {
        ClientCommand::Ls { paths, .. }
        | ClientCommand::Get { paths, .. }
        | ClientCommand::Delete { paths, .. }
        | ClientCommand::Stat { paths, .. } => paths.as_slice(),
        ClientCommand::Create { path, .. } | ClientCommand::Set { path, .. } => std::slice::from_ref(path),
    };
    match paths.iter().find(|path| !path.starts_with('/')) {
        Some(path) => Err(CliError::Usage(format!("a path starts with /, this one does not: {path}"))),
        None => Ok(()),
    }
}

fn execute(command: &ClientCommand, to: &mut Connection, input: &mut impl Read, out: &mut impl Write) -> Result<(), CliError> {
    match command {
        ClientCommand::Ls { paths, stat, recursive, page, .. } => paths.iter().try_for_each(|path| match (recursive, page) {
            (true, _) => list_subtree(to, path, out),
            (false, None) => list(to, path, *stat, paths.len() > 1, out),
            (false, Some(names)) => list_by_page(to, path, *names, *stat, paths.len() > 1, out),
        }),
        ClientCommand::Get { paths, stat, .. } => paths.iter().try_for_each(|path| get(to, path, *stat, out)),
        ClientCommand::Create { path, data, stdin, sequential, container, ttl, .. } => {
            let data = given_data(data.as_deref(), *stdin, input)?;
            let flags = match (container, ttl, sequential) {
                (true, _, _) => mode::CONTAINER,
                (_, Some(_), true) => mode::TTL_SEQUENTIAL,
                (_, Some(_), false) => mode::TTL,
                (_, None, true) => mode::PERSISTENT_SEQUENTIAL,
                (_, None, false) => mode::PERSISTENT,
            };
            create(to, path, data.as_deref(), flags, *ttl, out)
        }
        ClientCommand::Set { path, data, stdin, version, stat, .. } => {
            let data = given_data(data.as_deref(), *stdin, input)?;
            let request = Request::SetData { path: to.full_path(path).into(), data: data.as_deref(), version: *version };
            let answer = to.call(&request, path)?;
            if *stat {
                print::stat(out, &answer.reply().stat()?)?;
            }
            Ok(())
        }
        ClientCommand::Delete { paths, version, recursive, .. } => paths.iter().try_for_each(|path| match recursive {
            true => delete_subtree(to, path),
            false => delete(to, path, *version),
        }),
        ClientCommand::Stat { paths, .. } => paths.iter().try_for_each(|path| {
            let answer = to.call(&Request::Exists { path: to.full_path(path).into(), watch: false }, path)?;
            Ok(print::stat(out, &answer.reply().stat()?)?)
        }),
    }
}

fn given_data(data: Option<&str>, stdin: bool, input: &mut impl Read) -> Result<Option<Vec<u8>>, CliError> {
    if !stdin {
        return Ok(data.map(|text| text.as_bytes().to_vec()));
    }
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Names sorted, one per line; under a heading when several nodes are listed.
fn list(to: &mut Connection, path: &str, stat: bool, heading: bool, out: &mut impl Write) -> Result<(), CliError> {
    let answer = to.call(&Request::GetChildren2 { path: to.full_path(path).into(), watch: false }, path)?;
    let (mut names, own) = answer.reply().children_and_stat()?;
    names.sort();
    if heading {
        writeln!(out, "{path}:")?;
    }
    for name in names {
        writeln!(out, "{name}")?;
    }
    if stat {
        print::stat(out, &own)?;
    }
    Ok(())
}

/// As `list`, `names_max` at a time: neither side ever holds the whole directory. What is created or deleted meanwhile
/// may or may not be seen; everything else is, once. A directory that goes between two pages is an error.
fn list_by_page(to: &mut Connection, path: &str, names_max: i32, stat: bool, heading: bool, out: &mut impl Write) -> Result<(), CliError> {
    let (full, mut after) = (to.full_path(path), String::new());
    if heading {
        writeln!(out, "{path}:")?;
    }
    loop {
        let page = Page { path: full.as_str().into(), after: after.as_str().into(), names_max, bytes_max: 0, watch: false };
        let answer = to.call(&Request::Extension(Extension::ChildrenPage(page)), path)?;
        let (names, more, own) = answer.reply().children_page()?;
        names.iter().try_for_each(|name| writeln!(out, "{name}"))?;
        match names.last() {
            Some(last) if more => after = last.to_string(),
            _ if stat => return Ok(print::stat(out, &own)?),
            _ => return Ok(()),
        }
    }
}

/// The children of a node, as full paths, sorted.
fn children(to: &mut Connection, path: &str) -> Result<Vec<String>, CliError> {
    let answer = to.call(&Request::GetChildren { path: to.full_path(path).into(), watch: false }, path)?;
    let parent = path.trim_end_matches('/');
    let mut paths: Vec<String> = answer.reply().children()?.iter().map(|name| format!("{parent}/{name}")).collect();
    paths.sort();
    Ok(paths)
}

/// A node that vanishes while the tree is walked is not an error, except the one that was asked for.
fn children_if_there(to: &mut Connection, path: &str, root: &str) -> Result<Vec<String>, CliError> {
    match children(to, path) {
        Err(CliError::Refused { code: crate::wire::response::code::NO_NODE, .. }) if path != root => Ok(Vec::new()),
        other => other,
    }
}

fn list_subtree(to: &mut Connection, root: &str, out: &mut impl Write) -> Result<(), CliError> {
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let below = children_if_there(to, &path, root)?;
        writeln!(out, "{path}")?;
        left.extend(below.into_iter().rev());
    }
    Ok(())
}

fn get(to: &mut Connection, path: &str, stat: bool, out: &mut impl Write) -> Result<(), CliError> {
    let answer = to.call(&Request::GetData { path: to.full_path(path).into(), watch: false }, path)?;
    let (data, own) = answer.reply().data_and_stat()?;
    out.write_all(data.unwrap_or_default())?;
    out.write_all(b"\n")?;
    if stat {
        print::stat(out, &own)?;
    }
    Ok(())
}

fn create(
    to: &mut Connection,
    path: &str,
    data: Option<&[u8]>,
    flags: i32,
    ttl_ms: Option<i64>,
    out: &mut impl Write,
) -> Result<(), CliError> {
    let record = Create { path: to.full_path(path).into(), data, acl: OPEN_ACL, flags };
    let request = match (ttl_ms, flags) {
        (Some(ttl_ms), _) => Request::CreateTtl(record, ttl_ms),
        (None, mode::CONTAINER) => Request::CreateContainer(record),
        _ => Request::Create(record),
    };
    let answer = to.call(&request, path)?;
    let created = answer.reply().path()?;
    Ok(writeln!(out, "{}", to.shown_path(&created))?)
}

fn delete(to: &mut Connection, path: &str, version: i32) -> Result<(), CliError> {
    to.call(&Request::Delete { path: to.full_path(path).into(), version }, path).map(drop)
}

/// Deepest first. What others delete meanwhile is fine; what they create makes a `Node not empty`.
fn delete_subtree(to: &mut Connection, root: &str) -> Result<(), CliError> {
    let (mut left, mut found) = (vec![root.to_owned()], Vec::new());
    while let Some(path) = left.pop() {
        left.extend(children_if_there(to, &path, root)?);
        found.push(path);
    }
    for path in found.iter().rev() {
        match delete(to, path, -1) {
            Err(CliError::Refused { code: crate::wire::response::code::NO_NODE, .. }) if path != root => {}
            other => other?,
        }
    }
    Ok(())
}
