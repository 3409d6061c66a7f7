//! Slow clients, idle connections, and a stop that drops no request.

use std::time::{Duration, Instant};

use axum::body::Bytes;
use futures_util::{StreamExt, stream};
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::support::{ADMIN, Api, conventional, read};

/// Reads until the server closes.
async fn rest(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut text).await;
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn slow_and_silent_clients_are_given_up() {
    let api = Api::start_with(|settings| {
        settings.header_timeout_secs = 1;
        settings.idle_timeout_secs = 1;
        settings.body_idle_timeout_secs = 1;
    })
    .await;
    let connect = async || TcpStream::connect(api.public).await.unwrap();
    let start = Instant::now();
    let silent = connect().await;
    let mut slow_head = connect().await;
    slow_head.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A").await.unwrap();
    let mut slow_body = connect().await;
    let head = "POST /api/v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
    slow_body.write_all(head.as_bytes()).await.unwrap();
    let mut idle = connect().await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut idle_http2 = connect().await;
    idle_http2.write_all(preface).await.unwrap();
    let (a, b, c, d, _) =
        tokio::join!(rest(silent), rest(slow_head), rest(slow_body), rest(idle), rest(idle_http2));
    // The HTTP/2 client is told to go, and has a few seconds to do so.
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
    assert_eq!(a, "");
    assert!(!b.contains("200"), "{b}");
    assert!(c.contains("408") && c.contains("urn:chancery:problem:timeout"), "{c}");
    assert!(d.starts_with("HTTP/1.1 200"), "{d}");
}

#[tokio::test]
async fn connections_beyond_the_cap_wait_their_turn() {
    let api = Api::start_with(|settings| {
        settings.max_connections = 2;
        settings.header_timeout_secs = 1;
    })
    .await;
    let held = [TcpStream::connect(api.public).await.unwrap(), TcpStream::connect(api.public).await.unwrap()];
    // Answered once one of those two has been given up.
    let start = Instant::now();
    api.get("/healthz", "").await.expect(200);
    assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());
    drop(held);
}

#[tokio::test]
async fn a_stop_finishes_what_was_begun() {
    let api = Api::start().await;
    let admin = api.sign_in(ADMIN).await;
    api.post("/api/v1/models", &admin, json!({ "name": "smollm2" })).await.expect(201);
    let (send, parts) = mpsc::channel::<Bytes>(1);
    let parts = stream::unfold(parts, async |mut parts| Some((parts.recv().await?, parts)));
    let path = "/api/v1/models/smollm2/versions/upload?filename=a.gguf";
    let request = conventional(reqwest::Client::new().post(format!("http://{}{path}", api.public)), &Method::POST)
        .bearer_auth(&admin)
        .body(reqwest::Body::wrap_stream(parts.map(Ok::<_, std::io::Error>)));
    let upload = tokio::spawn(read(request));
    send.send(Bytes::from_static(b"GGUF first")).await.unwrap();
    // The channel holds one: when this is taken, the request is under way.
    send.send(Bytes::from_static(b" second")).await.unwrap();
    send.send(Bytes::from_static(b" third")).await.unwrap();
    api.stop();
    // Nobody new is served.
    let start = Instant::now();
    while TcpStream::connect(api.public).await.is_ok() {
        assert!(start.elapsed() < Duration::from_secs(5), "still listening");
        tokio::task::yield_now().await;
    }
    send.send(Bytes::from_static(b" and last")).await.unwrap();
    drop(send);
    let answer = upload.await.unwrap().expect(201);
    assert_eq!(answer["manifest"]["files"][0]["bytes"], "GGUF first second third and last".len());
    let start = Instant::now();
    api.stopped().await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_connection_that_was_accepted_before_the_stop_is_still_answered() {
    let api = Api::start().await;
    let mut early: Vec<TcpStream> = Vec::new();
    for _ in 0..8 {
        early.push(TcpStream::connect(api.public).await.unwrap());
    }
    // Connections are accepted in their order: those above are by now.
    api.get("/healthz", "").await.expect(200);
    api.stop();
    for stream in &mut early {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    }
    for stream in early {
        let answer = rest(stream).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
        assert!(answer.to_lowercase().contains("connection: close"), "{answer:?}");
    }
    api.stopped().await;
}

#[tokio::test]
async fn http2_is_spoken_without_tls() {
    let api = Api::start().await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let ask = async || {
        let answer = client.get(format!("http://{}/healthz", api.public)).send().await.unwrap();
        (answer.version(), answer.status().as_u16())
    };
    let answers = futures_util::future::join_all((0..200).map(|_| ask())).await;
    assert!(answers.iter().all(|answer| *answer == (reqwest::Version::HTTP_2, 200)), "{answers:?}");
    api.stopped().await;
}
