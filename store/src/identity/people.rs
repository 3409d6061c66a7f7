//! People whom a provider vouches for: accounts made and kept as their groups
//! say, and sessions that end when the provider says so.

use std::collections::BTreeMap;

use domain::audit::AuditEvent;
use domain::identity::{Grant, IdentityProvider};
use domain::outbox::Topic;
use domain::principals::Role;
use domain::{PrincipalId, ProjectId, ProviderId, TenantId, Timestamp};
use serde_json::json;
use sqlx::query;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::error::exists;
use crate::{StoreError, SystemTx, Tx, audit, outbox};

/// Somebody whom a provider vouches for.
#[derive(Clone, Debug)]
pub struct Arrival<'a> {
    /// By whom.
    pub provider: &'a IdentityProvider,
    /// Unique there.
    pub subject: &'a str,
    /// What people know the account by.
    pub login: &'a str,
    /// Name for people.
    pub display_name: &'a str,
    /// What the groups give; `None` for nothing.
    pub grant: Option<&'a Grant>,
    /// Whether an account that is there takes over what the groups give: at a
    /// sign-in, and not for a token that may name only some of them.
    pub follow: bool,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// The account, as the grant says.
    Account(PrincipalId),
    /// It is disabled.
    Disabled,
    /// The groups give nothing. Sessions that the person had are ended.
    Nothing,
}

struct Account {
    id: PrincipalId,
    role: Role,
    login: String,
    display_name: String,
    disabled: bool,
}

/// Takes in a person: finds or creates the account, and makes its role and
/// memberships what the groups give, with an audit record of what changed.
pub async fn arrive(tx: &mut SystemTx, arrival: &Arrival<'_>, now: Timestamp) -> Result<Arrived, StoreError> {
    let found = find(tx, arrival).await?;
    let (account, created) = match (found, arrival.grant) {
        (Some(account), _) if account.disabled => return Ok(Arrived::Disabled),
        (Some(account), Some(_)) if !arrival.follow => return Ok(Arrived::Account(account.id)),
        (Some(account), Some(_)) => (account, false),
        (Some(account), None) if arrival.follow => {
            lose_all(tx, arrival, &account, now).await?;
            return Ok(Arrived::Nothing);
        }
        (_, None) => return Ok(Arrived::Nothing),
        (None, Some(grant)) => match create(tx, arrival, grant, now).await? {
            Some(account) => (account, true),
            // Another sign-in of the same person was faster.
            None => match find(tx, arrival).await? {
                Some(account) if account.disabled => return Ok(Arrived::Disabled),
                Some(account) => (account, false),
                None => return Err(StoreError::Conflict("the account is being created; try again")),
            },
        },
    };
    let Some(grant) = arrival.grant else { return Ok(Arrived::Nothing) };
    let role = grant.role.unwrap_or(Role::Member);
    let renamed = account.login != arrival.login || account.display_name != arrival.display_name;
    if role != account.role || renamed {
        query!(
            "UPDATE principals SET role = $2, login = $3, display_name = $4, revision = revision + 1 WHERE id = $1",
            account.id.0,
            role.as_str(),
            arrival.login,
            arrival.display_name,
        )
        .execute(tx.conn())
        .await?;
    }
    let moved = match arrival.provider.tenant_id {
        Some(tenant) => set_memberships(tx, tenant, account.id, grant, now).await?,
        None => false,
    };
    if created || moved || role != account.role {
        let action = if created { "create_account" } else { "update_account" };
        let detail = json!({"role": role, "projects": grant.projects, "provider": arrival.provider.id});
        record(tx, arrival, action, account.id, detail, now).await?;
        outbox::publish(tx, Topic::Credentials, account.id, now).await?;
    }
    Ok(Arrived::Account(account.id))
}

async fn find(tx: &mut SystemTx, arrival: &Arrival<'_>) -> Result<Option<Account>, StoreError> {
    let row = query!(
        "SELECT id, role, login, display_name, disabled_at FROM principals
         WHERE provider_id = $1 AND subject = $2 FOR UPDATE",
        arrival.provider.id.0,
        arrival.subject,
    )
    .fetch_optional(tx.conn())
    .await?;
    row.map(|row| {
        Ok(Account {
            id: row.id.into(),
            role: row.role.parse().map_err(|_| StoreError::corrupt("principals", "role", row.id))?,
            login: row.login,
            display_name: row.display_name,
            disabled: row.disabled_at.is_some(),
        })
    })
    .transpose()
}

/// `None` if the account is there after all.
async fn create(
    tx: &mut SystemTx,
    arrival: &Arrival<'_>,
    grant: &Grant,
    now: Timestamp,
) -> Result<Option<Account>, StoreError> {
    let (id, role) = (PrincipalId::generate(), grant.role.unwrap_or(Role::Member));
    let inserted = query!(
        "INSERT INTO principals (id, tenant_id, login, display_name, role, provider_id, subject, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (provider_id, subject) DO NOTHING",
        id.0,
        arrival.provider.tenant_id.map(|t| t.0),
        arrival.login,
        arrival.display_name,
        role.as_str(),
        arrival.provider.id.0,
        arrival.subject,
        OffsetDateTime::from(now),
    )
    .execute(tx.conn())
    .await
    .map_err(exists("an account with this login"))?
    .rows_affected();
    Ok((inserted == 1).then(|| Account {
        id,
        role,
        login: arrival.login.to_owned(),
        display_name: arrival.display_name.to_owned(),
        disabled: false,
    }))
}

/// A person whose groups give nothing any more keeps an account that may do
/// nothing, for the audit log to name.
async fn lose_all(
    tx: &mut SystemTx,
    arrival: &Arrival<'_>,
    account: &Account,
    now: Timestamp,
) -> Result<(), StoreError> {
    if let Some(tenant) = arrival.provider.tenant_id {
        query!(
            "UPDATE principals SET role = 'member', revision = revision + 1 WHERE id = $1 AND role <> 'member'",
            account.id.0
        )
        .execute(tx.conn())
        .await?;
        query!(
            "DELETE FROM project_members WHERE tenant_id = $1 AND principal_id = $2",
            tenant.0,
            account.id.0
        )
        .execute(tx.conn())
        .await?;
    }
    let ended = query!(
        "UPDATE sessions SET revoked_at = $2 WHERE principal_id = $1 AND revoked_at IS NULL RETURNING id",
        account.id.0,
        OffsetDateTime::from(now),
    )
    .fetch_all(tx.conn())
    .await?;
    let detail =
        json!({"groups_give": "nothing", "sessions_ended": ended.len(), "provider": arrival.provider.id});
    record(tx, arrival, "update_account", account.id, detail, now).await?;
    outbox::publish(tx, Topic::Credentials, account.id, now).await
}

/// Makes the memberships those of the grant; returns whether any changed. A
/// project that is not there gives nothing.
async fn set_memberships(
    tx: &mut SystemTx,
    tenant: TenantId,
    principal: PrincipalId,
    grant: &Grant,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let wanted = projects_of(tx, tenant, grant).await?;
    let (projects, roles): (Vec<Uuid>, Vec<String>) =
        wanted.iter().map(|(project, role)| (project.0, role.to_string())).unzip();
    let gone = query!(
        "DELETE FROM project_members WHERE tenant_id = $1 AND principal_id = $2 AND project_id <> ALL ($3)",
        tenant.0,
        principal.0,
        &projects,
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    let set = query!(
        "INSERT INTO project_members AS m (tenant_id, project_id, principal_id, role, created_at)
         SELECT $1, project, $2, role, $5 FROM unnest($3::uuid[], $4::text[]) AS wanted (project, role)
         ON CONFLICT (tenant_id, project_id, principal_id) DO UPDATE SET role = excluded.role
             WHERE m.role <> excluded.role",
        tenant.0,
        principal.0,
        &projects,
        &roles,
        OffsetDateTime::from(now),
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    Ok(gone + set > 0)
}

/// The projects of a grant that are there.
pub async fn projects_of(
    tx: &mut SystemTx,
    tenant: TenantId,
    grant: &Grant,
) -> Result<BTreeMap<ProjectId, Role>, StoreError> {
    let slugs: Vec<String> = grant.projects.keys().map(ToString::to_string).collect();
    let rows = query!(
        "SELECT id, slug FROM projects WHERE tenant_id = $1 AND slug = ANY ($2) AND deleted_at IS NULL",
        tenant.0,
        &slugs,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            let slug = row.slug.parse().map_err(|_| StoreError::corrupt("projects", "slug", row.id))?;
            Ok((ProjectId(row.id), grant.projects.get(&slug).copied().unwrap_or(Role::Viewer)))
        })
        .collect()
}

async fn record(
    tx: &mut SystemTx,
    arrival: &Arrival<'_>,
    action: &str,
    account: PrincipalId,
    detail: serde_json::Value,
    now: Timestamp,
) -> Result<(), StoreError> {
    let provider = arrival.provider;
    let actor = format!("provider:{}", provider.id);
    let event = audit::allowed(provider.tenant_id, now, actor, action, format!("principal:{account}"));
    audit::record(tx, &AuditEvent { detail, ..event }).await
}

/// Notes which session at the provider a session of ours came from, and the
/// sealed ID token to end it with.
pub async fn bind_session(
    tx: &mut SystemTx,
    session: Uuid,
    provider: ProviderId,
    sid: Option<&str>,
    id_token: &[u8],
) -> Result<(), StoreError> {
    query!(
        "UPDATE sessions SET provider_id = $2, provider_sid = $3, id_token = $4 WHERE id = $1",
        session,
        provider.0,
        sid,
        id_token,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// What a session of ours knows of the one at the provider.
#[derive(Clone, Debug)]
pub struct ProviderSession {
    /// Which provider.
    pub provider: ProviderId,
    /// The sealed ID token.
    pub id_token: Option<Vec<u8>>,
}

/// The session at the provider that a session of ours came from.
pub async fn provider_session(
    tx: &mut SystemTx,
    session: Uuid,
) -> Result<Option<ProviderSession>, StoreError> {
    let row = query!("SELECT provider_id, id_token FROM sessions WHERE id = $1", session)
        .fetch_optional(tx.conn())
        .await?;
    Ok(row.and_then(|row| {
        row.provider_id.map(|provider| ProviderSession { provider: provider.into(), id_token: row.id_token })
    }))
}

/// A session that was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedSession {
    /// Which.
    pub id: Uuid,
    /// Whose.
    pub principal: PrincipalId,
}

/// Ends the sessions that came from a session at the provider, or all of a
/// subject there, or all from the provider if neither is named; tells every
/// replica. Records each.
pub async fn end_sessions(
    tx: &mut SystemTx,
    provider: &IdentityProvider,
    sid: Option<&str>,
    subject: Option<&str>,
    now: Timestamp,
) -> Result<Vec<EndedSession>, StoreError> {
    let rows = query!(
        "UPDATE sessions s SET revoked_at = $4 FROM principals p
         WHERE s.provider_id = $1 AND s.revoked_at IS NULL AND p.id = s.principal_id
           AND ($2::text IS NULL OR s.provider_sid = $2) AND ($3::text IS NULL OR p.subject = $3)
         RETURNING s.id, s.principal_id",
        provider.id.0,
        sid,
        subject,
        OffsetDateTime::from(now),
    )
    .fetch_all(tx.conn())
    .await?;
    let mut ended = Vec::new();
    for row in rows {
        let session = EndedSession { id: row.id, principal: row.principal_id.into() };
        let actor = format!("provider:{}", provider.id);
        let mut event =
            audit::allowed(provider.tenant_id, now, actor, "end_session", format!("session:{}", session.id));
        event.detail = json!({"account": session.principal});
        audit::record(tx, &event).await?;
        outbox::publish(tx, Topic::Credentials, session.id, now).await?;
        ended.push(session);
    }
    Ok(ended)
}
