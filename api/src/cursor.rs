//! Pages of lists. A cursor names where the next page begins; it is signed and
//! bound to its list and tenant, so that it can be neither made nor carried over.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use domain::TenantId;
use domain::keys::Pepper;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::problem::{ApiError, Result};

/// Items of a page, unless asked otherwise.
const DEFAULT_LIMIT: u32 = 50;
/// Most items of a page.
pub const MAX_LIMIT: u32 = 200;
/// Bytes of the signature.
const TAG_BYTES: usize = 16;
/// Longest cursor.
const MAX_CURSOR_BYTES: usize = 512;

/// Which page of a list.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Most items to return, 1 to 200; 50 unless given.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
    /// `next` of the page before.
    pub cursor: Option<String>,
}

/// One page of a list.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Pass it as `cursor` to get the next page; `null` at the end.
    pub next: Option<String>,
}

/// A list to page through.
#[derive(Clone, Copy, Debug)]
pub struct List<'a> {
    /// Name of the list.
    pub name: &'static str,
    /// Whose; `None` for the platform's.
    pub tenant: Option<TenantId>,
    /// Signs cursors.
    pub pepper: &'a Pepper,
}

/// A page that was asked for, checked.
#[derive(Clone, Debug)]
pub struct Paging<'a> {
    list: List<'a>,
    limit: u32,
    after: Option<String>,
}

impl PageQuery {
    /// Checks the limit and the cursor.
    pub fn of(self, list: List<'_>) -> Result<Paging<'_>> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(ApiError::field("limit", format!("must be between 1 and {MAX_LIMIT}")));
        }
        let after = self.cursor.map(|cursor| list.open(&cursor)).transpose()?;
        Ok(Paging { list, limit, after })
    }
}

impl List<'_> {
    fn tag(&self, key: &[u8]) -> [u8; TAG_BYTES] {
        let tenant = self.tenant.map(|t| t.to_string()).unwrap_or_default();
        let signed = [self.name.as_bytes(), tenant.as_bytes(), key].join(&0);
        let mac = self.pepper.derive("cursor", &signed);
        mac[..TAG_BYTES].try_into().expect("an HMAC-SHA-256 has 32 bytes")
    }

    fn seal(&self, key: &str) -> String {
        URL_SAFE_NO_PAD.encode([&self.tag(key.as_bytes()), key.as_bytes()].concat())
    }

    fn open(&self, cursor: &str) -> Result<String> {
        let refused = || ApiError::field("cursor", "is not one of this list; begin again without it");
        if cursor.len() > MAX_CURSOR_BYTES {
            return Err(refused());
        }
        let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| refused())?;
        let (tag, key) = bytes.split_at_checked(TAG_BYTES).ok_or_else(refused)?;
        if !bool::from(self.tag(key).ct_eq(tag)) {
            return Err(refused());
        }
        String::from_utf8(key.to_vec()).map_err(|_| refused())
    }
}

impl Paging<'_> {
    /// How many rows to ask the store for: one more than fit, which tells
    /// whether there is a next page.
    pub fn fetch(&self) -> u32 {
        self.limit + 1
    }

    /// The key of the last item of the page before.
    pub fn after<K: std::str::FromStr>(&self) -> Result<Option<K>> {
        let parse =
            |key: &String| key.parse().map_err(|_| ApiError::internal("a signed cursor holds no key"));
        self.after.as_ref().map(parse).transpose()
    }

    /// The page of what the store returned.
    pub fn page<T>(&self, mut rows: Vec<T>, key: impl Fn(&T) -> String) -> Page<T> {
        let limit = self.limit as usize;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = if more { rows.last().map(|last| self.list.seal(&key(last))) } else { None };
        Page { items: rows, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(cursor: Option<String>) -> PageQuery {
        PageQuery { limit: Some(2), cursor }
    }

    #[test]
    fn pages_follow_each_other() {
        let pepper = Pepper::new([7; 32]);
        let list = List { name: "keys", tenant: Some(TenantId::generate()), pepper: &pepper };
        let first = query(None).of(list).unwrap();
        let page = first.page(vec![1, 2, 3], ToString::to_string);
        assert_eq!(page.items, [1, 2]);
        let second = query(page.next).of(list).unwrap();
        assert_eq!(second.after::<i32>().unwrap(), Some(2));
        assert!(second.page(vec![3], ToString::to_string).next.is_none());
    }

    #[test]
    fn a_cursor_is_good_for_its_own_list_and_tenant_only() {
        let pepper = Pepper::new([7; 32]);
        let list = List { name: "keys", tenant: Some(TenantId::generate()), pepper: &pepper };
        let cursor = list.seal("0190");
        assert_eq!(list.open(&cursor).unwrap(), "0190");
        assert!(List { tenant: Some(TenantId::generate()), ..list }.open(&cursor).is_err());
        assert!(List { tenant: None, ..list }.open(&cursor).is_err());
        assert!(List { name: "projects", ..list }.open(&cursor).is_err());
        for n in 0..cursor.len() {
            let mut forged = cursor.clone().into_bytes();
            forged[n] = if forged[n] == b'A' { b'B' } else { b'A' };
            assert!(list.open(std::str::from_utf8(&forged).unwrap()).is_err(), "byte {n}");
        }
    }

    #[test]
    fn limits_hold() {
        let pepper = Pepper::new([7; 32]);
        let list = List { name: "keys", tenant: None, pepper: &pepper };
        for limit in [0, 201, u32::MAX] {
            assert!(PageQuery { limit: Some(limit), cursor: None }.of(list).is_err());
        }
        assert_eq!(PageQuery::default().of(list).unwrap().fetch(), 51);
    }
}
