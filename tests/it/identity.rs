//! Identity providers of ministries: who may register them, what their groups
//! give, their tokens as credentials, and sign-ins, with a small provider that
//! does what the test says.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tests::browser::{Browser, location};
use tests::database::rows;
use tests::issuer::{AUDIENCE, CLIENT, Issuer};
use tests::ministries::{PASSWORD, Platform};

fn registration(issuer: &str) -> Value {
    json!({
        "name": "ours", "issuer": issuer, "client_id": CLIENT, "client_secret": "s3cret", "audience": AUDIENCE,
        "mappings": [
            {"group": "chiefs", "role": "tenant_admin"},
            {"group": "builders", "role": "developer"},
            {"group": "desk", "role": "user", "project": "sandbox"},
        ],
    })
}

fn path_of(provider: &Value) -> String {
    format!("/api/v1/identity-providers/{}", provider["id"].as_str().unwrap())
}

#[tokio::test]
async fn the_platform_registers_and_the_tenant_maps() {
    let p = Platform::start().await;
    let (chief, other) = (p.tenant("interior").await, p.tenant("justice").await);
    let developer = p.account("interior", "developer").await;
    let new = registration("https://id.interior.example/realms/a");
    let list = "/api/v1/identity-providers";

    // Only the platform registers, and an issuer once.
    for token in [&chief, &developer] {
        let (status, _) = p.call(Method::POST, list, token, Some(new.clone())).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
    }
    let made = p.provider("interior", new.clone()).await;
    assert!(!made.to_string().contains("s3cret"));
    let twice = p.call(Method::POST, &format!("{list}?tenant=justice"), &p.admin, Some(new.clone())).await;
    assert_eq!(twice.0, StatusCode::CONFLICT);

    // Its own tenant sees it; another gets the same answer as for nothing.
    let one = path_of(&made);
    let seen = p.ok(Method::GET, list, &chief, None).await;
    assert_eq!(seen["items"][0]["id"], made["id"]);
    assert!(!seen.to_string().contains("s3cret"));
    assert_eq!(p.ok(Method::GET, &one, &chief, None).await["issuer"], new["issuer"]);
    assert_eq!(p.call(Method::GET, list, &developer, None).await.0, StatusCode::FORBIDDEN);
    assert_eq!(p.ok(Method::GET, list, &other, None).await["items"], json!([]));
    let nothing = "/api/v1/identity-providers/01890000-0000-7000-8000-000000000000";
    let strip = |(status, mut answer): (StatusCode, Value)| {
        answer["instance"] = Value::Null;
        (status, answer)
    };
    for (method, tail, body) in [
        (Method::GET, "", None),
        (Method::PUT, "/mappings", Some(json!({"mappings": []}))),
        (Method::POST, "/check", None),
    ] {
        let foreign = p.call(method.clone(), &format!("{one}{tail}"), &other, body.clone()).await;
        let missing = p.call(method, &format!("{nothing}{tail}"), &other, body).await;
        assert_eq!(foreign.0, StatusCode::NOT_FOUND);
        assert_eq!(strip(foreign), strip(missing));
    }

    // The tenant maps its groups, within the tenant, and changes nothing else.
    let mapping = |role: &str| json!({"mappings": [{"group": "x", "role": role}]});
    let put = format!("{one}/mappings");
    let mapped = p.ok(Method::PUT, &put, &chief, Some(mapping("auditor"))).await;
    assert_eq!(mapped["mappings"], json!([{"group": "x", "role": "auditor"}]));
    let (status, refused) = p.call(Method::PUT, &put, &chief, Some(mapping("platform_admin"))).await;
    assert_eq!((status, &refused["field"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("mappings")));
    let change = json!({"audience": "elsewhere"});
    assert_eq!(p.call(Method::PATCH, &one, &chief, Some(change.clone())).await.0, StatusCode::FORBIDDEN);
    assert_eq!(p.call(Method::DELETE, &one, &chief, None).await.0, StatusCode::FORBIDDEN);

    // The platform changes it, if it is as it was read.
    let at = format!("{one}?tenant=interior");
    let request = p.system.http.patch(format!("{}{at}", p.url)).bearer_auth(&p.admin).json(&change);
    let stale = request.try_clone().unwrap().header("if-match", "\"1\"").send().await.unwrap();
    assert_eq!(stale.status(), StatusCode::PRECONDITION_FAILED);
    let unsaid = request.try_clone().unwrap().send().await.unwrap();
    assert_eq!(unsaid.status(), StatusCode::PRECONDITION_REQUIRED);
    let done = request.header("if-match", "\"2\"").send().await.unwrap();
    assert_eq!((done.status(), done.headers()["etag"].to_str().unwrap()), (StatusCode::OK, "\"3\""));
    for wrong in [
        json!({"algorithms": []}),
        json!({"algorithms": ["HS256"]}),
        json!({"groups_claim": "a..b"}),
        json!({"client_id": ""}),
        json!({"issuer": "https://id.other.example"}),
    ] {
        let (status, _) = p.call(Method::PATCH, &at, &p.admin, Some(wrong.clone())).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{wrong}");
    }
    for wrong in ["http://id.interior.example", "https://id.interior.example/#x", "file:///etc/passwd"] {
        let bad = json!({"name": "bad", "issuer": wrong, "client_id": CLIENT});
        let (status, _) = p.call(Method::POST, &format!("{list}?tenant=interior"), &p.admin, Some(bad)).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{wrong}");
    }
    p.ok(Method::DELETE, &at, &p.admin, None).await;
    assert_eq!(p.call(Method::GET, &one, &chief, None).await.0, StatusCode::NOT_FOUND);
    let object = format!("identity_provider:{}", made["id"].as_str().unwrap());
    let sql = format!("SELECT count(*) FROM audit_events WHERE object = '{object}' AND verdict = 'allowed'");
    assert_eq!(p.system.db.count(&sql).await, 4, "created, mapped, changed, deleted");
    p.system.stop().await;
}

#[tokio::test]
async fn a_token_gives_what_its_groups_give() {
    let p = Platform::start().await;
    p.tenant("interior").await;
    let id = Issuer::start().await;
    let provider = p.provider("interior", registration(&id.url)).await;
    let refused = async |token: String, why: &str| {
        let (status, answer) = p.me(&token).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{why}: {answer}");
        assert_eq!(answer["detail"], "the credential is not valid, or not any more", "{why}");
    };

    let anna = id.token("anna", &["builders", "unknown"]);
    let (status, me) = p.me(&anna).await;
    assert_eq!(status, StatusCode::OK, "{me}");
    assert_eq!((&me["role"], &me["tenant"]["slug"]), (&json!("developer"), &json!("interior")));
    assert_eq!(me["principal"]["display_name"], "anna Example");
    let account = me["principal"]["id"].as_str().unwrap().to_owned();
    // The highest role wins, and it is the token's, now.
    let (_, me) = p.me(&id.token("anna", &["builders", "chiefs"])).await;
    assert_eq!((&me["role"], &me["principal"]["id"]), (&json!("tenant_admin"), &json!(account)));
    // Nothing from groups that are not mapped, whoever comes.
    refused(id.token("anna", &[]), "no groups").await;
    refused(id.token("bert", &["Builders", "builders "]), "other groups").await;
    assert_eq!(p.system.db.count("SELECT count(*) FROM principals WHERE provider_id IS NOT NULL").await, 1);
    let made = format!(
        "SELECT count(*) FROM audit_events WHERE object = 'principal:{account}' AND action = 'create_account'"
    );
    assert_eq!(p.system.db.count(&made).await, 1);

    // Only one project.
    let (_, me) = p.me(&id.token("dora", &["desk"])).await;
    assert_eq!(me["role"], "member");
    let dora = id.token("dora", &["desk"]);
    assert_eq!(p.call(Method::GET, "/api/v1/projects", &dora, None).await.0, StatusCode::FORBIDDEN);
    let served = p.call(Method::GET, "/v1/models", &dora, None).await;
    assert_eq!(served.0, StatusCode::OK, "{}", served.1);

    refused(id.token_with("anna", &["builders"], |c| c["aud"] = json!("account")), "audience").await;
    refused(id.token_with("anna", &["builders"], |c| c["exp"] = json!(1)), "expired").await;
    refused(id.token_with("anna", &["builders"], |c| c["iss"] = json!("https://other.example")), "issuer")
        .await;
    refused(format!("{anna}x"), "signature").await;
    refused(id.logout_token(None, Some("anna")), "a logout token").await;
    refused("eyJhbGciOiJub25lIn0.e30.".to_owned(), "not signed").await;
    refused(format!("eyJ.{}", "x".repeat(20_000)), "long").await;

    // What changes counts at once: a disabled account, mappings, the provider.
    p.system.set(&format!("UPDATE principals SET disabled_at = now() WHERE id = '{account}'")).await;
    refused(id.token("anna", &["builders"]), "disabled").await;
    p.system.set(&format!("UPDATE principals SET disabled_at = NULL WHERE id = '{account}'")).await;
    let anna = id.token("anna", &["builders"]);
    assert_eq!(p.me(&anna).await.1["role"], "developer");
    let at = |tail: &str| format!("{}{tail}?tenant=interior", path_of(&provider));
    let less = json!({"mappings": [{"group": "builders", "role": "viewer"}]});
    p.ok(Method::PUT, &at("/mappings"), &p.admin, Some(less)).await;
    assert_eq!(p.me(&anna).await.1["role"], "viewer");
    p.ok(Method::PATCH, &at(""), &p.admin, Some(json!({"enabled": false}))).await;
    refused(anna.clone(), "provider not enabled").await;
    p.ok(Method::PATCH, &at(""), &p.admin, Some(json!({"enabled": true}))).await;
    assert_eq!(p.me(&anna).await.0, StatusCode::OK);
    p.ok(Method::DELETE, &at(""), &p.admin, None).await;
    refused(anna, "provider deleted").await;
    p.system.stop().await;
}

#[tokio::test]
async fn a_stopped_issuer_is_believed_and_its_keys_are_kept() {
    let p = Platform::start().await;
    p.tenant("interior").await;
    let id = Issuer::start().await;
    p.provider("interior", registration(&id.url)).await;
    let (early, late) = (id.token("anna", &["builders"]), id.token("anna", &["builders"]));
    let foreign = {
        let other = Issuer::start().await;
        other.rotate("k2");
        other.token_with("anna", &["builders"], |c| c["iss"] = json!(id.url))
    };
    assert_eq!(p.me(&early).await.0, StatusCode::OK);
    let kept = "SELECT count(*) FROM identity_providers WHERE jwks IS NOT NULL";
    tests::wait::until("keeping the keys", std::time::Duration::from_secs(10), async || {
        (p.system.db.count(kept).await == 1).then_some(())
    })
    .await;
    id.stop().await;
    // The keys that were fetched serve; unknown ones cannot be asked for.
    assert_eq!(p.me(&late).await.0, StatusCode::OK);
    assert_eq!(p.me(&foreign).await.0, StatusCode::UNAUTHORIZED);
    p.system.stop().await;
}

#[tokio::test]
async fn a_person_signs_in_and_is_kept_as_their_groups_say() {
    let p = Platform::start().await;
    p.tenant("interior").await;
    let id = Issuer::start().await;
    let provider = p.provider("interior", registration(&id.url)).await;
    let browser = Browser::default();
    // The small provider asks nothing: it sends the browser back at once.
    let sign_in = async |browser: &Browser| {
        let url = p.authorize_url(browser, &provider, "/models").await;
        let back = location(&browser.get(&url).await).unwrap();
        p.callback(browser, back.as_str()).await
    };

    id.signs_in("anna", &["builders", "desk"], "s1");
    let done = sign_in(&browser).await;
    assert_eq!(done.status(), StatusCode::SEE_OTHER);
    assert!(location(&done).unwrap().as_str().ends_with("/models"));
    assert!(browser.cookies("__Host-chancery-login").is_empty(), "the cookie of the sign-in is gone");
    let session = Platform::session(&browser).expect("a session");
    let (status, me) = p.me(&session).await;
    assert_eq!(status, StatusCode::OK, "{me}");
    assert_eq!((&me["role"], &me["tenant"]["slug"]), (&json!("developer"), &json!("interior")));
    let account = me["principal"]["id"].as_str().unwrap().to_owned();
    let members = "SELECT count(*) FROM project_members";
    assert_eq!(p.system.db.count(members).await, 1);

    // Groups change: role and memberships follow at the next sign-in.
    id.signs_in("anna", &["chiefs"], "s2");
    let again = Browser::default();
    assert_eq!(sign_in(&again).await.status(), StatusCode::SEE_OTHER);
    let second = Platform::session(&again).expect("a session");
    for token in [&session, &second] {
        let (_, me) = p.me(token).await;
        assert_eq!((&me["role"], &me["principal"]["id"]), (&json!("tenant_admin"), &json!(account)));
    }
    assert_eq!(p.system.db.count(members).await, 0);

    // The provider says that one session ended; then, that all of anna's did.
    let notify = async |token: &str| {
        let url = format!("{}{}", p.url, provider["backchannel_logout_path"].as_str().unwrap());
        let request = p.system.http.post(url).header("content-type", "application/x-www-form-urlencoded");
        request.body(format!("logout_token={token}")).send().await.unwrap().status()
    };
    let ended = id.logout_token(Some("s1"), None);
    assert_eq!(notify(&ended).await, StatusCode::NO_CONTENT);
    assert_eq!(p.me(&session).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(p.me(&second).await.0, StatusCode::OK);
    assert_eq!(notify(&ended).await, StatusCode::BAD_REQUEST, "a logout token counts once");
    assert_eq!(notify(&id.token("anna", &[])).await, StatusCode::BAD_REQUEST);
    assert_eq!(notify(&id.logout_token(None, Some("bert"))).await, StatusCode::NO_CONTENT);
    assert_eq!(p.me(&second).await.0, StatusCode::OK);
    assert_eq!(notify(&id.logout_token(None, Some("anna"))).await, StatusCode::NO_CONTENT);
    assert_eq!(p.me(&second).await.0, StatusCode::UNAUTHORIZED);

    // Signing out here names the provider's page.
    assert_eq!(sign_in(&browser).await.status(), StatusCode::SEE_OTHER);
    let third = Platform::session(&browser).unwrap();
    let out = p.ok(Method::DELETE, "/api/v1/sessions/current", &third, None).await;
    let url = out["provider_logout_url"].as_str().unwrap();
    assert!(url.starts_with(&format!("{}/logout?", id.url)) && url.contains("id_token_hint=eyJ"), "{url}");
    assert_eq!(p.me(&third).await.0, StatusCode::UNAUTHORIZED);

    // Groups that give nothing any more: refused, and signed out elsewhere too.
    assert_eq!(sign_in(&again).await.status(), StatusCode::SEE_OTHER);
    let fourth = Platform::session(&again).unwrap();
    id.signs_in("anna", &["strangers"], "s5");
    let refused = sign_in(&browser).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    assert!(refused.text().await.unwrap().contains("your groups"));
    assert_eq!(p.me(&fourth).await.0, StatusCode::UNAUTHORIZED);
    let mut su = p.system.db.superuser().await;
    let left = rows(&mut su, &format!("SELECT role FROM principals WHERE id = '{account}'")).await.unwrap();
    assert_eq!(sqlx::Row::get::<String, _>(&left[0], 0), "member");

    // A disabled account stays out whatever its groups.
    id.signs_in("anna", &["chiefs"], "s6");
    p.system.set(&format!("UPDATE principals SET disabled_at = now() WHERE id = '{account}'")).await;
    assert_eq!(sign_in(&browser).await.status(), StatusCode::FORBIDDEN);

    // Whoever sends back another's answer signs nobody in.
    let url = p.authorize_url(&browser, &provider, "/").await;
    let back = location(&browser.get(&url).await).unwrap();
    let stranger = Browser::default();
    assert_eq!(p.callback(&stranger, back.as_str()).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(Platform::session(&stranger), None);

    // Each refusal is in the ministry's audit log, and the session says where it was opened.
    let refused = "SELECT detail->>'reason' AS reason, detail->>'login' AS login, detail->>'address' AS address,
            tenant_id IS NOT NULL AS ours FROM audit_events
        WHERE action = 'create_session' AND verdict = 'denied' AND object LIKE 'identity_provider:%' ORDER BY id";
    let refused = rows(&mut su, refused).await.unwrap();
    let text = |row: &sqlx::postgres::PgRow, column| sqlx::Row::get::<Option<String>, _>(row, column);
    let whys: Vec<String> = refused.iter().map(|row| text(row, "reason").unwrap()).collect();
    assert!(whys.iter().any(|why| why.contains("your groups")), "{whys:?}");
    assert!(whys.iter().any(|why| why.contains("disabled")), "{whys:?}");
    assert!(whys.last().unwrap().contains("not under way"), "{whys:?}");
    assert!(refused.iter().all(|row| sqlx::Row::get(row, "ours")));
    assert!(refused.iter().all(|row| text(row, "address").as_deref() == Some("127.0.0.1")));
    assert!(text(&refused[0], "login").is_some() && text(refused.last().unwrap(), "login").is_none());
    let unplaced = "SELECT count(*) FROM sessions s JOIN principals p ON p.id = s.principal_id
        WHERE p.provider_id IS NOT NULL AND s.address IS DISTINCT FROM '127.0.0.1'";
    assert_eq!(p.system.db.count(unplaced).await, 0);

    // Guesses without end from one address are not worth a record each.
    for _ in 0..60 {
        p.callback(&stranger, back.as_str()).await;
    }
    assert_eq!(p.callback(&stranger, back.as_str()).await.status(), StatusCode::TOO_MANY_REQUESTS);
    p.pass(std::time::Duration::from_secs(60));

    // Where the provider is down, that is what people hear.
    let login = format!("{}{}", p.url, provider["login_path"].as_str().unwrap());
    id.stop().await;
    assert_eq!(browser.get(&login).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    let nobody = format!("{}/auth/01890000-0000-7000-8000-000000000000/login", p.url);
    assert_eq!(browser.get(&nobody).await.status(), StatusCode::NOT_FOUND);
    p.system.stop().await;
}

#[tokio::test]
async fn a_sign_in_page_sees_providers_and_not_which_ministries_there_are() {
    let p = Platform::start().await;
    for slug in ["interior", "justice"] {
        p.tenant(slug).await;
    }
    let mut new = registration("https://id.interior.example/realms/a");
    new["label"] = json!("Staff of the Interior");
    let made = p.provider("interior", new).await;
    let platform = json!({"name": "ops", "issuer": "https://id.platform.example", "client_id": CLIENT});
    p.ok(Method::POST, "/api/v1/identity-providers", &p.admin, Some(platform)).await;

    let get = async |query: &str| {
        let answer =
            p.system.http.get(format!("{}/api/v1/sign-in/providers{query}", p.url)).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    };
    let items = async |query: &str| {
        let (status, text) = get(query).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        serde_json::from_str::<Value>(&text).unwrap()["items"].take()
    };
    let shown = json!([
        {"name": "ours", "label": "Staff of the Interior", "login_path": made["login_path"]},
    ]);
    assert_eq!(items("?tenant=interior").await, shown);
    let ours = items("").await;
    assert_eq!((&ours[0]["name"], &ours[0]["label"]), (&json!("ops"), &json!("ops")), "{ours}");
    assert_eq!(ours.as_array().unwrap().len(), 1);
    // A ministry without providers, and one that never was.
    assert_eq!(get("?tenant=justice").await, get("?tenant=atlantis").await);
    assert_eq!(items("?tenant=justice").await, json!([]));

    let at = format!("{}?tenant=interior", path_of(&made));
    let renamed = p.ok(Method::PATCH, &at, &p.admin, Some(json!({"label": ""}))).await;
    assert_eq!(renamed["label"], "ours");
    p.ok(Method::PATCH, &at, &p.admin, Some(json!({"enabled": false}))).await;
    assert_eq!(items("?tenant=interior").await, json!([]));

    // An address has 600 requests a minute.
    let mut refused = false;
    for _ in 0..40 {
        let answers = futures_util::future::join_all((0..50).map(|_| get(""))).await;
        refused = answers.iter().any(|(status, _)| *status == StatusCode::TOO_MANY_REQUESTS);
        if refused {
            break;
        }
    }
    assert!(refused);
    p.system.stop().await;
}

#[tokio::test]
async fn two_ministries_have_nothing_in_common_but_the_installation() {
    let p = Platform::start().await;
    p.tenant("interior").await;
    p.tenant("justice").await;
    let (first, second) = (Issuer::start().await, Issuer::start().await);
    p.provider("interior", registration(&first.url)).await;
    p.provider("justice", registration(&second.url)).await;
    let (_, one) = p.me(&first.token("anna", &["chiefs"])).await;
    let (_, two) = p.me(&second.token("anna", &["chiefs"])).await;
    assert_eq!((&one["tenant"]["slug"], &two["tenant"]["slug"]), (&json!("interior"), &json!("justice")));
    assert_ne!(
        one["principal"]["id"], two["principal"]["id"],
        "the same subject at two issuers is two people"
    );
    // One issuer's token that says it is the other's.
    let lie = first.token_with("anna", &["chiefs"], |c| c["iss"] = json!(second.url));
    assert_eq!(p.me(&lie).await.0, StatusCode::UNAUTHORIZED);
    let crossed =
        p.call(Method::GET, "/api/v1/projects?tenant=justice", &first.token("anna", &["chiefs"]), None).await;
    assert_eq!(crossed.0, StatusCode::NOT_FOUND);
    p.system.stop().await;
}

#[tokio::test]
async fn a_check_says_what_is_wrong() {
    let p = Platform::start().await;
    let chief = p.tenant("interior").await;
    let id = Issuer::start().await;
    let check = async |provider: &Value| {
        p.ok(Method::POST, &format!("{}/check", path_of(provider)), &chief, None).await
    };
    let good = p.provider("interior", registration(&id.url)).await;
    let found = check(&good).await;
    assert_eq!((&found["ok"], &found["keys"], &found["problems"]), (&json!(true), &json!(1), &json!([])));

    let problems = async |issuer: String, more: Value, says: &str| {
        let mut new = json!({"name": "other", "issuer": issuer, "client_id": CLIENT});
        new.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let made = p.provider("interior", new).await;
        let found = check(&made).await;
        assert_eq!(found["ok"], false);
        assert!(found["problems"].to_string().contains(says), "{says}: {found}");
        p.ok(Method::DELETE, &format!("{}?tenant=interior", path_of(&made)), &p.admin, None).await;
    };
    problems(format!("{}/", id.url), json!({}), "calls itself").await;
    problems(id.url.replace("/realm", "/other"), json!({}), "answered 404").await;
    problems("http://127.0.0.1:9/realm".to_owned(), json!({}), "cannot be reached").await;
    p.ok(Method::DELETE, &format!("{}?tenant=interior", path_of(&good)), &p.admin, None).await;
    problems(id.url.clone(), json!({"algorithms": ["ES256"]}), "signs with RS256").await;
    problems(id.url.clone(), json!({}), "No group is mapped").await;
    p.system.stop().await;
}

#[tokio::test]
async fn a_ministry_is_federated_by_the_command_line_alone() {
    let p = Platform::start().await;
    p.tenant("interior").await;
    let id = Issuer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (password, secret) = (file("password", PASSWORD), file("secret", "s3cret"));
    let run = async |args: &[&str]| {
        let mut command = tokio::process::Command::new(tests::installation::program());
        command.current_dir(dir.path()).arg("identity-providers").args(args);
        command.args(["--server", &p.url, "--login", "admin@localhost", "--password-file", &password]);
        let done = command.args(["--tenant", "interior"]).output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (done.status.success(), text(&done.stdout), text(&done.stderr))
    };
    let ok = async |args: &[&str]| {
        let (ok, out, err) = run(args).await;
        assert!(ok, "{args:?}: {out}{err}");
        out
    };
    let create = ["create", "staff", "--issuer", &id.url, "--client-id", CLIENT, "--audience", AUDIENCE];
    let made =
        ok(&[&create[..], &["--client-secret-file", &secret, "--map", "chiefs=tenant_admin"]].concat()).await;
    assert!(made.contains("/backchannel-logout") && made.contains("chiefs is tenant_admin"), "{made}");
    assert!(!made.contains("s3cret"));
    assert!(ok(&["list"]).await.contains(&id.url));
    assert!(ok(&["check", "staff"]).await.contains("yes"));
    assert_eq!(p.me(&id.token("anna", &["chiefs"])).await.1["role"], "tenant_admin");
    // The provider's token in a file, where a key would be.
    let token = file("token", &id.token("anna", &["chiefs"]));
    let mut command = tokio::process::Command::new(tests::installation::program());
    command.current_dir(dir.path()).args(["audit", "list", "--server", &p.url, "--key-file", &token]);
    let done = command.output().await.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(String::from_utf8_lossy(&done.stdout).contains("create_identity_provider"));
    let desk = ["update", "staff", "--map", "desk=user@sandbox", "--map", "chiefs=viewer"];
    assert!(ok(&desk).await.contains("desk is user in sandbox"));
    assert_eq!(p.me(&id.token("anna", &["chiefs"])).await.1["role"], "viewer");
    assert!(ok(&["update", "staff", "--disable"]).await.contains("disabled"));
    let (checked, out, _) = run(&["check", "staff"]).await;
    assert!(!checked && out.contains("not enabled"), "{out}");
    ok(&["update", "staff", "--enable"]).await;
    assert!(ok(&["show", "staff"]).await.contains("enabled"));
    ok(&["delete", "staff"]).await;
    let (found, _, err) = run(&["show", "staff"]).await;
    assert!(!found && err.contains("there is no identity provider staff"), "{err}");
    p.system.stop().await;
}

#[tokio::test]
async fn who_comes_twice_at_once_for_the_first_time_is_one_person() {
    let p = Platform::start().await;
    p.tenant("interior").await;
    let id = Issuer::start().await;
    p.provider("interior", registration(&id.url)).await;
    let tokens: Vec<String> = (0..20).map(|_| id.token("anna", &["builders", "desk"])).collect();
    let answers = futures_util::future::join_all(tokens.iter().map(|token| p.me(token))).await;
    for (status, me) in &answers {
        assert_eq!(*status, StatusCode::OK, "{me}");
        assert_eq!(me["principal"]["id"], answers[0].1["principal"]["id"]);
    }
    let made =
        "SELECT count(*) FROM audit_events WHERE action = 'create_account' AND actor LIKE 'provider:%'";
    assert_eq!(p.system.db.count(made).await, 1);
    p.system.stop().await;
}
