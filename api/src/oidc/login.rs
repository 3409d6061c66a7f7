//! Signing in with a provider: authorization code with PKCE (RFC 6749, 7636),
//! state, nonce and `iss` (RFC 9207); and what follows when a person signs out
//! there or here.
//!
//! Between the redirect and the callback nothing is stored: what must be
//! remembered travels in a sealed cookie that only the same browser has.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use domain::identity::{IdentityProvider, SigningAlgorithm, groups};
use domain::keys::Pepper;
use domain::{ProviderId, Timestamp};
use openidconnect::core::{
    CoreAuthenticationFlow, CoreClient, CoreClientAuthMethod, CoreGenderClaim, CoreIdToken,
    CoreIdTokenVerifier, CoreJsonWebKeySet, CoreJwsSigningAlgorithm, CoreTokenResponse,
};
use openidconnect::{
    AdditionalClaims, AuthType, AuthorizationCode, ClientId, ClientSecret, CsrfToken, LogoutRequest, Nonce,
    OAuth2TokenResponse, PkceCodeChallenge, PkceCodeVerifier, PostLogoutRedirectUrl, RedirectUrl,
    RequestTokenError, Scope, SubjectIdentifier, TokenResponse, UserInfoClaims,
};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256, Sha384, Sha512};
use subtle::ConstantTimeEq;

use super::discovery::{DiscoveryError, Metadata, discover};
use super::fetch::{FetchError, Fetcher};
use super::jwks::{KeyCache, KeysError};
use super::tokens::{Claims, Kind, Rules, TokenError, Unverified};
use crate::seal;

/// The cookie that holds a sign-in under way.
pub const LOGIN_COOKIE: &str = "__Host-chancery-login";
/// How long a person may take at the provider.
pub const LOGIN_LIFE: Duration = Duration::from_secs(600);
/// Characters of the path to return to.
pub const MAX_RETURN_TO_CHARS: usize = 512;
/// Bytes of an authorization code, and of a state.
const MAX_CODE_BYTES: usize = 4096;
/// Characters of a name that is taken from a token.
const MAX_NAME_CHARS: usize = 200;
/// What the sealed cookie is for.
const SEAL_PURPOSE: &str = "login";

/// Why a sign-in failed; for the log. The person is told which of a few kinds
/// it is.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The provider's description.
    #[error("the provider's description cannot be used")]
    Discovery(#[source] DiscoveryError),
    /// The description lacks what this needs.
    #[error("the provider has no {0}")]
    Lacks(&'static str),
    /// An address of ours that cannot be one.
    #[error("{0:?} cannot be an address that the provider returns to")]
    Address(String),
    /// No cookie, or not ours.
    #[error("no sign-in is under way in this browser")]
    NothingPending,
    /// The cookie is too old.
    #[error("the sign-in took longer than 10 minutes")]
    TooLate,
    /// The answer belongs to another sign-in.
    #[error("the answer belongs to another sign-in (state)")]
    OtherState,
    /// The answer says it is from another issuer, or does not say it.
    #[error("the answer is not this provider's (iss)")]
    OtherIssuer,
    /// The answer has no code.
    #[error("the answer has no code")]
    NoCode,
    /// The provider refused, or the person did.
    #[error("the provider refused: {error}")]
    Refused {
        /// Its error code, reduced to letters, digits and `_-.`.
        error: String,
    },
    /// The provider cannot be reached.
    #[error("the provider cannot be asked")]
    Fetch(#[source] FetchError),
    /// What it answered cannot be read.
    #[error("the provider's answer cannot be read")]
    Unreadable,
    /// Its answer has no ID token.
    #[error("the provider's answer has no ID token")]
    NoIdToken,
    /// Its keys.
    #[error("the provider's keys cannot be used")]
    Keys(#[source] KeysError),
    /// The token is not what it must be.
    #[error("the token is refused")]
    Token(#[source] TokenError),
    /// The token belongs to another sign-in, or the library refuses it.
    #[error("the ID token's claims are refused")]
    Claims(#[source] openidconnect::ClaimsVerificationError),
    /// The access token is not the one that the ID token is about.
    #[error("the access token is not the ID token's (at_hash)")]
    OtherAccessToken,
    /// The provider does not say more about the person.
    #[error("the provider's userinfo cannot be used: {0}")]
    Userinfo(String),
    /// A logout token that was used before.
    #[error("the logout token was used before")]
    Replayed,
}

/// Who signed in.
#[derive(Clone, Debug)]
pub struct SignedIn {
    /// Unique at the provider and never given again.
    pub subject: String,
    /// The session at the provider.
    pub session: Option<String>,
    /// What people know the person by; proves nothing.
    pub person: Person,
    /// The groups that the provider names.
    pub groups: std::collections::BTreeSet<String>,
    /// Needed to sign out there.
    pub id_token: String,
    /// Where the person wanted to go.
    pub return_to: String,
}

/// What people know a person by. The provider lets people choose some of it,
/// so nothing may depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// Mail address or user name; the subject, if there is neither.
    pub login: String,
    /// Name.
    pub display_name: String,
}

impl Person {
    /// From the claims of a token.
    pub fn of(claims: &Map<String, Value>, subject: &str) -> Self {
        let first = |names: &[&str]| names.iter().find_map(|name| person_text(claims, name));
        let login = first(&["email", "preferred_username"]).unwrap_or_else(|| subject.to_owned());
        let display_name = first(&["name", "preferred_username"]).unwrap_or_else(|| login.clone());
        Self { login, display_name }
    }
}

/// A sign-in under way, as the cookie keeps it.
#[derive(Serialize, Deserialize)]
struct Pending {
    state: String,
    nonce: String,
    verifier: String,
    return_to: String,
    until: Timestamp,
}

/// The first step of a sign-in.
#[derive(Debug)]
pub struct Begun {
    /// Where the browser goes.
    pub url: Url,
    /// The value of [`LOGIN_COOKIE`].
    pub cookie: String,
}

/// The provider's answer, as it comes in the query.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Answer {
    /// The code to exchange.
    pub code: Option<String>,
    /// Which sign-in it belongs to.
    pub state: Option<String>,
    /// Who answers (RFC 9207).
    pub iss: Option<String>,
    /// Why not.
    pub error: Option<String>,
}

/// One provider as seen by us, its client.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Its settings.
    pub provider: &'a IdentityProvider,
    /// What proves to it who asks; `None` for a public client.
    pub secret: Option<&'a str>,
    /// Where it returns people to.
    pub redirect_url: &'a str,
    /// Asks it.
    pub fetcher: &'a Fetcher,
    /// Its keys.
    pub keys: &'a KeyCache,
    /// Seals the cookie.
    pub pepper: &'a Pepper,
}

/// A path of this origin to return to after a sign-in; `None` for everything
/// that a browser could take for another origin.
pub fn local_path(text: &str) -> Option<&str> {
    let plain = text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    let local = text.starts_with('/') && !text.starts_with("//") && text.len() <= MAX_RETURN_TO_CHARS;
    (plain && local).then_some(text)
}

/// Claims of which all are kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Everything(Map<String, Value>);

impl AdditionalClaims for Everything {}

impl Client<'_> {
    /// Sends the browser to the provider. `random` must be fresh.
    pub async fn begin(
        &self,
        return_to: &str,
        now: Timestamp,
        random: [u8; 96],
    ) -> Result<Begun, LoginError> {
        let metadata = self.describe().await?;
        let text = |part: usize| URL_SAFE_NO_PAD.encode(&random[part * 32..][..32]);
        let pending = Pending {
            state: text(0),
            nonce: text(1),
            verifier: text(2),
            return_to: local_path(return_to).unwrap_or("/").to_owned(),
            until: now + LOGIN_LIFE,
        };
        let verifier = PkceCodeVerifier::new(pending.verifier.clone());
        let client = CoreClient::from_provider_metadata(metadata, self.client_id(), None)
            .set_redirect_uri(self.redirect()?);
        let (state, nonce) = (pending.state.clone(), pending.nonce.clone());
        let (url, ..) = client
            .authorize_url(
                CoreAuthenticationFlow::AuthorizationCode,
                move || CsrfToken::new(state),
                move || Nonce::new(nonce),
            )
            .add_scope(Scope::new("profile".to_owned()))
            .add_scope(Scope::new("email".to_owned()))
            .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier))
            .url();
        let plain = serde_json::to_vec(&pending).expect("texts and a time serialise");
        let sealed = seal::seal(self.pepper, SEAL_PURPOSE, self.provider.id.0.as_bytes(), &plain);
        Ok(Begun { url, cookie: URL_SAFE_NO_PAD.encode(sealed) })
    }

    /// Takes the provider's answer. Nobody is signed in unless everything fits.
    pub async fn finish(
        &self,
        cookie: Option<&str>,
        answer: &Answer,
        now: Timestamp,
    ) -> Result<SignedIn, LoginError> {
        let pending = open(self.pepper, self.provider.id, cookie, now)?;
        let state = answer.state.as_deref().unwrap_or_default();
        if !bool::from(state.as_bytes().ct_eq(pending.state.as_bytes())) {
            return Err(LoginError::OtherState);
        }
        if answer.iss.as_deref().is_some_and(|iss| iss != self.provider.issuer.as_str()) {
            return Err(LoginError::OtherIssuer);
        }
        if let Some(error) = &answer.error {
            return Err(LoginError::Refused { error: code_text(error) });
        }
        let code = answer.code.as_ref().filter(|code| (1..=MAX_CODE_BYTES).contains(&code.len()));
        let code = code.ok_or(LoginError::NoCode)?;
        let metadata = self.describe().await?;
        if metadata.additional_metadata().authorization_response_iss_parameter_supported
            && answer.iss.is_none()
        {
            return Err(LoginError::OtherIssuer);
        }
        let response = self.exchange(&metadata, code, &pending.verifier).await?;
        let id_token = response.id_token().ok_or(LoginError::NoIdToken)?;
        let claims = self.check_id_token(id_token, &pending.nonce, now).await?;
        check_access_token(id_token, &claims, response.access_token().secret())?;
        let mut all = claims.all;
        if groups(&all, &self.provider.groups_claim).is_empty() && metadata.userinfo_endpoint().is_some() {
            // The ID token's own claims win: they are signed.
            for (name, value) in self.userinfo(metadata, &response, &claims.subject).await? {
                all.entry(name).or_insert(value);
            }
        }
        Ok(SignedIn {
            person: Person::of(&all, &claims.subject),
            subject: claims.subject,
            session: claims.session,
            groups: groups(&all, &self.provider.groups_claim),
            id_token: id_token.to_string(),
            return_to: pending.return_to,
        })
    }

    /// Where the browser goes to sign out at the provider too; `None` if the
    /// provider has no such page.
    pub async fn logout_url(&self, id_token: &str, return_to: &str) -> Result<Option<Url>, LoginError> {
        let metadata = self.describe().await?;
        let Some(address) = &metadata.additional_metadata().end_session_endpoint else { return Ok(None) };
        let address = openidconnect::EndSessionUrl::new(address.clone())
            .map_err(|_| LoginError::Lacks("usable end_session_endpoint"))?;
        let hint: CoreIdToken = id_token.parse().map_err(|_| LoginError::Unreadable)?;
        let back = PostLogoutRedirectUrl::new(return_to.to_owned())
            .map_err(|_| LoginError::Address(return_to.to_owned()))?;
        let request = LogoutRequest::from(address)
            .set_client_id(self.client_id())
            .set_id_token_hint(&hint)
            .set_post_logout_redirect_uri(back);
        Ok(Some(request.http_get_url()))
    }

    /// Takes the provider's word that somebody signed out (Back-Channel
    /// Logout); names a session or everything of a subject.
    pub async fn logged_out(&self, token: &str, now: Timestamp) -> Result<Claims, LoginError> {
        self.verify(Kind::Logout, &self.provider.client_id, token, now).await
    }

    /// Checks a token of the provider with its keys.
    async fn verify(
        &self,
        kind: Kind,
        audience: &str,
        token: &str,
        now: Timestamp,
    ) -> Result<Claims, LoginError> {
        let token = Unverified::parse(token).map_err(LoginError::Token)?;
        let issuer = &self.provider.issuer;
        let keys = self.keys.keys(issuer, token.kid()).await.map_err(LoginError::Keys)?;
        let rules = Rules { kind, issuer, audience, algorithms: &self.provider.algorithms };
        token.verify(&rules, &keys, now).map_err(LoginError::Token)
    }

    async fn describe(&self) -> Result<Metadata, LoginError> {
        discover(self.fetcher, &self.provider.issuer).await.map_err(LoginError::Discovery)
    }

    fn client_id(&self) -> ClientId {
        ClientId::new(self.provider.client_id.clone())
    }

    fn redirect(&self) -> Result<RedirectUrl, LoginError> {
        RedirectUrl::new(self.redirect_url.to_owned())
            .map_err(|_| LoginError::Address(self.redirect_url.to_owned()))
    }

    async fn exchange(
        &self,
        metadata: &Metadata,
        code: &str,
        verifier: &str,
    ) -> Result<CoreTokenResponse, LoginError> {
        // Basic is what every provider takes that does not say otherwise.
        let posts_only = metadata.token_endpoint_auth_methods_supported().is_some_and(|methods| {
            !methods.contains(&CoreClientAuthMethod::ClientSecretBasic)
                && methods.contains(&CoreClientAuthMethod::ClientSecretPost)
        });
        let secret = self.secret.map(|secret| ClientSecret::new(secret.to_owned()));
        let client = CoreClient::from_provider_metadata(metadata.clone(), self.client_id(), secret)
            .set_redirect_uri(self.redirect()?)
            .set_auth_type(if posts_only { AuthType::RequestBody } else { AuthType::BasicAuth });
        client
            .exchange_code(AuthorizationCode::new(code.to_owned()))
            .map_err(|_| LoginError::Lacks("token_endpoint"))?
            .set_pkce_verifier(PkceCodeVerifier::new(verifier.to_owned()))
            .request_async(self.fetcher)
            .await
            .map_err(|e| match e {
                RequestTokenError::ServerResponse(said) => {
                    LoginError::Refused { error: code_text(said.error().as_ref()) }
                }
                RequestTokenError::Request(e) => LoginError::Fetch(e),
                // Their texts may hold the answer, and so a token.
                RequestTokenError::Parse(..) | RequestTokenError::Other(_) => LoginError::Unreadable,
            })
    }

    /// Checked twice: strictly here, and by the library, which also compares
    /// the nonce.
    async fn check_id_token(
        &self,
        token: &CoreIdToken,
        nonce: &str,
        now: Timestamp,
    ) -> Result<Claims, LoginError> {
        let provider = self.provider;
        let claims = self.verify(Kind::Id, &provider.client_id, &token.to_string(), now).await?;
        let published = self.keys.snapshot(&provider.issuer).map(|kept| kept.jwks).unwrap_or_default();
        let published: CoreJsonWebKeySet =
            serde_json::from_str(&published).map_err(|_| LoginError::Unreadable)?;
        let issuer = openidconnect::IssuerUrl::new(provider.issuer.to_string())
            .map_err(|_| LoginError::Address(provider.issuer.to_string()))?;
        let time = chrono::DateTime::from_timestamp(now.unix_secs(), 0).unwrap_or_default();
        let leeway = chrono::TimeDelta::from_std(super::tokens::LEEWAY).unwrap_or_default();
        let verifier = CoreIdTokenVerifier::new_public_client(self.client_id(), issuer, published)
            .set_allowed_algs(provider.algorithms.iter().map(|algorithm| library_name(*algorithm)))
            .set_time_fn(move || time - leeway)
            // Who else it is for is checked with `azp` above.
            .set_other_audience_verifier_fn(|_| true);
        token.claims(&verifier, &Nonce::new(nonce.to_owned())).map_err(LoginError::Claims)?;
        Ok(claims)
    }

    async fn userinfo(
        &self,
        metadata: Metadata,
        response: &CoreTokenResponse,
        subject: &str,
    ) -> Result<Map<String, Value>, LoginError> {
        let client = CoreClient::from_provider_metadata(metadata, self.client_id(), None);
        let subject = SubjectIdentifier::new(subject.to_owned());
        let said: UserInfoClaims<Everything, CoreGenderClaim> = client
            .user_info(response.access_token().clone(), Some(subject))
            .map_err(|_| LoginError::Lacks("userinfo_endpoint"))?
            .request_async(self.fetcher)
            .await
            .map_err(|e| {
                LoginError::Userinfo(match e {
                    openidconnect::UserInfoError::ClaimsVerification(e) => e.to_string(),
                    openidconnect::UserInfoError::Request(e) => crate::problem::chain(&e),
                    _ => "it cannot be read".to_owned(),
                })
            })?;
        Ok(said.additional_claims().0.clone())
    }
}

fn open(
    pepper: &Pepper,
    provider: ProviderId,
    cookie: Option<&str>,
    now: Timestamp,
) -> Result<Pending, LoginError> {
    let sealed =
        cookie.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()).ok_or(LoginError::NothingPending)?;
    let plain = seal::open(pepper, SEAL_PURPOSE, provider.0.as_bytes(), &sealed);
    let pending: Pending =
        plain.and_then(|plain| serde_json::from_slice(&plain).ok()).ok_or(LoginError::NothingPending)?;
    if now >= pending.until { Err(LoginError::TooLate) } else { Ok(pending) }
}

/// Compares `at_hash`, where it is there (OpenID Connect Core, section 3.1.3.6).
fn check_access_token(id_token: &CoreIdToken, claims: &Claims, access_token: &str) -> Result<(), LoginError> {
    let Some(said) = claims.all.get("at_hash") else { return Ok(()) };
    let bytes = access_token.as_bytes();
    let hash = match id_token.signing_alg() {
        Ok(CoreJwsSigningAlgorithm::EcdsaP384Sha384) => Sha384::digest(bytes).to_vec(),
        Ok(CoreJwsSigningAlgorithm::EdDsa) => Sha512::digest(bytes).to_vec(),
        Ok(_) => Sha256::digest(bytes).to_vec(),
        Err(_) => return Err(LoginError::OtherAccessToken),
    };
    let expected = URL_SAFE_NO_PAD.encode(&hash[..hash.len() / 2]);
    let same = said.as_str().is_some_and(|said| bool::from(said.as_bytes().ct_eq(expected.as_bytes())));
    if same { Ok(()) } else { Err(LoginError::OtherAccessToken) }
}

fn library_name(algorithm: SigningAlgorithm) -> CoreJwsSigningAlgorithm {
    match algorithm {
        SigningAlgorithm::RS256 => CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
        SigningAlgorithm::PS256 => CoreJwsSigningAlgorithm::RsaSsaPssSha256,
        SigningAlgorithm::ES256 => CoreJwsSigningAlgorithm::EcdsaP256Sha256,
        SigningAlgorithm::ES384 => CoreJwsSigningAlgorithm::EcdsaP384Sha384,
        SigningAlgorithm::EdDSA => CoreJwsSigningAlgorithm::EdDsa,
    }
}

/// An error code of somebody else's, fit for a log.
fn code_text(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || "_-.".contains(*c)).take(64).collect()
}

/// A text about a person, fit to be shown.
fn person_text(claims: &Map<String, Value>, name: &str) -> Option<String> {
    let text: String =
        claims.get(name)?.as_str()?.chars().filter(|c| !c.is_control()).take(MAX_NAME_CHARS).collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Logout tokens that were used and have not ended, so that none counts twice.
#[derive(Debug, Default)]
pub struct UsedTokens(std::sync::Mutex<std::collections::HashMap<(ProviderId, String), Timestamp>>);

impl UsedTokens {
    /// Tokens remembered at once. Only tokens that a provider signed come here,
    /// and each ends within a day.
    const LIMIT: usize = 10_000;

    /// Notes the use of a verified token; refuses the second one.
    pub fn take(&self, provider: ProviderId, claims: &Claims, now: Timestamp) -> Result<(), LoginError> {
        let id = claims.id.clone().ok_or(LoginError::Token(TokenError::IdMissing))?;
        let mut used = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if used.len() >= Self::LIMIT {
            used.retain(|_, until| *until > now);
            if used.len() >= Self::LIMIT {
                // A second use ends sessions that are ended: harmless.
                used.clear();
            }
        }
        match used.insert((provider, id), claims.expires_at + super::tokens::LEEWAY) {
            Some(until) if until > now => Err(LoginError::Replayed),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
