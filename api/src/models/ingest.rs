//! Taking in a model file: recognised by its content, hashed on the way to the
//! object store, kept under its digest or not at all.

use std::path::{Path, PathBuf};

use axum::body::{Body, Bytes};
use domain::models::Sha256Digest;
use futures_util::{Stream, StreamExt, stream};
use store::objects::{PutError, Stored};
use uuid::Uuid;

use crate::extract::stream_error;
use crate::problem::{ApiError, Result};
use crate::state::App;

/// What a GGUF file begins with.
const GGUF_MAGIC: &[u8; 4] = b"GGUF";
/// Longest name of a file in a version.
const MAX_FILENAME_BYTES: usize = 128;
/// Bytes read at once from a local file.
pub(super) const READ_BYTES: usize = 1 << 20;

/// A plain name: one segment, nothing hidden, nothing to escape.
pub(super) fn check_filename(name: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > MAX_FILENAME_BYTES || name.starts_with('.') || !name.bytes().all(plain)
    {
        return Err(ApiError::field(
            "filename",
            format!("must have 1 to {MAX_FILENAME_BYTES} of a-z, A-Z, 0-9, ., _ and -, and not begin with ."),
        ));
    }
    Ok(())
}

/// The real path of a file below one of the directories that may be imported
/// from. Links are followed first, so that none leads out.
pub(super) async fn importable(path: String, dirs: &[PathBuf]) -> Result<PathBuf> {
    let dirs = dirs.to_vec();
    let found = tokio::task::spawn_blocking(move || resolve(Path::new(&path), &dirs)).await;
    found.map_err(ApiError::internal)?
}

fn resolve(path: &Path, dirs: &[PathBuf]) -> Result<PathBuf> {
    // One answer for what is outside and what is not there: it tells nothing
    // about the rest of the disk.
    let refused = || {
        ApiError::field("path", "is no file below a directory that the setting api.model_import_dirs allows")
    };
    if !path.is_absolute() {
        return Err(ApiError::field("path", "must be absolute"));
    }
    let real = path.canonicalize().map_err(|_| refused())?;
    let allowed = dirs.iter().filter_map(|dir| dir.canonicalize().ok()).any(|dir| real.starts_with(dir));
    if !allowed || !real.is_file() {
        return Err(refused());
    }
    Ok(real)
}

/// Streams a GGUF file into the object store, under its digest.
pub(super) async fn store(app: &App, body: Body, expected: Option<Sha256Digest>) -> Result<Stored> {
    let limit = app.settings.max_model_file_bytes;
    let body = recognised(body.into_data_stream()).await?;
    let temporary = format!("uploads/{}", Uuid::now_v7());
    let stored = app.objects.put(&temporary, Box::pin(body), limit).await.map_err(|e| match e {
        PutError::TooLarge { limit } => ApiError::TooLarge { limit },
        PutError::Interrupted(e) => stream_error(e.as_ref()),
        e @ PutError::Store(_) => storage_error(e),
    })?;
    let kept = keep(app, &temporary, stored, expected).await;
    if kept.is_err() {
        app.objects.delete(&temporary).await?;
    }
    kept.map(|()| stored)
}

async fn keep(app: &App, temporary: &str, stored: Stored, expected: Option<Sha256Digest>) -> Result<()> {
    if let Some(expected) = expected.filter(|expected| *expected != stored.sha256) {
        return Err(ApiError::field(
            "sha256",
            format!("the content has digest {}, not {expected}; nothing was kept", stored.sha256),
        ));
    }
    // Replacing a copy that is there already also heals one that was damaged.
    Ok(app.objects.rename(temporary, &object_key(stored.sha256)).await?)
}

/// Where the content of that digest is.
pub(super) fn object_key(digest: Sha256Digest) -> String {
    format!("models/sha256/{digest}")
}

/// A full disk is the operator's to know and the caller's to be told.
fn storage_error(e: PutError) -> ApiError {
    if crate::problem::chain(&e).contains("No space left") {
        tracing::error!("No space is left for model files");
        return ApiError::Unavailable("no space is left for model files; ask the operator".to_owned());
    }
    ApiError::internal(e)
}

/// The same body, if it begins like a GGUF file; names do not count.
async fn recognised<E>(
    mut body: impl Stream<Item = Result<Bytes, E>> + Unpin + Send + 'static,
) -> Result<impl Stream<Item = Result<Bytes, E>> + Send + 'static>
where
    E: std::error::Error + Send + 'static,
{
    let mut head = Vec::new();
    let mut begin = Vec::new();
    while head.len() < GGUF_MAGIC.len() {
        let Some(part) = body.next().await else { break };
        let part = part.map_err(|e| stream_error(&e))?;
        head.extend_from_slice(&part[..part.len().min(GGUF_MAGIC.len())]);
        begin.push(Ok(part));
    }
    if head.starts_with(GGUF_MAGIC) {
        return Ok(stream::iter(begin).chain(body));
    }
    let what = match head.as_slice() {
        [] => "is empty",
        [b'P', b'K', 3, 4, ..] => "is a zip archive (as PyTorch writes), which may hold code",
        [0x80, 2..=5, ..] => "is a Python pickle, which may hold code",
        _ => "does not begin like a GGUF file",
    };
    Err(ApiError::Invalid(format!("the file {what}; only GGUF files are taken")))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn recognise(parts: &[&'static [u8]]) -> Result<Vec<u8>> {
        let parts: Vec<_> = parts.iter().map(|p| Ok::<_, std::io::Error>(Bytes::from_static(p))).collect();
        let body = recognised(stream::iter(parts)).await?;
        Ok(body.map(Result::unwrap).collect::<Vec<_>>().await.concat())
    }

    #[tokio::test]
    async fn files_are_recognised_by_content() {
        assert_eq!(recognise(&[b"GG", b"U", b"F\x03rest", b" of it"]).await.unwrap(), b"GGUF\x03rest of it");
        assert_eq!(recognise(&[b"GGUF\x03", b"more"]).await.unwrap(), b"GGUF\x03more");
        for (bad, why) in [
            (&b""[..], "empty"),
            (b"GGU", "does not begin"),
            (b"PK\x03\x04....", "zip"),
            (b"\x80\x04\x95.", "pickle"),
            (b"{\"a\":1}", "does not begin"),
        ] {
            let e = recognise(&[bad]).await.unwrap_err();
            assert!(e.to_string().contains(why), "{e}");
        }
    }

    #[test]
    fn file_names_are_one_plain_segment() {
        check_filename("SmolLM2-135M_q4.gguf").unwrap();
        for bad in ["", ".", "..", ".x", "a/b", "a\\b", "a b", "é", &"a".repeat(129)] {
            assert!(check_filename(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn links_do_not_lead_out_of_the_import_directories() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dirs = [inside.path().to_owned()];
        std::fs::write(inside.path().join("a.gguf"), "GGUF").unwrap();
        std::fs::write(outside.path().join("b.gguf"), "GGUF").unwrap();
        std::os::unix::fs::symlink(outside.path().join("b.gguf"), inside.path().join("c.gguf")).unwrap();
        assert!(resolve(&inside.path().join("a.gguf"), &dirs).is_ok());
        assert!(resolve(&outside.path().join("b.gguf"), &dirs).is_err());
        assert!(resolve(&inside.path().join("c.gguf"), &dirs).is_err());
        assert!(resolve(&inside.path().join("x/../../etc/passwd"), &dirs).is_err());
        assert!(resolve(inside.path(), &dirs).is_err(), "a directory is no file");
        assert!(resolve(Path::new("a.gguf"), &dirs).is_err());
        assert!(resolve(&inside.path().join("a.gguf"), &[]).is_err());
    }
}
