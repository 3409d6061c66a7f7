//! `chancery one-time-code …`: one's own second proof at sign-in.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Call, note};
use crate::args::Format;
use crate::client::Scope;
use crate::{files, output};

const PATH: &str = "api/v1/me/one-time-code";

/// What can be done with one's one-time codes.
#[derive(Subcommand, Debug)]
pub enum OneTimeCodeCommand {
    /// Get a secret for one's device; in force once `confirm` was given a code.
    Enrol,
    /// Put the codes in force with one that the device shows, and get recovery codes.
    Confirm {
        /// The six digits.
        code: String,
        /// Write the recovery codes into this file, readable by you alone, instead of printing them.
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Do without them from now on.
    Remove {
        /// A code of the device, or a recovery code.
        code: String,
    },
}

#[derive(Deserialize)]
struct Enrolment {
    secret: String,
    url: String,
}

#[derive(Deserialize)]
struct Recovery {
    recovery_codes: Vec<String>,
}

pub(super) async fn run(command: OneTimeCodeCommand, at: &Call) -> Result<()> {
    match command {
        OneTimeCodeCommand::Enrol => {
            let made = at.client.post(Scope::Platform, PATH, &json!({})).await?;
            output::object(at.format, made, |made: &Enrolment| {
                vec![("secret", made.secret.clone()), ("url", made.url.clone())]
            })?;
            note("Type the secret into the device, or show it the URL as a QR code. It is not shown again.");
            note("Then: `chancery one-time-code confirm CODE`.");
            Ok(())
        }
        OneTimeCodeCommand::Confirm { code, to } => {
            to.as_deref().map(files::ensure_writable).transpose()?;
            let answer =
                at.client.post(Scope::Platform, &format!("{PATH}/confirm"), &json!({ "code": code })).await?;
            show_recovery(at, answer, to)
        }
        OneTimeCodeCommand::Remove { code } => {
            at.client.post(Scope::Platform, &format!("{PATH}/remove"), &json!({ "code": code })).await?;
            note("Signing in asks for no one-time code any more.");
            Ok(())
        }
    }
}

fn show_recovery(at: &Call, answer: Value, to: Option<PathBuf>) -> Result<()> {
    if to.is_none() && at.format == Format::Json {
        return output::json(&answer);
    }
    let codes = output::parse::<Recovery>(answer)?.recovery_codes.join("\n");
    note("Signing in asks for a code of the device from now on: --one-time-code.");
    match to {
        Some(file) => {
            files::write_private(&file, &format!("{codes}\n"))
                .context("the codes are in force, but the recovery codes are lost: remove and enrol again")?;
            note(format_args!("The recovery codes are in {}; they are kept nowhere else.", file.display()));
        }
        None => {
            output::print(&codes)?;
            note("Each of these works once in place of a code. Keep them: they are not shown again.");
        }
    }
    Ok(())
}
