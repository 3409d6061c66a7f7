//! Ministries with quotas, each with one project and one file that its jobs read.

use std::collections::BTreeMap;

use anyhow::Result;
use domain::quotas::{Key, NodeId, Policies, Quota};
use domain::{Clock, FileId, TenantId, VersionId};
use sqlx::postgres::PgConnection;
use store::Store;
use store::quotas::NewNode;

use super::platform::Platform;
use crate::database::rows;

/// Who submits jobs. Its only project has its own identifier.
#[derive(Clone, Copy, Debug)]
pub struct Ministry {
    /// The tenant.
    pub tenant: TenantId,
    /// What its jobs read.
    pub file: FileId,
}

/// Creates ministries, with a model for all of them.
pub struct Founder {
    store: Store,
    su: PgConnection,
    /// The version that every job asks for.
    pub version: VersionId,
    founded: usize,
}

impl Founder {
    /// Adds the model, and these accelerator classes.
    pub async fn new(platform: &Platform, classes: &[&str]) -> Result<Self> {
        let (mut su, version) = (platform.superuser().await?, VersionId::generate());
        let hash = "00".repeat(32);
        for sql in [
            format!("INSERT INTO models VALUES ('{version}', NULL, 'small', now())"),
            format!(
                "INSERT INTO model_versions VALUES ('{version}', '{version}', NULL, decode('{hash}', 'hex'), '{{\"format\":\"gguf\",\"files\":[]}}', now())"
            ),
        ] {
            rows(&mut su, &sql).await?;
        }
        for class in classes {
            let sql =
                format!("INSERT INTO accelerator_classes VALUES ('{class}', '') ON CONFLICT DO NOTHING");
            rows(&mut su, &sql).await?;
        }
        Ok(Self { store: platform.store.clone(), su, version, founded: 0 })
    }

    /// Adds a cohort, with quota of its own if any is given.
    pub async fn cohort(&mut self, name: &str, quotas: &BTreeMap<Key, Quota>) -> Result<NodeId> {
        let new = NewNode { parent: None, weight_milli: 1000, policies: Policies::default(), quotas };
        let name = name.parse()?;
        let mut tx = self.store.system().await?;
        store::quotas::put_cohort(&mut tx, &name, &new, Clock::system().now()).await?;
        let node = store::quotas::cohort(&mut tx, &name).await?;
        tx.commit().await?;
        Ok(node)
    }

    /// Adds a ministry in `node.parent`.
    pub async fn ministry(&mut self, node: &NewNode<'_>) -> Result<Ministry> {
        let (tenant, file, number) = (TenantId::generate(), FileId::generate(), self.founded);
        self.founded += 1;
        let hash = "00".repeat(32);
        for sql in [
            format!("INSERT INTO tenants VALUES ('{tenant}', 'q-{number}', 'Queue', now())"),
            format!("INSERT INTO projects VALUES ('{tenant}', '{tenant}', 'sandbox', 'Sandbox', now())"),
            format!(
                "INSERT INTO files VALUES ('{file}', '{tenant}', '{tenant}', 'batch', 'in.jsonl', 100, decode('{hash}', 'hex'), now())"
            ),
        ] {
            rows(&mut self.su, &sql).await?;
        }
        let mut tx = self.store.system().await?;
        store::quotas::put_tenant(&mut tx, tenant, node, Clock::system().now()).await?;
        tx.commit().await?;
        Ok(Ministry { tenant, file })
    }
}
