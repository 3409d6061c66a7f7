//! Budgets. Time of accelerators is counted from placements
//! (`accelerator_spending` in the migrations), which are refused where it is
//! exhausted; of tokens what was spent is kept, in the transaction that bills.

use std::collections::BTreeMap;

use domain::budgets::{BudgetLine, BudgetNode, BudgetUse, Counted, MILLI_SECS, TimeBudget, whole};
use domain::quotas::{Amount, NodeId};
use domain::{ProjectId, TenantId, Timestamp};
use sqlx::{query, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{StoreError, SystemTx, Tx};

pub mod tokens;

/// What may be spent of accelerators' time, by tenant; of these tenants, or of
/// all.
pub(crate) async fn of_time(
    tx: &mut SystemTx,
    tenants: Option<&[Uuid]>,
    now: Timestamp,
) -> Result<BTreeMap<TenantId, Vec<TimeBudget>>, StoreError> {
    let rows = query!(
        r#"SELECT b.id, b.tenant_id, b.project, b.class AS "class!", b.period, b.amount,
                  period_begins(b.period, $2) AS "began!",
                  (SELECT COALESCE(sum(u.milli_ms), 0)::bigint FROM accelerator_usage u
                   WHERE u.tenant_id = b.tenant_id AND u.class = b.class
                     AND (b.project IS NULL OR u.project_id = b.project)
                     AND u.day >= (period_begins(b.period, $2) AT TIME ZONE 'UTC')::date) AS "settled_ms!"
           FROM budgets b LEFT JOIN projects p ON p.tenant_id = b.tenant_id AND p.id = b.project
           WHERE b.class IS NOT NULL AND p.deleted_at IS NULL AND ($1::uuid[] IS NULL OR b.tenant_id = ANY($1))
           ORDER BY b.tenant_id, b.project NULLS FIRST, b.class"#,
        tenants,
        OffsetDateTime::from(now),
    )
    .fetch_all(tx.conn())
    .await?;
    let mut budgets: BTreeMap<TenantId, Vec<TimeBudget>> = BTreeMap::new();
    for row in rows {
        budgets.entry(TenantId(row.tenant_id)).or_default().push(TimeBudget {
            project: row.project.map(ProjectId),
            class: row.class,
            period: row.period.parse().map_err(|_| StoreError::corrupt("budgets", "period", row.id))?,
            limit: row.amount,
            settled_ms: row.settled_ms,
            began: row.began.into(),
        });
    }
    Ok(budgets)
}

/// The tenants and projects that have budgets, with what is left: of one tenant,
/// or all.
pub async fn list(
    tx: &mut SystemTx,
    tenant: Option<TenantId>,
    now: Timestamp,
) -> Result<Vec<BudgetNode>, StoreError> {
    read(tx, tenant, None, now).await
}

/// The budgets of a tenant or a project; none is no error.
pub async fn of_node(
    tx: &mut SystemTx,
    tenant: TenantId,
    project: Option<ProjectId>,
    now: Timestamp,
) -> Result<BudgetNode, StoreError> {
    let id = project.map_or(NodeId::Tenant(tenant), NodeId::Project);
    if let Some(node) = read(tx, Some(tenant), Some(id), now).await?.pop() {
        return Ok(node);
    }
    let names = query!(
        r#"SELECT t.slug AS tenant, p.slug AS "project?" FROM tenants t
           LEFT JOIN projects p ON p.tenant_id = t.id AND p.id = $2 WHERE t.id = $1"#,
        tenant.0,
        project.map(|p| p.0),
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound("tenant"))?;
    let corrupt = |_| StoreError::corrupt("tenants", "slug", tenant);
    let tenant_slug = names.tenant.parse().map_err(corrupt)?;
    let name = match names.project {
        Some(slug) => slug.parse().map_err(|_| StoreError::corrupt("projects", "slug", id.id()))?,
        None => names.tenant.parse().map_err(corrupt)?,
    };
    Ok(BudgetNode { kind: id.kind(), id: id.id(), name, tenant: tenant_slug, budgets: Vec::new() })
}

async fn read(
    tx: &mut SystemTx,
    tenant: Option<TenantId>,
    only: Option<NodeId>,
    now: Timestamp,
) -> Result<Vec<BudgetNode>, StoreError> {
    let (only_tenant, only_project) = match only {
        Some(NodeId::Project(project)) => (false, Some(project.0)),
        Some(_) => (true, None),
        None => (false, None),
    };
    let rows = query!(
        r#"SELECT b.id, b.tenant_id, b.project, b.class, b.period, b.amount, b.revision, b.created_at,
                  t.slug AS tenant, COALESCE(p.slug, t.slug) AS "name!",
                  k.spent AS "tokens!", k.reserved AS "tokens_reserved!",
                  s.settled AS "settled!", s.running AS "running!", s.reserved AS "reserved!"
           FROM budgets b JOIN tenants t ON t.id = b.tenant_id
           LEFT JOIN projects p ON p.tenant_id = b.tenant_id AND p.id = b.project
           CROSS JOIN LATERAL accelerator_spending(
               b.tenant_id, b.project, b.class, period_begins(b.period, $4), $4) s
           CROSS JOIN LATERAL token_spending(b, $4) k
           WHERE p.deleted_at IS NULL AND ($1::uuid IS NULL OR b.tenant_id = $1)
             AND (NOT $2 OR b.project IS NULL) AND ($3::uuid IS NULL OR b.project = $3)
           ORDER BY t.slug, p.slug NULLS FIRST, b.class NULLS FIRST"#,
        tenant.map(|t| t.0),
        only_tenant,
        only_project,
        OffsetDateTime::from(now),
    )
    .fetch_all(tx.conn())
    .await?;
    let mut nodes: Vec<BudgetNode> = Vec::new();
    for row in rows {
        let corrupt = |column| move |_| StoreError::corrupt("budgets", column, row.id);
        let period: domain::budgets::Period = row.period.parse().map_err(corrupt("period"))?;
        let (limit, spent, reserved) = match row.class {
            None => (row.amount, row.tokens, row.tokens_reserved),
            Some(_) => {
                let seconds = |milli_ms: Amount| (whole(milli_ms) + MILLI_SECS - 1) / MILLI_SECS;
                let spent = row.settled.saturating_add(row.running);
                let all = seconds(spent.saturating_add(row.reserved));
                let spent = seconds(spent);
                (row.amount / MILLI_SECS, spent, all - spent)
            }
        };
        let budget = BudgetUse {
            counts: if row.class.is_some() { Counted::AcceleratorSeconds } else { Counted::Tokens },
            class: row.class,
            period,
            limit,
            spent,
            reserved,
            free: limit - spent - reserved,
            period_began: period.begins(now),
            period_ends: period.ends(now),
            revision: row.revision,
            created_at: row.created_at.into(),
        };
        let id =
            row.project.map_or(NodeId::Tenant(TenantId(row.tenant_id)), |p| NodeId::Project(ProjectId(p)));
        match nodes.last_mut().filter(|node| (node.kind, node.id) == (id.kind(), id.id())) {
            Some(node) => node.budgets.push(budget),
            None => nodes.push(BudgetNode {
                kind: id.kind(),
                id: id.id(),
                name: row.name.parse().map_err(|_| StoreError::corrupt("projects", "slug", row.id))?,
                tenant: row.tenant.parse().map_err(|_| StoreError::corrupt("tenants", "slug", row.id))?,
                budgets: vec![budget],
            }),
        }
    }
    Ok(nodes)
}

/// Sets all budgets of a tenant or a project. What was spent in a period that
/// goes on stays spent; a new budget is charged what was spent before it was
/// set.
pub async fn put(
    tx: &mut SystemTx,
    tenant: TenantId,
    project: Option<ProjectId>,
    lines: &[BudgetLine],
    now: Timestamp,
) -> Result<BudgetNode, StoreError> {
    // In one order, as who begins or bills takes them.
    query!("SELECT id FROM budgets WHERE tenant_id = $1 ORDER BY id FOR UPDATE", tenant.0)
        .fetch_all(tx.conn())
        .await?;
    let kept: Vec<String> = lines.iter().map(|line| line.class.clone().unwrap_or_default()).collect();
    query!(
        "DELETE FROM budgets WHERE tenant_id = $1 AND project IS NOT DISTINCT FROM $2
         AND COALESCE(class, '') <> ALL ($3::text[])",
        tenant.0,
        project.map(|p| p.0),
        &kept,
    )
    .execute(tx.conn())
    .await?;
    for line in lines {
        put_line(tx, tenant, project, line, now).await?;
    }
    of_node(tx, tenant, project, now).await
}

async fn put_line(
    tx: &mut SystemTx,
    tenant: TenantId,
    project: Option<ProjectId>,
    line: &BudgetLine,
    now: Timestamp,
) -> Result<(), StoreError> {
    let began = OffsetDateTime::from(line.period.begins(now));
    let id = query_scalar!(
        "INSERT INTO budgets AS b (id, tenant_id, project, class, period, amount, began, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (tenant_id, project, class) DO UPDATE
             SET period = EXCLUDED.period, amount = EXCLUDED.amount, revision = b.revision + 1
         RETURNING id",
        Uuid::now_v7(),
        tenant.0,
        project.map(|p| p.0),
        line.class,
        line.period.as_str(),
        line.amount(),
        began,
        OffsetDateTime::from(now),
    )
    .fetch_one(tx.conn())
    .await
    .map_err(|e| match &e {
        sqlx::Error::Database(d) if d.constraint() == Some("budgets_class_fkey") => {
            StoreError::NotFound("accelerator class")
        }
        _ => e.into(),
    })?;
    if line.counts == Counted::Tokens {
        // Its row is locked by now: whoever bills adds to it afterwards.
        query!(
            "UPDATE budgets b SET began = $2, spent = (
                 SELECT COALESCE(sum(u.prompt_tokens + u.completion_tokens), 0)::bigint FROM usage u
                 WHERE u.tenant_id = b.tenant_id AND u.at >= $2 AND (b.project IS NULL OR u.project_id = b.project))
             WHERE b.id = $1",
            id,
            began,
        )
        .execute(tx.conn())
        .await?;
    }
    Ok(())
}

/// Takes all budgets of a tenant or a project away: it may spend what it wants.
pub async fn remove(
    tx: &mut SystemTx,
    tenant: TenantId,
    project: Option<ProjectId>,
) -> Result<(), StoreError> {
    let gone = query!(
        "DELETE FROM budgets WHERE tenant_id = $1 AND project IS NOT DISTINCT FROM $2",
        tenant.0,
        project.map(|p| p.0)
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    if gone == 0 { Err(StoreError::NotFound("budget")) } else { Ok(()) }
}
