//! Says plainly what is wrong with an identity provider, before anybody tries
//! to sign in with it.

use axum::extract::State;
use domain::identity::IdentityProvider;
use domain::{ProviderId, Timestamp};
use openidconnect::core::{CoreJwsSigningAlgorithm, CoreResponseType};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::{Scope, TenantParam};
use crate::extract::{Json, Path};
use crate::oidc::discovery::{Metadata, discover};
use crate::oidc::keys::KeySet;
use crate::problem::{Result, chain};
use crate::state::App;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(check_identity_provider))
}

/// What a check found.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct ProviderCheck {
    /// Whether people can sign in, as far as can be told from here.
    ok: bool,
    /// What is wrong, and what to do. Empty if all is well.
    problems: Vec<String>,
    /// What works and could be better.
    remarks: Vec<String>,
    /// Keys that can check tokens.
    keys: usize,
    /// When it was checked.
    checked_at: Timestamp,
}

/// Ask an identity provider for its description and keys, and say what is
/// wrong with them.
#[utoipa::path(post, path = "/api/v1/identity-providers/{provider}/check", tag = "identity",
    params(TenantParam, ("provider" = ProviderId, Path, description = "Identifier")),
    responses((status = 200, body = ProviderCheck)))]
async fn check_identity_provider(
    scope: Scope,
    State(app): State<App>,
    Path(id): Path<ProviderId>,
) -> Result<Json<ProviderCheck>> {
    let provider = store::identity::get(&mut scope.read(&app).await?, scope.tenant, id).await?;
    let checked_at = app.clock.now();
    let (mut problems, mut remarks, mut keys) = (Vec::new(), Vec::new(), 0);
    match discover(&app.identity.fetcher, &provider.issuer).await {
        Err(e) => problems.push(format!("{}.", chain(&e))),
        Ok(metadata) => {
            look_at(&provider, &metadata, &mut problems, &mut remarks);
            match app.identity.keys.fetch(&provider.issuer).await {
                Err(e) => problems.push(format!("{}.", chain(&e))),
                Ok(set) => {
                    keys = set.usable();
                    look_at_keys(&provider, &set, &mut problems, &mut remarks);
                }
            }
        }
    }
    if !provider.enabled {
        problems.push("It is not enabled: nobody can sign in with it.".to_owned());
    }
    if provider.mappings.is_empty() {
        problems.push("No group is mapped: nobody can sign in. Map at least one group to a role.".to_owned());
    }
    Ok(Json(ProviderCheck { ok: problems.is_empty(), problems, remarks, keys, checked_at }))
}

fn look_at(
    provider: &IdentityProvider,
    metadata: &Metadata,
    problems: &mut Vec<String>,
    remarks: &mut Vec<String>,
) {
    if metadata.token_endpoint().is_none() {
        problems.push("It has no token endpoint: the authorization code flow is not possible.".to_owned());
    }
    if !metadata.response_types_supported().iter().any(|types| types[..] == [CoreResponseType::Code]) {
        problems.push("It does not offer response type `code`: enable the standard flow.".to_owned());
    }
    let signs: Vec<String> = metadata
        .id_token_signing_alg_values_supported()
        .iter()
        .filter_map(|algorithm: &CoreJwsSigningAlgorithm| {
            serde_json::to_value(algorithm).ok()?.as_str().map(str::to_owned)
        })
        .collect();
    if !provider.algorithms.iter().any(|ours| signs.iter().any(|theirs| theirs == ours.as_str())) {
        problems.push(format!(
            "It signs with {}, and none of these is taken from it: set `algorithms`.",
            if signs.is_empty() { "nothing that is known here".to_owned() } else { signs.join(", ") },
        ));
    }
    let extras = metadata.additional_metadata();
    if extras.end_session_endpoint.is_none() {
        remarks.push("It has no page to sign out: who signs out here stays signed in there.".to_owned());
    }
    if !extras.backchannel_logout_supported {
        remarks.push("It does not tell who signs out there: such sessions end here by their age.".to_owned());
    }
}

fn look_at_keys(
    provider: &IdentityProvider,
    set: &KeySet,
    problems: &mut Vec<String>,
    remarks: &mut Vec<String>,
) {
    if !provider.algorithms.iter().any(|algorithm| set.serves(*algorithm)) {
        problems
            .push("None of its keys fits an algorithm that is taken from it: set `algorithms`.".to_owned());
    }
    for (kid, defect) in set.defects() {
        remarks.push(format!("Its key {} is not used: {defect}.", kid.unwrap_or("without a name")));
    }
}
