//! `migrations/landed.sha256`: what each migration was when it was committed.
//! A database keeps the digest of what it ran and refuses to go on from
//! anything else, so a migration that others have is never changed or taken away.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::project::Project;

const LIST: &str = "migrations/landed.sha256";

/// Fails if a listed migration is not what it was, or one is not listed.
pub fn check(project: &Project) -> Result<()> {
    let new = unlisted(project)?;
    if !new.is_empty() {
        let names: Vec<_> = new.into_keys().collect();
        bail!("{LIST} lacks {}; run `cargo xtask generate` and commit the result", names.join(", "));
    }
    Ok(())
}

/// Lists new migrations.
pub fn list(project: &Project) -> Result<()> {
    let mut text = read(project)?;
    for (name, digest) in unlisted(project)? {
        writeln!(text, "{digest}  {name}")?;
        println!("{LIST} has {name}");
    }
    fs::write(project.path(LIST), text).with_context(|| format!("cannot write {LIST}"))
}

fn read(project: &Project) -> Result<String> {
    fs::read_to_string(project.path(LIST)).with_context(|| format!("cannot read {LIST}"))
}

/// Migrations that are not listed, with their digests, once those that are
/// listed have been compared.
fn unlisted(project: &Project) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(project.path("migrations"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            found.insert(name, hex::encode(Sha256::digest(fs::read(&path)?)));
        }
    }
    compare(&read(project)?, found)
}

fn compare(list: &str, mut found: BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    for line in list.lines() {
        let (digest, name) =
            line.split_once("  ").with_context(|| format!("{LIST}: cannot read {line:?}"))?;
        match found.remove(name) {
            Some(now) if now == digest => {}
            Some(_) => {
                bail!("{name} was changed: databases that ran it could not be upgraded; write another")
            }
            None => bail!("{name} is gone: databases that ran it could not be upgraded; restore it"),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(migrations: &[(&str, &str)]) -> BTreeMap<String, String> {
        migrations.iter().map(|(name, digest)| ((*name).to_owned(), (*digest).to_owned())).collect()
    }

    #[test]
    fn what_has_landed_stays() {
        let list = "aa  1_a.sql\nbb  2_b.sql\n";
        let new = compare(list, found(&[("1_a.sql", "aa"), ("2_b.sql", "bb"), ("3_c.sql", "cc")])).unwrap();
        assert_eq!(new, found(&[("3_c.sql", "cc")]));
        let changed = compare(list, found(&[("1_a.sql", "aa"), ("2_b.sql", "b0")])).unwrap_err();
        assert!(changed.to_string().contains("2_b.sql was changed"), "{changed}");
        let gone = compare(list, found(&[("1_a.sql", "aa")])).unwrap_err();
        assert!(gone.to_string().contains("2_b.sql is gone"), "{gone}");
    }
}
