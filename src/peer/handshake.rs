//! The handshake: both sides say who they are, then prove that they know the secret, the one that dials first. The proofs
//! and the keys of the connection are bound to everything both have said, nonces included, so nothing of one connection is
//! of use on another.
//!
//! ```text
//! dials ── Hello ──> listens ── Hello ──> dials ── Proof ──> listens ── Proof ──> dials
//!
//! Hello 80    "FLNK" | newest u16 | oldest u16 | flags u16 | from u16 | to u16 | 0 u16 | cluster u128 | incarnation u128 | nonce 32
//! Proof 36    "FPRF" | MAC 32
//! Refusal 8   "FREF" | code u16 | 0 u16, in place of any of the others; the connection ends
//! ```
//! Who listens proves nothing to a stranger, so a stranger cannot dial in for something to guess the secret with.
//! Refuses to read more than it asks for: what follows the handshake belongs to the link.

use super::refusal::{Refusal, VERSION_NEWEST, VERSION_OLDEST};
use super::seal::{Seal, SessionKeys};
use super::secret::Secret;

const HELLO: &[u8; 4] = b"FLNK";
const PROOF: &[u8; 4] = b"FPRF";
const REFUSAL: &[u8; 4] = b"FREF";
const HELLO_BYTES: usize = 80;
const PROOF_BYTES: usize = 36;
const REFUSAL_BYTES: usize = 8;
/// All that is ever read of somebody who has not proved anything.
pub const HANDSHAKE_BYTES_MAX: usize = HELLO_BYTES + PROOF_BYTES;

const HAS_HISTORY: u16 = 1;
const HAS_SECRET: u16 = 2;

/// What a server says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Introduction {
    pub server: u16,
    pub cluster: u128,
    /// Whether it holds data of that cluster, so that the cluster counts.
    pub has_history: bool,
    /// Different at every start.
    pub incarnation: u128,
}

/// A connection whose other end is known.
pub struct Established {
    pub peer: Introduction,
    pub keys: SessionKeys,
}

enum Role {
    Dials { peer: u16 },
    Listens { known: Vec<u16> },
}

/// One side of a handshake. See the module heading.
pub struct Handshake {
    role: Role,
    me: Introduction,
    secret: Secret,
    nonce: [u8; 32],
    /// What was said so far.
    mine: [u8; HELLO_BYTES],
    theirs: Option<(Introduction, [u8; HELLO_BYTES])>,
    input: Vec<u8>,
}

fn hello(me: &Introduction, to: u16, secret: &Secret, nonce: &[u8; 32]) -> [u8; HELLO_BYTES] {
    let flags = if me.has_history { HAS_HISTORY } else { 0 } | if secret.is_shared() { HAS_SECRET } else { 0 };
    let mut bytes = [0; HELLO_BYTES];
    bytes[0..4].copy_from_slice(HELLO);
    for (at, field) in [VERSION_NEWEST, VERSION_OLDEST, flags, me.server, to].into_iter().enumerate() {
        bytes[4 + 2 * at..6 + 2 * at].copy_from_slice(&field.to_le_bytes());
    }
    bytes[16..32].copy_from_slice(&me.cluster.to_le_bytes());
    bytes[32..48].copy_from_slice(&me.incarnation.to_le_bytes());
    bytes[48..80].copy_from_slice(nonce);
    bytes
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(bytes[at..at + 16].try_into().expect("sixteen bytes"))
}

impl Handshake {
    /// Dials `peer`; appends what is to be sent first. `nonce`: 32 random bytes.
    pub fn dial(me: Introduction, peer: u16, secret: Secret, nonce: [u8; 32], out: &mut Vec<u8>) -> Handshake {
        let mine = hello(&me, peer, &secret, &nonce);
        out.extend_from_slice(&mine);
        Handshake { role: Role::Dials { peer }, me, secret, nonce, mine, theirs: None, input: Vec::new() }
    }

    /// Was dialled by one of the servers in `known`, or by a stranger.
    pub fn listen(me: Introduction, known: Vec<u16>, secret: Secret, nonce: [u8; 32]) -> Handshake {
        let mine = [0; HELLO_BYTES];
        Handshake { role: Role::Listens { known }, me, secret, nonce, mine, theirs: None, input: Vec::new() }
    }

    /// How many bytes to read next, at most.
    pub fn wanted(&self) -> usize {
        self.step_bytes() - self.input.len()
    }

    /// The length of what comes next, as far as its first bytes tell.
    fn step_bytes(&self) -> usize {
        match self.input.first_chunk::<4>() {
            Some(HELLO) => HELLO_BYTES,
            Some(PROOF) => PROOF_BYTES,
            _ => REFUSAL_BYTES,
        }
    }

    /// Who the other side says it is, once it has.
    pub fn claimed(&self) -> Option<u16> {
        self.theirs.as_ref().map(|(theirs, _)| theirs.server)
    }

    /// Takes the next bytes, at most as many as wanted, and appends what is to be sent, a refusal too.
    pub fn receive(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<Established>, Refusal> {
        assert!(bytes.len() <= self.wanted(), "no more is read than is wanted");
        self.input.extend_from_slice(bytes);
        let result = self.step(out);
        if let Err(refusal) = result
            && let Some(code) = refusal.code()
        {
            out.extend_from_slice(REFUSAL);
            out.extend_from_slice(&code.to_le_bytes());
            out.extend_from_slice(&[0; 2]);
        }
        result
    }

    fn step(&mut self, out: &mut Vec<u8>) -> Result<Option<Established>, Refusal> {
        let expected = if self.theirs.is_none() { HELLO } else { PROOF };
        let seen = self.input.len().min(4);
        if self.input[..seen] != expected[..seen] && self.input[..seen] != REFUSAL[..seen] {
            return Err(Refusal::Stranger);
        }
        if self.wanted() > 0 {
            return Ok(None);
        }
        let input = std::mem::take(&mut self.input);
        match input.first_chunk::<4>() {
            Some(HELLO) => self.hello(input.as_slice().try_into().expect("a whole Hello"), out).map(|()| None),
            Some(PROOF) => self.proof(&input[4..], out).map(Some),
            _ => Err(Refusal::told(u16_at(&input, 4))),
        }
    }

    fn hello(&mut self, bytes: &[u8; HELLO_BYTES], out: &mut Vec<u8>) -> Result<(), Refusal> {
        let (newest, oldest, flags, to) = (u16_at(bytes, 4), u16_at(bytes, 6), u16_at(bytes, 8), u16_at(bytes, 12));
        if newest < VERSION_OLDEST || oldest > VERSION_NEWEST {
            return Err(Refusal::Version { oldest, newest });
        }
        let server = u16_at(bytes, 10);
        let theirs =
            Introduction { server, cluster: u128_at(bytes, 16), has_history: flags & HAS_HISTORY != 0, incarnation: u128_at(bytes, 32) };
        self.theirs = Some((theirs, *bytes));
        self.check_names(server, to)?;
        match (self.secret.is_shared(), flags & HAS_SECRET != 0) {
            (true, false) => return Err(Refusal::SecretMissing),
            (false, true) => return Err(Refusal::SecretUnexpected),
            _ => {}
        }
        match self.role {
            Role::Listens { .. } => {
                self.mine = hello(&self.me, server, &self.secret, &self.nonce);
                out.extend_from_slice(&self.mine);
            }
            Role::Dials { .. } => self.prove(out),
        }
        Ok(())
    }

    /// Whether these two belong together, in this direction.
    fn check_names(&self, from: u16, to: u16) -> Result<(), Refusal> {
        let me = self.me.server;
        match &self.role {
            Role::Dials { peer } if from != *peer => Err(Refusal::NotDialled { wanted: *peer, found: from }),
            _ if to != me => Err(Refusal::NotMe(to)),
            _ if from == me => Err(Refusal::Mine(from)),
            Role::Listens { known } if !known.contains(&from) => Err(Refusal::Unknown(from)),
            Role::Listens { .. } if from < me => Err(Refusal::Direction(from)),
            _ => Ok(()),
        }
    }

    /// A hash of both Hellos, the dialling side's first.
    fn transcript(&self) -> [u8; 32] {
        let theirs = &self.theirs.as_ref().expect("both have said who they are").1;
        let (first, second) = match self.role {
            Role::Dials { .. } => (&self.mine, theirs),
            Role::Listens { .. } => (theirs, &self.mine),
        };
        *blake3::Hasher::new().update(first).update(second).finalize().as_bytes()
    }

    /// The names of this side and of the other in proofs.
    fn sides(&self) -> (&'static str, &'static str) {
        if matches!(self.role, Role::Dials { .. }) { ("dials", "listens") } else { ("listens", "dials") }
    }

    fn prove(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(PROOF);
        out.extend_from_slice(self.secret.prove(self.sides().0, &self.transcript()).as_bytes());
    }

    fn proof(&mut self, mac: &[u8], out: &mut Vec<u8>) -> Result<Established, Refusal> {
        let transcript = self.transcript();
        let mac: &[u8; 32] = mac.try_into().expect("a whole Proof");
        if self.secret.prove(self.sides().1, &transcript) != *mac {
            return Err(Refusal::SecretWrong);
        }
        let (peer, _) = self.theirs.expect("a Proof comes after a Hello");
        // Not before: now it is sure that it was this server that said so.
        if peer.has_history && self.me.has_history && peer.cluster != self.me.cluster {
            return Err(Refusal::Cluster { ours: self.me.cluster, theirs: peer.cluster });
        }
        if matches!(self.role, Role::Listens { .. }) {
            self.prove(out);
        }
        let towards_listener = Seal::new(self.secret.session_key("falconer peer link 1: from who dialled", &transcript));
        let towards_dialler = Seal::new(self.secret.session_key("falconer peer link 1: to who dialled", &transcript));
        let keys = match self.role {
            Role::Dials { .. } => SessionKeys { send: towards_listener, receive: towards_dialler },
            Role::Listens { .. } => SessionKeys { send: towards_dialler, receive: towards_listener },
        };
        Ok(Established { peer, keys })
    }
}
