//! Settling: what an answer used, and the record that it was given. Written
//! when the answer is dropped, however it ended, in a task that a stop waits for.

use std::time::{Duration, Instant};

use domain::inference::TokenCounts;
use domain::principals::Caller;
use domain::quotas::Amount;
use domain::usage::UsageRow;
use domain::{RequestId, TenantId, UsageId, WorkerId};
use serde_json::json;
use store::StoreError;
use store::budgets::tokens;

use super::routes::Route;
use crate::problem::{ApiError, Result, chain};
use crate::state::App;

/// Tries to write a settlement, with a growing pause between them.
const TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Not yet: if it is dropped so, the caller went away.
    Open,
    /// Whole.
    Finished { accelerator_ms: u64 },
    /// Broken off by a failure on our side.
    Failed,
}

/// Counts what is delivered of one answer, and settles it when dropped.
pub(super) struct Meter {
    app: App,
    caller: Caller,
    tenant: TenantId,
    endpoint: domain::EndpointId,
    project: domain::ProjectId,
    version: domain::models::Sha256Digest,
    request: RequestId,
    model: String,
    content_hmac: String,
    /// Who answers; nothing is settled before somebody does.
    by: Option<(WorkerId, Instant)>,
    /// Of the rendered input.
    prompt_tokens: u32,
    /// Delivered.
    counts: TokenCounts,
    ending: Ending,
    /// Tokens are reserved for it.
    reserved: bool,
}

impl Meter {
    pub fn new(
        app: &App,
        caller: Caller,
        tenant: TenantId,
        route: &Route,
        request: RequestId,
        model: String,
        input: &[u8],
    ) -> Self {
        Self {
            caller,
            tenant,
            endpoint: route.endpoint,
            // Who pays is the project of the key; people pay from the endpoint's.
            project: route.project,
            version: route.version,
            request,
            model,
            content_hmac: hex::encode(app.pepper.derive("content", input)),
            by: None,
            prompt_tokens: 0,
            counts: TokenCounts::default(),
            ending: Ending::Open,
            reserved: false,
            app: app.clone(),
        }
    }

    /// Whose budget.
    fn pays(&self) -> domain::ProjectId {
        self.caller.project().unwrap_or(self.project)
    }

    /// Reserves what the answer may come to, before anybody works on it; refused
    /// where a budget has too little left.
    pub async fn reserve(&mut self, tokens: Amount) -> Result<()> {
        let now = self.app.clock.now();
        let mut tx = self.app.store.tenant(self.tenant).await?;
        let short = tokens::reserve(&mut tx, self.request, self.pays(), tokens, now).await?;
        if let Some(short) = short {
            metrics::counter!("chancery_budget_refusals_total").increment(1);
            let retry_after_secs = short.ends.since(now).as_secs().max(1);
            return Err(ApiError::BudgetSpent { retry_after_secs, detail: short.to_string() });
        }
        // From here on it may be there, and is released whatever comes.
        self.reserved = true;
        Ok(tx.commit().await?)
    }

    /// A worker began to answer.
    pub fn started(&mut self, worker: WorkerId, prompt_tokens: u32) {
        self.by = Some((worker, Instant::now()));
        self.prompt_tokens = prompt_tokens;
    }

    /// Text was delivered. The first also pays for reading the input.
    pub fn delivered(&mut self, tokens: u32) {
        self.counts.prompt_tokens = self.prompt_tokens;
        self.counts.completion_tokens = self.counts.completion_tokens.saturating_add(tokens);
    }

    /// Whether anything was delivered.
    pub fn has_delivered(&self) -> bool {
        self.counts != TokenCounts::default()
    }

    /// The answer is whole: the engine's count is what is billed.
    pub fn finished(&mut self, counts: TokenCounts, accelerator_ms: u64) {
        self.counts = counts;
        self.ending = Ending::Finished { accelerator_ms };
    }

    /// The answer broke off.
    pub fn failed(&mut self) {
        self.ending = Ending::Failed;
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let Some((worker, since)) = self.by else {
            if self.reserved && tokio::runtime::Handle::try_current().is_ok() {
                self.app.tasks.spawn(release(self.app.clone(), self.tenant, self.request));
            }
            return;
        };
        let (outcome, accelerator_ms) = match self.ending {
            Ending::Finished { accelerator_ms } => ("finished", accelerator_ms),
            // The engine's figure is lost with the rest of the answer; the
            // time it was at work is the nearest to it.
            Ending::Open => ("cut", since.elapsed().as_millis().try_into().unwrap_or(u64::MAX)),
            Ending::Failed => ("failed", since.elapsed().as_millis().try_into().unwrap_or(u64::MAX)),
        };
        metrics::counter!("chancery_answers_total", "outcome" => outcome).increment(1);
        metrics::counter!("chancery_prompt_tokens_total").increment(self.counts.prompt_tokens.into());
        metrics::counter!("chancery_completion_tokens_total").increment(self.counts.completion_tokens.into());
        let row = UsageRow {
            id: UsageId::generate(),
            tenant_id: self.tenant,
            project_id: self.pays(),
            key_id: self.caller.key(),
            endpoint_id: Some(self.endpoint),
            job_id: None,
            request_id: self.request,
            model: std::mem::take(&mut self.model),
            version_digest: self.version,
            worker_id: Some(worker),
            counts: self.counts,
            accelerator_ms,
            at: self.app.clock.now(),
        };
        let detail = json!({
            "version_digest": row.version_digest,
            "worker": worker,
            "request": row.request_id,
            "content_hmac": self.content_hmac,
            "outcome": outcome,
            "prompt_tokens": row.counts.prompt_tokens,
            "completion_tokens": row.counts.completion_tokens,
        });
        let event = domain::audit::AuditEvent {
            detail,
            ..store::audit::allowed(
                Some(self.tenant),
                row.at,
                self.caller.actor(),
                "generate",
                format!("endpoint:{}", self.endpoint),
            )
        };
        if tokio::runtime::Handle::try_current().is_err() {
            tracing::error!(usage = ?row, "The usage of an answer was not written: the process ends");
            return;
        }
        let app = self.app.clone();
        self.app.tasks.spawn(settle(app, row, event, self.reserved));
    }
}

async fn settle(app: App, row: UsageRow, event: domain::audit::AuditEvent, reserved: bool) {
    let mut pause = FIRST_PAUSE;
    for left in (0..TRIES).rev() {
        match write(&app, &row, &event, reserved).await {
            Ok(()) => return,
            // An earlier try may have committed without our hearing of it.
            Err(StoreError::Exists(_)) => return,
            Err(e) if left == 0 => {
                let error = chain(&e);
                tracing::error!(error, usage = ?row, "The usage of request {} was not written", row.request_id);
            }
            Err(e) => {
                let error = chain(&e);
                tracing::warn!(error, request.id = %row.request_id, "Cannot write usage yet; trying again");
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        }
    }
}

async fn write(
    app: &App,
    row: &UsageRow,
    event: &domain::audit::AuditEvent,
    reserved: bool,
) -> Result<(), StoreError> {
    let mut tx = app.store.tenant(row.tenant_id).await?;
    if reserved {
        tokens::release(&mut tx, row.request_id).await?;
    }
    store::usage::record(&mut tx, row).await?;
    store::audit::record(&mut tx, event).await?;
    tx.commit().await
}

/// Gives back what was reserved for an answer that nobody began. If that fails,
/// it expires.
async fn release(app: App, tenant: TenantId, request: RequestId) {
    let released = async {
        let mut tx = app.store.tenant(tenant).await?;
        tokens::release(&mut tx, request).await?;
        tx.commit().await
    };
    if let Err(e) = released.await {
        let error = chain(&e);
        tracing::warn!(error, request.id = %request, "Tokens stay reserved for a while");
    }
}
