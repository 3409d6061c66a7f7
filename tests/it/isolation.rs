//! A tenant's transaction sees that tenant's rows. Each test keeps a control
//! that shows that the hidden row exists.

use domain::TenantId;
use sqlx::Row;
use tests::database::{Database, rows};
use tests::interleaving;

/// Two tenants with a project each, made by the superuser.
async fn two_tenants(db: &Database) -> [TenantId; 2] {
    let tenants = [TenantId::generate(), TenantId::generate()];
    let mut su = db.superuser().await;
    for (i, tenant) in tenants.iter().enumerate() {
        for sql in [
            format!("INSERT INTO tenants VALUES ('{tenant}', 'tenant-{i}', 'Tenant {i}', now())"),
            format!(
                "INSERT INTO projects VALUES (gen_random_uuid(), '{tenant}', 'sandbox', 'Sandbox', now())"
            ),
            format!(
                "INSERT INTO audit_events SELECT gen_random_uuid(), '{tenant}', now(), 'test', 'create', 'tenant:{tenant}', 'allowed', '{{}}'"
            ),
            format!(
                "INSERT INTO audit_events SELECT gen_random_uuid(), '{tenant}', now(), 'test', 'create', 'project:' || id, 'allowed', '{{}}' FROM projects WHERE tenant_id = '{tenant}'"
            ),
        ] {
            rows(&mut su, &sql).await.unwrap();
        }
    }
    tenants
}

#[tokio::test]
async fn a_tenant_sees_its_own_rows_and_no_others() {
    let db = Database::fresh().await;
    let [first, second] = two_tenants(&db).await;
    assert_eq!(db.count("SELECT count(*) FROM projects").await, 2, "control: both rows exist");

    for tenant in [first, second] {
        let mut tx = db.store.tenant(tenant).await.unwrap();
        let seen = store::projects::list(&mut tx, None, 100).await.unwrap();
        assert_eq!(seen.iter().map(|p| p.tenant_id).collect::<Vec<_>>(), [tenant]);
    }
    db.finish().await;
}

#[tokio::test]
async fn rows_cannot_be_written_for_another_tenant() {
    let db = Database::fresh().await;
    let [first, second] = two_tenants(&db).await;
    for (role, tenant) in [("chancery_tenant", Some(first)), ("chancery_tenant", None)] {
        let mut app = db.app().await;
        rows(&mut app, &format!("SET ROLE {role}")).await.unwrap();
        if let Some(tenant) = tenant {
            rows(&mut app, &format!("SELECT set_config('chancery.tenant', '{tenant}', false)"))
                .await
                .unwrap();
        }
        for sql in [
            format!(
                "INSERT INTO projects VALUES (gen_random_uuid(), '{second}', 'planted', 'Planted', now())"
            ),
            format!("UPDATE projects SET tenant_id = '{second}'"),
            format!(
                "INSERT INTO audit_events VALUES (gen_random_uuid(), '{second}', now(), 'x', 'x', 'x', 'allowed', '{{}}')"
            ),
            "INSERT INTO models VALUES (gen_random_uuid(), NULL, 'in-the-catalogue', now())".to_owned(),
        ] {
            match rows(&mut app, &sql).await {
                Err(sqlx::Error::Database(e)) => assert_eq!(e.code().as_deref(), Some("42501"), "{sql}: {e}"),
                // Without a tenant an UPDATE finds no row to refuse.
                Ok(_) => assert!(tenant.is_none() && sql.starts_with("UPDATE"), "{sql} was accepted"),
                Err(e) => panic!("{sql}: {e}"),
            }
        }
    }
    assert_eq!(db.count("SELECT count(*) FROM projects WHERE slug = 'planted'").await, 0);
    db.finish().await;
}

#[tokio::test]
async fn a_connection_without_a_role_sees_nothing() {
    let db = Database::fresh().await;
    two_tenants(&db).await;
    let mut app = db.app().await;
    match rows(&mut app, "SELECT count(*) FROM projects").await {
        Err(sqlx::Error::Database(e)) => assert_eq!(e.code().as_deref(), Some("42501")),
        other => panic!("chancery_app could read: {other:?}"),
    }
    // The owner is bound too, and has no policy.
    let seen: i64 = rows(&mut db.owner().await, "SELECT count(*) FROM projects").await.unwrap()[0].get(0);
    assert_eq!(seen, 0);
    assert_eq!(db.count("SELECT count(*) FROM projects").await, 2, "control: both rows exist");
    db.finish().await;
}

/// After a committed `set_config(…, true)` the setting is '', not NULL. A
/// pooled connection then runs the next transaction.
#[tokio::test]
async fn a_used_connection_forgets_its_tenant() {
    let db = Database::fresh().await;
    let [first, _] = two_tenants(&db).await;
    let mut app = db.app().await;
    for sql in [
        "BEGIN".to_owned(),
        "SET LOCAL ROLE chancery_tenant".to_owned(),
        format!("SELECT set_config('chancery.tenant', '{first}', true)"),
        "COMMIT".to_owned(),
        "SET ROLE chancery_tenant".to_owned(),
    ] {
        rows(&mut app, &sql).await.unwrap();
    }
    let seen: i64 = rows(&mut app, "SELECT count(*) FROM projects").await.unwrap()[0].get(0);
    assert_eq!(seen, 0);
    assert_eq!(db.count("SELECT count(*) FROM projects").await, 2, "control: both rows exist");
    db.finish().await;
}

/// Two tenants on two connections, with operations abandoned at any await,
/// connections that the database ends and clients that hang up: none ever sees
/// or writes the other's rows. `cargo xtask soak isolation` runs a million.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interleaved_operations_stay_with_their_tenant() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let operations = number("CHANCERY_SOAK_OPERATIONS").unwrap_or(8_000);
    let seed = number("CHANCERY_SOAK_SEED").unwrap_or_else(|| TenantId::generate().0.as_u64_pair().1);
    println!("seed {seed}");
    let db = Database::fresh().await;
    let report = interleaving::run(&db, operations, seed).await;
    println!("{}", report.summary());
    assert_eq!(report.foreign, 0, "rows of the other tenant were seen");
    let share = |part: u64| part as f64 / operations as f64;
    assert!(share(report.done) > 0.2, "enough operations ran to their end");
    assert!(share(report.cut) > 0.1, "enough operations were dropped");
    assert!(report.kills > 0 && report.rows > operations / 10, "there was something to see");
    db.finish().await;
}
