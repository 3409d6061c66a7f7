//! What every table must have, present and future: read from PostgreSQL's own
//! catalogue, so that a new table cannot be forgotten.

use sqlx::Row;
use tests::database::{Database, rows};

/// Tables that belong to no tenant.
const SYSTEM_TABLES: &[&str] = &[
    "_sqlx_migrations",
    "accelerator_classes",
    "devices",
    "held_requests",
    "leadership",
    "outbox",
    "placement_loads",
    "planner_changes",
    "plans",
    "pools",
    "sessions",
    "workers",
];
/// Tables whose rows may also be shared by all tenants (`tenant_id` is null).
const SHARED_TABLES: &[&str] = &["models", "model_versions", "model_files"];
/// Unique over all tenants on purpose: random identifiers and hashes of random
/// secrets, which tell nothing; names of cohorts, which tenants have none of; logins, which end in their tenant's slug;
/// issuers, which only the platform registers; and slugs of tenants.
const GLOBAL_UNIQUES: &[&str] = &[
    "api_keys_key_hash_key",
    "idempotent_answers_pkey",
    "identity_providers_issuer_key",
    "placement_devices_pkey",
    "placements_generation",
    "placements_id_worker_id_key",
    "placements_one_live",
    "principals_login",
    "principals_provider_id_subject_key",
    "quota_cells_pkey",
    "quota_nodes_id_kind_key",
    "quota_nodes_name",
    "tenants_slug",
];
/// Foreign keys to tables whose rows tenants share, or whose tenant a trigger
/// compares. Of the quota tree, a tenant's parent is always a cohort.
const SHARED_TARGETS: &[&str] = &[
    "tenants",
    "models",
    "model_versions",
    "accelerator_classes",
    "workers",
    "devices",
    "quota_nodes",
    "pools",
];

#[tokio::test]
async fn every_table_is_isolated() {
    let db = Database::fresh().await;
    let mut su = db.superuser().await;
    let tables = rows(
        &mut su,
        "SELECT c.relname, c.relrowsecurity, c.relforcerowsecurity, c.relowner::regrole::text AS owner,
                EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped) AS has_tenant,
                EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'project_id' AND NOT a.attisdropped) AS has_project
         FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') ORDER BY 1",
    )
    .await
    .unwrap();
    assert!(tables.len() > 20, "the catalogue was read");
    for table in &tables {
        let name: &str = table.get("relname");
        assert_eq!(table.get::<&str, _>("owner"), "chancery_owner", "{name}");
        if name == "_sqlx_migrations" {
            continue;
        }
        assert!(table.get::<bool, _>("relrowsecurity"), "{name} has no row-level security");
        assert!(table.get::<bool, _>("relforcerowsecurity"), "{name} does not bind its owner");
        let has_tenant: bool = table.get("has_tenant");
        assert_eq!(
            has_tenant || name == "tenants",
            !SYSTEM_TABLES.contains(&name),
            "{name} is on the wrong list"
        );
    }

    let column = |name: &str| if name == "tenants" { "id" } else { "tenant_id" };
    for table in &tables {
        let name: &str = table.get("relname");
        if SYSTEM_TABLES.contains(&name) {
            continue;
        }
        let policies = rows(
            &mut su,
            &format!("SELECT policyname, permissive, cmd, roles::text, qual, with_check FROM pg_policies WHERE tablename = '{name}' AND 'chancery_tenant' = ANY(roles)"),
        )
        .await
        .unwrap();
        let expected = format!("({} = current_tenant())", column(name));
        for policy in &policies {
            let (policy_name, command): (&str, &str) = (policy.get("policyname"), policy.get("cmd"));
            match policy_name {
                "tenant_rows" => {
                    assert_eq!(command, "ALL", "{name}");
                    assert_eq!(policy.get::<Option<&str>, _>("qual"), Some(&*expected), "{name}");
                    assert_eq!(policy.get::<Option<&str>, _>("with_check"), Some(&*expected), "{name}");
                }
                "shared_rows" => {
                    assert!(SHARED_TABLES.contains(&name), "{name} shares rows");
                    assert_eq!(command, "SELECT", "{name}");
                    assert_eq!(policy.get::<Option<&str>, _>("qual"), Some("(tenant_id IS NULL)"), "{name}");
                }
                "project_rows" => {
                    assert_eq!(policy.get::<&str, _>("permissive"), "RESTRICTIVE", "{name}");
                    assert_eq!(command, "ALL", "{name}");
                    let qual: Option<&str> = policy.get("qual");
                    assert!(qual.is_some_and(|q| q.contains("current_projects()")), "{name}");
                    assert_eq!(policy.get::<Option<&str>, _>("with_check"), qual, "{name}");
                }
                other => panic!("{name} has the unknown policy {other}"),
            }
        }
        assert!(
            policies.iter().any(|p| p.get::<&str, _>("policyname") == "tenant_rows"),
            "{name} has no tenant policy"
        );
        let narrow = policies.iter().any(|p| p.get::<&str, _>("policyname") == "project_rows");
        let of_project: bool = table.get("has_project");
        assert_eq!(narrow, of_project || name == "projects", "{name}: rows of a project are narrowed to it");
    }
    db.finish().await;
}

#[tokio::test]
async fn no_role_of_the_application_escapes() {
    let db = Database::fresh().await;
    let roles = rows(
        &mut db.superuser().await,
        "SELECT rolname, rolsuper, rolbypassrls, rolcanlogin, rolinherit FROM pg_roles WHERE rolname LIKE 'chancery%' ORDER BY 1",
    )
    .await
    .unwrap();
    let names: Vec<&str> = roles.iter().map(|r| r.get("rolname")).collect();
    assert_eq!(names, ["chancery_app", "chancery_owner", "chancery_system", "chancery_tenant"]);
    for role in &roles {
        assert!(!role.get::<bool, _>("rolsuper") && !role.get::<bool, _>("rolbypassrls"));
    }
    assert!(!roles[0].get::<bool, _>("rolinherit"), "chancery_app has no rights until it takes a role");

    for (what, sql) in [
        (
            "rights of chancery_app",
            "SELECT count(*) FROM information_schema.role_table_grants WHERE grantee = 'chancery_app'",
        ),
        (
            "rights of everybody",
            "SELECT count(*) FROM information_schema.role_table_grants WHERE grantee = 'PUBLIC' AND table_schema = 'public'",
        ),
        (
            "TRUNCATE, which ignores row-level security",
            "SELECT count(*) FROM information_schema.role_table_grants WHERE grantee IN ('chancery_tenant', 'chancery_system') AND privilege_type IN ('TRUNCATE', 'REFERENCES', 'TRIGGER')",
        ),
        (
            "changes of what is append-only",
            "SELECT count(*) FROM information_schema.role_table_grants WHERE ((table_name IN ('audit_events', 'usage', 'results', 'model_versions', 'model_files') AND privilege_type = 'UPDATE') OR (table_name IN ('audit_events', 'tenant_deletions') AND privilege_type = 'DELETE') OR (table_name IN ('usage', 'results', 'model_versions', 'model_files') AND privilege_type = 'DELETE' AND (grantee = 'chancery_tenant' OR NOT EXISTS (SELECT FROM pg_policies p WHERE p.tablename = table_name AND p.policyname = 'erased_rows' AND p.permissive = 'RESTRICTIVE' AND p.cmd = 'DELETE')))) AND grantee IN ('chancery_tenant', 'chancery_system')",
        ),
        (
            "tables of tenants whose rows can be neither erased nor are on the list of what is kept",
            "SELECT count(*) FROM tenant_tables() t WHERE t.name NOT IN ('audit_events', 'tenant_deletions') AND NOT has_table_privilege('chancery_system', t.name, 'DELETE')",
        ),
        (
            "tables that refer to a tenant's rows without naming the tenant",
            "SELECT count(*) FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid WHERE k.contype = 'f' AND k.confrelid::regclass::text IN (SELECT name FROM tenant_tables()) AND c.relname <> 'sessions' AND c.relname NOT IN (SELECT name FROM tenant_tables())",
        ),
        (
            "views without security_invoker",
            "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('v', 'm') AND NOT coalesce(reloptions @> ARRAY['security_invoker=true'], false)",
        ),
        (
            "SECURITY DEFINER functions",
            "SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef",
        ),
    ] {
        assert_eq!(db.count(sql).await, 0, "{what}");
    }
    db.finish().await;
}

#[tokio::test]
async fn uniques_and_references_name_the_tenant() {
    let db = Database::fresh().await;
    let mut su = db.superuser().await;
    let uniques = rows(
        &mut su,
        "SELECT i.relname AS index, ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = x.indrelid AND a.attnum = ANY(x.indkey::int2[])) AS columns
         FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
         WHERE x.indisunique AND t.relnamespace = 'public'::regnamespace
           AND (t.relname = 'tenants' OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = t.oid AND a.attname = 'tenant_id'))",
    )
    .await
    .unwrap();
    for unique in &uniques {
        let (index, columns): (&str, Vec<String>) = (unique.get("index"), unique.get("columns"));
        let local = columns.contains(&"tenant_id".to_owned());
        // A value made at random tells another tenant nothing.
        let random = columns
            .iter()
            .all(|c| c == "id" || c == "version_id" || c == "path" || c == "model_id" || c == "digest");
        assert!(local || random || GLOBAL_UNIQUES.contains(&index), "{index} {columns:?} leaks over tenants");
    }

    let references = rows(
        &mut su,
        "SELECT c.conname AS name, c.confrelid::regclass::text AS target,
                EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.conrelid AND a.attnum = ANY(c.conkey) AND a.attname = 'tenant_id') AS local
         FROM pg_constraint c WHERE c.contype = 'f' AND c.connamespace = 'public'::regnamespace
           AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.conrelid AND a.attname = 'tenant_id')",
    )
    .await
    .unwrap();
    assert!(references.len() > 20, "the catalogue was read");
    for reference in &references {
        let (name, target): (&str, &str) = (reference.get("name"), reference.get("target"));
        // A composite one beside them names the tenant.
        let doubled =
            ["placement_devices_placement_id_worker_id_fkey", "principals_provider_id_fkey"].contains(&name);
        assert!(
            reference.get("local") || SHARED_TARGETS.contains(&target) || doubled,
            "{name} accepts another tenant's row of {target}"
        );
    }
    db.finish().await;
}
