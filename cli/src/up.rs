//! `chancery up`: everything on one machine. A private PostgreSQL and the
//! roles of this same program run as child processes, each restarted when it
//! ends; the first run sets up a sample ministry through the REST API.

mod children;
mod console;
mod database;
mod folder;
mod installation;
mod ports;
mod preflight;
mod readiness;
mod sample;

use std::process::ExitCode;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::{Global, UpOptions};
use crate::client::{Client, settings::Settings as ClientSettings};
use crate::config::Config;

use children::Children;
use console::Console;
use database::Database;
use folder::Folder;
use installation::Installation;

/// As a shell reports Ctrl-C.
const INTERRUPTED: u8 = 130;

/// What has been started so far, to be stopped in the other order.
#[derive(Default)]
struct Running {
    database: Option<Database>,
    children: Option<Children>,
}

/// Runs until a signal, or until something cannot go on.
pub async fn run(options: UpOptions, global: &Global) -> Result<ExitCode> {
    let console = Console::start();
    let mut signals = Signals::new()?;
    let mut running = Running::default();
    // Kept until the end: whoever else starts here is refused.
    let mut held = None;

    let result = tokio::select! {
        result = async {
            let folder = held.insert(preflight::open(&options, &console).await?);
            start(&options, global, folder, &console, &mut running).await?;
            watch(&mut running, &console).await
        } => result,
        () = signals.next() => Ok(()),
    };
    let result = result.map_err(|error| preflight::explain(error, held.as_ref()));
    // The reason comes before what follows from it.
    if let Err(error) = &result {
        eprintln!("{}", crate::errors::describe(error, global.verbose));
    }
    if running.database.is_some() || running.children.is_some() {
        console.say("Stopping; Ctrl-C again to stop at once");
    }
    tokio::select! {
        stopped = stop(&mut running) => match (&result, stopped) {
            (Ok(()), stopped) => stopped?,
            // What started badly may stop badly, for the same reason.
            (Err(_), Err(error)) if global.verbose => eprintln!("{}", crate::errors::describe(&error, true)),
            (Err(_), _) => {}
        },
        () = signals.next() => {
            // Dropping kills what still runs; PostgreSQL recovers by itself.
            drop(running);
            return Ok(ExitCode::from(INTERRUPTED));
        }
    }
    drop(held);
    match result {
        Ok(()) => {
            console.say("Stopped.");
            Ok(ExitCode::SUCCESS)
        }
        Err(_) => Ok(ExitCode::FAILURE),
    }
}

/// Brings everything up, in order, and says so.
async fn start(
    options: &UpOptions,
    global: &Global,
    folder: &Folder,
    console: &Console,
    running: &mut Running,
) -> Result<()> {
    let mut config = Config::load(global.config.as_deref())?;
    if let Some(listen) = options.listen {
        config.api.listen = listen;
    }
    preflight::check(options, &config, folder).await?;

    let installation = Installation::prepare(folder)?;
    let database = running.database.insert(Database::start(options, folder, console).await?);
    database.prepare(&installation, console).await?;
    installation.configure(&mut config, database, options)?;
    installation.ensure_admin(&config, console).await?;

    let children = running.children.insert(Children::start(&installation, console)?);
    let client = Client::new(ClientSettings::of_config(&config.client))?;
    readiness::wait_for_api(&client, children, console).await?;
    if !options.no_sample {
        let sample = sample::ensure(&client, &installation, options, console);
        if children.unless_failed(sample).await? {
            readiness::wait_for_prompt(&client, children, console).await?;
        }
    }
    crate::output::print(&announcement(&config, folder, options))
}

/// Ends only with the reason why it cannot go on.
async fn watch(running: &mut Running, console: &Console) -> Result<()> {
    let (Some(database), Some(children)) = (&mut running.database, &running.children) else { return Ok(()) };
    tokio::select! {
        error = database.watch(console) => Err(error),
        error = children.failure() => Err(error),
    }
}

/// Worker, scheduler, API, then the database.
async fn stop(running: &mut Running) -> Result<()> {
    if let Some(children) = running.children.take() {
        children.stop().await;
    }
    if let Some(database) = running.database.take() {
        database.stop().await?;
    }
    Ok(())
}

fn announcement(config: &Config, folder: &Folder, options: &UpOptions) -> String {
    let url = ports::url_of(config.api.listen);
    let admin = folder.shown(installation::ADMIN_PASSWORD);
    let mut text = format!(
        "Chancery is ready        {url}\n  sign in as             {}   password in {admin}\n",
        installation::ADMIN
    );
    if !options.no_sample {
        let key = folder.shown(sample::KEY_FILE);
        let (tenant, model) = (sample::TENANT, sample::MODEL);
        text += &format!(
            r#"  sample ministry        {tenant}          API key in {key}
  try                    curl {url}/v1/chat/completions -H "Authorization: Bearer $(cat {key})" \
                           -H 'Content-Type: application/json' -d '{{"model":"{model}","messages":[{{"role":"user","content":"Name three rivers."}}],"stream":true}}'
"#
        );
    }
    text
}

/// Ctrl-C and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
