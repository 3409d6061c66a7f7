//! What a sign-in page offers: the providers that people may begin with, for
//! all to read. Which ministries there are is not told.

use axum::extract::State;
use domain::identity::IdentityProvider;
use domain::tenants::Slug;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::login_path;
use crate::cursor::Page;
use crate::extract::{Json, WholeQuery};
use crate::problem::Result;
use crate::sessions::Client;
use crate::state::App;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_sign_in_providers))
}

/// Whose people sign in.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Whose {
    /// Short name of the tenant; the platform's own people unless given.
    tenant: Option<Slug>,
}

/// An identity provider, as a sign-in page shows it.
#[derive(Serialize, utoipa::ToSchema)]
struct SignInProvider {
    /// Short name.
    name: Slug,
    /// What to write on its button.
    label: String,
    /// Path under this installation's URL where the browser begins.
    login_path: String,
}

impl From<IdentityProvider> for SignInProvider {
    fn from(provider: IdentityProvider) -> Self {
        Self { login_path: login_path(provider.id), name: provider.name, label: provider.label }
    }
}

/// List the identity providers to sign in with, of a tenant or of the platform
///
/// Needs no credential. A tenant that is not there answers like one that has
/// none; local accounts sign in with `POST /api/v1/sessions`.
#[utoipa::path(get, path = "/api/v1/sign-in/providers", tag = "sessions", security(()), params(Whose),
    responses((status = 200, body = Page<SignInProvider>)))]
async fn list_sign_in_providers(
    State(app): State<App>,
    client: Client,
    WholeQuery(whose): WholeQuery<Whose>,
) -> Result<Json<Page<SignInProvider>>> {
    app.rates.check_address(client.address, app.clock.now())?;
    let mut tx = app.store.system().await?;
    let found = store::identity::to_sign_in_with(&mut tx, whose.tenant.as_ref()).await?;
    Ok(Json(Page { items: found.into_iter().map(Into::into).collect(), next: None }))
}
