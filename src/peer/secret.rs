//! What all servers of an ensemble know and nobody else does. Only a key derived from it is kept, and that is never shown.
//! Refuses to judge a secret: the configuration does not take one that can be guessed.

/// The key by which servers prove that they know the secret. Has no `Debug`, so that no log shows it.
#[derive(Clone)]
pub struct Secret {
    key: [u8; 32],
    shared: bool,
}

impl Secret {
    pub fn new(text: &[u8]) -> Secret {
        Secret { key: blake3::derive_key("falconer peer link 1: the shared secret", text), shared: true }
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
    fn every_byte_of_a_secret_counts_and_none_is_not_an_empty_one() {
        let proof = |secret: Secret| secret.prove("a", &[0; 32]);
        assert_eq!(proof(Secret::new(b"one")), proof(Secret::new(b"one")));
        assert_ne!(proof(Secret::new(b"one")), proof(Secret::new(b"one ")));
        assert_ne!(proof(Secret::new(b"")), proof(Secret::none()));
        assert_ne!(Secret::none().prove("a", &[0; 32]), Secret::none().prove("b", &[0; 32]));
        assert!(Secret::new(b"one").is_shared() && !Secret::none().is_shared());
    }
}
