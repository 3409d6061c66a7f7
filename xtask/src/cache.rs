//! What is shared by all clones of one person, and how it stays small.
//!
//! ```text
//! $CHANCERY_CACHE_DIR, else $CARGO_HOME/chancery
//!   build/    compiled code (cargo's build-dir)
//!   models/   model files
//!   tools/    programs and Python packages that the checks and tests use
//! ```

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{env, io};

use anyhow::{Context, Result};

/// Moves the cache.
const DIR_VARIABLE: &str = "CHANCERY_CACHE_DIR";

/// Limits it, in units of 10⁹ bytes.
const LIMIT_VARIABLE: &str = "CHANCERY_CACHE_LIMIT_GB";
const DEFAULT_LIMIT_GB: u64 = 20;
const GB: u64 = 1_000_000_000;

/// `stat` counts blocks of this size, whatever the file system's are.
const BLOCK_BYTES: u64 = 512;

pub struct Cache {
    root: PathBuf,
    moved: bool,
}

impl Cache {
    pub fn locate() -> Result<Self> {
        if let Some(dir) = env::var_os(DIR_VARIABLE).filter(|dir| !dir.is_empty()) {
            let root = std::path::absolute(dir).context("cannot find the current folder")?;
            return Ok(Self { root, moved: true });
        }
        let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = cargo_home.or_else(|| Some(env::home_dir()?.join(".cargo"))).with_context(|| {
            format!("you have no home folder: set {DIR_VARIABLE} to a folder for what is built")
        })?;
        Ok(Self { root: home.join("chancery"), moved: false })
    }

    /// Is it elsewhere than `.cargo/config.toml` says?
    pub fn moved(&self) -> bool {
        self.moved
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn build(&self) -> PathBuf {
        self.root.join("build")
    }

    pub fn models(&self) -> PathBuf {
        self.root.join("models")
    }

    pub fn tools(&self) -> PathBuf {
        self.root.join("tools")
    }

    /// If the cache is over its limit, removes compiled code until it is not:
    /// first what only speeds up the next edit, then our own crates from clones
    /// (oldest first), then whole profiles (least recently used first). Anything
    /// removed is built again when it is needed.
    pub fn keep_below_limit(&self, our_crates: &[String]) -> Result<()> {
        let limit = match env::var(LIMIT_VARIABLE) {
            Ok(text) => {
                text.parse().with_context(|| format!("{LIMIT_VARIABLE} is {text:?}: give a whole number"))?
            }
            Err(_) => DEFAULT_LIMIT_GB,
        } * GB;
        let before = disk_usage(&self.root);
        if before <= limit {
            return Ok(());
        }
        let mut size = before;
        let mut profiles: Vec<_> = children(&self.build())
            .filter(|dir| dir.join(".fingerprint").is_dir())
            .filter_map(|dir| Some((newest(&dir.join(".fingerprint"))?, dir)))
            .collect();
        profiles.sort();
        // A build in progress holds this lock, as cargo does; skip its profile.
        let locked: Vec<_> =
            profiles.iter().filter_map(|(_, dir)| Some((dir, lock(&dir.join(".cargo-lock"))?))).collect();

        for (dir, _) in &locked {
            remove(&dir.join("incremental"), &mut size);
        }
        let mut units: Vec<_> = locked.iter().flat_map(|(dir, _)| units(dir, our_crates)).collect();
        units.sort();
        for (_, paths) in &units {
            if size <= limit {
                break;
            }
            paths.iter().for_each(|path| remove(path, &mut size));
        }
        for (dir, _) in &locked {
            if size <= limit {
                break;
            }
            children(dir)
                .filter(|path| !path.ends_with(".cargo-lock"))
                .for_each(|path| remove(&path, &mut size));
        }
        println!(
            "cache: {:.1} GB of {} GB were used in {}; removed {:.1} GB of compiled code ({LIMIT_VARIABLE} sets the limit)",
            before as f64 / GB as f64,
            limit / GB,
            self.root.display(),
            (before - size) as f64 / GB as f64,
        );
        Ok(())
    }
}

/// The compiled units of our crates in one profile, with when they were built.
fn units(profile: &Path, our_crates: &[String]) -> Vec<(SystemTime, Vec<PathBuf>)> {
    let mut files: Vec<PathBuf> =
        children(&profile.join("deps")).chain(children(&profile.join("build"))).collect();
    files.extend(children(&profile.join("examples")));
    children(&profile.join(".fingerprint"))
        .filter_map(|fingerprint| {
            let name = fingerprint.file_name()?.to_str()?;
            let (package, hash) = name.rsplit_once('-')?;
            if !our_crates.iter().any(|ours| ours == package) {
                return None;
            }
            let built = newest(&fingerprint)?;
            let suffix = format!("-{hash}");
            let belongs = |path: &&PathBuf| path.to_string_lossy().contains(&suffix);
            let mut paths: Vec<_> = files.iter().filter(belongs).cloned().collect();
            // The fingerprint goes first: without it cargo builds the unit anew.
            paths.insert(0, fingerprint);
            Some((built, paths))
        })
        .collect()
}

/// When anything directly in `dir` last changed.
fn newest(dir: &Path) -> Option<SystemTime> {
    children(dir).filter_map(|path| fs::symlink_metadata(path).ok()?.modified().ok()).max()
}

fn lock(path: &Path) -> Option<File> {
    let file = File::options().create(true).append(true).open(path).ok()?;
    file.try_lock().ok().map(|()| file)
}

fn children(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

/// Bytes that `path` and all in it take on disk.
pub fn disk_usage(path: &Path) -> u64 {
    let Ok(found) = fs::symlink_metadata(path) else { return 0 };
    let own = found.blocks() * BLOCK_BYTES;
    if found.is_dir() {
        return own + children(path).map(|child| disk_usage(&child)).sum::<u64>();
    }
    // Cargo links files to several names.
    own / found.nlink().max(1)
}

/// Removes a file or folder and takes what it used off `size`.
fn remove(path: &Path, size: &mut u64) {
    let used = disk_usage(path);
    let result = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match result {
        Ok(()) => *size = size.saturating_sub(used),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => eprintln!("cache: cannot remove {}: {error}", path.display()),
    }
}
