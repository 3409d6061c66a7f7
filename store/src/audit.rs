//! The audit log's rows. Written in the transaction of the act they record.

use domain::audit::{AuditEvent, Verdict};
use domain::{AuditId, TenantId, Timestamp};
use sqlx::query;
use time::OffsetDateTime;

use crate::pages::Ids;
use crate::{StoreError, Tx};

/// An audit event of an allowed act, with nothing in `detail`.
pub fn allowed(
    tenant: Option<TenantId>,
    now: Timestamp,
    actor: impl Into<String>,
    action: &str,
    object: impl Into<String>,
) -> AuditEvent {
    AuditEvent {
        id: AuditId::generate(),
        tenant_id: tenant,
        at: now,
        actor: actor.into(),
        credential: None,
        action: action.to_owned(),
        object: object.into(),
        verdict: Verdict::Allowed,
        policy: None,
        detail: serde_json::json!({}),
    }
}

/// Records an act. If this fails, the transaction must not commit.
pub async fn record(tx: &mut impl Tx, event: &AuditEvent) -> Result<(), StoreError> {
    let verdict = match event.verdict {
        Verdict::Allowed => "allowed",
        Verdict::Denied => "denied",
    };
    query!(
        "INSERT INTO audit_events (id, tenant_id, at, actor, credential, action, object, verdict, policy, detail)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        event.id.0,
        event.tenant_id.map(|t| t.0),
        OffsetDateTime::from(event.at),
        event.actor,
        event.credential,
        event.action,
        event.object,
        verdict,
        event.policy,
        event.detail,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Up to `limit` events, newest first, before the one with id `before`. Of one
/// tenant if given; a system transaction without it reads those of everyone.
pub async fn list(
    tx: &mut impl Tx,
    tenant: Option<TenantId>,
    before: Option<AuditId>,
    limit: u32,
) -> Result<Vec<AuditEvent>, StoreError> {
    let rows = query!(
        "SELECT id, tenant_id, at, actor, credential, action, object, verdict, policy, detail FROM audit_events
         WHERE ($1::uuid IS NULL OR tenant_id = $1) AND id <= $2
         ORDER BY id DESC LIMIT $3",
        tenant.map(|t| t.0),
        Ids::before(before.map(|id| id.0)).to,
        i64::from(limit),
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(AuditEvent {
                id: row.id.into(),
                tenant_id: row.tenant_id.map(TenantId),
                at: row.at.into(),
                actor: row.actor,
                credential: row.credential,
                action: row.action,
                object: row.object,
                verdict: match row.verdict.as_str() {
                    "allowed" => Verdict::Allowed,
                    "denied" => Verdict::Denied,
                    _ => return Err(StoreError::corrupt("audit_events", "verdict", row.id)),
                },
                policy: row.policy,
                detail: row.detail,
            })
        })
        .collect()
}
