//! Valid tokens of every algorithm are taken; every mutant is refused for its
//! own reason.

use SigningAlgorithm::{ES256, ES384, EdDSA, PS256, RS256};
use serde_json::json;

use super::*;
use crate::oidc::testing::{ED25519, P256, P384, RSA, RSA_OTHER, Signer, b64, sealed, token};

const ISSUER: &str = "https://id.interior.example/realms/interior";
const AUDIENCE: &str = "https://chancery.example/api";
const NOW: i64 = 1_800_000_000;

fn now() -> Timestamp {
    Timestamp(time_at(NOW))
}

fn time_at(secs: i64) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(secs).unwrap()
}

fn header(algorithm: SigningAlgorithm, kid: &str) -> Value {
    json!({"alg": algorithm.as_str(), "typ": "at+jwt", "kid": kid})
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "8d7f", "exp": NOW + 300, "iat": NOW - 5,
        "jti": "t1", "client_id": "desk", "groups": ["staff"],
    })
}

/// A modulus of the right form and the wrong length.
fn modulus(bits: usize) -> String {
    let mut n = vec![0xc3; bits / 8];
    n[bits / 8 - 1] |= 1;
    b64(n)
}

/// The issuer's keys: good ones, and one with each defect.
fn keys() -> KeySet {
    let with = |signer: &Signer, kid: &str, member: &str, value: Value| {
        let mut jwk = signer.jwk(kid);
        jwk[member] = value;
        jwk
    };
    let set = json!({"keys": [
        RSA.jwk("rsa"), P256.jwk("p256"), P384.jwk("p384"), ED25519.jwk("ed"),
        with(&ED25519, "ed-9864", "alg", json!("Ed25519")),
        with(&RSA, "rsa-ps", "alg", json!("PS256")),
        with(&RSA, "rsa-enc", "use", json!("enc")),
        with(&RSA, "rsa-ops", "key_ops", json!(["encrypt"])),
        with(&RSA, "rsa-private", "d", json!("AQAB")),
        with(&RSA, "rsa-e1", "e", json!("AQ")),
        with(&RSA, "rsa-even", "e", json!("AQAC")),
        with(&RSA, "rsa-huge-e", "e", json!("AQABAAABAAE")),
        with(&RSA, "rsa-padded", "n", json!("AQAB==")),
        with(&RSA, "rsa-1024", "n", json!(modulus(1024))),
        with(&RSA, "rsa-2040", "n", json!(modulus(2040))),
        with(&RSA, "rsa-16384", "n", json!(modulus(16384))),
        with(&P256, "p256k", "crv", json!("secp256k1")),
        with(&P256, "p256-short", "x", json!(b64([1; 31]))),
        with(&ED25519, "ed448", "crv", json!("Ed448")),
        with(&ED25519, "x25519", "crv", json!("X25519")),
        RSA.jwk("twin"), RSA_OTHER.jwk("twin"),
        {"kty": "oct", "k": b64([7; 32]), "kid": "oct", "alg": "HS256"},
        {"kty": "XYZ", "kid": "xyz"},
    ]});
    KeySet::parse(set.to_string().as_bytes()).unwrap()
}

fn check(text: &str, algorithms: &[SigningAlgorithm], keys: &KeySet) -> Result<Claims, TokenError> {
    check_as(Kind::Access, text, AUDIENCE, algorithms, keys)
}

fn check_as(
    kind: Kind,
    text: &str,
    audience: &str,
    algorithms: &[SigningAlgorithm],
    keys: &KeySet,
) -> Result<Claims, TokenError> {
    let issuer = ISSUER.parse().unwrap();
    let rules = Rules { kind, issuer: &issuer, audience, algorithms };
    Unverified::parse(text)?.verify(&rules, keys, now())
}

fn good() -> String {
    token(&RSA, RS256, &header(RS256, "rsa"), &claims())
}

/// A token whose header is changed before it is signed.
fn header_with(member: &str, value: Value) -> String {
    let mut header = header(RS256, "rsa");
    header[member] = value;
    token(&RSA, RS256, &header, &claims())
}

fn header_without(member: &str) -> String {
    let mut header = header(RS256, "rsa");
    header.as_object_mut().unwrap().remove(member);
    token(&RSA, RS256, &header, &claims())
}

/// A token whose claims are changed before it is signed.
fn claim(name: &str, value: Value) -> String {
    let mut claims = claims();
    claims[name] = value;
    token(&RSA, RS256, &header(RS256, "rsa"), &claims)
}

fn without(name: &str) -> String {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    token(&RSA, RS256, &header(RS256, "rsa"), &claims)
}

fn claims_text(text: &str) -> String {
    sealed(&RSA, RS256, header(RS256, "rsa").to_string(), text)
}

fn header_text(text: &str) -> String {
    sealed(&RSA, RS256, text, claims().to_string())
}

/// A good token with one part changed after it was signed.
fn part(index: usize, change: impl Fn(&str) -> String) -> String {
    let text = good();
    let mut parts: Vec<String> = text.split('.').map(str::to_owned).collect();
    parts[index] = change(&parts[index]);
    parts.join(".")
}

/// Unsigned header and claims with some signature.
fn forged(alg: &str, signature: &str) -> String {
    let header = json!({"alg": alg, "typ": "at+jwt", "kid": "rsa"});
    format!("{}.{}.{signature}", b64(header.to_string()), b64(claims().to_string()))
}

/// HS256 keyed with what everybody knows: the public key.
fn keyed_with_public_key(alg: &str) -> String {
    let message = format!(
        "{}.{}",
        b64(json!({"alg": alg, "typ": "at+jwt", "kid": "rsa"}).to_string()),
        b64(claims().to_string())
    );
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &RSA.public_der());
    format!("{message}.{}", b64(aws_lc_rs::hmac::sign(&key, message.as_bytes()).as_ref()))
}

/// A token of P-256 whose signature is changed.
fn p256_signature(change: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", b64(header(ES256, "p256").to_string()), b64(claims().to_string()));
    format!("{message}.{}", b64(change(&P256.sign(ES256, message.as_bytes()))))
}

fn der(signature: &[u8]) -> Vec<u8> {
    let integer = |half: &[u8]| {
        let mut bytes: Vec<u8> = half.iter().copied().skip_while(|b| *b == 0).collect();
        if bytes[0] & 0x80 != 0 {
            bytes.insert(0, 0);
        }
        [vec![2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    };
    let body = [integer(&signature[..32]), integer(&signature[32..])].concat();
    [vec![0x30, u8::try_from(body.len()).unwrap()], body].concat()
}

#[test]
fn good_tokens_of_every_algorithm_are_taken() {
    let keys = keys();
    for (signer, algorithm, kid) in [
        (&*RSA, RS256, "rsa"),
        (&RSA, PS256, "rsa"),
        (&RSA, PS256, "rsa-ps"),
        (&P256, ES256, "p256"),
        (&P384, ES384, "p384"),
        (&ED25519, EdDSA, "ed"),
        (&ED25519, EdDSA, "ed-9864"),
    ] {
        let text = token(signer, algorithm, &header(algorithm, kid), &claims());
        let taken = check(&text, &[algorithm], &keys).unwrap();
        assert_eq!((taken.subject.as_str(), taken.id.as_deref()), ("8d7f", Some("t1")), "{kid}");
        assert_eq!(taken.expires_at.unix_secs(), NOW + 300);
        assert_eq!(taken.all["groups"], json!(["staff"]));
    }
}

#[test]
fn variants_that_mean_the_same_are_taken() {
    let keys = keys();
    let taken = [
        header_with("typ", json!("application/at+jwt")),
        header_with("typ", json!("AT+JWT")),
        header_with("x5t", json!("abc")),
        claim("aud", json!([AUDIENCE])),
        claim("aud", json!(["account", AUDIENCE])),
        claim("nbf", json!(NOW)),
        claim("nbf", json!(NOW + 30)),
        claim("iat", json!(NOW + 30)),
        claim("exp", json!(NOW - 29)),
        claim("exp", json!(NOW + 24 * 3600)),
        without("iat"),
        without("jti"),
        claim("sub", json!("Ämterübergreifend")),
        claim("sub", json!("x".repeat(255))),
        claim("scope", json!({"deep": [[[{"a": 1}]]]})),
    ];
    for text in taken {
        check(&text, &[RS256], &keys).unwrap();
    }
    // One key that fits needs no name.
    let one = KeySet::parse(json!({"keys": [RSA.jwk("a"), P256.jwk("b")]}).to_string().as_bytes()).unwrap();
    check(&header_without("kid"), &[RS256], &one).unwrap();
}

#[test]
fn every_mutant_is_refused_for_its_own_reason() {
    use Part::{Header, Signature};
    use TokenError as E;
    let part_claims = Part::Claims;
    let shifted = |by: i64| json!(NOW + by);
    let (p256, p384, ed) = (header(ES256, "p256"), header(ES384, "p384"), header(EdDSA, "ed"));
    let kid = |kid: &str| header_with("kid", json!(kid));
    let mutants: Vec<(&str, String, TokenError)> = vec![
        // Form.
        ("empty", String::new(), E::Parts(1)),
        ("one part", "abc".into(), E::Parts(1)),
        ("two parts", good().rsplit_once('.').unwrap().0.into(), E::Parts(2)),
        ("four parts", good() + ".", E::Parts(4)),
        ("a JWE", good() + ".a.b", E::Encrypted),
        ("1 MB", good() + &"A".repeat(1 << 20), E::TooLong),
        ("1 MB of claims", claim("pad", json!("x".repeat(1 << 20))), E::TooLong),
        ("one byte too long", "A".repeat(MAX_TOKEN_BYTES + 1), E::TooLong),
        ("space before", format!(" {}", good()), E::Alphabet(Header)),
        ("newline after", good() + "\n", E::Alphabet(Signature)),
        ("NUL after", good() + "\0", E::Alphabet(Signature)),
        ("NUL inside the claims", part(1, |p| format!("{}\0{}", &p[..4], &p[4..])), E::Alphabet(part_claims)),
        ("a byte order mark", format!("\u{feff}{}", good()), E::Alphabet(Header)),
        ("standard base64", part(2, |p| format!("{}+/", &p[2..])), E::Alphabet(Signature)),
        ("line breaks", part(1, |p| format!("{}\r\n{}", &p[..8], &p[8..])), E::Alphabet(part_claims)),
        ("a padded header", part(0, |p| format!("{p}==")), E::Padded(Header)),
        ("padded claims", part(1, |p| format!("{p}=")), E::Padded(part_claims)),
        ("a padded signature", part(2, |p| format!("{p}==")), E::Padded(Signature)),
        (
            "spare bits in the signature",
            part(2, |p| format!("{}{}", &p[..p.len() - 1], next(p))),
            E::NotCanonical(Signature),
        ),
        ("a length that nothing has", part(2, |p| p[..p.len() - 1].to_owned()), E::NotCanonical(Signature)),
        ("a header that is no JSON", header_text("alg=RS256"), E::NotJson(Header)),
        ("an empty header", part(0, |_| String::new()), E::NotJson(Header)),
        ("a header with a byte order mark", header_text("\u{feff}{\"alg\":\"RS256\"}"), E::NotJson(Header)),
        ("a header with NUL after it", header_text("{\"alg\":\"RS256\"}\0"), E::NotJson(Header)),
        ("a header that is a list", header_text("[\"RS256\"]"), E::NotObject(Header)),
        ("claims that are a text", claims_text("\"admin\""), E::NotObject(part_claims)),
        ("claims that are no JSON", claims_text("<claims/>"), E::NotJson(part_claims)),
        ("claims with NaN", claims_text("{\"exp\":NaN}"), E::NotJson(part_claims)),
        ("deep claims", claims_text(&format!("{{\"a\":{}", "[".repeat(5000))), E::NotJson(part_claims)),
        (
            "alg twice",
            header_text(r#"{"alg":"RS256","alg":"none","typ":"at+jwt","kid":"rsa"}"#),
            E::Duplicate(Header),
        ),
        (
            "kid twice",
            header_text(r#"{"alg":"RS256","kid":"rsa","kid":"p256","typ":"at+jwt"}"#),
            E::Duplicate(Header),
        ),
        ("sub twice", claims_text(r#"{"sub":"a","sub":"b"}"#), E::Duplicate(part_claims)),
        ("sub twice, once escaped", claims_text(r#"{"sub":"a","s\u0075b":"b"}"#), E::Duplicate(part_claims)),
        ("roles twice, deep", claims_text(r#"{"a":{"roles":[],"roles":["x"]}}"#), E::Duplicate(part_claims)),
        // Algorithms.
        ("alg none", forged("none", ""), E::AlgorithmNone),
        ("alg None", forged("None", ""), E::AlgorithmNone),
        ("alg nOnE", forged("nOnE", ""), E::AlgorithmNone),
        ("alg none with a signature", forged("none", "AAAA"), E::AlgorithmNone),
        ("alg none with a space", forged("none ", "AAAA"), E::AlgorithmNone),
        ("alg empty", forged("", "AAAA"), E::AlgorithmNone),
        ("alg missing", header_without("alg"), E::AlgorithmMissing),
        ("alg null", header_with("alg", Value::Null), E::AlgorithmMissing),
        ("alg a list", header_with("alg", json!(["RS256"])), E::AlgorithmMissing),
        ("HS256 keyed with the public key", keyed_with_public_key("HS256"), E::AlgorithmSymmetric),
        ("HS384", keyed_with_public_key("HS384"), E::AlgorithmSymmetric),
        ("hs256", keyed_with_public_key("hs256"), E::AlgorithmSymmetric),
        ("RS256 keyed with the public key", keyed_with_public_key("RS256"), E::SignatureLength),
        ("rs256", header_with("alg", json!("rs256")), E::AlgorithmUnknown),
        ("RS1", header_with("alg", json!("RS1")), E::AlgorithmUnknown),
        ("RS512", header_with("alg", json!("RS512")), E::AlgorithmUnknown),
        ("ES256K", header_with("alg", json!("ES256K")), E::AlgorithmUnknown),
        ("dir", header_with("alg", json!("dir")), E::AlgorithmUnknown),
        (
            "an algorithm that is not pinned",
            token(&P384, ES384, &p384, &claims()),
            E::AlgorithmNotPinned(ES384),
        ),
        (
            "PS256 where RS256 is pinned",
            token(&RSA, PS256, &header(PS256, "rsa"), &claims()),
            E::AlgorithmNotPinned(PS256),
        ),
        (
            "EdDSA where it is not pinned",
            token(&ED25519, EdDSA, &ed, &claims()),
            E::AlgorithmNotPinned(EdDSA),
        ),
        ("a PSS signature called RS256", token(&RSA, PS256, &header(RS256, "rsa"), &claims()), E::Signature),
        // Headers.
        ("jku", header_with("jku", json!("https://evil.example/jwks")), E::BringsKey("jku")),
        ("jwk", header_with("jwk", RSA_OTHER.jwk("rsa")), E::BringsKey("jwk")),
        ("x5u", header_with("x5u", json!("https://evil.example/cert")), E::BringsKey("x5u")),
        ("x5c", header_with("x5c", json!(["MIIB"])), E::BringsKey("x5c")),
        ("jwk null", header_with("jwk", Value::Null), E::BringsKey("jwk")),
        ("crit", header_with("crit", json!(["exp"])), E::Critical),
        ("crit empty", header_with("crit", json!([])), E::Critical),
        (
            "b64 false and critical",
            token(
                &RSA,
                RS256,
                &json!({"alg": "RS256", "typ": "at+jwt", "kid": "rsa", "b64": false, "crit": ["b64"]}),
                &claims(),
            ),
            E::Critical,
        ),
        ("b64 false", header_with("b64", json!(false)), E::Unencoded),
        ("zip", header_with("zip", json!("DEF")), E::Compressed),
        ("a nested token", header_with("cty", json!("JWT")), E::Nested),
        ("enc", header_with("enc", json!("A256GCM")), E::Encrypted),
        ("no typ", header_without("typ"), E::TypeMissing),
        ("typ JWT: an ID token", header_with("typ", json!("JWT")), E::WrongType),
        ("a logout token", header_with("typ", json!("logout+jwt")), E::WrongType),
        ("typ of DPoP", header_with("typ", json!("dpop+jwt")), E::WrongType),
        ("typ with a space", header_with("typ", json!("at+jwt ")), E::WrongType),
        ("typ twice prefixed", header_with("typ", json!("application/application/at+jwt")), E::WrongType),
        ("typ a list", header_with("typ", json!(["at+jwt"])), E::WrongType),
        // Keys.
        ("no kid, several keys", header_without("kid"), E::KidNeeded),
        ("kid empty", kid(""), E::KidMalformed),
        ("kid a number", header_with("kid", json!(7)), E::KidNotText),
        ("kid null", header_with("kid", Value::Null), E::KidNotText),
        ("kid a path", kid("../../dev/null"), E::KidMalformed),
        ("kid SQL", kid("x' UNION SELECT 'key"), E::KidMalformed),
        ("kid a command", kid("|cat"), E::KidMalformed),
        ("kid with NUL", kid("rsa\0"), E::KidMalformed),
        ("kid too long", kid(&"k".repeat(129)), E::KidMalformed),
        ("kid unknown", kid("rsa-9"), E::KidUnknown),
        ("kid in other case", kid("RSA"), E::KidUnknown),
        ("kid of two keys", kid("twin"), E::KidAmbiguous),
        ("kid of a key of another shape", kid("p256"), E::Key(KeyDefect::OtherType)),
        ("kid of an Ed25519 key", kid("ed"), E::Key(KeyDefect::OtherType)),
        (
            "kid of another curve",
            token(&P384, ES384, &header(ES256, "p384"), &claims()),
            E::Key(KeyDefect::OtherCurve),
        ),
        ("kid of a key for encryption", kid("rsa-enc"), E::Key(KeyDefect::NotForSigning)),
        ("kid of a key without verify", kid("rsa-ops"), E::Key(KeyDefect::NotForVerifying)),
        ("kid of a published private key", kid("rsa-private"), E::Key(KeyDefect::Private)),
        ("kid of a key for PS256", kid("rsa-ps"), E::Key(KeyDefect::OtherAlgorithm)),
        ("kid of a shared secret", kid("oct"), E::Key(KeyDefect::Symmetric)),
        ("kid of an unknown kty", kid("xyz"), E::Key(KeyDefect::UnknownType)),
        ("kid of RSA with 1024 bits", kid("rsa-1024"), E::Key(KeyDefect::Weak)),
        ("kid of RSA with 2040 bits", kid("rsa-2040"), E::Key(KeyDefect::Weak)),
        ("kid of RSA with 16384 bits", kid("rsa-16384"), E::Key(KeyDefect::Oversized)),
        ("kid of RSA with exponent 1", kid("rsa-e1"), E::Key(KeyDefect::Exponent)),
        ("kid of RSA with an even exponent", kid("rsa-even"), E::Key(KeyDefect::Exponent)),
        ("kid of RSA with a huge exponent", kid("rsa-huge-e"), E::Key(KeyDefect::Exponent)),
        ("kid of RSA with a padded modulus", kid("rsa-padded"), E::Key(KeyDefect::Malformed)),
        ("kid of secp256k1", kid("p256k"), E::Key(KeyDefect::UnknownCurve)),
        ("kid of a short point", kid("p256-short"), E::Key(KeyDefect::Malformed)),
        ("kid of X25519", kid("x25519"), E::Key(KeyDefect::UnknownCurve)),
        // Signatures.
        ("no signature", part(2, |_| String::new()), E::SignatureMissing),
        ("another key's signature", token(&RSA_OTHER, RS256, &header(RS256, "rsa"), &claims()), E::Signature),
        ("one bit of the claims", claims_flipped(), E::Signature),
        ("another header", header_swapped(), E::Signature),
        ("a truncated RSA signature", part(2, |p| b64(&base64url(p).unwrap()[1..])), E::SignatureLength),
        (
            "a longer RSA signature",
            part(2, |p| b64([&[0], &base64url(p).unwrap()[..]].concat())),
            E::SignatureLength,
        ),
        ("a zero RSA signature", part(2, |_| b64([0; 256])), E::SignatureTrivial),
        ("ES256 in DER", p256_signature(der), E::SignatureLength),
        ("ES256 of 63 bytes", p256_signature(|s| s[..63].to_vec()), E::SignatureLength),
        ("ES256 of 96 bytes", p256_signature(|s| [s, &[0; 32]].concat()), E::SignatureLength),
        ("ES256 all zero", p256_signature(|_| vec![0; 64]), E::SignatureTrivial),
        ("ES256 with r zero", p256_signature(|s| [&[0; 32], &s[32..]].concat()), E::SignatureTrivial),
        ("ES256 with s zero", p256_signature(|s| [&s[..32], &[0; 32]].concat()), E::SignatureTrivial),
        ("ES256 with r = n", p256_signature(|s| [&P256_ORDER, &s[32..]].concat()), E::Signature),
        ("ES256 with r and s swapped", p256_signature(|s| [&s[32..], &s[..32]].concat()), E::Signature),
        ("an RS256 signature called ES256", token(&RSA, RS256, &p256, &claims()), E::SignatureLength),
        // Issuer.
        ("no iss", without("iss"), E::IssuerMissing),
        ("iss a list", claim("iss", json!([ISSUER])), E::IssuerNotText),
        ("iss null", claim("iss", Value::Null), E::IssuerNotText),
        ("iss with a slash more", claim("iss", json!(format!("{ISSUER}/"))), E::IssuerOther),
        ("iss in other case", claim("iss", json!(ISSUER.replace("interior.", "Interior."))), E::IssuerOther),
        (
            "iss with the port",
            claim("iss", json!(ISSUER.replace(".example/", ".example:443/"))),
            E::IssuerOther,
        ),
        (
            "iss with a dot after the host",
            claim("iss", json!(ISSUER.replace(".example/", ".example./"))),
            E::IssuerOther,
        ),
        ("iss over http", claim("iss", json!(ISSUER.replace("https", "http"))), E::IssuerOther),
        ("iss with a space", claim("iss", json!(format!("{ISSUER} "))), E::IssuerOther),
        (
            "iss with dots in the path",
            claim("iss", json!(ISSUER.replace("/interior", "/x/../interior"))),
            E::IssuerOther,
        ),
        ("iss with a query", claim("iss", json!(format!("{ISSUER}?"))), E::IssuerOther),
        (
            "iss of another tenant",
            claim("iss", json!(ISSUER.replace("realms/interior", "realms/justice"))),
            E::IssuerOther,
        ),
        ("iss empty", claim("iss", json!("")), E::IssuerOther),
        // Audience.
        ("no aud", without("aud"), E::AudienceMissing),
        ("aud null", claim("aud", Value::Null), E::AudienceMalformed),
        ("aud a number", claim("aud", json!(1)), E::AudienceMalformed),
        ("aud an empty list", claim("aud", json!([])), E::AudienceMalformed),
        ("aud with a number in it", claim("aud", json!([AUDIENCE, 1])), E::AudienceMalformed),
        ("aud nested", claim("aud", json!([[AUDIENCE]])), E::AudienceMalformed),
        ("aud an object", claim("aud", json!({AUDIENCE: true})), E::AudienceMalformed),
        ("aud of another", claim("aud", json!("account")), E::AudienceOther),
        ("aud of others", claim("aud", json!(["account", "desk"])), E::AudienceOther),
        ("aud with a slash more", claim("aud", json!(format!("{AUDIENCE}/"))), E::AudienceOther),
        ("aud a prefix", claim("aud", json!(&AUDIENCE[..AUDIENCE.len() - 1])), E::AudienceOther),
        ("aud in other case", claim("aud", json!(AUDIENCE.to_uppercase())), E::AudienceOther),
        ("aud joined by spaces", claim("aud", json!(format!("account {AUDIENCE}"))), E::AudienceOther),
        ("aud empty", claim("aud", json!("")), E::AudienceOther),
        // Subject.
        ("no sub", without("sub"), E::SubjectMissing),
        ("sub empty", claim("sub", json!("")), E::SubjectEmpty),
        ("sub a number", claim("sub", json!(42)), E::SubjectNotText),
        ("sub null", claim("sub", Value::Null), E::SubjectNotText),
        ("sub a list", claim("sub", json!(["8d7f"])), E::SubjectNotText),
        ("sub with NUL", claim("sub", json!("8d7f\0")), E::SubjectMalformed),
        ("sub too long", claim("sub", json!("x".repeat(256))), E::SubjectMalformed),
        ("sid a number", claim("sid", json!(1)), E::SessionMalformed),
        // Times.
        ("no exp", without("exp"), E::ExpiryMissing),
        ("exp a text", claim("exp", json!((NOW + 300).to_string())), E::ExpiryNotInteger),
        (
            "exp a float",
            claims_text(&claims().to_string().replace("1800000300", "1800000300.5")),
            E::ExpiryNotInteger,
        ),
        (
            "exp in scientific form",
            claims_text(&claims().to_string().replace("1800000300", "1.9e9")),
            E::ExpiryNotInteger,
        ),
        (
            "exp beyond every float",
            claims_text(&claims().to_string().replace("1800000300", "1e999")),
            E::NotJson(part_claims),
        ),
        ("exp negative", claim("exp", json!(-1)), E::ExpiryNotInteger),
        ("exp null", claim("exp", Value::Null), E::ExpiryNotInteger),
        ("exp true", claim("exp", json!(true)), E::ExpiryNotInteger),
        ("exp zero", claim("exp", json!(0)), E::Expired),
        ("exp just over", claim("exp", shifted(-30)), E::Expired),
        ("exp long over", claim("exp", shifted(-86_400)), E::Expired),
        ("exp 2^63", claim("exp", json!(1u64 << 63)), E::TooLongLived),
        ("exp 2^64 - 1", claim("exp", json!(u64::MAX)), E::TooLongLived),
        (
            "exp 2^64",
            claims_text(&claims().to_string().replace("1800000300", "18446744073709551616")),
            E::ExpiryNotInteger,
        ),
        ("exp in milliseconds", claim("exp", json!((NOW + 300) * 1000)), E::TooLongLived),
        ("exp in two days", claim("exp", shifted(172_800)), E::TooLongLived),
        ("nbf in the future", claim("nbf", shifted(31)), E::NotYetValid),
        ("nbf 2^63", claim("nbf", json!(1u64 << 63)), E::NotYetValid),
        ("nbf a text", claim("nbf", json!("0")), E::NotBeforeNotInteger),
        ("nbf negative", claim("nbf", json!(-5)), E::NotBeforeNotInteger),
        ("iat in the future", claim("iat", shifted(31)), E::IssuedInFuture),
        ("iat a text", claim("iat", json!("now")), E::IssuedNotInteger),
        ("iat a float", claim("iat", json!(0.5)), E::IssuedNotInteger),
        // What only others may present.
        ("bound to a DPoP key", claim("cnf", json!({"jkt": "abc"})), E::SenderConstrained),
        ("bound to a certificate", claim("cnf", json!({"x5t#S256": "abc"})), E::SenderConstrained),
    ];
    let keys = keys();
    assert!(mutants.len() >= 120, "only {} mutants", mutants.len());
    for (name, text, why) in &mutants {
        let refused = check(text, &[RS256, ES256], &keys).expect_err(name);
        assert_eq!(&refused, why, "{name}");
        // Nothing of the token in what is logged.
        assert!(!refused.to_string().contains("8d7f"), "{name}");
    }
    let mut names: Vec<_> = mutants.iter().map(|(name, ..)| name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), mutants.len(), "two mutants of one name");
}

/// The order of P-256.
const P256_ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa,
    0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// The character after the last one: the same bytes, if spare bits were let pass.
fn next(text: &str) -> char {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = ALPHABET.find(text.chars().last().unwrap()).unwrap();
    ALPHABET.chars().nth(at + 1).unwrap()
}

/// A good token whose subject is changed after signing.
fn claims_flipped() -> String {
    part(1, |_| b64(claims().to_string().replace("8d7f", "8d7e")))
}

/// A good token whose header is written differently after signing.
fn header_swapped() -> String {
    part(0, |_| b64(r#"{ "alg":"RS256","typ":"at+jwt","kid":"rsa"}"#))
}

#[test]
fn an_id_token_is_for_one_client() {
    let keys = keys();
    let id_token = |change: &dyn Fn(&mut Value)| {
        let mut claims = claims();
        claims["aud"] = json!("chancery");
        change(&mut claims);
        token(&RSA, RS256, &json!({"alg": "RS256", "typ": "JWT", "kid": "rsa"}), &claims)
    };
    let check = |text: &str| check_as(Kind::Id, text, "chancery", &[RS256], &keys);
    check(&id_token(&|_| {})).unwrap();
    check(&id_token(&|c| c["azp"] = json!("chancery"))).unwrap();
    check(&id_token(&|c| {
        c["aud"] = json!(["chancery", "other"]);
        c["azp"] = json!("chancery");
    }))
    .unwrap();
    assert_eq!(check(&id_token(&|c| c["azp"] = json!("other"))), Err(TokenError::PartyOther));
    assert_eq!(check(&id_token(&|c| c["azp"] = Value::Null)), Err(TokenError::PartyOther));
    assert_eq!(check(&id_token(&|c| c["aud"] = json!(["chancery", "other"]))), Err(TokenError::PartyOther));
    let no_iat = id_token(&|c| {
        c.as_object_mut().unwrap().remove("iat");
    });
    assert_eq!(check(&no_iat), Err(TokenError::IssuedMissing));
    // An access token is no ID token, even for the same audience.
    let access = token(
        &RSA,
        RS256,
        &header(RS256, "rsa"),
        &json!({"iss": ISSUER, "aud": "chancery", "sub": "8d7f", "exp": NOW + 9, "iat": NOW}),
    );
    assert_eq!(check(&access), Err(TokenError::WrongType));
}

#[test]
fn a_logout_token_names_a_session_or_a_subject_and_the_event() {
    let keys = keys();
    let events = json!({LOGOUT_EVENT: {}});
    let good = json!({"iss": ISSUER, "aud": "chancery", "iat": NOW - 1, "exp": NOW + 60, "jti": "l1", "sid": "s1", "sub": "8d7f", "events": events});
    let check = |claims: &Value| {
        let text = token(&RSA, RS256, &json!({"alg": "RS256", "typ": "logout+jwt", "kid": "rsa"}), claims);
        check_as(Kind::Logout, &text, "chancery", &[RS256], &keys)
    };
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        check(&claims)
    };
    let without = |names: &[&str]| {
        let mut claims = good.clone();
        for name in names {
            claims.as_object_mut().unwrap().remove(*name);
        }
        check(&claims)
    };
    let taken = check(&good).unwrap();
    assert_eq!(
        (taken.session.as_deref(), taken.subject.as_str(), taken.id.as_deref()),
        (Some("s1"), "8d7f", Some("l1"))
    );
    assert_eq!(without(&["sub"]).unwrap().subject, "");
    assert_eq!(without(&["sid"]).unwrap().session, None);
    assert_eq!(without(&["sid", "sub"]), Err(TokenError::NamesNobody));
    assert_eq!(without(&["jti"]), Err(TokenError::IdMissing));
    assert_eq!(with("jti", json!("")), Err(TokenError::IdMissing));
    assert_eq!(without(&["iat"]), Err(TokenError::IssuedMissing));
    assert_eq!(without(&["exp"]), Err(TokenError::ExpiryMissing));
    assert_eq!(without(&["events"]), Err(TokenError::NoLogoutEvent));
    assert_eq!(with("events", json!({})), Err(TokenError::NoLogoutEvent));
    assert_eq!(with("events", json!([LOGOUT_EVENT])), Err(TokenError::NoLogoutEvent));
    assert_eq!(with("events", json!({LOGOUT_EVENT: true})), Err(TokenError::NoLogoutEvent));
    assert_eq!(with("nonce", json!("n")), Err(TokenError::HasNonce));
    assert_eq!(with("iat", json!(NOW - 301)), Err(TokenError::IssuedTooLongAgo));
    let access = token(&RSA, RS256, &header(RS256, "rsa"), &good);
    assert_eq!(check_as(Kind::Logout, &access, "chancery", &[RS256], &keys), Err(TokenError::WrongType));
}
