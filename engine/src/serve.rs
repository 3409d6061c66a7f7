//! The engine as a process of its own, on a Unix socket.
//!
//! One connection is one request: the client writes one line, a
//! [`GenerateRequest`] in JSON, and reads lines, [`Event`]s in JSON. Closing the
//! connection, or its writing half, cancels. Whoever can open the socket is
//! trusted; it is readable and writable by its owner alone.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use domain::inference::{Event, FailureKind, GenerateRequest};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::{Engine, EngineError, EngineInfo, EngineOptions, Events};

/// Longest request line.
pub const MAX_REQUEST_BYTES: u64 = 16 << 20;
/// Connections beyond those that can be active or waiting, so that these hear that
/// the engine is overloaded.
pub const SPARE_CONNECTIONS: usize = 16;
/// How long a client may take to send its request.
pub const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may leave its answer unread when its buffers are full.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long requests may go on after SIGTERM, unless the options say otherwise.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Stack of a connection's threads.
const STACK_BYTES: usize = 512 << 10;

/// How to run the engine as a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeOptions {
    /// The GGUF file.
    pub model: PathBuf,
    /// Where to listen; a socket left behind by a dead process is replaced.
    pub socket: PathBuf,
    /// Limit on the process's data (`RLIMIT_DATA`): memory beyond it cannot be had,
    /// and the process ends rather than take its neighbours' memory.
    pub memory_bytes: Option<u64>,
    /// Standard input is a pipe from the parent: when it closes, the parent is
    /// dead, and the engine ends. SIGINT is then left to the parent.
    pub follow_parent: bool,
    /// How long requests may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// What the engine may use.
    pub engine: EngineOptions,
}

/// The line on standard output when requests can be answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// What is loaded.
    pub ready: EngineInfo,
}

enum End {
    Asked,
    ParentGone,
    Died,
}

/// Loads the model and answers until SIGTERM, or until the parent is gone. Call it
/// from a process that has no other threads yet: signals are taken by a thread of
/// this function, and others would be killed by them.
pub fn run(options: &ServeOptions) -> Result<(), EngineError> {
    let signals = block_signals()?;
    if let Some(bytes) = options.memory_bytes {
        setrlimit(Resource::RLIMIT_DATA, bytes, bytes).map_err(|e| system("limit the memory", e))?;
    }
    let (ends, end) = sync_channel(3);
    let follow = options.follow_parent;
    watch("engine-signals", ends.clone(), move || wait_for_signal(&signals, follow))?;
    if follow {
        // Before loading: a parent that dies meanwhile must not leave an orphan.
        watch("engine-parent", ends.clone(), wait_for_parent)?;
    }
    let engine = Arc::new(Engine::load(&options.model, &options.engine)?);
    let server = Server::bind(&options.socket, engine.clone())?;
    let watched = engine.clone();
    watch("engine-health", ends, move || {
        watched.wait_ended();
        End::Died
    })?;
    announce(engine.info())?;
    let ended = end.recv().unwrap_or(End::Died);
    server.stop();
    match ended {
        End::Asked if server.drain(&engine, options.drain_timeout) => {
            info!("All requests are answered; ending");
        }
        End::Asked => warn!("Ending with requests unanswered"),
        End::ParentGone => warn!("The parent process is gone; ending"),
        End::Died => return Err(EngineError::Died),
    }
    Ok(())
}

/// Listens on a socket until stopped.
pub struct Server {
    socket: PathBuf,
    stopping: Arc<AtomicBool>,
    open: Arc<Open>,
}

impl Server {
    /// Starts to listen and to answer.
    pub fn bind(socket: &Path, engine: Arc<Engine>) -> Result<Self, EngineError> {
        let refused = |reason: String| EngineError::Socket { path: socket.to_owned(), reason };
        remove_stale(socket).map_err(refused)?;
        let listener = UnixListener::bind(socket).map_err(|e| refused(e.to_string()))?;
        let owner_only = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(socket, owner_only).map_err(|e| refused(e.to_string()))?;
        let stopping = Arc::new(AtomicBool::new(false));
        let open = Arc::<Open>::default();
        let (stop, connections) = (stopping.clone(), open.clone());
        spawn("engine-accept", move || accept(&listener, &engine, &stop, &connections))?;
        Ok(Self { socket: socket.to_owned(), stopping, open })
    }

    /// Stops, and waits until what was accepted is answered and sent. False if it is
    /// not after `timeout`.
    pub fn drain(&self, engine: &Engine, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        self.stop();
        engine.drain(timeout) && self.open.wait_none(deadline.saturating_duration_since(Instant::now()))
    }

    /// Takes no more connections, and removes the socket; open ones go on.
    pub fn stop(&self) {
        if self.stopping.swap(true, Ordering::SeqCst) {
            return;
        }
        // Wakes the accepting thread, which then sees that it has to end.
        let _ = UnixStream::connect(&self.socket);
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn accept(listener: &UnixListener, engine: &Arc<Engine>, stop: &AtomicBool, open: &Arc<Open>) {
    let info = engine.info();
    let most = info.max_active as usize + info.max_waiting as usize + SPARE_CONNECTIONS;
    for stream in listener.incoming() {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let stream = match stream {
            Ok(stream) => stream,
            Err(e) => {
                // Out of file descriptors, most likely: some come back when a request ends.
                warn!(error = &e as &dyn std::error::Error, "Cannot accept a connection");
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
        };
        let Some(place) = Place::take(open, most) else {
            refuse(stream, FailureKind::Overloaded, "too many connections; try again later");
            continue;
        };
        let engine = engine.clone();
        let started = spawn("engine-request", move || {
            // The client is gone if this fails, and there is nobody to tell.
            let _ = answer(stream, &engine);
            drop(place);
        });
        if let Err(e) = started {
            warn!(error = &e as &dyn std::error::Error, "Cannot start a thread for a request");
        }
    }
}

/// How many connections are open.
#[derive(Default)]
struct Open {
    count: Mutex<usize>,
    none: Condvar,
}

impl Open {
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_none(&self, timeout: Duration) -> bool {
        let waited = self.none.wait_timeout_while(self.lock(), timeout, |count| *count > 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0 == 0
    }
}

/// One of the open connections.
struct Place {
    open: Arc<Open>,
}

impl Place {
    /// `None` if `most` are taken.
    fn take(open: &Arc<Open>, most: usize) -> Option<Self> {
        let mut count = open.lock();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Self { open: open.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.open.lock() -= 1;
        self.open.none.notify_all();
    }
}

fn answer(stream: UnixStream, engine: &Engine) -> io::Result<()> {
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    let mut reader = BufReader::new((&stream).take(MAX_REQUEST_BYTES + 1));
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line)?;
    if line.len() as u64 > MAX_REQUEST_BYTES {
        let message = format!("the request is longer than {MAX_REQUEST_BYTES} bytes");
        refuse(stream, FailureKind::Invalid, &message);
        return Ok(());
    }
    let request: GenerateRequest = match serde_json::from_slice(&line) {
        Ok(request) => request,
        Err(e) => {
            refuse(stream, FailureKind::Invalid, &format!("the request is not understood: {e}"));
            return Ok(());
        }
    };
    drop(line);
    stream.set_read_timeout(None)?;
    let events = engine.generate(request);
    let canceller = events.canceller();
    std::thread::scope(|scope| {
        let watcher = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, || {
            // Reads until the client closes, or until the answer is complete.
            let _ = io::copy(&mut &stream, &mut io::sink());
            canceller.cancel();
        });
        let result = watcher.map(drop).and_then(|()| write_events(&stream, events));
        // Wakes the watcher.
        let _ = stream.shutdown(Shutdown::Both);
        result
    })
}

fn write_events(stream: &UnixStream, events: Events) -> io::Result<()> {
    let mut writer = BufWriter::new(stream);
    for event in events {
        serde_json::to_writer(&mut writer, &event)?;
        writer.write_all(b"\n")?;
        writer.flush()?;
    }
    Ok(())
}

fn refuse(mut stream: UnixStream, kind: FailureKind, message: &str) {
    let event = Event::Failed { kind, message: message.to_owned() };
    let mut line = serde_json::to_vec(&event).expect("an event is always JSON");
    line.push(b'\n');
    // Best effort: the client may be gone. A short line fits into the socket's buffer.
    let _ = stream.write_all(&line);
}

/// Removes what a dead process left; refuses to touch anything else.
fn remove_stale(socket: &Path) -> Result<(), String> {
    let kind = match std::fs::symlink_metadata(socket) {
        Ok(metadata) => metadata.file_type(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e.to_string()),
    };
    if !kind.is_socket() {
        return Err("something that is no socket is there; choose another path or remove it".to_owned());
    }
    if UnixStream::connect(socket).is_ok() {
        return Err("another engine answers there; stop it or choose another path".to_owned());
    }
    std::fs::remove_file(socket).map_err(|e| e.to_string())
}

fn block_signals() -> Result<SigSet, EngineError> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().map_err(|e| system("block signals", e))?;
    Ok(signals)
}

fn wait_for_signal(signals: &SigSet, leave_interrupt: bool) -> End {
    loop {
        match signals.wait() {
            Ok(Signal::SIGINT) if leave_interrupt => {}
            Ok(_) => return End::Asked,
            // Only an invalid set fails, and this one is not.
            Err(_) => std::thread::park(),
        }
    }
}

fn wait_for_parent() -> End {
    // Nothing is expected; what comes is ignored. An error is as good as the end.
    let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
    End::ParentGone
}

fn watch(
    name: &str,
    ends: SyncSender<End>,
    wait: impl FnOnce() -> End + Send + 'static,
) -> Result<(), EngineError> {
    spawn(name, move || {
        // The first end counts; nobody listens for a second.
        let _ = ends.try_send(wait());
    })
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), EngineError> {
    let builder = std::thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES);
    let spawned = builder.spawn(run);
    spawned.map(drop).map_err(|source| EngineError::System { what: "start a thread", source })
}

fn announce(info: &EngineInfo) -> Result<(), EngineError> {
    let line = serde_json::to_string(&Ready { ready: info.clone() }).expect("the information is always JSON");
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{line}").and_then(|()| out.flush());
    written.map_err(|source| EngineError::System { what: "write to standard output", source })
}

fn system(what: &'static str, errno: nix::errno::Errno) -> EngineError {
    EngineError::System { what, source: errno.into() }
}
