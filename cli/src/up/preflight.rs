//! What can be known to fail before anything is started, each as one sentence.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use domain::models::Sha256Digest;

use super::console::Console;
use super::folder::Folder;
use super::{ports, sample};
use crate::args::UpOptions;
use crate::client::upload;
use crate::config::Config;
use crate::output;

/// What a GGUF file starts with.
const GGUF_MAGIC: &[u8; 4] = b"GGUF";
/// Room for the database and logs of a first run.
const FIRST_RUN_BYTES: u64 = 512 << 20;
/// Room without which a start makes no sense.
const LATER_RUN_BYTES: u64 = 64 << 20;
/// A disk with less is full: nothing of ours fits any more.
const FULL_BYTES: u64 = 16 << 20;

/// Models whose content is known, so that a damaged download is named here
/// and not when an engine cannot load it.
const KNOWN_MODELS: [(&str, &str); 1] =
    [("smollm2-135m-instruct-q4_1.gguf", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53")];

/// The data folder, held.
pub async fn open(options: &UpOptions, console: &Console) -> Result<Folder> {
    Folder::open(&options.data_dir, console).await
}

/// Everything that can be checked beforehand.
pub async fn check(options: &UpOptions, config: &Config, folder: &Folder) -> Result<()> {
    crate::telemetry::filter(&config.log)?;
    ports::ensure_free(config.api.listen)?;
    let first_run = !folder.path(sample::KEY_FILE).exists();
    let mut room = if first_run { FIRST_RUN_BYTES } else { LATER_RUN_BYTES };
    match &options.sample_model {
        // Only the first run reads it; it may be gone by the second.
        Some(model) if first_run => {
            let model = model.clone();
            // The object store and the worker keep a copy each.
            room += 2 * tokio::task::spawn_blocking(move || check_model(&model)).await??;
        }
        None if first_run && !options.no_sample => bail!(
            "the sample ministry needs a model: name a GGUF file with --sample-model, or leave it out with --no-sample"
        ),
        _ => {}
    }
    ensure_room(folder.given(), room)
}

/// Readable, of the right kind and, if its name is known, undamaged.
fn check_model(path: &Path) -> Result<u64> {
    let (mut file, bytes) = upload::open(path)?;
    let mut magic = [0; 4];
    if read_magic(&mut file, &mut magic).is_none() || magic != *GGUF_MAGIC {
        bail!(
            "{} is not a GGUF model, or is damaged: fetch it again, or name another with --sample-model",
            path.display()
        );
    }
    let known = path.file_name().and_then(|name| KNOWN_MODELS.iter().find(|known| name == known.0));
    if let Some((_, digest)) = known {
        let expected: Sha256Digest =
            digest.parse().map_err(anyhow::Error::msg).context("a constant digest")?;
        if upload::sha256(path)? != expected {
            bail!(
                "{} is damaged (its SHA-256 is not {}…): delete it and fetch it again",
                path.display(),
                &digest[..12]
            );
        }
    }
    Ok(bytes)
}

fn read_magic(file: &mut File, magic: &mut [u8; 4]) -> Option<()> {
    file.read_exact(magic).ok()
}

/// What went wrong, or that the disk is full, if it is: then that is why.
pub fn explain(error: anyhow::Error, folder: Option<&Folder>) -> anyhow::Error {
    let Some(folder) = folder.map(Folder::given) else { return error };
    match free_bytes(folder) {
        Ok(free) if free < FULL_BYTES => {
            let sentence = format!(
                "the disk that holds {} is full: free some space and run this again",
                folder.display()
            );
            error.context(sentence)
        }
        _ => error,
    }
}

fn free_bytes(folder: &Path) -> Result<u64> {
    let found = nix::sys::statvfs::statvfs(folder)
        .with_context(|| format!("cannot ask for the free space of {}", folder.display()))?;
    Ok(found.blocks_available() * found.fragment_size())
}

fn ensure_room(folder: &Path, needed: u64) -> Result<()> {
    let free = free_bytes(folder)?;
    if free < needed {
        bail!(
            "the disk that holds {} has {} free and {} are needed: free some space, or choose another place with --data-dir",
            folder.display(),
            output::bytes(free),
            output::bytes(needed)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        assert!(check_model(&path).unwrap_err().to_string().contains("cannot read"));
        std::fs::write(&path, "PK zip").unwrap();
        assert!(check_model(&path).unwrap_err().to_string().contains("not a GGUF model"));
        std::fs::write(&path, "GGUF and more").unwrap();
        assert_eq!(check_model(&path).unwrap(), 13);
        let known = dir.path().join(KNOWN_MODELS[0].0);
        std::fs::rename(&path, &known).unwrap();
        assert!(check_model(&known).unwrap_err().to_string().contains("is damaged"));
    }

    #[test]
    fn room_is_asked_for() {
        assert!(ensure_room(Path::new("/"), 1).is_ok());
        let error = ensure_room(Path::new("/"), u64::MAX).unwrap_err().to_string();
        assert!(error.contains("--data-dir"), "{error}");
    }
}
