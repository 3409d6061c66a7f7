//! The cache against a small server that keeps what it is told to.

use std::collections::HashMap;
use std::time::Duration;

use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use domain::workers::{JoinRequest, JoinResponse};
use domain::{Timestamp, VersionId, WorkerId};

use super::*;
use crate::settings::JoinToken;

/// What the server keeps: content by digest, and how often each was fetched.
#[derive(Clone, Default)]
struct Source(Arc<Mutex<Kept>>);

type Kept = HashMap<String, (Vec<u8>, usize)>;

impl Source {
    fn put(&self, digest: Sha256Digest, content: &[u8]) {
        self.0.lock().unwrap().insert(digest.to_string(), (content.to_vec(), 0));
    }

    fn fetches(&self, digest: Sha256Digest) -> usize {
        self.0.lock().unwrap()[&digest.to_string()].1
    }
}

struct Fixture {
    blobs: Arc<Blobs>,
    source: Source,
    dir: tempfile::TempDir,
    now: Arc<Mutex<Timestamp>>,
}

async fn fixture(limit_bytes: u64) -> Fixture {
    let source = Source::default();
    let join = async || {
        Json(JoinResponse {
            worker_id: WorkerId::generate(),
            credential: "c".into(),
            gateway_key: "g".into(),
        })
    };
    let blob = async |State(source): State<Source>, UrlPath(digest): UrlPath<String>| {
        let mut kept = source.0.lock().unwrap();
        let (content, fetches) = kept.get_mut(&digest).ok_or(StatusCode::NOT_FOUND)?;
        *fetches += 1;
        Ok::<_, StatusCode>(content.clone())
    };
    let router = Router::new()
        .route("/internal/v1/join", post(join))
        .route("/internal/v1/blobs/{digest}", get(blob))
        .with_state(source.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, router).await });
    let name = || "a".parse().unwrap();
    let request =
        JoinRequest { name: name(), pool: name(), zone: name(), address: String::new(), devices: vec![] };
    let link = Arc::new(Link::new(&base, request, JoinToken("j".to_owned())).unwrap());
    link.join(false).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let now = Arc::new(Mutex::new(Timestamp::UNIX_EPOCH + Duration::from_secs(1_000_000)));
    let clock = {
        let now = Arc::clone(&now);
        Clock::from_fn(move || *now.lock().unwrap())
    };
    let blobs = Arc::new(Blobs::open(dir.path().join("blobs"), limit_bytes, link, clock).unwrap());
    Fixture { blobs, source, dir, now }
}

fn version(content: &[u8]) -> DesiredVersion {
    let file = ManifestFile {
        path: "model.gguf".to_owned(),
        sha256: Sha256Digest::of(content),
        bytes: content.len() as u64,
    };
    let manifest = Manifest { format: "gguf".to_owned(), files: vec![file] };
    DesiredVersion { id: VersionId::generate(), digest: manifest.digest(), manifest }
}

impl Fixture {
    async fn load(&self, version: &DesiredVersion) -> Result<Loaded, BlobError> {
        let later = *self.now.lock().unwrap() + Duration::from_secs(60);
        *self.now.lock().unwrap() = later;
        self.blobs.load(version).await
    }

    fn cached(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.dir.path().join("blobs"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[tokio::test]
async fn a_file_is_fetched_once_and_verified_before_each_load() {
    let f = fixture(u64::MAX).await;
    let content = vec![7; 3_000_000];
    let version = version(&content);
    let digest = Sha256Digest::of(&content);
    f.source.put(digest, &content);
    let loaded = f.load(&version).await.unwrap();
    assert_eq!(fs::read(&loaded.model).unwrap(), content);
    f.load(&version).await.unwrap();
    assert_eq!(f.source.fetches(digest), 1);

    // One bit turned on the disk.
    let mut damaged = content.clone();
    damaged[1_234_567] ^= 1;
    fs::remove_file(&loaded.model).unwrap();
    fs::write(&loaded.model, damaged).unwrap();
    let loaded = f.load(&version).await.unwrap();
    assert_eq!(fs::read(&loaded.model).unwrap(), content, "fetched again");
    assert_eq!(f.source.fetches(digest), 2);
    assert_eq!(f.cached(), [digest.to_string()]);
}

#[tokio::test]
async fn damage_at_the_source_is_said_with_the_file_and_what_to_do() {
    let f = fixture(u64::MAX).await;
    let content = b"GGUF good";
    let digest = Sha256Digest::of(content);
    for (kept, what) in
        [(&b"GGUF evil"[..], "its content has the digest"), (b"GGUF good and more", "longer than 9")]
    {
        f.source.put(digest, kept);
        let error = f.load(&version(content)).await.err().unwrap();
        let text = crate::link::chain(&error);
        assert!(text.contains("model.gguf") && text.contains("register the model version again"), "{text}");
        assert!(text.contains(what), "{text}");
        assert_eq!(f.source.fetches(digest), 1, "not fetched over and over");
        assert!(f.cached().is_empty(), "nothing damaged is kept");
    }
}

#[tokio::test]
async fn a_missing_file_and_a_changed_manifest_are_told_apart() {
    let f = fixture(u64::MAX).await;
    let mut version = version(b"GGUF");
    assert!(matches!(f.load(&version).await, Err(BlobError::Missing { .. })));
    version.manifest.files[0].bytes += 1;
    assert!(matches!(f.load(&version).await, Err(BlobError::Manifest { .. })));
    version.manifest.files.clear();
    version.digest = version.manifest.digest();
    assert!(matches!(f.load(&version).await, Err(BlobError::Unsupported { files: 0, .. })));
}

#[tokio::test]
async fn the_longest_unused_files_make_room() {
    let f = fixture(25).await;
    let contents: Vec<Vec<u8>> = (0u8..4).map(|n| vec![n; 10]).collect();
    for content in &contents {
        f.source.put(Sha256Digest::of(content), content);
    }
    let name = |n: usize| Sha256Digest::of(&contents[n]).to_string();
    let load = async |n: usize| f.load(&version(&contents[n])).await.unwrap();
    let held = load(0).await;
    drop(load(1).await);
    drop(load(2).await);
    let mut left = vec![name(0), name(2)];
    left.sort();
    assert_eq!(f.cached(), left, "1 is the oldest that nobody holds");
    drop(held);
    drop(load(0).await);
    drop(load(3).await);
    let mut left = vec![name(0), name(3)];
    left.sort();
    assert_eq!(f.cached(), left, "0 was used after 2");
}

#[tokio::test]
async fn unfinished_files_of_a_killed_worker_are_removed() {
    let f = fixture(u64::MAX).await;
    let dir = f.dir.path().join("blobs");
    fs::write(dir.join(format!("{}.3.part", Sha256Digest::of(b"x"))), "half").unwrap();
    let link = Arc::clone(&f.blobs.link);
    Blobs::open(dir, 1, link, Clock::system()).unwrap();
    assert!(f.cached().is_empty());
}
