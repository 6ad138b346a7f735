//! What all servers of an ensemble know and nobody else does. Only a key derived from it is kept, and that is never shown.
//! Refuses secrets that can be guessed by their length alone.

use crate::limits::{PEER_SECRET_BYTES_MAX, PEER_SECRET_BYTES_MIN};

/// Why a text is no secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadSecret {
    #[error(
        "a secret of {0} bytes can be guessed: it takes at least {PEER_SECRET_BYTES_MIN}, better 32 random ones (`openssl rand -hex 32`)"
    )]
    Short(usize),
    #[error("a secret of {0} bytes: at most {PEER_SECRET_BYTES_MAX} are taken, is this the right file?")]
    Long(usize),
}

/// The key by which servers prove that they know the secret. Has no `Debug`, so that no log shows it.
#[derive(Clone)]
pub struct Secret {
    key: [u8; 32],
    shared: bool,
}

impl Secret {
    /// From the text of a file. White space around it does not count: editors add some.
    pub fn new(text: &[u8]) -> Result<Secret, BadSecret> {
        let text = text.trim_ascii();
        match text.len() {
            short if short < PEER_SECRET_BYTES_MIN => Err(BadSecret::Short(short)),
            long if long > PEER_SECRET_BYTES_MAX => Err(BadSecret::Long(long)),
            _ => Ok(Secret { key: blake3::derive_key("falconer peer link 1: the shared secret", text), shared: true }),
        }
    }

    /// For servers that share a machine: everybody knows it, so what it seals is only safe from accidents.
    pub fn none() -> Secret {
        Secret { key: blake3::derive_key("falconer peer link 1: no secret", &[]), shared: false }
    }

    /// Whether it is one.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Shows that its owner has heard `transcript` in this role.
    pub(super) fn prove(&self, role: &str, transcript: &[u8; 32]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(role.as_bytes()).update(transcript);
        hasher.finalize()
    }

    /// A key for one direction of the one connection that has this transcript.
    pub(super) fn session_key(&self, context: &'static str, transcript: &[u8; 32]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(&self.key).update(transcript);
        *hasher.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_around_a_secret_does_not_count_and_everything_else_does() {
        let proof = |text: &str| Secret::new(text.as_bytes()).unwrap().prove("a", &[0; 32]);
        assert_eq!(proof("0123456789abcdef"), proof("\n 0123456789abcdef\r\n"));
        assert_ne!(proof("0123456789abcdef"), proof("0123456789abcdeF"));
        assert_ne!(Secret::none().prove("a", &[0; 32]), Secret::none().prove("b", &[0; 32]));
        assert!(!Secret::none().is_shared());
    }

    #[test]
    fn secrets_that_are_none_are_refused() {
        assert_eq!(Secret::new(b"short\n\n\n\n\n\n\n\n\n\n\n\n\n\n").err(), Some(BadSecret::Short(5)));
        assert_eq!(Secret::new(&[b'x'; 5000]).err(), Some(BadSecret::Long(5000)));
        assert_eq!(Secret::new(b"").err(), Some(BadSecret::Short(0)));
    }
}
