//! Who acts: people, service accounts and workers, and what they may do.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::tenants::Slug;
use crate::{KeyId, PrincipalId, ProjectId, ProviderId, TenantId, Timestamp};

/// What a principal may do. The policies under `api/policies` say what each
/// role means; here are only names and where each belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Platform: creates tenants and providers, keeps the catalogue and the
    /// fleet; reads no content of a tenant.
    PlatformAdmin,
    /// Platform: approves model versions.
    ModelApprover,
    /// Platform or tenant: reads everything but content, changes nothing.
    Auditor,
    /// Tenant: everything inside its own tenant.
    TenantAdmin,
    /// Tenant or project: uses, runs jobs and deploys.
    Developer,
    /// Tenant or project: sends prompts.
    User,
    /// Tenant or project: looks.
    Viewer,
    /// Tenant: nothing of its own, only what its projects give.
    Member,
}

impl Role {
    /// Every role, for tables and tests.
    pub const ALL: [Self; 8] = [
        Self::PlatformAdmin,
        Self::ModelApprover,
        Self::Auditor,
        Self::TenantAdmin,
        Self::Developer,
        Self::User,
        Self::Viewer,
        Self::Member,
    ];

    /// The name used in the database, the API and the portal.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PlatformAdmin => "platform_admin",
            Self::ModelApprover => "model_approver",
            Self::Auditor => "auditor",
            Self::TenantAdmin => "tenant_admin",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Viewer => "viewer",
            Self::Member => "member",
        }
    }

    /// Whether people of the platform may have it.
    pub fn is_of_platform(self) -> bool {
        matches!(self, Self::PlatformAdmin | Self::ModelApprover | Self::Auditor)
    }

    /// Whether people and service accounts of a tenant may have it.
    pub fn is_of_tenant(self) -> bool {
        !matches!(self, Self::PlatformAdmin | Self::ModelApprover)
    }

    /// Whether it can be given in a single project, and to a key.
    pub fn is_of_project(self) -> bool {
        matches!(self, Self::Developer | Self::User | Self::Viewer)
    }

    /// The narrower of two roles of a project, for a key of an account.
    /// `None` where they have nothing in common.
    pub fn narrower(self, other: Self) -> Option<Self> {
        match (self, other) {
            (a, b) if a == b => Some(a),
            (Self::TenantAdmin | Self::Developer, narrow) | (narrow, Self::TenantAdmin | Self::Developer)
                if narrow.is_of_project() =>
            {
                Some(narrow)
            }
            _ => None,
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Role {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|r| r.as_str() == s).ok_or_else(|| {
            let all = Self::ALL.map(Self::as_str).join(", ");
            format!("{s:?} is not a role; there are {all}")
        })
    }
}

/// A human being, or a program's own account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PrincipalKind {
    /// Signs in.
    Person,
    /// Acts with API keys.
    Service,
}

/// A person or service account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Principal {
    /// Identifier.
    pub id: PrincipalId,
    /// Its tenant; `None` for the platform's own people.
    pub tenant_id: Option<TenantId>,
    /// Person or service account.
    pub kind: PrincipalKind,
    /// What a person signs in with, such as `name@ministry`; for a service
    /// account its short name.
    pub login: String,
    /// Name for people.
    pub display_name: String,
    /// What it may do in the tenant, or on the platform.
    pub role: Role,
    /// Who vouches for it; `None` for a local account.
    pub provider_id: Option<ProviderId>,
    /// It must choose a new password before anything else.
    pub must_change_password: bool,
    /// A one-time code is asked for at sign-in.
    pub one_time_code: bool,
    /// Since when it may do nothing.
    pub disabled_at: Option<Timestamp>,
    /// When it last signed in.
    pub signed_in_at: Option<Timestamp>,
    /// Counts changes; the ETag.
    pub revision: i64,
    /// When it was created.
    pub created_at: Timestamp,
}

/// A role in one project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Membership {
    /// Where.
    pub project: ProjectId,
    /// `developer`, `user` or `viewer`.
    pub role: Role,
}

/// What a request came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Credential {
    /// An API key.
    Key(KeyId),
    /// A session of a person.
    Session(Uuid),
    /// A token of an identity provider.
    Token(ProviderId),
}

impl Credential {
    /// The word for policies: `key`, `session` or `token`.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::Session(_) => "session",
            Self::Token(_) => "token",
        }
    }
}

impl std::fmt::Display for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Key(id) => write!(f, "key:{id}"),
            Self::Session(id) => write!(f, "session:{id}"),
            Self::Token(provider) => write!(f, "token:{provider}"),
        }
    }
}

/// What an API key is bound to, beyond its role.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyBounds {
    /// Its project.
    pub project: ProjectId,
    /// The endpoints it may send prompts to; `None` for all of its project.
    pub endpoints: Option<Vec<Slug>>,
    /// The actions or groups of actions it may take; `None` for all of its role.
    pub actions: Option<Vec<String>>,
    /// The networks it may come from; `None` for anywhere.
    pub networks: Option<Vec<IpNet>>,
}

impl KeyBounds {
    /// Whether a prompt may go to that endpoint.
    pub fn allows_endpoint(&self, name: &str) -> bool {
        self.endpoints.as_ref().is_none_or(|names| names.iter().any(|n| n.as_str() == name))
    }

    /// Whether the key may come from there.
    pub fn allows_address(&self, address: IpAddr) -> bool {
        self.networks.as_ref().is_none_or(|networks| networks.iter().any(|n| n.contains(&address)))
    }
}

/// The authenticated author of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its tenant; `None` for the platform's own people.
    pub tenant: Option<TenantId>,
    /// Person or service account; `None` for a key without one, which is its
    /// own actor.
    pub principal: Option<PrincipalId>,
    /// What it came with.
    pub credential: Credential,
    /// What it may do in its tenant or on the platform; for a key, in its project.
    pub role: Role,
    /// What it may do in single projects besides.
    pub memberships: Arc<[Membership]>,
    /// What its key is bound to.
    pub bounds: Option<Arc<KeyBounds>>,
    /// It must choose a new password before anything else.
    pub must_change_password: bool,
    /// It signed in with a one-time code too.
    pub one_time_code: bool,
}

impl Caller {
    /// How the audit log names it: `key:<id>` or `principal:<id>`.
    pub fn actor(&self) -> String {
        match self.principal {
            Some(principal) => format!("principal:{principal}"),
            None => self.credential.to_string(),
        }
    }

    /// The API key it came with.
    pub fn key(&self) -> Option<KeyId> {
        match self.credential {
            Credential::Key(key) => Some(key),
            Credential::Session(_) | Credential::Token(_) => None,
        }
    }

    /// The project its key is bound to.
    pub fn project(&self) -> Option<ProjectId> {
        self.bounds.as_ref().map(|bounds| bounds.project)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_has_a_place() {
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
            assert!(role.is_of_platform() || role.is_of_tenant());
            assert!(!role.is_of_project() || role.is_of_tenant());
        }
    }

    #[test]
    fn a_key_is_never_wider_than_its_account() {
        use Role::{Developer, Member, TenantAdmin, User, Viewer};
        assert_eq!(TenantAdmin.narrower(Developer), Some(Developer));
        assert_eq!(Developer.narrower(Viewer), Some(Viewer));
        assert_eq!(User.narrower(Developer), Some(User));
        assert_eq!(User.narrower(Viewer), None, "a user does not look, a viewer sends no prompts");
        assert_eq!(Member.narrower(User), None);
    }

    #[test]
    fn bounds_hold() {
        let bounds = KeyBounds {
            project: ProjectId::generate(),
            endpoints: Some(vec!["chat".parse().unwrap()]),
            actions: None,
            networks: Some(vec!["10.0.0.0/8".parse().unwrap()]),
        };
        assert!(bounds.allows_endpoint("chat") && !bounds.allows_endpoint("chat2"));
        assert!(bounds.allows_address([10, 1, 2, 3].into()) && !bounds.allows_address([11, 1, 2, 3].into()));
    }
}
