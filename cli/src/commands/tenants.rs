//! `chancery tenants …`

mod delete;

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use domain::tenants::{Classification, Slug, Tenant};
use serde_json::{Map, Value, json};

use super::{Call, note};
use crate::client::Scope;
use crate::output;

/// What can be done with ministries.
#[derive(Subcommand, Debug)]
pub enum TenantsCommand {
    /// List every ministry.
    List,
    /// Show one.
    Show {
        /// Its short name.
        slug: Slug,
    },
    /// Create one.
    Create {
        /// Short name, e.g. `interior`.
        slug: Slug,
        /// Name for people, e.g. "Ministry of the Interior" [default: the short name].
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        options: TenantOptions,
    },
    /// Change what is named, and nothing else.
    Update {
        /// Its short name.
        slug: Slug,
        /// Name for people.
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        options: TenantOptions,
    },
    /// Begin nothing new for it; what runs goes on.
    Suspend {
        /// Its short name.
        slug: Slug,
    },
    /// Let it work again.
    Resume {
        /// Its short name.
        slug: Slug,
    },
    /// Write its rows and files into a tar archive.
    Export {
        /// Its short name.
        slug: Slug,
        /// The archive to write.
        #[arg(long = "to", value_name = "FILE")]
        file: PathBuf,
    },
    /// Delete it with all that belongs to it, and keep the certificate.
    Delete {
        /// Its short name.
        slug: Slug,
        /// Export it first, to this archive.
        #[arg(long, value_name = "FILE")]
        export: Option<PathBuf>,
        /// Where to keep the certificate [default: SLUG-deletion.json].
        #[arg(long, value_name = "FILE")]
        certificate: Option<PathBuf>,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

/// What bounds a ministry.
#[derive(clap::Args, Debug)]
pub struct TenantOptions {
    /// A zone that its work and data may be in, several times for several; `any` for all.
    #[arg(long = "zone", value_name = "ZONE")]
    zones: Vec<Slug>,
    /// How secret its data may be: public, internal, confidential or secret.
    #[arg(long)]
    classification: Option<Classification>,
    /// Days that files are kept; 0 until they are deleted.
    #[arg(long, value_name = "DAYS")]
    files_days: Option<u32>,
    /// Days that results of jobs are kept; 0 until they are deleted.
    #[arg(long, value_name = "DAYS")]
    results_days: Option<u32>,
    /// Whether it is protected from deletion.
    #[arg(long, value_name = "BOOL")]
    delete_protection: Option<bool>,
}

impl TenantOptions {
    fn named(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        if !self.zones.is_empty() {
            let zones: Vec<&Slug> = self.zones.iter().filter(|zone| zone.as_str() != "any").collect();
            fields.insert("zones".to_owned(), json!(zones));
        }
        let mut retention = Map::new();
        for (name, days) in [("files_days", self.files_days), ("results_days", self.results_days)] {
            if let Some(days) = days {
                retention.insert(name.to_owned(), if days == 0 { Value::Null } else { json!(days) });
            }
        }
        if !retention.is_empty() {
            fields.insert("retention".to_owned(), Value::Object(retention));
        }
        fields.extend(self.classification.map(|c| ("classification".to_owned(), json!(c))));
        fields.extend(self.delete_protection.map(|p| ("delete_protection".to_owned(), json!(p))));
        fields
    }
}

fn path(slug: &Slug) -> String {
    format!("api/v1/tenants/{slug}")
}

pub(super) async fn run(command: TenantsCommand, at: &Call) -> Result<()> {
    let answer = match command {
        TenantsCommand::List => {
            let items = at.client.list(Scope::Platform, "api/v1/tenants").await?;
            return output::list(at.format, items, &["tenant", "name", "status", "created"], row);
        }
        TenantsCommand::Show { slug } => at.client.get(Scope::Platform, &path(&slug), &[]).await?,
        TenantsCommand::Create { slug, name, options } => {
            let mut fields = options.named();
            fields.insert("name".to_owned(), json!(name.unwrap_or_else(|| slug.to_string())));
            fields.insert("slug".to_owned(), json!(slug));
            at.client.post(Scope::Platform, "api/v1/tenants", &fields).await?
        }
        TenantsCommand::Update { slug, name, options } => {
            let mut fields = options.named();
            fields.extend(name.map(|name| ("name".to_owned(), json!(name))));
            at.client.patch(Scope::Platform, &path(&slug), &fields).await?
        }
        TenantsCommand::Suspend { slug } => set_status(at, &slug, "suspended").await?,
        TenantsCommand::Resume { slug } => set_status(at, &slug, "active").await?,
        TenantsCommand::Export { slug, file } => {
            let digest = delete::export(at, &slug, &file).await?;
            note(format_args!("Wrote {}.", file.display()));
            return output::print(&digest.to_string());
        }
        TenantsCommand::Delete { slug, export, certificate, yes } => {
            return delete::run(at, &slug, export.as_deref(), certificate, yes).await;
        }
    };
    output::object(at.format, answer, fields)
}

async fn set_status(at: &Call, slug: &Slug, status: &str) -> Result<Value> {
    at.client.patch(Scope::Platform, &path(slug), &json!({ "status": status })).await
}

fn row(tenant: &Tenant) -> Vec<String> {
    vec![
        tenant.slug.to_string(),
        tenant.name.clone(),
        tenant.status.as_str().to_owned(),
        output::moment(tenant.created_at),
    ]
}

fn fields(tenant: &Tenant) -> Vec<(&'static str, String)> {
    let days =
        |days: Option<u32>| days.map_or_else(|| "until deleted".to_owned(), |days| format!("{days} days"));
    let zones = if tenant.zones.is_empty() { "any".to_owned() } else { tenant.zones.join(", ") };
    vec![
        ("tenant", tenant.slug.to_string()),
        ("name", tenant.name.clone()),
        ("id", tenant.id.to_string()),
        ("status", tenant.status.as_str().to_owned()),
        ("zones", zones),
        ("classification", tenant.classification.as_str().to_owned()),
        ("files", days(tenant.retention.files_days)),
        ("results", days(tenant.retention.results_days)),
        ("protected", tenant.delete_protection.to_string()),
        ("created", output::moment(tenant.created_at)),
    ]
}
