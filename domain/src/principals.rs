//! Who acts: people, service accounts and workers, and what they may do.

use serde::{Deserialize, Serialize};

use crate::{KeyId, PrincipalId, ProjectId, TenantId, Timestamp};

/// What a principal may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Creates tenants, registers catalogue models, sees the fleet.
    PlatformAdmin,
    /// Everything inside its own tenant.
    TenantAdmin,
    /// Uses and deploys inside its own tenant; makes no keys or projects.
    Developer,
}

impl Role {
    /// Every role, for tables and tests.
    pub const ALL: [Self; 3] = [Self::PlatformAdmin, Self::TenantAdmin, Self::Developer];

    /// The name used in the database, the API and the portal.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PlatformAdmin => "platform_admin",
            Self::TenantAdmin => "tenant_admin",
            Self::Developer => "developer",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|r| r.as_str() == s).ok_or_else(|| format!("{s:?} is not a role"))
    }
}

/// A person or service account with a local account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Principal {
    /// Identifier.
    pub id: PrincipalId,
    /// Its tenant; `None` for the platform's own people.
    pub tenant_id: Option<TenantId>,
    /// What it signs in with, an address such as `name@ministry`; unique in the
    /// installation.
    pub login: String,
    /// Name for people.
    pub display_name: String,
    /// What it may do.
    pub role: Role,
    /// When it was created.
    pub created_at: Timestamp,
}

/// The authenticated author of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its tenant; `None` for the platform's own people.
    pub tenant: Option<TenantId>,
    /// The project its key belongs to; `None` for people.
    pub project: Option<ProjectId>,
    /// Person or service account; `None` for a key, which is its own actor.
    pub principal: Option<PrincipalId>,
    /// The key it came with; `None` for a session.
    pub key: Option<KeyId>,
    /// What it may do.
    pub role: Role,
}

impl Caller {
    /// How the audit log names it: `key:<id>` or `principal:<id>`.
    pub fn actor(&self) -> String {
        match (self.key, self.principal) {
            (Some(key), _) => format!("key:{key}"),
            (None, Some(principal)) => format!("principal:{principal}"),
            (None, None) => "system".to_owned(),
        }
    }
}
