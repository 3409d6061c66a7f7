//! Real servers in temporary folders. As root they run as another account.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use postgres::{Binaries, Options, PostgresError, SUPERUSER, Server, Settings};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

fn options(data_dir: &Path) -> Options {
    let binaries = Binaries::find().expect("the tests need PostgreSQL");
    Options { binaries, data_dir: data_dir.to_path_buf(), port: 0, settings: Settings::Durable }
}

/// The server answers a request for TLS with one letter: it has none.
fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return false };
    let mut answer = [0];
    stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer == *b"N"
}

/// The number that initdb drew, the first eight bytes of the control file.
fn identity(data_dir: &Path) -> Vec<u8> {
    fs::read(data_dir.join("data/global/pg_control")).expect("a cluster has one")[..8].to_vec()
}

#[test]
fn a_second_start_finds_the_same_cluster_and_password() {
    let dir = TempDir::new().unwrap();
    let first = Server::start(&options(dir.path())).unwrap();
    let (port, url, drawn) = (first.port(), first.url(SUPERUSER, "postgres"), identity(dir.path()));
    assert!(answers(port));
    assert!(first.socket_dir().join(format!(".s.PGSQL.{port}")).exists());
    first.stop().unwrap();
    assert!(!answers(port));

    let second = Server::start(&Options { port, ..options(dir.path()) }).unwrap();
    assert_eq!(second.url(SUPERUSER, "postgres"), url);
    assert_eq!(identity(dir.path()), drawn);
    let secret = fs::metadata(dir.path().join("superuser-password")).unwrap();
    assert_eq!(secret.permissions().mode() & 0o777, 0o600);
    assert_eq!(secret.uid(), nix::unistd::geteuid().as_raw());
    drop(second);
    assert!(!answers(port), "dropping a server stops it");
}

#[test]
fn one_folder_has_one_server() {
    let dir = TempDir::new().unwrap();
    let _first = Server::start(&options(dir.path())).unwrap();
    let error = Server::start(&options(dir.path())).unwrap_err();
    assert!(matches!(error, PostgresError::InUse(_)), "{error}");
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let dir = TempDir::new().unwrap();
    let error = Server::start(&Options { port, ..options(dir.path()) }).unwrap_err();
    assert!(error.to_string().contains(&format!("port {port} is in use")), "{error}");
}

#[test]
fn data_of_another_version_are_left_alone() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("data")).unwrap();
    fs::write(dir.path().join("data/PG_VERSION"), "99\n").unwrap();
    let error = Server::start(&options(dir.path())).unwrap_err();
    assert!(matches!(error, PostgresError::Version { data: 99, .. }), "{error}");
}

#[test]
fn an_initdb_that_was_cut_off_is_done_again() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("data.new")).unwrap();
    fs::write(dir.path().join("data.new/PG_VERSION"), "15\n").unwrap();
    let server = Server::start(&options(dir.path())).unwrap();
    assert!(answers(server.port()));
}

#[test]
fn a_long_path_does_not_prevent_the_socket() {
    let dir = TempDir::new().unwrap();
    let long = dir.path().join("x".repeat(120));
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let server = Server::start(&options(&long)).unwrap();
    let socket_dir = server.socket_dir().to_path_buf();
    assert!(socket_dir.join(format!(".s.PGSQL.{}", server.port())).exists());
    server.stop().unwrap();
    assert!(!socket_dir.exists(), "a temporary folder is removed");
}

#[test]
fn root_is_told_which_folder_is_closed_to_the_server() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let closed = TempDir::new().unwrap();
    fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let inside = Options { settings: Settings::Throwaway, ..options(&closed.path().join("postgres")) };
    let error = Server::start(&inside).unwrap_err();
    assert!(error.to_string().contains(&format!("chmod o+x {}", closed.path().display())), "{error}");
}

#[test]
fn a_killed_process_leaves_no_server_and_no_folder() {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "victim", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines().map(Result::unwrap);
    let told = lines.find_map(|line| Some(line.strip_prefix("victim ")?.to_owned())).unwrap();
    let (port, folder) = told.split_once(' ').unwrap();
    let port = port.parse().unwrap();
    assert!(answers(port));

    victim.kill().unwrap();
    victim.wait().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while answers(port) || Path::new(folder).exists() {
        assert!(Instant::now() < deadline, "the server or its folder is still there");
        std::thread::yield_now();
    }
}

/// Not a test of its own: the process that the test above kills.
#[test]
#[ignore = "the test of a killed process runs it"]
fn victim() {
    let server = Server::throwaway(&Binaries::find().unwrap()).unwrap();
    println!("\nvictim {} {}", server.port(), server.socket_dir().parent().unwrap().display());
    // Ends when the parent forgets to kill us.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
