//! The object store: content of files and model files. A local directory now;
//! anything `object_store` speaks later.

use std::path::Path as FsPath;
use std::sync::Arc;

use bytes::Bytes;
use domain::models::Sha256Digest;
use futures_util::{Stream, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart};
use sha2::{Digest as _, Sha256};

use crate::StoreError;

/// Bytes per part of an upload in flight.
const PART_BYTES: usize = 8 << 20;

/// Where content is kept.
#[derive(Clone, Debug)]
pub struct Objects(Arc<dyn ObjectStore>);

/// Why an upload was not kept.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// More than the limit.
    #[error("larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// The sender broke off.
    #[error("the upload broke off")]
    Interrupted(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The store, e.g. a full disk.
    #[error("object store error")]
    Store(#[from] object_store::Error),
}

/// What was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Size.
    pub bytes: u64,
    /// Digest of the content.
    pub sha256: Sha256Digest,
}

impl Objects {
    /// In a local directory, which is created.
    pub fn local(dir: &FsPath) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir)
            .map_err(|e| object_store::Error::Generic { store: "local", source: Box::new(e) })?;
        let fs = LocalFileSystem::new_with_prefix(dir)?.with_automatic_cleanup(true).with_fsync(true);
        Ok(Self(Arc::new(fs)))
    }

    /// Streams `body` into `key`, hashing on the way. Nothing is visible under
    /// `key` unless this succeeds.
    pub async fn put<E>(
        &self,
        key: &str,
        mut body: impl Stream<Item = Result<Bytes, E>> + Unpin + Send,
        limit: u64,
    ) -> Result<Stored, PutError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let upload = self.0.put_multipart(&Path::from(key)).await?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        let mut hash = Sha256::new();
        let mut bytes = 0u64;
        while let Some(part) = body.next().await {
            let refused = match part {
                Ok(part) => {
                    bytes += part.len() as u64;
                    if bytes <= limit {
                        hash.update(&part);
                        upload.wait_for_capacity(2).await?;
                        upload.put(part);
                        continue;
                    }
                    PutError::TooLarge { limit }
                }
                Err(e) => PutError::Interrupted(e.into()),
            };
            upload.abort().await?;
            return Err(refused);
        }
        upload.finish().await?;
        Ok(Stored { bytes, sha256: Sha256Digest(hash.finalize().into()) })
    }

    /// Moves an object, replacing what was at `to`.
    pub async fn rename(&self, from: &str, to: &str) -> Result<(), StoreError> {
        Ok(self.0.rename(&Path::from(from), &Path::from(to)).await?)
    }

    /// The whole content as a stream, and its size.
    pub async fn get(
        &self,
        key: &str,
    ) -> Result<(u64, impl Stream<Item = Result<Bytes, StoreError>> + Send + 'static), StoreError> {
        let found = self.0.get(&Path::from(key)).await?;
        Ok((found.meta.size, found.into_stream().map_err(StoreError::from)))
    }

    /// A range of the content.
    pub async fn get_range(&self, key: &str, range: std::ops::Range<u64>) -> Result<Bytes, StoreError> {
        Ok(self.0.get_range(&Path::from(key), range).await?)
    }

    /// Size, or `None` if there is no such object.
    pub async fn size(&self, key: &str) -> Result<Option<u64>, StoreError> {
        match self.0.head(&Path::from(key)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Keys of at most `most` objects below a folder.
    pub async fn list(&self, folder: &str, most: usize) -> Result<Vec<String>, StoreError> {
        let found = self.0.list(Some(&Path::from(folder))).take(most);
        Ok(found.map_ok(|object| object.location.to_string()).try_collect().await?)
    }

    /// Forgets the content; succeeds if there was none.
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        match self.0.delete(&Path::from(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}
