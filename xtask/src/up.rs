//! `cargo xtask up`: gets what is missing, builds, and becomes `chancery up`.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::sys::statvfs::statvfs;

use crate::progress::Line;
use crate::project::Project;
use crate::{model, portal, process, tools};

/// What a first build with its dependencies and the model takes, with some room.
const FIRST_BUILD_BYTES: u64 = 5_000_000_000;

#[derive(clap::Args)]
pub struct Arguments {
    /// Folder of everything that is kept, relative to where you are [default: .chancery in the clone]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address of portal and API
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Further arguments for `chancery up`
    #[arg(last = true)]
    more: Vec<String>,
}

/// What a running system needs besides its data.
pub struct Inputs {
    pub binary: PathBuf,
    pub model: PathBuf,
    pub postgres: postgres::Binaries,
}

pub fn run(project: &Project, arguments: &Arguments) -> Result<()> {
    // Better now than after the build.
    if let Err(error) = TcpListener::bind(arguments.listen) {
        bail!(
            "cannot listen on {} ({error}): stop what uses it or choose another address with --listen",
            arguments.listen
        );
    }
    let inputs = prepare(project)?;
    let data_dir = match &arguments.data_dir {
        Some(dir) => project.called_from.join(dir),
        None => PathBuf::from(".chancery"),
    };
    let mut command = project.command(&inputs.binary);
    command.arg("up").arg("--data-dir").arg(data_dir).arg("--listen").arg(arguments.listen.to_string());
    command.arg("--sample-model").arg(&inputs.model).arg("--postgres-bin").arg(inputs.postgres.dir());
    command.args(&arguments.more);
    // In our place, so that Ctrl-C reaches it and nobody stands between.
    let error = command.exec();
    Err(error).with_context(|| format!("cannot run {}", inputs.binary.display()))
}

/// Toolchain, portal, PostgreSQL, model and an optimised build.
pub fn prepare(project: &Project) -> Result<Inputs> {
    let line = Line::start("toolchain");
    line.done(&tools::compilers()?);
    let binary = project.target("release/chancery");
    if !binary.exists() {
        require_space(project.cache.root(), FIRST_BUILD_BYTES)?;
    }

    let line = Line::start("portal assets");
    let done = portal::ensure(project, &line)?;
    line.done(done);
    let postgres = ensure_postgres(project)?;
    let model = ensure_model(project)?;

    let line = Line::start("build");
    line.says("optimised; the first time takes minutes");
    line.hand_over();
    process::run(project.cargo().args(["build", "--release", "--locked", "--package", "chancery"]))?;
    line.done("target/release/chancery");
    Ok(Inputs { binary, model, postgres })
}

pub fn ensure_postgres(project: &Project) -> Result<postgres::Binaries> {
    let line = Line::start("PostgreSQL");
    let found = postgres::ensure(project.cache.root(), &mut |doing| line.says(doing))?;
    line.done(&format!("{} in {}", found.version(), found.dir().display()));
    Ok(found)
}

pub fn ensure_model(project: &Project) -> Result<PathBuf> {
    let line = Line::start("model");
    let path = model::ensure(project, &line)?;
    line.done(&path.display().to_string());
    Ok(path)
}

fn require_space(dir: &Path, bytes: u64) -> Result<()> {
    let Some(existing) = dir.ancestors().find(|at| at.exists()) else { return Ok(()) };
    let Ok(found) = statvfs(existing) else { return Ok(()) };
    let free = found.blocks_available() * found.fragment_size();
    if free < bytes {
        bail!(
            "only {:.1} GB are free on the disk of {}, the first build takes up to {:.0} GB: \
             free some space or set CHANCERY_CACHE_DIR to a folder on another disk",
            free as f64 / 1e9,
            dir.display(),
            bytes as f64 / 1e9,
        );
    }
    Ok(())
}
