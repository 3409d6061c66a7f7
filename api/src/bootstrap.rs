//! The first administrator of the platform, and the way back in when none can
//! sign in any more: what only who reaches the database itself may do.

use domain::Clock;
use domain::outbox::Topic;
use domain::principals::Role;
use serde_json::{Value, json};
use store::principals::{NewPrincipal, PrincipalChange};
use store::{Store, SystemTx};

use crate::fields;
use crate::passwords::{self, Passwords};
use crate::problem::{ApiError, Result};

/// Whom the audit log names: nobody signed in.
const ACTOR: &str = "system";

/// What [`bootstrap_admin`] or [`reset_admin`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminOutcome {
    /// The account was created.
    Created,
    /// The platform has an administrator already; nothing changed.
    Exists,
    /// The administrator of that login has another password.
    Reset,
}

/// What becomes of the password of the first administrator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstPassword {
    /// It was shown to a person: it must be changed at the first sign-in.
    MustChange,
    /// It was drawn at random and is known to its file alone.
    Stays,
}

/// Creates the first platform administrator, unless there is one. Safe to
/// repeat, and from several processes at once.
pub async fn bootstrap_admin(
    store: &Store,
    clock: &Clock,
    login: &str,
    password: &str,
    first: FirstPassword,
) -> Result<AdminOutcome> {
    let login = fields::login(login)?;
    passwords::check_new("password", password, &login)?;
    let mut tx = store.system().await?;
    if store::principals::lock_platform_admins(&mut tx).await? {
        return Ok(AdminOutcome::Exists);
    }
    let hash = Passwords::new().hash(password).await?;
    create(&mut tx, clock, &login, &hash, first, json!({})).await?;
    tx.commit().await?;
    Ok(AdminOutcome::Created)
}

/// Breaks the glass: gives the administrator of that login another password,
/// to be changed at the next sign-in, or creates one beside those there are.
/// One that was disabled is enabled, its one-time codes are taken away and its
/// sessions end. The audit log says that it was done this way.
pub async fn reset_admin(store: &Store, clock: &Clock, login: &str, password: &str) -> Result<AdminOutcome> {
    let login = fields::login(login)?;
    passwords::check_new("password", password, &login)?;
    let hash = Passwords::new().hash(password).await?;
    let mut tx = store.system().await?;
    store::principals::lock_platform_admins(&mut tx).await?;
    let Some((tenant, id)) = store::sign_in::meant(&mut tx, &login).await? else {
        let detail = json!({ "break_glass": true });
        create(&mut tx, clock, &login, &hash, FirstPassword::MustChange, detail).await?;
        tx.commit().await?;
        return Ok(AdminOutcome::Created);
    };
    let account = store::principals::get(&mut tx, id).await?;
    if tenant.is_some() || account.role != Role::PlatformAdmin {
        return Err(ApiError::Conflict(format!(
            "{login} is no administrator of the platform, but {}; name one, or a login that is free",
            account.role
        )));
    }
    let now = clock.now();
    let enabled = PrincipalChange { disabled: Some(false), ..PrincipalChange::default() };
    store::principals::update(&mut tx, id, enabled, None, now).await?;
    store::principals::set_password(&mut tx, id, &hash, true).await?;
    let codes = store::sign_in::remove_one_time_codes(&mut tx, id).await?;
    let sessions = store::sessions::revoke_all(&mut tx, id, None, now).await?;
    store::outbox::publish(&mut tx, Topic::Credentials, id.0, now).await?;
    let mut event = store::audit::allowed(None, now, ACTOR, "reset_password", format!("principal:{id}"));
    event.detail = json!({
        "break_glass": true, "was_disabled": account.disabled_at.is_some(),
        "one_time_codes_removed": codes, "sessions": sessions.len(),
    });
    store::audit::record(&mut tx, &event).await?;
    tx.commit().await?;
    Ok(AdminOutcome::Reset)
}

async fn create(
    tx: &mut SystemTx,
    clock: &Clock,
    login: &str,
    password_hash: &str,
    first: FirstPassword,
    detail: Value,
) -> Result<()> {
    let now = clock.now();
    let new = NewPrincipal {
        tenant: None,
        login,
        display_name: "Platform administrator",
        role: Role::PlatformAdmin,
        password_hash,
        must_change_password: first == FirstPassword::MustChange,
    };
    let principal = store::principals::create(tx, new, now).await?;
    let object = format!("principal:{}", principal.id);
    let mut event = store::audit::allowed(None, now, ACTOR, "create_account", object);
    event.detail = detail;
    Ok(store::audit::record(tx, &event).await?)
}
