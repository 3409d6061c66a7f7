//! The worker's folder: one worker at a time, its model cache, and the sockets
//! of its engines.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Longest path of a folder for sockets: with a file name, a socket's path must
/// stay below 108 bytes.
const MAX_SOCKETS_PATH_BYTES: usize = 80;

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another worker has it.
    #[error("another worker uses the folder {0}; stop it, or set worker.data_dir to another folder")]
    Used(PathBuf),
    /// The file system.
    #[error("the worker cannot use the folder {dir}; check its owner and free space, or set worker.data_dir")]
    Io {
        /// Which.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The folder, ours until dropped.
pub struct Folder {
    dir: PathBuf,
    sockets: PathBuf,
    /// Removed at the end, because it is not below `dir`.
    elsewhere: bool,
    _lock: File,
}

impl Folder {
    /// Creates what is missing and removes what a killed worker left.
    pub fn open(dir: &Path) -> Result<Self, FolderError> {
        let io = |source| FolderError::Io { dir: dir.to_owned(), source };
        create(dir).map_err(io)?;
        let dir = dir.canonicalize().map_err(io)?;
        let lock = File::create(dir.join("worker.lock")).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FolderError::Used(dir)),
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        let mut sockets = dir.join("run");
        let elsewhere = sockets.as_os_str().as_bytes().len() > MAX_SOCKETS_PATH_BYTES;
        if elsewhere {
            sockets = std::env::temp_dir().join(format!("chancery-{}", std::process::id()));
            if sockets.as_os_str().as_bytes().len() > MAX_SOCKETS_PATH_BYTES {
                sockets = Path::new("/tmp").join(format!("chancery-{}", std::process::id()));
            }
        }
        match fs::remove_dir_all(&sockets) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        // Not `create`: a folder that somebody else made there in between is refused.
        DirBuilder::new().mode(0o700).create(&sockets).map_err(io)?;
        Ok(Self { dir, sockets, elsewhere, _lock: lock })
    }

    /// Where model files are kept.
    pub fn blobs(&self) -> PathBuf {
        self.dir.join("blobs")
    }

    /// Where engines make their sockets; ours alone.
    pub fn sockets(&self) -> &Path {
        &self.sockets
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.elsewhere {
            let _ = fs::remove_dir_all(&self.sockets);
        }
    }
}

fn create(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_worker_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Folder::open(dir.path()).unwrap();
        fs::write(first.sockets().join("1.sock"), "").unwrap();
        assert!(matches!(Folder::open(dir.path()), Err(FolderError::Used(_))));
        drop(first);
        let second = Folder::open(dir.path()).unwrap();
        assert_eq!(fs::read_dir(second.sockets()).unwrap().count(), 0, "what was left is gone");
    }

    #[test]
    fn sockets_have_short_paths_wherever_the_folder_is() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(100));
        let folder = Folder::open(&deep).unwrap();
        let sockets = folder.sockets().to_owned();
        assert!(sockets.as_os_str().len() <= MAX_SOCKETS_PATH_BYTES);
        assert!(sockets.is_dir());
        drop(folder);
        assert!(!sockets.exists());
    }
}
