//! What a provider says about itself (OpenID Connect Discovery).

use domain::identity::IssuerUrl;
use openidconnect::core::{
    CoreAuthDisplay, CoreClaimName, CoreClaimType, CoreClientAuthMethod, CoreGrantType, CoreJsonWebKey,
    CoreJweContentEncryptionAlgorithm, CoreJweKeyManagementAlgorithm, CoreResponseMode, CoreResponseType,
    CoreSubjectIdentifierType,
};
use openidconnect::{AdditionalProviderMetadata, ProviderMetadata};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fetch::{FetchError, Fetcher};
use super::strict::{NotStrict, object};

/// What a provider says beyond the core of discovery.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Extras {
    /// Where a person is sent to sign out (RP-Initiated Logout).
    pub end_session_endpoint: Option<String>,
    /// Whether it tells us who signed out (Back-Channel Logout).
    #[serde(default)]
    pub backchannel_logout_supported: bool,
    /// Whether its answers name it (RFC 9207).
    #[serde(default)]
    pub authorization_response_iss_parameter_supported: bool,
}

impl AdditionalProviderMetadata for Extras {}

/// A provider's description of itself.
pub type Metadata = ProviderMetadata<
    Extras,
    CoreAuthDisplay,
    CoreClientAuthMethod,
    CoreClaimName,
    CoreClaimType,
    CoreGrantType,
    CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm,
    CoreJsonWebKey,
    CoreResponseMode,
    CoreResponseType,
    CoreSubjectIdentifierType,
>;

/// Why a provider cannot be used as it describes itself.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// No description.
    #[error("the provider does not describe itself")]
    Fetch(#[source] FetchError),
    /// No JSON.
    #[error("{0} is not a JSON object: is the issuer's URL right?")]
    NotJson(String),
    /// A member twice.
    #[error("{0} has a member twice")]
    Duplicate(String),
    /// Members that must be there are not, or of another type.
    #[error("the provider's description cannot be used")]
    Malformed(#[source] serde_json::Error),
    /// It is about another issuer: whoever answers could speak for anybody.
    #[error("the provider calls itself {found:?}, not {expected}: use exactly its own spelling")]
    OtherIssuer {
        /// The configured one.
        expected: IssuerUrl,
        /// What it says.
        found: String,
    },
    /// An address that may not be asked.
    #[error("the provider's {what} cannot be used")]
    Endpoint {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        source: FetchError,
    },
}

/// Fetches and checks a provider's description.
pub async fn discover(fetcher: &Fetcher, issuer: &IssuerUrl) -> Result<Metadata, DiscoveryError> {
    let address = format!("{}/.well-known/openid-configuration", issuer.as_str().trim_end_matches('/'));
    let body = fetcher.get(&address).await.map_err(DiscoveryError::Fetch)?;
    let described = object(&body).map_err(|e| match e {
        NotStrict::Duplicate => DiscoveryError::Duplicate(address.clone()),
        NotStrict::Json | NotStrict::Object => DiscoveryError::NotJson(address.clone()),
    })?;
    let found = described.get("issuer").and_then(Value::as_str).unwrap_or_default();
    if found != issuer.as_str() {
        let found = found.chars().take(200).collect();
        return Err(DiscoveryError::OtherIssuer { expected: issuer.clone(), found });
    }
    for what in
        ["jwks_uri", "authorization_endpoint", "token_endpoint", "userinfo_endpoint", "end_session_endpoint"]
    {
        if let Some(Value::String(url)) = described.get(what) {
            fetcher.allowed(url).map_err(|source| DiscoveryError::Endpoint { what, source })?;
        }
    }
    serde_json::from_value(Value::Object(described)).map_err(DiscoveryError::Malformed)
}
