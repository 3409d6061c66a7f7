//! What the audit log records of each act.

use serde::{Deserialize, Serialize};

use crate::{AuditId, TenantId, Timestamp};

/// Whether the act was allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It happened.
    Allowed,
    /// It was refused.
    Denied,
}

/// One act: who did what to which object. Never content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditEvent {
    /// Identifier.
    pub id: AuditId,
    /// The tenant whose act it is; `None` for the platform's.
    pub tenant_id: Option<TenantId>,
    /// When.
    pub at: Timestamp,
    /// Who: `principal:<id>`, `key:<id>`, `worker:<id>` or `scheduler:<epoch>`.
    pub actor: String,
    /// What it came with: `key:<id>`, `session:<id>` or `token:<provider>`;
    /// `None` where no request was made.
    pub credential: Option<String>,
    /// Verb and resource, e.g. `create_endpoint`; the OpenAPI operation where there is one.
    pub action: String,
    /// Kind and id of what it was done to, e.g. `endpoint:0190…`.
    pub object: String,
    /// Whether it was allowed.
    pub verdict: Verdict,
    /// The policies that decided, by name, with the version of their set.
    pub policy: Option<String>,
    /// Facts worth keeping, e.g. a model version's digest.
    #[schema(value_type = Object)]
    pub detail: serde_json::Value,
}
