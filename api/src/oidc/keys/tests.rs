use serde_json::json;

use super::*;
use crate::oidc::testing::{P256, RSA};

#[test]
fn a_set_needs_an_array_of_keys_of_which_one_is_usable() {
    let parse = |text: &str| KeySet::parse(text.as_bytes()).map(|set| set.usable());
    assert_eq!(parse(&json!({"keys": [RSA.jwk("a"), P256.jwk("b")], "extra": 1}).to_string()), Ok(2));
    assert_eq!(parse("<html>"), Err(NotKeySet::NotJson));
    assert_eq!(parse(""), Err(NotKeySet::NotJson));
    assert_eq!(parse("[]"), Err(NotKeySet::NoArray));
    assert_eq!(parse("{}"), Err(NotKeySet::NoArray));
    assert_eq!(parse(r#"{"keys":{}}"#), Err(NotKeySet::NoArray));
    assert_eq!(parse(r#"{"keys":[1]}"#), Err(NotKeySet::NoArray));
    assert_eq!(parse(r#"{"keys":[]}"#), Err(NotKeySet::NoneUsable));
    assert_eq!(parse(r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#), Err(NotKeySet::NoneUsable));
    assert_eq!(parse(r#"{"keys":[],"keys":[]}"#), Err(NotKeySet::Duplicate));
    let many = json!({"keys": vec![RSA.jwk("a"); MAX_KEYS + 1]});
    assert_eq!(parse(&many.to_string()), Err(NotKeySet::TooMany));
}

#[test]
fn who_sets_it_up_hears_what_is_wrong_with_each_key() {
    let mut short = RSA.jwk("short");
    short["n"] = json!("AQAB");
    let mut named = RSA.jwk("x");
    named["kid"] = json!("../x");
    let set = json!({"keys": [RSA.jwk("good"), short, named, {"kty": "oct", "kid": "oct"}]});
    let set = KeySet::parse(set.to_string().as_bytes()).unwrap();
    let defects: Vec<_> = set.defects().collect();
    assert_eq!(
        defects,
        [(Some("short"), KeyDefect::Weak), (None, KeyDefect::Kid), (Some("oct"), KeyDefect::Symmetric)]
    );
}
