//! A worker under test, and what its engines left as evidence.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::accelerators::DeviceReport;
use domain::inference::{Event, GenerateRequest, Input, Priority, Sampling};
use domain::models::{Manifest, ManifestFile, Sha256Digest};
use domain::workers::{DesiredPlacement, DesiredVersion, ObservedState};
use domain::workloads::WorkloadOwner;
use domain::{Clock, EndpointId, PlacementId, RequestId, TenantId, VersionId};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::{Api, GATEWAY_KEY, JOIN_TOKEN};

pub struct Fixture {
    pub api: Api,
    pub dir: tempfile::TempDir,
    pub shutdown: CancellationToken,
    pub worker: JoinHandle<Result<(), worker::RunError>>,
    pub address: String,
    pub http: reqwest::Client,
}

/// A worker that has joined and holds nothing.
pub async fn worker() -> Fixture {
    let api = Api::start().await;
    api.desire(1, vec![]);
    let dir = tempfile::tempdir().unwrap();
    let shutdown = CancellationToken::new();
    let worker = tokio::spawn(worker::run(settings(&api, dir.path()), deps(dir.path()), shutdown.clone()));
    let address = api.wait("the worker joined", |a| Some(a.worker.as_ref()?.address.clone())).await;
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    Fixture { api, dir, shutdown, worker, address, http }
}

pub fn settings(api: &Api, dir: &Path) -> worker::Settings {
    worker::Settings {
        name: Some("node-1".parse().unwrap()),
        api_url: api.url.clone(),
        data_dir: dir.join("data"),
        cores: Some(2),
        memory_bytes: Some(8 << 30),
        ..worker::Settings::default()
    }
}

pub fn deps(dir: &Path) -> worker::Deps {
    let program = dir.join("engine.py");
    fs::write(&program, include_str!("engine.py")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    worker::Deps { clock: Clock::system(), join_token: JOIN_TOKEN.to_owned().into(), program }
}

pub fn expected_devices() -> Vec<DeviceReport> {
    vec![DeviceReport { ordinal: 0, class: "cpu".to_owned(), memory_bytes: 8 << 30, milli: 2000 }]
}

/// A version with this content.
pub fn version(content: &[u8]) -> DesiredVersion {
    let sha256 = Sha256Digest::of(content);
    let file = ManifestFile { path: "model.gguf".to_owned(), sha256, bytes: content.len() as u64 };
    let manifest = Manifest { format: "gguf".to_owned(), files: vec![file] };
    DesiredVersion { id: VersionId::generate(), digest: manifest.digest(), manifest }
}

pub fn placement(version: &DesiredVersion, owner: WorkloadOwner) -> DesiredPlacement {
    DesiredPlacement {
        placement_id: PlacementId::generate(),
        generation: 1,
        tenant_id: TenantId::generate(),
        owner,
        version: version.clone(),
        memory_bytes: 1 << 30,
        milli: 500,
        drain: false,
    }
}

pub fn endpoint(version: &DesiredVersion) -> DesiredPlacement {
    placement(version, WorkloadOwner::Endpoint(EndpointId::generate()))
}

pub fn drained(placement: &DesiredPlacement) -> DesiredPlacement {
    DesiredPlacement { drain: true, ..placement.clone() }
}

pub fn request(text: &str) -> GenerateRequest {
    GenerateRequest {
        id: RequestId::generate(),
        input: Input::Text(text.to_owned()),
        max_tokens: None,
        sampling: Sampling::default(),
        stop: vec![],
        priority: Priority::Interactive,
    }
}

impl Fixture {
    /// Puts a version's content where the worker fetches it.
    pub fn publish(&self, content: &[u8]) -> DesiredVersion {
        self.api.change(|api| api.blobs.insert(Sha256Digest::of(content), content.to_vec()));
        version(content)
    }

    pub async fn reported(&self, placement: &DesiredPlacement, state: ObservedState) {
        let what = format!("{} is {state:?}", placement.placement_id);
        self.api
            .wait(&what, |api| (api.reports.get(&placement.placement_id)?.state == state).then_some(()))
            .await;
    }

    pub async fn post(&self, placement: &DesiredPlacement, key: &str, text: &str) -> reqwest::Response {
        self.http
            .post(format!("{}/generate/{}", self.address, placement.placement_id))
            .bearer_auth(key)
            .json(&request(text))
            .send()
            .await
            .unwrap()
    }

    /// All events of an answer.
    pub async fn generate(&self, placement: &DesiredPlacement, text: &str) -> Vec<Event> {
        let response = self.post(placement, GATEWAY_KEY, text).await;
        events(&response.text().await.unwrap())
    }

    pub fn evidence(&self, name: &str) -> Vec<String> {
        let path = self.data().join("evidence").join(name);
        fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Process identifiers of the engines that were started, in order.
    pub fn engines(&self) -> Vec<Pid> {
        let pid = |line: &String| Pid::from_raw(line.split(' ').next().unwrap().parse().unwrap());
        self.evidence("starts").iter().map(pid).collect()
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Ends the worker and looks that nothing is left of it.
    pub async fn end(self) {
        let engines = self.engines();
        self.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(60), self.worker).await.unwrap().unwrap().unwrap();
        for engine in engines {
            assert!(!is_alive(engine), "engine {engine} outlived its worker");
        }
    }
}

pub fn is_alive(pid: Pid) -> bool {
    kill(pid, None).is_ok()
}

pub fn kill_hard(pid: Pid) {
    kill(pid, Signal::SIGKILL).unwrap();
}

pub fn events(lines: &str) -> Vec<Event> {
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Polls what no channel tells.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    for _ in 0..6000 {
        if holds() {
            return;
        }
        tick.tick().await;
    }
    panic!("waited in vain until {what}");
}
