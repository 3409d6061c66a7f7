//! One subscription to the database's notifications, told to everyone inside:
//! the credential cache at once, others through `App::changes`.

use std::time::Duration;

use domain::outbox::Topic;
use store::listen::Change;
use uuid::Uuid;

use crate::problem::chain;
use crate::state::App;

/// Pause before listening again after the database was lost.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until the server has stopped.
pub(crate) async fn run(app: App) {
    let stopped = app.stopped.clone();
    stopped.run_until_cancelled(listen(app)).await;
}

async fn listen(app: App) {
    loop {
        match app.store.changes().await {
            Ok(mut changes) => {
                // What changed before this moment was not heard.
                app.credentials.reset(true);
                app.tenant_policies.reset(true);
                tell(&app, Change::Anything);
                loop {
                    match changes.next().await {
                        Ok(change) => tell(&app, change),
                        Err(e) => {
                            tracing::warn!(error = chain(&e), "Lost the database's notifications");
                            break;
                        }
                    }
                }
            }
            Err(e) => tracing::warn!(error = chain(&e), "Cannot listen to the database's notifications"),
        }
        app.credentials.reset(false);
        app.tenant_policies.reset(false);
        tokio::time::sleep(RETRY).await;
    }
}

fn tell(app: &App, change: Change) {
    match &change {
        Change::Of(Topic::Credentials, subject) => match subject.parse::<Uuid>() {
            Ok(id) => app.credentials.forget(id),
            Err(_) => app.credentials.reset(true),
        },
        Change::Of(Topic::Tenants, subject) => match subject.parse::<Uuid>() {
            Ok(id) => {
                app.credentials.forget(id);
                app.tenant_policies.forget(id.into());
            }
            Err(_) => {
                app.credentials.reset(true);
                app.tenant_policies.reset(true);
            }
        },
        Change::Anything => {
            app.credentials.reset(true);
            app.tenant_policies.reset(true);
        }
        Change::Of(..) => {}
    }
    app.fleet.tell(&change);
    // Nobody subscribed is fine.
    let _ = app.changes.send(change);
}
