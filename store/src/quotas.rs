//! The quota tree and its ledger. Placements count themselves, in the
//! transaction that places or ends them (`count_placements` in the migrations);
//! here the tree is configured, and compared with what is placed.

use std::collections::{BTreeMap, HashMap};

use domain::quotas::{
    Amount, Key, MAX_DEPTH, Named, NodeId, NodeKind, NodeSpec, Policies, Quota, QuotaNode, Tree, TreeError,
};
use domain::tenants::Slug;
use domain::{CohortId, ProjectId, TenantId, Timestamp};
use serde::Serialize;
use sqlx::types::Json;
use sqlx::{query, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{StoreError, SystemTx, Tx};

/// What of a node can be set; of a cohort or tenant all, of a project its limits.
#[derive(Clone, Debug)]
pub struct NewNode<'a> {
    /// The cohort it is in, or of a project its tenant.
    pub parent: Option<NodeId>,
    /// Share of what is lent, in thousandths.
    pub weight_milli: u32,
    /// What a tenant may do to get room.
    pub policies: Policies,
    /// Quotas.
    pub quotas: &'a BTreeMap<Key, Quota>,
}

/// Every node, cohorts first, by name.
pub async fn nodes(tx: &mut impl Tx) -> Result<Vec<Named>, StoreError> {
    let rows = query!(
        r#"SELECT n.id, n.kind, n.parent_id, n.weight_milli, n.policies AS "policies: Json<Policies>",
                  n.revision, n.created_at, COALESCE(n.name, p.slug, t.slug) AS "name!"
           FROM quota_nodes n
           LEFT JOIN tenants t ON t.id = n.tenant_id
           LEFT JOIN projects p ON p.tenant_id = n.tenant_id AND p.id = n.project
           WHERE p.deleted_at IS NULL
           ORDER BY n.kind, 8, n.id"#,
    )
    .fetch_all(tx.conn())
    .await?;
    let kinds: HashMap<Uuid, String> = rows.iter().map(|row| (row.id, row.kind.clone())).collect();
    let node = |id: Uuid| -> Result<NodeId, StoreError> {
        let kind = kinds.get(&id).and_then(|kind| kind.parse::<NodeKind>().ok());
        Ok(kind.ok_or_else(|| StoreError::corrupt("quota_nodes", "kind", id))?.node(id))
    };
    let mut nodes = Vec::with_capacity(rows.len());
    for row in &rows {
        let spec = NodeSpec {
            weight_milli: row.weight_milli.unsigned_abs(),
            policies: row.policies.0,
            ..NodeSpec::new(node(row.id)?, row.parent_id.map(node).transpose()?)
        };
        nodes.push(Named {
            spec,
            name: row.name.parse().map_err(|_| StoreError::corrupt("quota_nodes", "name", row.id))?,
            revision: row.revision,
            created_at: row.created_at.into(),
        });
    }
    let index: HashMap<Uuid, usize> = nodes.iter().enumerate().map(|(i, n)| (n.spec.id.id(), i)).collect();
    let cells = query!(
        "SELECT node_id, class, resource, nominal, lending_limit, borrowing_limit FROM quota_cells WHERE listed"
    )
    .fetch_all(tx.conn())
    .await?;
    for row in cells {
        let Some(&at) = index.get(&row.node_id) else { continue };
        let quota = Quota {
            nominal: row.nominal,
            lending_limit: row.lending_limit,
            borrowing_limit: row.borrowing_limit,
        };
        nodes[at].spec.quotas.insert(key(row.node_id, &row.class, &row.resource)?, quota);
    }
    Ok(nodes)
}

fn key(node: Uuid, class: &str, resource: &str) -> Result<Key, StoreError> {
    let resource = resource.parse().map_err(|_| StoreError::corrupt("quota_cells", "resource", node))?;
    Ok(Key { class: class.into(), resource })
}

/// The tree with what is used, counted from the placements themselves.
async fn counted(tx: &mut SystemTx) -> Result<(Vec<Named>, Tree), StoreError> {
    let nodes = nodes(tx).await?;
    let specs: Vec<NodeSpec> = nodes.iter().map(|node| node.spec.clone()).collect();
    let mut tree = Tree::new(&specs).map_err(|e| StoreError::QuotaTree(in_words(&nodes, e)))?;
    let kinds: HashMap<Uuid, NodeId> = specs.iter().map(|spec| (spec.id.id(), spec.id)).collect();
    let uses = query!(
        r#"SELECT leaf_id AS "leaf!", class AS "class!", resource AS "resource!",
                  sum(amount)::bigint AS "amount!"
           FROM quota_uses WHERE ended_at IS NULL GROUP BY 1, 2, 3"#,
    )
    .fetch_all(tx.conn())
    .await?;
    for row in uses {
        if let Some(&leaf) = kinds.get(&row.leaf) {
            tree.count(leaf, &key(row.leaf, &row.class, &row.resource)?, row.amount);
        }
    }
    Ok((nodes, tree))
}

/// Why nodes make no tree, by their names.
fn in_words(nodes: &[Named], why: TreeError) -> String {
    let (TreeError::Twice(id) | TreeError::Parent(id) | TreeError::Depth(id) | TreeError::Amount(id)) = why;
    let name = nodes.iter().find(|node| node.spec.id == id).map_or("a node", |node| node.name.as_str());
    match why {
        TreeError::Depth(_) => format!("{name} would be below itself, or more than {MAX_DEPTH} levels deep"),
        TreeError::Parent(_) => format!("{name} would be below what is no cohort"),
        TreeError::Twice(_) => format!("{name} would be there twice"),
        TreeError::Amount(_) => format!("{name} would have a quantity that is out of bounds"),
    }
}

/// The tree as the ledger has it: a tenant's part of it, or all.
pub async fn tree(tx: &mut SystemTx, tenant: Option<TenantId>) -> Result<Vec<QuotaNode>, StoreError> {
    let (nodes, tree) = counted(tx).await?;
    let shown = |node: &&Named| match (tenant, node.spec.id) {
        (None, _) => true,
        (Some(tenant), NodeId::Tenant(id)) => id == tenant,
        (Some(tenant), NodeId::Project(_)) => node.spec.parent == Some(NodeId::Tenant(tenant)),
        (Some(_), NodeId::Cohort(_)) => false,
    };
    Ok(nodes.iter().filter(shown).map(|node| node.seen(&tree)).collect())
}

/// One node.
pub async fn node(tx: &mut SystemTx, id: NodeId) -> Result<QuotaNode, StoreError> {
    let (nodes, tree) = counted(tx).await?;
    let node = nodes.iter().find(|node| node.spec.id == id);
    Ok(node.ok_or(StoreError::NotFound("quota"))?.seen(&tree))
}

/// The cohort of that name.
pub async fn cohort(tx: &mut SystemTx, name: &Slug) -> Result<NodeId, StoreError> {
    let id = query_scalar!("SELECT id FROM quota_nodes WHERE name = $1", name.as_str())
        .fetch_optional(tx.conn())
        .await?
        .ok_or(StoreError::NotFound("cohort"))?;
    Ok(NodeId::Cohort(CohortId(id)))
}

/// Makes a cohort, or sets what is there of that name.
pub async fn put_cohort(
    tx: &mut SystemTx,
    name: &Slug,
    new: &NewNode<'_>,
    now: Timestamp,
) -> Result<QuotaNode, StoreError> {
    lock(tx).await?;
    let id = query_scalar!(
        "INSERT INTO quota_nodes (id, kind, name, created_at) VALUES ($1, 'cohort', $2, $3)
         ON CONFLICT (name) DO UPDATE SET revision = quota_nodes.revision + 1 RETURNING id",
        CohortId::generate().0,
        name.as_str(),
        OffsetDateTime::from(now),
    )
    .fetch_one(tx.conn())
    .await?;
    set(tx, NodeId::Cohort(CohortId(id)), new).await
}

/// Gives a tenant quota, or other quota.
pub async fn put_tenant(
    tx: &mut SystemTx,
    tenant: TenantId,
    new: &NewNode<'_>,
    now: Timestamp,
) -> Result<QuotaNode, StoreError> {
    lock(tx).await?;
    query!(
        "INSERT INTO quota_nodes (id, kind, tenant_id, created_at) VALUES ($1, 'tenant', $1, $2)
         ON CONFLICT (id) DO UPDATE SET revision = quota_nodes.revision + 1",
        tenant.0,
        OffsetDateTime::from(now),
    )
    .execute(tx.conn())
    .await?;
    set(tx, NodeId::Tenant(tenant), new).await
}

/// Limits a project of a tenant that has quota.
pub async fn put_project(
    tx: &mut SystemTx,
    tenant: TenantId,
    project: ProjectId,
    new: &NewNode<'_>,
    now: Timestamp,
) -> Result<QuotaNode, StoreError> {
    lock(tx).await?;
    let bound =
        query_scalar!("SELECT id FROM quota_nodes WHERE id = $1", tenant.0).fetch_optional(tx.conn()).await?;
    if bound.is_none() {
        return Err(StoreError::Conflict(
            "the tenant has no quota: only part of one can be given to a project",
        ));
    }
    query!(
        "INSERT INTO quota_nodes (id, kind, tenant_id, parent_id, created_at) VALUES ($1, 'project', $2, $2, $3)
         ON CONFLICT (id) DO UPDATE SET revision = quota_nodes.revision + 1",
        project.0,
        tenant.0,
        OffsetDateTime::from(now),
    )
    .execute(tx.conn())
    .await?;
    set(tx, NodeId::Project(project), new).await
}

/// Takes a node out of the tree. What is below a tenant goes with it.
pub async fn remove(tx: &mut SystemTx, id: NodeId) -> Result<(), StoreError> {
    lock(tx).await?;
    if let NodeId::Cohort(cohort) = id {
        let below = query_scalar!("SELECT id FROM quota_nodes WHERE parent_id = $1 LIMIT 1", cohort.0)
            .fetch_optional(tx.conn())
            .await?;
        if below.is_some() {
            return Err(StoreError::Conflict("the cohort has cohorts or tenants: move them first"));
        }
    }
    let gone = query!("DELETE FROM quota_nodes WHERE id = $1 AND kind = $2", id.id(), id.kind().as_str())
        .execute(tx.conn())
        .await?
        .rows_affected();
    if gone == 0 {
        return Err(StoreError::NotFound("quota"));
    }
    settle(tx).await
}

async fn set(tx: &mut SystemTx, id: NodeId, new: &NewNode<'_>) -> Result<QuotaNode, StoreError> {
    query!(
        "UPDATE quota_nodes SET parent_id = $2, weight_milli = $3, policies = $4 WHERE id = $1",
        id.id(),
        new.parent.map(NodeId::id),
        i32::try_from(new.weight_milli).unwrap_or(i32::MAX),
        Json(new.policies) as _,
    )
    .execute(tx.conn())
    .await?;
    query!("UPDATE quota_cells SET listed = false, nominal = 0, lending_limit = NULL, borrowing_limit = NULL WHERE node_id = $1", id.id())
        .execute(tx.conn())
        .await?;
    for (key, quota) in new.quotas {
        query!(
            "INSERT INTO quota_cells
                 (node_id, tenant_id, class, resource, listed, nominal, lending_limit, borrowing_limit, subtree, local)
             VALUES ($1, (SELECT tenant_id FROM quota_nodes WHERE id = $1), $2, $3, true, $4, $5, $6, 0, 0)
             ON CONFLICT (node_id, class, resource)
             DO UPDATE SET listed = true, nominal = $4, lending_limit = $5, borrowing_limit = $6",
            id.id(),
            &*key.class,
            key.resource.as_str(),
            quota.nominal,
            quota.lending_limit,
            quota.borrowing_limit,
        )
        .execute(tx.conn())
        .await
        .map_err(|e| match &e {
            sqlx::Error::Database(d) if d.is_foreign_key_violation() => StoreError::NotFound("accelerator class"),
            _ => e.into(),
        })?;
    }
    settle(tx).await?;
    node(tx, id).await
}

/// Waits for placements that count themselves, and keeps others from beginning
/// to, until this transaction ends.
async fn lock(tx: &mut SystemTx) -> Result<(), StoreError> {
    query!("SELECT pg_advisory_xact_lock(hashtext('quota_tree'))").execute(tx.conn()).await?;
    Ok(())
}

/// Derives what every node has and uses anew. For after a change of the tree.
pub async fn settle(tx: &mut SystemTx) -> Result<(), StoreError> {
    lock(tx).await?;
    // Projects end by a mark; their part of the tree ends with them.
    query!(
        "DELETE FROM quota_nodes n USING projects p
         WHERE p.tenant_id = n.tenant_id AND p.id = n.project AND p.deleted_at IS NOT NULL"
    )
    .execute(tx.conn())
    .await?;
    let (nodes, tree) = counted(tx).await?;
    let mut cells = Cells::default();
    for node in &nodes {
        for key in tree.keys() {
            let Some(figures) = tree.figures(node.spec.id, key) else { continue };
            let listed = node.spec.quotas.contains_key(key);
            let (subtree, local) = match node.spec.id {
                NodeId::Project(_) => (figures.quota.nominal, 0),
                _ => (
                    figures.subtree,
                    figures.quota.lending_limit.map_or(0, |limit| (figures.subtree - limit).max(0)),
                ),
            };
            // An unlisted project bounds nothing, and has nothing to count.
            let project = matches!(node.spec.id, NodeId::Project(_));
            if listed || !project && (subtree > 0 || figures.used > 0) {
                cells.push(node.spec.id.id(), key, subtree, local, figures.used);
            }
        }
    }
    query!("UPDATE quota_cells SET subtree = 0, local = 0, used = 0 WHERE subtree <> 0 OR local <> 0 OR used <> 0")
        .execute(tx.conn())
        .await?;
    query!(
        "INSERT INTO quota_cells (node_id, tenant_id, class, resource, listed, nominal, subtree, local, used)
         SELECT c.node_id, n.tenant_id, c.class, c.resource, false, 0, c.subtree, c.local, c.used
         FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[])
             AS c (node_id, class, resource, subtree, local, used)
         JOIN quota_nodes n ON n.id = c.node_id
         ON CONFLICT (node_id, class, resource)
         DO UPDATE SET subtree = EXCLUDED.subtree, local = EXCLUDED.local, used = EXCLUDED.used",
        &cells.nodes,
        &cells.classes,
        &cells.resources,
        &cells.subtree,
        &cells.local,
        &cells.used,
    )
    .execute(tx.conn())
    .await?;
    query!("DELETE FROM quota_cells WHERE NOT listed AND subtree = 0 AND used = 0")
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Columns of cells, to be written at once.
#[derive(Default)]
struct Cells {
    nodes: Vec<Uuid>,
    classes: Vec<String>,
    resources: Vec<String>,
    subtree: Vec<Amount>,
    local: Vec<Amount>,
    used: Vec<Amount>,
}

impl Cells {
    fn push(&mut self, node: Uuid, key: &Key, subtree: Amount, local: Amount, used: Amount) {
        self.nodes.push(node);
        self.classes.push(key.class.to_string());
        self.resources.push(key.resource.as_str().to_owned());
        self.subtree.push(subtree);
        self.local.push(local);
        self.used.push(used);
    }
}

/// Where the ledger is not what the placements add up to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The node.
    pub node: Uuid,
    /// Its name.
    pub name: Slug,
    /// Accelerator class.
    pub class: String,
    /// What of it.
    pub resource: String,
    /// What the ledger has.
    pub ledger: Amount,
    /// What the placements add up to.
    pub placements: Amount,
}

/// Compares the ledger with the placements, as of one moment.
pub async fn differences(store: &crate::Store) -> Result<Vec<Difference>, StoreError> {
    let mut tx = crate::workloads::repeatable_read(store).await?;
    let (nodes, tree) = counted(&mut tx).await?;
    let rows = query!("SELECT node_id, class, resource, used FROM quota_cells").fetch_all(tx.conn()).await?;
    tx.commit().await?;
    let mut ledger = HashMap::new();
    for row in rows {
        ledger.insert((row.node_id, key(row.node_id, &row.class, &row.resource)?), row.used);
    }
    let mut differences = Vec::new();
    for node in &nodes {
        for key in tree.keys() {
            let id = node.spec.id.id();
            if matches!(node.spec.id, NodeId::Project(_)) && !node.spec.quotas.contains_key(key) {
                continue;
            }
            let placements = tree.figures(node.spec.id, key).map_or(0, |figures| figures.used);
            let ledger = ledger.get(&(id, key.clone())).copied().unwrap_or(0);
            if placements != ledger {
                differences.push(Difference {
                    node: id,
                    name: node.name.clone(),
                    class: key.class.to_string(),
                    resource: key.resource.as_str().to_owned(),
                    ledger,
                    placements,
                });
            }
        }
    }
    Ok(differences)
}
