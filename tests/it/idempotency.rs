//! Requests that are sent twice, or twenty times at once, while the API is
//! killed and connections to the database are ended: each thing is made once,
//! and everyone gets its answer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use domain::Clock;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tests::database::{Database, rows};
use tests::ministries::{PASSWORD, Platform};
use tests::process::ApiProcess;
use tokio::sync::watch;

/// How many things are made. `cargo xtask soak idempotency` sets it higher.
const THINGS: &str = "CHANCERY_TEST_IDEMPOTENT_THINGS";
const DEFAULT_THINGS: usize = 60;
/// How often each is asked for at once.
const DUPLICATES: usize = 20;
/// Things that are under way at once.
const AT_ONCE: usize = 4;
/// The API is killed after so many things, and sooner where there are few.
const THINGS_PER_CRASH: usize = 50;
const FEWEST_CRASHES: usize = 3;
/// An API that lives answers within this.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// A connection to the database is ended every so often.
const CUT_EVERY: Duration = Duration::from_millis(100);

async fn send(platform: &Platform, admin: &str, key: &str, name: &str) -> (StatusCode, bool, Value) {
    ask(&platform.system.http, &platform.url, admin, key, name).await.expect("an answer")
}

/// Asks for an API key of that name; whether the answer was given before.
async fn ask(
    http: &Client,
    base: &str,
    admin: &str,
    key: &str,
    name: &str,
) -> reqwest::Result<(StatusCode, bool, Value)> {
    let request =
        http.post(format!("{base}/api/v1/api-keys")).bearer_auth(admin).header("idempotency-key", key);
    let answer =
        request.json(&json!({"project": "sandbox", "name": name})).timeout(ANSWER_WITHIN).send().await?;
    let again = answer.headers().contains_key("idempotent-replayed");
    Ok((answer.status(), again, answer.json().await?))
}

/// Those who ask, and what became of it.
struct Crowd {
    http: Client,
    base: String,
    admin: String,
    /// Whether the API is there.
    running: watch::Receiver<bool>,
    requests: AtomicU64,
    replayed: AtomicU64,
    unanswered: AtomicU64,
}

impl Crowd {
    /// Sends until it is made; whatever is refused or lost meanwhile is sent again.
    async fn insist(self: Arc<Self>, key: String) -> String {
        let mut running = self.running.clone();
        loop {
            self.requests.fetch_add(1, Ordering::Relaxed);
            match ask(&self.http, &self.base, &self.admin, &key, &key).await {
                Ok((StatusCode::CREATED, again, body)) => {
                    self.replayed.fetch_add(u64::from(again), Ordering::Relaxed);
                    return body.to_string();
                }
                Ok((StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE, ..)) => {
                    tokio::task::yield_now().await;
                }
                Ok((other, _, body)) => panic!("{other}: {body}"),
                Err(e) if e.is_timeout() => panic!("{key}: no answer within {ANSWER_WITHIN:?}"),
                // It was killed, perhaps between its commit and its answer.
                Err(_) => {
                    self.unanswered.fetch_add(1, Ordering::Relaxed);
                    running.wait_for(|running| *running).await.expect("it is started again");
                }
            }
        }
    }
}

/// Ends one connection of the API after the other; how many it has ended.
async fn cut(db: &Database) -> (Arc<AtomicU64>, tokio::task::JoinHandle<()>) {
    let (mut su, ended) = (db.superuser().await, Arc::<AtomicU64>::default());
    let count = ended.clone();
    let cutting = tokio::spawn(async move {
        let mut pause = tokio::time::interval(CUT_EVERY);
        pause.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            pause.tick().await;
            let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'chancery' AND backend_type = 'client backend' ORDER BY random() LIMIT 1";
            count.fetch_add(rows(&mut su, sql).await.unwrap().len() as u64, Ordering::Relaxed);
        }
    });
    (ended, cutting)
}

/// Kills the API whenever so many things more were made, in the middle of the
/// next ones, until nothing is made any more; how often it did.
async fn crash(
    mut api: ApiProcess,
    running: watch::Sender<bool>,
    mut made: watch::Receiver<usize>,
    every: usize,
) -> (ApiProcess, u64) {
    let mut crashes = 0;
    loop {
        let next = *made.borrow() + every;
        if made.wait_for(|made| *made >= next).await.is_err() {
            return (api, crashes);
        }
        running.send_replace(false);
        api.kill();
        crashes += 1;
        api.spawn().await;
        running.send_replace(true);
    }
}

/// Makes what has these names, some at a time, each for a crowd at once.
async fn make(crowd: &Arc<Crowd>, names: Vec<String>, progress: watch::Sender<usize>) {
    let answered = AtomicUsize::new(0);
    for some in names.chunks(AT_ONCE) {
        let asked = some.iter().map(|name| {
            let all = (0..DUPLICATES).map(|_| tokio::spawn(crowd.clone().insist(name.clone())));
            let all = futures_util::future::try_join_all(all.collect::<Vec<_>>());
            let (progress, answered) = (&progress, &answered);
            async move {
                let answers = all.await.expect("nobody gave up");
                progress.send_replace(answered.fetch_add(1, Ordering::Relaxed) + 1);
                answers
            }
        });
        let answers = futures_util::future::join_all(asked).await;
        for same in &answers {
            assert_eq!(same.iter().collect::<BTreeSet<_>>().len(), 1, "one answer for all");
        }
        let different = answers.iter().flatten().collect::<BTreeSet<_>>();
        assert_eq!(different.len(), some.len(), "a secret of its own for each");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_twenty_times_is_made_once_whatever_breaks() {
    let things = std::env::var(THINGS).map_or(DEFAULT_THINGS, |text| text.parse().unwrap());
    let db = Database::fresh().await;
    api::bootstrap_admin(&db.store, &Clock::system(), "admin@localhost", PASSWORD, api::FirstPassword::Stays)
        .await
        .expect("an administrator");
    let most = u32::MAX.to_string();
    let api = ApiProcess::start(&db, &[("API__REQUESTS_PER_MINUTE", &most), ("LOG__LEVEL", "error")]).await;
    let http = Client::builder().no_proxy().build().unwrap();
    let admin = ministry(&http, &api.url).await;

    let (running, is_running) = watch::channel(true);
    let (progress, made) = watch::channel(0);
    let crowd = Arc::new(Crowd {
        http,
        base: api.url.clone(),
        admin,
        running: is_running,
        requests: AtomicU64::new(0),
        replayed: AtomicU64::new(0),
        unanswered: AtomicU64::new(0),
    });
    let (cuts, cutting) = cut(&db).await;
    let (names, started) = ((0..things).map(|n| format!("key-{n}")).collect::<Vec<_>>(), Instant::now());
    let every = THINGS_PER_CRASH.min(things.div_ceil(FEWEST_CRASHES + 1));
    let making = make(&crowd, names, progress);
    let ((), (mut api, crashes)) = tokio::join!(making, crash(api, running, made, every));
    let took = started.elapsed();
    cutting.abort();
    let _ = cutting.await;
    let effects = db.count("SELECT count(*) FROM api_keys").await;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "{things} keys × {DUPLICATES} duplicates: {} requests, {} unanswered, {} answered again, \
         {crashes} crashes of the API, {} connections ended, {effects} effects, {:.0} s",
        count(&crowd.requests),
        count(&crowd.unanswered),
        count(&crowd.replayed),
        count(&cuts),
        took.as_secs_f64(),
    );
    let things = i64::try_from(things).unwrap();
    assert_eq!(effects, things, "each was made once");
    for sql in [
        "SELECT count(*) FROM audit_events WHERE action = 'create_api_key'",
        "SELECT count(DISTINCT name) FROM api_keys",
    ] {
        assert_eq!(db.count(sql).await, things, "{sql}");
    }
    assert!(
        crashes > 0 && count(&crowd.unanswered) > 0 && count(&cuts) > 0,
        "there was something to survive"
    );
    let plain =
        "SELECT count(*) FROM idempotent_answers WHERE position('chy_' in encode(answer, 'escape')) > 0";
    assert_eq!(db.count(plain).await, 0, "a kept answer shows no secret");
    api.stop().await;
    db.finish().await;
}

/// A tenant; the session of its administrator.
async fn ministry(http: &Client, base: &str) -> String {
    let call = async |path: &str, token: Option<&str>, body: Value| {
        let (status, answer) =
            tests::http::call(http, Method::POST, &format!("{base}/api/v1/{path}"), token, Some(body)).await;
        assert_eq!(status, StatusCode::CREATED, "{path}: {answer}");
        answer
    };
    let sign_in = async |login: &str| {
        let session = call("sessions", None, json!({"login": login, "password": PASSWORD})).await;
        session["token"].as_str().unwrap().to_owned()
    };
    let platform = sign_in("admin@localhost").await;
    call("tenants", Some(&platform), json!({"slug": "interior", "name": "Interior"})).await;
    let login = "head@interior";
    let head = json!({"login": login, "display_name": "Head", "password": PASSWORD, "role": "tenant_admin"});
    call("accounts?tenant=interior", Some(&platform), head).await;
    sign_in(login).await
}

#[tokio::test]
async fn a_key_belongs_to_one_request_of_one_caller() {
    let platform = Platform::start().await;
    let (interior, health) = (platform.tenant("interior").await, platform.tenant("health").await);
    let (first, again, made) = send(&platform, &interior, "one", "name").await;
    assert_eq!((first, again), (StatusCode::CREATED, false));
    let (second, again, same) = send(&platform, &interior, "one", "name").await;
    assert_eq!((second, again, &same), (StatusCode::CREATED, true, &made));
    assert_eq!(send(&platform, &interior, "one", "another").await.0, StatusCode::UNPROCESSABLE_ENTITY);
    let (theirs, again, other) = send(&platform, &health, "one", "name").await;
    assert_eq!((theirs, again), (StatusCode::CREATED, false), "another caller's key is another key");
    assert_ne!(other["secret"], made["secret"]);
    for wrong in ["", "with space", &"x".repeat(256)] {
        assert_eq!(send(&platform, &interior, wrong, "name").await.0, StatusCode::BAD_REQUEST, "{wrong:?}");
    }
    let (status, _) = platform
        .call(
            Method::GET,
            &format!("/api/v1/api-keys/{}", made["key"]["id"].as_str().unwrap()),
            &interior,
            None,
        )
        .await;
    assert_eq!(status, StatusCode::OK);
    platform.system.stop().await;
}
