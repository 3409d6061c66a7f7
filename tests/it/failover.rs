//! Schedulers that are killed or paused in the middle of what they write: another
//! leads soon, nothing is half done or done twice, and who wakes up too late
//! writes nothing.

use std::time::{Duration, Instant};

use domain::{Clock, WorkerId};
use nix::sys::signal::Signal;
use sqlx::Row;
use sqlx::postgres::PgConnection;
use store::leadership::SILENCE;
use tests::database::rows;
use tests::halting::Gate;
use tests::process::SchedulerProcess;
use tests::wait::until;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::placement::{Scene, obedient};
use crate::quotas::{balanced, give};

const GB: u64 = 1_000_000_000;
/// A device that has room for all that comes.
const ROOMY: (u64, u32) = (1000 * GB, 1_000_000);
/// How long anything here may take, on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often workers look what they should do.
const HEARTBEAT: Duration = Duration::from_millis(100);
/// How often more work comes while nobody is looked at.
const WORK_EVERY: Duration = Duration::from_millis(500);

/// Every step of making workloads and placing them.
const PLACING: [&str; 12] = [
    "plans INSERT",
    "plans INSERT commit",
    "workloads INSERT",
    "workloads INSERT commit",
    "workloads UPDATE",
    "placements INSERT",
    "quota_cells UPDATE",
    "placement_devices INSERT",
    "devices UPDATE",
    "audit_events INSERT",
    "outbox INSERT",
    "placements INSERT commit",
];
/// Every other step of letting them go.
const DRAINING: [&str; 3] = ["workloads UPDATE", "placements UPDATE", "placements UPDATE commit"];

/// Schedulers as processes, over a fleet that does as it is told.
struct Fleet {
    scene: Scene,
    /// For many looks.
    su: Mutex<PgConnection>,
    schedulers: Vec<SchedulerProcess>,
    workers: JoinHandle<()>,
}

impl Fleet {
    /// Two workers and a tenant with a quota, led by nobody yet.
    async fn new() -> Self {
        let mut scene = Scene::new().await;
        let workers = vec![scene.join("a", &[ROOMY]).await, scene.join("bb", &[ROOMY]).await];
        give(&scene, scene.tenant, 1_500_000, None).await;
        scene.resign().await;
        let workers = tokio::spawn(obey(scene.db.connect(2).await, workers));
        let su = Mutex::new(scene.db.superuser().await);
        Self { scene, su, schedulers: Vec::new(), workers }
    }

    fn start_scheduler(&mut self) {
        self.schedulers.push(SchedulerProcess::start(&self.scene.db));
    }

    async fn count(&self, sql: &str) -> i64 {
        rows(&mut *self.su.lock().await, sql).await.unwrap()[0].get(0)
    }

    async fn epoch(&self) -> i64 {
        self.count("SELECT epoch FROM leadership").await
    }

    /// Which of the processes leads.
    async fn leader(&self) -> usize {
        let found = rows(&mut *self.su.lock().await, "SELECT holder FROM leadership").await.unwrap();
        let holder: String = found[0].get(0);
        let id: u32 = holder.rsplit(':').next().unwrap().parse().unwrap();
        self.schedulers.iter().position(|scheduler| scheduler.id() == id).expect("a process leads")
    }

    async fn until_one_stands_by(&self) {
        until("one stands by", PATIENCE, async || {
            self.schedulers.iter().any(|s| s.log().contains("Standing by")).then_some(())
        })
        .await;
    }

    /// An endpoint, and notice of it.
    async fn endpoint(&self, replicas: u32) {
        self.scene.endpoint(replicas, GB, 500).await;
        self.notice().await;
    }

    async fn notice(&self) {
        let sql = "INSERT INTO outbox (topic, subject, created_at) VALUES ('desired', 'x', now())";
        self.scene.set(sql.to_owned()).await;
    }

    async fn until(&self, what: &str, sql: &str, count: i64) {
        until(what, PATIENCE, async || (self.count(sql).await == count).then_some(())).await;
    }

    /// Waits for a write of a term after `epoch`; how long it took from `since`.
    async fn next_term(&self, epoch: i64, since: Instant) -> Duration {
        let sql = format!("SELECT count(*) FROM plans WHERE epoch > {epoch}");
        until("a write of the next term", PATIENCE, async || (self.count(&sql).await > 0).then_some(()))
            .await;
        since.elapsed()
    }

    /// What is committed is whole, at any moment.
    async fn whole(&self, when: &str) {
        for (what, sql) in [
            (
                "a placement that holds nothing",
                "SELECT count(*) FROM placements p WHERE state <> 'ended'
                 AND NOT EXISTS (SELECT FROM placement_devices d WHERE d.placement_id = p.id)",
            ),
            (
                "a placement without its plan",
                "SELECT count(*) FROM placements p
                 WHERE NOT EXISTS (SELECT FROM plans WHERE epoch || '-' || number = p.plan AND digest = p.inputs)",
            ),
            (
                "a placement without its audit record",
                "SELECT count(*) FROM placements p WHERE NOT EXISTS
                 (SELECT FROM audit_events WHERE action = 'place_workload' AND object = 'placement:' || p.id)",
            ),
            (
                "a placed workload without a placement",
                "SELECT count(*) FROM workloads w WHERE state = 'placed'
                 AND NOT EXISTS (SELECT FROM placements p WHERE p.workload_id = w.id AND p.state <> 'ended')",
            ),
        ] {
            assert_eq!(self.count(sql).await, 0, "{what}, {when}");
        }
        balanced(&self.scene).await;
    }

    /// Stops everything and looks whether it is as if nothing had happened.
    async fn finish(mut self) {
        self.until("nothing waits", "SELECT count(*) FROM workloads WHERE state = 'pending'", 0).await;
        for scheduler in std::mem::take(&mut self.schedulers) {
            scheduler.stop().await;
        }
        self.workers.abort();
        let _ = (&mut self.workers).await;
        self.whole("at the end").await;
        let wanted = "SELECT count(*) FROM endpoints e WHERE replicas <>
                      (SELECT count(*) FROM workloads w WHERE w.endpoint_id = e.id AND w.state = 'placed')";
        assert_eq!(self.count(wanted).await, 0, "every endpoint has what it wants");
        let doubly = "SELECT count(*) FROM workloads WHERE generation > 1";
        assert_eq!(self.count(doubly).await, 0, "nothing was placed twice");
        let strange = "SELECT count(*) FROM placements p JOIN workloads w ON w.id = p.workload_id
                       WHERE p.generation <> w.generation";
        assert_eq!(self.count(strange).await, 0);
        let mut made = 0;
        for epoch in 1..=self.epoch().await {
            made += self.scene.replay_epoch(epoch).await;
        }
        assert_eq!(made, self.count("SELECT count(*) FROM placements").await, "every one is of a plan");
        self.scene.db.finish().await;
    }
}

/// Workers that do as they are told, and say so.
async fn obey(store: store::Store, workers: Vec<WorkerId>) {
    loop {
        for &worker in &workers {
            let done = async {
                let reports = obedient(&store, worker).await?;
                let mut tx = store.system().await?;
                store::workers::report(&mut tx, worker, &reports, &[], Clock::system().now()).await?;
                tx.commit().await
            };
            if let Err(error) = done.await {
                assert!(error.is_transient(), "{error:?}");
            }
        }
        tokio::time::sleep(HEARTBEAT).await;
    }
}

/// Kills who leads at each step in turn, each time with another standing by. The
/// gate is closed in front of the first.
async fn kill_at_each(fleet: &mut Fleet, gate: &mut Gate, steps: &[&str]) {
    for (n, step) in steps.iter().enumerate() {
        fleet.start_scheduler();
        gate.reached(step).await;
        let leader = fleet.leader().await;
        fleet.schedulers.remove(leader).kill();
        match steps.get(n + 1) {
            Some(next) => gate.close(next).await,
            None => gate.open().await,
        }
        fleet.whole(step).await;
    }
}

#[tokio::test]
async fn a_scheduler_killed_at_any_step_leaves_nothing_half_done() {
    let mut fleet = Fleet::new().await;
    let mut gate = Gate::install(&fleet.scene.db, &[&PLACING[..], &DRAINING[1..]].concat()).await;
    fleet.scene.endpoint(3, GB, 500).await;
    fleet.scene.job(4).await;
    gate.close(PLACING[0]).await;
    fleet.start_scheduler();
    kill_at_each(&mut fleet, &mut gate, &PLACING).await;
    fleet.until("all run", "SELECT count(*) FROM placements WHERE state = 'ready'", 4).await;

    gate.close(DRAINING[0]).await;
    fleet.scene.set("UPDATE endpoints SET replicas = 1".to_owned()).await;
    fleet.notice().await;
    kill_at_each(&mut fleet, &mut gate, &DRAINING).await;
    fleet.until("two are gone", "SELECT count(*) FROM placements WHERE state <> 'ended'", 2).await;
    let terms = 1 + PLACING.len() + DRAINING.len();
    until("another leads", PATIENCE, async || {
        (fleet.epoch().await > i64::try_from(terms).unwrap()).then_some(())
    })
    .await;

    // With something to do, and nothing in its way.
    fleet.start_scheduler();
    fleet.until_one_stands_by().await;
    let (leader, epoch, since) = (fleet.leader().await, fleet.epoch().await, Instant::now());
    fleet.schedulers.remove(leader).kill();
    fleet.endpoint(2).await;
    let took = fleet.next_term(epoch, since).await;
    println!("fail-over from a killed leader: {} ms", took.as_millis());
    fleet.until("all run", "SELECT count(*) FROM placements WHERE state = 'ready'", 4).await;
    fleet.finish().await;
}

/// Notes each write that names an epoch, with the epoch that there was.
const NOTE_WRITES: [&str; 6] = [
    "CREATE TABLE written (what text, epoch bigint, present bigint)",
    "CREATE FUNCTION note_write() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
     BEGIN
         IF TG_TABLE_NAME = 'audit_events' THEN
             INSERT INTO written SELECT NEW.action, NULLIF(split_part(NEW.actor, ':', 2), '')::bigint, epoch FROM leadership
             WHERE NEW.actor LIKE 'scheduler:%';
         ELSIF TG_OP = 'INSERT' OR NEW.epoch IS DISTINCT FROM OLD.epoch THEN
             INSERT INTO written SELECT TG_TABLE_NAME, NEW.epoch, epoch FROM leadership;
         END IF;
         RETURN NULL;
     END $$",
    "CREATE TRIGGER zz_note AFTER INSERT ON plans FOR EACH ROW EXECUTE FUNCTION note_write()",
    "CREATE TRIGGER zz_note AFTER INSERT ON audit_events FOR EACH ROW EXECUTE FUNCTION note_write()",
    "CREATE TRIGGER zz_note AFTER INSERT OR UPDATE ON workloads FOR EACH ROW EXECUTE FUNCTION note_write()",
    "CREATE TRIGGER zz_note AFTER INSERT OR UPDATE ON placements FOR EACH ROW EXECUTE FUNCTION note_write()",
];

/// The leader is paused at a step for twice as long as it may be silent, while
/// work keeps coming, and then woken.
async fn paused_at(step: &str) {
    let mut fleet = Fleet::new().await;
    for sql in NOTE_WRITES {
        fleet.scene.set(sql.to_owned()).await;
    }
    let mut gate = Gate::install(&fleet.scene.db, &[step]).await;
    fleet.scene.endpoint(2, GB, 500).await;
    gate.close(step).await;
    fleet.start_scheduler();
    fleet.start_scheduler();
    gate.reached(step).await;
    fleet.until_one_stands_by().await;
    let (leader, epoch, since) = (fleet.leader().await, fleet.epoch().await, Instant::now());
    fleet.schedulers[leader].signal(Signal::SIGSTOP);
    // The statement ends, and with a commit its transaction; its process does not
    // hear of it.
    gate.open().await;

    let (_, took) = tokio::join!(fleet.endpoint(1), fleet.next_term(epoch, since));
    println!("fail-over from a leader paused at {step}: {} ms", took.as_millis());
    while since.elapsed() < SILENCE * 2 {
        fleet.endpoint(1).await;
        tokio::time::sleep(WORK_EVERY).await;
    }
    assert_ne!(fleet.leader().await, leader);
    fleet.schedulers[leader].signal(Signal::SIGCONT);
    fleet.endpoint(1).await;
    until("it notices that it does not lead", PATIENCE, async || {
        fleet.schedulers[leader].log().contains("The lead is lost").then_some(())
    })
    .await;
    fleet.endpoint(1).await;
    let ready =
        "SELECT (SELECT sum(replicas) FROM endpoints) - count(*) FROM placements WHERE state = 'ready'";
    fleet.until("all run", ready, 0).await;

    let late = "SELECT count(*) FROM written WHERE epoch <> present";
    assert_eq!(fleet.count(late).await, 0, "something was written in the name of a term that was over");
    for what in ["plans", "workloads", "placements", "place_workload"] {
        let noted = format!("SELECT count(*) FROM written WHERE what = '{what}' AND epoch > {epoch}");
        assert!(fleet.count(&noted).await > 0, "control: writes to {what} are noted");
    }
    fleet.finish().await;
}

#[tokio::test]
async fn a_leader_paused_in_a_transaction_writes_nothing_when_it_wakes() {
    paused_at("placement_devices INSERT").await;
}

#[tokio::test]
async fn a_leader_paused_between_plan_and_deed_does_nothing_of_it_when_it_wakes() {
    paused_at("plans INSERT commit").await;
}
