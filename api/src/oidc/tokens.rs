//! Checking signed tokens of an issuer: access tokens (RFC 9068), ID tokens
//! (OpenID Connect Core) and logout tokens (Back-Channel Logout).
//!
//! `jsonwebtoken` checks the signature. Everything around it is checked here,
//! because it reads the machine's clock, takes duplicate members and floats for
//! times, checks `aud` and `iss` only where they are present, and no `typ`.

use std::time::Duration;

use domain::Timestamp;
use domain::identity::{IssuerUrl, SigningAlgorithm};
use serde_json::{Map, Value};

use super::keys::{KeyDefect, KeySet, NoKey, is_kid};
use super::strict::{NotBase64Url, NotStrict, base64url, object};

/// Bytes of a token.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// Characters of a subject (OpenID Connect Core, section 2).
pub const MAX_SUBJECT_CHARS: usize = 255;
/// How far the issuer's clock may be from ours.
pub const LEEWAY: Duration = Duration::from_secs(30);
/// How far ahead a token may end; a longer life cannot be taken back in time.
pub const MAX_TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How old a logout token may be.
pub const MAX_LOGOUT_AGE: Duration = Duration::from_secs(300);
/// The event of a logout token.
const LOGOUT_EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// A part of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The first.
    Header,
    /// The second.
    Claims,
    /// The third.
    Signature,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Claims => "claims",
            Self::Signature => "signature",
        })
    }
}

/// Why a token is refused; for the log, never for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Larger than any token.
    #[error("the token is longer than 16 KiB")]
    TooLong,
    /// Five parts: encrypted for somebody.
    #[error("the token is encrypted (JWE)")]
    Encrypted,
    /// Neither three parts nor five.
    #[error("the token has {0} parts")]
    Parts(usize),
    /// `=` at the end of a part.
    #[error("the {0} is padded")]
    Padded(Part),
    /// A character that base64url lacks.
    #[error("the {0} has a character outside base64url")]
    Alphabet(Part),
    /// Spare bits, or a length that no bytes have.
    #[error("the {0} is not the one base64url form of its bytes")]
    NotCanonical(Part),
    /// Not JSON.
    #[error("the {0} is not JSON")]
    NotJson(Part),
    /// JSON, and no object.
    #[error("the {0} is no JSON object")]
    NotObject(Part),
    /// A member twice.
    #[error("the {0} has a member twice")]
    Duplicate(Part),
    /// No `alg`, or none that is a text.
    #[error("the header names no algorithm")]
    AlgorithmMissing,
    /// `none`, in any spelling.
    #[error("the token is not signed (alg none)")]
    AlgorithmNone,
    /// HS256 and its like: who can check could sign.
    #[error("the token is signed with a shared secret")]
    AlgorithmSymmetric,
    /// No algorithm that is taken from anybody.
    #[error("the algorithm is not taken")]
    AlgorithmUnknown,
    /// One that this issuer does not sign with.
    #[error("the algorithm {0} is not one of this issuer's")]
    AlgorithmNotPinned(SigningAlgorithm),
    /// The token brings its own key, or says where to fetch one.
    #[error("the header brings a key or an address of one ({0})")]
    BringsKey(&'static str),
    /// An extension that must be understood.
    #[error("the header demands extensions (crit)")]
    Critical,
    /// An unencoded payload (RFC 7797).
    #[error("the header changes how the payload is signed (b64)")]
    Unencoded,
    /// Compressed content.
    #[error("the token is compressed (zip)")]
    Compressed,
    /// A token in a token.
    #[error("the token holds another one (cty)")]
    Nested,
    /// No `typ`.
    #[error("the header names no type")]
    TypeMissing,
    /// `typ` of another kind of token.
    #[error("the token is of another type")]
    WrongType,
    /// `kid` is no text.
    #[error("kid is no text")]
    KidNotText,
    /// `kid` is empty, too long or has characters that names of keys lack.
    #[error("kid cannot be the name of a key")]
    KidMalformed,
    /// No `kid`, and several keys.
    #[error("the token names no key, and the issuer has several")]
    KidNeeded,
    /// No such key.
    #[error("the issuer has no such key")]
    KidUnknown,
    /// Several keys of that name.
    #[error("the issuer has several keys of that name")]
    KidAmbiguous,
    /// The key may not check this token.
    #[error("the key cannot be used: {0}")]
    Key(#[source] KeyDefect),
    /// No signature.
    #[error("the signature is missing")]
    SignatureMissing,
    /// A length that signatures of this algorithm never have, e.g. DER.
    #[error("the signature has the wrong length")]
    SignatureLength,
    /// Zero for r or s, which holds for every message where it is not refused.
    #[error("the signature is trivial")]
    SignatureTrivial,
    /// Not signed by this key.
    #[error("the signature does not hold")]
    Signature,
    /// No `iss`.
    #[error("iss is missing")]
    IssuerMissing,
    /// `iss` is no text.
    #[error("iss is no text")]
    IssuerNotText,
    /// Another issuer's.
    #[error("iss is another issuer")]
    IssuerOther,
    /// No `aud`.
    #[error("aud is missing")]
    AudienceMissing,
    /// `aud` is neither a text nor a list of texts, or empty.
    #[error("aud is neither a text nor a list of texts")]
    AudienceMalformed,
    /// For somebody else.
    #[error("aud does not name this installation")]
    AudienceOther,
    /// An ID token that was issued to another client (`azp`).
    #[error("azp is another client")]
    PartyOther,
    /// No `sub`.
    #[error("sub is missing")]
    SubjectMissing,
    /// `sub` is no text.
    #[error("sub is no text")]
    SubjectNotText,
    /// `sub` is empty.
    #[error("sub is empty")]
    SubjectEmpty,
    /// `sub` is too long or has control characters.
    #[error("sub is longer than 255 characters or has control characters")]
    SubjectMalformed,
    /// No `exp`.
    #[error("exp is missing")]
    ExpiryMissing,
    /// `exp` is no whole number of seconds.
    #[error("exp is no whole number")]
    ExpiryNotInteger,
    /// Over.
    #[error("the token has expired")]
    Expired,
    /// Valid for longer than any token may be.
    #[error("the token is valid for more than a day")]
    TooLongLived,
    /// `nbf` is no whole number of seconds.
    #[error("nbf is no whole number")]
    NotBeforeNotInteger,
    /// Not yet.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// No `iat` where it must be.
    #[error("iat is missing")]
    IssuedMissing,
    /// `iat` is no whole number of seconds.
    #[error("iat is no whole number")]
    IssuedNotInteger,
    /// Issued in the future.
    #[error("the token was issued in the future")]
    IssuedInFuture,
    /// A logout token that is too old.
    #[error("the token was issued too long ago")]
    IssuedTooLongAgo,
    /// Bound to a key that a bearer does not prove to hold (`cnf`).
    #[error("the token is bound to a key of its sender (cnf)")]
    SenderConstrained,
    /// A logout token without the event.
    #[error("the token does not say that somebody signed out")]
    NoLogoutEvent,
    /// A logout token with a nonce, which only ID tokens have.
    #[error("the token has a nonce")]
    HasNonce,
    /// A logout token that names nobody.
    #[error("the token names neither a session nor a subject")]
    NamesNobody,
    /// `sid` is no text, empty or too long.
    #[error("sid cannot be")]
    SessionMalformed,
    /// A token that must be recognised again has no usable `jti`.
    #[error("jti is missing or cannot be")]
    IdMissing,
}

/// What a token is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The right to call the API.
    Access,
    /// The provider's word on who signed in.
    Id,
    /// The provider's word that somebody signed out.
    Logout,
}

/// What a token must be to be taken.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// As what.
    pub kind: Kind,
    /// From whom.
    pub issuer: &'a IssuerUrl,
    /// For whom: the audience of access tokens, else the client.
    pub audience: &'a str,
    /// Signed how.
    pub algorithms: &'a [SigningAlgorithm],
}

/// A token that can be read; nothing in it is true yet.
#[derive(Clone, Debug)]
pub struct Unverified<'a> {
    message: &'a str,
    encoded_signature: &'a str,
    signature: Vec<u8>,
    algorithm: SigningAlgorithm,
    kid: Option<String>,
    typ: Option<String>,
    claims: Map<String, Value>,
}

/// What a verified token says.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    /// Whom it is about, unique at the issuer; empty only in a logout token
    /// that names a session.
    pub subject: String,
    /// The session at the provider.
    pub session: Option<String>,
    /// Its own name (`jti`).
    pub id: Option<String>,
    /// When it ends.
    pub expires_at: Timestamp,
    /// Every claim.
    pub all: Map<String, Value>,
}

impl<'a> Unverified<'a> {
    /// Reads a token and refuses what no issuer's token may be.
    pub fn parse(token: &'a str) -> Result<Self, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        let parts: Vec<&str> = token.split('.').collect();
        let [header, claims, signature] = parts[..] else {
            return Err(if parts.len() == 5 {
                TokenError::Encrypted
            } else {
                TokenError::Parts(parts.len())
            });
        };
        let message = &token[..header.len() + 1 + claims.len()];
        let encoded_signature = signature;
        let header = members(header, Part::Header)?;
        let algorithm = check_header(&header)?;
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) if is_kid(kid) => Some(kid.clone()),
            Some(Value::String(_)) => return Err(TokenError::KidMalformed),
            Some(_) => return Err(TokenError::KidNotText),
        };
        let typ = match header.get("typ") {
            None => None,
            Some(Value::String(typ)) => Some(typ.to_ascii_lowercase()),
            Some(_) => return Err(TokenError::WrongType),
        };
        if signature.is_empty() {
            return Err(TokenError::SignatureMissing);
        }
        let signature = decode(signature, Part::Signature)?;
        let claims = members(claims, Part::Claims)?;
        Ok(Self { message, encoded_signature, signature, algorithm, kid, typ, claims })
    }

    /// Who it says it is from, to look up whose rules it must keep.
    pub fn issuer(&self) -> Result<&str, TokenError> {
        match self.claims.get("iss") {
            None => Err(TokenError::IssuerMissing),
            Some(Value::String(issuer)) => Ok(issuer),
            Some(_) => Err(TokenError::IssuerNotText),
        }
    }

    /// The key it says it is signed with.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Checks everything.
    pub fn verify(self, rules: &Rules<'_>, keys: &KeySet, now: Timestamp) -> Result<Claims, TokenError> {
        self.check_type(rules.kind)?;
        if self.issuer()? != rules.issuer.as_str() {
            return Err(TokenError::IssuerOther);
        }
        if !rules.algorithms.contains(&self.algorithm) {
            return Err(TokenError::AlgorithmNotPinned(self.algorithm));
        }
        self.check_signature(keys)?;
        check_audience(&self.claims, rules)?;
        let (subject, session) = whom(&self.claims, rules.kind)?;
        let expires_at = check_times(&self.claims, rules.kind, now)?;
        let id = match self.claims.get("jti") {
            Some(Value::String(id)) if is_short_text(id) => Some(id.clone()),
            None if rules.kind != Kind::Logout => None,
            _ if rules.kind != Kind::Logout => None,
            _ => return Err(TokenError::IdMissing),
        };
        match rules.kind {
            Kind::Access if self.claims.contains_key("cnf") => return Err(TokenError::SenderConstrained),
            Kind::Logout => check_logout(&self.claims)?,
            Kind::Access | Kind::Id => {}
        }
        Ok(Claims { subject, session, id, expires_at, all: self.claims })
    }

    fn check_type(&self, kind: Kind) -> Result<(), TokenError> {
        let typ = self.typ.as_deref().map(|typ| typ.strip_prefix("application/").unwrap_or(typ));
        match (kind, typ) {
            (Kind::Access, Some("at+jwt"))
            | (Kind::Id, Some("jwt") | None)
            | (Kind::Logout, Some("logout+jwt")) => Ok(()),
            (_, None) => Err(TokenError::TypeMissing),
            _ => Err(TokenError::WrongType),
        }
    }

    fn check_signature(&self, keys: &KeySet) -> Result<(), TokenError> {
        let (key, length) = keys.find(self.kid(), self.algorithm).map_err(|none| match none {
            NoKey::Unknown => TokenError::KidUnknown,
            NoKey::Ambiguous => TokenError::KidAmbiguous,
            NoKey::KidNeeded => TokenError::KidNeeded,
            NoKey::Unusable(defect) => TokenError::Key(defect),
        })?;
        if self.signature.len() != length {
            return Err(TokenError::SignatureLength);
        }
        let halves = self.signature.split_at(length / 2);
        let zero = |half: &[u8]| half.iter().all(|b| *b == 0);
        if zero(halves.0) || zero(halves.1) {
            return Err(TokenError::SignatureTrivial);
        }
        let algorithm = match self.algorithm {
            SigningAlgorithm::RS256 => jsonwebtoken::Algorithm::RS256,
            SigningAlgorithm::PS256 => jsonwebtoken::Algorithm::PS256,
            SigningAlgorithm::ES256 => jsonwebtoken::Algorithm::ES256,
            SigningAlgorithm::ES384 => jsonwebtoken::Algorithm::ES384,
            SigningAlgorithm::EdDSA => jsonwebtoken::Algorithm::EdDSA,
        };
        match jsonwebtoken::crypto::verify(self.encoded_signature, self.message.as_bytes(), key, algorithm) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(TokenError::Signature),
        }
    }
}

fn decode(text: &str, part: Part) -> Result<Vec<u8>, TokenError> {
    base64url(text).map_err(|e| match e {
        NotBase64Url::Padded => TokenError::Padded(part),
        NotBase64Url::Alphabet => TokenError::Alphabet(part),
        NotBase64Url::NotCanonical => TokenError::NotCanonical(part),
    })
}

fn members(text: &str, part: Part) -> Result<Map<String, Value>, TokenError> {
    object(&decode(text, part)?).map_err(|e| match e {
        NotStrict::Json => TokenError::NotJson(part),
        NotStrict::Object => TokenError::NotObject(part),
        NotStrict::Duplicate => TokenError::Duplicate(part),
    })
}

/// Refuses headers that change what is checked, or with what.
fn check_header(header: &Map<String, Value>) -> Result<SigningAlgorithm, TokenError> {
    for name in ["jwk", "jku", "x5u", "x5c"] {
        if header.contains_key(name) {
            return Err(TokenError::BringsKey(name));
        }
    }
    for (name, why) in [
        ("crit", TokenError::Critical),
        ("b64", TokenError::Unencoded),
        ("zip", TokenError::Compressed),
        ("cty", TokenError::Nested),
        ("enc", TokenError::Encrypted),
    ] {
        if header.contains_key(name) {
            return Err(why);
        }
    }
    let Some(alg) = header.get("alg").and_then(Value::as_str) else {
        return Err(TokenError::AlgorithmMissing);
    };
    alg.parse().map_err(|_| match alg.trim().to_ascii_uppercase() {
        alg if alg == "NONE" || alg.is_empty() => TokenError::AlgorithmNone,
        alg if alg.starts_with("HS") => TokenError::AlgorithmSymmetric,
        _ => TokenError::AlgorithmUnknown,
    })
}

fn check_audience(claims: &Map<String, Value>, rules: &Rules<'_>) -> Result<(), TokenError> {
    let audiences: Vec<&str> = match claims.get("aud") {
        None => return Err(TokenError::AudienceMissing),
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) if !many.is_empty() => many
            .iter()
            .map(|one| one.as_str().ok_or(TokenError::AudienceMalformed))
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(TokenError::AudienceMalformed),
    };
    if !audiences.contains(&rules.audience) {
        return Err(TokenError::AudienceOther);
    }
    // OpenID Connect Core, section 3.1.3.7: an ID token for several must have
    // been issued to us.
    let party = claims.get("azp");
    let ours = party.is_some_and(|azp| azp == rules.audience);
    if rules.kind == Kind::Id && !ours && (party.is_some() || audiences.len() > 1) {
        return Err(TokenError::PartyOther);
    }
    Ok(())
}

/// Subject and session.
fn whom(claims: &Map<String, Value>, kind: Kind) -> Result<(String, Option<String>), TokenError> {
    let session = match claims.get("sid") {
        None => None,
        Some(Value::String(sid)) if is_short_text(sid) => Some(sid.clone()),
        Some(_) => return Err(TokenError::SessionMalformed),
    };
    let subject = match claims.get("sub") {
        None if kind == Kind::Logout && session.is_some() => String::new(),
        None if kind == Kind::Logout => return Err(TokenError::NamesNobody),
        None => return Err(TokenError::SubjectMissing),
        Some(Value::String(sub)) if sub.is_empty() => return Err(TokenError::SubjectEmpty),
        Some(Value::String(sub)) if is_short_text(sub) => sub.clone(),
        Some(Value::String(_)) => return Err(TokenError::SubjectMalformed),
        Some(_) => return Err(TokenError::SubjectNotText),
    };
    Ok((subject, session))
}

fn is_short_text(text: &str) -> bool {
    (1..=MAX_SUBJECT_CHARS).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

/// Checks `exp`, `nbf` and `iat`; returns when the token ends.
fn check_times(claims: &Map<String, Value>, kind: Kind, now: Timestamp) -> Result<Timestamp, TokenError> {
    // A time of ours is after 1970.
    let now_secs = u64::try_from(now.unix_secs()).unwrap_or_default();
    let leeway = LEEWAY.as_secs();
    let whole = |name: &str, why: TokenError| match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or(why),
    };
    let exp = whole("exp", TokenError::ExpiryNotInteger)?.ok_or(TokenError::ExpiryMissing)?;
    let nbf = whole("nbf", TokenError::NotBeforeNotInteger)?;
    let iat = whole("iat", TokenError::IssuedNotInteger)?;
    if exp.saturating_add(leeway) <= now_secs {
        return Err(TokenError::Expired);
    }
    let ahead = exp.saturating_sub(now_secs);
    if ahead > MAX_TOKEN_LIFE.as_secs() + leeway {
        return Err(TokenError::TooLongLived);
    }
    if nbf.is_some_and(|nbf| nbf > now_secs + leeway) {
        return Err(TokenError::NotYetValid);
    }
    match iat {
        Some(iat) if iat > now_secs + leeway => return Err(TokenError::IssuedInFuture),
        Some(iat) if kind == Kind::Logout && iat + MAX_LOGOUT_AGE.as_secs() < now_secs => {
            return Err(TokenError::IssuedTooLongAgo);
        }
        None if kind != Kind::Access => return Err(TokenError::IssuedMissing),
        _ => {}
    }
    let whole_now = now - Duration::from_nanos(u64::from(now.0.nanosecond()));
    Ok(if exp >= now_secs {
        whole_now + Duration::from_secs(ahead)
    } else {
        whole_now - Duration::from_secs(now_secs - exp)
    })
}

/// Back-Channel Logout, section 2.4.
fn check_logout(claims: &Map<String, Value>) -> Result<(), TokenError> {
    if claims.contains_key("nonce") {
        return Err(TokenError::HasNonce);
    }
    match claims.get("events").and_then(|events| events.get(LOGOUT_EVENT)) {
        Some(Value::Object(_)) => Ok(()),
        _ => Err(TokenError::NoLogoutEvent),
    }
}

#[cfg(test)]
mod tests;
