//! `chancery accounts …`

use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use domain::PrincipalId;
use domain::principals::{Principal, Role};
use serde_json::json;

use super::{Call, note};
use crate::args::Format;
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
        /// `tenant_admin`, `auditor`, `developer`, `user`, `viewer` or `member`; without --tenant
        /// `platform_admin`, `model_approver` or `auditor`.
        #[arg(long, default_value = "developer")]
        role: Role,
        /// Name for people [default: the login].
        #[arg(long)]
        display_name: Option<String>,
        /// File with the password; otherwise it is read from standard input.
        #[arg(long, value_name = "FILE")]
        new_password_file: Option<PathBuf>,
        /// The person must choose another password at the first sign-in.
        #[arg(long)]
        must_change_password: bool,
    },
    /// Show one.
    Show {
        /// Its identifier, as `accounts list` shows it.
        id: PrincipalId,
    },
    /// Change its name or role.
    Update {
        /// Its identifier.
        id: PrincipalId,
        /// What it may do.
        #[arg(long)]
        role: Option<Role>,
        /// Name for people.
        #[arg(long)]
        display_name: Option<String>,
    },
    /// Let it do nothing any more, at once; its sessions end.
    Disable {
        /// Its identifier.
        id: PrincipalId,
    },
    /// Let it sign in again.
    Enable {
        /// Its identifier.
        id: PrincipalId,
    },
    /// Give it another password, which must be changed at the next sign-in.
    ResetPassword {
        /// Its identifier.
        id: PrincipalId,
        /// File with the password [default: one is made and printed].
        #[arg(long, value_name = "FILE")]
        new_password_file: Option<PathBuf>,
    },
    /// Take its one-time codes away, for who has lost the device.
    ResetOneTimeCode {
        /// Its identifier.
        id: PrincipalId,
    },
    /// Delete it; its sessions end.
    Delete {
        /// Its identifier.
        id: PrincipalId,
    },
    /// Change one's own password.
    ChangePassword {
        /// File with the new one; put it into --password-file afterwards.
        #[arg(long, value_name = "FILE")]
        new_password_file: PathBuf,
    },
}

pub(super) async fn run(command: AccountsCommand, at: &Call) -> Result<()> {
    match command {
        AccountsCommand::List => {
            let items = at.client.list(Scope::Platform, "api/v1/accounts").await?;
            output::list(
                at.format,
                items,
                &["id", "login", "name", "role", "state"],
                |account: &Principal| {
                    vec![
                        account.id.to_string(),
                        account.login.clone(),
                        account.display_name.clone(),
                        account.role.to_string(),
                        state(account),
                    ]
                },
            )
        }
        AccountsCommand::Create { name, role, display_name, new_password_file, must_change_password } => {
            let password = password(new_password_file)?;
            let account = json!({
                "login": name,
                "display_name": display_name.as_ref().unwrap_or(&name),
                "role": role,
                "password": password,
                "must_change_password": must_change_password,
            });
            let made = at.client.post(Scope::Platform, "api/v1/accounts", &account).await?;
            output::object(at.format, made, fields)
        }
        AccountsCommand::Show { id } => {
            output::object(at.format, at.client.get(Scope::Platform, &path(id), &[]).await?, fields)
        }
        AccountsCommand::Update { id, role, display_name } => {
            let mut update = json!({});
            if let Some(role) = role {
                update["role"] = json!(role);
            }
            if let Some(name) = display_name {
                update["display_name"] = json!(name);
            }
            output::object(at.format, at.client.patch(Scope::Platform, &path(id), &update).await?, fields)
        }
        AccountsCommand::Disable { id } => disable(at, id, true).await,
        AccountsCommand::Enable { id } => disable(at, id, false).await,
        AccountsCommand::ResetPassword { id, new_password_file } => {
            let given = new_password_file.as_deref().map(files::read_secret).transpose()?;
            let body = json!({ "password": given });
            let made = at.client.post(Scope::Platform, &format!("{}/password", path(id)), &body).await?;
            match (at.format, made["password"].as_str()) {
                (Format::Json, _) => output::json(&made),
                (Format::Table, Some(password)) => {
                    output::print(password)?;
                    note("Hand it over: it is not shown again, and must be changed at the next sign-in.");
                    Ok(())
                }
                (Format::Table, None) => {
                    note("It has the password of that file, until the next sign-in.");
                    Ok(())
                }
            }
        }
        AccountsCommand::ResetOneTimeCode { id } => {
            at.client.delete(Scope::Platform, &format!("{}/one-time-code", path(id))).await?;
            note(format_args!("{id} signs in without one-time codes."));
            Ok(())
        }
        AccountsCommand::Delete { id } => {
            at.client.delete(Scope::Platform, &path(id)).await?;
            note(format_args!("Deleted {id}."));
            Ok(())
        }
        AccountsCommand::ChangePassword { new_password_file } => {
            let new = files::read_secret(&new_password_file)?;
            let old = at.client.password()?;
            at.client.post(Scope::Platform, "api/v1/me/password", &json!({"old": old, "new": new})).await?;
            note("The password is changed; name its file with --password-file from now on.");
            Ok(())
        }
    }
}

async fn disable(at: &Call, id: PrincipalId, disabled: bool) -> Result<()> {
    let changed = at.client.patch(Scope::Platform, &path(id), &json!({ "disabled": disabled })).await?;
    output::object(at.format, changed, fields)
}

fn path(id: PrincipalId) -> String {
    format!("api/v1/accounts/{id}")
}

/// What is said of one account.
pub(super) fn fields(account: &Principal) -> Vec<(&'static str, String)> {
    vec![
        ("id", account.id.to_string()),
        ("login", account.login.clone()),
        ("name", account.display_name.clone()),
        ("role", account.role.to_string()),
        ("state", state(account)),
        ("signed in", output::moment_or_dash(account.signed_in_at)),
    ]
}

pub(super) fn state(account: &Principal) -> String {
    match (account.disabled_at, account.must_change_password) {
        (Some(at), _) => format!("disabled {}", output::moment(at)),
        (None, true) => "must change its password".to_owned(),
        (None, false) => "active".to_owned(),
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
