//! Waiting until the API answers, and then until a prompt can be answered.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use domain::endpoints::Endpoint;
use domain::workers::RESTARTED_IN;
use reqwest::StatusCode;

use super::children::Children;
use super::console::Console;
use super::sample;
use crate::client::{Client, Scope};
use crate::output;

/// How often is asked.
const POLL: Duration = Duration::from_millis(100);
/// How often the endpoint is asked why it is not ready.
const REASON_POLL: Duration = Duration::from_secs(1);
/// Longest wait for the API, which migrates nothing and only connects.
const API_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for the model, which is copied, checked and loaded.
const PROMPT_LIMIT: Duration = Duration::from_secs(600);
/// A failure that the worker still reports after this long will not go away.
const FAILING_LIMIT: Duration = Duration::from_secs(4);

/// Until the API serves and its database answers.
pub async fn wait_for_api(client: &Client, children: &Children, console: &Console) -> Result<()> {
    let work = async {
        let deadline = Instant::now() + API_LIMIT;
        loop {
            match client.probe("healthz").await {
                Ok((StatusCode::OK, _)) => break,
                _ if Instant::now() < deadline => tokio::time::sleep(POLL).await,
                Ok((status, body)) => {
                    bail!("the API is not well: {}", body["detail"].as_str().unwrap_or(status.as_str()))
                }
                Err(error) => return Err(error),
            }
        }
        console.say("The API answers");
        Ok(())
    };
    children.unless_failed(work).await
}

/// Until a prompt can be answered; says what it waits for. A model that the
/// worker cannot serve ends the wait with its reason.
pub async fn wait_for_prompt(client: &Client, children: &Children, console: &Console) -> Result<()> {
    let work = async {
        let deadline = Instant::now() + PROMPT_LIMIT;
        let mut told = String::new();
        let mut failing = Failing::default();
        let mut ask_again = Instant::now();
        loop {
            let (status, body) = client.probe("readyz").await?;
            if status == StatusCode::OK {
                console.say("A prompt can be answered");
                return Ok(());
            }
            let missing = without_retry(body["detail"].as_str().unwrap_or("the API is not ready"));
            if missing != told {
                console.say(format!("Waiting: {missing}"));
                missing.clone_into(&mut told);
            }
            if Instant::now() >= ask_again {
                ask_again = Instant::now() + REASON_POLL;
                if let Some(why) = failing.look_at(endpoint_reason(client).await.as_deref(), Instant::now()) {
                    bail!("the sample model cannot be served: {why}");
                }
            }
            if Instant::now() > deadline {
                bail!("after {} minutes no prompt can be answered: {missing}", PROMPT_LIMIT.as_secs() / 60);
            }
            tokio::time::sleep(POLL).await;
        }
    };
    children.unless_failed(work).await
}

async fn endpoint_reason(client: &Client) -> Option<String> {
    let found = client.get(Scope::Tenant, &sample::endpoint_path(), &[]).await.ok()?;
    output::parse::<Endpoint>(found).ok()?.reason
}

/// A reason without when the worker tries again, which changes each time.
fn without_retry(reason: &str) -> &str {
    reason.split_once(RESTARTED_IN).map_or(reason, |(reason, _)| reason)
}

/// A failure that stays.
#[derive(Default)]
struct Failing(Option<(String, Instant)>);

impl Failing {
    /// The failure, once it has been the same for a while.
    fn look_at(&mut self, reason: Option<&str>, now: Instant) -> Option<String> {
        let why = reason.and_then(|reason| reason.split_once(RESTARTED_IN)).map(|(why, _)| why);
        match (&self.0, why) {
            (_, None) => self.0 = None,
            (Some((same, since)), Some(why)) if same == why => {
                return (now.duration_since(*since) >= FAILING_LIMIT).then(|| why.to_owned());
            }
            (_, Some(why)) => self.0 = Some((why.to_owned(), now)),
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failure_that_stays_is_final() {
        let (mut failing, start) = (Failing::default(), Instant::now());
        let failed = |delay: &str| format!("model.gguf is damaged{RESTARTED_IN}{delay}");
        assert_eq!(failing.look_at(Some("loading 98 MB"), start), None);
        assert_eq!(failing.look_at(Some("loading 98 MB"), start + FAILING_LIMIT), None);
        assert_eq!(failing.look_at(Some(&failed("1 s")), start), None);
        assert_eq!(failing.look_at(Some(&failed("2 s")), start + FAILING_LIMIT / 2), None);
        let why = failing.look_at(Some(&failed("4 s")), start + FAILING_LIMIT);
        assert_eq!(why.as_deref(), Some("model.gguf is damaged"));
    }
}
