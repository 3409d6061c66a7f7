//! Model files: recognised by content, kept whole or not at all.

use futures_util::stream;
use serde_json::json;

use crate::support::{ADMIN, Api, text};

const UPLOAD: &str = "/api/v1/models/smollm2/versions/upload";

#[tokio::test]
async fn the_same_content_is_the_same_version() {
    let api = Api::start().await;
    let admin = api.sign_in(ADMIN).await;
    api.model(&admin, "smollm2").await;
    let path = format!("{UPLOAD}?filename=model.gguf");
    let again = api.upload(&path, &admin, "GGUF small enough").await.expect(200);
    let other = api.upload(&path, &admin, "GGUF another").await.expect(201);
    assert_ne!(again["digest"], other["digest"]);
    let versions = api.get("/api/v1/models/smollm2/versions", &admin).await.expect(200);
    assert_eq!(versions["items"].as_array().unwrap().len(), 2);
    assert_eq!(versions["items"][0], other);
    let sha256 = text(&other["manifest"]["files"][0]["sha256"]);
    let kept: Vec<_> = api.objects().into_iter().filter(|path| path.ends_with(&sha256)).collect();
    assert_eq!(std::fs::read(&kept[0]).unwrap(), b"GGUF another");
    assert_eq!(api.objects().len(), 2);
}

#[tokio::test]
async fn what_is_refused_leaves_nothing_behind() {
    let api = Api::start_with(|settings| settings.max_model_file_bytes = 1000).await;
    let admin = api.sign_in(ADMIN).await;
    api.post("/api/v1/models", &admin, json!({ "name": "smollm2" })).await.expect(201);
    let named = format!("{UPLOAD}?filename=model.gguf");
    let wrong = format!("{named}&sha256={}", "0".repeat(64));
    let problem = api.upload(&wrong, &admin, "GGUF with another digest").await.expect(422);
    assert_eq!(problem["field"], "sha256");
    for bad in [&b"PK\x03\x04 zip"[..], b"\x80\x04 pickle", b"{}", b""] {
        api.upload(&named, &admin, bad).await.expect(422);
    }
    api.upload(&named, &admin, [b"GGUF".as_slice(), &[0; 1000]].concat()).await.expect(413);
    api.upload(&format!("{UPLOAD}?filename=../x.gguf"), &admin, "GGUF").await.expect(422);
    // A client that breaks off in the middle.
    let broken = stream::iter([Ok("GGUF and then"), Err(std::io::Error::other("gone"))]);
    let url = format!("http://{}{named}", api.public);
    let request = api.http.post(url).bearer_auth(&admin).body(reqwest::Body::wrap_stream(broken));
    assert!(request.send().await.is_err());
    let versions = api.get("/api/v1/models/smollm2/versions", &admin).await.expect(200);
    assert_eq!(versions["items"], json!([]));
    let dir = api.dir.path().join("objects");
    let left = api.objects();
    api.stopped().await;
    assert!(left.is_empty(), "{left:?} in {dir:?}");
}

#[tokio::test]
async fn files_of_the_server_are_taken_from_allowed_directories_only() {
    let api = Api::start().await;
    let admin = api.sign_in(ADMIN).await;
    api.post("/api/v1/models", &admin, json!({ "name": "smollm2" })).await.expect(201);
    let import = api.dir.path().join("import");
    std::fs::create_dir(&import).unwrap();
    std::fs::write(import.join("model.gguf"), "GGUF local").unwrap();
    std::fs::write(api.dir.path().join("outside.gguf"), "GGUF outside").unwrap();
    let register = async |path: &std::path::Path| {
        api.post("/api/v1/models/smollm2/versions", &admin, json!({ "path": path })).await
    };
    let version = register(&import.join("model.gguf")).await.expect(201);
    assert_eq!(version["manifest"]["files"][0]["path"], "model.gguf");
    assert_eq!(register(&import.join("model.gguf")).await.expect(200), version);
    for path in [api.dir.path().join("outside.gguf"), import.join("../outside.gguf"), "/etc/passwd".into()] {
        assert_eq!(register(&path).await.expect(422)["field"], "path");
    }
}

#[tokio::test]
async fn a_private_model_shadows_the_catalogue_for_its_tenant_only() {
    let api = Api::start().await;
    let admin = api.sign_in(ADMIN).await;
    let (interior, finance) = (api.tenant(&admin, "interior").await, api.tenant(&admin, "finance").await);
    api.model(&admin, "smollm2").await;
    api.post("/api/v1/models", &interior.admin, json!({ "name": "smollm2" })).await.expect(201);
    let own = api
        .upload(&format!("{UPLOAD}?filename=model.gguf"), &interior.admin, "GGUF private")
        .await
        .expect(201);
    let newest = async |token: &str| {
        let versions = api.get("/api/v1/models/smollm2/versions", token).await.expect(200);
        versions["items"][0]["digest"].clone()
    };
    assert_eq!(newest(&interior.key).await, own["digest"]);
    assert_ne!(newest(&finance.key).await, own["digest"]);
    assert_ne!(newest(&admin).await, own["digest"]);
    assert_eq!(
        api.get("/api/v1/models", &interior.key).await.expect(200)["items"].as_array().unwrap().len(),
        2
    );
    assert_eq!(
        api.get("/api/v1/models", &finance.key).await.expect(200)["items"].as_array().unwrap().len(),
        1
    );
}
