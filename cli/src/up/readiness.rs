//! Waiting until the API answers, and then until a prompt can be answered.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use domain::endpoints::Endpoint;
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
/// A reason to fail that stays this long will not go away.
const FAILING_LIMIT: Duration = Duration::from_secs(8);

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

/// Until a prompt can be answered; says what it waits for. An endpoint that
/// says for a while why it cannot start ends the wait with that reason.
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
            let missing = body["detail"].as_str().unwrap_or("the API is not ready");
            if missing != told {
                console.say(format!("Waiting: {missing}"));
                missing.clone_into(&mut told);
            }
            if Instant::now() >= ask_again {
                ask_again = Instant::now() + REASON_POLL;
                failing.look_at(endpoint_reason(client).await, console)?;
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
    let path = sample::endpoint_path();
    let found = client.get(Scope::Tenant, &path, &[]).await.ok()?;
    output::parse::<Endpoint>(found).ok()?.reason
}

/// A reason that stays.
#[derive(Default)]
struct Failing(Option<(String, Instant)>);

impl Failing {
    fn look_at(&mut self, reason: Option<String>, console: &Console) -> Result<()> {
        let Some(reason) = reason else {
            self.0 = None;
            return Ok(());
        };
        match &self.0 {
            Some((same, since)) if *same == reason => {
                if since.elapsed() > FAILING_LIMIT && is_final(&reason) {
                    return Err(anyhow!("the sample model cannot be served: {reason}"));
                }
            }
            _ => {
                console.say(format!("Waiting: {reason}"));
                self.0 = Some((reason, Instant::now()));
            }
        }
        Ok(())
    }
}

/// Whether waiting cannot help.
fn is_final(reason: &str) -> bool {
    !reason.contains("waiting for the scheduler")
}
