//! A mutation: its effect, its audit record and the answer to its
//! Idempotency-Key commit in one transaction, or none of them does.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;
use domain::TenantId;
use domain::audit::Verdict;
use domain::outbox::Topic;
use serde::Serialize;
use serde_json::Value;
use store::Tx;
use store::idempotency::Claim as Known;
use uuid::Uuid;

use super::Access;
use super::conventions::Kept;
use crate::problem::{ApiError, Result};
use crate::state::App;

/// A mutation in progress; dropped, it changes nothing.
#[must_use = "a change that is not answered changes nothing"]
pub struct Change<T> {
    app: App,
    access: Arc<Access>,
    tx: T,
    etag: Option<String>,
    recorded: bool,
    /// Credentials that this replica forgets once it is so.
    revoked: Vec<Uuid>,
}

impl<T> Deref for Change<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.tx
    }
}

impl<T> DerefMut for Change<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.tx
    }
}

impl<T: Tx> Change<T> {
    /// Begins, or ends with the answer that was given to the same request.
    pub(super) async fn begin(app: &App, access: &Arc<Access>, mut tx: T) -> Result<Self> {
        if let Some(claim) = &access.claim {
            match store::idempotency::claim(&mut tx, &claim.key_hash).await? {
                Known::Fresh => {}
                Known::InFlight => return Err(ApiError::InFlight),
                Known::Answered(answer) => return Err(claim.replay(app, &answer)),
            }
        }
        let (app, access) = (app.clone(), Arc::clone(access));
        Ok(Self { app, access, tx, etag: None, recorded: false, revoked: Vec::new() })
    }

    /// Records what is done, in the tenant or on the platform as the request says.
    pub async fn record(&mut self, object: impl Into<String>, detail: Value) -> Result<()> {
        let mut event = self.access.event(&self.app, object.into(), Verdict::Allowed);
        event.detail = detail;
        store::audit::record(&mut self.tx, &event).await?;
        self.recorded = true;
        Ok(())
    }

    /// Records what a request to the platform does in that tenant, under the
    /// name of the operation that does only this.
    pub async fn record_in(
        &mut self,
        tenant: TenantId,
        action: &str,
        object: impl Into<String>,
        detail: Value,
    ) -> Result<()> {
        let mut event = self.access.event(&self.app, object.into(), Verdict::Allowed);
        event.tenant_id = Some(tenant);
        action.clone_into(&mut event.action);
        event.detail = detail;
        store::audit::record(&mut self.tx, &event).await?;
        self.recorded = true;
        Ok(())
    }

    /// Tells other processes, when it is so.
    pub async fn publish(&mut self, topic: Topic, subject: impl std::fmt::Display + Send) -> Result<()> {
        Ok(store::outbox::publish(&mut self.tx, topic, subject, self.app.clock.now()).await?)
    }

    /// A key, session or account stops to count: here at once, elsewhere
    /// within a second.
    pub async fn revoke(&mut self, id: Uuid) -> Result<()> {
        self.revoked.push(id);
        self.publish(Topic::Credentials, id).await
    }

    /// What is cached of an account, key, session or tenant is read again: here
    /// at once, elsewhere within a second.
    pub async fn refresh(&mut self, topic: Topic, id: Uuid) -> Result<()> {
        self.revoked.push(id);
        self.publish(topic, id).await
    }

    /// The answer carries this revision as its ETag.
    pub fn tag(&mut self, revision: i64) {
        self.etag = Some(super::conventions::etag(revision));
    }

    /// 201 with what was made.
    pub async fn created(self, body: &impl Serialize) -> Result<Response> {
        self.answer(StatusCode::CREATED, Some(body)).await
    }

    /// 200 with what it is now.
    pub async fn ok(self, body: &impl Serialize) -> Result<Response> {
        self.answer(StatusCode::OK, Some(body)).await
    }

    /// 204.
    pub async fn done(self) -> Result<Response> {
        self.answer(StatusCode::NO_CONTENT, None::<&()>).await
    }

    /// 200 with what it was already: nothing was changed, so nothing is recorded.
    pub async fn unchanged(mut self, body: &impl Serialize) -> Result<Response> {
        self.recorded = true;
        self.answer(StatusCode::OK, Some(body)).await
    }

    async fn answer(mut self, status: StatusCode, body: Option<&impl Serialize>) -> Result<Response> {
        if !self.recorded {
            return Err(ApiError::internal(format!("{} leaves no audit record", self.access.operation)));
        }
        let body = body.map(serde_json::value::to_raw_value).transpose().map_err(ApiError::internal)?;
        let kept = Kept { status: status.as_u16(), etag: self.etag.take(), body };
        if let Some(claim) = &self.access.claim {
            let tenant = self.access.tenant.as_ref().map(|tenant| tenant.id);
            let answer = claim.seal(&self.app, &kept)?;
            let now = self.app.clock.now();
            store::idempotency::keep(&mut self.tx, &claim.key_hash, tenant, &answer, now).await?;
        }
        self.tx.commit().await?;
        for id in self.revoked {
            self.app.credentials.forget(id);
        }
        Ok(kept.into_response(false))
    }
}
