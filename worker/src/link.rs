//! The worker's side of the API's internal listener. Knows who the worker is,
//! and joins again when the API no longer does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::JobId;
use domain::models::Sha256Digest;
use domain::workers::{
    CompleteRequest, DESIRED_WAIT_SECS, DesiredState, JoinRequest, JoinResponse, LeaseRequest, LeasedChunk,
    RenewRequest, RenewResponse, ReportRequest,
};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::contact::Contact;
use crate::settings::JoinToken;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest silence inside an answer; longer than the API holds a long poll.
const READ_TIMEOUT: Duration = Duration::from_secs(DESIRED_WAIT_SECS + 10);
/// Shorter than servers keep idle connections, so that none is used as it closes.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(5);
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Several reports must fit before the worker counts as lost.
const REPORT_TIMEOUT: Duration = Duration::from_secs(4);
const LEASE_TIMEOUT: Duration = Duration::from_secs(10);
const RENEW_TIMEOUT: Duration = Duration::from_secs(5);
const COMPLETE_TIMEOUT: Duration = Duration::from_secs(20);
const JOIN_RETRY_LEAST: Duration = Duration::from_millis(250);
const JOIN_RETRY_MOST: Duration = Duration::from_secs(5);
/// Longest part of an answer's text that goes into an error.
const MAX_DETAIL_CHARS: usize = 300;

/// Why a call gave no result.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The API forgot this worker, which now joins again.
    #[error("the API no longer knows this worker, which joins again")]
    Unknown,
    /// The lease or placement is somebody else's now.
    #[error("the API answered that this is no longer this worker's: {0}")]
    Conflict(String),
    /// The API does not want this.
    #[error("the API answered {status}: {detail}")]
    Refused {
        /// What it answered.
        status: StatusCode,
        /// Why.
        detail: String,
    },
    /// No usable answer.
    #[error("cannot reach the API")]
    Unreachable(#[from] reqwest::Error),
}

impl LinkError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unknown | Self::Unreachable(_) => true,
            Self::Refused { status, .. } => {
                status.is_server_error()
                    || matches!(*status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
            }
            Self::Conflict(_) => false,
        }
    }
}

/// An error and its sources as one sentence.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

/// Who the worker is for the API.
pub struct Identity {
    /// What gateways present to the inference listener.
    pub gateway_key: String,
    credential: String,
}

/// The connection to the API.
pub struct Link {
    http: reqwest::Client,
    base: String,
    join: JoinRequest,
    join_token: JoinToken,
    identity: watch::Sender<Option<Arc<Identity>>>,
    /// Whether the API and this worker hear from each other.
    pub contact: Contact,
}

impl Link {
    /// To the internal listener at `base`; nothing is sent yet.
    pub fn new(base: &str, join: JoinRequest, join_token: JoinToken) -> Result<Self, reqwest::Error> {
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .read_timeout(READ_TIMEOUT);
        if base.starts_with("http://") {
            // Reads no certificates of the machine, which may have none.
            builder = builder.tls_certs_only([]);
        }
        Ok(Self {
            http: builder.build()?,
            base: base.trim_end_matches('/').to_owned(),
            join,
            join_token,
            identity: watch::Sender::new(None),
            contact: Contact::new(Instant::now()),
        })
    }

    /// Joins, trying until it works or the API refuses this worker for good.
    pub async fn join(&self, patient: bool) -> Result<(), LinkError> {
        let mut backoff = Backoff::spread(JOIN_RETRY_LEAST, JOIN_RETRY_MOST, crate::seed());
        let mut told = false;
        loop {
            let sent = Instant::now();
            match self.join_once().await {
                Ok(response) => {
                    let worker_id = response.worker_id;
                    info!(worker.id = %worker_id, worker.name = %self.join.name, "Joined {} as {}", self.base, self.join.name);
                    self.contact.reported(sent, Instant::now());
                    self.identity.send_replace(Some(Arc::new(Identity {
                        gateway_key: response.gateway_key,
                        credential: response.credential,
                    })));
                    return Ok(());
                }
                Err(error) if !patient && !error.is_transient() => return Err(error),
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        warn!("Cannot join at {}, trying on: {}", self.base, chain(&error));
                    }
                }
            }
            tokio::time::sleep(backoff.delay()).await;
        }
    }

    async fn join_once(&self) -> Result<JoinResponse, LinkError> {
        let request = self
            .http
            .post(format!("{}/internal/v1/join", self.base))
            .bearer_auth(&self.join_token.0)
            .json(&self.join)
            .timeout(JOIN_TIMEOUT);
        Ok(accept(request.send().await?).await?.json().await?)
    }

    /// Joins again each time the API has forgotten this worker. Never returns.
    pub async fn keep_joined(&self) {
        let mut identities = self.identity.subscribe();
        loop {
            // The sender is `self`: it outlives this.
            let _ = identities.wait_for(Option::is_none).await;
            // Refused now may be accepted later, e.g. while the API is set up anew.
            let _ = self.join(true).await;
        }
    }

    /// Changes whenever the worker joins or is forgotten.
    pub fn identities(&self) -> watch::Receiver<Option<Arc<Identity>>> {
        self.identity.subscribe()
    }

    async fn identity(&self) -> Arc<Identity> {
        let mut identities = self.identity.subscribe();
        let known = identities.wait_for(Option::is_some).await;
        let known = known.expect("the sender is self, which outlives this");
        Arc::clone(known.as_ref().expect("waited until there is one"))
    }

    /// A call in the worker's name. Waits while the worker joins.
    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
        timeout: Option<Duration>,
    ) -> Result<reqwest::Response, LinkError> {
        let identity = self.identity().await;
        let mut request = self
            .http
            .request(method, format!("{}/internal/v1/{path}", self.base))
            .bearer_auth(&identity.credential);
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(timeout) = timeout {
            request = request.timeout(timeout);
        }
        let response = request.send().await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            self.forget(&identity);
            return Err(LinkError::Unknown);
        }
        accept(response).await
    }

    /// The identity was refused; unless another is here already, none is left.
    fn forget(&self, refused: &Arc<Identity>) {
        self.identity.send_if_modified(|current| {
            let same = current.as_ref().is_some_and(|now| Arc::ptr_eq(now, refused));
            if same {
                warn!("The API no longer knows this worker; joining again");
                *current = None;
            }
            same
        });
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &(impl Serialize + Sync),
        timeout: Duration,
    ) -> Result<T, LinkError> {
        Ok(self.call(Method::POST, path, Some(body), Some(timeout)).await?.json().await?)
    }

    /// Heartbeat and observed state.
    pub async fn report(&self, report: &ReportRequest) -> Result<(), LinkError> {
        let sent = Instant::now();
        self.call(Method::POST, "report", Some(report), Some(REPORT_TIMEOUT)).await?;
        self.contact.reported(sent, Instant::now());
        Ok(())
    }

    /// What to hold; waits at the API until it differs from revision `after`.
    pub async fn desired(&self, after: Option<&str>) -> Result<DesiredState, LinkError> {
        let path = match after {
            Some(revision) => format!("desired?after={revision}"),
            None => "desired".to_owned(),
        };
        Ok(self.call(Method::GET, &path, None::<&()>, Some(READ_TIMEOUT)).await?.json().await?)
    }

    /// Content of a model file, to be streamed.
    pub async fn blob(&self, sha256: Sha256Digest) -> Result<reqwest::Response, LinkError> {
        self.call(Method::GET, &format!("blobs/{sha256}"), None::<&()>, None).await
    }

    /// Some of a job's lines; `None` when none is left to lease.
    pub async fn lease(&self, job: JobId, request: &LeaseRequest) -> Result<Option<LeasedChunk>, LinkError> {
        let path = format!("jobs/{job}/lease");
        let response = self.call(Method::POST, &path, Some(request), Some(LEASE_TIMEOUT)).await?;
        match response.status() {
            StatusCode::NO_CONTENT => Ok(None),
            _ => Ok(Some(response.json().await?)),
        }
    }

    /// Keeps a lease.
    pub async fn renew(
        &self,
        job: JobId,
        chunk: u32,
        request: &RenewRequest,
    ) -> Result<RenewResponse, LinkError> {
        self.post(&format!("jobs/{job}/chunks/{chunk}/renew"), request, RENEW_TIMEOUT).await
    }

    /// Hands in the results of a chunk.
    pub async fn complete(&self, job: JobId, chunk: u32, request: &CompleteRequest) -> Result<(), LinkError> {
        let path = format!("jobs/{job}/chunks/{chunk}/complete");
        self.call(Method::POST, &path, Some(request), Some(COMPLETE_TIMEOUT)).await?;
        Ok(())
    }
}

/// An answer that means success, or the error that it stands for.
async fn accept(response: reqwest::Response) -> Result<reqwest::Response, LinkError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let detail = detail_of(&response.text().await.unwrap_or_default());
    match status {
        StatusCode::CONFLICT => Err(LinkError::Conflict(detail)),
        _ => Err(LinkError::Refused { status, detail }),
    }
}

/// What a problem document says, or the text itself.
fn detail_of(body: &str) -> String {
    let problem: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let said = ["detail", "title"].iter().find_map(|key| problem.get(key)?.as_str());
    let said = said.unwrap_or(if body.is_empty() { "no reason given" } else { body });
    said.chars().take(MAX_DETAIL_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_come_from_problem_documents_or_plain_text() {
        assert_eq!(
            detail_of(r#"{"title":"Conflict","detail":"the lease ended at noon"}"#),
            "the lease ended at noon"
        );
        assert_eq!(detail_of(r#"{"title":"Conflict"}"#), "Conflict");
        assert_eq!(detail_of("bad gateway"), "bad gateway");
        assert_eq!(detail_of(""), "no reason given");
        assert_eq!(detail_of(&"x".repeat(1000)).len(), MAX_DETAIL_CHARS);
    }

    #[test]
    fn only_what_may_change_is_tried_again() {
        let refused = |status| LinkError::Refused { status, detail: String::new() };
        assert!(LinkError::Unknown.is_transient());
        assert!(refused(StatusCode::BAD_GATEWAY).is_transient());
        assert!(refused(StatusCode::TOO_MANY_REQUESTS).is_transient());
        assert!(!refused(StatusCode::UNPROCESSABLE_ENTITY).is_transient());
        assert!(!LinkError::Conflict(String::new()).is_transient());
    }
}
