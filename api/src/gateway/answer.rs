//! One answer: found, begun, replaced if its replica fails early, and passed on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use domain::budgets::most_tokens;
use domain::inference::{Event, FailureKind, FinishReason, Priority, TokenCounts};
use domain::models::Sha256Digest;
use domain::openai::Parsed;
use domain::{EndpointId, PlacementId, RequestId, TenantId};
use reqwest::StatusCode;
use reqwest::header::CONTENT_TYPE;
use tokio::time::timeout;

use super::events::{EventError, Events};
use super::holding::{Full, Place};
use super::routes::{Route, Ticket};
use super::settle::Meter;
use crate::access::TenantScope;
use crate::problem::{ApiError, Result, chain};
use crate::state::App;

/// Replicas that are asked for one answer.
const MAX_TRIES: u32 = 4;
/// How long a request waits for replicas that do not answer, and at least for the
/// first to be placed.
const WAIT_FOR_REPLICA: Duration = Duration::from_secs(5);
/// Longest pause before the replicas that failed are tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How long a worker may take to accept a request and count its input.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a worker may be silent: reading a long input takes its time.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(300);
/// When to come again after [`FailureKind::Overloaded`].
const OVERLOADED_RETRY_SECS: u64 = 2;
/// When to come again if too many are held.
const HELD_RETRY_SECS: u64 = 10;
/// Names told to who asks for a model that is not there.
const MAX_NAMES: usize = 20;

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// More text, never empty.
    Text(String),
    /// The end.
    Finished(FinishReason, TokenCounts),
}

/// Why a replica gives no answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The request is at fault; no replica would answer.
    #[error("{0}")]
    Invalid(String),
    #[error("the replica is overloaded")]
    Overloaded,
    #[error("the replica failed: {0}")]
    Told(String),
    #[error("the worker answered {0} instead of a stream of events")]
    Status(StatusCode),
    #[error("the worker cannot be reached")]
    Unreachable(#[source] reqwest::Error),
    #[error("the worker was silent for too long")]
    Silent,
    #[error("the worker's answer starts with {0}")]
    Unexpected(&'static str),
    #[error(transparent)]
    Broken(#[from] EventError),
}

/// An answer that a worker has begun.
pub(crate) struct Answer {
    app: App,
    tenant: TenantId,
    model: String,
    route: Arc<Route>,
    request: RequestId,
    body: Bytes,
    tries: u32,
    tried: Vec<PlacementId>,
    events: Events,
    ticket: Ticket,
    meter: Meter,
    /// Tokens whose text is held back until it is whole.
    pending: u32,
    /// When it was asked for, until the first text came.
    waiting_since: Option<Instant>,
}

impl Answer {
    /// Finds a replica that begins to answer.
    pub async fn begin(app: &App, scope: TenantScope, parsed: Parsed) -> Result<Self> {
        let asked = Instant::now();
        let model = parsed.model.clone();
        let route = find(app, &scope, &model).await?;
        let TenantScope { caller, tenant, .. } = scope;
        let request = RequestId::generate();
        let generate = parsed.into_generate(request, Priority::Interactive);
        let input = serde_json::to_vec(&generate.input).map_err(ApiError::internal)?;
        let body = serde_json::to_vec(&generate).map_err(ApiError::internal)?.into();
        let mut meter = Meter::new(app, caller, tenant, &route, request, model.clone(), &input);
        if route.budgeted {
            meter.reserve(most_tokens(input.len(), generate.max_tokens)).await?;
        }
        let endpoint = route.endpoint;
        let mut tries =
            Tries { app, tenant, model: &model, endpoint, request, body: &body, made: 0, tried: Vec::new() };
        let begun = tries.until_begun(None).await?;
        let (made, tried) = (tries.made, tries.tried);
        meter.started(begun.ticket.0.worker, begun.prompt_tokens);
        Ok(Self {
            app: app.clone(),
            tenant,
            model,
            route,
            request,
            body,
            tries: made,
            tried,
            events: begun.events,
            ticket: begun.ticket,
            meter,
            pending: 0,
            waiting_since: Some(asked),
        })
    }

    /// The request's id.
    pub fn request(&self) -> RequestId {
        self.request
    }

    /// The version that answers.
    pub fn version(&self) -> Sha256Digest {
        self.route.version
    }

    /// The next part, which counts as delivered. After an error or the end
    /// there is nothing more.
    pub async fn next(&mut self) -> Result<Part> {
        loop {
            match self.step().await {
                Ok((Part::Text(text), tokens)) => {
                    self.meter.delivered(tokens);
                    return Ok(Part::Text(text));
                }
                Ok((finished, _)) => return Ok(finished),
                Err(failure) if self.meter.has_delivered() => {
                    self.meter.failed();
                    self.note(&failure);
                    return Err(ApiError::Unavailable(
                        "the worker was lost in the middle of the answer; only what was delivered is billed"
                            .to_owned(),
                    ));
                }
                Err(failure) => self.replace(failure).await?,
            }
        }
    }

    /// The whole text. Nothing is delivered before its end, so a worker that
    /// fails in the middle is replaced too.
    pub async fn whole(&mut self) -> Result<(String, FinishReason, TokenCounts)> {
        let mut text = String::new();
        loop {
            match self.step().await {
                Ok((Part::Text(more), _)) => text.push_str(&more),
                Ok((Part::Finished(reason, counts), _)) => return Ok((text, reason, counts)),
                Err(failure) => {
                    text.clear();
                    self.replace(failure).await?;
                }
            }
        }
    }

    /// The next text that is not empty, with the tokens it stands for, or the end.
    async fn step(&mut self) -> Result<(Part, u32), Failure> {
        loop {
            let event = timeout(SILENCE_TIMEOUT, self.events.next()).await.map_err(|_| Failure::Silent)??;
            match event {
                Event::Started { .. } => {}
                Event::Text { text, tokens } => {
                    self.pending = self.pending.saturating_add(tokens);
                    if text.is_empty() {
                        continue;
                    }
                    if let Some(since) = self.waiting_since.take() {
                        metrics::histogram!("chancery_first_token_seconds")
                            .record(since.elapsed().as_secs_f64());
                    }
                    return Ok((Part::Text(text), std::mem::take(&mut self.pending)));
                }
                Event::Finished { reason, counts, accelerator_ms } => {
                    self.meter.finished(counts, accelerator_ms);
                    return Ok((Part::Finished(reason, counts), 0));
                }
                Event::Failed { kind, message } => return Err(told(kind, message)),
            }
        }
    }

    /// Lets another replica begin again.
    async fn replace(&mut self, failure: Failure) -> Result<()> {
        self.note(&failure);
        self.pending = 0;
        let mut tries = Tries {
            app: &self.app,
            tenant: self.tenant,
            model: &self.model,
            endpoint: self.route.endpoint,
            request: self.request,
            body: &self.body,
            made: self.tries,
            tried: std::mem::take(&mut self.tried),
        };
        let begun = tries.until_begun(Some(failure)).await;
        (self.tries, self.tried) = (tries.made, tries.tried);
        let begun = begun.inspect_err(|_| self.meter.failed())?;
        self.meter.started(begun.ticket.0.worker, begun.prompt_tokens);
        (self.events, self.ticket) = (begun.events, begun.ticket);
        Ok(())
    }

    fn note(&self, failure: &Failure) {
        note(self.request, &self.ticket, failure);
    }
}

fn told(kind: FailureKind, message: String) -> Failure {
    match kind {
        FailureKind::Invalid => Failure::Invalid(message),
        FailureKind::Overloaded => Failure::Overloaded,
        FailureKind::NotReady | FailureKind::Internal => Failure::Told(message),
    }
}

/// Says in the log that a replica failed, and lets others go first.
fn note(request: RequestId, ticket: &Ticket, failure: &Failure) {
    if matches!(failure, Failure::Invalid(_) | Failure::Overloaded) {
        return;
    }
    ticket.0.avoid();
    metrics::counter!("chancery_replica_failures_total").increment(1);
    let (worker, placement) = (ticket.0.worker, ticket.0.placement);
    tracing::warn!(
        request.id = %request, worker.id = %worker, placement.id = %placement, error = chain(failure),
        "Worker {worker} did not answer request {request}"
    );
}

/// The endpoint of that name, waiting a moment for one that was created just now.
/// One that the caller may not use answers like one that does not exist.
async fn find(app: &App, scope: &TenantScope, name: &str) -> Result<Arc<Route>> {
    let may_use = |name: &str| scope.caller.bounds.as_ref().is_none_or(|bounds| bounds.allows_endpoint(name));
    let deadline = Instant::now() + WAIT_FOR_REPLICA;
    loop {
        let news = app.routes.watch();
        if let Some(route) = app.routes.find(scope.tenant, name)
            && may_use(name)
            && scope.access().reaches(route.project)
        {
            return Ok(route);
        }
        let mut tx = scope.read(app).await?;
        let mut served = store::routes::served(&mut tx, None).await?;
        drop(tx);
        served.retain(|s| may_use(&s.name));
        if served.iter().any(|s| s.name == name) && Instant::now() < deadline {
            let _ = timeout(RETRY_PAUSE, news).await;
            continue;
        }
        let names: Vec<&str> = served.iter().map(|s| s.name.as_str()).take(MAX_NAMES).collect();
        let known = match names.as_slice() {
            [] => "no endpoint is deployed".to_owned(),
            names => format!("deployed are: {}", names.join(", ")),
        };
        return Err(ApiError::NotFoundText(format!("the model {name:?} does not exist; {known}")));
    }
}

struct Begun {
    ticket: Ticket,
    events: Events,
    prompt_tokens: u32,
}

/// The tries to have one request answered.
struct Tries<'a> {
    app: &'a App,
    tenant: TenantId,
    model: &'a str,
    /// An endpoint made anew under the name is another one.
    endpoint: EndpointId,
    request: RequestId,
    body: &'a Bytes,
    made: u32,
    tried: Vec<PlacementId>,
}

impl Tries<'_> {
    /// Asks replicas until one begins. `last` is how an earlier one failed.
    async fn until_begun(&mut self, mut last: Option<Failure>) -> Result<Begun> {
        let mut deadline = Instant::now() + WAIT_FOR_REPLICA;
        let mut asked = Instant::now();
        let mut held: Option<Hold> = None;
        loop {
            if let Some(Failure::Invalid(why)) = last {
                return Err(ApiError::Malformed(why));
            }
            let news = self.app.routes.watch();
            let route = self.app.routes.find(self.tenant, self.model).filter(|r| r.endpoint == self.endpoint);
            let ticket = match &route {
                Some(route) if self.made < MAX_TRIES => self.app.routes.choose(route, &self.tried),
                _ => None,
            };
            if let Some(ticket) = ticket {
                if let Some(held) = held.take() {
                    held.over();
                    deadline = Instant::now() + WAIT_FOR_REPLICA;
                }
                self.made += 1;
                self.tried.push(ticket.0.placement);
                match self.begin(ticket).await {
                    Ok(begun) => return Ok(begun),
                    Err(failure) => last = Some(failure),
                }
                asked = Instant::now();
                continue;
            }
            // Every replica said so: waiting here would only hide it.
            if matches!(last, Some(Failure::Overloaded)) {
                return Err(ApiError::TooManyRequests {
                    retry_after_secs: OVERLOADED_RETRY_SECS,
                    detail: format!(
                        "every replica of {:?} has too many requests; try again later",
                        self.model
                    ),
                });
            }
            if held.is_none() && self.made < MAX_TRIES && route.as_ref().is_some_and(|r| r.is_cold()) {
                held = Some(self.hold()?);
                deadline = Instant::now() + self.longest_hold();
            }
            if let Some(held) = &held
                && held.since.elapsed() >= WAIT_FOR_REPLICA
                && let Some(why) = self.app.holding.stuck(self.endpoint)
            {
                return Err(self.not_ready(&why));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.made >= MAX_TRIES || route.is_none_or(|r| !r.wanted) {
                return Err(self.unavailable(held.is_some()).await);
            }
            // A replica may be restarting, or another being placed.
            tokio::select! {
                _ = timeout(left.min(RETRY_PAUSE), news) => {}
                () = self.app.draining.cancelled(), if held.is_some() => {
                    return Err(ApiError::Unavailable(format!(
                        "the model {:?} is not ready, and this server is being restarted; send the request again",
                        self.model
                    )));
                }
            }
            if asked.elapsed() >= RETRY_PAUSE {
                self.tried.clear();
            }
        }
    }

    /// Waits from now on for a replica to be there.
    fn hold(&self) -> Result<Hold> {
        let place = Place::take(self.app, self.tenant, self.endpoint).map_err(|full| {
            let whose = match full {
                Full::Endpoint => format!("the model {:?}", self.model),
                Full::Tenant => "models of this tenant that are not ready".to_owned(),
            };
            ApiError::TooManyRequests {
                retry_after_secs: HELD_RETRY_SECS,
                detail: format!("too many requests wait for {whose}; try again later"),
            }
        })?;
        Ok(Hold { _place: place, since: Instant::now() })
    }

    fn longest_hold(&self) -> Duration {
        Duration::from_secs(self.app.settings.hold_secs)
    }

    async fn begin(&self, ticket: Ticket) -> Result<Begun, Failure> {
        let begun = timeout(START_TIMEOUT, self.ask(&ticket)).await.unwrap_or(Err(Failure::Silent));
        match begun {
            Ok((events, prompt_tokens)) => Ok(Begun { ticket, events, prompt_tokens }),
            Err(failure) => {
                note(self.request, &ticket, &failure);
                Err(failure)
            }
        }
    }

    async fn ask(&self, ticket: &Ticket) -> Result<(Events, u32), Failure> {
        let replica = &ticket.0;
        let key = crate::internal::gateway_key(&self.app.pepper, replica.worker);
        let request = self
            .app
            .http
            .post(&replica.url)
            .bearer_auth(key)
            .header(CONTENT_TYPE, "application/json")
            .body(self.body.clone());
        let response = request.send().await.map_err(Failure::Unreachable)?;
        if response.status() != StatusCode::OK {
            return Err(Failure::Status(response.status()));
        }
        let mut events = Events::new(response);
        match events.next().await? {
            Event::Started { prompt_tokens } => Ok((events, prompt_tokens)),
            Event::Failed { kind, message } => Err(told(kind, message)),
            Event::Text { .. } => Err(Failure::Unexpected("text")),
            Event::Finished { .. } => Err(Failure::Unexpected("its end")),
        }
    }

    fn not_ready(&self, why: &str) -> ApiError {
        ApiError::Unavailable(format!("the model {:?} is not ready: {why}", self.model))
    }

    async fn unavailable(&self, held: bool) -> ApiError {
        if self.made > 0 {
            let model = self.model;
            return ApiError::Unavailable(format!(
                "the replicas of {model:?} do not answer; they are being restarted or replaced, try again in a moment"
            ));
        }
        let why = async {
            let mut tx = self.app.store.tenant(self.tenant).await?;
            store::routes::why_not_ready(&mut tx, self.model).await
        };
        match why.await {
            Ok(why) if held => self
                .not_ready(&format!("{why}; the request waited {} s for it", self.longest_hold().as_secs())),
            Ok(why) => self.not_ready(&why),
            Err(e) => e.into(),
        }
    }
}

/// A request that waits for a replica to be there.
struct Hold {
    _place: Place,
    since: Instant,
}

impl Hold {
    /// One is.
    fn over(self) {
        metrics::histogram!("chancery_hold_seconds").record(self.since.elapsed().as_secs_f64());
    }
}
