//! Decisions of the embedded policies.

use std::net::IpAddr;
use std::sync::Arc;

use domain::principals::{Credential, KeyBounds};
use domain::{KeyId, PrincipalId, RestrictionId, Timestamp};
use uuid::Uuid;

use super::*;

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn person(role: Role, tenant: Option<TenantId>) -> Caller {
    Caller {
        tenant,
        principal: Some(PrincipalId::generate()),
        credential: Credential::Session(Uuid::now_v7()),
        role,
        memberships: Arc::new([]),
        bounds: None,
        must_change_password: false,
        one_time_code: false,
    }
}

fn key(role: Role, tenant: TenantId, project: ProjectId, actions: Option<&[&str]>) -> Caller {
    let actions = actions.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
    let bounds = KeyBounds { project, endpoints: None, actions, networks: None };
    Caller {
        principal: None,
        credential: Credential::Key(KeyId::generate()),
        bounds: Some(Arc::new(bounds)),
        ..person(role, Some(tenant))
    }
}

fn allowed(policies: &Policies, caller: &Caller, action: &str, resource: Resource) -> bool {
    let question = Question { caller, role: caller.role, action, resource, address: HERE };
    policies.decide(&policies.of_platform(), question).unwrap().allowed
}

#[test]
fn policies_fit_their_schema_and_have_names() {
    let policies = Policies::load().unwrap();
    assert!(policies.text("developers-build").unwrap().contains("permit"));
    assert!(policies.names("deploy") && policies.names("create_endpoint") && !policies.names("dance"));
    assert!(policies.targets("deploy").is_none(), "a group is no action");
}

#[test]
fn what_the_schema_does_not_know_is_not_allowed() {
    let policies = Policies::load().unwrap();
    let admin = person(Role::PlatformAdmin, None);
    assert!(!allowed(&policies, &admin, "dance", Resource::Platform));
}

#[test]
fn nobody_acts_in_another_tenant() {
    let policies = Policies::load().unwrap();
    let (own, other, project) = (TenantId::generate(), TenantId::generate(), ProjectId::generate());
    for role in Role::ALL.into_iter().filter(|role| role.is_of_tenant()) {
        for caller in [person(role, Some(own)), key(role, own, project, None)] {
            for action in policies.actions() {
                for resource in [
                    Resource::Tenant(other, TenantStatus::Active),
                    Resource::Project(project, other, TenantStatus::Active),
                ] {
                    let own_account = policies.groups(action).unwrap().contains("own");
                    assert!(own_account || !allowed(&policies, &caller, action, resource), "{role} {action}");
                }
            }
        }
    }
}

#[test]
fn platform_people_read_no_content() {
    let policies = Policies::load().unwrap();
    let tenant = Resource::Tenant(TenantId::generate(), TenantStatus::Active);
    for role in Role::ALL.into_iter().filter(|role| role.is_of_platform()) {
        let caller = person(role, None);
        for action in ["download_file", "download_job_results", "create_chat_completion", "create_job"] {
            assert!(!allowed(&policies, &caller, action, tenant), "{role} {action}");
        }
    }
}

#[test]
fn auditors_change_nothing() {
    let policies = Policies::load().unwrap();
    let tenant = TenantId::generate();
    let place = Resource::Tenant(tenant, TenantStatus::Active);
    for caller in [person(Role::Auditor, Some(tenant)), person(Role::Auditor, None)] {
        assert!(allowed(&policies, &caller, "list_audit_events", place));
        let reads = ["catalogue", "look", "inspect", "look_at_fleet", "own"];
        for action in policies.actions() {
            let groups = policies.groups(action).unwrap();
            if groups.iter().all(|group| !reads.contains(&group.as_str())) {
                assert!(!allowed(&policies, &caller, action, place), "{action}");
            }
        }
    }
}

#[test]
fn a_role_in_a_project_holds_there_only() {
    let policies = Policies::load().unwrap();
    let (tenant, project) = (TenantId::generate(), ProjectId::generate());
    let member = person(Role::Member, Some(tenant));
    let ask = |role, resource| {
        let question = Question { caller: &member, role, action: "create_endpoint", resource, address: HERE };
        policies.decide(&policies.of_platform(), question).unwrap()
    };
    let answer = ask(Role::Developer, Resource::Project(project, tenant, TenantStatus::Active));
    assert!(answer.allowed);
    assert!(answer.in_short().starts_with("developers-build @ "), "{}", answer.in_short());
    assert!(!ask(Role::Member, Resource::Tenant(tenant, TenantStatus::Active)).allowed);
    let viewer = ask(Role::Viewer, Resource::Project(project, tenant, TenantStatus::Active));
    assert_eq!((viewer.allowed, viewer.policies.len()), (false, 0));
}

#[test]
fn keys_are_bound_to_their_actions_and_administer_nothing() {
    let policies = Policies::load().unwrap();
    let (tenant, project) = (TenantId::generate(), ProjectId::generate());
    let place = Resource::Project(project, tenant, TenantStatus::Active);
    let free = key(Role::Developer, tenant, project, None);
    assert!(allowed(&policies, &free, "create_chat_completion", place));
    assert!(!allowed(&policies, &free, "create_api_key", Resource::Tenant(tenant, TenantStatus::Active)));
    let bound = key(Role::Developer, tenant, project, Some(&["prompt", "get_job"]));
    assert!(allowed(&policies, &bound, "create_chat_completion", place));
    assert!(allowed(&policies, &bound, "get_job", place));
    assert!(!allowed(&policies, &bound, "create_endpoint", place));
    let wide = key(Role::TenantAdmin, tenant, project, None);
    assert!(!allowed(&policies, &wide, "create_account", Resource::Tenant(tenant, TenantStatus::Active)));
}

#[test]
fn suspended_tenants_wind_down_and_begin_nothing() {
    let policies = Policies::load().unwrap();
    let tenant = TenantId::generate();
    let admin = person(Role::TenantAdmin, Some(tenant));
    let suspended = Resource::Tenant(tenant, TenantStatus::Suspended);
    assert!(allowed(&policies, &admin, "delete_endpoint", suspended));
    assert!(allowed(&policies, &admin, "create_chat_completion", suspended));
    for action in policies.actions() {
        if policies.groups(action).unwrap().contains("begin") {
            assert!(!allowed(&policies, &admin, action, suspended), "{action}");
        }
    }
    let deleting = Resource::Tenant(tenant, TenantStatus::Deleting);
    assert!(!allowed(&policies, &admin, "create_chat_completion", deleting));
    assert!(allowed(&policies, &person(Role::PlatformAdmin, None), "get_tenant", deleting));
}

#[test]
fn a_new_password_comes_first() {
    let policies = Policies::load().unwrap();
    let admin = Caller { must_change_password: true, ..person(Role::PlatformAdmin, None) };
    assert!(allowed(&policies, &admin, "get_me", Resource::Platform));
    assert!(!allowed(&policies, &admin, "list_tenants", Resource::Platform));
}

fn restriction(policy: &str) -> Restriction {
    Restriction {
        id: RestrictionId::generate(),
        name: "own".parse().unwrap(),
        description: String::new(),
        policy: policy.to_owned(),
        revision: 1,
        created_at: Timestamp::UNIX_EPOCH,
    }
}

#[test]
fn tenants_take_away_and_never_give() {
    let policies = Policies::load().unwrap();
    for wrong in [
        "permit (principal, action, resource);",
        "forbid (principal, action, resource); forbid (principal, action, resource);",
        "forbid (principal, action == Action::\"dance\", resource);",
        "forbid (principal, action, resource) when { context.weather == \"rain\" };",
        "forbid (principal, action, resource is Project);",
        "forbid (principal, action, resource == Project::\"x\");",
        "nonsense",
        "",
    ] {
        assert!(policies.restriction(wrong).is_err(), "{wrong}");
    }
    let tenant = TenantId::generate();
    let developer = person(Role::Developer, Some(tenant));
    let office = restriction(
        "forbid (principal, action, resource) unless { context.address.isInRange(ip(\"10.0.0.0/8\")) };",
    );
    let own = policies.of_tenant(&[office]).unwrap();
    let ask = |address: [u8; 4]| {
        let resource = Resource::Tenant(tenant, TenantStatus::Active);
        let (caller, role) = (&developer, Role::Developer);
        let question = Question { caller, role, action: "list_jobs", resource, address: address.into() };
        policies.decide(&own, question).unwrap()
    };
    assert!(ask([10, 1, 2, 3]).allowed);
    let refused = ask([192, 0, 2, 1]);
    assert_eq!((refused.allowed, refused.policies), (false, vec!["restriction:own".to_owned()]));
    assert_ne!(own.version(), policies.of_platform().version());
}

/// Whatever was asked before, the answer is what Cedar says of these facts.
#[test]
fn a_remembered_answer_is_that_of_the_same_facts() {
    let policies = Policies::load().unwrap();
    let tenant = TenantId::generate();
    let project = ProjectId::generate();
    let plain = policies.of_platform();
    let office = restriction(
        "forbid (principal, action, resource) unless { context.address.isInRange(ip(\"127.0.0.0/8\")) };",
    );
    let restricted = policies.of_tenant(&[office]).unwrap();
    let developer = person(Role::Developer, Some(tenant));
    let callers = [
        Caller { must_change_password: true, ..developer.clone() },
        Caller { role: Role::Viewer, ..developer.clone() },
        Caller { tenant: Some(TenantId::generate()), ..developer.clone() },
        developer,
        key(Role::Developer, tenant, project, None),
        key(Role::Developer, tenant, project, Some(&["prompt"])),
    ];
    let mut allowed = 0;
    for _ in 0..2 {
        for set in [&plain, &restricted] {
            for caller in &callers {
                for status in TenantStatus::ALL {
                    for resource in
                        [Resource::Tenant(tenant, status), Resource::Project(project, tenant, status)]
                    {
                        for action in ["create_endpoint", "create_chat_completion", "get_me"] {
                            for address in [HERE, IpAddr::from([192, 0, 2, 1])] {
                                let question =
                                    Question { caller, role: caller.role, action, resource, address };
                                let answer = policies.decide(set, question).unwrap();
                                let asked = policies.ask(set, &policies.actions[action], question).unwrap();
                                assert_eq!(answer, asked, "{action}");
                                allowed += usize::from(answer.allowed);
                            }
                        }
                    }
                }
            }
        }
    }
    assert!(allowed > 100, "{allowed}");
}

#[test]
fn a_tenant_cannot_lock_itself_out() {
    let policies = Policies::load().unwrap();
    let free: Vec<&str> = policies.actions().filter(|action| !policies.is_restrictable(action)).collect();
    for action in [
        "delete_restriction",
        "list_restrictions",
        "get_me",
        "explain_access",
        "update_tenant",
        "delete_tenant",
    ] {
        assert!(free.contains(&action), "{action}");
    }
    assert!(
        policies.is_restrictable("create_endpoint") && policies.is_restrictable("explain_account_access")
    );
}

#[test]
fn operations_and_actions_are_the_same() {
    let document = crate::openapi();
    crate::access::Operations::of(&document).check(&Policies::load().unwrap()).unwrap();
}
