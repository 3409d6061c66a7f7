//! The end of tenants: their work stops, their objects and rows go, and a
//! certificate says what went. Each step is small, looks at what is there and
//! counts what it erases in the transaction that erases it, so a scheduler can
//! be killed anywhere: the next does the rest.

use domain::certificates::{Certificate, Kept, SigningKey};
use domain::deletions::TenantDeletion;
use domain::files::File;
use domain::outbox::Topic;
use domain::{Clock, TenantId};
use serde_json::json;
use store::deletions::Stopping;
use store::leadership::{Term, fence};
use store::objects::Objects;
use store::{Store, StoreError, SystemTx, audit, deletions, outbox, quotas};
use tracing::{info, warn};

/// Deletions that one turn takes on.
const BATCH: i64 = 8;
/// Rows erased in one transaction.
const ROWS: i64 = 5_000;
/// Objects erased between two transactions.
const OBJECTS: i64 = 200;

/// What one turn works with.
#[derive(Clone, Copy)]
struct At<'a> {
    store: &'a Store,
    objects: &'a Objects,
    clock: &'a Clock,
    key: &'a SigningKey,
    term: Term,
}

/// One turn: every deletion goes as far as it can. One that cannot go on
/// keeps no other from its end.
pub async fn tick(
    store: &Store,
    objects: &Objects,
    clock: &Clock,
    key: &SigningKey,
    term: Term,
) -> Result<(), StoreError> {
    let at = At { store, objects, clock, key, term };
    let open = deletions::open(&mut store.system().await?, BATCH).await?;
    let mut first_error = None;
    for tenant in open {
        match delete(at, tenant).await {
            Ok(()) => {}
            Err(StoreError::NotLeader) => return Err(StoreError::NotLeader),
            Err(e) => {
                warn!(tenant.id = %tenant, error = &e as &dyn std::error::Error, "Deleting tenant {tenant} failed; trying again");
                first_error.get_or_insert(e);
            }
        }
    }
    first_error.map_or(Ok(()), Err)
}

async fn delete(at: At<'_>, tenant: TenantId) -> Result<(), StoreError> {
    let stopping = stop(at, tenant).await?;
    if stopping.live_placements > 0 || stopping.open_jobs > 0 {
        return Ok(());
    }
    let order = deletions::erasure_order(&mut at.store.system().await?).await?;
    for table in order {
        match table.as_str() {
            "files" => erase_files(at, tenant).await?,
            "model_files" => erase_model_files(at, tenant).await?,
            "principals" => {
                let mut tx = at.fenced().await?;
                deletions::erase_sessions(&mut tx, tenant).await?;
                tx.commit().await?;
                erase_rows(at, tenant, &table).await?;
            }
            table => erase_rows(at, tenant, table).await?,
        }
    }
    sweep(at, tenant).await?;
    finish(at, tenant).await
}

impl At<'_> {
    async fn fenced(self) -> Result<SystemTx, StoreError> {
        let mut tx = self.store.system().await?;
        fence(&mut tx, self.term.epoch).await?;
        Ok(tx)
    }

    fn actor(self) -> String {
        format!("scheduler:{}", self.term.epoch)
    }
}

fn counted(n: i64, what: &str) -> String {
    format!("{n} {what}{} to end", if n == 1 { "" } else { "s" })
}

/// Tells work to stop, and notes what has not yet.
async fn stop(at: At<'_>, tenant: TenantId) -> Result<Stopping, StoreError> {
    let now = at.clock.now();
    let mut tx = at.fenced().await?;
    let stopping = deletions::stop(&mut tx, tenant, now).await?;
    let mut waits_for = Vec::new();
    if stopping.live_placements > 0 {
        waits_for.push(counted(stopping.live_placements, "placement"));
    }
    if stopping.open_jobs > 0 {
        waits_for.push(counted(stopping.open_jobs, "job"));
    }
    let waits_for = (!waits_for.is_empty()).then(|| waits_for.join(" and "));
    deletions::note(&mut tx, tenant, waits_for.as_deref()).await?;
    if stopping.endpoints > 0 || stopping.jobs > 0 {
        let mut event =
            audit::allowed(Some(tenant), now, at.actor(), "stop_tenant", format!("tenant:{tenant}"));
        event.detail = json!({ "endpoints": stopping.endpoints, "jobs": stopping.jobs });
        audit::record(&mut tx, &event).await?;
    }
    tx.commit().await?;
    Ok(stopping)
}

async fn erase_rows(at: At<'_>, tenant: TenantId, table: &str) -> Result<(), StoreError> {
    loop {
        let mut tx = at.fenced().await?;
        let erased = deletions::erase(&mut tx, tenant, table, ROWS).await?;
        tx.commit().await?;
        if erased == 0 {
            return Ok(());
        }
    }
}

/// Content first: a row without content is erased again, content without a row
/// would never be found.
async fn erase_files(at: At<'_>, tenant: TenantId) -> Result<(), StoreError> {
    loop {
        let files = deletions::files(&mut at.store.system().await?, tenant, OBJECTS).await?;
        if files.is_empty() {
            return Ok(());
        }
        for file in &files {
            at.objects.delete(&File::object_key(tenant, *file)).await?;
        }
        let mut tx = at.fenced().await?;
        deletions::erase_files(&mut tx, tenant, &files).await?;
        tx.commit().await?;
    }
}

async fn erase_model_files(at: At<'_>, tenant: TenantId) -> Result<(), StoreError> {
    loop {
        let mut tx = at.fenced().await?;
        let Some(digest) = deletions::model_blob(&mut tx, tenant).await? else { return Ok(()) };
        if deletions::erase_model_blob(&mut tx, tenant, digest).await? {
            at.objects.delete(&format!("models/sha256/{digest}")).await?;
        }
        tx.commit().await?;
    }
}

/// Content that lost its row before, e.g. to a process that was killed.
async fn sweep(at: At<'_>, tenant: TenantId) -> Result<(), StoreError> {
    let folder = format!("files/{tenant}");
    loop {
        let left = at.objects.list(&folder, usize::try_from(OBJECTS).unwrap_or(usize::MAX)).await?;
        if left.is_empty() {
            return Ok(());
        }
        for key in left {
            at.objects.delete(&key).await?;
        }
    }
}

/// Leaves the tombstone and the certificate.
async fn finish(at: At<'_>, tenant: TenantId) -> Result<(), StoreError> {
    let now = at.clock.now();
    let mut tx = at.fenced().await?;
    let certify = |deletion: &TenantDeletion| {
        at.key.sign(Certificate {
            kind: String::new(),
            tenant_id: tenant,
            slug: deletion.slug.clone(),
            requested_at: deletion.requested_at,
            requested_by: deletion.requested_by.clone(),
            finished_at: now,
            rows: deletion.rows.clone(),
            objects: deletion.objects,
            object_bytes: deletion.object_bytes,
            export_sha256: deletion.export_sha256,
            kept: kept(),
            public_key: String::new(),
        })
    };
    let deletion = match deletions::finish(&mut tx, tenant, now, certify).await {
        Ok(deletion) => deletion,
        // Somebody else was faster.
        Err(StoreError::Conflict(_) | StoreError::NotFound(_)) => return Ok(()),
        Err(e) => return Err(e),
    };
    let mut event =
        audit::allowed(Some(tenant), now, at.actor(), "finish_tenant_deletion", format!("tenant:{tenant}"));
    event.detail =
        json!({ "rows": deletion.rows, "objects": deletion.objects, "object_bytes": deletion.object_bytes });
    audit::record(&mut tx, &event).await?;
    // What it lent is gone from its cohort.
    quotas::settle(&mut tx).await?;
    outbox::publish(&mut tx, Topic::Tenants, tenant, now).await?;
    tx.commit().await?;
    info!(tenant.id = %tenant, "Tenant {tenant} is deleted; its certificate is signed");
    Ok(())
}

fn kept() -> Vec<Kept> {
    let kept = |what: &str, why: &str| Kept { what: what.to_owned(), why: why.to_owned() };
    vec![
        kept(
            "audit_events",
            "the record of acts, without content, is kept for at least six months as the law on artificial \
             intelligence asks",
        ),
        kept("tenants", "the tombstone: identifier and short name, so that audit events keep their owner"),
        kept("tenant_deletions", "this certificate"),
    ]
}
