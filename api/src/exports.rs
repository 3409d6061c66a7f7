//! The export of a tenant: a tar of its rows as NDJSON, its files, and a
//! manifest with the digest of each. What is secret is left out.

use std::fs::File as Spool;
use std::io::{BufWriter, Seek, Write};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use domain::FileId;
use domain::files::File;
use domain::models::Sha256Digest;
use domain::tenants::Slug;
use domain::{TenantId, Timestamp};
use futures_util::StreamExt;
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use store::files::Order;
use store::{StoreError, TenantTx};
use tokio::io::{AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio_util::io::ReaderStream;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::TenantScope;
use crate::problem::{ApiError, Result, chain};
use crate::state::App;

/// Bytes of an archive on their way to the reader.
const BUFFER_BYTES: usize = 256 << 10;
/// Files listed at once.
const PAGE_FILES: i64 = 500;
/// How long an export may take in all.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(6 * 3600);
/// Entries of a tar are padded to this.
const BLOCK_BYTES: u64 = 512;
const MANIFEST: &str = "manifest.json";

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(export_tenant))
}

/// Export a tenant: its rows, one NDJSON for each table, and its files, as tar.
///
/// The last entry, `manifest.json`, names the SHA-256 of every other. Passwords,
/// keys and sealed secrets are left out. For administrators of the tenant, and
/// for those of the platform while it is suspended; each export is recorded.
#[utoipa::path(get, path = "/api/v1/tenants/{tenant}/export", tag = "tenants",
    params(("tenant" = Slug, Path, description = "Short name")),
    responses((status = 200, content_type = "application/x-tar", body = String)))]
async fn export_tenant(scope: TenantScope, State(app): State<App>) -> Result<Response> {
    let tenant = scope.tenant;
    let now = app.clock.now();
    let (tables, files) = collect(&mut app.store.tenant(tenant).await?).await?;
    // Content leaves, so that it does is recorded before the first byte.
    let mut change = scope.change(&app).await?;
    change.record(format!("tenant:{tenant}"), json!({ "files": files.len() })).await?;
    let _: Response = change.done().await?;

    let (reader, writer) = tokio::io::duplex(BUFFER_BYTES);
    let task = app.clone();
    app.tasks.spawn(async move {
        let written = tokio::time::timeout(EXPORT_TIMEOUT, write(&task, tenant, now, tables, &files, writer));
        match written.await {
            Ok(Ok(())) => {}
            // Without its end the archive is seen to be cut off.
            Ok(Err(e)) => tracing::warn!(tenant.id = %tenant, error = chain(&e), "An export broke off"),
            Err(_) => tracing::warn!(tenant.id = %tenant, "An export took too long"),
        }
    });
    let headers = [
        (CONTENT_TYPE, "application/x-tar".to_owned()),
        (CONTENT_DISPOSITION, format!("attachment; filename=\"{tenant}.tar\"")),
    ];
    Ok((headers, Body::from_stream(ReaderStream::with_capacity(reader, 64 << 10))).into_response())
}

/// A table, written to disk, so that no transaction waits for a slow reader.
struct Table {
    name: String,
    content: Spool,
    bytes: u64,
    rows: u64,
    sha256: Sha256Digest,
}

/// Why an archive broke off.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("the database or the object store failed")]
    Store(#[from] StoreError),
    #[error("the archive could not be written")]
    Write(#[from] std::io::Error),
    #[error("the content of file {0} is not what it was")]
    Damaged(FileId),
}

impl From<ExportError> for ApiError {
    fn from(e: ExportError) -> Self {
        match e {
            ExportError::Store(e) => e.into(),
            e => Self::internal(e),
        }
    }
}

/// Every row of the tenant, of one moment, and the files that it has then.
async fn collect(tx: &mut TenantTx) -> Result<(Vec<Table>, Vec<File>), ExportError> {
    let mut tables = Vec::new();
    for name in store::exports::begin(tx).await? {
        let mut out = BufWriter::new(tempfile::tempfile()?);
        let (mut digest, mut bytes, mut rows) = (Sha256::new(), 0, 0);
        store::exports::rows(tx, &name, |row| {
            for part in [row.as_bytes(), b"\n"] {
                out.write_all(part)?;
                digest.update(part);
                bytes += part.len() as u64;
            }
            rows += 1;
            Ok::<_, ExportError>(())
        })
        .await?;
        let mut content = out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        content.rewind()?;
        let sha256 = Sha256Digest(digest.finalize().into());
        tables.push(Table { name, content, bytes, rows, sha256 });
    }
    let mut files: Vec<File> = Vec::new();
    loop {
        let after = files.last().map(|file| file.id);
        let page = store::files::list(tx, None, Order::Oldest, after, PAGE_FILES).await?;
        if page.is_empty() {
            return Ok((tables, files));
        }
        files.extend(page);
    }
}

/// What the manifest says of an entry.
#[derive(Serialize)]
struct Entry {
    path: String,
    bytes: u64,
    sha256: Sha256Digest,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<u64>,
}

async fn write(
    app: &App,
    tenant: TenantId,
    now: Timestamp,
    tables: Vec<Table>,
    files: &[File],
    mut out: DuplexStream,
) -> Result<(), ExportError> {
    let mut entries = Vec::new();
    for table in tables {
        let path = format!("tables/{}.ndjson", table.name);
        out.write_all(&header(&path, table.bytes, now)?).await?;
        tokio::io::copy(&mut tokio::fs::File::from_std(table.content), &mut out).await?;
        pad(&mut out, table.bytes).await?;
        entries.push(Entry { path, bytes: table.bytes, sha256: table.sha256, rows: Some(table.rows) });
    }
    for file in files {
        let path = format!("files/{}", file.id);
        let (bytes, content) = match app.objects.get(&File::object_key(tenant, file.id)).await {
            Ok(found) => found,
            // Deleted since the rows were read.
            Err(_) if gone(app, tenant, file.id).await? => continue,
            Err(e) => return Err(e.into()),
        };
        out.write_all(&header(&path, bytes, now)?).await?;
        let mut content = std::pin::pin!(content);
        let mut digest = Sha256::new();
        while let Some(part) = content.next().await {
            let part: Bytes = part?;
            digest.update(&part);
            out.write_all(&part).await?;
        }
        pad(&mut out, bytes).await?;
        let sha256 = Sha256Digest(digest.finalize().into());
        if sha256 != file.sha256 {
            return Err(ExportError::Damaged(file.id));
        }
        entries.push(Entry { path, bytes, sha256, rows: None });
    }
    let manifest = json!({ "tenant_id": tenant, "exported_at": now, "entries": entries });
    let manifest = serde_json::to_vec_pretty(&manifest).map_err(std::io::Error::other)?;
    let bytes = manifest.len() as u64;
    out.write_all(&header(MANIFEST, bytes, now)?).await?;
    out.write_all(&manifest).await?;
    pad(&mut out, bytes).await?;
    // Two empty blocks end an archive.
    out.write_all(&[0; 2 * BLOCK_BYTES as usize]).await?;
    Ok(out.shutdown().await?)
}

async fn gone(app: &App, tenant: TenantId, file: FileId) -> Result<bool, StoreError> {
    match store::files::get(&mut app.store.tenant(tenant).await?, file).await {
        Ok(_) => Ok(false),
        Err(StoreError::NotFound(_)) => Ok(true),
        Err(e) => Err(e),
    }
}

fn header(path: &str, bytes: u64, now: Timestamp) -> std::io::Result<[u8; BLOCK_BYTES as usize]> {
    let mut header = tar::Header::new_ustar();
    header.set_path(path)?;
    header.set_size(bytes);
    header.set_mode(0o600);
    header.set_mtime(now.since(Timestamp::UNIX_EPOCH).as_secs());
    header.set_cksum();
    Ok(*header.as_bytes())
}

async fn pad(out: &mut (impl AsyncWrite + Unpin), bytes: u64) -> std::io::Result<()> {
    let rest = usize::try_from(bytes.next_multiple_of(BLOCK_BYTES) - bytes).unwrap_or_default();
    out.write_all(&[0; BLOCK_BYTES as usize][..rest]).await
}
