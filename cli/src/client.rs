//! The REST client of the commands, and of `up` when it sets up the sample.

pub mod failure;
pub mod lines;
pub mod session;
pub mod settings;
pub mod upload;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::header::IF_MATCH;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

pub use failure::Refused;
pub use settings::Settings;

use crate::files;
use failure::{ensure_success, unreachable};

/// Longest time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time for the answer to an ordinary request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Items asked for at once; the API gives at most this many.
const PAGE_ITEMS: usize = 200;
/// Most items that one list command prints.
const MAX_LISTED: usize = 10_000;

/// On whose behalf a request is made, which decides the credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The administrator's: signs in, names no tenant.
    Platform,
    /// A ministry's: the key, or signed in and naming the tenant.
    Tenant,
}

/// A connection to one API.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    server: Url,
    settings: Settings,
}

/// One way to authenticate.
enum Credential {
    Key(String),
    Session { token: String, tenant: Option<String> },
}

impl Client {
    /// With these settings; connects when the first request is made.
    pub fn new(settings: Settings) -> Result<Self> {
        let server: Url = settings.server.parse().with_context(|| {
            format!("{:?} is not a base URL such as http://127.0.0.1:8080", settings.server)
        })?;
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("chancery/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("cannot prepare HTTP requests")?;
        Ok(Self { http, server, settings })
    }

    /// The password of who signs in.
    pub fn password(&self) -> Result<String> {
        files::read_secret(self.settings.password_file.as_deref().context("no --password-file")?)
    }

    /// `GET`, answered with one object.
    pub async fn get(&self, scope: Scope, path: &str, query: &[(&str, String)]) -> Result<Value> {
        body(self.call(scope, Method::GET, path, |r| r.query(query).timeout(REQUEST_TIMEOUT)).await?).await
    }

    /// `GET`, `None` if there is no such thing.
    pub async fn find(&self, scope: Scope, path: &str) -> Result<Option<Value>> {
        match self.get(scope, path, &[]).await {
            Ok(found) => Ok(Some(found)),
            Err(e) if Refused::is(&e, StatusCode::NOT_FOUND) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Every item of a list, page after page.
    pub async fn list(&self, scope: Scope, path: &str) -> Result<Vec<Value>> {
        Ok(self.list_some(scope, path, MAX_LISTED, MAX_LISTED, |_| true).await?.0)
    }

    /// Up to `most` items of a list that are wanted, page after page, and how
    /// many were looked at for it: as many as `looks`, and the rest of that page.
    pub async fn list_some(
        &self,
        scope: Scope,
        path: &str,
        most: usize,
        looks: usize,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<(Vec<Value>, usize)> {
        let mut items = Vec::new();
        let mut looked_at = 0;
        let mut cursor: Option<String> = None;
        loop {
            let mut query = vec![("limit", PAGE_ITEMS.to_string())];
            query.extend(cursor.map(|cursor| ("cursor", cursor)));
            let mut page = self.get(scope, path, &query).await?;
            match page["items"].take() {
                Value::Array(more) => {
                    looked_at += more.len();
                    items.extend(more.into_iter().filter(&wanted));
                }
                _ => bail!("the API answered no list at {path}: is it of another version?"),
            }
            cursor = page["next"].as_str().map(str::to_owned);
            if cursor.is_none() || items.len() >= most || looked_at >= looks {
                items.truncate(most);
                return Ok((items, looked_at));
            }
        }
    }

    /// The items of a list that comes whole.
    pub async fn items(&self, scope: Scope, path: &str, query: &[(&str, String)]) -> Result<Vec<Value>> {
        match self.get(scope, path, query).await? {
            Value::Array(items) => Ok(items),
            Value::Object(mut object) => match object.remove("items") {
                Some(Value::Array(items)) => Ok(items),
                _ => bail!("the API answered no list at {path}: is it of another version?"),
            },
            _ => bail!("the API answered no list at {path}: is it of another version?"),
        }
    }

    /// `POST` of JSON.
    pub async fn post(&self, scope: Scope, path: &str, json: &(impl Serialize + Sync)) -> Result<Value> {
        body(self.call(scope, Method::POST, path, |r| r.json(json).timeout(REQUEST_TIMEOUT)).await?).await
    }

    /// `POST` of JSON that may take long, e.g. hashing a model.
    pub async fn post_slow(&self, scope: Scope, path: &str, json: &(impl Serialize + Sync)) -> Result<Value> {
        body(self.call(scope, Method::POST, path, |r| r.json(json)).await?).await
    }

    /// `PATCH` of JSON. A command sets the fields it names and leaves the
    /// others, so it overwrites whatever revision is there.
    pub async fn patch(&self, scope: Scope, path: &str, json: &(impl Serialize + Sync)) -> Result<Value> {
        let build = |r: RequestBuilder| r.header(IF_MATCH, "*").json(json).timeout(REQUEST_TIMEOUT);
        body(self.call(scope, Method::PATCH, path, build).await?).await
    }

    /// `PUT` of JSON, over whatever revision is there.
    pub async fn put(&self, scope: Scope, path: &str, json: &(impl Serialize + Sync)) -> Result<Value> {
        let build = |r: RequestBuilder| r.header(IF_MATCH, "*").json(json).timeout(REQUEST_TIMEOUT);
        body(self.call(scope, Method::PUT, path, build).await?).await
    }

    /// `DELETE`.
    pub async fn delete(&self, scope: Scope, path: &str) -> Result<()> {
        self.call(scope, Method::DELETE, path, |r| r.timeout(REQUEST_TIMEOUT)).await.map(drop)
    }

    /// A successful answer whose body the caller reads.
    pub async fn stream(
        &self,
        scope: Scope,
        method: Method,
        path: &str,
        json: Option<&Value>,
    ) -> Result<Response> {
        self.call(scope, method, path, |r| match json {
            Some(json) => r.json(json),
            None => r,
        })
        .await
    }

    /// `GET` without a credential, any status.
    pub async fn probe(&self, path: &str) -> Result<(StatusCode, Value)> {
        let request = self.http.get(self.url(path)?).timeout(CONNECT_TIMEOUT);
        let response = request.send().await.map_err(|e| unreachable(e, &self.server))?;
        let status = response.status();
        Ok((status, response.json().await.unwrap_or(Value::Null)))
    }

    /// Sends the request that `build` completes, with the credential that the
    /// rule of the command line's help gives: the key, or a session where only
    /// one helps, where a tenant is named, or where the key is refused.
    pub async fn call(
        &self,
        scope: Scope,
        method: Method,
        path: &str,
        build: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response> {
        // One key for all attempts: whatever arrived twice is made once.
        let key = (method == Method::POST).then(|| Uuid::now_v7().to_string());
        let build = |request: RequestBuilder| match &key {
            Some(key) => build(request).header("idempotency-key", key),
            None => build(request),
        };
        let session_first = scope == Scope::Platform || self.settings.tenant_named;
        let key = match &self.settings.key_file {
            // `up` names the sample's key before it is made.
            Some(file) if !(self.settings.can_sign_in() && (session_first || !file.exists())) => {
                Some(files::read_secret(file)?)
            }
            _ => None,
        };
        if let Some(key) = key {
            let refused = match self.send(&method, path, &build, &Credential::Key(key)).await {
                Err(e) if Refused::is(&e, StatusCode::FORBIDDEN) && self.settings.can_sign_in() => e,
                answer => return answer,
            };
            tracing::debug!(error = %refused, "The key may not do this, signing in");
        }
        if !self.settings.can_sign_in() {
            bail!(
                "no credential: name a key with --key-file, or sign in with --login and --password-file \
                 (in the folder where `chancery up` runs, both are found)"
            );
        }
        let tenant = if scope == Scope::Tenant || self.settings.tenant_named {
            self.settings.tenant.clone()
        } else {
            None
        };
        let token = session::token(&self.http, &self.server, &self.settings, false).await?;
        match self.send(&method, path, &build, &Credential::Session { token, tenant: tenant.clone() }).await {
            // Ended early, e.g. the installation was set up anew.
            Err(e) if Refused::is(&e, StatusCode::UNAUTHORIZED) => {
                let token = session::token(&self.http, &self.server, &self.settings, true).await?;
                self.send(&method, path, &build, &Credential::Session { token, tenant }).await
            }
            answer => answer,
        }
    }

    async fn send(
        &self,
        method: &Method,
        path: &str,
        build: &impl Fn(RequestBuilder) -> RequestBuilder,
        credential: &Credential,
    ) -> Result<Response> {
        let mut url = self.url(path)?;
        let token = match credential {
            Credential::Key(key) => key,
            Credential::Session { token, tenant } => {
                if let Some(tenant) = tenant {
                    url.query_pairs_mut().append_pair("tenant", tenant);
                }
                token
            }
        };
        let request = build(self.http.request(method.clone(), url).bearer_auth(token));
        let response = request.send().await.map_err(|e| unreachable(e, &self.server))?;
        ensure_success(response).await
    }

    fn url(&self, path: &str) -> Result<Url> {
        self.server.join(path.trim_start_matches('/')).with_context(|| format!("{path} is no path"))
    }
}

async fn body(response: Response) -> Result<Value> {
    let bytes = response.bytes().await.context("the answer broke off")?;
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&bytes).context("the API answered no JSON: is --server right?")
}

/// One segment of a path, made safe.
pub fn segment(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(b).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::segment;

    #[test]
    fn a_segment_cannot_leave_its_place() {
        assert_eq!(segment("smollm2"), "smollm2");
        assert_eq!(segment("a/b?c"), "a%2Fb%3Fc");
    }
}
