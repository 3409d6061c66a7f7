//! Files of projects. Their content is in the object store.

use domain::files::{File, FilePurpose};
use domain::models::Sha256Digest;
use domain::{FileId, ProjectId, TenantId, Timestamp};
use sqlx::query_as;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::error::exists;
use crate::pages::{FIRST_TIME, LAST_TIME};
use crate::{StoreError, TenantTx, Tx};

struct Row {
    id: Uuid,
    tenant_id: Uuid,
    project_id: Uuid,
    purpose: String,
    filename: String,
    bytes: i64,
    sha256: Vec<u8>,
    created_at: OffsetDateTime,
}

impl TryFrom<Row> for File {
    type Error = StoreError;
    fn try_from(row: Row) -> Result<Self, StoreError> {
        let corrupt = |column| StoreError::corrupt("files", column, row.id);
        Ok(Self {
            id: FileId(row.id),
            tenant_id: TenantId(row.tenant_id),
            project_id: ProjectId(row.project_id),
            purpose: row.purpose.parse().map_err(|_| corrupt("purpose"))?,
            bytes: u64::try_from(row.bytes).map_err(|_| corrupt("bytes"))?,
            sha256: Sha256Digest(row.sha256.as_slice().try_into().map_err(|_| corrupt("sha256"))?),
            filename: row.filename,
            created_at: row.created_at.into(),
        })
    }
}

/// Which way a list of files goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Newest first.
    #[default]
    Newest,
    /// Oldest first.
    Oldest,
}

/// Records a file whose content is stored.
pub async fn create(tx: &mut impl Tx, file: &File) -> Result<(), StoreError> {
    let bytes =
        i64::try_from(file.bytes).map_err(|_| StoreError::Conflict("the file is too large to record"))?;
    sqlx::query!(
        "INSERT INTO files (id, tenant_id, project_id, purpose, filename, bytes, sha256, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        file.id.0,
        file.tenant_id.0,
        file.project_id.0,
        file.purpose.as_str(),
        file.filename,
        bytes,
        &file.sha256.0[..],
        OffsetDateTime::from(file.created_at),
    )
    .execute(tx.conn())
    .await
    .map_err(exists("file"))?;
    Ok(())
}

/// A file that was not deleted.
pub async fn get(tx: &mut TenantTx, id: FileId) -> Result<File, StoreError> {
    query_as!(
        Row,
        "SELECT id, tenant_id, project_id, purpose, filename, bytes, sha256, created_at
         FROM files WHERE id = $1 AND deleted_at IS NULL",
        id.0,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound("file"))?
    .try_into()
}

/// Files by time of creation, after the file `after`, of one purpose if given.
pub async fn list(
    tx: &mut TenantTx,
    purpose: Option<FilePurpose>,
    order: Order,
    after: Option<FileId>,
    limit: i64,
) -> Result<Vec<File>, StoreError> {
    // Ids of assembled files do not sort by time, so the time is looked up;
    // also of a file that was deleted while somebody turned the pages.
    let after = match after {
        None => None,
        Some(id) => {
            let at = sqlx::query_scalar!("SELECT created_at FROM files WHERE id = $1", id.0)
                .fetch_optional(tx.conn())
                .await?
                .ok_or(StoreError::NotFound("file"))?;
            Some((at, id.0))
        }
    };
    let purpose = purpose.map(FilePurpose::as_str);
    let rows = match order {
        Order::Newest => {
            let (at, id) = after.unwrap_or((LAST_TIME, Uuid::max()));
            query_as!(
                Row,
                "SELECT id, tenant_id, project_id, purpose, filename, bytes, sha256, created_at FROM files
                 WHERE deleted_at IS NULL AND ($1::text IS NULL OR purpose = $1)
                   AND (created_at, id) < ($2, $3)
                 ORDER BY created_at DESC, id DESC LIMIT $4",
                purpose,
                at,
                id,
                limit,
            )
            .fetch_all(tx.conn())
            .await?
        }
        Order::Oldest => {
            let (at, id) = after.unwrap_or((FIRST_TIME, Uuid::nil()));
            query_as!(
                Row,
                "SELECT id, tenant_id, project_id, purpose, filename, bytes, sha256, created_at FROM files
                 WHERE deleted_at IS NULL AND ($1::text IS NULL OR purpose = $1)
                   AND (created_at, id) > ($2, $3)
                 ORDER BY created_at, id LIMIT $4",
                purpose,
                at,
                id,
                limit,
            )
            .fetch_all(tx.conn())
            .await?
        }
    };
    rows.into_iter().map(TryInto::try_into).collect()
}

/// Marks a file deleted, unless an open job reads it. The caller forgets the
/// content after the commit.
pub async fn delete(tx: &mut TenantTx, id: FileId, now: Timestamp) -> Result<File, StoreError> {
    let file: File = query_as!(
        Row,
        "SELECT id, tenant_id, project_id, purpose, filename, bytes, sha256, created_at
         FROM files WHERE id = $1 AND deleted_at IS NULL FOR UPDATE",
        id.0,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound("file"))?
    .try_into()?;
    // A job being created holds the file's row; whatever it was, it is visible now.
    let used = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM jobs WHERE input_file_id = $1 AND ended_at IS NULL) AS "used!""#,
        id.0,
    )
    .fetch_one(tx.conn())
    .await?;
    if used {
        return Err(StoreError::Conflict("a job that has not ended reads the file; cancel the job first"));
    }
    sqlx::query!("UPDATE files SET deleted_at = $2 WHERE id = $1", id.0, OffsetDateTime::from(now))
        .execute(tx.conn())
        .await?;
    Ok(file)
}
