//! The scheduler of Kubernetes beside ours: an API server with durable commits,
//! nodes of eight devices, and pods of one that all wait when it begins. Nobody
//! runs the pods; counted is what is bound.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::kube::{self, ControlPlane};
use crate::process;
use crate::progress::Line;
use crate::project::Project;

const DEVICES: u32 = 8;
/// Most pods: more would take longer to create than to bind.
const MOST_PODS: u32 = 5000;
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long it may take to begin.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Pods that are bound, by its own count.
const BOUND: &str = "scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"scheduled\"}";
/// Its clients are not slowed down, as in its own benchmarks.
const REQUESTS_PER_S: u32 = 5000;

/// Its programs, built if they are not there.
pub fn ensure(project: &Project) -> Result<PathBuf> {
    let line = Line::start("kubernetes");
    let programs = kube::ensure(project, &line)?;
    line.done("etcd, API server and scheduler");
    Ok(programs)
}

/// Pods bound each second, for as long as `seconds` says or all are bound.
pub fn bound_per_s(programs: &Path, workers: u32, seconds: u32) -> Result<f64> {
    let dir = std::env::temp_dir().join(format!("kube-scheduler-{}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let measured = measure(programs, &dir, workers, seconds)?;
    // Kept where it failed, for its logs.
    let _ = std::fs::remove_dir_all(&dir);
    Ok(measured)
}

fn measure(programs: &Path, dir: &Path, workers: u32, seconds: u32) -> Result<f64> {
    let mut plane = ControlPlane::start(programs, dir)?;
    let pods = MOST_PODS.min(workers * DEVICES);
    create(&plane, "nodes", (0..workers).map(node))?;
    create(&plane, "pods", (0..pods).map(pod))?;
    let port = kube::free_port()?;
    let config = json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": false},
        "clientConnection":
            {"kubeconfig": plane.kubeconfig(), "qps": REQUESTS_PER_S, "burst": REQUESTS_PER_S},
    });
    let config = plane.write("scheduler.json", &config.to_string())?;
    plane.spawn(
        "kube-scheduler",
        &[
            format!("--config={}", config.display()),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={port}"),
            "--authorization-always-allow-paths=/metrics".to_owned(),
        ],
    )?;
    // From the first that is seen bound: its start is not counted.
    let (began, mut first) = (Instant::now(), None);
    loop {
        thread::sleep(LOOK_EVERY);
        plane.check()?;
        let (bound, now) = (bound(&plane, port), Instant::now());
        match first {
            None if bound > 0.0 => first = Some((bound, now)),
            None if began.elapsed() > START_LIMIT => bail!("it bound nothing in {START_LIMIT:?}"),
            Some((before, since)) => {
                let took = now.duration_since(since).as_secs_f64();
                if bound >= f64::from(pods) || took > f64::from(seconds) {
                    return Ok((bound - before) / took);
                }
            }
            None => {}
        }
    }
}

/// 0 while it does not answer.
fn bound(plane: &ControlPlane, port: u16) -> f64 {
    let server = format!("--server=https://127.0.0.1:{port}");
    let metrics = process::output(plane.kubectl().args([&server, "get", "--raw", "/metrics"]));
    let metrics = metrics.unwrap_or_default();
    let count = metrics.lines().find_map(|line| line.strip_prefix(BOUND)?.trim().parse().ok());
    count.unwrap_or(0.0)
}

fn create(plane: &ControlPlane, name: &str, items: impl Iterator<Item = Value>) -> Result<()> {
    let items: Vec<Value> = items.collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    let file = plane.write(&format!("{name}.json"), &list.to_string())?;
    process::output(plane.kubectl().args(["create", "--validate=false", "-f"]).arg(file))?;
    Ok(())
}

fn node(number: u32) -> Value {
    let room = json!({"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": DEVICES.to_string()});
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("node-{number}")},
        "status": {
            "capacity": room, "allocatable": room, "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

fn pod(number: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{number}"), "namespace": "default"},
        "spec": {"containers": [{
            "name": "one", "image": "none", "resources": {"limits": {"nvidia.com/gpu": "1"}},
        }]},
    })
}
