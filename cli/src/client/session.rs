//! Signing in, and keeping the session so that not every command has to.

use std::path::Path;

use anyhow::{Context, Result};
use domain::{Clock, Timestamp};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::failure::{ensure_success, unreachable};
use super::{CONNECT_TIMEOUT, Settings};
use crate::files;

/// A session that ends sooner is not used any more.
const MARGIN: std::time::Duration = std::time::Duration::from_secs(60);

/// What is kept, for its owner alone.
#[derive(Serialize, Deserialize)]
struct Kept {
    server: String,
    login: String,
    token: String,
    expires_at: Timestamp,
}

/// The token of a session: the kept one, unless it ended or `anew`.
pub(super) async fn token(
    http: &reqwest::Client,
    server: &Url,
    settings: &Settings,
    anew: bool,
) -> Result<String> {
    let login = settings.login.as_deref().context("no --login")?;
    let password_file = settings.password_file.as_deref().context("no --password-file")?;
    // Hidden, and named after the password it came from.
    let kept_in = password_file
        .file_name()
        .map(|name| password_file.with_file_name(format!(".session-of-{}", name.to_string_lossy())));
    if !anew && let Some(token) = kept_in.as_deref().and_then(|path| kept(path, server, login)) {
        return Ok(token);
    }
    let password = files::read_secret(password_file)?;
    let url = server.join("api/v1/sessions").context("the server has no valid URL")?;
    let mut body = json!({"login": login, "password": password});
    if let Some(code) = &settings.one_time_code {
        body["one_time_code"] = json!(code);
    }
    let request = http.post(url).json(&body).timeout(CONNECT_TIMEOUT * 4);
    let response = request.send().await.map_err(|e| unreachable(e, server))?;
    let answer: Value = ensure_success(response)
        .await?
        .json()
        .await
        .context("the API answered no session: is --server right?")?;
    let token = answer["token"].as_str().context("the API answered a session without a token")?.to_owned();
    if let (Some(path), Some(Ok(expires_at))) = (kept_in, answer["expires_at"].as_str().map(str::parse)) {
        let kept =
            Kept { server: server.to_string(), login: login.to_owned(), token: token.clone(), expires_at };
        // Where the password's folder cannot be written, each command signs in.
        let text = serde_json::to_string(&kept).context("the session cannot be kept")?;
        if let Err(error) = files::write_private(&path, &text) {
            tracing::debug!(%error, "The session is not kept");
        }
    }
    Ok(token)
}

fn kept(path: &Path, server: &Url, login: &str) -> Option<String> {
    let kept: Kept = serde_json::from_str(&files::read_trimmed(path).ok()?).ok()?;
    let fits = kept.server == server.as_str() && kept.login == login;
    (fits && kept.expires_at > Clock::system().now() + MARGIN).then_some(kept.token)
}
