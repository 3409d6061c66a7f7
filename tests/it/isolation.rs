//! A tenant's transaction sees that tenant's rows. Each test keeps a control
//! that shows that the hidden row exists.

use domain::TenantId;
use sqlx::Row;
use store::StoreError;
use tests::database::{Database, rows};

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

/// Two tenants on few connections, with transactions abandoned at any await:
/// none is ever handed to the other tenant.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abandoned_transactions_never_reach_another_tenant() {
    const OPERATIONS: usize = 2000;
    let db = Database::fresh().await;
    let tenants = two_tenants(&db).await;
    let seed = TenantId::generate().0.as_u64_pair().1;
    println!("seed {seed}");
    let mut tasks = tokio::task::JoinSet::new();
    for (n, tenant) in tenants.into_iter().cycle().take(OPERATIONS).enumerate() {
        let store = db.store.clone();
        // A cheap, reproducible spread of time limits around one operation's length.
        let limit = std::time::Duration::from_micros((seed.wrapping_mul(n as u64 + 1) >> 40) % 4000);
        tasks.spawn(async move {
            tokio::time::timeout(limit, async {
                let mut tx = store.tenant(tenant).await?;
                let seen = store::projects::list(&mut tx, None, 100).await?;
                assert!(seen.iter().all(|p| p.tenant_id == tenant), "a foreign row");
                assert_eq!(seen.len(), 1, "its own row");
                tx.commit().await?;
                Ok::<_, StoreError>(())
            })
            .await
        });
        if n % 64 == 63 {
            while tasks.len() > 32 {
                let _ = tasks.join_next().await.expect("tasks remain").expect("no task panics");
            }
        }
    }
    let (mut done, mut cut) = (0, 0);
    while let Some(ended) = tasks.join_next().await {
        match ended.expect("no task panics") {
            Ok(Ok(())) => done += 1,
            Ok(Err(e)) => assert!(e.is_transient(), "{e:?}"),
            Err(_) => cut += 1,
        }
    }
    println!("{done} done and {cut} cut off among the last");
    db.finish().await;
}
