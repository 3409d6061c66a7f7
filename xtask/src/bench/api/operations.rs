//! What is measured: each operation as a request, and as the statements that
//! the API runs for it, which the peer runs.

use super::database::{SMALL_TENANTS, session};
use super::rows::{self, Kind};
use super::wire::Request;

/// What an operation is; each has its own bars.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Group {
    Read,
    List,
    Write,
}

impl Group {
    pub const ALL: [Self; 3] = [Self::Read, Self::List, Self::Write];

    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::List => "list",
            Self::Write => "write",
        }
    }
}

/// Where a page begins.
#[derive(Clone, Default)]
pub struct Page {
    /// Added to the path.
    pub query: String,
    /// Key of the last row before it; empty on the first.
    pub after: String,
    /// Its number, from 1.
    pub number: usize,
}

/// What a request may depend on.
pub struct Turn<'a> {
    /// A number that no other request has.
    pub unique: u64,
    /// A random number.
    pub random: u64,
    /// Which of the clients asks.
    pub client: u32,
    /// Ministries there are.
    pub tenants: u32,
    /// For lists.
    pub page: &'a Page,
    /// What the client's endpoint had at its last answer.
    pub etag: &'a str,
}

impl Turn<'_> {
    fn tenant(&self) -> u32 {
        1 + (self.random % u64::from(self.tenants)) as u32
    }

    /// The ministry of this client.
    fn own_tenant(&self) -> u32 {
        1 + self.client % self.tenants
    }

    /// A row that every ministry has: jobs of these numbers have ended, or
    /// wait if they can be divided by ten.
    fn row(&self, waiting: bool) -> u32 {
        let ten = (self.random >> 32) as u32 % 5;
        if waiting { ten * 10 } else { ten * 10 + 1 + (self.random >> 40) as u32 % 9 }
    }
}

/// The role that a transaction takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Tenant,
    System,
}

/// One transaction of the peer.
#[derive(Clone, Copy)]
pub struct Transaction {
    pub role: Role,
    pub statements: &'static [&'static str],
    /// Reads are rolled back, as a dropped transaction is.
    pub commits: bool,
}

fn reads(statements: &'static [&'static str]) -> Transaction {
    Transaction { role: Role::Tenant, statements, commits: false }
}

fn system(statements: &'static [&'static str]) -> Transaction {
    Transaction { role: Role::System, statements, commits: false }
}

fn writes(statements: &'static [&'static str]) -> Transaction {
    Transaction { role: Role::Tenant, statements, commits: true }
}

pub struct Operation {
    pub name: &'static str,
    pub group: Group,
    /// The list it is a page of, and whether the thousandth.
    pub list: Option<(&'static str, Depth)>,
    pub request: fn(&Turn<'_>) -> Request,
    pub status: u16,
    /// Who it is for, and which row: pgbench's own commands.
    pub rows: &'static str,
    pub peer: Vec<Transaction>,
    /// Also measured with few other ministries.
    pub grows: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    First,
    Deep,
}

macro_rules! sql {
    ($name:literal) => {
        include_str!(concat!("statements/", $name, ".sql"))
    };
}

/// Filled in where a statement serves both one row and a page.
pub const ENDPOINTS: &str = sql!("select_endpoints");
pub const JOBS: &str = sql!("select_jobs");

const ANY: &str = "\\set t random(1, :tenants)\n\\set k random(0, 49)\n";
const ANY_ENDED: &str = "\\set t random(1, :tenants)\n\\set k random(0, 4) * 10 + random(1, 9)\n";
const ANY_WAITING: &str = "\\set t random(1, :tenants)\n\\set k random(0, 4) * 10\n";
const LARGE: &str = "\\set t 1\n";
const OWN: &str = "\\set t :client_id % :tenants + 1\n\\set k :client_id / :tenants\n";
const NEW: &str = "\\set t random(1, :tenants)\n\\set n random(1, 1000000000000000)\n\\set i random(1, 1000000000000000000)\n";
const NEW_JOB: &str =
    "\\set t :client_id % :tenants + 1\n\\set k 1\n\\set i random(1, 1000000000000000000)\n";
const WORKER: &str = "\\set w random(1, 100)\n\\set t 1\n";

fn of_tenant(turn: &Turn<'_>, path: String) -> Request {
    Request::get(session(turn.tenant()), path)
}

fn page(turn: &Turn<'_>, list: &str) -> Request {
    Request::get(session(1), format!("/api/v1/{list}{}", turn.page.query))
}

fn platform(turn: &Turn<'_>, list: &str) -> Request {
    Request::get(session(0), format!("/api/v1/{list}{}", turn.page.query))
}

fn post(turn: &Turn<'_>, token: String, path: &str, body: String) -> Request {
    Request::send("POST", token, path.to_owned(), body)
        .with("idempotency-key", &format!("bench-{}", turn.unique))
}

macro_rules! list {
    ($first:literal, $deep:literal, $list:literal, $rows:expr, $peer:expr, $deep_peer:expr, $request:expr) => {
        [
            Operation {
                name: $first,
                group: Group::List,
                list: Some(($list, Depth::First)),
                request: $request,
                status: 200,
                rows: $rows,
                peer: $peer,
                grows: true,
            },
            Operation {
                name: $deep,
                group: Group::List,
                list: Some(($list, Depth::Deep)),
                request: $request,
                status: 200,
                rows: $rows,
                peer: $deep_peer,
                grows: false,
            },
        ]
    };
    ($first:literal, $deep:literal, $list:literal, $rows:expr, $peer:expr, $request:expr) => {
        list!($first, $deep, $list, $rows, $peer, $peer, $request)
    };
}

fn read(
    name: &'static str,
    request: fn(&Turn<'_>) -> Request,
    rows: &'static str,
    peer: Vec<Transaction>,
) -> Operation {
    Operation { name, group: Group::Read, list: None, request, status: 200, rows, peer, grows: true }
}

fn write(
    name: &'static str,
    status: u16,
    request: fn(&Turn<'_>) -> Request,
    rows: &'static str,
    peer: Vec<Transaction>,
) -> Operation {
    Operation { name, group: Group::Write, list: None, request, status, rows, peer, grows: true }
}

/// Everything that is measured, in the order in which it is.
pub fn all() -> Vec<Operation> {
    let mut all = vec![
        read(
            "get_me",
            |turn| of_tenant(turn, "/api/v1/me".to_owned()),
            ANY,
            vec![system(&[sql!("tenant_by_id"), sql!("principal")])],
        ),
        read(
            "get_endpoint",
            |turn| {
                let id = rows::id(Kind::Endpoint, turn.tenant(), turn.row(false));
                of_tenant(turn, format!("/api/v1/endpoints/{id}"))
            },
            ANY_ENDED,
            vec![reads(&[sql!("resolve_endpoint"), ENDPOINTS])],
        ),
        read(
            "get_job",
            |turn| {
                let id = rows::id(Kind::Job, turn.tenant(), turn.row(false));
                of_tenant(turn, format!("/api/v1/jobs/{id}"))
            },
            ANY_ENDED,
            vec![reads(&[JOBS])],
        ),
        read(
            "get_waiting_job",
            |turn| {
                let id = rows::id(Kind::Job, turn.tenant(), turn.row(true));
                of_tenant(turn, format!("/api/v1/jobs/{id}"))
            },
            ANY_WAITING,
            vec![reads(&[JOBS]), system(&[sql!("position")])],
        ),
        read(
            "get_file",
            |turn| {
                let id = rows::id(Kind::File, turn.tenant(), turn.row(false));
                of_tenant(turn, format!("/api/v1/files/{id}"))
            },
            ANY,
            vec![reads(&[sql!("get_file")])],
        ),
        read(
            "get_tenant",
            |turn| of_tenant(turn, format!("/api/v1/tenants/{}", rows::tenant(turn.tenant()))),
            ANY,
            vec![reads(&[sql!("tenant_by_slug")])],
        ),
        read(
            "get_worker",
            |turn| platform(turn, &format!("workers/worker-{:04}", 1 + turn.random % 100)),
            WORKER,
            vec![system(&[sql!("worker")])],
        ),
    ];
    all.extend(list!(
        "list_endpoints_first",
        "list_endpoints_deep",
        "endpoints",
        LARGE,
        vec![reads(&[ENDPOINTS])],
        |turn| page(turn, "endpoints")
    ));
    all.extend(list!("list_jobs_first", "list_jobs_deep", "jobs", LARGE, vec![reads(&[JOBS])], |turn| page(
        turn, "jobs"
    )));
    all.extend(list!(
        "list_files_first",
        "list_files_deep",
        "files",
        LARGE,
        vec![reads(&[sql!("list_files")])],
        vec![reads(&[sql!("file_time"), sql!("list_files")])],
        |turn| page(turn, "files")
    ));
    all.extend(list!(
        "list_api_keys_first",
        "list_api_keys_deep",
        "api-keys",
        LARGE,
        vec![reads(&[sql!("list_api_keys")])],
        |turn| page(turn, "api-keys")
    ));
    all.extend(list!(
        "list_projects_first",
        "list_projects_deep",
        "projects",
        LARGE,
        vec![reads(&[sql!("list_projects")])],
        |turn| page(turn, "projects")
    ));
    all.extend(list!(
        "list_audit_first",
        "list_audit_deep",
        "audit",
        LARGE,
        vec![reads(&[sql!("list_audit")])],
        |turn| page(turn, "audit")
    ));
    all.extend(list!(
        "get_usage_newest",
        "get_usage_oldest",
        "usage",
        LARGE,
        vec![reads(&[sql!("usage")])],
        |turn| page(turn, "usage")
    ));
    all.extend(list!(
        "list_tenants_first",
        "list_tenants_deep",
        "tenants",
        LARGE,
        vec![system(&[sql!("list_tenants")])],
        |turn| match turn.tenants {
            // Where they are compared, pages are equally long among few and many.
            SMALL_TENANTS => platform(turn, &format!("tenants?limit={SMALL_TENANTS}")),
            _ => platform(turn, "tenants"),
        }
    ));
    all.extend(list!(
        "list_workers_first",
        "list_workers_deep",
        "workers",
        LARGE,
        vec![system(&[sql!("workers")])],
        |turn| platform(turn, "workers")
    ));
    all.extend([
        write(
            "create_project",
            201,
            |turn| {
                let body = format!(r#"{{"slug": "bench-{}", "name": "Made by the bench"}}"#, turn.unique);
                post(turn, session(turn.tenant()), "/api/v1/projects", body)
            },
            NEW,
            vec![writes(&[sql!("claim"), sql!("create_project"), sql!("audit"), sql!("keep")])],
        ),
        write(
            "create_endpoint",
            201,
            |turn| {
                let body = format!(
                    r#"{{"name": "bench-{}", "model": "catalogue", "project": "project-0000"}}"#,
                    turn.unique
                );
                post(turn, session(turn.tenant()), "/api/v1/endpoints", body)
            },
            NEW,
            vec![writes(&[
                sql!("claim"),
                sql!("project_by_slug"),
                sql!("model"),
                sql!("create_endpoint"),
                ENDPOINTS,
                sql!("audit"),
                sql!("outbox"),
                sql!("keep"),
            ])],
        ),
        write(
            "update_endpoint",
            200,
            |turn| {
                let (t, k) = (turn.own_tenant(), turn.client / turn.tenants);
                let path = format!("/api/v1/endpoints/{}", rows::id(Kind::Endpoint, t, k));
                let body = format!(r#"{{"replicas": {}}}"#, turn.random % 100);
                Request::send("PATCH", session(t), path, body).with("if-match", turn.etag)
            },
            OWN,
            vec![writes(&[
                sql!("resolve_endpoint"),
                sql!("update_endpoint"),
                ENDPOINTS,
                sql!("audit"),
                sql!("outbox"),
            ])],
        ),
        write(
            "create_api_key",
            201,
            |turn| {
                let body = r#"{"project": "project-0000", "name": "Made by the bench"}"#.to_owned();
                post(turn, session(turn.tenant()), "/api/v1/api-keys", body)
            },
            NEW,
            vec![writes(&[
                sql!("claim"),
                sql!("project_by_slug"),
                sql!("create_api_key"),
                sql!("audit"),
                sql!("keep"),
            ])],
        ),
        write(
            "create_job",
            201,
            |turn| {
                let t = turn.own_tenant();
                let file = rows::id(Kind::File, t, 1);
                let body = format!(r#"{{"input_file_id": "{file}", "project": "project-0000"}}"#);
                post(turn, session(t), "/api/v1/jobs", body)
            },
            NEW_JOB,
            vec![
                reads(&[sql!("project_by_slug"), sql!("get_file")]),
                writes(&[
                    sql!("claim"),
                    sql!("resolve_model"),
                    sql!("create_job"),
                    sql!("outbox"),
                    sql!("audit"),
                    JOBS,
                    sql!("keep"),
                ]),
            ],
        ),
    ]);
    all
}

/// Statements whose cost with row-level security is compared with their cost
/// without, and their rows.
pub fn secured() -> Vec<(&'static str, &'static str, Page)> {
    let first = Page::default();
    let mut all = vec![
        ("get_endpoint", ENDPOINTS, first.clone()),
        ("get_job", JOBS, first.clone()),
        ("get_file", sql!("get_file"), first.clone()),
        ("list_files", sql!("list_files"), first.clone()),
        ("list_api_keys", sql!("list_api_keys"), first.clone()),
        ("list_projects", sql!("list_projects"), first.clone()),
        ("get_usage", sql!("usage"), first.clone()),
    ];
    let number = 1;
    all.push(("list_endpoints", ENDPOINTS, Page { number, ..Page::default() }));
    all.push(("list_jobs", JOBS, Page { number, ..Page::default() }));
    all
}
