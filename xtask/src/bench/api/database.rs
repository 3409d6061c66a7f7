//! The database that is measured on: made once by SQL, kept in the cache, made
//! again when migrations or its generator change.
//!
//! Two databases in one private server: `large` with every ministry, `small`
//! with the first ten of them.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use domain::keys::{CredentialKind, Pepper, mint};
use postgres::{Binaries, Options, SUPERUSER, Server, Settings};
use sha2::{Digest, Sha256};

use crate::process::tail;
use crate::progress::Line;
use crate::project::Project;

/// Ministries at scale 1, and in the small database.
const TENANTS: f64 = 1000.0;
pub const SMALL_TENANTS: u32 = 10;

pub const LARGE: &str = "large";
pub const SMALL: &str = "small";
pub const OWNER: &str = "chancery_owner";
pub const APP: &str = "chancery_app";

const BOOTSTRAP: &str = "store/src/bootstrap.sql";
const MIGRATIONS: &str = "migrations";
const ROWS: &str = include_str!("rows.sql");
const FILL: &str = include_str!("fill.sql");
const USAGE: &str = include_str!("usage.sql");
const INDEXES: &str = include_str!("indexes.sql");
const TIDY: &str = include_str!("tidy.sql");
/// Raise it when credentials below change.
const CREDENTIALS: u8 = 1;
const PEPPER: [u8; 32] = [9; 32];

/// Usage is filled in this many parts, so that one sees how far it is.
const USAGE_PARTS: u32 = 20;
/// Written last: without it, the making was cut off.
const COMPLETE: &str = "complete";

/// A running server with both databases.
pub struct Kept {
    server: Server,
    /// Ministries in the large one.
    pub tenants: u32,
}

/// The session of the administrator of ministry `t`; 0 is the platform.
pub fn session(t: u32) -> String {
    let mut random = [0; 20];
    random[..4].copy_from_slice(&t.to_be_bytes());
    mint(CredentialKind::Session, random)
}

/// A key of the first project of ministry `t`.
pub fn api_key(t: u32) -> String {
    let mut random = [1; 20];
    random[..4].copy_from_slice(&t.to_be_bytes());
    mint(CredentialKind::ApiKey, random)
}

/// The secret of the installation, as its file has it.
pub fn pepper() -> String {
    hex::encode(PEPPER)
}

impl Kept {
    /// Opens what is there, else makes it.
    pub fn open(project: &Project, binaries: &Binaries, program: &Path, scale: f64) -> Result<Self> {
        let tenants = ((TENANTS * scale).round() as u32).max(SMALL_TENANTS);
        let parent = project.cache.root().join("bench");
        let prefix = format!("api-{tenants}-");
        let dir = parent.join(format!("{prefix}{}", version(project, binaries.major())?));
        let options =
            |settings| Options { binaries: binaries.clone(), data_dir: dir.clone(), port: 0, settings };
        let line = Line::start("database");
        if !dir.join(COMPLETE).exists() {
            for old in fs::read_dir(&parent).into_iter().flatten().flatten() {
                if old.file_name().to_string_lossy().starts_with(&prefix) {
                    remove(&old.path())?;
                }
            }
            line.says("creating the cluster");
            Server::start(&options(Settings::Durable))?.stop()?;
            // What is cut off is made again: nothing needs to reach the disk meanwhile.
            let making = Self { server: Server::start(&options(Settings::Throwaway))?, tenants };
            making.make(project, program, &line)?;
            making.server.stop()?;
            nix::unistd::sync();
            File::create(dir.join(COMPLETE))?;
        }
        let kept = Self { server: Server::start(&options(Settings::Durable))?, tenants };
        line.done(&format!("{tenants} ministries in {}", dir.display()));
        Ok(kept)
    }

    fn make(&self, project: &Project, program: &Path, line: &Line) -> Result<()> {
        self.sql("postgres", &fs::read_to_string(project.path(BOOTSTRAP))?)?;
        for role in [OWNER, APP] {
            self.sql("postgres", &format!("ALTER ROLE {role} PASSWORD '{}'", self.password(role)))?;
        }
        // What statements cost without row-level security is measured with it.
        self.sql(
            "postgres",
            "CREATE ROLE bench_bypass NOLOGIN BYPASSRLS; GRANT pg_read_all_data TO bench_bypass",
        )?;
        for (database, tenants) in [(SMALL, SMALL_TENANTS), (LARGE, self.tenants)] {
            line.says(&format!("{database}: the schema"));
            self.sql("postgres", &format!("CREATE DATABASE {database} OWNER {OWNER}"))?;
            self.migrate(program, database)?;
            self.sql(database, ROWS)?;
            line.says(&format!("{database}: everything but usage"));
            self.sql(database, &format!("\\set tenants {tenants}\n{FILL}"))?;
            self.sql(database, &credentials(tenants))?;
            // An index is quicker built than kept while millions of rows come.
            self.sql(database, &format!("{INDEXES}\nCALL bench.drop_indexes('usage')"))?;
            for part in 0..USAGE_PARTS {
                line.says(&format!("{database}: usage, {} %", part * 100 / USAGE_PARTS));
                let set = format!("\\set tenants {tenants}\n\\set part {part}\n\\set parts {USAGE_PARTS}\n");
                self.sql(database, &(set + USAGE))?;
            }
            line.says(&format!("{database}: indexes of usage"));
            self.sql(database, "SET maintenance_work_mem = '1GB'; CALL bench.build_indexes()")?;
            line.says(&format!("{database}: statistics"));
            self.sql(database, "VACUUM ANALYZE")?;
        }
        self.sql("postgres", "CHECKPOINT")
    }

    fn migrate(&self, program: &Path, database: &str) -> Result<()> {
        let file = std::env::temp_dir().join(format!("chancery-bench-{}-owner-url", std::process::id()));
        fs::write(&file, self.url(OWNER, database))?;
        let mut command = Command::new(program);
        command.arg("migrate").env("CHANCERY_DATABASE__OWNER_URL_FILE", &file);
        let output = command.stdin(Stdio::null()).output();
        fs::remove_file(&file)?;
        let output = output.with_context(|| format!("cannot run {}", program.display()))?;
        if !output.status.success() {
            bail!("the database cannot be migrated:\n{}", tail(&String::from_utf8_lossy(&output.stderr)));
        }
        Ok(())
    }

    /// Takes away what an earlier run left, so that each begins with the same rows.
    pub fn tidy(&self) -> Result<()> {
        for database in [LARGE, SMALL] {
            self.sql(database, TIDY)?;
        }
        Ok(())
    }

    /// Runs statements as the superuser.
    pub fn sql(&self, database: &str, statements: &str) -> Result<()> {
        self.query(database, statements).map(drop)
    }

    /// Runs statements as the superuser and returns what they print.
    pub fn query(&self, database: &str, statements: &str) -> Result<String> {
        let mut command = self.client("psql", SUPERUSER, database);
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot run psql; install PostgreSQL's client programs")?;
        let mut stdin = child.stdin.take().context("psql reads from us")?;
        let statements = statements.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(statements.as_bytes()));
        let output = child.wait_with_output()?;
        // If it stopped reading, it says why.
        let _ = writer.join();
        if !output.status.success() {
            bail!("a statement failed in {database}:\n{}", tail(&String::from_utf8_lossy(&output.stderr)));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A client program of PostgreSQL that logs in as `role`.
    pub fn client(&self, program: &str, role: &str, database: &str) -> Command {
        let mut command = Command::new(self.server.binaries().dir().join(program));
        command.args(["-h", "127.0.0.1", "-p", &self.server.port().to_string(), "-U", role]);
        if program == "psql" {
            command.args(["-d", database]);
        } else {
            command.env("PGDATABASE", database);
        }
        command.env("PGPASSWORD", self.password(role));
        command
    }

    pub fn url(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}:{}@127.0.0.1:{}/{database}", self.password(role), self.server.port())
    }

    fn password(&self, role: &str) -> String {
        if role == SUPERUSER {
            return self.server.password().to_owned();
        }
        hex::encode(Sha256::digest([role.as_bytes(), self.server.password().as_bytes()].concat()))
    }

    pub fn stop(self) -> Result<()> {
        Ok(self.server.stop()?)
    }
}

/// Sessions and keys that work with [`PEPPER`].
fn credentials(tenants: u32) -> String {
    let pepper = Pepper::new(PEPPER);
    let hash = |credential: &str| hex::encode(pepper.hash(credential));
    let mut sql = "SET session_replication_role = replica;\n".to_owned();
    for t in 0..=tenants {
        sql += &format!(
            "INSERT INTO sessions (token_hash, id, principal_id, created_at, last_seen_at, expires_at) VALUES \
             (decode('{}', 'hex'), bench.id(8, {t}, 0), bench.id(8, {t}, 0), bench.at(8, {t}, 0), now(), '2100-01-01');\n",
            hash(&session(t))
        );
        if t > 0 {
            sql += &format!(
                "UPDATE api_keys SET key_hash = decode('{}', 'hex') WHERE tenant_id = bench.id(0, {t}, 0) AND id = bench.id(5, {t}, 0);\n",
                hash(&api_key(t))
            );
        }
    }
    format!("BEGIN;\n{sql}COMMIT;\n")
}

/// Changes when the databases would come out different.
fn version(project: &Project, major: u32) -> Result<String> {
    let mut digest = Sha256::new();
    let mut files: Vec<PathBuf> =
        fs::read_dir(project.path(MIGRATIONS))?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    files.push(project.path(BOOTSTRAP));
    for file in files {
        digest.update(fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?);
    }
    for part in [ROWS, FILL, USAGE, INDEXES] {
        digest.update(part);
    }
    digest.update([CREDENTIALS, u8::try_from(major).unwrap_or(u8::MAX)]);
    Ok(hex::encode(&digest.finalize()[..6]))
}

/// Removes a kept cluster, also where it is a link to, unless it is in use.
fn remove(dir: &Path) -> Result<()> {
    let real = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
    if let Ok(lock) = File::options().append(true).open(real.join("lock"))
        && lock.try_lock().is_err()
    {
        return Ok(());
    }
    let gone = |result: std::io::Result<()>, path: &Path| match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    };
    gone(fs::remove_dir_all(&real), &real)?;
    if fs::symlink_metadata(dir).is_ok_and(|found| found.is_symlink()) {
        gone(fs::remove_file(dir), dir)?;
    }
    Ok(())
}
