//! What a credential stands for: keys and sessions by their keyed hash.

use std::sync::Arc;

use domain::principals::{Caller, Credential, KeyBounds, Membership, Role};
use domain::projects::ProjectLimits;
use domain::tenants::{Slug, TenantStatus};
use domain::{KeyId, PrincipalId, ProjectId, TenantId, Timestamp};
use sqlx::query;
use sqlx::types::Json;
use uuid::Uuid;

use crate::keys::parse_all;
use crate::{StoreError, SystemTx, Tx};

/// A valid credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Of the key or the session; names it when it is revoked.
    pub id: Uuid,
    /// Who calls with it.
    pub caller: Caller,
    /// The caller's tenant.
    pub tenant: Option<TenantFacts>,
    /// When it stops working by itself. To be checked at every use.
    pub expires_at: Option<Timestamp>,
    /// When a session was last used, as far as it was noted.
    pub seen_at: Option<Timestamp>,
    /// Requests a minute that a key's project allows all its keys together.
    pub requests_per_minute: Option<u32>,
}

/// What decisions need to know of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantFacts {
    /// Identifier.
    pub id: TenantId,
    /// Short name.
    pub slug: Slug,
    /// Whether it works.
    pub status: TenantStatus,
}

fn tenant_facts(id: Uuid, slug: &str, status: &str) -> Result<TenantFacts, StoreError> {
    Ok(TenantFacts {
        id: TenantId(id),
        slug: slug.parse().map_err(|_| StoreError::corrupt("tenants", "slug", id))?,
        status: status.parse().map_err(|_| StoreError::corrupt("tenants", "status", id))?,
    })
}

/// The live key with this hash; that of a disabled account is none.
pub async fn of_key(tx: &mut SystemTx, hash: &[u8; 32]) -> Result<Option<Known>, StoreError> {
    let row = query!(
        r#"SELECT k.id, k.tenant_id, k.project_id, k.principal_id, k.role, k.endpoints, k.actions, k.networks,
               k.expires_at, t.slug, t.status, j.limits AS "limits: Json<ProjectLimits>", p.role AS "account_role?", m.role AS "member_role?"
           FROM api_keys k
           JOIN tenants t ON t.id = k.tenant_id
           JOIN projects j ON j.tenant_id = k.tenant_id AND j.id = k.project_id AND j.deleted_at IS NULL
           LEFT JOIN principals p ON p.tenant_id = k.tenant_id AND p.id = k.principal_id
           LEFT JOIN project_members m
               ON m.tenant_id = k.tenant_id AND m.project_id = k.project_id AND m.principal_id = k.principal_id
           WHERE k.key_hash = $1 AND k.revoked_at IS NULL AND p.disabled_at IS NULL
             AND t.status NOT IN ('deleting', 'deleted')"#,
        hash.as_slice(),
    )
    .fetch_optional(tx.conn())
    .await?;
    let Some(row) = row else { return Ok(None) };
    let corrupt = |column| StoreError::corrupt("api_keys", column, row.id);
    let parse = |role: &str| role.parse::<Role>().map_err(|_| corrupt("role"));
    let own = parse(&row.role)?;
    // A key of an account is never wider than the account is in that project.
    let role = match (&row.account_role, &row.member_role) {
        (None, _) => own,
        (Some(account), member) => {
            let in_tenant = parse(account)?.narrower(own);
            let in_project = member.as_deref().map(parse).transpose()?.and_then(|role| role.narrower(own));
            in_tenant.or(in_project).unwrap_or(Role::Member)
        }
    };
    let bounds = KeyBounds {
        project: ProjectId(row.project_id),
        endpoints: parse_all(row.endpoints).map_err(|()| corrupt("endpoints"))?,
        actions: row.actions,
        networks: parse_all(row.networks).map_err(|()| corrupt("networks"))?,
    };
    let tenant = tenant_facts(row.tenant_id, &row.slug, &row.status)?;
    Ok(Some(Known {
        id: row.id,
        caller: Caller {
            tenant: Some(tenant.id),
            principal: row.principal_id.map(PrincipalId),
            credential: Credential::Key(KeyId(row.id)),
            role,
            memberships: Arc::new([]),
            bounds: Some(Arc::new(bounds)),
            must_change_password: false,
            one_time_code: false,
        },
        tenant: Some(tenant),
        expires_at: row.expires_at.map(Timestamp::from),
        seen_at: None,
        requests_per_minute: row.limits.0.requests_per_minute,
    }))
}

/// The open session with this hash; that of a disabled account is none.
pub async fn of_session(tx: &mut SystemTx, hash: &[u8; 32]) -> Result<Option<Known>, StoreError> {
    let row = query!(
        "SELECT id, principal_id, expires_at, last_seen_at, one_time_code FROM sessions
         WHERE token_hash = $1 AND revoked_at IS NULL",
        hash.as_slice(),
    )
    .fetch_optional(tx.conn())
    .await?;
    let Some(row) = row else { return Ok(None) };
    let person = of_principal(tx, PrincipalId(row.principal_id), Credential::Session(row.id)).await?;
    Ok(person.map(|known| Known {
        id: row.id,
        caller: Caller { one_time_code: row.one_time_code, ..known.caller },
        expires_at: Some(row.expires_at.into()),
        seen_at: Some(row.last_seen_at.into()),
        ..known
    }))
}

/// An account that is not disabled, as the author of requests that come with
/// `credential`.
pub async fn of_principal(
    tx: &mut SystemTx,
    id: PrincipalId,
    credential: Credential,
) -> Result<Option<Known>, StoreError> {
    let row = query!(
        r#"SELECT p.tenant_id, p.role, p.must_change_password, t.slug AS "slug?", t.status AS "status?",
               ARRAY(SELECT m.project_id FROM project_members m JOIN projects j ON j.id = m.project_id
                   WHERE m.tenant_id = p.tenant_id AND m.principal_id = p.id AND j.deleted_at IS NULL
                   ORDER BY m.project_id) AS "projects!",
               ARRAY(SELECT m.role FROM project_members m JOIN projects j ON j.id = m.project_id
                   WHERE m.tenant_id = p.tenant_id AND m.principal_id = p.id AND j.deleted_at IS NULL
                   ORDER BY m.project_id) AS "roles!"
           FROM principals p LEFT JOIN tenants t ON t.id = p.tenant_id
           WHERE p.id = $1 AND p.disabled_at IS NULL
             AND (t.status IS NULL OR t.status NOT IN ('deleting', 'deleted'))"#,
        id.0,
    )
    .fetch_optional(tx.conn())
    .await?;
    let Some(row) = row else { return Ok(None) };
    let corrupt = |table| StoreError::corrupt(table, "role", id);
    let memberships = row.projects.iter().zip(&row.roles).map(|(project, role)| {
        let role = role.parse().map_err(|_| corrupt("project_members"))?;
        Ok(Membership { project: ProjectId(*project), role })
    });
    let tenant = match (row.tenant_id, &row.slug, &row.status) {
        (Some(id), Some(slug), Some(status)) => Some(tenant_facts(id, slug, status)?),
        _ => None,
    };
    Ok(Some(Known {
        id: id.0,
        caller: Caller {
            tenant: row.tenant_id.map(TenantId),
            principal: Some(id),
            credential,
            role: row.role.parse().map_err(|_| corrupt("principals"))?,
            memberships: memberships.collect::<Result<_, StoreError>>()?,
            bounds: None,
            must_change_password: row.must_change_password,
            one_time_code: false,
        },
        tenant,
        expires_at: None,
        seen_at: None,
        requests_per_minute: None,
    }))
}

/// What decisions need to know of the tenant of that short name.
pub async fn tenant_by_slug(tx: &mut impl Tx, slug: &Slug) -> Result<TenantFacts, StoreError> {
    let row =
        query!("SELECT id, slug, status FROM tenants WHERE slug = $1 AND status <> 'deleted'", slug.as_str())
            .fetch_optional(tx.conn())
            .await?
            .ok_or(StoreError::NotFound("tenant"))?;
    tenant_facts(row.id, &row.slug, &row.status)
}
