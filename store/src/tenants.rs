//! Tenants.

use std::collections::BTreeMap;

use domain::projects::SANDBOX;
use domain::tenants::{Classification, Language, Retention, Slug, Tenant, TenantStatus};
use domain::{ProjectId, TenantId, Timestamp};
use sqlx::types::Json;
use sqlx::{query, query_as};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::error::exists;
use crate::{StoreError, SystemTx, Tx};

struct Row {
    id: Uuid,
    slug: String,
    name: String,
    names: Json<BTreeMap<Language, String>>,
    status: String,
    zones: Vec<String>,
    classification: String,
    retention: Json<Retention>,
    delete_protection: bool,
    revision: i64,
    created_at: OffsetDateTime,
}

impl TryFrom<Row> for Tenant {
    type Error = StoreError;
    fn try_from(row: Row) -> Result<Self, StoreError> {
        let corrupt = |column| StoreError::corrupt("tenants", column, row.id);
        Ok(Self {
            id: row.id.into(),
            slug: row.slug.parse().map_err(|_| corrupt("slug"))?,
            name: row.name,
            names: row.names.0,
            status: row.status.parse().map_err(|_| corrupt("status"))?,
            zones: row.zones,
            classification: row.classification.parse().map_err(|_| corrupt("classification"))?,
            retention: row.retention.0,
            delete_protection: row.delete_protection,
            revision: row.revision,
            created_at: row.created_at.into(),
        })
    }
}

/// A tenant to create.
#[derive(Clone, Debug)]
pub struct NewTenant<'a> {
    /// Short name.
    pub slug: &'a Slug,
    /// Name for people.
    pub name: &'a str,
    /// Its name in other languages.
    pub names: &'a BTreeMap<Language, String>,
    /// Where its work and data may be; empty for anywhere.
    pub zones: &'a [String],
    /// How secret its data may be.
    pub classification: Classification,
    /// How long its data is kept.
    pub retention: Retention,
    /// Whether it is protected from deletion.
    pub delete_protection: bool,
}

/// Creates a tenant with its sandbox project.
pub async fn create(
    tx: &mut SystemTx,
    new: NewTenant<'_>,
    now: Timestamp,
) -> Result<(Tenant, ProjectId), StoreError> {
    let (id, sandbox) = (TenantId::generate(), ProjectId::generate());
    let row = query_as!(
        Row,
        r#"INSERT INTO tenants (id, slug, name, names, zones, classification, retention, delete_protection, created_at)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
           RETURNING id, slug, name, names AS "names: _", status, zones, classification,
               retention AS "retention: _", delete_protection, revision, created_at"#,
        id.0,
        new.slug.as_str(),
        new.name,
        Json(new.names) as _,
        new.zones,
        new.classification.as_str(),
        Json(new.retention) as _,
        new.delete_protection,
        OffsetDateTime::from(now),
    )
    .fetch_one(tx.conn())
    .await
    .map_err(exists("a tenant of this name"))?;
    query!(
        "INSERT INTO projects (id, tenant_id, slug, name, created_at) VALUES ($1, $2, $3, 'Sandbox', $4)",
        sandbox.0,
        id.0,
        SANDBOX,
        OffsetDateTime::from(now),
    )
    .execute(tx.conn())
    .await?;
    Ok((row.try_into()?, sandbox))
}

/// What to change of a tenant; `None` leaves it as it is.
#[derive(Clone, Debug, Default)]
pub struct TenantChange<'a> {
    /// Name for people.
    pub name: Option<&'a str>,
    /// Names in these languages; `None` takes one away.
    pub names: Option<&'a BTreeMap<Language, Option<String>>>,
    /// Where its work and data may be.
    pub zones: Option<&'a [String]>,
    /// How secret its data may be.
    pub classification: Option<Classification>,
    /// How long files are kept.
    pub files_days: Option<Option<u32>>,
    /// How long results are kept.
    pub results_days: Option<Option<u32>>,
    /// Whether it is protected from deletion.
    pub delete_protection: Option<bool>,
    /// `Active` or `Suspended`.
    pub status: Option<TenantStatus>,
}

/// Changes a tenant, if it has the expected revision and is not being deleted.
/// Returns it as it was and as it is.
pub async fn update(
    tx: &mut SystemTx,
    id: TenantId,
    change: TenantChange<'_>,
    expected: Option<i64>,
) -> Result<(Tenant, Tenant), StoreError> {
    let before = lock(tx, id).await?;
    if expected.is_some_and(|revision| revision != before.revision) {
        return Err(StoreError::Stale);
    }
    if before.status == TenantStatus::Deleting {
        return Err(StoreError::Conflict("the tenant is being deleted"));
    }
    let mut names = before.names.clone();
    for (language, name) in change.names.into_iter().flatten() {
        match name {
            Some(name) => names.insert(language.clone(), name.clone()),
            None => names.remove(language),
        };
    }
    let retention = Retention {
        files_days: change.files_days.unwrap_or(before.retention.files_days),
        results_days: change.results_days.unwrap_or(before.retention.results_days),
    };
    let after = query_as!(
        Row,
        r#"UPDATE tenants SET name = $2, names = $3, zones = $4, classification = $5, retention = $6,
               delete_protection = $7, status = $8, revision = revision + 1
           WHERE id = $1
           RETURNING id, slug, name, names AS "names: _", status, zones, classification,
               retention AS "retention: _", delete_protection, revision, created_at"#,
        id.0,
        change.name.unwrap_or(&before.name),
        Json(names) as _,
        change.zones.unwrap_or(&before.zones),
        change.classification.unwrap_or(before.classification).as_str(),
        Json(retention) as _,
        change.delete_protection.unwrap_or(before.delete_protection),
        change.status.unwrap_or(before.status).as_str(),
    )
    .fetch_one(tx.conn())
    .await?;
    Ok((before, after.try_into()?))
}

/// The tenant, which nobody else changes until this transaction ends, and to
/// which no row is added meanwhile.
pub(crate) async fn lock(tx: &mut SystemTx, id: TenantId) -> Result<Tenant, StoreError> {
    query_as!(
        Row,
        r#"SELECT id, slug, name, names AS "names: _", status, zones, classification,
               retention AS "retention: _", delete_protection, revision, created_at
           FROM tenants WHERE id = $1 AND status <> 'deleted' FOR UPDATE"#,
        id.0
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound("tenant"))?
    .try_into()
}

/// The tenant of that short name; in a tenant's transaction, only itself.
pub async fn by_slug(tx: &mut impl Tx, slug: &Slug) -> Result<Tenant, StoreError> {
    query_as!(
        Row,
        r#"SELECT id, slug, name, names AS "names: _", status, zones, classification,
               retention AS "retention: _", delete_protection, revision, created_at
           FROM tenants WHERE slug = $1 AND status <> 'deleted'"#,
        slug.as_str()
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound("tenant"))?
    .try_into()
}

/// The tenant with that id; in a tenant's transaction, only itself.
pub async fn get(tx: &mut impl Tx, id: TenantId) -> Result<Tenant, StoreError> {
    query_as!(
        Row,
        r#"SELECT id, slug, name, names AS "names: _", status, zones, classification,
               retention AS "retention: _", delete_protection, revision, created_at
           FROM tenants WHERE id = $1 AND status <> 'deleted'"#,
        id.0
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound("tenant"))?
    .try_into()
}

/// Up to `limit` tenants by name, after the one named `after`; in a tenant's
/// transaction, only itself.
pub async fn list(tx: &mut impl Tx, after: Option<&str>, limit: u32) -> Result<Vec<Tenant>, StoreError> {
    query_as!(
        Row,
        r#"SELECT id, slug, name, names AS "names: _", status, zones, classification,
               retention AS "retention: _", delete_protection, revision, created_at
           FROM tenants WHERE status <> 'deleted' AND slug > $1 ORDER BY slug LIMIT $2"#,
        after.unwrap_or_default(),
        i64::from(limit),
    )
    .fetch_all(tx.conn())
    .await?
    .into_iter()
    .map(Tenant::try_from)
    .collect()
}
