//! Models and their versions. A tenant sees the catalogue's and its own.

use domain::models::{Manifest, Model, ModelVersion, Sha256Digest};
use domain::tenants::Slug;
use domain::{ModelId, TenantId, Timestamp, VersionId};
use sqlx::{query, query_as};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::error::exists;
use crate::pages::Ids;
use crate::{StoreError, Tx};

struct ModelRow {
    id: Uuid,
    tenant_id: Option<Uuid>,
    name: String,
    created_at: OffsetDateTime,
}

impl TryFrom<ModelRow> for Model {
    type Error = StoreError;
    fn try_from(row: ModelRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.id.into(),
            tenant_id: row.tenant_id.map(TenantId),
            name: row.name.parse().map_err(|_| StoreError::corrupt("models", "name", row.id))?,
            created_at: row.created_at.into(),
        })
    }
}

struct VersionRow {
    id: Uuid,
    model_id: Uuid,
    tenant_id: Option<Uuid>,
    model: String,
    digest: Vec<u8>,
    manifest: serde_json::Value,
    created_at: OffsetDateTime,
}

impl TryFrom<VersionRow> for ModelVersion {
    type Error = StoreError;
    fn try_from(row: VersionRow) -> Result<Self, StoreError> {
        let corrupt = |column| StoreError::corrupt("model_versions", column, row.id);
        Ok(Self {
            id: row.id.into(),
            model_id: row.model_id.into(),
            tenant_id: row.tenant_id.map(TenantId),
            model: row.model.parse().map_err(|_| StoreError::corrupt("models", "name", row.model_id))?,
            digest: Sha256Digest(row.digest.try_into().map_err(|_| corrupt("digest"))?),
            manifest: serde_json::from_value(row.manifest).map_err(|_| corrupt("manifest"))?,
            created_at: row.created_at.into(),
        })
    }
}

/// Creates a model, in the catalogue if `tenant` is `None`.
pub async fn create(
    tx: &mut impl Tx,
    tenant: Option<TenantId>,
    name: &Slug,
    now: Timestamp,
) -> Result<Model, StoreError> {
    let id = ModelId::generate();
    query!(
        "INSERT INTO models (id, tenant_id, name, created_at) VALUES ($1, $2, $3, $4)",
        id.0,
        tenant.map(|t| t.0),
        name.as_str(),
        OffsetDateTime::from(now),
    )
    .execute(tx.conn())
    .await
    .map_err(exists("a model of this name"))?;
    Ok(Model { id, tenant_id: tenant, name: name.clone(), created_at: now })
}

/// Up to `limit` models of the catalogue and of `tenant`, newest first, before
/// the one with id `before`.
pub async fn list(
    tx: &mut impl Tx,
    tenant: Option<TenantId>,
    before: Option<ModelId>,
    limit: u32,
) -> Result<Vec<Model>, StoreError> {
    query_as!(
        ModelRow,
        "SELECT id, tenant_id, name, created_at FROM models
         WHERE (tenant_id IS NULL OR tenant_id = $1) AND id <= $2
         ORDER BY id DESC LIMIT $3",
        tenant.map(|t| t.0),
        Ids::before(before.map(|id| id.0)).to,
        i64::from(limit),
    )
    .fetch_all(tx.conn())
    .await?
    .into_iter()
    .map(Model::try_from)
    .collect()
}

/// The model of that name: the tenant's own, else the catalogue's.
pub async fn by_name(tx: &mut impl Tx, tenant: Option<TenantId>, name: &Slug) -> Result<Model, StoreError> {
    query_as!(
        ModelRow,
        "SELECT id, tenant_id, name, created_at FROM models
         WHERE (tenant_id IS NULL OR tenant_id = $1) AND name = $2
         ORDER BY tenant_id NULLS LAST LIMIT 1",
        tenant.map(|t| t.0),
        name.as_str(),
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound("model"))?
    .try_into()
}

/// Registers a version, or finds the one with the same manifest. Returns it
/// and whether it is new.
pub async fn create_version(
    tx: &mut impl Tx,
    model: &Model,
    manifest: &Manifest,
    now: Timestamp,
) -> Result<(ModelVersion, bool), StoreError> {
    let (id, digest, tenant) = (VersionId::generate(), manifest.digest(), model.tenant_id.map(|t| t.0));
    let json = serde_json::to_value(manifest).expect("a manifest is plain data");
    let new = query!(
        "INSERT INTO model_versions (id, model_id, tenant_id, digest, manifest, created_at)
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (model_id, digest) DO NOTHING",
        id.0,
        model.id.0,
        tenant,
        digest.0.as_slice(),
        json,
        OffsetDateTime::from(now),
    )
    .execute(tx.conn())
    .await?
    .rows_affected()
        == 1;
    if new {
        for file in &manifest.files {
            let bytes = i64::try_from(file.bytes)
                .map_err(|_| StoreError::Conflict("a model file has fewer than 2^63 bytes"))?;
            query!(
                "INSERT INTO model_files (version_id, tenant_id, path, sha256, bytes) VALUES ($1, $2, $3, $4, $5)",
                id.0,
                tenant,
                file.path,
                file.sha256.0.as_slice(),
                bytes,
            )
            .execute(tx.conn())
            .await?;
        }
    }
    Ok((version(tx, model, Some(digest)).await?, new))
}

/// The version of a model with this digest, or its newest.
pub async fn version(
    tx: &mut impl Tx,
    model: &Model,
    digest: Option<Sha256Digest>,
) -> Result<ModelVersion, StoreError> {
    query_as!(
        VersionRow,
        "SELECT v.id, v.model_id, v.tenant_id, m.name AS model, v.digest, v.manifest, v.created_at
         FROM model_versions v JOIN models m ON m.id = v.model_id
         WHERE v.model_id = $1 AND ($2::bytea IS NULL OR v.digest = $2)
         ORDER BY v.id DESC LIMIT 1",
        model.id.0,
        digest.as_ref().map(|d| d.0.as_slice()),
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound("model version"))?
    .try_into()
}

/// Up to `limit` versions of a model, newest first, before the one with id
/// `before`.
pub async fn versions(
    tx: &mut impl Tx,
    model: &Model,
    before: Option<VersionId>,
    limit: u32,
) -> Result<Vec<ModelVersion>, StoreError> {
    query_as!(
        VersionRow,
        "SELECT v.id, v.model_id, v.tenant_id, m.name AS model, v.digest, v.manifest, v.created_at
         FROM model_versions v JOIN models m ON m.id = v.model_id
         WHERE v.model_id = $1 AND v.id <= $2
         ORDER BY v.id DESC LIMIT $3",
        model.id.0,
        Ids::before(before.map(|id| id.0)).to,
        i64::from(limit),
    )
    .fetch_all(tx.conn())
    .await?
    .into_iter()
    .map(ModelVersion::try_from)
    .collect()
}
