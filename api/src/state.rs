//! What every handler shares.

use std::ops::Deref;
use std::sync::Arc;

use domain::Clock;
use domain::keys::Pepper;
use rand::TryRng;
use rand::rngs::SysRng;
use store::Store;
use store::listen::Change;
use store::objects::Objects;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{Policies, Rates, TenantPolicyCache};
use crate::auth::CredentialCache;
use crate::passwords::{AddressLimiter, Passwords};
use crate::settings::Settings;

/// Changes that a slow subscriber may fall behind; beyond it, it is told that
/// it lagged and must look at everything.
const CHANGES_BACKLOG: usize = 1024;

/// What the API needs from who starts it.
#[derive(Debug)]
pub struct Deps {
    /// The database.
    pub store: Store,
    /// Model files and files of tenants.
    pub objects: Objects,
    /// The time.
    pub clock: Clock,
    /// Secret of the installation.
    pub pepper: Pepper,
    /// What workers join with.
    pub join_token: String,
}

/// The shared state; cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Inner>);

/// Inside of [`App`].
pub struct Inner {
    /// The database.
    pub store: Store,
    /// Model files and files of tenants.
    pub objects: Objects,
    /// The time.
    pub clock: Clock,
    /// Secret of the installation.
    pub pepper: Pepper,
    /// What workers join with; compare in constant time.
    pub join_token: String,
    /// Settings.
    pub settings: Settings,
    /// Credentials checked a moment ago.
    pub credentials: CredentialCache,
    /// What everyone may do.
    pub policies: Policies,
    /// The same in each tenant, with its restrictions.
    pub(crate) tenant_policies: TenantPolicyCache,
    /// How often callers call.
    pub rates: Rates,
    /// Identity providers.
    pub identity: crate::identity::Identity,
    /// Password hashing, a few at a time.
    pub passwords: Passwords,
    /// Failed sign-ins by address.
    pub sign_ins: AddressLimiter,
    /// Where the gateway finds ready replicas.
    pub routes: crate::gateway::Routes,
    /// Requests that wait for a replica.
    pub holding: crate::gateway::Holding,
    /// What the internal listener remembers of workers.
    pub fleet: crate::internal::Fleet,
    /// Client for workers.
    pub http: reqwest::Client,
    /// What committed transactions changed, from the database's notifications.
    /// After [`broadcast::error::RecvError::Lagged`], look at everything.
    pub changes: broadcast::Sender<Change>,
    /// Work that outlives its request, e.g. settling usage; a stop waits for it.
    pub tasks: TaskTracker,
    /// Loops that run until `stopped`.
    pub background: TaskTracker,
    /// A stop was asked for: finish what runs, answer long polls now.
    pub draining: CancellationToken,
    /// Every request is answered: background loops end.
    pub stopped: CancellationToken,
}

impl App {
    pub(crate) fn new(settings: Settings, deps: Deps, policies: Policies) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .connect_timeout(std::time::Duration::from_secs(2))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        let identity = crate::identity::Identity::new(&settings, &deps.store, &deps.clock)?;
        Ok(Self(Arc::new(Inner {
            store: deps.store,
            objects: deps.objects,
            clock: deps.clock,
            pepper: deps.pepper,
            join_token: deps.join_token,
            credentials: CredentialCache::new(
                settings.credential_cache_entries,
                settings.credential_cache_ttl(),
            ),
            policies,
            tenant_policies: TenantPolicyCache::default(),
            rates: Rates::default(),
            identity,
            passwords: Passwords::new(),
            sign_ins: AddressLimiter::default(),
            routes: crate::gateway::Routes::default(),
            holding: crate::gateway::Holding::default(),
            fleet: crate::internal::Fleet::default(),
            settings,
            http,
            changes: broadcast::channel(CHANGES_BACKLOG).0,
            tasks: TaskTracker::new(),
            background: TaskTracker::new(),
            draining: CancellationToken::new(),
            stopped: CancellationToken::new(),
        })))
    }

    /// Fresh random bytes for a secret.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        random()
    }
}

/// Fresh random bytes from the operating system, for secrets.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SysRng.try_fill_bytes(&mut bytes).expect("the operating system has a random source");
    bytes
}

impl Deref for App {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}
