//! The official OpenAI client for Python, in an environment of its own.

use std::path::PathBuf;

use tokio::process::Command;

use crate::installation::Installation;

/// A run of a script in `tests/python` against an installation.
pub fn script(name: &str, installation: &Installation) -> Command {
    let python = std::env::var_os("CHANCERY_TEST_PYTHON")
        .expect("CHANCERY_TEST_PYTHON is not set; run the tests with `cargo xtask test it`");
    let mut command = Command::new(python);
    command
        .arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("python").join(name))
        .env("OPENAI_BASE_URL", installation.url("/v1"))
        .env("OPENAI_API_KEY", installation.key())
        .kill_on_drop(true);
    command
}
