//! Access tokens of identity providers as credentials of the API.

use domain::Timestamp;
use domain::identity::{grant, groups};
use domain::principals::{Caller, Credential, Membership, Role};
use store::credentials::Known;
use store::identity::{Arrival, Arrived};

use crate::oidc::jwks::KeysError;
use crate::oidc::login::Person;
use crate::oidc::tokens::{Kind, LEEWAY, Rules, TokenError, Unverified};
use crate::problem::{ApiError, Result, chain};
use crate::state::App;

/// Why a token is no credential here; for the log.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the token is refused")]
    Token(#[from] TokenError),
    #[error("no identity provider in use has this issuer")]
    UnknownIssuer,
    #[error("its groups give nothing")]
    NoGroups,
    #[error("the account is disabled")]
    Disabled,
    #[error("the issuer's keys are not to be had")]
    Keys(#[source] KeysError),
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl From<store::StoreError> for Refusal {
    fn from(e: store::StoreError) -> Self {
        Self::Api(e.into())
    }
}

/// Whether a credential is meant to be a signed token: it has parts, which our
/// own credentials lack. Everything about it is still to be checked.
pub(crate) fn looks_like_token(credential: &str) -> bool {
    credential.contains('.')
}

/// Who calls with a token. The role is what the token's groups give, now; an
/// account is made for who comes for the first time, so that acts have an author.
pub(crate) async fn known(app: &App, token: &str, now: Timestamp) -> Result<Known> {
    check(app, token, now).await.map_err(|refusal| match refusal {
        Refusal::Api(e) => e,
        Refusal::Keys(e) => {
            tracing::warn!(error = chain(&e), "Cannot check a token: {}", chain(&e));
            ApiError::Unavailable("the identity provider that the token is from cannot be reached".to_owned())
        }
        refusal => {
            metrics::counter!("chancery_tokens_refused_total").increment(1);
            tracing::info!(reason = chain(&refusal), "Refused a token: {}", chain(&refusal));
            ApiError::Unauthorized("the credential is not valid, or not any more")
        }
    })
}

async fn check(app: &App, token: &str, now: Timestamp) -> Result<Known, Refusal> {
    let token = Unverified::parse(token)?;
    let provider = {
        let mut tx = app.store.system().await?;
        store::identity::by_issuer(&mut tx, token.issuer()?).await?.ok_or(Refusal::UnknownIssuer)?
    };
    app.identity.recall(app, &provider.issuer).await?;
    let keys = app.identity.keys.keys(&provider.issuer, token.kid()).await.map_err(Refusal::Keys)?;
    let rules = Rules {
        kind: Kind::Access,
        issuer: &provider.issuer,
        audience: &provider.audience,
        algorithms: &provider.algorithms,
    };
    let claims = token.verify(&rules, &keys, now)?;
    let named = groups(&claims.all, &provider.groups_claim);
    let grant = grant(provider.tenant_id.is_some(), &provider.mappings, &named).ok_or(Refusal::NoGroups)?;
    let person = Person::of(&claims.all, &claims.subject);
    let mut tx = app.store.system().await?;
    let arrival = Arrival {
        provider: &provider,
        subject: &claims.subject,
        login: &person.login,
        display_name: &person.display_name,
        grant: Some(&grant),
        // A token may name only the groups of its audience: what the account
        // has stays as the last sign-in left it.
        follow: false,
    };
    let account = match store::identity::arrive(&mut tx, &arrival, now).await? {
        Arrived::Account(id) => id,
        Arrived::Disabled => return Err(Refusal::Disabled),
        Arrived::Nothing => return Err(Refusal::NoGroups),
    };
    let credential = Credential::Token(provider.id);
    let known =
        store::credentials::of_principal(&mut tx, account, credential).await?.ok_or(Refusal::Disabled)?;
    let memberships = match provider.tenant_id {
        Some(tenant) => store::identity::projects_of(&mut tx, tenant, &grant).await?,
        None => Default::default(),
    };
    tx.commit().await?;
    let memberships = memberships.into_iter().map(|(project, role)| Membership { project, role }).collect();
    let role = grant.role.unwrap_or(Role::Member);
    Ok(Known {
        // A change of the provider makes every token of it be looked at again.
        id: provider.id.0,
        caller: Caller { role, memberships, ..known.caller },
        expires_at: Some(claims.expires_at + LEEWAY),
        ..known
    })
}
