//! Kueue and the runner of its performance test, built from its Go module and
//! kept in the cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;
use serde::Deserialize;

use crate::progress::Line;
use crate::project::Project;
use crate::{kube, process, tools};

const MODULE: &str = "sigs.k8s.io/kueue";
const VERSION: &str = "0.17.0";

/// Changes when the steps below do, so that an older installation is not used.
const RECIPE: u32 = 1;

/// How long the runner records at most, and how long its control plane may take
/// to start, in Go's notation.
const RECORDS: &str = "20m";
const STARTS: &str = "2m";

/// What can be measured.
pub struct Kueue {
    /// A copy of the module's sources, with the programs in `bin/`.
    dir: PathBuf,
    /// The folder of etcd and the API server.
    kube: PathBuf,
}

/// What `go mod download` says.
#[derive(Deserialize)]
struct Downloaded {
    #[serde(rename = "Dir")]
    dir: PathBuf,
}

/// Builds what is not there.
pub fn ensure(project: &Project) -> Result<Kueue> {
    let line = Line::start("kubernetes");
    let kube = kube::ensure(project, &line)?;
    line.done("etcd and API server");
    let line = Line::start("kueue");
    let dir = tools::ensure_dir(project, &format!("kueue-{VERSION}-{RECIPE}"), |dir| make(&line, dir))?;
    line.done(VERSION);
    Ok(Kueue { dir, kube })
}

fn make(line: &Line, dir: &Path) -> Result<()> {
    tools::go()?;
    line.says("fetching its module");
    let module = format!("{MODULE}@v{VERSION}");
    // Outside any module, so that none is changed.
    let mut go = Command::new("go");
    let printed = process::output(go.args(["mod", "download", "-json", &module]).current_dir(dir))?;
    let found: Downloaded = serde_json::from_str(&printed).context("go says where the module is")?;
    // What is in Go's own cache cannot be written, and the runner wants to.
    process::output(Command::new("cp").args(["-R", "--no-preserve=mode"]).arg(found.dir.join(".")).arg(dir))?;
    line.says("building it (5 min)");
    let programs = ["minimalkueue", "runner"].map(|name| format!("./test/performance/scheduler/{name}"));
    kube::build(dir, &dir.join("bin"), "", &programs.each_ref().map(String::as_str))
}

impl Kueue {
    /// Runs the load of `generator` and returns the runner's summary.
    pub fn run(&self, generator: &Path) -> Result<String> {
        let out = scratch()?;
        let result = self.run_in(generator, &out);
        // A leftover only costs space, the result counts.
        let _ = std::fs::remove_dir_all(&out);
        result
    }

    fn run_in(&self, generator: &Path, out: &Path) -> Result<String> {
        let program = |name: &str| self.dir.join("bin").join(name);
        let mut command = if geteuid().is_root() {
            // It starts servers, which its failure would leave behind.
            let mut unshare = Command::new("unshare");
            unshare.args(["--pid", "--fork", "--kill-child"]).arg(program("runner"));
            unshare
        } else {
            Command::new(program("runner"))
        };
        let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
        command
            .args([
                flag("o", out),
                flag("crds", &self.dir.join("config/components/crd/bases")),
                flag("generatorConfig", generator),
                flag("minimalKueue", &program("minimalkueue")),
                format!("--timeout={RECORDS}"),
            ])
            .current_dir(&self.dir)
            .env("PROJECT_DIR", self.dir.join("test"))
            .env("KUBEBUILDER_ASSETS", &self.kube)
            .env("KUBEBUILDER_CONTROLPLANE_START_TIMEOUT", STARTS);
        process::output(&mut command)?;
        let summary = out.join("summary.yaml");
        let text = std::fs::read_to_string(&summary)
            .with_context(|| format!("the runner wrote no {}", summary.display()))?;
        if text.trim().is_empty() {
            bail!("the runner's summary is empty");
        }
        Ok(text)
    }
}

fn scratch() -> Result<PathBuf> {
    let dir = std::env::temp_dir().join(format!("kueue-{}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}
