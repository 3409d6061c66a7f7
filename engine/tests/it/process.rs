//! The engine as a process: readiness, signals, its parent's death, its memory
//! limit. The process is this test binary, told to run one ignored test.

use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use engine::serve::{Ready, ServeOptions, run};
use engine::{EngineOptions, client};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::support::{collect, endless, model_path};

#[test]
#[ignore = "the other tests run it, as a process of its own"]
fn child() {
    let variable = |name: &str| std::env::var(name).ok();
    let options = ServeOptions {
        model: variable("CHILD_MODEL").unwrap().into(),
        socket: variable("CHILD_SOCKET").unwrap().into(),
        memory_bytes: variable("CHILD_MEMORY").map(|bytes| bytes.parse().unwrap()),
        follow_parent: true,
        engine: EngineOptions::default(),
    };
    if let Err(e) = run(&options) {
        eprintln!("{e}");
        std::process::exit(1);
    }
    std::process::exit(0);
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
        command.args(["--exact", "process::child", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env("CHILD_MODEL", model).env("CHILD_SOCKET", &socket);
        command.envs(memory_bytes.map(|bytes| ("CHILD_MEMORY", bytes.to_string())));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { child: command.spawn().unwrap(), socket, _directory: directory }
    }

    fn ready(&mut self) -> Ready {
        let lines = BufReader::new(self.child.stdout.as_mut().unwrap()).lines();
        // The test harness prints lines of its own.
        lines.map_while(Result::ok).find_map(|line| serde_json::from_str(&line).ok()).expect("a line `ready`")
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

#[test]
fn it_says_when_it_is_ready_and_ends_when_asked() {
    let mut process = Process::start(&model_path(), Some(2 << 30));
    let info = process.ready().ready;
    assert_eq!((info.architecture.as_str(), info.context_length, info.chat), ("llama", 8192, true));
    assert_eq!((info.parameters, info.kv_bytes_per_token), (134_515_008, 46_080));
    // SIGINT is the parent's affair; SIGTERM lets the request in flight be answered.
    process.signal(Signal::SIGINT);
    let mut events = Vec::new();
    client::generate(&process.socket, &endless(20), |event| {
        if events.is_empty() {
            process.signal(Signal::SIGTERM);
        }
        events.push(event);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(collect(events).unwrap().counts.completion_tokens, 20);
    assert_eq!(process.end(), (Some(0), String::new()));
    assert!(!process.socket.exists());
}

#[test]
fn it_ends_when_its_parent_is_gone() {
    let mut process = Process::start(&model_path(), None);
    process.ready();
    drop(process.child.stdin.take());
    assert_eq!(process.end(), (Some(0), String::new()));
}

#[test]
fn it_keeps_to_its_memory() {
    let mut process = Process::start(&model_path(), Some(64 << 20));
    let (code, errors) = process.end();
    assert_ne!(code, Some(0));
    assert!(errors.contains("memory allocation of"), "{errors}");
}

#[test]
fn a_model_that_is_none_is_one_clear_sentence() {
    let mut process = Process::start(Path::new("/dev/null"), None);
    let (code, errors) = process.end();
    assert_eq!(code, Some(1));
    assert!(errors.starts_with("the model file /dev/null is damaged or not GGUF"), "{errors}");
}
