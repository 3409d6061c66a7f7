//! Rules of fields that several requests share.

use domain::tenants::Slug;
use domain::workloads::PRIORITIES;

use crate::problem::{ApiError, Result};

/// Longest name for people.
const MAX_NAME_CHARS: usize = 200;

/// A name for people: one line, not empty.
pub(crate) fn name(field: &str, text: &str) -> Result<String> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > MAX_NAME_CHARS {
        return Err(ApiError::field(field, format!("must have 1 to {MAX_NAME_CHARS} characters")));
    }
    if text.chars().any(char::is_control) {
        return Err(ApiError::field(field, "must be one line without control characters"));
    }
    Ok(text.to_owned())
}

/// A priority of work.
pub(crate) fn priority(priority: i32) -> Result<i32> {
    if !PRIORITIES.contains(&priority) {
        let (least, most) = PRIORITIES.into_inner();
        return Err(ApiError::field("priority", format!("must be between {least} and {most}")));
    }
    Ok(priority)
}

/// Tells `null`, which takes a value away, from a field that is not named. For
/// `#[serde(default, deserialize_with = "fields::named")]`.
#[expect(clippy::option_option, reason = "not named, null, and a value are three things")]
pub(crate) fn named<'de, D, T>(deserializer: D) -> std::result::Result<Option<Option<T>>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::Deserialize<'de>,
{
    serde::Deserialize::deserialize(deserializer).map(Some)
}

/// What people sign in with: `name@place`, in lower case.
pub(crate) fn login(text: &str) -> Result<String> {
    let text = text.to_lowercase();
    let parts = text.split_once('@').filter(|(name, place)| {
        !name.is_empty() && !place.is_empty() && !place.contains('@') && text.len() <= 254
    });
    if parts.is_none() || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(ApiError::field(
            "login",
            "must be an address such as name@ministry, of at most 254 bytes",
        ));
    }
    Ok(text)
}

/// A login of a tenant ends with `@` and its short name: no ministry's logins
/// collide with another's, or tell that they exist. Others are the platform's.
pub(crate) fn login_of(tenant: Option<&Slug>, text: &str) -> Result<String> {
    let login = login(text)?;
    match tenant {
        Some(slug) if login.split_once('@').is_none_or(|(_, place)| place != slug.as_str()) => {
            Err(ApiError::field("login", format!("must end with @{slug}, as every login of this tenant")))
        }
        _ => Ok(login),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_of_a_tenant_end_with_its_name() {
        let interior: Slug = "interior".parse().unwrap();
        assert_eq!(login_of(Some(&interior), "Anna@Interior").unwrap(), "anna@interior");
        for other in ["anna@finance", "anna@interior.finance", "anna@xinterior"] {
            assert!(login_of(Some(&interior), other).is_err(), "{other}");
        }
        assert!(login_of(None, "admin@localhost").is_ok());
    }

    #[test]
    fn logins_are_addresses() {
        assert_eq!(login("Admin@Localhost").unwrap(), "admin@localhost");
        for bad in ["", "a", "@", "a@", "@b", "a@b@c", "a b@c", "a@b\n", &format!("{}@b", "a".repeat(260))] {
            assert!(login(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_are_one_line() {
        assert_eq!(name("name", " Ministry of the Interior ").unwrap(), "Ministry of the Interior");
        for bad in ["", "  ", "a\nb", &"a".repeat(201)] {
            assert!(name("name", bad).is_err(), "{bad:?}");
        }
    }
}
