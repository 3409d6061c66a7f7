//! Identity providers: who may vouch for people, and what their groups give.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::principals::Role;
use crate::tenants::Slug;
use crate::{ProviderId, TenantId, Timestamp};

/// Providers of one tenant, or of the platform.
pub const MAX_PROVIDERS: usize = 20;
/// Mappings of one provider.
pub const MAX_MAPPINGS: usize = 500;
/// Groups read from one token; the rest gives nothing.
pub const MAX_GROUPS: usize = 1_000;
/// Characters of a group's name.
pub const MAX_GROUP_CHARS: usize = 256;
/// Bytes of an issuer's URL.
pub const MAX_ISSUER_BYTES: usize = 512;
/// Bytes of a client's name at the provider, and of an audience.
pub const MAX_CLIENT_ID_BYTES: usize = 255;
/// Bytes of the path to the claim that holds groups.
pub const MAX_CLAIM_PATH_BYTES: usize = 200;

/// An OpenID Connect provider that people sign in with, and whose access
/// tokens the API takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct IdentityProvider {
    /// Identifier.
    pub id: ProviderId,
    /// The tenant whose people it vouches for; `None` for the platform's own.
    pub tenant_id: Option<TenantId>,
    /// Short name, unique in the tenant.
    pub name: Slug,
    /// What a sign-in page calls it, for all to read.
    pub label: String,
    /// Its issuer, unique in the installation: a token names it in `iss`.
    pub issuer: IssuerUrl,
    /// Chancery's name at the provider.
    pub client_id: String,
    /// What `aud` of an access token must contain.
    pub audience: String,
    /// What its tokens may be signed with; never empty.
    pub algorithms: Vec<SigningAlgorithm>,
    /// Where a token names the person's groups: a claim such as `groups`, or a
    /// path such as `realm_access.roles`.
    pub groups_claim: String,
    /// What the groups give.
    pub mappings: Vec<GroupMapping>,
    /// Whether it is used.
    pub enabled: bool,
    /// Counts changes.
    pub revision: i64,
    /// When it was created.
    pub created_at: Timestamp,
}

/// What one group gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupMapping {
    /// The group as the provider writes it, compared exactly.
    #[schema(min_length = 1, max_length = 256)]
    pub group: String,
    /// The role it gives: in the whole tenant (or the platform), or only in
    /// `project`.
    pub role: Role,
    /// The project of the tenant in which it gives the role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<Slug>,
}

/// How tokens of a provider may be signed: asymmetric only, so that nobody who
/// can check a token can make one.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
pub enum SigningAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// RSASSA-PSS with SHA-256.
    PS256,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// ECDSA on P-384 with SHA-384.
    ES384,
    /// Ed25519.
    EdDSA,
}

impl SigningAlgorithm {
    /// Every algorithm.
    pub const ALL: [Self; 5] = [Self::RS256, Self::PS256, Self::ES256, Self::ES384, Self::EdDSA];

    /// The name in `alg` (RFC 7518, RFC 8037).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RS256 => "RS256",
            Self::PS256 => "PS256",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDSA => "EdDSA",
        }
    }
}

impl std::fmt::Display for SigningAlgorithm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for SigningAlgorithm {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|a| a.as_str() == s).ok_or_else(|| {
            format!("{s:?} is not a signing algorithm that is taken: use RS256, PS256, ES256, ES384 or EdDSA")
        })
    }
}

/// An issuer: an `https` URL without query and fragment, compared byte for
/// byte. Plain `http` only for this machine itself (`localhost`, loopback).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, format = "uri", max_length = 512)]
pub struct IssuerUrl(String);

/// A text that is no [`IssuerUrl`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} cannot be an issuer: {why}")]
pub struct InvalidIssuer {
    text: String,
    why: &'static str,
}

impl IssuerUrl {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is reached without TLS, which is only taken on loopback.
    pub fn is_plain_http(&self) -> bool {
        self.0.starts_with("http://")
    }
}

/// Whether a host, as a URL writes it, is this machine itself.
pub fn is_loopback_host(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn check_issuer(text: &str) -> Result<(), &'static str> {
    if text.len() > MAX_ISSUER_BYTES {
        return Err("it is longer than 512 bytes");
    }
    if !text.bytes().all(|b| b.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&b)) {
        return Err("it may only have the characters of a URL");
    }
    if text.contains(['?', '#']) {
        return Err("it may have no query and no fragment");
    }
    let (rest, plain) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (rest, false),
        (_, Some(rest)) => (rest, true),
        _ => return Err("it must start with https://"),
    };
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.contains('@') {
        return Err("it may have no user and password");
    }
    let host = match (authority.strip_prefix('['), authority.rsplit_once(':')) {
        (Some(_), _) => match authority.find(']') {
            Some(end) => &authority[..=end],
            None => return Err("its host cannot be read"),
        },
        (None, Some((host, _))) => host,
        (None, None) => authority,
    };
    let port = &authority[host.len()..];
    let port_ok = port.is_empty() || port[1..].parse::<u16>().is_ok_and(|p| p != 0);
    if host.is_empty() || !port_ok || (host.contains(':') && !host.starts_with('[')) {
        return Err("its host or port cannot be read");
    }
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("its host must be in lower case");
    }
    if plain && !is_loopback_host(host) {
        return Err("http is only taken for a provider on this machine; use https");
    }
    Ok(())
}

impl TryFrom<String> for IssuerUrl {
    type Error = InvalidIssuer;
    fn try_from(text: String) -> Result<Self, InvalidIssuer> {
        match check_issuer(&text) {
            Ok(()) => Ok(Self(text)),
            Err(why) => Err(InvalidIssuer { text: text.chars().take(80).collect(), why }),
        }
    }
}

impl std::str::FromStr for IssuerUrl {
    type Err = InvalidIssuer;
    fn from_str(s: &str) -> Result<Self, InvalidIssuer> {
        s.to_owned().try_into()
    }
}

impl From<IssuerUrl> for String {
    fn from(issuer: IssuerUrl) -> Self {
        issuer.0
    }
}

impl std::fmt::Display for IssuerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is wrong with a provider's settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// No algorithm, or one twice.
    #[error("name at least one signing algorithm, each once")]
    Algorithms,
    /// A client or audience that cannot be.
    #[error("must be 1 to 255 printable characters")]
    ClientId,
    /// A path that cannot be.
    #[error("must be the name of a claim, or names joined with dots, of at most 200 characters")]
    GroupsClaim,
    /// Too many mappings.
    #[error("a provider takes at most 500 mappings")]
    TooManyMappings,
    /// A group's name that cannot be.
    #[error("mapping {0}: a group's name has 1 to 256 characters and no control characters")]
    Group(usize),
    /// The same mapping twice.
    #[error("mapping {0} repeats an earlier one")]
    Repeated(usize),
    /// A provider gives what is not its to give.
    #[error("mapping {index}: {why}")]
    Role {
        /// Which mapping, from 0.
        index: usize,
        /// Why not.
        why: &'static str,
    },
}

/// Checks what is signed with; see [`SigningAlgorithm`].
pub fn check_algorithms(algorithms: &[SigningAlgorithm]) -> Result<(), ProviderError> {
    let distinct: BTreeSet<_> = algorithms.iter().collect();
    match algorithms.is_empty() || distinct.len() != algorithms.len() {
        true => Err(ProviderError::Algorithms),
        false => Ok(()),
    }
}

/// Checks a client's name or an audience.
pub fn check_client_id(text: &str) -> Result<(), ProviderError> {
    let ok =
        (1..=MAX_CLIENT_ID_BYTES).contains(&text.len()) && text.bytes().all(|b| (0x20..0x7f).contains(&b));
    if ok { Ok(()) } else { Err(ProviderError::ClientId) }
}

/// Checks the path to the groups.
pub fn check_groups_claim(path: &str) -> Result<(), ProviderError> {
    let ok = path.len() <= MAX_CLAIM_PATH_BYTES
        && path.bytes().all(|b| b.is_ascii_graphic())
        && path.split('.').all(|part| !part.is_empty());
    if ok { Ok(()) } else { Err(ProviderError::GroupsClaim) }
}

/// Checks what the groups of a provider give: one of the platform gives only
/// roles of the platform, one of a tenant only roles inside that tenant.
pub fn check_mappings(of_tenant: bool, mappings: &[GroupMapping]) -> Result<(), ProviderError> {
    if mappings.len() > MAX_MAPPINGS {
        return Err(ProviderError::TooManyMappings);
    }
    for (index, mapping) in mappings.iter().enumerate() {
        let chars = mapping.group.chars().count();
        if !(1..=MAX_GROUP_CHARS).contains(&chars) || mapping.group.chars().any(char::is_control) {
            return Err(ProviderError::Group(index));
        }
        if mappings[..index].contains(mapping) {
            return Err(ProviderError::Repeated(index));
        }
        let refused = match (of_tenant, &mapping.project) {
            (false, Some(_)) => Some("a provider of the platform gives no projects"),
            (false, None) if !is_platform_role(mapping.role) => {
                Some("a provider of the platform gives platform_admin, model_approver or auditor")
            }
            (true, Some(_)) if !is_project_role(mapping.role) => {
                Some("in a project a group gives developer, user or viewer")
            }
            (true, None) if !is_tenant_role(mapping.role) => {
                Some("a provider of a tenant gives tenant_admin, developer, auditor, user, viewer or member")
            }
            _ => None,
        };
        if let Some(why) = refused {
            return Err(ProviderError::Role { index, why });
        }
    }
    Ok(())
}

/// Roles of the platform's own people, highest first.
const PLATFORM_ROLES: [&str; 3] = ["platform_admin", "model_approver", "auditor"];
/// Roles in a whole tenant, highest first.
const TENANT_ROLES: [&str; 6] = ["tenant_admin", "developer", "auditor", "user", "viewer", "member"];
/// Roles in one project, highest first.
const PROJECT_ROLES: [&str; 3] = ["developer", "user", "viewer"];

fn is_platform_role(role: Role) -> bool {
    PLATFORM_ROLES.contains(&role.as_str())
}

fn is_tenant_role(role: Role) -> bool {
    TENANT_ROLES.contains(&role.as_str())
}

fn is_project_role(role: Role) -> bool {
    PROJECT_ROLES.contains(&role.as_str())
}

/// The higher of two roles of one list; the first wins where neither is in it.
fn higher(order: &[&str], a: Role, b: Role) -> Role {
    let rank = |role: Role| order.iter().position(|r| *r == role.as_str()).unwrap_or(usize::MAX);
    if rank(b) < rank(a) { b } else { a }
}

/// What a person's groups give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The role in the whole tenant, or the platform; `None` if the groups give
    /// only projects.
    pub role: Option<Role>,
    /// The role in each project.
    pub projects: BTreeMap<Slug, Role>,
}

/// Turns groups into a role and projects; `None` if they give nothing. The
/// highest role wins, in the tenant and in each project.
///
/// A mapping that a provider of this kind may not give is ignored: it cannot be
/// stored, and must not widen access if it is.
pub fn grant(of_tenant: bool, mappings: &[GroupMapping], groups: &BTreeSet<String>) -> Option<Grant> {
    let mut grant = Grant { role: None, projects: BTreeMap::new() };
    for mapping in mappings.iter().filter(|m| groups.contains(&m.group)) {
        match &mapping.project {
            Some(project) if of_tenant && is_project_role(mapping.role) => {
                let held = grant.projects.entry(project.clone()).or_insert(mapping.role);
                *held = higher(&PROJECT_ROLES, *held, mapping.role);
            }
            None if of_tenant && is_tenant_role(mapping.role) => {
                let held = grant.role.unwrap_or(mapping.role);
                grant.role = Some(higher(&TENANT_ROLES, held, mapping.role));
            }
            None if !of_tenant && is_platform_role(mapping.role) => {
                let held = grant.role.unwrap_or(mapping.role);
                grant.role = Some(higher(&PLATFORM_ROLES, held, mapping.role));
            }
            _ => {}
        }
    }
    (grant.role.is_some() || !grant.projects.is_empty()).then_some(grant)
}

/// The groups that claims name at `path`: an array of texts or one text.
/// A claim whose whole name is `path` comes first, because some providers put
/// dots into names.
pub fn groups(claims: &Map<String, Value>, path: &str) -> BTreeSet<String> {
    let found = claims.get(path).or_else(|| {
        let mut parts = path.split('.');
        let first = claims.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.as_object()?.get(part))
    });
    let texts: Vec<&str> = match found {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    texts
        .into_iter()
        .filter(|group| !group.is_empty() && group.chars().count() <= MAX_GROUP_CHARS)
        .take(MAX_GROUPS)
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests;
