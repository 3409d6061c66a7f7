//! The keys that an issuer publishes (RFC 7517), and which of them may check
//! which signature.

use domain::identity::SigningAlgorithm;
use jsonwebtoken::DecodingKey;
use serde_json::{Map, Value};

use super::strict::{NotStrict, base64url, object};

/// Keys of one set.
pub const MAX_KEYS: usize = 64;
/// Characters of a key's name.
pub const MAX_KID_CHARS: usize = 128;
/// Bits of an RSA modulus.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Why a key may check no signature, or not this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyDefect {
    /// `kty` is `oct`: who can check with it can sign with it.
    #[error("it is a shared secret (kty oct)")]
    Symmetric,
    /// Another `kty`, or none.
    #[error("its kty is none of RSA, EC and OKP")]
    UnknownType,
    /// `use` is not `sig`.
    #[error("its use is not sig")]
    NotForSigning,
    /// `key_ops` has no `verify`.
    #[error("its key_ops have no verify")]
    NotForVerifying,
    /// It has members of a private key: everybody who reads the set can sign.
    #[error("it is a private key")]
    Private,
    /// A modulus below 2048 bits.
    #[error("its RSA modulus is shorter than 2048 bits")]
    Weak,
    /// A modulus above 8192 bits.
    #[error("its RSA modulus is longer than 8192 bits")]
    Oversized,
    /// An exponent that is even or below 3, or beyond 32 bits.
    #[error("its RSA exponent cannot be")]
    Exponent,
    /// A curve that no taken algorithm has.
    #[error("its curve is none of P-256, P-384 and Ed25519")]
    UnknownCurve,
    /// Parameters that are missing, of the wrong length or no base64url.
    #[error("its parameters cannot be read")]
    Malformed,
    /// Its `kid` is no text, too long, or has characters that names of keys lack.
    #[error("its kid cannot be")]
    Kid,
    /// Its `alg` names another algorithm than the token.
    #[error("its alg is another one")]
    OtherAlgorithm,
    /// Its `kty` is not the one of the algorithm.
    #[error("its kty does not fit the algorithm")]
    OtherType,
    /// Its curve is not the one of the algorithm.
    #[error("its curve does not fit the algorithm")]
    OtherCurve,
}

/// Why a document is no set of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotKeySet {
    /// It is not JSON.
    #[error("it is not JSON")]
    NotJson,
    /// A member is there twice.
    #[error("it has a member twice")]
    Duplicate,
    /// There is no array `keys` of objects.
    #[error("it has no array of keys")]
    NoArray,
    /// More keys than anybody needs.
    #[error("it has more than 64 keys")]
    TooMany,
    /// No key in it may check a signature.
    #[error("no key in it can check a signature")]
    NoneUsable,
}

/// What a key is mathematically.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Rsa { modulus_bytes: usize },
    P256,
    P384,
    Ed25519,
}

/// One key of a set.
#[derive(Clone, Debug)]
pub struct Key {
    kid: Option<String>,
    alg: Option<String>,
    usable: Result<(Shape, DecodingKey), KeyDefect>,
}

impl Key {
    /// The key, if it may check signatures of this algorithm, with the length
    /// that a signature has.
    pub(crate) fn for_algorithm(
        &self,
        algorithm: SigningAlgorithm,
    ) -> Result<(&DecodingKey, usize), KeyDefect> {
        use SigningAlgorithm::{ES256, ES384, EdDSA, PS256, RS256};
        let (shape, key) = self.usable.as_ref().map_err(|defect| *defect)?;
        // RFC 9864 names Ed25519 alone; it is the curve that EdDSA has here.
        let alg = self.alg.as_deref().map(|alg| if alg == "Ed25519" { "EdDSA" } else { alg });
        let signature_bytes = match (algorithm, shape) {
            (RS256 | PS256, Shape::Rsa { modulus_bytes }) => *modulus_bytes,
            (ES256, Shape::P256) | (EdDSA, Shape::Ed25519) => 64,
            (ES384, Shape::P384) => 96,
            (ES256, Shape::P384) | (ES384, Shape::P256) => return Err(KeyDefect::OtherCurve),
            _ => return Err(KeyDefect::OtherType),
        };
        if alg.is_some_and(|alg| alg != algorithm.as_str()) {
            return Err(KeyDefect::OtherAlgorithm);
        }
        Ok((key, signature_bytes))
    }
}

/// Why no key was found for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoKey {
    /// No key has this `kid`.
    Unknown,
    /// Several fit.
    Ambiguous,
    /// The token names none, and there are several.
    KidNeeded,
    /// There is one, and it may not check this.
    Unusable(KeyDefect),
}

/// The keys of an issuer.
#[derive(Clone, Debug)]
pub struct KeySet {
    keys: Vec<Key>,
}

impl KeySet {
    /// Reads a set. Keys that cannot check a signature stay in it with their
    /// reason, so that a token that names one is refused for that reason.
    pub fn parse(json: &[u8]) -> Result<Self, NotKeySet> {
        let set = object(json).map_err(|e| match e {
            NotStrict::Duplicate => NotKeySet::Duplicate,
            NotStrict::Json => NotKeySet::NotJson,
            NotStrict::Object => NotKeySet::NoArray,
        })?;
        let Some(Value::Array(keys)) = set.get("keys") else { return Err(NotKeySet::NoArray) };
        if keys.len() > MAX_KEYS {
            return Err(NotKeySet::TooMany);
        }
        let keys: Vec<Key> = keys
            .iter()
            .map(|key| key.as_object().map(parse_key).ok_or(NotKeySet::NoArray))
            .collect::<Result<_, _>>()?;
        if !keys.iter().any(|key| key.usable.is_ok()) {
            return Err(NotKeySet::NoneUsable);
        }
        Ok(Self { keys })
    }

    /// Whether a key has this name.
    pub fn has(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| key.kid.as_deref() == Some(kid))
    }

    /// Whether a key can check signatures of this algorithm.
    pub fn serves(&self, algorithm: SigningAlgorithm) -> bool {
        self.keys.iter().any(|key| key.for_algorithm(algorithm).is_ok())
    }

    /// How many keys can check signatures.
    pub fn usable(&self) -> usize {
        self.keys.iter().filter(|key| key.usable.is_ok()).count()
    }

    /// Why each of the others cannot, for who set the issuer up.
    pub fn defects(&self) -> impl Iterator<Item = (Option<&str>, KeyDefect)> {
        self.keys.iter().filter_map(|key| Some((key.kid.as_deref(), *key.usable.as_ref().err()?)))
    }

    /// The key for a token, and the length of its signatures. Which key is
    /// chosen depends on `kid` and the pinned algorithm only: the token cannot
    /// bring or describe its own.
    pub(crate) fn find(
        &self,
        kid: Option<&str>,
        algorithm: SigningAlgorithm,
    ) -> Result<(&DecodingKey, usize), NoKey> {
        let named = |key: &&Key| kid.is_none_or(|kid| key.kid.as_deref() == Some(kid));
        // Without a name, only the keys that fit count.
        let fits = |key: &&Key| kid.is_some() || key.for_algorithm(algorithm).is_ok();
        let mut found = self.keys.iter().filter(named).filter(fits);
        match (found.next(), found.next()) {
            (None, _) => Err(NoKey::Unknown),
            (Some(key), None) => key.for_algorithm(algorithm).map_err(NoKey::Unusable),
            (Some(_), Some(_)) if kid.is_none() => Err(NoKey::KidNeeded),
            (Some(_), Some(_)) => Err(NoKey::Ambiguous),
        }
    }
}

/// Whether a text can be the name of a key: what issuers use, and nothing that
/// means something in a path, a query or a log.
pub(crate) fn is_kid(text: &str) -> bool {
    (1..=MAX_KID_CHARS).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~=+:@".contains(&b))
}

fn parse_key(key: &Map<String, Value>) -> Key {
    let text = |name: &str| key.get(name).and_then(Value::as_str);
    let kid = text("kid").filter(|kid| is_kid(kid)).map(str::to_owned);
    let usable = match key.get("kid") {
        Some(_) if kid.is_none() => Err(KeyDefect::Kid),
        _ => usable(key),
    };
    Key { kid, alg: text("alg").map(str::to_owned), usable }
}

fn usable(key: &Map<String, Value>) -> Result<(Shape, DecodingKey), KeyDefect> {
    let text = |name: &str| key.get(name).and_then(Value::as_str);
    let bytes = |name: &str| base64url(text(name).unwrap_or_default()).map_err(|_| KeyDefect::Malformed);
    let kty = text("kty").unwrap_or_default();
    match kty {
        "RSA" | "EC" | "OKP" => {}
        "oct" => return Err(KeyDefect::Symmetric),
        _ => return Err(KeyDefect::UnknownType),
    }
    if ["d", "p", "q", "k"].iter().any(|private| key.contains_key(*private)) {
        return Err(KeyDefect::Private);
    }
    if key.get("use").is_some_and(|used| used != "sig") {
        return Err(KeyDefect::NotForSigning);
    }
    let verifies = |ops: &Value| ops.as_array().is_some_and(|ops| ops.iter().any(|op| op == "verify"));
    if key.get("key_ops").is_some_and(|ops| !verifies(ops)) {
        return Err(KeyDefect::NotForVerifying);
    }
    match kty {
        "RSA" => rsa(&bytes("n")?, &bytes("e")?),
        "EC" => {
            let (shape, length) = match text("crv") {
                Some("P-256") => (Shape::P256, 32),
                Some("P-384") => (Shape::P384, 48),
                _ => return Err(KeyDefect::UnknownCurve),
            };
            if bytes("x")?.len() != length || bytes("y")?.len() != length {
                return Err(KeyDefect::Malformed);
            }
            let (x, y) = (text("x").unwrap_or_default(), text("y").unwrap_or_default());
            let key = DecodingKey::from_ec_components(x, y).map_err(|_| KeyDefect::Malformed)?;
            Ok((shape, key))
        }
        _ => {
            if text("crv") != Some("Ed25519") {
                return Err(KeyDefect::UnknownCurve);
            }
            if bytes("x")?.len() != 32 {
                return Err(KeyDefect::Malformed);
            }
            let x = text("x").unwrap_or_default();
            let key = DecodingKey::from_ed_components(x).map_err(|_| KeyDefect::Malformed)?;
            Ok((Shape::Ed25519, key))
        }
    }
}

fn rsa(n: &[u8], e: &[u8]) -> Result<(Shape, DecodingKey), KeyDefect> {
    let leading_zeros = n.iter().take_while(|b| **b == 0).count();
    let modulus = &n[leading_zeros..];
    let bits = modulus.first().map_or(0, |top| modulus.len() * 8 - top.leading_zeros() as usize);
    if bits == 0 || modulus.last().is_none_or(|low| low.is_multiple_of(2)) {
        return Err(KeyDefect::Malformed);
    }
    if bits < *RSA_BITS.start() {
        return Err(KeyDefect::Weak);
    }
    if bits > *RSA_BITS.end() {
        return Err(KeyDefect::Oversized);
    }
    let mut exponent = 0u64;
    for byte in e.iter().skip_while(|b| **b == 0) {
        exponent = exponent.checked_mul(256).ok_or(KeyDefect::Exponent)? + u64::from(*byte);
    }
    if exponent < 3 || exponent.is_multiple_of(2) || exponent > u64::from(u32::MAX) {
        return Err(KeyDefect::Exponent);
    }
    let shape = Shape::Rsa { modulus_bytes: bits.div_ceil(8) };
    Ok((shape, DecodingKey::from_rsa_raw_components(modulus, e)))
}

#[cfg(test)]
mod tests;
