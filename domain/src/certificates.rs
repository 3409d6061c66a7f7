//! Certificates of deletion: what was erased of a tenant, and what is kept and
//! why, signed with Ed25519 (RFC 8032) over canonical JSON (RFC 8785), so that
//! whoever has the installation's public key can check one offline.

use std::collections::BTreeMap;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::keys::Pepper;
use crate::models::Sha256Digest;
use crate::{TenantId, Timestamp};

/// What a certificate says it is.
const KIND: &str = "tenant_deletion";

/// What was erased of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// `tenant_deletion`.
    pub kind: String,
    /// The tenant.
    pub tenant_id: TenantId,
    /// Its short name, which may be used again since.
    pub slug: String,
    /// When the deletion was asked for.
    pub requested_at: Timestamp,
    /// By whom.
    pub requested_by: String,
    /// When nothing was left.
    pub finished_at: Timestamp,
    /// How many rows were erased, by table.
    pub rows: BTreeMap<String, u64>,
    /// How many objects (files and model files) were erased.
    pub objects: u64,
    /// Their size together.
    pub object_bytes: u64,
    /// SHA-256 of the export that was taken before, if one was.
    pub export_sha256: Option<Sha256Digest>,
    /// What is kept.
    pub kept: Vec<Kept>,
    /// The installation's public key, in hexadecimal.
    pub public_key: String,
}

/// Something that outlives a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
}

/// A certificate with its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignedCertificate {
    /// What is signed, as canonical JSON.
    pub certificate: Certificate,
    /// Ed25519 signature, in hexadecimal.
    pub signature: String,
}

/// Why a certificate is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// It is no certificate of ours.
    #[error("this is no certificate of a deletion: {0}")]
    Malformed(String),
    /// The text is not the canonical one.
    #[error("the text was changed: it is not the canonical form of what it says")]
    NotCanonical,
    /// The key is no Ed25519 key.
    #[error("the public key must be 64 hexadecimal digits, as GET /api/v1/installation shows it")]
    Key,
    /// Signed with another key.
    #[error("it was signed by another installation: it names the public key {0}")]
    OtherKey(String),
    /// The signature does not fit.
    #[error("the signature does not fit: the certificate was changed, or is false")]
    Signature,
}

impl SignedCertificate {
    /// The text to keep: canonical JSON.
    pub fn text(&self) -> String {
        canonical(self)
    }
}

fn canonical(value: &impl Serialize) -> String {
    serde_jcs::to_string(value).expect("texts and whole numbers are written to memory")
}

/// What the installation signs certificates with.
#[derive(Clone)]
pub struct SigningKey([u8; 32]);

impl SigningKey {
    /// The key of the installation with this secret: always the same.
    pub fn derive(pepper: &Pepper) -> Self {
        Self(pepper.derive("certificate key", b"ed25519"))
    }

    fn pair(&self) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&self.0).expect("every 32 bytes are a seed")
    }

    /// The public key, in hexadecimal.
    pub fn public_key(&self) -> String {
        hex::encode(self.pair().public_key())
    }

    /// Signs; fills in what the certificate is and by whom.
    pub fn sign(&self, mut certificate: Certificate) -> SignedCertificate {
        KIND.clone_into(&mut certificate.kind);
        certificate.public_key = self.public_key();
        let signature = hex::encode(self.pair().sign(canonical(&certificate).as_bytes()));
        SignedCertificate { certificate, signature }
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

/// Checks the text of a certificate against a public key in hexadecimal. A
/// line feed at the end is allowed, any other change is refused.
pub fn verify(text: &str, public_key: &str) -> Result<Certificate, CertificateError> {
    let mut key = [0; 32];
    hex::decode_to_slice(public_key.trim(), &mut key).map_err(|_| CertificateError::Key)?;
    let signed: SignedCertificate =
        serde_json::from_str(text).map_err(|e| CertificateError::Malformed(e.to_string()))?;
    if signed.certificate.kind != KIND {
        return Err(CertificateError::Malformed(format!("it is a {:?}", signed.certificate.kind)));
    }
    if signed.text() != text.strip_suffix('\n').unwrap_or(text) {
        return Err(CertificateError::NotCanonical);
    }
    if signed.certificate.public_key != hex::encode(key) {
        return Err(CertificateError::OtherKey(signed.certificate.public_key));
    }
    // Capital digits say the same; only one text is the certificate.
    let signature =
        hex::decode(&signed.signature).ok().filter(|bytes| hex::encode(bytes) == signed.signature);
    let signature = signature.ok_or(CertificateError::Signature)?;
    UnparsedPublicKey::new(&ED25519, key)
        .verify(canonical(&signed.certificate).as_bytes(), &signature)
        .map_err(|_| CertificateError::Signature)?;
    Ok(signed.certificate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate() -> Certificate {
        Certificate {
            kind: String::new(),
            tenant_id: TenantId::generate(),
            slug: "interior".to_owned(),
            requested_at: Timestamp::UNIX_EPOCH,
            requested_by: "principal:x".to_owned(),
            finished_at: Timestamp::UNIX_EPOCH,
            rows: [("files".to_owned(), 3)].into(),
            objects: 3,
            object_bytes: 12,
            export_sha256: Some(Sha256Digest::of(b"export")),
            kept: vec![Kept { what: "audit_events".to_owned(), why: "é".to_owned() }],
            public_key: String::new(),
        }
    }

    #[test]
    fn a_changed_byte_is_refused() {
        let key = SigningKey::derive(&Pepper::new([7; 32]));
        let signed = key.sign(certificate());
        let text = signed.text();
        assert_eq!(verify(&text, &key.public_key()).unwrap(), signed.certificate);
        verify(&format!("{text}\n"), &key.public_key()).unwrap();
        for n in 0..text.len() {
            for bit in 0..8 {
                let mut changed = text.clone().into_bytes();
                changed[n] ^= 1 << bit;
                let Ok(changed) = String::from_utf8(changed) else { continue };
                assert!(verify(&changed, &key.public_key()).is_err(), "bit {bit} of byte {n}");
            }
        }
        assert!(verify(&format!(" {text}"), &key.public_key()).is_err());
    }

    #[test]
    fn the_key_is_the_installations() {
        let (one, other) =
            (SigningKey::derive(&Pepper::new([7; 32])), SigningKey::derive(&Pepper::new([8; 32])));
        assert_eq!(one.public_key(), SigningKey::derive(&Pepper::new([7; 32])).public_key());
        let text = one.sign(certificate()).text();
        assert!(matches!(verify(&text, &other.public_key()), Err(CertificateError::OtherKey(_))));
        assert_eq!(verify(&text, "abc"), Err(CertificateError::Key));
        assert!(!format!("{one:?}").contains(char::is_numeric));
    }
}
