//! One leased chunk: every line runs, the lease is renewed meanwhile, and all
//! results are handed in together. A lost lease ends the work at once: the
//! chunk is somebody else's, and our results would be refused.

use std::time::{Duration, Instant};

use domain::workers::{CompleteRequest, CompletedLine, LEASE_TTL_SECS, LeasedChunk, RenewRequest};
use futures_util::{StreamExt, stream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::line;
use crate::backoff::Backoff;
use crate::engines::EngineHandle;
use crate::link::{Link, LinkError, chain};

const LEASE_TTL: Duration = Duration::from_secs(LEASE_TTL_SECS);
const RENEW_INTERVAL: Duration = Duration::from_secs(LEASE_TTL_SECS / 3);
const RETRY_LEAST: Duration = Duration::from_millis(250);
const RETRY_MOST: Duration = Duration::from_secs(3);

/// How work on a chunk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its results are committed.
    Committed,
    /// The lease is lost.
    Lost,
    /// Given back by letting the lease end: it could not be worked on here.
    Abandoned,
}

impl End {
    /// For metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Lost => "lost",
            Self::Abandoned => "abandoned",
        }
    }
}

/// Runs a chunk whose lease began at `leased` or later.
pub async fn run(
    link: &Link,
    engine: &EngineHandle,
    chunk: LeasedChunk,
    leased: Instant,
    lines_at_once: u32,
) -> End {
    let (job, index, token) = (chunk.job_id, chunk.index, chunk.token);
    let work = async {
        let permits = Semaphore::new(lines_at_once as usize);
        let outcomes = chunk.lines.into_iter().map(|leased| {
            let permits = &permits;
            async move {
                let outcome = line::run(engine, permits, lines_at_once, &leased.request).await?;
                Some(CompletedLine { line: leased.line, outcome })
            }
        });
        let mut outcomes = stream::iter(outcomes).buffer_unordered(lines_at_once as usize);
        let mut lines = Vec::new();
        while let Some(outcome) = outcomes.next().await {
            match outcome {
                Some(line) => lines.push(line),
                None => return End::Abandoned,
            }
        }
        lines.sort_by_key(|line: &CompletedLine| line.line);
        complete(link, job, index, &CompleteRequest { token, lines }).await
    };
    tokio::select! {
        end = work => end,
        () = keep(link, job, index, RenewRequest { token }, leased) => End::Lost,
    }
}

/// Renews the lease until it is lost.
async fn keep(link: &Link, job: domain::JobId, index: u32, request: RenewRequest, leased: Instant) {
    let mut ends = leased + LEASE_TTL;
    let mut next = leased + RENEW_INTERVAL;
    let mut backoff = Backoff::spread(RETRY_LEAST, RETRY_MOST, crate::seed());
    loop {
        tokio::time::sleep_until(next.min(ends).into()).await;
        let asked = Instant::now();
        if asked >= ends {
            warn!(job.id = %job, chunk = index, "Lost the lease of chunk {index} of job {job}: it could not be renewed");
            return;
        }
        let renewal = tokio::time::timeout_at(ends.into(), link.renew(job, index, &request)).await;
        next = match renewal {
            Ok(Ok(_)) => {
                backoff.reset();
                ends = asked + LEASE_TTL;
                asked + RENEW_INTERVAL
            }
            Ok(Err(error)) if !error.is_transient() => {
                warn!(job.id = %job, chunk = index, "Lost the lease of chunk {index} of job {job}: {}", chain(&error));
                return;
            }
            Ok(Err(error)) => {
                debug!("Cannot renew a lease, trying on: {}", chain(&error));
                Instant::now() + backoff.delay()
            }
            Err(_) => ends,
        };
    }
}

/// Hands results in, trying until that worked or the API does not want them.
async fn complete(link: &Link, job: domain::JobId, index: u32, request: &CompleteRequest) -> End {
    let mut backoff = Backoff::spread(RETRY_LEAST, RETRY_MOST, crate::seed());
    loop {
        match link.complete(job, index, request).await {
            Ok(()) => return End::Committed,
            Err(LinkError::Conflict(_)) => return End::Lost,
            Err(error) if error.is_transient() => {
                debug!("Cannot hand in chunk {index} of job {job}, trying on: {}", chain(&error));
            }
            Err(error) => {
                warn!(job.id = %job, "The results of chunk {index} of job {job} were refused: {}", chain(&error));
                return End::Abandoned;
            }
        }
        tokio::time::sleep(backoff.delay()).await;
    }
}
