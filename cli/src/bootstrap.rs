//! `chancery bootstrap-admin`: the first administrator of an installation that
//! `up` did not set up, and the way back in when none can sign in any more.

use anyhow::{Context, Result, bail};
use api::problem::ApiError;
use api::{AdminOutcome, FirstPassword};
use domain::Clock;
use serde_json::json;

use crate::args::{BootstrapOptions, Format, Global};
use crate::config::Config;
use crate::{files, output, random, roles};

/// Random bytes of the password.
const PASSWORD_BYTES: usize = 16;

/// Makes or resets the account, then shows its password once.
pub async fn run(options: BootstrapOptions, global: &Global) -> Result<()> {
    let Some(login) = &global.login else {
        bail!("name the administrator with --login, e.g. --login admin@localhost");
    };
    let config = Config::load(global.config.as_deref())?;
    options.to.as_deref().map(files::ensure_writable).transpose()?;
    let password = hex::encode(random::<PASSWORD_BYTES>()?);
    let clock = Clock::system();
    let store = roles::open(&config, 1).await?;
    let outcome = if options.reset {
        api::reset_admin(&store, &clock, login, &password).await
    } else {
        api::bootstrap_admin(&store, &clock, login, &password, FirstPassword::MustChange).await
    };
    store.close().await;
    let done = match outcome.map_err(explained)? {
        AdminOutcome::Created => "Created",
        AdminOutcome::Reset => "Reset",
        AdminOutcome::Exists => bail!(
            "the platform has an administrator already, who makes others with `chancery accounts create`; \
             if none can sign in any more, run this again with --reset, which the audit log will show"
        ),
    };
    match (&options.to, global.output) {
        (Some(file), _) => {
            files::write_private(file, &format!("{password}\n"))
                .context("the account is there, but its password is lost: run this again with --reset")?;
            eprintln!("{done} {login}; the password is in {}.", file.display());
        }
        (None, Format::Json) => output::json(&json!({ "login": login, "password": password }))?,
        (None, Format::Table) => {
            output::print(&password)?;
            eprintln!("{done} {login}. The password is not shown again.");
        }
    }
    eprintln!("It must be changed before anything else: `chancery accounts change-password`.");
    Ok(())
}

/// What the API would call internal is the operator's own database here.
fn explained(error: ApiError) -> anyhow::Error {
    let broken = matches!(error, ApiError::Internal(_) | ApiError::Unavailable(_));
    let error = match error {
        ApiError::InvalidField { field, detail } => anyhow::anyhow!("the {field} {detail}"),
        error => error.into(),
    };
    if !broken {
        return error;
    }
    error
        .context("the database does not have what it must: has `chancery migrate` run? (--verbose says more)")
}
