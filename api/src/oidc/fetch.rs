//! Asking a provider over HTTP: never redirected, never slow, never large, and
//! only over TLS unless it is on this machine and the settings allow that.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{ACCEPT, AUTHORIZATION};
use axum::http::{HeaderValue, Method, Request, Response, StatusCode};
use domain::identity::is_loopback_host;
use openidconnect::AsyncHttpClient;
use reqwest::Url;
use tokio::sync::Semaphore;

/// How long a provider may take for one answer, body included.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests to providers under way at once, of one kind of use. Whoever opens
/// sign-in pages without end makes this process ask no faster.
pub const MAX_UNDER_WAY: usize = 64;
/// Bytes of an answer.
pub const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// Why a provider gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not a URL.
    #[error("{0:?} is not a URL")]
    NotUrl(String),
    /// Plain http, or another scheme.
    #[error(
        "{0} is not https; plain http is only taken on this machine, and only where the settings allow it"
    )]
    Insecure(Url),
    /// Nobody there, or no TLS with them.
    #[error("{url} cannot be reached")]
    Unreachable {
        /// Where.
        url: Url,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// Too slow.
    #[error("{url} did not answer within {} seconds", within.as_secs_f32())]
    TimedOut {
        /// Where.
        url: Url,
        /// The limit.
        within: Duration,
    },
    /// Elsewhere.
    #[error("{0} redirects; name the address it redirects to")]
    Redirected(Url),
    /// Not 200.
    #[error("{url} answered {status}")]
    Status {
        /// Where.
        url: Url,
        /// What.
        status: StatusCode,
    },
    /// Too large.
    #[error("{0} answered with more than 256 KiB")]
    TooLarge(Url),
    /// Too many others ask.
    #[error("too many requests to identity providers are under way")]
    Busy,
    /// The request could not be made.
    #[error("the request cannot be made")]
    Request(#[source] axum::http::Error),
}

/// The client for providers.
#[derive(Clone, Debug)]
pub struct Fetcher {
    client: reqwest::Client,
    timeout: Duration,
    plain_http_on_loopback: bool,
    turns: Arc<Semaphore>,
}

impl Fetcher {
    /// A client that takes plain http on loopback only if told so.
    pub fn new(plain_http_on_loopback: bool, timeout: Duration) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .connect_timeout(timeout.min(Duration::from_secs(3)))
            .timeout(timeout)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            // Asked too rarely for a kept connection to be still open.
            .pool_max_idle_per_host(0)
            .build()?;
        Ok(Self { client, timeout, plain_http_on_loopback, turns: Arc::new(Semaphore::new(MAX_UNDER_WAY)) })
    }

    /// The URL, if it may be asked.
    pub fn allowed(&self, text: &str) -> Result<Url, FetchError> {
        let url = Url::parse(text).map_err(|_| FetchError::NotUrl(text.chars().take(200).collect()))?;
        let loopback = url.host_str().is_some_and(is_loopback_host);
        match url.scheme() {
            "https" => Ok(url),
            "http" if loopback && self.plain_http_on_loopback => Ok(url),
            _ => Err(FetchError::Insecure(url)),
        }
    }

    /// The body of a 200 answer to GET.
    pub async fn get(&self, url: &str) -> Result<Vec<u8>, FetchError> {
        let request = Request::builder()
            .method(Method::GET)
            .uri(url)
            .header(ACCEPT, HeaderValue::from_static("application/json"))
            .body(Vec::new())
            .map_err(FetchError::Request)?;
        let response = self.send(request).await?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status { url: self.allowed(url)?, status: response.status() });
        }
        Ok(response.into_body())
    }

    /// Any answer but a redirect, of any status.
    async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, FetchError> {
        let url = self.allowed(&request.uri().to_string())?;
        let _turn = self.turns.try_acquire().map_err(|_| FetchError::Busy)?;
        let failed = |source: reqwest::Error| match source.is_timeout() {
            true => FetchError::TimedOut { url: url.clone(), within: self.timeout },
            // Without the URL, which may hold a code or a token.
            false => FetchError::Unreachable { url: url.clone(), source: source.without_url() },
        };
        let (parts, body) = request.into_parts();
        let mut headers = parts.headers;
        if let Some(secret) = headers.get_mut(AUTHORIZATION) {
            secret.set_sensitive(true);
        }
        let sent = self.client.request(parts.method, url.clone()).headers(headers).body(body).send().await;
        let mut answer = sent.map_err(failed)?;
        let status = answer.status();
        if status.is_redirection() {
            return Err(FetchError::Redirected(url));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(FetchError::TooLarge(url));
            }
            body.extend_from_slice(&chunk);
        }
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = std::mem::take(answer.headers_mut());
        Ok(response)
    }
}

impl<'c> AsyncHttpClient<'c> for Fetcher {
    type Error = FetchError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Vec<u8>>, FetchError>> + Send + 'c>>;

    fn call(&'c self, request: Request<Vec<u8>>) -> Self::Future {
        Box::pin(self.send(request))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn a_flood_of_requests_is_bounded() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        // Nobody accepts: every request that is made waits for its time-out.
        let fetcher = Fetcher::new(true, Duration::from_millis(300)).unwrap();
        let answers = join_all((0..MAX_UNDER_WAY + 20).map(|_| fetcher.get(&url))).await;
        let busy = answers.iter().filter(|answer| matches!(answer, Err(FetchError::Busy))).count();
        assert_eq!(busy, 20);
        assert!(!matches!(fetcher.get(&url).await, Err(FetchError::Busy)), "turns are given back");
    }
}
