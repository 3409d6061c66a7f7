//! Reading JSON and base64url so that two readers cannot understand one text
//! differently: no duplicate members, no padding, no spare bits.

use std::cell::Cell;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Why a text is no JSON object that everybody reads alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotStrict {
    /// Not JSON at all: also NUL, a byte order mark, bytes that are no UTF-8,
    /// or nesting beyond 128.
    Json,
    /// JSON, and no object.
    Object,
    /// A member is there twice, at any depth.
    Duplicate,
}

/// A JSON object in which no member is there twice.
pub(crate) fn object(json: &[u8]) -> Result<Map<String, Value>, NotStrict> {
    let duplicate = Cell::new(false);
    let mut reader = serde_json::Deserializer::from_slice(json);
    let read = Strict(&duplicate).deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    match read {
        _ if duplicate.get() => Err(NotStrict::Duplicate),
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(NotStrict::Object),
        Err(_) => Err(NotStrict::Json),
    }
}

/// Reads a value and notes a duplicate member.
#[derive(Clone, Copy)]
struct Strict<'a>(&'a Cell<bool>);

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;
    fn deserialize<D: serde::Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(self)?;
            if object.insert(name, value).is_some() {
                self.0.set(true);
                return Err(A::Error::custom("a member is there twice"));
            }
        }
        Ok(Value::Object(object))
    }
}

/// Why a text is not the one base64url form of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotBase64Url {
    /// Padded with `=`.
    Padded,
    /// A character outside the alphabet, also white space and `+`, `/`.
    Alphabet,
    /// A length that no bytes have, or spare bits that are not zero.
    NotCanonical,
}

/// Bytes from unpadded base64url (RFC 7515, section 2), of which every byte
/// string has exactly one.
pub(crate) fn base64url(text: &str) -> Result<Vec<u8>, NotBase64Url> {
    let in_alphabet = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if text.bytes().any(|b| !in_alphabet(b)) {
        let only_padding = text.trim_end_matches('=').bytes().all(in_alphabet);
        return Err(if only_padding { NotBase64Url::Padded } else { NotBase64Url::Alphabet });
    }
    URL_SAFE_NO_PAD.decode(text).map_err(|_| NotBase64Url::NotCanonical)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_member_may_be_there_once() {
        assert_eq!(object(br#"{"a":1,"b":{"a":[{"c":1.5}]}}"#).unwrap()["b"], json!({"a": [{"c": 1.5}]}));
        for twice in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"x":{"a":1,"a":2}}"#,
            r#"{"x":[{"a":1,"a":2}]}"#,
        ] {
            assert_eq!(object(twice.as_bytes()), Err(NotStrict::Duplicate), "{twice}");
        }
        for (text, why) in [
            (&b"[1]"[..], NotStrict::Object),
            (b"\"a\"", NotStrict::Object),
            (b"", NotStrict::Json),
            (b"{}{}", NotStrict::Json),
            (b"{}\0", NotStrict::Json),
            (b"\xef\xbb\xbf{}", NotStrict::Json),
            (b"{\"a\":\"\xff\"}", NotStrict::Json),
            (b"{\"a\":NaN}", NotStrict::Json),
            (b"{\"a\":1,}", NotStrict::Json),
            (b"{'a':1}", NotStrict::Json),
            (br#"{"a":"\ud800"}"#, NotStrict::Json),
        ] {
            assert_eq!(object(text), Err(why), "{}", String::from_utf8_lossy(text));
        }
        assert_eq!(object("[".repeat(100_000).as_bytes()), Err(NotStrict::Json));
    }

    #[test]
    fn bytes_have_one_form() {
        assert_eq!(base64url("_-8").unwrap(), [0xff, 0xef]);
        assert_eq!(base64url("").unwrap(), [0u8; 0]);
        assert_eq!(base64url("_-8="), Err(NotBase64Url::Padded));
        assert_eq!(base64url("=_-8"), Err(NotBase64Url::Alphabet));
        assert_eq!(base64url("_-9"), Err(NotBase64Url::NotCanonical));
        assert_eq!(base64url("abcde"), Err(NotBase64Url::NotCanonical));
        for bad in ["_-8 ", " _-8", "_\n-8", "/+8", "_-8\0", "\u{e9}"] {
            assert_eq!(base64url(bad), Err(NotBase64Url::Alphabet), "{bad:?}");
        }
    }
}
