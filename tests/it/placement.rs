//! The scheduler over a real database: placing, draining, losing workers,
//! leadership, and what the database itself refuses.

use std::time::Duration;

use domain::accelerators::DeviceReport;
use domain::models::Sha256Digest;
use domain::planner::{Decision, Hold, PlanId, Replay, ShareLimits};
use domain::workers::{
    DesiredPlacement, DeviceMemory, JoinRequest, ObservedState, PlacementReport, WORKER_LOST_SECS,
};
use domain::workloads::PlacementState;
use domain::{Clock, DeviceId, EndpointId, JobId, LeaseToken, TenantId, Timestamp, VersionId, WorkerId};
use scheduler::{Board, Settings};
use sqlx::Row;
use store::leadership::{Attempt, Leader, Term};
use store::workloads::plans::{self, PlanRef};
use store::{Store, StoreError};
use tests::database::{Database, rows};
use tokio::sync::Mutex;
use uuid::Uuid;

const GB: u64 = 1_000_000_000;

/// A tenant with a model version, and a leader.
pub(crate) struct Scene {
    pub db: Database,
    leader: Option<Leader>,
    pub tenant: TenantId,
    pub version: VersionId,
    file: Sha256Digest,
    pub now: Timestamp,
    board: Mutex<Option<Board>>,
}

impl Scene {
    pub async fn new() -> Self {
        let db = Database::fresh().await;
        let now = Clock::system().now();
        let (tenant, version, file) =
            (TenantId::generate(), VersionId::generate(), Sha256Digest::of(b"weights"));
        let manifest = r#"{"format":"gguf","files":[]}"#;
        let mut su = db.superuser().await;
        for sql in [
            format!("INSERT INTO tenants VALUES ('{tenant}', 'interior', 'Interior', now())"),
            format!("INSERT INTO projects VALUES ('{tenant}', '{tenant}', 'sandbox', 'Sandbox', now())"),
            format!("INSERT INTO models VALUES ('{version}', NULL, 'small', now())"),
            format!(
                "INSERT INTO model_versions VALUES ('{version}', '{version}', NULL, decode('{file}', 'hex'), '{manifest}', now())"
            ),
            format!(
                "INSERT INTO model_files VALUES ('{version}', NULL, 'model.gguf', decode('{file}', 'hex'), 7)"
            ),
        ] {
            rows(&mut su, &sql).await.unwrap();
        }
        for object in
            [format!("tenant:{tenant}"), format!("project:{tenant}"), format!("model_version:{version}")]
        {
            audit(&db, &object).await;
        }
        let leader = lead(&db, now).await;
        Self { db, leader: Some(leader), tenant, version, file, now, board: Mutex::default() }
    }

    /// Of the leader that this is.
    fn term(&self) -> Term {
        self.leader.as_ref().unwrap().term()
    }

    /// Lets processes lead.
    pub async fn resign(&mut self) {
        self.leader.take().unwrap().resign().await.unwrap();
    }

    /// Another tenant, with a project of the same identifier.
    pub async fn another_tenant(&self, slug: &str) -> TenantId {
        let id = TenantId::generate();
        let mut su = self.db.superuser().await;
        for sql in [
            format!("INSERT INTO tenants VALUES ('{id}', '{slug}', '{slug}', now())"),
            format!("INSERT INTO projects VALUES ('{id}', '{id}', 'sandbox', 'Sandbox', now())"),
        ] {
            rows(&mut su, &sql).await.unwrap();
        }
        for object in [format!("tenant:{id}"), format!("project:{id}")] {
            audit(&self.db, &object).await;
        }
        id
    }

    pub async fn endpoint(&self, replicas: u32, memory_bytes: u64, milli: u32) -> EndpointId {
        self.endpoint_of(self.tenant, replicas, memory_bytes, milli).await
    }

    pub async fn endpoint_of(
        &self,
        tenant: TenantId,
        replicas: u32,
        memory_bytes: u64,
        milli: u32,
    ) -> EndpointId {
        let (id, version) = (EndpointId::generate(), self.version);
        let sql = format!(
            "INSERT INTO endpoints (id, tenant_id, project_id, name, version_id, replicas, class, memory_bytes, milli, created_at)
             VALUES ('{id}', '{tenant}', '{tenant}', 'e-{id}', '{version}', {replicas}, 'cpu', {memory_bytes}, {milli}, now())"
        );
        rows(&mut self.db.superuser().await, &sql).await.unwrap();
        audit(&self.db, &format!("endpoint:{id}")).await;
        id
    }

    /// A job of `chunks` chunks of four lines.
    pub async fn job(&self, chunks: u32) -> JobId {
        let (id, tenant, version) = (JobId::generate(), self.tenant, self.version);
        let lines = chunks * 4;
        let mut su = self.db.superuser().await;
        for sql in [
            format!(
                "INSERT INTO files VALUES ('{id}', '{tenant}', '{tenant}', 'batch', 'in.jsonl', 1, decode('{}', 'hex'), now())",
                self.file
            ),
            format!(
                "INSERT INTO jobs (id, tenant_id, project_id, operation, model, version_id, class, memory_bytes, milli, state, total_lines, input_file_id, created_at)
                 VALUES ('{id}', '{tenant}', '{tenant}', '/v1/chat/completions', 'small', '{version}', 'cpu', {GB}, 500, 'in_progress', {lines}, '{id}', now())"
            ),
            format!(
                "INSERT INTO job_chunks (tenant_id, job_id, index, first_line, lines, first_byte, bytes)
                 SELECT '{tenant}', '{id}', n, n * 4, 4, n * 100, 100 FROM generate_series(0, {chunks} - 1) n"
            ),
        ] {
            rows(&mut su, &sql).await.unwrap();
        }
        audit(&self.db, &format!("job:{id}")).await;
        id
    }

    pub async fn join(&self, name: &str, devices: &[(u64, u32)]) -> WorkerId {
        join(&self.db, name, devices, [u8::try_from(name.len()).unwrap(); 32], self.now).await.unwrap()
    }

    /// One that leads for long, and knows what changed since its last tick.
    pub async fn tick(&self) -> scheduler::Summary {
        let settings = Settings::default();
        let term = self.term();
        let mut board = self.board.lock().await;
        if board.is_none() {
            *board = Some(Board::read(&self.db.store, &settings, term, self.now).await.unwrap());
        }
        let board = board.as_mut().unwrap();
        let summary = board.settle(&self.db.store, &settings, term, self.now).await.unwrap();
        if summary.settled {
            let limits = ShareLimits::default();
            let (all, _) = store::workloads::snapshot(&self.db.store, term.since, limits, false, self.now)
                .await
                .unwrap();
            assert!(board.facts().agrees(&all), "{:#?} is not {all:#?}", board.facts());
            self.replay().await;
        }
        summary
    }

    /// Every plan is made again from its record, and is what placements say.
    async fn replay(&self) {
        let found = self.replay_epoch(self.term().epoch).await;
        let sql = "SELECT count(*) FROM placements WHERE inputs <> sha256('by hand')";
        let all: i64 = rows(&mut self.db.superuser().await, sql).await.unwrap()[0].get(0);
        assert_eq!(found, all, "a placement is of no plan");
    }

    /// The same of one epoch; how many placements its plans made.
    pub async fn replay_epoch(&self, epoch: i64) -> i64 {
        let mut tx = self.db.store.system().await.unwrap();
        let next = plans::next(&mut tx, epoch).await.unwrap();
        let first = PlanId { epoch, number: 0 };
        let lines = plans::pages(&mut tx, first, next, i64::MAX).await.unwrap();
        assert_eq!(i64::try_from(lines.len()).unwrap(), next.number);
        let mut su = self.db.superuser().await;
        let (mut replay, mut found) = (Replay::default(), 0);
        for line in lines {
            replay.read(&line).unwrap();
            let (plan, inputs) = (replay.last().unwrap().plan, replay.digest().unwrap());
            let sql = format!(
                "SELECT p.workload_id, p.worker_id FROM placements p
                 WHERE p.plan = '{plan}' AND p.inputs = '\\x{inputs}' AND p.cost IS NOT NULL"
            );
            for placed in rows(&mut su, &sql).await.unwrap() {
                found += 1;
                let (workload, worker): (Uuid, Uuid) = (placed.get(0), placed.get(1));
                assert!(replay.decided().iter().any(|decision| matches!(decision,
                    Decision::Place { workload: w, worker: on, .. } if w.0 == workload && on.0 == worker)));
            }
        }
        found
    }

    /// The next tick knows nothing but the database.
    pub async fn forget(&self) {
        *self.board.lock().await = None;
    }

    pub async fn report(&self, worker: WorkerId, placements: &[PlacementReport]) -> bool {
        self.report_with(worker, placements, &[]).await
    }

    /// The same, with what the worker measured of its devices.
    pub async fn report_with(
        &self,
        worker: WorkerId,
        placements: &[PlacementReport],
        devices: &[DeviceMemory],
    ) -> bool {
        let mut tx = self.db.store.system().await.unwrap();
        let changed = store::workers::report(&mut tx, worker, placements, devices, self.now).await.unwrap();
        tx.commit().await.unwrap();
        changed
    }

    /// The worker says of everything it should hold that it is so, as it
    /// should be: ready, or ended when draining.
    pub async fn obey(&self, worker: WorkerId) {
        self.report(worker, &obedient(&self.db.store, worker).await.unwrap()).await;
    }

    pub async fn apply(&self, decision: &Decision) -> Result<(), StoreError> {
        let mut tx = self.db.store.system().await?;
        let epoch = self.term().epoch;
        let plan = PlanRef { id: PlanId { epoch, number: 0 }, inputs: Sha256Digest::of(b"by hand") };
        store::workloads::apply(&mut tx, plan, std::slice::from_ref(decision), self.now).await?;
        tx.commit().await
    }

    pub async fn snapshot(&self) -> domain::planner::Snapshot {
        store::workloads::snapshot(&self.db.store, self.now, ShareLimits::default(), false, self.now)
            .await
            .unwrap()
            .0
    }

    /// Where live placements are, by name of the worker.
    pub async fn placed(&self) -> Vec<String> {
        let sql = "SELECT w.name FROM placements p JOIN workers w ON w.id = p.worker_id WHERE p.state <> 'ended' ORDER BY 1";
        rows(&mut self.db.superuser().await, sql).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// A statement by hand, and what the database says to it.
    pub async fn set_or(&self, sql: &str) -> Result<(), String> {
        rows(&mut self.db.superuser().await, sql).await.map(drop).map_err(|e| e.to_string())
    }

    pub async fn set(&self, sql: String) {
        rows(&mut self.db.superuser().await, &sql).await.unwrap();
    }
}

/// What a worker reports that did as it was told.
pub(crate) async fn obedient(store: &Store, worker: WorkerId) -> Result<Vec<PlacementReport>, StoreError> {
    let (_, desired) = store::workers::desired(store, worker).await?;
    let report = |d: &DesiredPlacement| PlacementReport {
        placement_id: d.placement_id,
        generation: d.generation,
        state: if d.drain { ObservedState::Ended } else { ObservedState::Ready },
        detail: None,
        failures: 0,
        load: None,
    };
    Ok(desired.iter().map(report).collect())
}

async fn audit(db: &Database, object: &str) {
    let sql = format!(
        "INSERT INTO audit_events SELECT gen_random_uuid(), NULL, now(), 'test', 'create', '{object}', 'allowed', '{{}}'"
    );
    rows(&mut db.superuser().await, &sql).await.unwrap();
}

async fn join(
    db: &Database,
    name: &str,
    devices: &[(u64, u32)],
    hash: [u8; 32],
    now: Timestamp,
) -> Result<WorkerId, StoreError> {
    let request = JoinRequest {
        name: name.parse().unwrap(),
        pool: "default".parse().unwrap(),
        zone: "here".parse().unwrap(),
        address: "http://127.0.0.1:1".to_owned(),
        devices: (0..)
            .zip(devices)
            .map(|(ordinal, &(memory_bytes, milli))| DeviceReport {
                ordinal,
                class: "cpu".to_owned(),
                memory_bytes,
                milli,
            })
            .collect(),
    };
    let mut tx = db.store.system().await?;
    let id = store::workers::join(&mut tx, &request, &hash, now).await?;
    tx.commit().await?;
    Ok(id)
}

async fn lead(db: &Database, now: Timestamp) -> Leader {
    match db.store.candidate("test").await.unwrap().try_lead(now).await.unwrap() {
        Attempt::Leads(leader) => leader,
        Attempt::Waits(_) => panic!("somebody else leads"),
    }
}

async fn tick(db: &Database, term: Term, now: Timestamp) -> Result<scheduler::Summary, StoreError> {
    Board::read(&db.store, &Settings::default(), term, now)
        .await?
        .settle(&db.store, &Settings::default(), term, now)
        .await
}

#[tokio::test]
async fn replicas_are_placed_made_ready_drained_and_gone() {
    let scene = Scene::new().await;
    let endpoint = scene.endpoint(2, GB, 500).await;
    let summary = scene.tick().await;
    assert_eq!((summary.pending, summary.placements, summary.settled), (2, 0, true));
    let reason = "SELECT reason FROM workloads LIMIT 1";
    let told: String = rows(&mut scene.db.superuser().await, reason).await.unwrap()[0].get(0);
    assert_eq!(told, "no worker has joined yet");

    let workers = [scene.join("a", &[(4 * GB, 2000)]).await, scene.join("bb", &[(4 * GB, 2000)]).await];
    let summary = scene.tick().await;
    assert_eq!((summary.pending, summary.placements, summary.refused), (0, 2, 0));
    assert_eq!(scene.placed().await, ["a", "bb"], "replicas are spread");
    assert_eq!(scene.tick().await.applied, 0, "a second look finds nothing to do");

    let (epoch, desired) = store::workers::desired(&scene.db.store, workers[0]).await.unwrap();
    assert_eq!((epoch, desired.len()), (scene.term().epoch, 1));
    assert_eq!((desired[0].memory_bytes, desired[0].milli, desired[0].drain), (GB, 500, false));
    assert_eq!(desired[0].version.id, scene.version);
    for worker in workers {
        scene.obey(worker).await;
    }
    assert_eq!(scene.db.count("SELECT count(*) FROM placements WHERE state = 'ready'").await, 2);

    scene.set(format!("UPDATE endpoints SET deleted_at = now() WHERE id = '{endpoint}'")).await;
    scene.tick().await;
    assert_eq!(scene.db.count("SELECT count(*) FROM placements WHERE state = 'draining'").await, 2);
    assert_eq!(
        scene.db.count("SELECT sum(used_milli) FROM devices").await,
        1000,
        "held until they have ended"
    );
    for worker in workers {
        scene.obey(worker).await;
    }
    assert!(scene.placed().await.is_empty());
    assert_eq!(scene.db.count("SELECT sum(used_milli) FROM devices").await, 0);
    assert_eq!(scene.db.count("SELECT count(*) FROM workloads WHERE state <> 'ended'").await, 0);
    for (action, times) in
        [("place_workload", 2), ("drain_placement", 2), ("end_placement", 2), ("join_worker", 2)]
    {
        let sql = format!("SELECT count(*) FROM audit_events WHERE action = '{action}'");
        assert_eq!(scene.db.count(&sql).await, times, "{action}");
    }
    scene.db.finish().await;
}

#[tokio::test]
async fn work_of_a_lost_worker_goes_elsewhere_and_its_leases_come_back() {
    let mut scene = Scene::new().await;
    let job = scene.job(3).await;
    let lost = scene.join("a", &[(4 * GB, 2000)]).await;
    scene.tick().await;
    scene.obey(lost).await;
    let (_, desired) = store::workers::desired(&scene.db.store, lost).await.unwrap();
    let mut tx = scene.db.store.system().await.unwrap();
    let (share, token) = (&desired[0], LeaseToken::generate());
    store::jobs::leases::lease(&mut tx, job, lost, share.placement_id, share.generation, token, scene.now)
        .await
        .unwrap()
        .chunk()
        .expect("there is a chunk");
    tx.commit().await.unwrap();
    assert_eq!(scene.db.count("SELECT count(*) FROM job_chunks WHERE state = 'leased'").await, 1);

    scene.now = scene.now + Duration::from_secs(WORKER_LOST_SECS + 1);
    let other = scene.join("bb", &[(4 * GB, 2000)]).await;
    let summary = scene.tick().await;
    assert_eq!((summary.placements, summary.pending), (1, 0));
    assert_eq!(scene.placed().await, ["bb"]);
    assert_eq!(scene.db.count("SELECT count(*) FROM job_chunks WHERE state = 'leased'").await, 0);
    assert_eq!(scene.db.count("SELECT max(generation) FROM placements").await, 2);

    // It was only slow: what it says of the former placement changes nothing.
    let report = PlacementReport {
        placement_id: share.placement_id,
        generation: share.generation,
        state: ObservedState::Ready,
        detail: None,
        failures: 0,
        load: None,
    };
    assert!(scene.report(lost, &[report]).await, "it is live again");
    assert_eq!(scene.placed().await, ["bb"]);

    // All chunks done: the share is not wanted any more.
    scene.set("UPDATE job_chunks SET state = 'done'".to_owned()).await;
    scene.tick().await;
    scene.obey(other).await;
    assert!(scene.placed().await.is_empty());
    scene.db.finish().await;
}

#[tokio::test]
async fn only_the_leader_writes() {
    let scene = Scene::new().await;
    scene.join("a", &[(4 * GB, 2000)]).await;
    scene.endpoint(1, GB, 500).await;
    let first = scene.term();
    let waits = scene.db.store.candidate("second").await.unwrap().try_lead(scene.now).await.unwrap();
    let Attempt::Waits(second) = waits else { panic!("two lead") };

    scene.set("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'chancery leadership' AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted)".to_owned()).await;
    let Scene { db, leader, now, .. } = scene;
    let mut leader = leader.unwrap();
    assert!(
        matches!(leader.check().await, Err(StoreError::NotLeader)),
        "it notices that its connection is gone"
    );

    let Attempt::Leads(second) = second.try_lead(now).await.unwrap() else { panic!("nobody leads") };
    assert_eq!(second.term().epoch, first.epoch + 1);
    assert!(matches!(tick(&db, first, now).await, Err(StoreError::NotLeader)));
    assert_eq!(db.count("SELECT count(*) FROM workloads").await, 0);
    assert_eq!(tick(&db, second.term(), now).await.unwrap().placements, 1);

    second.resign().await.unwrap();
    lead(&db, now).await;
    db.finish().await;
}

#[tokio::test]
async fn the_database_refuses_what_does_not_fit_or_is_not_so_any_more() {
    let scene = Scene::new().await;
    let worker = scene.join("a", &[(2 * GB, 1000)]).await;
    scene.endpoint(3, GB, 100).await;
    scene.tick().await;
    assert_eq!(scene.placed().await.len(), 2, "two of three fit");

    let snapshot = scene.snapshot().await;
    let waiting = snapshot.workloads.values().find(|w| w.generation == 0).unwrap();
    assert_eq!(
        waiting.reason.as_deref(),
        Some("no worker of class cpu has 1.0 GB free: the largest free is 0 MB on a")
    );
    let place = |generation, device_id: DeviceId| Decision::Place {
        workload: waiting.id,
        generation,
        worker,
        class: "cpu".to_owned(),
        passed_over: Vec::new(),
        holds: vec![Hold { device_id, memory_bytes: GB, milli: 100 }],
        considered: domain::planner::Considered::default(),
        cost: domain::planner::Cost::default(),
    };
    let device = snapshot.workers[&worker].devices[0].id;
    assert!(matches!(scene.apply(&place(0, device)).await, Err(StoreError::NoCapacity)));
    assert!(
        matches!(scene.apply(&place(7, device)).await, Err(StoreError::Conflict(_))),
        "another generation"
    );
    assert!(
        matches!(scene.apply(&place(0, DeviceId::generate())).await, Err(StoreError::Conflict(_))),
        "no such device"
    );
    let mut tx = scene.db.store.system().await.unwrap();
    let cordon = store::workers::WorkerChange { cordoned: Some(true), ..Default::default() };
    store::workers::update(&mut tx, &"a".parse().unwrap(), cordon, None).await.unwrap();
    tx.commit().await.unwrap();
    assert!(matches!(scene.apply(&place(0, device)).await, Err(StoreError::Conflict(_))), "cordoned");
    let lost = Decision::DeclareLost { worker, seen_at: scene.now - Duration::from_secs(1) };
    assert!(matches!(scene.apply(&lost).await, Err(StoreError::Conflict(_))), "it has reported since");
    let placement = snapshot.placements.values().next().unwrap();
    let end = Decision::EndPlacement {
        placement: placement.id,
        generation: placement.generation,
        worker,
        why: domain::planner::EndReason::WorkerLost,
    };
    assert!(matches!(scene.apply(&end).await, Err(StoreError::Conflict(_))), "its worker is not lost");
    assert_eq!(scene.placed().await.len(), 2);
    scene.db.finish().await;
}

#[tokio::test]
async fn schedulers_that_race_place_each_workload_once() {
    let scene = Scene::new().await;
    for name in ["a", "bb", "ccc"] {
        scene.join(name, &[(8 * GB, 8000)]).await;
    }
    scene.endpoint(12, GB, 500).await;
    // The same term twice, as when a paused process wakes up beside its successor.
    let term = scene.term();
    let (first, second) = tokio::join!(tick(&scene.db, term, scene.now), tick(&scene.db, term, scene.now));
    assert!(first.is_ok() || second.is_ok(), "{first:?} {second:?}");
    for done in [first, second] {
        let lost = |e: &StoreError| e.is_transient() || matches!(e, StoreError::Conflict(_));
        assert!(done.is_ok() || done.as_ref().is_err_and(lost), "{done:?}");
    }
    scene.tick().await;
    assert_eq!(scene.db.count("SELECT count(*) FROM workloads").await, 12, "each was created once");
    assert_eq!(scene.db.count("SELECT count(*) FROM placements WHERE state = 'assigned'").await, 12);
    assert_eq!(scene.db.count("SELECT max(generation) FROM placements").await, 1, "and placed once");
    scene.db.finish().await;
}

#[tokio::test]
async fn a_worker_that_joins_again_replaces_its_former_process() {
    let scene = Scene::new().await;
    let job = scene.job(2).await;
    scene.endpoint(3, GB, 500).await;
    let worker = scene.join("a", &[(4 * GB, 4000)]).await;
    scene.tick().await;
    scene.obey(worker).await;
    assert_eq!(scene.db.count("SELECT count(*) FROM placements WHERE state = 'ready'").await, 4);
    let (_, desired) = store::workers::desired(&scene.db.store, worker).await.unwrap();
    let share = desired.iter().find(|d| d.owner == domain::workloads::WorkloadOwner::Job(job)).unwrap();
    let mut tx = scene.db.store.system().await.unwrap();
    let token = LeaseToken::generate();
    store::jobs::leases::lease(&mut tx, job, worker, share.placement_id, share.generation, token, scene.now)
        .await
        .unwrap()
        .chunk()
        .expect("there is a chunk");
    tx.commit().await.unwrap();

    // With half the memory: two placements stay, the youngest two end.
    let again = join(&scene.db, "a", &[(2 * GB, 4000)], [99; 32], scene.now).await.unwrap();
    assert_eq!(again, worker);
    assert_eq!(scene.placed().await.len(), 2);
    assert_eq!(
        scene.db.count("SELECT count(*) FROM placements WHERE state = 'ready'").await,
        0,
        "nothing is loaded yet"
    );
    assert_eq!(scene.db.count("SELECT count(*) FROM job_chunks WHERE state = 'leased'").await, 0);
    let mut tx = scene.db.store.system().await.unwrap();
    assert_eq!(
        store::workers::by_credential(&mut tx, &[1; 32]).await.unwrap(),
        None,
        "the former credential is void"
    );
    assert_eq!(store::workers::by_credential(&mut tx, &[99; 32]).await.unwrap(), Some(worker));
    let listed = store::workers::list(&mut tx, None, 10, scene.now).await.unwrap();
    assert_eq!((listed.len(), listed[0].devices[0].used_memory_bytes, listed[0].live), (1, 2 * GB, true));
    tx.commit().await.unwrap();

    // Other devices altogether: nothing stays.
    join(&scene.db, "a", &[], [98; 32], scene.now).await.unwrap();
    assert!(scene.placed().await.is_empty());
    assert_eq!(scene.db.count("SELECT count(*) FROM devices").await, 0);
    scene.db.finish().await;
}

#[tokio::test]
async fn reports_change_only_what_is_the_workers_own() {
    let scene = Scene::new().await;
    let (worker, other) = (scene.join("a", &[(2 * GB, 1000)]).await, scene.join("bb", &[]).await);
    scene.endpoint(1, GB, 500).await;
    scene.tick().await;
    let (_, desired) = store::workers::desired(&scene.db.store, worker).await.unwrap();
    let report = |generation, state| {
        [PlacementReport {
            placement_id: desired[0].placement_id,
            generation,
            state,
            detail: Some("exited with signal 9\0\n".to_owned()),
            failures: 0,
            load: None,
        }]
    };
    let current = desired[0].generation;
    let state = async || scene.snapshot().await.placements.values().next().unwrap().state;
    assert!(!scene.report(other, &report(current, ObservedState::Ready)).await, "not the other worker's");
    assert!(!scene.report(worker, &report(current + 1, ObservedState::Ready)).await, "another generation");
    assert_eq!(state().await, PlacementState::Assigned);
    assert!(scene.report(worker, &report(current, ObservedState::Ready)).await);
    assert_eq!(state().await, PlacementState::Ready);
    assert!(!scene.report(worker, &report(current, ObservedState::Ready)).await, "nothing new");
    assert!(scene.report(worker, &report(current, ObservedState::Failing)).await);
    assert_eq!(state().await, PlacementState::Assigned);
    assert_eq!(
        scene.db.count("SELECT count(*) FROM placements WHERE detail LIKE 'exited with signal 9%'").await,
        1
    );
    scene.report(worker, &report(current, ObservedState::Ended)).await;
    assert_eq!(state().await, PlacementState::Assigned, "nobody asked it to let go");
    scene.report(worker, &report(current, ObservedState::Ready)).await;
    assert!(scene.report(worker, &[]).await, "what it does not mention it does not have");
    assert_eq!(state().await, PlacementState::Assigned);
    scene.db.finish().await;
}

#[tokio::test]
async fn model_files_go_only_where_their_version_is_placed() {
    let scene = Scene::new().await;
    let (worker, other) = (scene.join("a", &[(2 * GB, 1000)]).await, scene.join("bb", &[]).await);
    scene.endpoint(1, GB, 500).await;
    scene.tick().await;
    let bytes =
        async |worker, file| store::workers::placed_file_bytes(&scene.db.store, worker, file).await.unwrap();
    assert_eq!(bytes(worker, scene.file).await, Some(7));
    assert_eq!(bytes(other, scene.file).await, None);
    assert_eq!(bytes(worker, Sha256Digest::of(b"another")).await, None);
    scene.db.finish().await;
}
