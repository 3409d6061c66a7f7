//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::commands::ClientCommand;

const AFTER_HELP: &str = "\
Which credential a command uses:
  Commands of a ministry (projects, keys, endpoints, jobs, chat, …) send the API key of --key-file.
  Commands of the administrator (tenants, accounts, workers, models register), every command that
  names --tenant, and every command that the key may not do, sign in with --login and
  --password-file instead; the session is kept beside the password file, readable by you alone.

Where those settings come from, first one wins: the option, its variable, the section [client] of
the file that --config names, the same section of .chancery/client.toml here, which `chancery up`
writes.";

/// A sovereign AI cloud: models, accelerators and rules shared by ministries.
#[derive(Parser, Debug)]
#[command(name = "chancery", version, about, after_help = AFTER_HELP, max_term_width = 100)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Args {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command understands.
#[derive(clap::Args, Debug, Clone, Default)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// Configuration file (TOML); see `chancery config reference`.
    #[arg(long, global = true, env = "CHANCERY_CONFIG", hide_env_values = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How to print: `table` for people, `json` for programs (what the API answered).
    #[arg(
        long,
        global = true,
        env = "CHANCERY_OUTPUT",
        hide_env_values = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub output: Format,
    /// Base URL of the API.
    #[arg(long, global = true, env = "CHANCERY_SERVER", hide_env_values = true, value_name = "URL")]
    pub server: Option<String>,
    /// File with the API key of a project.
    #[arg(long, global = true, env = "CHANCERY_KEY_FILE", hide_env_values = true, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Whom to sign in as, e.g. admin@localhost.
    #[arg(long, global = true, env = "CHANCERY_LOGIN", hide_env_values = true, value_name = "NAME")]
    pub login: Option<String>,
    /// File with the password of --login.
    #[arg(long, global = true, env = "CHANCERY_PASSWORD_FILE", hide_env_values = true, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// One-time code of --login, where the account asks for one; the session is kept.
    #[arg(long, global = true, env = "CHANCERY_ONE_TIME_CODE", hide_env_values = true, value_name = "CODE")]
    pub one_time_code: Option<String>,
    /// The ministry to act for, when signed in as an administrator.
    #[arg(long, global = true, env = "CHANCERY_TENANT", hide_env_values = true, value_name = "SLUG")]
    pub tenant: Option<String>,
    /// Show the whole chain of causes of an error.
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Run under `up`: end when standard input closes, hold this lock meanwhile.
    #[arg(long, global = true, hide = true, value_name = "LOCK")]
    pub supervised: Option<PathBuf>,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    // Not explained to clap: that would spread every `--help` over pages.
    #[default]
    Table,
    Json,
}

/// The subcommands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run everything on this machine: database, API, scheduler and a worker.
    Up(UpOptions),
    /// Run the API: REST, OpenAI-compatible inference, portal.
    Api,
    /// Run the scheduler.
    Scheduler,
    /// Run a worker on this machine's accelerators.
    Worker,
    /// Bring the database to the schema of this program, then end.
    Migrate,
    /// Make the first administrator of the platform, where `chancery up` did not.
    BootstrapAdmin(BootstrapOptions),
    /// Hold one model in memory and answer on a socket; a worker starts it.
    #[command(hide = true)]
    Engine(EngineOptions),
    /// Plan capacity: play a trace of work on a fleet that is only described.
    Simulate(crate::simulate::SimulateOptions),
    /// Print the OpenAPI document of the REST API.
    Openapi,
    /// Explain or show the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    #[command(flatten)]
    Client(ClientCommand),
}

/// `chancery config …`
#[derive(Subcommand, Debug, Clone, Copy)]
pub enum ConfigCommand {
    /// Print the reference of every setting, as Markdown.
    Reference,
    /// Print the settings in force: defaults, file and variables put together.
    Show,
}

/// `chancery up …`
#[derive(clap::Args, Debug, Clone)]
pub struct UpOptions {
    /// Where everything is kept; created, and readable by you alone.
    #[arg(
        long,
        env = "CHANCERY_DATA_DIR",
        hide_env_values = true,
        default_value = ".chancery",
        value_name = "DIR"
    )]
    pub data_dir: PathBuf,
    /// Address of the API [default: api.listen of the configuration, 127.0.0.1:8080].
    #[arg(long, env = "CHANCERY_LISTEN", hide_env_values = true, value_name = "ADDRESS:PORT")]
    pub listen: Option<std::net::SocketAddr>,
    /// Model (GGUF) that the sample ministry serves under the name smollm2; needed once.
    #[arg(
        long,
        env = "CHANCERY_SAMPLE_MODEL",
        hide_env_values = true,
        value_name = "FILE",
        conflicts_with = "no_sample"
    )]
    pub sample_model: Option<PathBuf>,
    /// Folder of the PostgreSQL programs [default: the newest on this machine].
    #[arg(long, value_name = "DIR")]
    pub postgres_bin: Option<PathBuf>,
    /// Set up no sample ministry.
    #[arg(long)]
    pub no_sample: bool,
}

const AFTER_BOOTSTRAP: &str = "\
Needs the database alone: database.url_file of --config, or CHANCERY_DATABASE__URL_FILE. The API may
run or not. --login names the administrator, e.g. admin@localhost. The password that is printed signs
in for one thing only, to choose another: `chancery accounts change-password`.";

/// `chancery bootstrap-admin …`
#[derive(clap::Args, Debug, Clone)]
#[command(after_help = AFTER_BOOTSTRAP)]
pub struct BootstrapOptions {
    /// Although there is an administrator: give the one of --login another password, enabled and
    /// without one-time codes, or create one more. Recorded in the audit log.
    #[arg(long)]
    pub reset: bool,
    /// Write the password into this file, readable by you alone, instead of printing it.
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
}

/// `chancery engine …`
#[derive(clap::Args, Debug, Clone)]
pub struct EngineOptions {
    /// The model (GGUF).
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// Unix socket to answer on.
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,
    /// Most memory the process may use.
    #[arg(long, value_name = "BYTES")]
    pub memory_bytes: Option<u64>,
    /// Memory for the caches of the sequences it works on.
    #[arg(long, value_name = "BYTES")]
    pub kv_bytes: Option<u64>,
    /// Threads that compute [default: one for each core].
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Most requests worked on at a time.
    #[arg(long, value_name = "N")]
    pub max_active: Option<usize>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Args::command().debug_assert();
    }

    /// An option for every command is found by its name, so that a command's own
    /// argument of that name would be taken for it.
    #[test]
    fn no_command_has_an_argument_named_like_one_for_all() {
        fn look(command: &clap::Command, global: &[&str]) {
            for own in command.get_arguments().map(|a| a.get_id().as_str()) {
                assert!(!global.contains(&own), "{} has {own} of its own", command.get_name());
            }
            command.get_subcommands().for_each(|command| look(command, global));
        }
        let args = super::Args::command();
        let global: Vec<_> =
            args.get_arguments().filter(|a| a.is_global_set()).map(|a| a.get_id().as_str()).collect();
        assert!(global.contains(&"tenant"));
        args.get_subcommands().for_each(|command| look(command, &global));
    }
}
