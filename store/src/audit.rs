//! The audit log's rows. Written in the transaction of the act they record.

use domain::audit::{AuditEvent, Verdict};
use domain::{AuditId, TenantId, Timestamp};
use sqlx::query;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::pages::Ids;
use crate::{StoreError, SystemTx, Tx};

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

fn name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allowed => "allowed",
        Verdict::Denied => "denied",
    }
}

/// Records an act. If this fails, the transaction must not commit.
pub async fn record(tx: &mut impl Tx, event: &AuditEvent) -> Result<(), StoreError> {
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
        name(event.verdict),
        event.policy,
        event.detail,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Records acts of a loop: by no credential and no policy.
pub async fn record_all(tx: &mut SystemTx, events: &[AuditEvent]) -> Result<(), StoreError> {
    query!(
        "INSERT INTO audit_events (id, tenant_id, at, actor, action, object, verdict, detail)
         SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::text[], $5::text[], $6::text[],
                              $7::text[], $8::jsonb[])",
        &events.iter().map(|e| e.id.0).collect::<Vec<_>>(),
        &events.iter().map(|e| e.tenant_id.map(|t| t.0)).collect::<Vec<_>>() as &[Option<Uuid>],
        &events.iter().map(|e| OffsetDateTime::from(e.at)).collect::<Vec<_>>(),
        &events.iter().map(|e| &*e.actor).collect::<Vec<_>>() as &[&str],
        &events.iter().map(|e| &*e.action).collect::<Vec<_>>() as &[&str],
        &events.iter().map(|e| &*e.object).collect::<Vec<_>>() as &[&str],
        &events.iter().map(|e| name(e.verdict)).collect::<Vec<_>>() as &[&str],
        &events.iter().map(|e| e.detail.clone()).collect::<Vec<_>>(),
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
