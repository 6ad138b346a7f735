//! Committed transactions, one after the other: whose request each one answers, and whether the model comes to the same
//! result. Refuses to skip any: an unknown origin, a second answer or a different result ends the run.

use super::{Checker, ConnKey, End, Fate, Hello, Link, Wanted, violated};
use crate::sim::ask::Ask;
use crate::sim::model::{Change, Outcome, parent};
use crate::wire::batch::Batch;
use crate::wire::record::Acl;
use crate::wire::response::code;
use crate::wire::txn::{ArchivedAclRef, ArchivedChange, ArchivedOp, ArchivedTxn, Origin};
use rkyv::option::ArchivedOption;
use rkyv::vec::ArchivedVec;

/// So many transactions pass between two times that the past is forgotten.
const FORGET_EVERY: u64 = 1024;

impl Checker {
    /// The next committed batch, once, when the first server publishes it.
    pub fn observe(&mut self, batch: &Batch, now_ms: u64) {
        batch.txns().for_each(|txn| self.observe_txn(txn, now_ms));
    }

    fn observe_txn(&mut self, txn: &ArchivedTxn<'_>, now_ms: u64) {
        let (zxid, last) = (txn.zxid.to_native(), self.model.zxid());
        let next_epoch = zxid >> 32 > last >> 32 && zxid as u32 == 0;
        if zxid != last + 1 && !next_epoch {
            violated("A7", format_args!("0x{zxid:x} comes after 0x{last:x}"));
        }
        self.model.begin(zxid, txn.time_ms.to_native());
        self.judged.txns += 1;
        let origin = ConnKey::from(&txn.origin);
        if origin == ConnKey::from(&Origin::default()) {
            self.by_the_server(txn, now_ms);
        } else {
            self.by_a_client(txn, origin, now_ms);
        }
        if self.judged.txns.is_multiple_of(FORGET_EVERY) {
            self.forget();
        }
    }

    /// Nobody asked: a new epoch, an expiry, a node that was reaped.
    fn by_the_server(&mut self, txn: &ArchivedTxn<'_>, now_ms: u64) {
        let (zxid, session) = (txn.zxid.to_native(), txn.session.to_native());
        match &txn.op {
            ArchivedOp::NewEpoch { .. } if zxid as u32 == 0 => self.epoch_ms = now_ms,
            ArchivedOp::CloseSession if self.model.is_open(session) => {
                self.session_ended(session, None, zxid, now_ms);
                self.model.close_session(session);
            }
            ArchivedOp::CloseSession => violated("G5", format_args!("0x{zxid:x} closes session 0x{session:x}, which is not open")),
            ArchivedOp::Error { code } if code.to_native() == code::SESSION_EXPIRED && !self.model.is_open(session) => {}
            ArchivedOp::Change(ArchivedChange::Delete { path, .. }) if self.model.may_reap(path) => {
                self.judged.reaped += 1;
                self.gone(path);
                self.model.reap(path);
            }
            op => violated("E8", format_args!("nobody asked for 0x{zxid:x}: {}", shown(op))),
        }
    }

    fn by_a_client(&mut self, txn: &ArchivedTxn<'_>, origin: ConnKey, now_ms: u64) {
        let (zxid, session) = (txn.zxid.to_native(), txn.session.to_native());
        let Some(&link) = self.keys.get(&origin) else {
            violated("E8", format_args!("0x{zxid:x} answers {origin:?}, which asked for nothing any more"))
        };
        let sequence = self.numbered(link, txn.origin.sequence.to_native(), zxid);
        let (wanted, ids) = self.take_submit(link, sequence, zxid);
        let outcome = match wanted {
            Wanted::Connect(hello) => {
                self.handshake(txn, link, hello, now_ms);
                Outcome::Error(code::OK)
            }
            Wanted::Do(ask) => {
                self.by_the_owner(session, link, zxid);
                if matches!(*ask, Ask::CloseSession) && self.model.is_open(session) {
                    if !matches!(txn.op, ArchivedOp::CloseSession) {
                        violated("G2", format_args!("0x{zxid:x} should close session 0x{session:x}: {}", shown(&txn.op)));
                    }
                    self.session_ended(session, Some(link), zxid, now_ms);
                    self.model.close_session(session);
                    Outcome::Error(code::OK)
                } else {
                    self.write(txn, session, &ask, &ids)
                }
            }
        };
        let (err, record) = outcome.reply();
        let conn = self.conns.get_mut(&link).expect("it asked");
        let at = (sequence - conn.first_sequence) as usize;
        conn.submits[at].fate = Fate::Committed { zxid, err, record };
    }

    /// Which of a connection's requests has this number. Where reads are linearizable they take numbers too, several at once
    /// perhaps only one: then it can but be the next request that becomes a transaction.
    fn numbered(&mut self, link: Link, number: u32, zxid: u64) -> u32 {
        if !self.settings.linearizable_reads {
            return number;
        }
        let conn = self.conns.get_mut(&link).expect("keys name connections");
        let done = conn.next_commit.saturating_sub(conn.first_sequence) as usize;
        let becomes_one = |submit: &super::Submit| match &submit.wanted {
            Wanted::Do(ask) => ask.is_write() && submit.fate == Fate::Sent,
            Wanted::Connect(_) => submit.fate == Fate::Sent,
        };
        let next = conn.submits.iter().skip(done).position(becomes_one).map(|at| conn.first_sequence + (done + at) as u32);
        let fits = |next: &u32| number >= conn.next_number && (*next..=*next + conn.reads).contains(&number);
        let Some(next) = next.filter(fits) else {
            violated("E8", format_args!("0x{zxid:x} answers request {number} of {link:?}, next is {next:?} behind {} reads", conn.reads))
        };
        conn.next_number = number + 1;
        next
    }

    /// What a connection asked as its `sequence`-th, which must be its next and must be new.
    fn take_submit(&mut self, link: Link, sequence: u32, zxid: u64) -> (Wanted, crate::sim::model::Ids) {
        let refusals = self.settings.refusals;
        let conn = self.conns.get_mut(&link).expect("keys name connections");
        let at = sequence.checked_sub(conn.first_sequence).map(|at| at as usize);
        let Some(submit) = at.and_then(|at| conn.submits.get(at)) else {
            violated("E8", format_args!("0x{zxid:x} answers request {sequence} of {link:?}, which was never sent or is done"))
        };
        match &submit.fate {
            Fate::Sent => {}
            Fate::Committed { zxid: before, .. } => {
                violated("E8", format_args!("0x{zxid:x} does once more what 0x{before:x} did: {:?}", submit.wanted))
            }
            Fate::Refused => violated("E8", format_args!("0x{zxid:x} does what was refused: {:?}", submit.wanted)),
        }
        if sequence < conn.next_commit {
            violated("E2", format_args!("0x{zxid:x} is request {sequence} of {link:?}, after request {}", conn.next_commit - 1));
        }
        let skipped = (conn.next_commit.max(conn.first_sequence)..sequence).map(|s| &conn.submits[(s - conn.first_sequence) as usize]);
        let writes = |submit: &&super::Submit| match &submit.wanted {
            Wanted::Do(ask) => ask.is_write() && submit.fate == Fate::Sent && !(refusals && ask.may_grow()),
            Wanted::Connect(_) => !refusals,
        };
        if let Some(skipped) = skipped.into_iter().find(writes) {
            violated("E2", format_args!("0x{zxid:x} is request {sequence} of {link:?}, but not before it {:?}", skipped.wanted));
        }
        conn.next_commit = sequence + 1;
        (submit.wanted.clone(), submit.ids.clone())
    }

    fn handshake(&mut self, txn: &ArchivedTxn<'_>, link: Link, hello: Hello, now_ms: u64) {
        let (zxid, session) = (txn.zxid.to_native(), txn.session.to_native());
        let wanted_ms = hello.timeout_ms.clamp(self.settings.session_timeout_ms_min, self.settings.session_timeout_ms_max);
        let timeout = |timeout_ms: i32| {
            if timeout_ms != wanted_ms {
                violated("G4", format_args!("0x{zxid:x}: session 0x{session:x} got a timeout of {timeout_ms} ms, not {wanted_ms} ms"));
            }
        };
        match &txn.op {
            ArchivedOp::CreateSession { timeout_ms, password } if hello.session == 0 => {
                timeout(timeout_ms.to_native());
                if session == 0 || !self.model.create_session(session, wanted_ms, *password) {
                    violated("G5", format_args!("0x{zxid:x} creates session 0x{session:x} a second time"));
                }
                self.session_owned(session, link, wanted_ms, zxid, now_ms);
            }
            ArchivedOp::AttachSession { timeout_ms } if hello.session == session && session != 0 => {
                if !self.model.is_open(session) {
                    violated("G5", format_args!("0x{zxid:x} resumes session 0x{session:x}, which is closed"));
                }
                if !hello.password_right {
                    violated("G6", format_args!("0x{zxid:x} gives session 0x{session:x} away for a wrong password"));
                }
                timeout(timeout_ms.to_native());
                self.model.attach_session(session, wanted_ms);
                self.session_owned(session, link, wanted_ms, zxid, now_ms);
            }
            ArchivedOp::Error { code } if code.to_native() == code::SESSION_EXPIRED && hello.session != 0 => {
                if self.model.is_open(hello.session) && hello.password_right {
                    violated("G5", format_args!("0x{zxid:x} refuses session 0x{:x}, which is open", hello.session));
                }
            }
            op => violated("E8", format_args!("0x{zxid:x} answers {hello:?} with {}", shown(op))),
        }
    }

    /// Only the owner's writes are ordered: a connection that lost its session is cut.
    fn by_the_owner(&self, session: i64, link: Link, zxid: u64) {
        let conn = &self.conns[&link];
        if conn.session != session {
            violated("E8", format_args!("0x{zxid:x} is for session 0x{session:x}, asked for in session 0x{:x}", conn.session));
        }
        if let Some((at, End::Moved)) = conn.end {
            violated("G6", format_args!("0x{zxid:x} was asked over a connection that lost session 0x{session:x} at 0x{at:x}"));
        }
    }

    /// Executes a write and compares.
    fn write(&mut self, txn: &ArchivedTxn<'_>, session: i64, ask: &Ask, ids: &crate::sim::model::Ids) -> Outcome {
        let zxid = txn.zxid.to_native();
        let open = self.model.is_open(session);
        let outcome = match open {
            true => {
                self.sequential(ask, &txn.op);
                self.model.execute(Checker::asker(session, ids), ask)
            }
            false => Outcome::Error(code::SESSION_EXPIRED),
        };
        self.judged.errors += u64::from(matches!(outcome, Outcome::Error(_) | Outcome::MultiError(_)));
        self.judged.multis += u64::from(matches!(ask, Ask::Multi(_)));
        if let Err(why) = same(&outcome, &txn.op) {
            let id = match (open, ask) {
                (false, Ask::Create { flags: 1 | 3, .. }) => "G1",
                (false, _) => "G5",
                (_, Ask::Multi(_)) => "E7",
                _ => "E1",
            };
            let committed = shown(&txn.op);
            violated(id, format_args!("0x{zxid:x}, session 0x{session:x}, {ask:?}: {why}; expected {outcome:?}, committed {committed}"));
        }
        outcome
    }

    /// Names are judged for themselves, before the model says what they should have been.
    fn sequential(&mut self, ask: &Ask, op: &ArchivedOp<'_>) {
        match (ask, op) {
            (ask, ArchivedOp::Change(change)) => self.sequential_one(ask, change),
            (Ask::Multi(asks), ArchivedOp::Multi(changes)) => {
                asks.iter().zip(changes.iter()).for_each(|(ask, change)| self.sequential_one(ask, change));
            }
            _ => {}
        }
    }

    fn sequential_one(&mut self, ask: &Ask, change: &ArchivedChange<'_>) {
        match (ask, change) {
            (Ask::Create { path: requested, flags: 2 | 3 | 6, .. }, ArchivedChange::Create { path, .. }) => {
                self.judged.sequential += 1;
                // A parent made by the same multi has no counter yet: it starts at 0 there.
                let above = parent(path).unwrap_or("/");
                let czxid = self.model.parent_counter(path).map_or(self.model.zxid(), |(czxid, _)| czxid);
                self.sequences.made(requested, path, above, czxid);
            }
            (_, ArchivedChange::Delete { path, .. }) => self.gone(path),
            (_, ArchivedChange::DeleteTree { path, .. }) => self.sequences.tree_gone(path),
            _ => {}
        }
    }

    fn gone(&mut self, path: &str) {
        if let Some(czxid) = self.model.created_at(path) {
            self.sequences.gone(path, czxid);
        }
    }
}

type ArchivedAcl<'a> = ArchivedOption<ArchivedVec<ArchivedAclRef<'a>>>;

/// Whether the committed operation is what the model came to.
fn same(outcome: &Outcome, op: &ArchivedOp<'_>) -> Result<(), String> {
    match (outcome, op) {
        (Outcome::Error(expected), ArchivedOp::Error { code }) if *expected == code.to_native() => Ok(()),
        (Outcome::MultiError(expected), ArchivedOp::MultiError { codes })
            if expected.iter().copied().eq(codes.iter().map(|c| c.to_native())) =>
        {
            Ok(())
        }
        (Outcome::One(expected), ArchivedOp::Change(change)) => same_change(expected, change),
        (Outcome::Multi(expected), ArchivedOp::Multi(changes)) if expected.len() == changes.len() => {
            expected.iter().zip(changes.iter()).try_for_each(|(expected, change)| same_change(expected, change))
        }
        _ => Err("another result".into()),
    }
}

fn same_change(expected: &Change, change: &ArchivedChange<'_>) -> Result<(), String> {
    let check = |what: &str, same: bool| if same { Ok(()) } else { Err(format!("another {what}")) };
    match (expected, change) {
        (
            Change::Create { path, data, acl, owner, parent_creates, with_stat, .. },
            ArchivedChange::Create { path: made, data: held, acl: list, owner: by, parent_creates: creates, with_stat: answered, .. },
        ) => {
            check("path", **path == **made)?;
            check("data", data.as_deref() == held.as_ref().map(|d| &**d))?;
            check("access control list", same_acl(acl, list))?;
            check("owner", *owner == by.to_native())?;
            check("count of creates", *parent_creates == creates.to_native())?;
            check("kind of reply", with_stat == answered)
        }
        (Change::Delete { path }, ArchivedChange::Delete { path: deleted, .. }) => check("path", **path == **deleted),
        (Change::SetData { path, data, stat }, ArchivedChange::SetData { path: set, data: held, version, .. }) => {
            check("path", **path == **set)?;
            check("data", data.as_deref() == held.as_ref().map(|d| &**d))?;
            check("version", stat.version == version.to_native())
        }
        (Change::SetAcl { path, acl, stat }, ArchivedChange::SetAcl { path: set, acl: list, aversion, .. }) => {
            check("path", **path == **set)?;
            check("access control list", same_acl(acl, list))?;
            check("aversion", stat.aversion == aversion.to_native())
        }
        (Change::DeleteTree { path }, ArchivedChange::DeleteTree { path: deleted, .. }) => check("path", **path == **deleted),
        (Change::CreateSkipped { path }, ArchivedChange::CreateSkipped { path: found }) => check("path", **path == **found),
        (Change::DeleteSkipped, ArchivedChange::DeleteSkipped) | (Change::Check, ArchivedChange::Check) => Ok(()),
        _ => Err("another kind of change".into()),
    }
}

/// None stands for the open list.
fn same_acl(expected: &[Acl], list: &ArchivedAcl<'_>) -> bool {
    match list.as_ref() {
        None => matches!(expected, [one] if one.perms == 31 && one.scheme == "world" && one.id == "anyone"),
        Some(list) => {
            let same =
                |(a, b): (&Acl, &ArchivedAclRef<'_>)| a.perms == b.perms.to_native() as i32 && *a.scheme == *b.scheme && *a.id == *b.id;
            expected.len() == list.len() && expected.iter().zip(list.iter()).all(same)
        }
    }
}

/// A committed operation in a complaint.
fn shown(op: &ArchivedOp<'_>) -> String {
    match op {
        ArchivedOp::Change(change) => shown_change(change),
        ArchivedOp::Multi(changes) => format!("multi {:?}", changes.iter().map(shown_change).collect::<Vec<_>>()),
        ArchivedOp::Error { code } => format!("error {}", code.to_native()),
        ArchivedOp::MultiError { codes } => format!("errors {:?}", codes.iter().map(|c| c.to_native()).collect::<Vec<_>>()),
        ArchivedOp::CreateSession { timeout_ms, .. } => format!("a session with a timeout of {timeout_ms} ms"),
        ArchivedOp::AttachSession { timeout_ms } => format!("a session resumed with a timeout of {timeout_ms} ms"),
        ArchivedOp::CloseSession => "the end of the session".into(),
        ArchivedOp::NewEpoch { leader } => format!("the epoch of {leader}"),
    }
}

fn shown_change(change: &ArchivedChange<'_>) -> String {
    match change {
        ArchivedChange::Create { path, owner, parent_creates, data, .. } => {
            let bytes = data.as_ref().map(|d| d.len());
            format!("create {:?} owner 0x{:x} parent's count {} bytes {bytes:?}", &**path, owner.to_native(), parent_creates)
        }
        ArchivedChange::Delete { path, .. } => format!("delete {:?}", &**path),
        ArchivedChange::SetData { path, version, .. } => format!("set {:?} to version {version}", &**path),
        ArchivedChange::SetAcl { path, aversion, .. } => format!("set the list of {:?} to aversion {aversion}", &**path),
        ArchivedChange::Check => "check".into(),
        ArchivedChange::DeleteTree { path, .. } => format!("delete {:?} and all below it", &**path),
        ArchivedChange::CreateSkipped { path } => format!("leave {:?} as it is", &**path),
        ArchivedChange::DeleteSkipped => "delete nothing".into(),
    }
}
