use proptest::prelude::*;
use serde_json::json;

use super::*;

fn mapping(group: &str, role: Role, project: Option<&str>) -> GroupMapping {
    GroupMapping { group: group.to_owned(), role, project: project.map(|p| p.parse().unwrap()) }
}

fn set(groups: &[&str]) -> BTreeSet<String> {
    groups.iter().map(|g| (*g).to_owned()).collect()
}

#[test]
fn issuers_are_https_or_on_this_machine() {
    for good in [
        "https://id.interior.example",
        "https://id.interior.example/realms/a",
        "https://id.interior.example/realms/a/",
        "https://id.interior.example:8443/realms/a",
        "https://[2001:db8::1]:8443/a",
        "http://127.0.0.1:8090/realms/a",
        "http://localhost/realms/a",
        "http://[::1]:80",
    ] {
        assert!(good.parse::<IssuerUrl>().is_ok(), "{good}");
    }
    for bad in [
        "",
        "https://",
        "id.example",
        "ftp://id.example",
        "HTTPS://id.example",
        "https://ID.example",
        "http://id.example",
        "http://10.0.0.1",
        "http://127.0.0.1.evil.example",
        "http://localhost.evil.example",
        "https://id.example?x=1",
        "https://id.example/#a",
        "https://user@id.example",
        "https://user:pw@id.example",
        "https://id.example:0",
        "https://id.example:99999",
        "https://id.example:",
        "https://id.example:1:2",
        "https://[::1",
        "https://id.example/a b",
        "https://id.example/\u{e9}",
        "https://id.example\\@evil.example",
        &format!("https://id.example/{}", "a".repeat(500)),
    ] {
        assert!(bad.parse::<IssuerUrl>().is_err(), "{bad}");
    }
}

#[test]
fn algorithms_are_asymmetric_named_exactly_and_not_empty() {
    for name in ["none", "None", "HS256", "HS512", "rs256", "RS1", "RS512", "ES256K", ""] {
        assert!(name.parse::<SigningAlgorithm>().is_err(), "{name}");
    }
    for algorithm in SigningAlgorithm::ALL {
        assert_eq!(algorithm.as_str().parse(), Ok(algorithm));
        assert_eq!(serde_json::to_value(algorithm).unwrap(), json!(algorithm.as_str()));
    }
    use SigningAlgorithm::{ES256, RS256};
    assert_eq!(check_algorithms(&[]), Err(ProviderError::Algorithms));
    assert_eq!(check_algorithms(&[RS256, RS256]), Err(ProviderError::Algorithms));
    assert_eq!(check_algorithms(&[RS256, ES256]), Ok(()));
}

#[test]
fn a_provider_gives_only_what_is_its_own() {
    let tenant_admin = mapping("a", Role::TenantAdmin, None);
    let platform_admin = mapping("a", Role::PlatformAdmin, None);
    let in_project = mapping("a", Role::Developer, Some("desk"));
    let admin_in_project = mapping("a", Role::TenantAdmin, Some("desk"));
    assert!(check_mappings(true, std::slice::from_ref(&tenant_admin)).is_ok());
    assert!(check_mappings(true, std::slice::from_ref(&in_project)).is_ok());
    assert!(check_mappings(false, std::slice::from_ref(&platform_admin)).is_ok());
    for (of_tenant, mapping) in
        [(true, &platform_admin), (true, &admin_in_project), (false, &tenant_admin), (false, &in_project)]
    {
        let refused = check_mappings(of_tenant, std::slice::from_ref(mapping));
        assert!(matches!(refused, Err(ProviderError::Role { index: 0, .. })), "{mapping:?}");
        // Even if it were stored.
        assert_eq!(grant(of_tenant, std::slice::from_ref(mapping), &set(&["a"])), None);
    }
    assert_eq!(
        check_mappings(true, &[in_project.clone(), in_project.clone()]),
        Err(ProviderError::Repeated(1))
    );
    assert_eq!(check_mappings(true, &[mapping("", Role::Developer, None)]), Err(ProviderError::Group(0)));
    assert_eq!(check_mappings(true, &[mapping("a\nb", Role::Developer, None)]), Err(ProviderError::Group(0)));
    assert_eq!(
        check_mappings(true, &vec![in_project; MAX_MAPPINGS + 1]),
        Err(ProviderError::TooManyMappings)
    );
}

#[test]
fn the_highest_role_wins_and_no_group_gives_nothing() {
    let mappings = [
        mapping("staff", Role::Developer, None),
        mapping("chiefs", Role::TenantAdmin, None),
        mapping("desk", Role::Developer, Some("desk")),
    ];
    let given = |groups: &[&str]| grant(true, &mappings, &set(groups));
    assert_eq!(given(&[]), None);
    assert_eq!(given(&["Staff", "staff ", "/staff"]), None);
    assert_eq!(given(&["staff", "chiefs"]).unwrap().role, Some(Role::TenantAdmin));
    assert_eq!(given(&["chiefs", "staff"]).unwrap().role, Some(Role::TenantAdmin));
    let only_project = given(&["desk"]).unwrap();
    assert_eq!(only_project.role, None);
    assert_eq!(only_project.projects, BTreeMap::from([("desk".parse().unwrap(), Role::Developer)]));
}

#[test]
fn groups_are_found_by_name_or_path() {
    let claims = json!({
        "groups": ["/a", "b", 3, null, "", ["c"], {"d": 1}],
        "one": "solo",
        "realm_access": {"roles": ["r1", "r2"]},
        "https://id.example/groups": ["dotted"],
        "number": 7,
        "long": ["x".repeat(MAX_GROUP_CHARS + 1)],
        "many": (0..MAX_GROUPS + 50).map(|n| n.to_string()).collect::<Vec<_>>(),
    });
    let claims = claims.as_object().unwrap();
    assert_eq!(groups(claims, "groups"), set(&["/a", "b"]));
    assert_eq!(groups(claims, "one"), set(&["solo"]));
    assert_eq!(groups(claims, "realm_access.roles"), set(&["r1", "r2"]));
    assert_eq!(groups(claims, "https://id.example/groups"), set(&["dotted"]));
    assert_eq!(groups(claims, "many").len(), MAX_GROUPS);
    for none in ["number", "missing", "realm_access", "realm_access.roles.0", "groups.x", "long", ""] {
        assert_eq!(groups(claims, none), set(&[]), "{none}");
    }
}

#[test]
fn paths_and_clients_are_checked() {
    for bad in ["", ".", "a.", ".a", "a..b", "a b", &"a".repeat(201)] {
        assert_eq!(check_groups_claim(bad), Err(ProviderError::GroupsClaim), "{bad}");
    }
    for bad in ["", "a\n", "\u{e9}", &"a".repeat(256)] {
        assert_eq!(check_client_id(bad), Err(ProviderError::ClientId), "{bad}");
    }
    assert!(check_groups_claim("resource_access.chancery.roles").is_ok());
    assert!(check_client_id("https://api.example/ chancery").is_ok());
}

proptest! {
    /// More groups never give less, and a provider never gives another kind's role.
    #[test]
    fn more_groups_never_give_less(
        of_tenant: bool,
        mappings in proptest::collection::vec((0usize..6, 0usize..Role::ALL.len(), 0usize..3), 0..12),
        few in proptest::collection::btree_set(0usize..6, 0..4),
        more in proptest::collection::btree_set(0usize..6, 0..4),
    ) {
        let names = ["g0", "g1", "g2", "g3", "g4", "g5"];
        let projects = [None, Some("p"), Some("q")];
        let mappings: Vec<_> =
            mappings.into_iter().map(|(g, r, p)| mapping(names[g], Role::ALL[r], projects[p])).collect();
        let pick = |chosen: &BTreeSet<usize>| chosen.iter().map(|g| names[*g].to_owned()).collect::<BTreeSet<_>>();
        let small = grant(of_tenant, &mappings, &pick(&few));
        let large = grant(of_tenant, &mappings, &pick(&few.union(&more).copied().collect()));
        let order: &[&str] = if of_tenant { &TENANT_ROLES } else { &PLATFORM_ROLES };
        let rank = |list: &[&str], role: Role| list.iter().position(|r| *r == role.as_str());
        for given in [&small, &large].into_iter().flatten() {
            prop_assert!(given.role.is_none_or(|r| rank(order, r).is_some()));
            prop_assert!(of_tenant || given.projects.is_empty());
        }
        if let Some(small) = small {
            let large = large.expect("more groups give at least as much");
            if let Some(role) = small.role {
                prop_assert!(rank(order, large.role.expect("still a role")) <= rank(order, role));
            }
            for (project, role) in small.projects {
                prop_assert!(rank(&PROJECT_ROLES, large.projects[&project]) <= rank(&PROJECT_ROLES, role));
            }
        }
    }
}
