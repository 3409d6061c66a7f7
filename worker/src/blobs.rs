//! The cache of model files, each under its SHA-256. Nothing comes out of here
//! that was not hashed just before: a damaged file is removed and fetched once
//! more, and damage at the source is said in words that tell what to do.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use domain::Clock;
use domain::models::{Manifest, ManifestFile, Sha256Digest};
use domain::workers::DesiredVersion;
use futures_util::StreamExt;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::link::{Link, LinkError};

const HASH_BUFFER_BYTES: usize = 1 << 20;
/// Pieces between the network and the disk.
const FETCH_QUEUE: usize = 16;
/// Ending of a file that is being fetched.
const PART: &str = "part";
/// The only format that engines take.
const FORMAT: &str = "gguf";

/// Why a model version's files are not there.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The manifest is not the one that was approved under this digest.
    #[error(
        "the manifest sent for version {wanted} has the digest {found}; register the model version again, \
         and find out who changed it"
    )]
    Manifest {
        /// The version's identity.
        wanted: Sha256Digest,
        /// What the manifest sent has.
        found: Sha256Digest,
    },
    /// Engines cannot load this.
    #[error("the version has {files} files of format {format:?}; this worker's engine loads one GGUF file")]
    Unsupported {
        /// How many.
        files: usize,
        /// Of what.
        format: String,
    },
    /// What the API has is not what was registered.
    #[error(
        "the model file {path} is damaged where it is stored: {found}, but {wanted} was registered; restore it \
         in the object store from a backup, or register the model version again"
    )]
    Damaged {
        /// The file's name.
        path: String,
        /// What it should have.
        wanted: Sha256Digest,
        /// What is wrong with it.
        found: String,
    },
    /// The API does not have it.
    #[error(
        "the model file {path} ({wanted}) is not in the object store; restore it there from a backup, or \
         register the model version again"
    )]
    Missing {
        /// The file's name.
        path: String,
        /// Its digest.
        wanted: Sha256Digest,
    },
    /// It did not come through.
    #[error("the model file {path} could not be fetched")]
    Fetch {
        /// The file's name.
        path: String,
        /// Why.
        #[source]
        source: LinkError,
    },
    /// No room.
    #[error(
        "the disk of {dir} is too full for the model file {path} ({bytes} bytes); free space there, or \
         set the worker's data_dir to a larger disk"
    )]
    Full {
        /// The cache.
        dir: PathBuf,
        /// The file's name.
        path: String,
        /// Its size.
        bytes: u64,
    },
    /// The cache itself.
    #[error("the model cache file {file} cannot be read or written")]
    Io {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The cache of one worker.
pub struct Blobs {
    dir: PathBuf,
    limit_bytes: u64,
    link: Arc<Link>,
    clock: Clock,
    /// How many engines use each file: those are never removed.
    used: Mutex<HashMap<Sha256Digest, usize>>,
    /// One fetch at a time of each file.
    fetching: Mutex<HashMap<Sha256Digest, Arc<tokio::sync::Mutex<()>>>>,
    /// Numbers unfinished files.
    parts: AtomicU64,
}

/// A version's files, verified, and kept in the cache while this lives.
pub struct Loaded {
    /// What the engine loads.
    pub model: PathBuf,
    blobs: Arc<Blobs>,
    files: Vec<Sha256Digest>,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let mut used = self.blobs.used.lock().unwrap_or_else(PoisonError::into_inner);
        for file in &self.files {
            if let Some(count) = used.get_mut(file) {
                *count -= 1;
                if *count == 0 {
                    used.remove(file);
                }
            }
        }
    }
}

impl Blobs {
    /// In `dir`, which is created; what an earlier process left half fetched
    /// is removed.
    pub fn open(dir: PathBuf, limit_bytes: u64, link: Arc<Link>, clock: Clock) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        for entry in fs::read_dir(&dir)?.flatten() {
            if entry.path().extension().is_some_and(|ending| ending == PART) {
                fs::remove_file(entry.path())?;
            }
        }
        let (used, fetching, parts) = Default::default();
        Ok(Self { dir, limit_bytes, link, clock, used, fetching, parts })
    }

    /// Brings and verifies every file of a version, just before it is loaded.
    pub async fn load(self: &Arc<Self>, version: &DesiredVersion) -> Result<Loaded, BlobError> {
        let found = version.manifest.digest();
        if found != version.digest {
            return Err(BlobError::Manifest { wanted: version.digest, found });
        }
        let Manifest { format, files } = &version.manifest;
        if files.len() != 1 || format != FORMAT {
            return Err(BlobError::Unsupported { files: files.len(), format: format.clone() });
        }
        let digests: Vec<Sha256Digest> = files.iter().map(|file| file.sha256).collect();
        let model = self.path(files[0].sha256);
        // Counted as used from now on, so that none is removed meanwhile.
        {
            let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
            for digest in &digests {
                *used.entry(*digest).or_default() += 1;
            }
        }
        let loaded = Loaded { model, blobs: Arc::clone(self), files: digests };
        for file in files {
            self.bring(file).await?;
        }
        Ok(loaded)
    }

    fn path(&self, digest: Sha256Digest) -> PathBuf {
        self.dir.join(digest.to_string())
    }

    /// Makes sure that a file is here and intact.
    async fn bring(&self, file: &ManifestFile) -> Result<(), BlobError> {
        let turn = {
            let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
            fetching.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(fetching.entry(file.sha256).or_default())
        };
        let _turn = turn.lock().await;
        let path = self.path(file.sha256);
        let io = |source| BlobError::Io { file: path.clone(), source };
        match digest_of(&path, self.clock.now().0.into()).await {
            Ok(found) if found == file.sha256 => return Ok(()),
            Ok(found) => {
                warn!(
                    "The cached model file {} is damaged (digest {found}); fetching it again",
                    path.display()
                );
                fs::remove_file(&path).map_err(io)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
        self.make_room(file.bytes);
        self.fetch(file, &path).await
    }

    async fn fetch(&self, file: &ManifestFile, to: &Path) -> Result<(), BlobError> {
        let failed = |source| BlobError::Fetch { path: file.path.clone(), source };
        let response = match self.link.blob(file.sha256).await {
            Ok(response) => response,
            Err(LinkError::Refused { status: reqwest::StatusCode::NOT_FOUND, .. }) => {
                return Err(BlobError::Missing { path: file.path.clone(), wanted: file.sha256 });
            }
            Err(source) => return Err(failed(source)),
        };
        info!("Fetching the model file {} ({} bytes)", file.path, file.bytes);
        let number = self.parts.fetch_add(1, Ordering::Relaxed);
        let part = Part(self.dir.join(format!("{}.{number}.{PART}", file.sha256)));
        let part_path = part.0.clone();
        let io = |source: io::Error| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                BlobError::Full { dir: self.dir.clone(), path: file.path.clone(), bytes: file.bytes }
            }
            _ => BlobError::Io { file: part_path.clone(), source },
        };
        let damaged = |found| BlobError::Damaged { path: file.path.clone(), wanted: file.sha256, found };

        let (pieces, queue) = mpsc::channel(FETCH_QUEUE);
        let most = file.bytes;
        let writer = blocking(move || write(part, queue, most));
        let reader = async move {
            let mut body = response.bytes_stream();
            while let Some(piece) = body.next().await {
                let piece = piece?;
                metrics::counter!("chancery_worker_fetched_bytes_total").increment(piece.len() as u64);
                if pieces.send(piece).await.is_err() {
                    // The writer has seen enough, and says why.
                    break;
                }
            }
            Ok::<(), reqwest::Error>(())
        };
        let (read, written) = tokio::join!(reader, writer);
        let written = written.map_err(io)?;
        read.map_err(|error| failed(error.into()))?;
        let Some(written) = written else {
            return Err(damaged(format!("it is longer than {most} bytes")));
        };
        if written.sha256 != file.sha256 {
            return Err(damaged(format!("its content has the digest {}", written.sha256)));
        }
        let to = to.to_owned();
        let now = self.clock.now().0.into();
        blocking(move || written.keep(&to, now)).await.map_err(io)
    }

    /// Removes files that no engine uses, the longest unused first, until
    /// `bytes` more fit below the limit or none is left.
    fn make_room(&self, bytes: u64) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let mut total = bytes;
        let mut unused: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            total += meta.len();
            let name = entry.file_name();
            let digest = name.to_str().and_then(|name| name.parse::<Sha256Digest>().ok());
            if let (Some(digest), Ok(modified)) = (digest, meta.modified())
                && !used.contains_key(&digest)
            {
                unused.push((modified, meta.len(), entry.path()));
            }
        }
        unused.sort();
        for (_, size, path) in unused {
            if total <= self.limit_bytes {
                break;
            }
            match fs::remove_file(&path) {
                Ok(()) => {
                    info!("Removed {} from the model cache to make room", path.display());
                    total -= size;
                }
                Err(error) => warn!("Cannot remove {} from the model cache: {error}", path.display()),
            }
        }
    }
}

/// A file that is being fetched; removed unless it was renamed.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A file that was fetched.
struct Written {
    part: Part,
    file: File,
    sha256: Sha256Digest,
}

/// Writes and hashes what comes; `None` if it is more than `most` bytes.
fn write(part: Part, mut pieces: mpsc::Receiver<Bytes>, most: u64) -> io::Result<Option<Written>> {
    let mut file = File::create(&part.0)?;
    let mut hash = Sha256::new();
    let mut bytes = 0u64;
    while let Some(piece) = pieces.blocking_recv() {
        bytes += piece.len() as u64;
        if bytes > most {
            return Ok(None);
        }
        hash.update(&piece);
        file.write_all(&piece)?;
    }
    Ok(Some(Written { part, file, sha256: Sha256Digest(hash.finalize().into()) }))
}

impl Written {
    /// On the disk for good, under its final name, for reading only.
    fn keep(self, to: &Path, now: SystemTime) -> io::Result<()> {
        self.file.set_modified(now)?;
        let mut permissions = self.file.metadata()?.permissions();
        permissions.set_readonly(true);
        self.file.set_permissions(permissions)?;
        self.file.sync_all()?;
        fs::rename(&self.part.0, to)?;
        File::open(to.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

/// Digest of a file's content. Marks it as used `now`.
async fn digest_of(path: &Path, now: SystemTime) -> io::Result<Sha256Digest> {
    let path = path.to_owned();
    blocking(move || {
        let mut file = File::open(path)?;
        // Only the order of removal depends on it.
        let _ = file.set_modified(now);
        let mut hash = Sha256::new();
        let mut buffer = vec![0; HASH_BUFFER_BYTES];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(Sha256Digest(hash.finalize().into())),
                n => hash.update(&buffer[..n]),
            }
        }
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests;
