//! Where the programs of PostgreSQL are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::PostgresError;

/// Environment variable that names the folder of the programs.
pub const BIN_VARIABLE: &str = "CHANCERY_POSTGRES_BIN";

/// Oldest major version that we run on.
pub const OLDEST_MAJOR: u32 = 15;

/// Where distributions put each version: before and after its number.
const VERSIONED: [(&str, &str); 2] = [("/usr/lib/postgresql", ""), ("/usr", "pgsql-")];

/// The programs of one PostgreSQL installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    dir: PathBuf,
    version: String,
    major: u32,
}

impl Binaries {
    /// The folder that [`BIN_VARIABLE`] names, else the newest PostgreSQL of
    /// this machine.
    ///
    /// # Errors
    /// [`PostgresError::NotInstalled`], or [`PostgresError::NotUsable`] if the
    /// variable names a folder without PostgreSQL.
    pub fn find() -> Result<Self, PostgresError> {
        if let Some(dir) = env::var_os(BIN_VARIABLE).filter(|dir| !dir.is_empty()) {
            return Self::at(dir);
        }
        Self::installed().into_iter().max_by_key(|found| found.major).ok_or(PostgresError::NotInstalled)
    }

    /// The PostgreSQL whose programs lie in `dir`.
    ///
    /// # Errors
    /// [`PostgresError::NotUsable`] if they do not, do not run, or are too old.
    pub fn at(dir: impl Into<PathBuf>) -> Result<Self, PostgresError> {
        let dir = dir.into();
        Self::probe(&dir).ok_or(PostgresError::NotUsable(dir))
    }

    /// The folder of the programs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// For example `15.18`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// For example 15.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The path of one program.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// These programs if they are of version `major`, else others that are:
    /// data can only be read by the major version that wrote it.
    pub(crate) fn of_major(&self, major: u32) -> Option<Self> {
        if self.major == major {
            return Some(self.clone());
        }
        Self::installed().into_iter().find(|found| found.major == major)
    }

    /// Every usable PostgreSQL in the usual places.
    fn installed() -> Vec<Self> {
        let mut dirs = Vec::new();
        for (parent, prefix) in VERSIONED {
            let entries = fs::read_dir(parent).into_iter().flatten().flatten();
            dirs.extend(entries.filter_map(|entry| {
                let version: u32 = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
                (version >= OLDEST_MAJOR).then(|| entry.path().join("bin"))
            }));
        }
        if let Some(path) = env::var_os("PATH") {
            dirs.extend(env::split_paths(&path));
        }
        if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
            dirs.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
        }
        dirs.iter().filter_map(|dir| Self::probe(dir)).collect()
    }

    fn probe(dir: &Path) -> Option<Self> {
        let postgres = dir.join("postgres");
        if dir.as_os_str().is_empty() || !postgres.is_file() || !dir.join("initdb").is_file() {
            return None;
        }
        let output = Command::new(&postgres).arg("--version").output().ok()?;
        let (version, major) = parse_version(&String::from_utf8_lossy(&output.stdout))?;
        let dir = fs::canonicalize(dir).ok()?;
        (major >= OLDEST_MAJOR).then_some(Self { dir, version, major })
    }
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` → (`15.18`, 15).
fn parse_version(output: &str) -> Option<(String, u32)> {
    let version = output.trim().strip_prefix("postgres (PostgreSQL) ")?.split_whitespace().next()?;
    let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((version.to_owned(), digits.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::parse_version;

    #[test]
    fn versions_of_releases_and_betas_are_read() {
        let debian = parse_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n");
        assert_eq!(debian, Some(("15.18".to_owned(), 15)));
        assert_eq!(parse_version("postgres (PostgreSQL) 19beta1"), Some(("19beta1".to_owned(), 19)));
        assert_eq!(parse_version("something else"), None);
    }
}
