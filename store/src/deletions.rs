//! Deleting tenants: the request, how far it is, and the erasing. What is to
//! be erased is read from the database's own catalogue.

use std::collections::{BTreeMap, BTreeSet};

use domain::certificates::SignedCertificate;
use domain::deletions::{DeletionState, TenantDeletion};
use domain::models::Sha256Digest;
use domain::outbox::Topic;
use domain::tenants::TenantStatus;
use domain::{EndpointId, FileId, JobId, TenantId, Timestamp};
use sqlx::types::Json;
use sqlx::{query, query_as, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{StoreError, SystemTx, Tx, outbox, tenants};

/// Tables whose rows outlive their tenant: the record of acts, and the proof
/// of the deletion.
pub const KEPT_TABLES: [&str; 2] = ["audit_events", "tenant_deletions"];

struct Row {
    tenant_id: Uuid,
    slug: String,
    requested_at: OffsetDateTime,
    requested_by: String,
    export: Option<Vec<u8>>,
    certificate: Option<String>,
    finished_at: Option<OffsetDateTime>,
    erased: Json<BTreeMap<String, u64>>,
    objects: i64,
    object_bytes: i64,
    waits_for: Option<String>,
}

impl TryFrom<Row> for TenantDeletion {
    type Error = StoreError;
    fn try_from(row: Row) -> Result<Self, StoreError> {
        let corrupt = |column| StoreError::corrupt("tenant_deletions", column, row.tenant_id);
        let digest = |bytes: Vec<u8>| bytes.try_into().map(Sha256Digest).map_err(|_| corrupt("export"));
        let certificate = row.certificate.as_deref().map(serde_json::from_str::<SignedCertificate>);
        Ok(Self {
            tenant_id: TenantId(row.tenant_id),
            slug: row.slug,
            requested_at: row.requested_at.into(),
            requested_by: row.requested_by,
            state: match (&row.finished_at, &row.waits_for) {
                (Some(_), _) => DeletionState::Finished,
                (None, Some(_)) => DeletionState::Stopping,
                (None, None) => DeletionState::Erasing,
            },
            waits_for: row.waits_for,
            export_sha256: row.export.map(digest).transpose()?,
            rows: row.erased.0,
            objects: row.objects.unsigned_abs(),
            object_bytes: row.object_bytes.unsigned_abs(),
            finished_at: row.finished_at.map(Timestamp::from),
            certificate: certificate.transpose().map_err(|_| corrupt("certificate"))?,
        })
    }
}

/// Begins to delete a tenant. Asked again while it is being deleted, says so.
/// Returns whether this call began it.
pub async fn request(
    tx: &mut SystemTx,
    id: TenantId,
    by: &str,
    export: Option<Sha256Digest>,
    now: Timestamp,
) -> Result<(TenantDeletion, bool), StoreError> {
    let tenant = tenants::lock(tx, id).await?;
    if tenant.status == TenantStatus::Deleting {
        return Ok((get(tx, id).await?, false));
    }
    if tenant.delete_protection {
        return Err(StoreError::Conflict(
            "the tenant is protected from deletion; set delete_protection to false first",
        ));
    }
    query!("UPDATE tenants SET status = 'deleting', revision = revision + 1 WHERE id = $1", id.0)
        .execute(tx.conn())
        .await?;
    query!(
        "INSERT INTO tenant_deletions (tenant_id, slug, requested_at, requested_by, export, waits_for)
         VALUES ($1, $2, $3, $4, $5, 'the scheduler')",
        id.0,
        tenant.slug.as_str(),
        OffsetDateTime::from(now),
        by,
        export.as_ref().map(|digest| &digest.0[..]),
    )
    .execute(tx.conn())
    .await?;
    Ok((get(tx, id).await?, true))
}

/// One deletion.
pub async fn get(tx: &mut SystemTx, id: TenantId) -> Result<TenantDeletion, StoreError> {
    query_as!(
        Row,
        r#"SELECT tenant_id, slug, requested_at, requested_by, export, certificate, finished_at,
               erased AS "erased: _", objects, object_bytes, waits_for
           FROM tenant_deletions WHERE tenant_id = $1"#,
        id.0,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound("tenant deletion"))?
    .try_into()
}

/// Up to `limit` deletions, those of the newest tenants first, before that of `before`.
pub async fn list(
    tx: &mut SystemTx,
    before: Option<TenantId>,
    limit: u32,
) -> Result<Vec<TenantDeletion>, StoreError> {
    query_as!(
        Row,
        r#"SELECT tenant_id, slug, requested_at, requested_by, export, certificate, finished_at,
               erased AS "erased: _", objects, object_bytes, waits_for
           FROM tenant_deletions WHERE $1::uuid IS NULL OR tenant_id < $1 ORDER BY tenant_id DESC LIMIT $2"#,
        before.map(|id| id.0),
        i64::from(limit),
    )
    .fetch_all(tx.conn())
    .await?
    .into_iter()
    .map(TenantDeletion::try_from)
    .collect()
}

/// Deletions that go on, oldest first.
pub async fn open(tx: &mut SystemTx, limit: i64) -> Result<Vec<TenantId>, StoreError> {
    let ids = query_scalar!(
        "SELECT tenant_id FROM tenant_deletions WHERE finished_at IS NULL ORDER BY requested_at LIMIT $1",
        limit
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(ids.into_iter().map(TenantId).collect())
}

/// What was told to stop, and what has not ended yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stopping {
    /// Endpoints deleted now.
    pub endpoints: usize,
    /// Jobs cancelled now.
    pub jobs: usize,
    /// Placements that have not ended.
    pub live_placements: i64,
    /// Jobs that have not ended.
    pub open_jobs: i64,
}

/// Tells a tenant's work to stop.
pub async fn stop(tx: &mut SystemTx, id: TenantId, now: Timestamp) -> Result<Stopping, StoreError> {
    let at = OffsetDateTime::from(now);
    let endpoints = query_scalar!(
        "UPDATE endpoints SET deleted_at = $2 WHERE tenant_id = $1 AND deleted_at IS NULL RETURNING id",
        id.0,
        at,
    )
    .fetch_all(tx.conn())
    .await?;
    let jobs = query_scalar!(
        "UPDATE jobs SET state = 'cancelling', cancelling_at = $2 WHERE tenant_id = $1 AND state = 'in_progress'
         RETURNING id",
        id.0,
        at,
    )
    .fetch_all(tx.conn())
    .await?;
    for endpoint in &endpoints {
        outbox::publish(tx, Topic::Desired, EndpointId(*endpoint), now).await?;
    }
    for job in &jobs {
        outbox::publish(tx, Topic::Desired, JobId(*job), now).await?;
    }
    let left = query!(
        r#"SELECT (SELECT count(*) FROM placements WHERE tenant_id = $1 AND ended_at IS NULL) AS "placements!",
                  (SELECT count(*) FROM jobs WHERE tenant_id = $1 AND ended_at IS NULL) AS "jobs!""#,
        id.0,
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(Stopping {
        endpoints: endpoints.len(),
        jobs: jobs.len(),
        live_placements: left.placements,
        open_jobs: left.jobs,
    })
}

/// Says what the deletion waits for, or that it erases.
pub async fn note(tx: &mut SystemTx, id: TenantId, waits_for: Option<&str>) -> Result<(), StoreError> {
    query!(
        "UPDATE tenant_deletions SET waits_for = $2
         WHERE tenant_id = $1 AND finished_at IS NULL AND waits_for IS DISTINCT FROM $2",
        id.0,
        waits_for,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// The tables to erase, each before those that its rows refer to.
pub async fn erasure_order(tx: &mut SystemTx) -> Result<Vec<String>, StoreError> {
    let rows = query!(r#"SELECT name AS "name!", parents AS "parents!" FROM tenant_tables()"#)
        .fetch_all(tx.conn())
        .await?;
    let tables = rows.into_iter().filter(|row| !KEPT_TABLES.contains(&row.name.as_str()));
    in_order(tables.map(|row| (row.name, row.parents)).collect())
}

fn in_order(mut parents: BTreeMap<String, Vec<String>>) -> Result<Vec<String>, StoreError> {
    let mut order = Vec::new();
    while !parents.is_empty() {
        let needed: BTreeSet<&String> = parents.values().flatten().collect();
        let free: Vec<String> = parents.keys().filter(|name| !needed.contains(name)).cloned().collect();
        if free.is_empty() {
            return Err(StoreError::Conflict("tables refer to each other in a circle"));
        }
        for name in free {
            parents.remove(&name);
            order.push(name);
        }
    }
    Ok(order)
}

/// Erases up to `most` rows of a table and counts them; returns how many.
pub async fn erase(tx: &mut SystemTx, id: TenantId, table: &str, most: i64) -> Result<u64, StoreError> {
    let erased = query_scalar!(r#"SELECT erase_rows($1, $2, $3) AS "erased!""#, table, id.0, most)
        .fetch_one(tx.conn())
        .await?
        .unsigned_abs();
    count(tx, id, table, erased).await?;
    Ok(erased)
}

/// Erases the sessions of a tenant's people, whose rows name no tenant.
pub async fn erase_sessions(tx: &mut SystemTx, id: TenantId) -> Result<u64, StoreError> {
    let erased = query!(
        "DELETE FROM sessions WHERE principal_id IN (SELECT id FROM principals WHERE tenant_id = $1)",
        id.0
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    count(tx, id, "sessions", erased).await?;
    Ok(erased)
}

async fn count(tx: &mut SystemTx, id: TenantId, table: &str, rows: u64) -> Result<(), StoreError> {
    if rows == 0 {
        return Ok(());
    }
    query!(
        "UPDATE tenant_deletions
         SET erased = jsonb_set(erased, ARRAY[$2], to_jsonb(coalesce((erased ->> $2)::bigint, 0) + $3::bigint))
         WHERE tenant_id = $1",
        id.0,
        table,
        rows.cast_signed(),
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

async fn count_objects(tx: &mut SystemTx, id: TenantId, objects: i64, bytes: i64) -> Result<(), StoreError> {
    query!(
        "UPDATE tenant_deletions SET objects = objects + $2, object_bytes = object_bytes + $3 WHERE tenant_id = $1",
        id.0,
        objects,
        bytes,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Files whose content is to be erased before their rows.
pub async fn files(tx: &mut SystemTx, id: TenantId, limit: i64) -> Result<Vec<FileId>, StoreError> {
    let ids = query_scalar!("SELECT id FROM files WHERE tenant_id = $1 LIMIT $2", id.0, limit)
        .fetch_all(tx.conn())
        .await?;
    Ok(ids.into_iter().map(FileId).collect())
}

/// Erases the rows of files whose content is erased. An object is counted
/// with its row, so each is counted once.
pub async fn erase_files(tx: &mut SystemTx, id: TenantId, files: &[FileId]) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = files.iter().map(|file| file.0).collect();
    let rows = query!(
        "DELETE FROM files WHERE tenant_id = $1 AND id = ANY($2) RETURNING bytes, deleted_at",
        id.0,
        &ids
    )
    .fetch_all(tx.conn())
    .await?;
    let kept: Vec<i64> = rows.iter().filter(|row| row.deleted_at.is_none()).map(|row| row.bytes).collect();
    count(tx, id, "files", rows.len() as u64).await?;
    count_objects(tx, id, i64::try_from(kept.len()).unwrap_or(i64::MAX), kept.iter().sum()).await
}

/// The digest of a model file of the tenant that is to be erased next.
pub async fn model_blob(tx: &mut SystemTx, id: TenantId) -> Result<Option<Sha256Digest>, StoreError> {
    let digest = query_scalar!("SELECT sha256 FROM model_files WHERE tenant_id = $1 LIMIT 1", id.0)
        .fetch_optional(tx.conn())
        .await?;
    let corrupt = |_| StoreError::corrupt("model_files", "sha256", id);
    digest.map(|bytes| bytes.try_into().map(Sha256Digest).map_err(corrupt)).transpose()
}

/// Erases the tenant's rows of model files with that digest. Returns whether
/// nobody else uses the content, which the caller then erases before the
/// commit: until then, whoever records the same content waits.
pub async fn erase_model_blob(
    tx: &mut SystemTx,
    id: TenantId,
    digest: Sha256Digest,
) -> Result<bool, StoreError> {
    query!("SELECT pg_advisory_xact_lock($1)", blob_lock(digest)).execute(tx.conn()).await?;
    let rows = query!(
        "DELETE FROM model_files WHERE tenant_id = $1 AND sha256 = $2 RETURNING bytes",
        id.0,
        &digest.0[..]
    )
    .fetch_all(tx.conn())
    .await?;
    count(tx, id, "model_files", rows.len() as u64).await?;
    let used = query_scalar!(
        r#"SELECT EXISTS (SELECT FROM model_files WHERE sha256 = $1) AS "used!""#,
        &digest.0[..]
    )
    .fetch_one(tx.conn())
    .await?;
    if let (false, Some(row)) = (used, rows.first()) {
        count_objects(tx, id, 1, row.bytes).await?;
    }
    Ok(!used)
}

/// Keeps the content of a model file from being erased until this transaction
/// ends. The caller looks whether it is still there, then records it.
pub async fn hold_model_blob(tx: &mut impl Tx, digest: Sha256Digest) -> Result<(), StoreError> {
    query!("SELECT pg_advisory_xact_lock_shared($1)", blob_lock(digest)).execute(tx.conn()).await?;
    Ok(())
}

/// One lock for each content; that two share one by chance does no harm.
fn blob_lock(digest: Sha256Digest) -> i64 {
    let [a, b, c, d, e, f, g, h, ..] = digest.0;
    i64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// The last step: what came in while the others ran goes too, and only the
/// tombstone is left. `certify` makes the certificate of what was erased.
pub async fn finish(
    tx: &mut SystemTx,
    id: TenantId,
    now: Timestamp,
    certify: impl FnOnce(&TenantDeletion) -> SignedCertificate,
) -> Result<TenantDeletion, StoreError> {
    let tenant = tenants::lock(tx, id).await?;
    if tenant.status != TenantStatus::Deleting {
        return Err(StoreError::Conflict("the tenant is not being deleted"));
    }
    for table in erasure_order(tx).await? {
        if table == "principals" {
            erase_sessions(tx, id).await?;
        }
        erase(tx, id, &table, i64::MAX).await?;
    }
    query!(
        "UPDATE tenants SET status = 'deleted', deleted_at = $2, name = slug, names = '{}', zones = '{}',
             retention = '{}', revision = revision + 1
         WHERE id = $1",
        id.0,
        OffsetDateTime::from(now),
    )
    .execute(tx.conn())
    .await?;
    let certificate = certify(&get(tx, id).await?).text();
    let finished = query!(
        "UPDATE tenant_deletions SET certificate = $2, finished_at = $3, waits_for = NULL
         WHERE tenant_id = $1 AND finished_at IS NULL",
        id.0,
        certificate,
        OffsetDateTime::from(now),
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    if finished != 1 {
        return Err(StoreError::Conflict("the deletion has ended already"));
    }
    get(tx, id).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_refers_goes_before_what_it_refers_to() {
        let of = |parents: &[&str]| parents.iter().map(ToString::to_string).collect::<Vec<_>>();
        let tables =
            [("jobs", of(&["files", "projects"])), ("files", of(&["projects"])), ("projects", of(&[]))];
        let order = in_order(tables.map(|(name, parents)| (name.to_owned(), parents)).into()).unwrap();
        assert_eq!(order, ["jobs", "files", "projects"]);
        let circle = [("a", of(&["b"])), ("b", of(&["a"]))].map(|(name, p)| (name.to_owned(), p));
        assert!(in_order(circle.into()).is_err());
    }
}
