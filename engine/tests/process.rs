//! The engine as a process: readiness, signals, its parent's death, its memory
//! limit. The process is this binary again, told by the environment to serve: it
//! must have no other thread when it begins, so no test harness runs in it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

#[path = "it/support.rs"]
#[expect(dead_code, reason = "most of it is for the other tests")]
mod support;

use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use engine::serve::{Ready, ServeOptions, run};
use engine::{EngineOptions, client};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::support::{DEADLINE, collect, endless, model_path};

const TESTS: [(&str, fn()); 4] = [
    ("it_says_when_it_is_ready_and_ends_when_asked", it_says_when_it_is_ready_and_ends_when_asked),
    ("it_ends_when_its_parent_is_gone", it_ends_when_its_parent_is_gone),
    ("it_keeps_to_its_memory", it_keeps_to_its_memory),
    ("a_model_that_is_none_is_one_clear_sentence", a_model_that_is_none_is_one_clear_sentence),
];

fn main() {
    if std::env::var_os("CHILD_SOCKET").is_some() {
        return child();
    }
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    for (name, test) in TESTS.iter().filter(|(name, _)| name.contains(&filter)) {
        test();
        println!("test process::{name} ... ok");
    }
}

fn child() {
    let variable = |name: &str| std::env::var(name).ok();
    let options = ServeOptions {
        model: variable("CHILD_MODEL").unwrap().into(),
        socket: variable("CHILD_SOCKET").unwrap().into(),
        memory_bytes: variable("CHILD_MEMORY").map(|bytes| bytes.parse().unwrap()),
        follow_parent: true,
        drain_timeout: DEADLINE,
        engine: EngineOptions::default(),
    };
    if let Err(e) = run(&options) {
        eprintln!("{e}");
        std::process::exit(1);
    }
}

struct Process {
    child: Child,
    socket: PathBuf,
    _directory: TempDir,
}

impl Process {
    fn start(model: &Path, memory_bytes: Option<u64>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env("CHILD_MODEL", model).env("CHILD_SOCKET", &socket);
        command.envs(memory_bytes.map(|bytes| ("CHILD_MEMORY", bytes.to_string())));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { child: command.spawn().unwrap(), socket, _directory: directory }
    }

    fn ready(&mut self) -> Ready {
        let mut line = String::new();
        BufReader::new(self.child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    fn end(&mut self) -> (Option<i32>, String) {
        let mut errors = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        (self.child.wait().unwrap().code(), errors)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn it_says_when_it_is_ready_and_ends_when_asked() {
    let mut process = Process::start(&model_path(), Some(2 << 30));
    let info = process.ready().ready;
    assert_eq!((info.architecture.as_str(), info.context_length, info.chat), ("llama", 8192, true));
    assert_eq!((info.parameters, info.kv_bytes_per_token), (134_515_008, 46_080));
    // SIGINT is the parent's affair; SIGTERM lets the request in flight be answered.
    process.signal(Signal::SIGINT);
    let mut events = Vec::new();
    client::generate(&process.socket, &endless(4), |event| {
        if events.is_empty() {
            process.signal(Signal::SIGTERM);
        }
        events.push(event);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(collect(events).unwrap().counts.completion_tokens, 4);
    assert_eq!(process.end(), (Some(0), String::new()));
    assert!(!process.socket.exists());
}

fn it_ends_when_its_parent_is_gone() {
    let mut process = Process::start(&model_path(), None);
    process.ready();
    drop(process.child.stdin.take());
    assert_eq!(process.end(), (Some(0), String::new()));
}

fn it_keeps_to_its_memory() {
    let mut process = Process::start(&model_path(), Some(64 << 20));
    let (code, errors) = process.end();
    assert_ne!(code, Some(0));
    assert!(errors.contains("memory allocation of"), "{errors}");
}

fn a_model_that_is_none_is_one_clear_sentence() {
    let mut process = Process::start(Path::new("/dev/null"), None);
    let (code, errors) = process.end();
    assert_eq!(code, Some(1));
    assert!(errors.starts_with("the model file /dev/null is damaged or not GGUF"), "{errors}");
}
