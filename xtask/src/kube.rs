//! etcd, and the API server and scheduler of Kubernetes: peers, and what peers
//! that live in a cluster are measured on. Built from Go modules (`xtask/go/`),
//! kept in the cache.

mod control_plane;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::progress::Line;
use crate::project::Project;
use crate::{process, tools};

pub use control_plane::{ControlPlane, free_port};

/// As in `xtask/go/kube/go.mod`.
const KUBERNETES: (&str, &str, &str) = ("1", "36", "3");
/// As in `xtask/go/etcd/go.mod`.
const ETCD: &str = "3.6.5";

/// Changes when the steps below do, so that an older installation is not used.
const RECIPE: u32 = 2;

/// The folder of `etcd`, `kube-apiserver`, `kube-scheduler` and `kubectl`.
pub fn ensure(project: &Project, line: &Line) -> Result<PathBuf> {
    let (major, minor, patch) = KUBERNETES;
    let name = format!("kube-{major}.{minor}.{patch}-etcd-{ETCD}-{RECIPE}");
    tools::ensure_dir(project, &name, |dir| {
        line.says("building etcd (1 min)");
        build(&project.path("xtask/go/etcd"), dir, "", &["go.etcd.io/etcd/server/v3"])?;
        fs::rename(dir.join("server"), dir.join("etcd")).context("etcd was not built")?;
        line.says("building Kubernetes' API server and scheduler (5 min)");
        // Without its version clients take it for one that is too old.
        let version = "k8s.io/component-base/version.git";
        let flags = format!(
            "-s -w -X {version}Version=v{major}.{minor}.{patch} -X {version}Major={major} -X {version}Minor={minor}"
        );
        let programs = ["kube-apiserver", "kube-scheduler", "kubectl"];
        let programs = programs.map(|name| format!("k8s.io/kubernetes/cmd/{name}"));
        build(&project.path("xtask/go/kube"), dir, &flags, &programs.each_ref().map(String::as_str))
    })
}

/// Builds programs of the module in `module` into `dir`.
pub fn build(module: &Path, dir: &Path, flags: &str, programs: &[&str]) -> Result<()> {
    tools::go()?;
    let mut into = dir.as_os_str().to_owned();
    into.push("/");
    let mut go = Command::new("go");
    go.args(["build", "-buildvcs=false", "-ldflags", flags, "-o"]).arg(into).args(programs);
    process::output(go.current_dir(module))?;
    Ok(())
}
