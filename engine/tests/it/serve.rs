//! The socket: one connection, one request.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use domain::inference::{Event, FailureKind};
use engine::serve::{MAX_REQUEST_BYTES, Server};
use engine::{Engine, EngineError, EngineOptions, client};
use tempfile::TempDir;

use crate::support::{DEADLINE, collect, endless, engine, load, read};

struct Served {
    engine: Arc<Engine>,
    server: Server,
    directory: TempDir,
}

impl Served {
    fn start(options: &EngineOptions) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let engine = Arc::new(load(options));
        let server = Server::bind(&directory.path().join("socket"), engine.clone()).unwrap();
        Self { engine, server, directory }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.directory.path().join("socket")).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    fn only_event(&self, stream: UnixStream) -> Event {
        let lines: Vec<String> = BufReader::new(stream).lines().map(Result::unwrap).collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
        serde_json::from_str(&lines[0]).unwrap()
    }
}

#[test]
fn requests_are_answered_as_without_a_socket() {
    let served = Served::start(&EngineOptions::default());
    let socket = served.directory.path().join("socket");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let mut events = Vec::new();
    client::generate(&socket, &endless(12), |event| {
        events.push(event);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(collect(events).unwrap(), read(engine().generate(endless(12))));
    served.server.stop();
    assert!(!socket.exists());
    assert!(UnixStream::connect(&socket).is_err());
}

#[test]
fn nonsense_is_refused() {
    let served = Served::start(&EngineOptions::default());
    let says = |line: &[u8]| {
        let mut stream = served.connect();
        stream.write_all(line).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        match served.only_event(stream) {
            Event::Failed { kind: FailureKind::Invalid, message } => message,
            other => panic!("{other:?}"),
        }
    };
    assert!(says(b"{\"id\": 3}\n").starts_with("the request is not understood: "));
    assert!(says(b"\xFF\n").starts_with("the request is not understood: "));
    assert!(says(b"").starts_with("the request is not understood: "));
    let long = vec![b'x'; usize::try_from(MAX_REQUEST_BYTES).unwrap() + 1];
    assert_eq!(says(&long), "the request is longer than 16777216 bytes");
}

#[test]
fn closing_the_connection_cancels() {
    let served = Served::start(&EngineOptions { max_active: 1, ..EngineOptions::default() });
    let request = |stream: &mut UnixStream| {
        let mut line = serde_json::to_vec(&endless(4000)).unwrap();
        line.push(b'\n');
        stream.write_all(&line).unwrap();
    };
    let (mut first, mut second) = (served.connect(), served.connect());
    request(&mut first);
    let mut line = String::new();
    BufReader::new(&first).read_line(&mut line).unwrap();
    assert!(line.starts_with("{\"event\":\"started\""), "{line}");
    request(&mut second);
    assert!(served.engine.wait_until(DEADLINE, |s| (s.active, s.waiting) == (1, 1)));
    // One that waits, and one in the middle of its answer.
    drop(second);
    drop(first);
    assert!(served.engine.wait_until(DEADLINE, |s| (s.active, s.waiting) == (0, 0)));
}

#[test]
fn only_a_dead_engine_s_socket_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let engine = Arc::new(load(&EngineOptions::default()));
    let reason = || match Server::bind(&path, engine.clone()).err() {
        Some(EngineError::Socket { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    std::fs::write(&path, "precious").unwrap();
    assert!(reason().starts_with("something that is no socket is there"));
    std::fs::remove_file(&path).unwrap();
    let living = UnixListener::bind(&path).unwrap();
    assert!(reason().starts_with("another engine answers there"));
    drop(living);
    assert!(path.exists());
    Server::bind(&path, engine.clone()).unwrap();
}
