//! Schemathesis: cases made from the API document, sent to the API, and
//! answers compared with what the document promises.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

/// Share of the cases in which a parameter is one that exists.
const EXISTING: f64 = 0.7;

/// What to test, as whom.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// Base URL of the API.
    pub base: String,
    /// A local account.
    pub login: String,
    /// Its password.
    pub password: String,
    /// Values that exist, by parameter: `path.endpoint`, `query.tenant`, `body.model`.
    pub existing: BTreeMap<&'static str, Vec<String>>,
    /// Requests that succeed, by operation: parameters by name, and `body`.
    pub examples: Value,
    /// Cases of each operation, in each phase.
    pub cases: u32,
    /// The same seed makes the same cases.
    pub seed: u32,
    /// Further arguments, such as which operations.
    pub arguments: Vec<String>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Whether no check failed.
    pub passed: bool,
    /// What Schemathesis printed.
    pub text: String,
    /// How often each operation answered with which status.
    pub answers: BTreeMap<String, BTreeMap<u16, u32>>,
}

impl Outcome {
    /// The failed checks, each with the request that shows it.
    pub fn failures(&self) -> &str {
        let from = ["= FAILURES =", "= ERRORS ="].iter().filter_map(|title| self.text.find(title)).min();
        let to = self.text.find("= WARNINGS =").unwrap_or(self.text.len());
        from.and_then(|from| self.text.get(from..to.max(from))).unwrap_or(&self.text)
    }

    /// Operations that have answered with a success.
    pub fn succeeded(&self) -> BTreeSet<String> {
        let good = |statuses: &BTreeMap<u16, u32>| statuses.keys().any(|status| (200..300).contains(status));
        self.answers.iter().filter(|(_, statuses)| good(statuses)).map(|(name, _)| name.clone()).collect()
    }
}

/// The operations of an API document, by method and path.
pub fn operations(document: &Value) -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("a path's operations") {
            if let Some(name) = operation["operationId"].as_str() {
                found.insert((method.to_uppercase(), path.clone()), name.to_owned());
            }
        }
    }
    found
}

/// Runs it; its records are read from, and left in, `dir`.
pub async fn run(campaign: &Campaign, document: &Value, dir: &Path) -> Outcome {
    let python = std::env::var_os("CHANCERY_TEST_PYTHON")
        .map(PathBuf::from)
        .expect("CHANCERY_TEST_PYTHON is not set; run the tests with `cargo xtask test it`");
    let (settings, records) = (dir.join("schemathesis.toml"), dir.join("records.ndjson"));
    std::fs::write(&settings, configuration(campaign)).expect("the settings can be written");
    let output = Command::new(python.with_file_name("schemathesis"))
        .arg("--config-file")
        .arg(&settings)
        .args(["--no-color", "run", &format!("{}/openapi.json", campaign.base)])
        .args(["--max-examples", &campaign.cases.to_string(), "--seed", &campaign.seed.to_string()])
        .args(["--continue-on-failure", "--report", "ndjson", "--report-ndjson-path"])
        .arg(&records)
        .args(&campaign.arguments)
        .env("SCHEMATHESIS_HOOKS", "conformance_hooks")
        .env("PYTHONPATH", PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("python"))
        .env("CONFORMANCE_EXAMPLES", campaign.examples.to_string())
        .env("CONFORMANCE_LOGIN", &campaign.login)
        .env("CONFORMANCE_PASSWORD", &campaign.password)
        .current_dir(dir)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("Schemathesis is installed by `cargo xtask test`; run that once");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let records = std::fs::read_to_string(&records).unwrap_or_default();
    Outcome { passed: output.status.success(), text, answers: answers(&records, &operations(document)) }
}

fn configuration(campaign: &Campaign) -> String {
    let common = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("python/schemathesis.toml");
    let mut text = std::fs::read_to_string(common).expect("the settings can be read");
    for (parameter, values) in &campaign.existing {
        let dictionary = parameter.replace('.', "_");
        // A list of texts is written alike in JSON and TOML.
        let values = serde_json::to_string(values).expect("texts are JSON");
        write!(
            text,
            "\n[dictionaries.{dictionary}]\nvalues = {values}\n\n[parameters.\"{parameter}\"]\n\
             dictionary = \"{dictionary}\"\nprobability = {EXISTING}\n"
        )
        .expect("a text can be extended");
    }
    text
}

/// Counts, in Schemathesis' records, what each operation has answered.
fn answers(
    records: &str,
    operations: &BTreeMap<(String, String), String>,
) -> BTreeMap<String, BTreeMap<u16, u32>> {
    let mut found: BTreeMap<String, BTreeMap<u16, u32>> = BTreeMap::new();
    for line in records.lines() {
        let record: Value = serde_json::from_str(line).expect("a record is JSON");
        let recorder = &record["ScenarioFinished"]["recorder"];
        let Some(interactions) = recorder["interactions"].as_object() else { continue };
        for (id, interaction) in interactions {
            let case = &recorder["cases"][id]["value"];
            let text = |name: &str| case[name].as_str().unwrap_or_default().to_owned();
            let Some(name) = operations.get(&(text("method"), text("path"))) else { continue };
            let status = interaction["response"]["status_code"].as_u64();
            let Some(status) = status.and_then(|status| u16::try_from(status).ok()) else { continue };
            *found.entry(name.clone()).or_default().entry(status).or_default() += 1;
        }
    }
    found
}
