//! What a worker is to hold.

use domain::models::{Manifest, Sha256Digest};
use domain::workers::{DesiredPlacement, DesiredVersion};
use domain::{PlacementId, TenantId, VersionId, WorkerId};
use sqlx::types::Json;
use sqlx::{query, query_scalar};

use crate::workloads::{owner, repeatable_read};
use crate::{Store, StoreError, Tx};

/// The present epoch and everything the worker should hold, by placement.
pub async fn desired(store: &Store, worker: WorkerId) -> Result<(i64, Vec<DesiredPlacement>), StoreError> {
    let mut tx = repeatable_read(store).await?;
    let epoch = query_scalar!("SELECT epoch FROM leadership").fetch_one(tx.conn()).await?;
    let rows = query!(
        r#"SELECT p.id, p.generation, p.tenant_id, p.state, w.endpoint_id, w.job_id,
                  v.id AS version_id, v.digest, v.manifest AS "manifest: Json<Manifest>",
                  coalesce(sum(h.memory_bytes), 0)::bigint AS "memory_bytes!", coalesce(sum(h.milli), 0)::bigint AS "milli!"
           FROM placements p
           JOIN workloads w ON w.tenant_id = p.tenant_id AND w.id = p.workload_id
           JOIN model_versions v ON v.id = w.version_id
           LEFT JOIN placement_devices h ON h.placement_id = p.id
           WHERE p.worker_id = $1 AND p.ended_at IS NULL
           GROUP BY p.id, p.generation, p.tenant_id, p.state, w.endpoint_id, w.job_id, v.id, v.digest, v.manifest
           ORDER BY p.id"#,
        worker.0,
    )
    .fetch_all(tx.conn())
    .await?;
    tx.commit().await?;
    let placements = rows.into_iter().map(|row| {
        let digest = row
            .digest
            .try_into()
            .map_err(|_| StoreError::corrupt("model_versions", "digest", row.version_id))?;
        let corrupt = |column| move |_| StoreError::corrupt("placement_devices", column, row.id);
        Ok(DesiredPlacement {
            placement_id: PlacementId(row.id),
            generation: row.generation,
            tenant_id: TenantId(row.tenant_id),
            owner: owner(row.id, row.endpoint_id, row.job_id)?,
            version: DesiredVersion {
                id: VersionId(row.version_id),
                digest: Sha256Digest(digest),
                manifest: row.manifest.0,
            },
            memory_bytes: row.memory_bytes.try_into().map_err(corrupt("memory_bytes"))?,
            milli: row.milli.try_into().map_err(corrupt("milli"))?,
            drain: row.state == "draining",
        })
    });
    Ok((epoch, placements.collect::<Result<_, StoreError>>()?))
}

/// Size of a model file, if a version that has it is placed on the worker.
pub async fn placed_file_bytes(
    store: &Store,
    worker: WorkerId,
    sha256: Sha256Digest,
) -> Result<Option<u64>, StoreError> {
    let mut tx = store.system().await?;
    let bytes = query_scalar!(
        "SELECT f.bytes FROM model_files f WHERE f.sha256 = $2 AND f.version_id IN (
             SELECT w.version_id FROM placements p JOIN workloads w ON w.tenant_id = p.tenant_id AND w.id = p.workload_id
             WHERE p.worker_id = $1 AND p.ended_at IS NULL)
         LIMIT 1",
        worker.0,
        &sha256.0,
    )
    .fetch_optional(tx.conn())
    .await?;
    tx.commit().await?;
    bytes.map(|b| b.try_into().map_err(|_| StoreError::corrupt("model_files", "bytes", sha256))).transpose()
}
