//! Models and their immutable versions, identified by the digest of a manifest.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::tenants::Slug;
use crate::{ModelId, TenantId, Timestamp, VersionId};

/// Memory an engine needs beside the weights: tokenizer, buffers, code.
const ENGINE_OVERHEAD_BYTES: u64 = 192 << 20;
/// Memory an engine gets for the caches of the sequences it works on.
pub const DEFAULT_KV_BYTES: u64 = 512 << 20;

/// A SHA-256, as 64 lower-case hexadecimal digits in text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
pub struct Sha256Digest(pub [u8; 32]);

impl Sha256Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl TryFrom<String> for Sha256Digest {
    type Error = String;
    fn try_from(s: String) -> Result<Self, String> {
        s.parse()
    }
}

impl std::str::FromStr for Sha256Digest {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let mut out = [0; 32];
        if s.bytes().any(|b| b.is_ascii_uppercase()) || hex::decode_to_slice(s, &mut out).is_err() {
            return Err("a SHA-256 is 64 lower-case hexadecimal digits".to_owned());
        }
        Ok(Self(out))
    }
}

impl From<Sha256Digest> for String {
    fn from(d: Sha256Digest) -> Self {
        d.to_string()
    }
}

impl std::fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// A name under which versions are registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Model {
    /// Identifier.
    pub id: ModelId,
    /// `None`: in the national catalogue, visible to every tenant.
    pub tenant_id: Option<TenantId>,
    /// Unique among the catalogue's or the tenant's.
    pub name: Slug,
    /// When it was created.
    pub created_at: Timestamp,
}

/// One file of a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    /// Name inside the version, e.g. `model.gguf`: one path segment.
    pub path: String,
    /// Digest of the content; also where the object store keeps it.
    pub sha256: Sha256Digest,
    /// Size.
    pub bytes: u64,
}

/// What a version is, exactly. Its canonical JSON (RFC 8785) has the digest
/// that is the version's identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format of the files: `gguf`.
    pub format: String,
    /// Files, sorted by path.
    pub files: Vec<ManifestFile>,
}

impl Manifest {
    /// Identity of the version with this manifest.
    pub fn digest(&self) -> Sha256Digest {
        let canonical = serde_jcs::to_vec(self).expect("a manifest has only strings and integers below 2^53");
        Sha256Digest::of(&canonical)
    }

    /// Size of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }

    /// Memory that an engine with this version may use: weights with a quarter
    /// for repacking, caches, and the engine itself. An estimate from the size;
    /// the engine refuses sequences beyond it rather than growing.
    pub fn engine_memory_bytes(&self) -> u64 {
        let weights = self.bytes();
        weights + weights / 4 + DEFAULT_KV_BYTES + ENGINE_OVERHEAD_BYTES
    }
}

/// One immutable set of files under a model's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ModelVersion {
    /// Identifier.
    pub id: VersionId,
    /// The model.
    pub model_id: ModelId,
    /// The model's tenant.
    pub tenant_id: Option<TenantId>,
    /// The model's name.
    pub model: Slug,
    /// Digest of the manifest.
    pub digest: Sha256Digest,
    /// What it is.
    pub manifest: Manifest,
    /// When it was registered.
    pub created_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_does_not_depend_on_how_the_manifest_was_written() {
        let a: Manifest = serde_json::from_str(
            r#"{"format":"gguf","files":[{"path":"m.gguf","bytes":3,"sha256":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}]}"#,
        )
        .unwrap();
        let b: Manifest = serde_json::from_str(&serde_json::to_string_pretty(&a).unwrap()).unwrap();
        assert_eq!(a.digest(), b.digest());
        assert_eq!(a.files[0].sha256, Sha256Digest::of(b"abc"));
        let mut c = b;
        c.files[0].bytes = 4;
        assert_ne!(a.digest(), c.digest());
    }

    #[test]
    fn digests_are_lower_case_hexadecimal() {
        let good = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(good.parse::<Sha256Digest>().is_ok());
        assert!(good.to_uppercase().parse::<Sha256Digest>().is_err());
        assert!(good[1..].parse::<Sha256Digest>().is_err());
    }
}
