//! `.sqlx`: what PostgreSQL says about each query, so that queries are checked
//! at build without a database.

use std::fs::File;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result};
use postgres::{SUPERUSER, Server};

use crate::check::{CLIPPY, DENY_WARNINGS};
use crate::project::Project;
use crate::{process, python, up};

/// Roots of the crates that contain queries. Their macros run again when these
/// files look changed.
const WITH_QUERIES: [&str; 2] = ["store/src/lib.rs", "tests/it/main.rs"];

/// Creates the roles, the database and its schema.
const MIGRATE: &str = include_str!("migrate.py");

const DATABASE: &str = "chancery";

/// Writes `query-….json` for every query into `dir`, described by a database
/// with the present migrations. `strict`: warnings fail, as in `check`, which
/// then has nothing left to do.
pub fn describe_queries(project: &Project, dir: &Path, strict: bool) -> Result<()> {
    let server = Server::throwaway(&up::ensure_postgres(project)?)?;
    let python = python::environment(project)?;
    let mut migrate = project.command(python);
    migrate.args(["-c", MIGRATE, &server.url(SUPERUSER, "postgres"), DATABASE]);
    migrate.arg(project.path("store/src/bootstrap.sql")).arg(project.path("migrations"));
    process::output(&mut migrate).context("the migrations do not apply to an empty database")?;

    let _touched: Vec<_> =
        WITH_QUERIES.iter().map(|file| Touched::new(&project.path(file))).collect::<Result<_>>()?;
    let mut clippy = project.cargo();
    clippy.args(CLIPPY).arg("--quiet");
    if strict {
        clippy.args(DENY_WARNINGS);
    }
    clippy.env("SQLX_OFFLINE", "false").env("SQLX_OFFLINE_DIR", dir);
    clippy.env("DATABASE_URL", server.url(SUPERUSER, DATABASE));
    process::run(&mut clippy).context("queries are described while the code is checked, which has errors")?;
    Ok(server.stop()?)
}

/// A source file that looks changed until this is dropped: builds that are up
/// to date stay so.
struct Touched {
    file: File,
    before: SystemTime,
}

impl Touched {
    fn new(path: &Path) -> Result<Self> {
        let touch = || {
            let file = File::options().append(true).open(path)?;
            let before = file.metadata()?.modified()?;
            #[expect(clippy::disallowed_methods, reason = "cargo compares it with the times of files")]
            file.set_modified(SystemTime::now())?;
            Ok::<_, std::io::Error>(Self { file, before })
        };
        touch().with_context(|| format!("cannot touch {}", path.display()))
    }
}

impl Drop for Touched {
    fn drop(&mut self) {
        // If it fails, the next build compiles a crate more.
        let _ = self.file.set_modified(self.before);
    }
}
