//! Retention: what tenants keep no longer is erased, one audit event for each
//! tenant and run.

use std::time::Duration;

use domain::files::File;
use domain::tenants::Retention;
use domain::{Clock, TenantId};
use serde_json::json;
use store::leadership::{Term, fence};
use store::objects::Objects;
use store::{Store, StoreError, audit, retention};
use tracing::{info, warn};

/// Files that one run erases; what is left waits for the next.
const FILES: i64 = 500;
/// Results that one run erases.
const RESULTS: i64 = 20_000;

/// One run over every tenant. Returns whether anything was erased, so that
/// there may be more.
pub async fn tick(store: &Store, objects: &Objects, clock: &Clock, term: Term) -> Result<bool, StoreError> {
    let tenants = retention::tenants(&mut store.system().await?).await?;
    let (mut any, mut first_error) = (false, None);
    for (tenant, rules) in tenants {
        match expire(store, objects, clock, term, tenant, rules).await {
            Ok(erased) => any |= erased,
            Err(StoreError::NotLeader) => return Err(StoreError::NotLeader),
            // A job began to read a file: next time it is spared.
            Err(StoreError::Conflict(_)) => {}
            Err(e) => {
                warn!(tenant.id = %tenant, error = &e as &dyn std::error::Error, "Retention of tenant {tenant} failed");
                first_error.get_or_insert(e);
            }
        }
    }
    first_error.map_or(Ok(any), Err)
}

async fn expire(
    store: &Store,
    objects: &Objects,
    clock: &Clock,
    term: Term,
    tenant: TenantId,
    rules: Retention,
) -> Result<bool, StoreError> {
    let now = clock.now();
    let mut tx = store.system().await?;
    fence(&mut tx, term.epoch).await?;
    let mut files = Vec::new();
    if let Some(age) = rules.files_days.map(days) {
        files = retention::expire_files(&mut tx, tenant, age, FILES, now).await?;
    }
    let mut results = 0;
    if let Some(age) = rules.results_days.map(days) {
        let (erased, of_results) = retention::expire_results(&mut tx, tenant, age, RESULTS, now).await?;
        (results, files) = (erased, [files, of_results].concat());
    }
    for file in &files {
        objects.delete(&File::object_key(tenant, *file)).await?;
    }
    let erased = !files.is_empty() || results > 0;
    if erased {
        let actor = format!("scheduler:{}", term.epoch);
        let mut event =
            audit::allowed(Some(tenant), now, actor, "apply_retention", format!("tenant:{tenant}"));
        event.detail = json!({ "files": files.len(), "results": results });
        audit::record(&mut tx, &event).await?;
    }
    tx.commit().await?;
    if erased {
        info!(tenant.id = %tenant, "Retention erased {} files and {results} results of tenant {tenant}", files.len());
    }
    Ok(erased)
}

fn days(days: u32) -> Duration {
    Duration::from_secs(u64::from(days) * 24 * 3600)
}
