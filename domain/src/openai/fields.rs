//! Takes the fields of a JSON object one by one, so that each error names its
//! field and what is left over is unknown.

use std::ops::RangeInclusive;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::InvalidRequest;

/// What is accepted of a field that we do not act on.
pub(super) enum Tolerance {
    /// It changes no answer.
    Any,
    /// Only the value that asks for nothing; the text says which.
    Only(fn(&Value) -> bool, &'static str),
}

/// The fields of an object that were not taken yet.
pub(super) struct Fields {
    map: Map<String, Value>,
    /// Path of the object, e.g. `messages[2].`; empty for the body itself.
    path: String,
}

impl Fields {
    pub fn of(value: Value, path: &str) -> Result<Self, InvalidRequest> {
        match value {
            Value::Object(map) => {
                let path = if path.is_empty() { String::new() } else { format!("{path}.") };
                Ok(Self { map, path })
            }
            _ if path.is_empty() => {
                Err(InvalidRequest { message: "the body must be a JSON object".to_owned(), param: None })
            }
            _ => Err(InvalidRequest::about(path, format!("{path} must be an object"))),
        }
    }

    /// An error about one of these fields.
    pub fn wrong(&self, name: &str, what: impl std::fmt::Display) -> InvalidRequest {
        let field = format!("{}{name}", self.path);
        InvalidRequest { message: format!("{field} {what}"), param: Some(field) }
    }

    /// The raw value, unless absent or null.
    pub fn value(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|v| !v.is_null())
    }

    pub fn require_value(&mut self, name: &str) -> Result<Value, InvalidRequest> {
        self.value(name).ok_or_else(|| self.wrong(name, "is required"))
    }

    /// `None` if absent or null.
    pub fn take<T: DeserializeOwned>(&mut self, name: &str, what: &str) -> Result<Option<T>, InvalidRequest> {
        let Some(value) = self.value(name) else { return Ok(None) };
        serde_json::from_value(value).map(Some).map_err(|_| self.wrong(name, format_args!("must be {what}")))
    }

    pub fn require<T: DeserializeOwned>(&mut self, name: &str, what: &str) -> Result<T, InvalidRequest> {
        self.take(name, what)?.ok_or_else(|| self.wrong(name, "is required"))
    }

    /// A number within a range.
    pub fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, InvalidRequest> {
        let Some(value) = self.value(name) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(self
                .wrong(name, format_args!("must be a number between {} and {}", range.start(), range.end()))),
        }
    }

    /// An integer within a range.
    pub fn integer(&mut self, name: &str, range: RangeInclusive<u32>) -> Result<Option<u32>, InvalidRequest> {
        let Some(value) = self.value(name) else { return Ok(None) };
        match value.as_u64().and_then(|n| u32::try_from(n).ok()) {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(self.wrong(
                name,
                format_args!("must be an integer between {} and {}", range.start(), range.end()),
            )),
        }
    }

    /// Drops what changes nothing; refuses values we cannot honour.
    pub fn tolerate(&mut self, known: &[(&str, Tolerance)]) -> Result<(), InvalidRequest> {
        for (name, tolerance) in known {
            let Some(value) = self.value(name) else { continue };
            match tolerance {
                Tolerance::Any => {}
                Tolerance::Only(harmless, _) if harmless(&value) => {}
                Tolerance::Only(_, instead) => {
                    return Err(self.wrong(name, format_args!("is not supported: {instead}")));
                }
            }
        }
        Ok(())
    }

    /// Refuses whatever is left.
    pub fn finish(self) -> Result<(), InvalidRequest> {
        match self.map.keys().next() {
            Some(name) => Err(self.wrong(name, "is not a known field; leave it out")),
            None => Ok(()),
        }
    }
}
