//! Secrets at rest: sealed with AES-256-GCM under keys derived from the
//! installation's pepper, one for each purpose.

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use domain::keys::Pepper;

/// Bytes of the nonce that stands before the sealed text.
const NONCE_BYTES: usize = 12;

/// Seals under the key of `purpose` and `context`; both must be the same to open.
pub fn seal(pepper: &Pepper, purpose: &str, context: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut text = plain.to_vec();
    let nonce = key(pepper, purpose, context)
        .seal_in_place_append_tag(Aad::empty(), &mut text)
        .expect("texts are far shorter than AES-GCM's limit");
    [nonce.as_ref().as_slice(), &text].concat()
}

/// What was sealed; `None` if it was changed, or sealed for something else.
pub fn open(pepper: &Pepper, purpose: &str, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, text) = sealed.split_at_checked(NONCE_BYTES)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut text = text.to_vec();
    let length = key(pepper, purpose, context).open_in_place(nonce, Aad::empty(), &mut text).ok()?.len();
    text.truncate(length);
    Some(text)
}

fn key(pepper: &Pepper, purpose: &str, context: &[u8]) -> RandomizedNonceKey {
    let secret = pepper.derive(&format!("seal {purpose}"), context);
    RandomizedNonceKey::new(&AES_256_GCM, &secret).expect("an HMAC-SHA-256 is a key of 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_purpose_and_context_opens() {
        let pepper = Pepper::new([7; 32]);
        let sealed = seal(&pepper, "totp", b"anna", b"seed");
        assert_eq!(open(&pepper, "totp", b"anna", &sealed).unwrap(), b"seed");
        assert_ne!(sealed, seal(&pepper, "totp", b"anna", b"seed"), "a fresh nonce each time");
        assert!(open(&pepper, "totp", b"bert", &sealed).is_none());
        assert!(open(&pepper, "client secret", b"anna", &sealed).is_none());
        assert!(open(&Pepper::new([8; 32]), "totp", b"anna", &sealed).is_none());
        for n in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[n] ^= 1;
            assert!(open(&pepper, "totp", b"anna", &changed).is_none(), "byte {n}");
        }
        assert!(open(&pepper, "totp", b"anna", &sealed[..8]).is_none());
    }
}
