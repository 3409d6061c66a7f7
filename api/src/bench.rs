//! What `cargo xtask bench auth` measures: the parts of a request's admission
//! that ask no database, as `auth` and `access` run them.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use domain::keys::{CredentialKind, Pepper, kind_of, mint};
use domain::principals::{Caller, Credential, KeyBounds, Role};
use domain::tenants::TenantStatus;
use domain::{Clock, KeyId, PrincipalId, ProjectId, TenantId};
use store::credentials::{Known, TenantFacts};

use crate::access::policy::{Question, Resource, TenantPolicies};
use crate::access::{Policies, PolicyError};
use crate::auth::CredentialCache;

/// How long credentials are remembered: longer than any measurement.
const TTL: Duration = Duration::from_secs(3600);

/// An access layer with credentials that were all checked a moment ago: by
/// turns keys of developers and sessions of administrators.
pub struct Admission {
    pepper: Pepper,
    clock: Clock,
    cache: CredentialCache,
    policies: Policies,
    of_tenant: TenantPolicies,
    credentials: Vec<String>,
}

impl Admission {
    /// With so many credentials, each of a tenant of its own.
    ///
    /// # Errors
    /// If the policies cannot be used.
    pub fn new(count: u32) -> Result<Self, PolicyError> {
        let (pepper, clock) = (Pepper::new([7; 32]), Clock::system());
        let cache = CredentialCache::new(count as usize + 1, TTL);
        cache.reset(true);
        let policies = Policies::load()?;
        let of_tenant = policies.of_platform();
        let mut credentials = Vec::new();
        for n in 0..count {
            let is_key = n % 2 == 0;
            let mut random = [0; 20];
            random[..4].copy_from_slice(&n.to_be_bytes());
            let kind = if is_key { CredentialKind::ApiKey } else { CredentialKind::Session };
            let text = mint(kind, random);
            cache.put(pepper.hash(&text), known(is_key), clock.now(), cache.epoch());
            credentials.push(text);
        }
        Ok(Self { pepper, clock, cache, policies, of_tenant, credentials })
    }

    /// Who calls with the credential `n`, as remembered.
    pub fn check(&self, n: usize) -> Option<Known> {
        let credential = &self.credentials[n % self.credentials.len()];
        kind_of(credential)?;
        let now = self.clock.now();
        let (known, _) = self.cache.get(&self.pepper.hash(credential), now)?;
        known.expires_at.is_none_or(|at| at > now).then_some(known)
    }

    /// Whether the caller may look at an endpoint.
    ///
    /// # Errors
    /// If the policies cannot be evaluated.
    pub fn decide(&self, known: &Known) -> Result<bool, PolicyError> {
        let Some(tenant) = &known.tenant else { return Ok(false) };
        let resource = match &known.caller.bounds {
            Some(bounds) => Resource::Project(bounds.project, tenant.id, tenant.status),
            None => Resource::Tenant(tenant.id, tenant.status),
        };
        let question = Question {
            caller: &known.caller,
            role: known.caller.role,
            action: "get_endpoint",
            resource,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        Ok(self.policies.decide(&self.of_tenant, question)?.allowed)
    }
}

fn known(is_key: bool) -> Known {
    let (id, tenant) = (KeyId::generate(), TenantId::generate());
    let bounds = KeyBounds { project: ProjectId::generate(), endpoints: None, actions: None, networks: None };
    let slug = format!("ministry-{}", &tenant.to_string()[..8]).parse().expect("a short name");
    Known {
        id: id.0,
        caller: Caller {
            tenant: Some(tenant),
            principal: (!is_key).then(PrincipalId::generate),
            credential: if is_key { Credential::Key(id) } else { Credential::Session(id.0) },
            role: if is_key { Role::Developer } else { Role::TenantAdmin },
            memberships: Arc::new([]),
            bounds: is_key.then(|| Arc::new(bounds)),
            must_change_password: false,
            one_time_code: false,
        },
        tenant: Some(TenantFacts { id: tenant, slug, status: TenantStatus::Active }),
        expires_at: None,
        seen_at: None,
        requests_per_minute: None,
    }
}
