//! `chancery accounts …`

use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use domain::principals::Role;
use serde::Deserialize;
use serde_json::json;

use super::{Call, note};
use crate::client::Scope;
use crate::{files, output};

/// What can be done with accounts.
#[derive(Subcommand, Debug)]
pub enum AccountsCommand {
    /// List the accounts of --tenant, or those of the platform.
    List,
    /// Create one in the ministry that --tenant names, or for the platform.
    Create {
        /// What the person signs in with, e.g. `ada@interior`.
        name: String,
        /// `tenant_admin` or `developer`; `platform_admin` without --tenant.
        #[arg(long, default_value = "developer")]
        role: Role,
        /// Name for people [default: the login].
        #[arg(long)]
        display_name: Option<String>,
        /// File with the password; otherwise it is read from standard input.
        #[arg(long, value_name = "FILE")]
        new_password_file: Option<PathBuf>,
    },
}

/// An account as the API shows it.
#[derive(Deserialize)]
struct Account {
    login: String,
    display_name: String,
    role: Role,
}

pub(super) async fn run(command: AccountsCommand, at: &Call) -> Result<()> {
    match command {
        AccountsCommand::List => {
            let items = at.client.list(Scope::Platform, "api/v1/accounts").await?;
            output::list(at.format, items, &["login", "name", "role"], |account: &Account| {
                vec![account.login.clone(), account.display_name.clone(), account.role.as_str().to_owned()]
            })
        }
        AccountsCommand::Create { name, role, display_name, new_password_file } => {
            let password = password(new_password_file)?;
            let account = json!({
                "login": name,
                "display_name": display_name.as_ref().unwrap_or(&name),
                "role": role,
                "password": password,
            });
            let made = at.client.post(Scope::Platform, "api/v1/accounts", &account).await?;
            output::object(at.format, made, |account: &Account| {
                vec![("login", account.login.clone()), ("role", account.role.as_str().to_owned())]
            })
        }
    }
}

/// Never an argument: those are seen by everyone on the machine.
fn password(file: Option<PathBuf>) -> Result<String> {
    if let Some(file) = file {
        return files::read_secret(&file);
    }
    if std::io::stdin().is_terminal() {
        note("The new password, then Enter and Ctrl-D (it will be seen; --new-password-file avoids that):");
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("the password cannot be read from standard input")?;
    let text = text.trim();
    if text.is_empty() {
        bail!("no password: give it on standard input, or name a file with --new-password-file");
    }
    Ok(text.to_owned())
}
