//! Members of projects.

use domain::principals::Role;
use domain::projects::Member;
use domain::{PrincipalId, ProjectId, Timestamp};
use sqlx::{query, query_as, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{StoreError, TenantTx, Tx};

struct Row {
    principal_id: Uuid,
    login: String,
    display_name: String,
    role: String,
    created_at: OffsetDateTime,
}

impl TryFrom<Row> for Member {
    type Error = StoreError;
    fn try_from(row: Row) -> Result<Self, StoreError> {
        let corrupt = || StoreError::corrupt("project_members", "role", row.principal_id);
        Ok(Self {
            principal_id: row.principal_id.into(),
            login: row.login,
            display_name: row.display_name,
            role: row.role.parse().map_err(|_| corrupt())?,
            created_at: row.created_at.into(),
        })
    }
}

/// Whom of the tenant an identifier or a login names.
pub async fn account(tx: &mut TenantTx, named: &str) -> Result<PrincipalId, StoreError> {
    let (id, tenant) = (named.parse::<PrincipalId>().ok(), tx.tenant());
    let login = id.is_none().then_some(named);
    let found = query_scalar!(
        "SELECT id FROM principals WHERE tenant_id = $1 AND (id = $2 OR lower(login) = lower($3)) LIMIT 2",
        tenant.0,
        id.map(|id| id.0),
        login,
    )
    .fetch_all(tx.conn())
    .await?;
    match found.as_slice() {
        [one] => Ok(PrincipalId(*one)),
        [] => Err(StoreError::NotFound("account")),
        _ => Err(StoreError::Conflict("several accounts have this login; name one by its identifier")),
    }
}

/// Up to `limit` members of a project, in the order of their accounts, after `after`.
pub async fn list(
    tx: &mut TenantTx,
    project: ProjectId,
    after: Option<PrincipalId>,
    limit: u32,
) -> Result<Vec<Member>, StoreError> {
    query_as!(
        Row,
        "SELECT m.principal_id, p.login, p.display_name, m.role, m.created_at
         FROM project_members m JOIN principals p ON p.tenant_id = m.tenant_id AND p.id = m.principal_id
         WHERE m.project_id = $1 AND ($2::uuid IS NULL OR m.principal_id > $2) ORDER BY m.principal_id LIMIT $3",
        project.0,
        after.map(|id| id.0),
        i64::from(limit),
    )
    .fetch_all(tx.conn())
    .await?
    .into_iter()
    .map(Member::try_from)
    .collect()
}

/// One member.
pub async fn get(tx: &mut TenantTx, project: ProjectId, account: PrincipalId) -> Result<Member, StoreError> {
    query_as!(
        Row,
        "SELECT m.principal_id, p.login, p.display_name, m.role, m.created_at
         FROM project_members m JOIN principals p ON p.tenant_id = m.tenant_id AND p.id = m.principal_id
         WHERE m.project_id = $1 AND m.principal_id = $2",
        project.0,
        account.0,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound("member"))?
    .try_into()
}

/// Makes an account a member of a project, or gives it another role in it.
pub async fn put(
    tx: &mut TenantTx,
    project: ProjectId,
    account: PrincipalId,
    role: Role,
    now: Timestamp,
) -> Result<Member, StoreError> {
    query!(
        "INSERT INTO project_members (tenant_id, project_id, principal_id, role, created_at)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (tenant_id, project_id, principal_id) DO UPDATE SET role = excluded.role",
        tx.tenant().0,
        project.0,
        account.0,
        role.as_str(),
        OffsetDateTime::from(now),
    )
    .execute(tx.conn())
    .await?;
    get(tx, project, account).await
}

/// Takes an account out of a project.
pub async fn remove(tx: &mut TenantTx, project: ProjectId, account: PrincipalId) -> Result<(), StoreError> {
    let removed = query!(
        "DELETE FROM project_members WHERE project_id = $1 AND principal_id = $2",
        project.0,
        account.0
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    if removed == 1 { Ok(()) } else { Err(StoreError::NotFound("member")) }
}
