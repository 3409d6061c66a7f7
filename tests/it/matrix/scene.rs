//! Two ministries with one of everything, and every kind of caller.

use std::collections::BTreeMap;

use domain::certificates::SigningKey;
use domain::keys::{CredentialKind, Pepper, mint};
use domain::{KeyId, PrincipalId};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tests::http::call;
use tests::ministries::Platform;
use uuid::Uuid;

/// What nothing has as its identifier, and what nothing has as its name.
pub const NO_ID: &str = "00000000-0000-7000-8000-000000000000";
pub const NO_NAME: &str = "nothing-has-this-name";

/// Where a caller stands to the ministry whose objects are asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stand {
    /// It is nobody, or not any more.
    Nobody,
    /// It belongs to the ministry.
    Own,
    /// It belongs to another project of the ministry.
    Beside,
    /// It belongs to another ministry.
    Foreign,
    /// It belongs to the platform.
    Platform,
}

impl Stand {
    /// Whether nothing it asks may change what the paths name.
    pub fn harms_nothing(self) -> bool {
        matches!(self, Self::Beside | Self::Foreign)
    }
}

/// One kind of caller.
pub struct Caller {
    /// Heads its column.
    pub name: String,
    /// Its credential.
    pub token: Option<String>,
    /// Where it stands.
    pub stand: Stand,
}

/// The ministry, its objects by the name of the path parameter, and the callers.
pub struct Scene {
    pub platform: Platform,
    pub callers: Vec<Caller>,
    objects: BTreeMap<&'static str, String>,
    /// Session of an administrator of `interior` who is none of the callers.
    observer: String,
}

impl Scene {
    pub async fn new() -> Self {
        let platform = Platform::start().await;
        let mut scene =
            Self { platform, callers: Vec::new(), objects: BTreeMap::new(), observer: String::new() };
        let (worker, credential) = scene.platform.system.join("node").await;
        drop(worker);
        let catalogue = scene.admin(Method::POST, "/api/v1/models", json!({"name": "small"})).await;
        drop(catalogue);
        scene.upload_model("small", &scene.platform.admin).await;
        let mut admins = Vec::new();
        for slug in ["interior", "health"] {
            admins.push(scene.platform.tenant(slug).await);
            for role in ["developer", "user", "viewer", "auditor", "member"] {
                scene.person(slug, role, &[]).await;
            }
        }
        scene.objects_of_interior(&admins[0]).await;
        scene.callers(&admins, credential).await;
        scene.observer = scene.person("interior", "tenant_admin", &[]).await;
        scene
    }

    /// With a model that is the ministry's own.
    pub async fn with_secrets() -> Self {
        let scene = Self::new().await;
        let secret = json!({"name": "secret"});
        scene.platform.ok(Method::POST, "/api/v1/models", &scene.observer, Some(secret)).await;
        scene.upload_model("secret", &scene.observer).await;
        scene
    }

    async fn admin(&self, method: Method, path: &str, body: Value) -> Value {
        self.platform.ok(method, path, &self.platform.admin, Some(body)).await
    }

    async fn upload_model(&self, name: &str, token: &str) {
        let url = format!("{}/api/v1/models/{name}/versions/upload?filename={name}.gguf", self.platform.url);
        let request = self.platform.system.http.post(url).bearer_auth(token);
        let answer = request.header("idempotency-key", "model").body("GGUF weights").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED, "{:?}", answer.text().await);
    }

    /// Everything that a path may name, in the project `alpha` of `interior`.
    async fn objects_of_interior(&mut self, admin: &str) {
        let make =
            async |path: &str, body: Value| self.platform.ok(Method::POST, path, admin, Some(body)).await;
        let id = |object: &Value| object["id"].as_str().unwrap().to_owned();
        make("/api/v1/projects", json!({"slug": "alpha", "name": "Alpha"})).await;
        make("/api/v1/endpoints", json!({"name": "chat", "model": "small", "project": "alpha"})).await;
        let key = make("/api/v1/api-keys", json!({"project": "alpha", "name": "key"})).await;
        make(
            "/api/v1/access/restrictions",
            json!({"name": "none", "description": "none",
                "policy": "forbid (principal, action, resource) when { context.credential == \"carrier pigeon\" };"}),
        )
        .await;
        make("/api/v1/service-accounts", json!({"name": "robot", "display_name": "Robot", "role": "member"}))
            .await;
        let account = self.person_row("interior", "viewer", "somebody", &[("alpha", "viewer")]).await.0;
        let (session, deleted) = (Uuid::now_v7(), Uuid::now_v7());
        let certificate = certificate(deleted);
        for sql in [
            format!(
                "INSERT INTO sessions (token_hash, id, principal_id, created_at, last_seen_at, expires_at) VALUES ('', '{session}', '{account}', now(), now(), now() + interval '1 hour')"
            ),
            format!(
                "INSERT INTO tenants (id, slug, name, created_at, status, deleted_at) VALUES ('{deleted}', 'gone', 'gone', now(), 'deleted', now())"
            ),
            format!(
                "INSERT INTO audit_events (id, at, actor, action, object, verdict, detail) VALUES (gen_random_uuid(), now(), 'test', 'create', 'tenant:{deleted}', 'allowed', '{{}}')"
            ),
            format!(
                "INSERT INTO tenant_deletions (tenant_id, slug, requested_at, requested_by, certificate, finished_at) VALUES ('{deleted}', 'gone', now(), 'test', '{certificate}', now())"
            ),
            // A page that says `{}`.
            "INSERT INTO plans (epoch, number, at, began, digest, page) VALUES (0, 0, now(), true, sha256('{}'), '\\x1f8b0800000000000203abae050043bfa6a302000000')".to_owned(),
            // Its deletion is allowed to some, and must not happen.
            "UPDATE tenants SET delete_protection = true WHERE slug = 'interior'".to_owned(),
        ] {
            self.platform.system.set(&sql).await;
        }
        self.admin(Method::PUT, "/api/v1/cohorts/all", json!({})).await;
        self.admin(Method::PUT, "/api/v1/pools/spare", json!({"tenants": []})).await;
        self.admin(Method::PUT, "/api/v1/accelerator-classes/spare", json!({"description": "spare"})).await;
        self.give_quotas().await;
        self.give_budgets().await;
        let workload = Uuid::now_v7();
        self.platform.system.set(&format!(
            "INSERT INTO workloads (id, tenant_id, endpoint_id, version_id, class, memory_bytes, milli, state, epoch, queued_at, created_at)
             SELECT '{workload}', tenant_id, id, version_id, class, memory_bytes, milli, 'pending', 0, now(), now() FROM endpoints WHERE name = 'chat'"
        )).await;
        let file = self.file(admin).await;
        let job = make("/api/v1/jobs", json!({"input_file_id": file, "project": "alpha"})).await;
        let provider = json!({"name": "people", "issuer": "https://people.interior.example", "client_id": "chancery",
            "audience": "chancery-api", "mappings": []});
        let provider = self.platform.provider("interior", provider).await;
        for (parameter, value) in [
            ("tenant", "interior".to_owned()),
            ("project", "alpha".to_owned()),
            ("model", "small".to_owned()),
            ("worker", "node".to_owned()),
            ("plan", "0-0".to_owned()),
            ("endpoint", "chat".to_owned()),
            ("key", id(&key["key"])),
            ("restriction", "none".to_owned()),
            ("account", account.to_string()),
            ("file", file),
            ("job", id(&job)),
            ("batch", id(&job)),
            ("provider", id(&provider)),
            ("name", "robot".to_owned()),
            ("session", session.to_string()),
            ("deletion", deleted.to_string()),
            ("cohort", "all".to_owned()),
            ("pool", "spare".to_owned()),
            ("class", "spare".to_owned()),
            ("workload", workload.to_string()),
        ] {
            self.objects.insert(parameter, value);
        }
    }

    /// Quotas of the ministry and of its project, again once somebody who may
    /// has taken them away.
    pub async fn give_quotas(&self) {
        let quotas = json!([{"class": "cpu", "nominal": 1000}]);
        let of_tenant = json!({"cohort": "all", "quotas": quotas});
        self.admin(Method::PUT, "/api/v1/tenants/interior/quota", of_tenant).await;
        let of_project = json!({"quotas": quotas});
        self.admin(Method::PUT, "/api/v1/projects/alpha/quota?tenant=interior", of_project).await;
    }

    /// Budgets of the ministry and of its project, likewise.
    pub async fn give_budgets(&self) {
        let budgets = json!({"budgets": [
            {"counts": "accelerator_seconds", "class": "cpu", "period": "month", "limit": 1_000_000},
        ]});
        self.admin(Method::PUT, "/api/v1/tenants/interior/budgets", budgets.clone()).await;
        self.admin(Method::PUT, "/api/v1/projects/alpha/budgets?tenant=interior", budgets).await;
    }

    async fn file(&self, admin: &str) -> String {
        let line = json!({"custom_id": "1", "method": "POST", "url": "/v1/chat/completions",
            "body": {"model": "small", "messages": [{"role": "user", "content": "hello"}]}});
        let part = reqwest::multipart::Part::text(line.to_string()).file_name("in.jsonl");
        let form = reqwest::multipart::Form::new().text("purpose", "batch").part("file", part);
        let url = format!("{}/api/v1/files?project=alpha", self.platform.url);
        let request =
            self.platform.system.http.post(url).bearer_auth(admin).header("idempotency-key", "file");
        let answer = request.multipart(form).send().await.unwrap();
        let file: Value = answer.json().await.unwrap();
        file["id"].as_str().unwrap_or_else(|| panic!("{file}")).to_owned()
    }

    async fn callers(&mut self, admins: &[String], worker: String) {
        let mut add = |name: &str, token: Option<String>, stand| {
            self.callers.push(Caller { name: name.to_owned(), token, stand });
        };
        add("none", None, Stand::Nobody);
        add("malformed", Some("chy_0123456789".to_owned()), Stand::Nobody);
        add("worker", Some(worker), Stand::Nobody);
        add("tenant_admin", Some(admins[0].clone()), Stand::Own);
        add("other tenant_admin", Some(admins[1].clone()), Stand::Foreign);
        for role in ["platform_admin", "model_approver", "auditor"] {
            let token = self.person("", role, &[]).await;
            self.add(&format!("platform {role}"), token, Stand::Platform);
        }
        for role in ["developer", "user", "viewer", "auditor", "member"] {
            let token = self.person("interior", role, &[]).await;
            self.add(role, token, Stand::Own);
            let token = self.person("health", role, &[]).await;
            self.add(&format!("other {role}"), token, Stand::Foreign);
        }
        for role in ["developer", "user", "viewer"] {
            let token = self.person("interior", "member", &[("alpha", role)]).await;
            self.add(&format!("alpha's {role}"), token, Stand::Own);
        }
        let elsewhere = self.person("interior", "member", &[("sandbox", "developer")]).await;
        self.add("sandbox's developer", elsewhere, Stand::Beside);
        for (name, slug, project, bounds, stand) in [
            ("key", "interior", "alpha", "NULL, NULL", Stand::Own),
            ("key to prompt", "interior", "alpha", "ARRAY['prompt'], NULL", Stand::Own),
            ("key of the sandbox", "interior", "sandbox", "NULL, NULL", Stand::Beside),
            ("key from elsewhere", "interior", "alpha", "NULL, ARRAY['198.51.100.0/24']", Stand::Own),
            ("other key", "health", "sandbox", "NULL, NULL", Stand::Foreign),
        ] {
            let token = self.key(slug, project, bounds, "NULL, NULL").await;
            self.add(name, token, stand);
        }
        for (name, times) in [("expired key", "now() - interval '1 s', NULL"), ("revoked key", "NULL, now()")]
        {
            let token = self.key("interior", "alpha", "NULL, NULL", times).await;
            self.add(name, token, Stand::Nobody);
        }
        let expired = self.person("interior", "tenant_admin", &[]).await;
        let hash = hex::encode(self.platform.system.pepper.hash(&expired));
        let sql = format!(
            "UPDATE sessions SET expires_at = now() - interval '1 s' WHERE token_hash = decode('{hash}', 'hex')"
        );
        self.platform.system.set(&sql).await;
        self.add("expired session", expired, Stand::Nobody);
    }

    fn add(&mut self, name: &str, token: String, stand: Stand) {
        self.callers.push(Caller { name: name.to_owned(), token: Some(token), stand });
    }

    /// The session of a new person; of the platform if `slug` is empty.
    async fn person(&self, slug: &str, role: &str, projects: &[(&str, &str)]) -> String {
        let (id, token) = self.person_row(slug, role, &Uuid::now_v7().to_string(), projects).await;
        let hash = hex::encode(self.platform.system.pepper.hash(&token));
        self.platform.system.set(&format!("INSERT INTO sessions (token_hash, id, principal_id, created_at, last_seen_at, expires_at) VALUES (decode('{hash}', 'hex'), '{id}', '{id}', now(), now(), now() + interval '1 hour')")).await;
        token
    }

    async fn person_row(
        &self,
        slug: &str,
        role: &str,
        name: &str,
        projects: &[(&str, &str)],
    ) -> (PrincipalId, String) {
        let id = PrincipalId::generate();
        let tenant = format!("(SELECT id FROM tenants WHERE slug = '{slug}')");
        let set = async |sql: String| self.platform.system.set(&sql).await;
        set(format!("INSERT INTO principals (id, tenant_id, login, display_name, role, created_at) VALUES ('{id}', {tenant}, '{name}@{slug}', '{name}', '{role}', now())")).await;
        for (project, role) in projects {
            set(format!("INSERT INTO project_members SELECT tenant_id, id, '{id}', '{role}', now() FROM projects WHERE slug = '{project}' AND tenant_id = {tenant}")).await;
        }
        (id, mint(CredentialKind::Session, random(id.0)))
    }

    async fn key(&self, slug: &str, project: &str, bounds: &str, times: &str) -> String {
        let id = KeyId::generate();
        let token = mint(CredentialKind::ApiKey, random(id.0));
        let hash = hex::encode(self.platform.system.pepper.hash(&token));
        let sql = format!(
            "INSERT INTO api_keys (id, tenant_id, project_id, name, prefix, key_hash, created_at, actions, networks, expires_at, revoked_at)
             SELECT '{id}', tenant_id, id, 'made', 'chy_', decode('{hash}', 'hex'), now(), {bounds}, {times} FROM projects
             WHERE slug = '{project}' AND tenant_id = (SELECT id FROM tenants WHERE slug = '{slug}')"
        );
        self.platform.system.set(&sql).await;
        let object = format!(
            "INSERT INTO audit_events (id, at, actor, action, object, verdict, detail) VALUES (gen_random_uuid(), now(), 'test', 'create', 'key:{id}', 'allowed', '{{}}')"
        );
        self.platform.system.set(&object).await;
        token
    }

    /// A route with its parameters filled in: objects of `interior` that are
    /// there, or that are not.
    pub fn path(&self, route: &str, real: bool) -> String {
        self.path_of(route, |parameter| self.object(parameter, real || parameter == "tenant"))
    }

    /// A route with its parameters filled in by this.
    pub fn path_of(&self, route: &str, object: impl Fn(&str) -> String) -> String {
        let fill = |segment: &str| match segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
            None => segment.to_owned(),
            Some(parameter) => object(parameter),
        };
        let path = route.split('/').map(fill).collect::<Vec<_>>().join("/");
        if path.starts_with("/api/v1/") && path.ends_with("/access") { path + "?action=get_me" } else { path }
    }

    /// What a parameter names: something that is there, or something that is not.
    pub fn object(&self, parameter: &str, real: bool) -> String {
        let object = self.objects.get(parameter);
        let object = object.unwrap_or_else(|| panic!("the scene has no {parameter}: add it"));
        match (real, object.parse::<Uuid>()) {
            (true, _) => object.clone(),
            (false, Ok(_)) => NO_ID.to_owned(),
            (false, Err(_)) => NO_NAME.to_owned(),
        }
    }

    /// A request; without the headers that the API asks of those which make or
    /// update, so that one that is allowed gets no further than these.
    pub fn request(&self, method: &Method, path: &str, caller: &Caller) -> RequestBuilder {
        let request =
            self.platform.system.http.request(method.clone(), format!("{}{path}", self.platform.url));
        match &caller.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// What is there, as those see it who may see all: by path.
    pub async fn look(&self, routes: &[String]) -> BTreeMap<String, Value> {
        let mut seen = BTreeMap::new();
        for route in routes {
            let path = self.path(route, true);
            let platform_only = [
                "/api/v1/workers",
                "/api/v1/plans",
                "/api/v1/tenant-deletions",
                "/api/v1/cohorts",
                "/api/v1/pools",
            ]
            .iter()
            .any(|p| route.starts_with(p));
            let token = if platform_only { &self.platform.admin } else { &self.observer };
            let url = format!("{}{path}", self.platform.url);
            let (status, mut body) =
                call(&self.platform.system.http, Method::GET, &url, Some(token), None).await;
            for changing in [
                "instance",
                "devices",
                "seen_at",
                "last_used_at",
                "signed_in_at",
                "position",
                "reason",
                "ready_replicas",
                // What is used of them; a change of what is configured shows
                // in the revision.
                "quotas",
                "budgets",
                "created_at",
                "live",
            ] {
                if let Some(members) = body.as_object_mut() {
                    members.remove(changing);
                }
            }
            seen.insert(path, json!({"status": status.as_u16(), "body": body}));
        }
        seen
    }
}

/// The certificate of a ministry that was deleted.
fn certificate(deleted: Uuid) -> String {
    let certificate = serde_json::from_value(json!({
        "kind": "", "tenant_id": deleted, "slug": "gone", "requested_at": "2026-01-01T00:00:00Z",
        "requested_by": "test", "finished_at": "2026-01-01T00:00:00Z", "rows": {}, "objects": 0,
        "object_bytes": 0, "export_sha256": null, "kept": [], "public_key": "",
    }));
    SigningKey::derive(&Pepper::new([3; 32])).sign(certificate.unwrap()).text()
}

/// A secret of its own for each identifier.
fn random(id: Uuid) -> [u8; 20] {
    let mut bytes = [9; 20];
    bytes[..16].copy_from_slice(id.as_bytes());
    bytes
}
