//! Policy decisions, by Cedar: schema and policies lie in `api/policies`, and
//! a tenant may add restrictions, which only forbid.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use cedar_policy::{
    Authorizer, Context, Decision, Effect, Entities, Entity, EntityId, EntityTypeName, EntityUid, Policy,
    PolicyId, PolicySet, Request, RestrictedExpression, Schema, ValidationMode, Validator,
};
use domain::principals::{Caller, Credential, Role};
use domain::restrictions::Restriction;
use domain::tenants::TenantStatus;
use domain::{ProjectId, TenantId};
use sha2::{Digest, Sha256};

mod memory;

use memory::{Facts, Memory};

const SCHEMA: &str = include_str!("../../policies/chancery.cedarschema");
const POLICIES: [&str; 2] =
    [include_str!("../../policies/roles.cedar"), include_str!("../../policies/limits.cedar")];
/// Hexadecimal digits of the set's digest that name its version.
const VERSION_DIGITS: usize = 12;

/// Why policies cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PolicyError(String);

impl PolicyError {
    fn new(e: impl std::fmt::Display) -> Self {
        Self(e.to_string())
    }
}

/// What an action may be done to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// The platform itself.
    pub platform: bool,
    /// A tenant.
    pub tenant: bool,
    /// One project of a tenant.
    pub project: bool,
}

/// An action of the schema.
#[derive(Debug)]
struct Action {
    /// Its place among the actions.
    index: usize,
    uid: EntityUid,
    entity: Entity,
    names: RestrictedExpression,
    groups: BTreeSet<String>,
    targets: Targets,
}

/// The platform's policies, validated.
#[derive(Debug)]
pub struct Policies {
    schema: Schema,
    set: Arc<PolicySet>,
    actions: BTreeMap<String, Action>,
    types: Types,
    version: Arc<str>,
    digest: [u8; 32],
    authorizer: Authorizer,
    memory: Memory,
}

#[derive(Debug)]
struct Types {
    role: EntityTypeName,
    platform: EntityUid,
    tenant: EntityTypeName,
    project: EntityTypeName,
    person: EntityTypeName,
    key: EntityTypeName,
}

/// The policies that hold in one tenant: the platform's and its own restrictions.
#[derive(Clone, Debug)]
pub struct TenantPolicies {
    set: Arc<PolicySet>,
    version: Arc<str>,
    /// SHA-256 of the policies, of which the version shows the beginning.
    digest: [u8; 32],
}

impl TenantPolicies {
    /// Names the set of policies.
    pub fn version(&self) -> &str {
        &self.version
    }
}

/// What is acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// The platform.
    Platform,
    /// A tenant, as a whole.
    Tenant(TenantId, TenantStatus),
    /// One project of a tenant.
    Project(ProjectId, TenantId, TenantStatus),
}

/// A question.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Who.
    pub caller: &'a Caller,
    /// In which role: its own, or the one it has in the project.
    pub role: Role,
    /// Name of the action.
    pub action: &'a str,
    /// On what.
    pub resource: Resource,
    /// From where.
    pub address: IpAddr,
}

/// An answer, with the policies that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether it is allowed.
    pub allowed: bool,
    /// The policies that permitted, or that forbade; none if nothing permits.
    pub policies: Vec<String>,
    /// Version of the set that was asked.
    pub version: Arc<str>,
}

impl Answer {
    /// As audit events name it: `developers-build @ 0f3a…`.
    pub fn in_short(&self) -> String {
        let names =
            if self.policies.is_empty() { "none permits".to_owned() } else { self.policies.join(", ") };
        format!("{names} @ {}", self.version)
    }
}

impl Policies {
    /// The embedded policies, checked against their schema.
    pub fn load() -> Result<Self, PolicyError> {
        let (schema, warnings) = Schema::from_cedarschema_str(SCHEMA).map_err(PolicyError::new)?;
        if let Some(warning) = warnings.into_iter().next() {
            return Err(PolicyError::new(warning));
        }
        let mut set = PolicySet::new();
        for text in POLICIES {
            for policy in text.parse::<PolicySet>().map_err(PolicyError::new)?.policies() {
                let id = policy.annotation("id").ok_or_else(|| PolicyError::new("a policy has no @id"))?;
                set.add(policy.new_id(PolicyId::new(id))).map_err(PolicyError::new)?;
            }
        }
        let result = Validator::new(schema.clone()).validate(&set, ValidationMode::Strict);
        if let Some(error) = result.validation_errors().next() {
            return Err(PolicyError::new(error));
        }
        if let Some(warning) = result.validation_warnings().next() {
            return Err(PolicyError::new(warning));
        }
        let mut digest = Sha256::new();
        for text in [&[SCHEMA], &POLICIES[..]].concat() {
            digest.update(text.as_bytes());
        }
        let digest = digest.finalize().into();
        let version = hex::encode(digest)[..VERSION_DIGITS].into();
        let types = Types::new()?;
        let actions = actions(&schema, &types)?;
        let authorizer = Authorizer::new();
        Ok(Self {
            schema,
            set: Arc::new(set),
            actions,
            types,
            version,
            digest,
            authorizer,
            memory: Memory::default(),
        })
    }

    /// What an action may be done to; `None` if the schema does not know it.
    pub fn targets(&self, action: &str) -> Option<Targets> {
        self.actions.get(action).map(|action| action.targets)
    }

    /// The actions of the schema, by name.
    pub fn actions(&self) -> impl Iterator<Item = &str> {
        self.actions.keys().map(String::as_str)
    }

    /// Whether a key may be bound to this: an action or a group of actions.
    pub fn names(&self, name: &str) -> bool {
        self.actions.contains_key(name) || self.actions.values().any(|a| a.groups.contains(name))
    }

    /// The groups that an action is in.
    pub fn groups(&self, action: &str) -> Option<&BTreeSet<String>> {
        self.actions.get(action).map(|action| &action.groups)
    }

    /// Whether a tenant's restrictions hold for an action. They never keep a
    /// person from the own account, the platform from governing the tenant, or
    /// anybody from seeing and lifting them: a tenant cannot lock itself out.
    pub fn is_restrictable(&self, action: &str) -> bool {
        const ABOUT_RESTRICTIONS: [&str; 2] = ["list_restrictions", "delete_restriction"];
        let unbound = |groups: &BTreeSet<String>| groups.contains("own") || groups.contains("govern");
        !ABOUT_RESTRICTIONS.contains(&action) && !self.groups(action).is_some_and(unbound)
    }

    /// Text of one of the platform's policies.
    pub fn text(&self, id: &str) -> Option<String> {
        self.set.policy(&PolicyId::new(id)).and_then(Policy::to_cedar)
    }

    /// The policies where no tenant adds restrictions.
    pub fn of_platform(&self) -> TenantPolicies {
        TenantPolicies { set: Arc::clone(&self.set), version: Arc::clone(&self.version), digest: self.digest }
    }

    /// The policies of a tenant with its restrictions. One that cannot be read
    /// any more forbids everything rather than nothing.
    pub fn of_tenant(&self, restrictions: &[Restriction]) -> Result<TenantPolicies, PolicyError> {
        if restrictions.is_empty() {
            return Ok(self.of_platform());
        }
        let mut set = PolicySet::clone(&self.set);
        let mut digest = Sha256::new_with_prefix(self.digest);
        for restriction in restrictions {
            let policy = self.restriction(&restriction.policy)?;
            let id = PolicyId::new(format!("restriction:{}", restriction.name));
            set.add(policy.new_id(id)).map_err(PolicyError::new)?;
            digest.update(restriction.name.as_str());
            digest.update([0]);
            digest.update(&restriction.policy);
            digest.update([0]);
        }
        let digest: [u8; 32] = digest.finalize().into();
        let own = hex::encode(digest);
        let version = format!("{}+{}", self.version, &own[..VERSION_DIGITS]).into();
        Ok(TenantPolicies { set: Arc::new(set), version, digest })
    }

    /// Reads a restriction: one policy, which forbids, and fits the schema.
    pub fn restriction(&self, text: &str) -> Result<Policy, PolicyError> {
        let policy = Policy::parse(None, text).map_err(PolicyError::new)?;
        if policy.effect() != Effect::Forbid {
            return Err(PolicyError::new("a restriction can only forbid; begin with forbid ( … )"));
        }
        if policy.entity_literals().iter().any(|uid| *uid.type_name() == self.types.project)
            || text.contains("is Project")
        {
            return Err(PolicyError::new("a restriction holds in the whole tenant and names no project"));
        }
        let set = PolicySet::from_policies([policy.clone()]).map_err(PolicyError::new)?;
        let result = Validator::new(self.schema.clone()).validate(&set, ValidationMode::Strict);
        match result.validation_errors().next() {
            Some(error) => Err(PolicyError::new(error)),
            None => Ok(policy),
        }
    }

    /// Decides. An action that the schema does not know is not allowed.
    pub fn decide(&self, policies: &TenantPolicies, question: Question<'_>) -> Result<Answer, PolicyError> {
        let Some(action) = self.actions.get(question.action) else {
            return Ok(Answer {
                allowed: false,
                policies: Vec::new(),
                version: Arc::clone(&policies.version),
            });
        };
        let facts = Facts::of(policies.digest, action.index, question);
        if let Some(answer) = self.memory.get(&facts) {
            return Ok(answer);
        }
        let answer = self.ask(policies, action, question)?;
        self.memory.put(facts, answer.clone());
        Ok(answer)
    }

    /// Asks Cedar.
    fn ask(
        &self,
        policies: &TenantPolicies,
        action: &Action,
        question: Question<'_>,
    ) -> Result<Answer, PolicyError> {
        let (principal, principal_entities) = self.principal(question)?;
        let (resource, resource_entities) = self.resource(question.resource)?;
        let entities = principal_entities.into_iter().chain(resource_entities).chain([action.entity.clone()]);
        let entities = Entities::from_entities(entities, None).map_err(PolicyError::new)?;
        let context = Context::from_pairs([
            ("address".to_owned(), RestrictedExpression::new_ip(question.address.to_string())),
            ("credential".to_owned(), string(question.caller.credential.kind())),
            ("one_time_code".to_owned(), RestrictedExpression::new_bool(question.caller.one_time_code)),
            ("names".to_owned(), action.names.clone()),
        ])
        .map_err(PolicyError::new)?;
        let request =
            Request::new(principal, action.uid.clone(), resource, context, None).map_err(PolicyError::new)?;
        let response = self.authorizer.is_authorized(&request, &policies.set, &entities);
        // A policy that fails to evaluate is skipped by Cedar; a restriction
        // that is skipped would allow.
        if let Some(error) = response.diagnostics().errors().next() {
            return Err(PolicyError::new(error));
        }
        let mut names: Vec<_> = response.diagnostics().reason().map(ToString::to_string).collect();
        names.sort_unstable();
        Ok(Answer {
            allowed: response.decision() == Decision::Allow,
            policies: names,
            version: Arc::clone(&policies.version),
        })
    }

    fn principal(&self, question: Question<'_>) -> Result<(EntityUid, Vec<Entity>), PolicyError> {
        let caller = question.caller;
        let role =
            EntityUid::from_type_name_and_id(self.types.role.clone(), EntityId::new(question.role.as_str()));
        let is_key = matches!(caller.credential, Credential::Key(_));
        let (type_name, id) = if is_key {
            (&self.types.key, caller.credential.to_string())
        } else {
            (&self.types.person, caller.actor())
        };
        let uid = EntityUid::from_type_name_and_id(type_name.clone(), EntityId::new(id));
        let mut attributes = HashMap::new();
        if let Some(home) = caller.tenant {
            attributes.insert("home".to_owned(), RestrictedExpression::new_entity_uid(self.tenant(home)));
        }
        if is_key {
            let bound = caller.bounds.as_ref().is_some_and(|bounds| bounds.endpoints.is_some());
            attributes.insert("endpoints_only".to_owned(), RestrictedExpression::new_bool(bound));
            if let Some(actions) = caller.bounds.as_ref().and_then(|bounds| bounds.actions.as_ref()) {
                let set = actions.iter().map(|name| string(name));
                attributes.insert("actions".to_owned(), RestrictedExpression::new_set(set));
            }
        } else {
            let must_change = RestrictedExpression::new_bool(caller.must_change_password);
            attributes.insert("must_change_password".to_owned(), must_change);
        }
        let entity =
            Entity::new(uid.clone(), attributes, HashSet::from([role.clone()])).map_err(PolicyError::new)?;
        Ok((uid, vec![entity, Entity::new_no_attrs(role, HashSet::new())]))
    }

    fn resource(&self, resource: Resource) -> Result<(EntityUid, Vec<Entity>), PolicyError> {
        let status = |status: TenantStatus| HashMap::from([("status".to_owned(), string(status.as_str()))]);
        let entity = |uid: EntityUid, attributes, parents| {
            Entity::new(uid, attributes, parents).map_err(PolicyError::new)
        };
        match resource {
            Resource::Platform => {
                let uid = self.types.platform.clone();
                Ok((uid.clone(), vec![Entity::new_no_attrs(uid, HashSet::new())]))
            }
            Resource::Tenant(id, at) => {
                let uid = self.tenant(id);
                Ok((uid.clone(), vec![entity(uid, status(at), HashSet::new())?]))
            }
            Resource::Project(id, tenant, at) => {
                let parent = self.tenant(tenant);
                let uid = EntityUid::from_type_name_and_id(
                    self.types.project.clone(),
                    EntityId::new(id.to_string()),
                );
                let project = entity(uid.clone(), status(at), HashSet::from([parent.clone()]))?;
                Ok((uid, vec![project, entity(parent, status(at), HashSet::new())?]))
            }
        }
    }

    fn tenant(&self, id: TenantId) -> EntityUid {
        EntityUid::from_type_name_and_id(self.types.tenant.clone(), EntityId::new(id.to_string()))
    }
}

impl Types {
    fn new() -> Result<Self, PolicyError> {
        let name = |text: &str| text.parse::<EntityTypeName>().map_err(PolicyError::new);
        Ok(Self {
            role: name("Role")?,
            platform: EntityUid::from_type_name_and_id(name("Platform")?, EntityId::new("platform")),
            tenant: name("Tenant")?,
            project: name("Project")?,
            person: name("Person")?,
            key: name("Key")?,
        })
    }
}

/// The names of operations and actions must be the same.
pub(super) fn same_names(operations: &BTreeSet<&str>, policies: &Policies) -> Result<(), PolicyError> {
    let actions: BTreeSet<&str> = policies.actions().collect();
    let without_action: Vec<_> = operations.difference(&actions).collect();
    let without_operation: Vec<_> = actions.difference(operations).collect();
    if without_action.is_empty() && without_operation.is_empty() {
        return Ok(());
    }
    Err(PolicyError(format!(
        "operations that are no action of the schema: {without_action:?}; actions that are no operation: \
         {without_operation:?}"
    )))
}

fn string(text: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(text.to_owned())
}

/// The actions that apply to something; groups do not.
fn actions(schema: &Schema, types: &Types) -> Result<BTreeMap<String, Action>, PolicyError> {
    let entities = schema.action_entities().map_err(PolicyError::new)?;
    let mut actions = BTreeMap::new();
    for uid in schema.actions() {
        let mut targets = Targets::default();
        for resource in schema.resources_for_action(uid).into_iter().flatten() {
            targets.platform |= resource == types.platform.type_name();
            targets.tenant |= *resource == types.tenant;
            targets.project |= *resource == types.project;
        }
        if targets == Targets::default() {
            continue;
        }
        let parents: HashSet<EntityUid> = entities.ancestors(uid).into_iter().flatten().cloned().collect();
        let groups: BTreeSet<String> = parents.iter().map(|g| g.id().unescaped().to_owned()).collect();
        let name = uid.id().unescaped().to_owned();
        let names = groups.iter().chain([&name]).map(|n| string(n));
        let action = Action {
            index: actions.len(),
            uid: uid.clone(),
            entity: Entity::new_no_attrs(uid.clone(), parents),
            names: RestrictedExpression::new_set(names),
            groups,
            targets,
        };
        actions.insert(name, action);
    }
    Ok(actions)
}

#[cfg(test)]
mod tests;
