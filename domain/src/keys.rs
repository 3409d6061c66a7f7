//! Credentials: opaque secrets that are recognisable, checked without a query
//! and stored only as a keyed hash.
//!
//! `chy_` + 160 random bits in base62 (27 digits) + CRC-32 of all before it in
//! base62 (6 digits).

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::principals::Role;
use crate::tenants::Slug;
use crate::{KeyId, PrincipalId, ProjectId, TenantId, Timestamp};

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// ceil(160 / log2(62))
const SECRET_DIGITS: usize = 27;
/// ceil(32 / log2(62))
const CHECKSUM_DIGITS: usize = 6;

/// What a credential is for, told by its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CredentialKind {
    /// API key of a project.
    ApiKey,
    /// Session of a person.
    Session,
    /// Identity of a worker.
    Worker,
    /// Right to join a pool.
    Join,
}

impl CredentialKind {
    const ALL: [Self; 4] = [Self::ApiKey, Self::Session, Self::Worker, Self::Join];

    fn prefix(self) -> &'static str {
        match self {
            Self::ApiKey => "chy_",
            Self::Session => "chs_",
            Self::Worker => "chw_",
            Self::Join => "chj_",
        }
    }
}

/// Makes a credential from 160 random bits.
pub fn mint(kind: CredentialKind, random: [u8; 20]) -> String {
    let body = format!("{}{}", kind.prefix(), base62(&random, SECRET_DIGITS));
    let checksum = base62(&crc32fast::hash(body.as_bytes()).to_be_bytes(), CHECKSUM_DIGITS);
    body + &checksum
}

/// What kind of credential this is, if it is well formed. Wrong ones are
/// refused here, without a query.
pub fn kind_of(text: &str) -> Option<CredentialKind> {
    let kind = CredentialKind::ALL.into_iter().find(|k| text.starts_with(k.prefix()))?;
    let body_len = kind.prefix().len() + SECRET_DIGITS;
    if text.len() != body_len + CHECKSUM_DIGITS || !text.is_ascii() {
        return None;
    }
    let (body, checksum) = text.split_at(body_len);
    let expected = base62(&crc32fast::hash(body.as_bytes()).to_be_bytes(), CHECKSUM_DIGITS);
    (checksum == expected).then_some(kind)
}

/// The first characters of a credential, shown in lists.
pub fn shown_prefix(text: &str) -> &str {
    text.get(..10).unwrap_or(text)
}

/// Big-endian bytes in base62, padded with zeros to `digits`.
fn base62(bytes: &[u8], digits: usize) -> String {
    let mut number = bytes.to_vec();
    let mut out = vec![b'0'; digits];
    for digit in out.iter_mut().rev() {
        let mut rest = 0u32;
        for byte in &mut number {
            let value = rest << 8 | u32::from(*byte);
            *byte = u8::try_from(value / 62).expect("value < 62 * 256");
            rest = value % 62;
        }
        *digit = DIGITS[rest as usize];
    }
    String::from_utf8(out).expect("base62 digits are ASCII")
}

/// Keyed hashes of credentials, and keys derived for other uses. The secret
/// never leaves the API; a stolen database has no credential in it.
#[derive(Clone)]
pub struct Pepper([u8; 32]);

impl Pepper {
    /// From the installation's secret.
    pub fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }

    /// What is stored of a credential.
    pub fn hash(&self, credential: &str) -> [u8; 32] {
        self.derive("credential", credential.as_bytes())
    }

    /// HMAC-SHA-256 of `data` under a key for `purpose`.
    pub fn derive(&self, purpose: &str, data: &[u8]) -> [u8; 32] {
        use hmac::{KeyInit, Mac};
        let mut mac = hmac::Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(&(purpose.len() as u64).to_be_bytes());
        mac.update(purpose.as_bytes());
        mac.update(data);
        mac.finalize().into_bytes().into()
    }
}

impl std::fmt::Debug for Pepper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pepper(…)")
    }
}

/// A key of a project, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ApiKey {
    /// Identifier.
    pub id: KeyId,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Its project.
    pub project_id: ProjectId,
    /// The service account it acts for; `None` for a key that is its own actor.
    pub service_account_id: Option<PrincipalId>,
    /// Name for people.
    pub name: String,
    /// First characters of the secret.
    pub prefix: String,
    /// What it may do in its project: `developer`, `user` or `viewer`.
    pub role: Role,
    /// The endpoints it may send prompts to; `null` for all of its project.
    pub endpoints: Option<Vec<Slug>>,
    /// The actions, or groups of actions, it may take; `null` for all of its role.
    pub actions: Option<Vec<String>>,
    /// The networks it may come from; `null` for anywhere.
    #[schema(value_type = Option<Vec<String>>)]
    pub networks: Option<Vec<IpNet>>,
    /// The key it succeeds.
    pub rotated_from: Option<KeyId>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it stops working by itself.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// Last use, to the minute.
    pub last_used_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_minted_credential_is_recognised(random: [u8; 20]) {
            for kind in CredentialKind::ALL {
                let text = mint(kind, random);
                prop_assert_eq!(text.len(), 37);
                prop_assert_eq!(kind_of(&text), Some(kind));
            }
        }

        #[test]
        fn one_changed_character_is_refused(random: [u8; 20], at in 4usize..37, to in 0usize..62) {
            let mut text = mint(CredentialKind::ApiKey, random).into_bytes();
            prop_assume!(text[at] != DIGITS[to]);
            text[at] = DIGITS[to];
            prop_assert_eq!(kind_of(std::str::from_utf8(&text).unwrap()), None);
        }
    }

    #[test]
    fn base62_matches_long_division() {
        assert_eq!(base62(&[0, 61], 2), "0z");
        assert_eq!(base62(&[0, 62], 2), "10");
        assert_eq!(base62(&u32::MAX.to_be_bytes(), 6), "4gfFC3");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "chy_", "chy_é", &"x".repeat(37), &format!("chy_{}", "é".repeat(17))] {
            assert_eq!(kind_of(text), None);
        }
    }

    #[test]
    fn hashes_depend_on_secret_and_purpose() {
        let (a, b) = (Pepper::new([1; 32]), Pepper::new([2; 32]));
        assert_ne!(a.hash("x"), b.hash("x"));
        assert_ne!(a.derive("p", b"x"), a.derive("q", b"x"));
        assert_eq!(a.hash("x"), a.hash("x"));
        assert!(!format!("{a:?}").contains('1'));
    }
}
