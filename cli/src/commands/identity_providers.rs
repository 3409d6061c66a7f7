//! `chancery identity-providers …`

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use domain::ProviderId;
use domain::identity::{GroupMapping, IdentityProvider, IssuerUrl, SigningAlgorithm};
use domain::principals::Role;
use domain::tenants::Slug;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Call, note};
use crate::client::Scope;
use crate::{files, output};

const PATH: &str = "api/v1/identity-providers";

/// What can be done with identity providers.
#[derive(Subcommand, Debug)]
pub enum IdentityProvidersCommand {
    /// List those of --tenant, or those of the platform.
    List,
    /// Show one, with what to register there.
    Show {
        /// Its name or identifier.
        provider: String,
    },
    /// Register one for the ministry that --tenant names, or for the platform.
    Create {
        /// Short name, e.g. `staff`.
        name: Slug,
        /// Its issuer exactly as its tokens write it, e.g. https://id.interior.example/realms/interior.
        #[arg(long, value_name = "URL")]
        issuer: IssuerUrl,
        #[command(flatten)]
        settings: Settings,
    },
    /// Change one; what is not named stays.
    Update {
        /// Its name or identifier.
        provider: String,
        #[command(flatten)]
        settings: Settings,
        /// Let nobody sign in with it, and sign out who did.
        #[arg(long, conflicts_with = "enable")]
        disable: bool,
        /// Let people sign in with it again.
        #[arg(long)]
        enable: bool,
    },
    /// Ask it for its description and keys, and say what is wrong with them.
    Check {
        /// Its name or identifier.
        provider: String,
    },
    /// Delete one, and the accounts of the people it vouches for.
    Delete {
        /// Its name or identifier.
        provider: String,
    },
}

/// Settings of an identity provider.
#[derive(Args, Debug)]
pub struct Settings {
    /// What a sign-in page calls it, for all to read [default: the short name].
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    /// The name this installation has there.
    #[arg(long, value_name = "NAME")]
    client_id: Option<String>,
    /// File with what proves to it who asks [default: a public client].
    #[arg(long, value_name = "FILE")]
    client_secret_file: Option<PathBuf>,
    /// What `aud` of an access token must contain [default: the client's name].
    #[arg(long)]
    audience: Option<String>,
    /// What its tokens may be signed with, e.g. ES256; repeat for several [default: RS256].
    #[arg(long = "algorithm", value_name = "NAME")]
    algorithms: Vec<SigningAlgorithm>,
    /// Where a token names groups, e.g. realm_access.roles [default: groups].
    #[arg(long, value_name = "CLAIM")]
    groups_claim: Option<String>,
    /// What a group gives: GROUP=ROLE, or GROUP=ROLE@PROJECT for one project;
    /// repeat for several. In an update, these replace all there are.
    #[arg(long = "map", value_name = "GROUP=ROLE[@PROJECT]", value_parser = mapping)]
    mappings: Vec<GroupMapping>,
}

impl Settings {
    /// The fields that are named, without the mappings.
    fn named(&self) -> Result<Map<String, Value>> {
        let secret = self.client_secret_file.as_deref().map(files::read_secret).transpose()?;
        let algorithms = (!self.algorithms.is_empty()).then_some(&self.algorithms);
        let fields = [
            ("label", json!(self.label)),
            ("client_id", json!(self.client_id)),
            ("client_secret", json!(secret)),
            ("audience", json!(self.audience)),
            ("algorithms", json!(algorithms)),
            ("groups_claim", json!(self.groups_claim)),
        ];
        let named = fields.into_iter().filter(|(_, value)| !value.is_null());
        Ok(named.map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

fn mapping(text: &str) -> Result<GroupMapping, String> {
    let (group, gives) = text.rsplit_once('=').ok_or("write GROUP=ROLE, or GROUP=ROLE@PROJECT")?;
    let (role, project) = match gives.split_once('@') {
        Some((role, project)) => (role, Some(project.parse::<Slug>().map_err(|e| e.to_string())?)),
        None => (gives, None),
    };
    Ok(GroupMapping { group: group.to_owned(), role: role.parse::<Role>()?, project })
}

/// A provider as the API shows it.
#[derive(Deserialize)]
struct Shown {
    #[serde(flatten)]
    provider: IdentityProvider,
    callback_path: String,
    backchannel_logout_path: String,
    login_path: String,
}

/// What a check found.
#[derive(Deserialize)]
struct Found {
    ok: bool,
    problems: Vec<String>,
    remarks: Vec<String>,
    keys: usize,
}

pub(super) async fn run(command: IdentityProvidersCommand, at: &Call) -> Result<()> {
    match command {
        IdentityProvidersCommand::List => {
            let items = at.client.list(Scope::Platform, PATH).await?;
            output::list(at.format, items, &["name", "issuer", "client", "groups mapped", "state", "id"], row)
        }
        IdentityProvidersCommand::Show { provider } => {
            let found = at.client.get(Scope::Platform, &path(at, &provider).await?, &[]).await?;
            output::object(at.format, found, fields)
        }
        IdentityProvidersCommand::Create { name, issuer, settings } => {
            let mut new = settings.named()?;
            if !new.contains_key("client_id") {
                bail!("say which name this installation has at the provider: --client-id");
            }
            new.insert("name".to_owned(), json!(name));
            new.insert("issuer".to_owned(), json!(issuer));
            new.insert("mappings".to_owned(), json!(settings.mappings));
            let made = at.client.post(Scope::Platform, PATH, &new).await?;
            output::object(at.format, made, fields)?;
            note("Register the callback and the back-channel logout at the provider, then run `check`.");
            Ok(())
        }
        IdentityProvidersCommand::Update { provider, settings, disable, enable } => {
            let path = path(at, &provider).await?;
            let mut change = settings.named()?;
            if disable || enable {
                change.insert("enabled".to_owned(), json!(enable));
            }
            let mut now = None;
            if !change.is_empty() {
                now = Some(at.client.patch(Scope::Platform, &path, &change).await?);
            }
            if !settings.mappings.is_empty() {
                let mappings = json!({"mappings": settings.mappings});
                now = Some(at.client.put(Scope::Platform, &format!("{path}/mappings"), &mappings).await?);
            }
            output::object(at.format, now.context("say what to change")?, fields)
        }
        IdentityProvidersCommand::Check { provider } => {
            let path = format!("{}/check", path(at, &provider).await?);
            let found = at.client.post(Scope::Platform, &path, &json!({})).await?;
            let ok = found["ok"] == true;
            output::object(at.format, found, |found: &Found| {
                let mut lines = vec![("ok", if found.ok { "yes" } else { "no" }.to_owned())];
                lines.push(("keys", found.keys.to_string()));
                lines.extend(found.problems.iter().map(|problem| ("problem", problem.clone())));
                lines.extend(found.remarks.iter().map(|remark| ("remark", remark.clone())));
                lines
            })?;
            if ok { Ok(()) } else { bail!("people cannot sign in with {provider} as it is") }
        }
        IdentityProvidersCommand::Delete { provider } => {
            at.client.delete(Scope::Platform, &path(at, &provider).await?).await?;
            note(format_args!("Deleted {provider}, and the accounts it vouched for."));
            Ok(())
        }
    }
}

/// Where a provider is, by name or identifier.
async fn path(at: &Call, provider: &str) -> Result<String> {
    if provider.parse::<ProviderId>().is_ok() {
        return Ok(format!("{PATH}/{provider}"));
    }
    let items = at.client.list(Scope::Platform, PATH).await?;
    let found = items.iter().find(|item| item["name"] == provider);
    let id = found.and_then(|item| item["id"].as_str()).with_context(|| {
        format!("there is no identity provider {provider}; name the ministry with --tenant, or see `list`")
    })?;
    Ok(format!("{PATH}/{id}"))
}

fn row(shown: &Shown) -> Vec<String> {
    let provider = &shown.provider;
    vec![
        provider.name.to_string(),
        provider.issuer.to_string(),
        provider.client_id.clone(),
        provider.mappings.len().to_string(),
        state(provider).to_owned(),
        provider.id.to_string(),
    ]
}

fn state(provider: &IdentityProvider) -> &'static str {
    if provider.enabled { "enabled" } else { "disabled" }
}

fn fields(shown: &Shown) -> Vec<(&'static str, String)> {
    let provider = &shown.provider;
    let algorithms: Vec<_> = provider.algorithms.iter().map(ToString::to_string).collect();
    let mut fields = vec![
        ("name", provider.name.to_string()),
        ("label", provider.label.clone()),
        ("id", provider.id.to_string()),
        ("issuer", provider.issuer.to_string()),
        ("client", provider.client_id.clone()),
        ("audience", provider.audience.clone()),
        ("algorithms", algorithms.join(", ")),
        ("groups claim", provider.groups_claim.clone()),
        ("state", state(provider).to_owned()),
        ("login", shown.login_path.clone()),
        ("callback", shown.callback_path.clone()),
        ("back-channel logout", shown.backchannel_logout_path.clone()),
    ];
    fields.extend(provider.mappings.iter().map(|mapping| {
        let place = mapping.project.as_ref().map(|project| format!(" in {project}")).unwrap_or_default();
        ("group", format!("{} is {}{place}", mapping.group, mapping.role.as_str()))
    }));
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_written_short() {
        let read = |text| mapping(text).unwrap();
        assert_eq!(
            (read("/staff=developer").role, read("/staff=developer").project),
            (Role::Developer, None)
        );
        let odd = read("cn=desk,ou=x=user@sandbox");
        assert_eq!((odd.group.as_str(), odd.role), ("cn=desk,ou=x", Role::User));
        assert_eq!(odd.project.unwrap().as_str(), "sandbox");
        for bad in ["staff", "staff=king", "staff=user@Not a slug", ""] {
            assert!(mapping(bad).is_err(), "{bad}");
        }
    }
}
