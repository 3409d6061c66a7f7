//! `chancery jobs …`

mod watch;

use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use clap::Subcommand;
use domain::JobId;
use domain::jobs::Job;
use domain::tenants::Slug;
use serde_json::{Value, json};

use super::resources::Resources;
use super::{Call, note, short};
use crate::args::Format;
use crate::client::lines::{self, Defaults};
use crate::client::{Scope, upload};
use crate::output;

const CREATE_HELP: &str = "\
Each line of the input may be
  a request of the batch API       {\"custom_id\": …, \"method\": \"POST\", \"url\": …, \"body\": {…}}
  a prompt                         {\"prompt\": \"…\"}, also with temperature, max_tokens, custom_id, …
  a conversation                   {\"messages\": [{\"role\": \"user\", \"content\": \"…\"}]}
  a text in JSON                   \"…\"
  anything, if the name ends with .txt: each line is a prompt.
A line without a custom_id gets line-N, with its number in the file. If any line is wrong, its
number is printed and nothing is created.

Ctrl-C stops watching; the job goes on.";

/// What can be done with jobs.
#[derive(Subcommand, Debug)]
pub enum JobsCommand {
    /// Run every prompt of a file.
    #[command(after_help = CREATE_HELP)]
    Create(CreateOptions),
    /// List the jobs of the ministry.
    List,
    /// Show one, and why it waits.
    Get {
        /// Its identifier.
        id: JobId,
    },
    /// Stop one; lines that are done keep their results.
    Cancel {
        /// Its identifier.
        id: JobId,
    },
    /// Watch one until it is done.
    Wait {
        /// Its identifier.
        id: JobId,
        /// Where to write the results then.
        #[arg(long, value_name = "FILE")]
        results: Option<PathBuf>,
    },
    /// Write the results of one to standard output, or to --to.
    Results {
        /// Its identifier.
        id: JobId,
        /// Where to write them.
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
}

/// `chancery jobs create …`
#[derive(clap::Args, Debug)]
pub struct CreateOptions {
    /// The endpoint or model that answers.
    #[arg(long, short)]
    model: Option<String>,
    /// The prompts.
    #[arg(long, short, value_name = "FILE")]
    input: PathBuf,
    /// The project that it belongs to [default: the key's, or the only one].
    #[arg(long, value_name = "SLUG")]
    project: Option<Slug>,
    /// Where to write the results when it is done.
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// What the model is told before each prompt.
    #[arg(long)]
    system: Option<String>,
    /// Longest answer, in tokens, for lines that do not say it.
    #[arg(long)]
    max_tokens: Option<u32>,
    #[command(flatten)]
    resources: Resources,
    /// Higher goes first, -1000 to 1000 [default: 0].
    #[arg(long, allow_negative_numbers = true)]
    priority: Option<i32>,
    /// Do not wait until it is done.
    #[arg(long)]
    detach: bool,
}

pub(super) async fn run(command: JobsCommand, at: &Call) -> Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match command {
        JobsCommand::Create(options) => create(options, at).await,
        JobsCommand::List => {
            let items = at.client.list(Scope::Tenant, "api/v1/jobs").await?;
            output::list(
                at.format,
                items,
                &["id", "model", "state", "done", "failed", "created", "note"],
                row,
            )
            .map(done)
        }
        JobsCommand::Get { id } => {
            let job = at.client.get(Scope::Tenant, &path(id), &[]).await?;
            output::object(at.format, job, fields).map(done)
        }
        JobsCommand::Cancel { id } => {
            let job = at.client.post(Scope::Tenant, &format!("{}/cancel", path(id)), &json!({})).await?;
            output::object(at.format, job, fields).map(done)
        }
        JobsCommand::Wait { id, results } => finish(at, id, results.as_deref()).await,
        JobsCommand::Results { id, to } => print_results(at, id, to.as_deref()).await.map(done),
    }
}

async fn create(options: CreateOptions, at: &Call) -> Result<ExitCode> {
    let (wrapped, count) = wrap(&options)?;
    let name = options.input.file_name().and_then(|name| name.to_str()).unwrap_or("input.jsonl").to_owned();
    let file = super::files::send(at, wrapped.path(), &name, options.project.as_ref()).await?;
    let mut request = json!({"input_file_id": file["id"]});
    if let Some(project) = &options.project {
        request["project"] = json!(project);
    }
    options.resources.into_body(&mut request);
    if let Some(priority) = options.priority {
        request["priority"] = json!(priority);
    }
    let made = at.client.post_slow(Scope::Tenant, "api/v1/jobs", &request).await?;
    let job: Job = output::parse(made.clone())?;
    if options.detach {
        return match at.format {
            Format::Json => output::json(&made),
            Format::Table => output::print(&job.id.to_string()),
        }
        .map(|()| ExitCode::SUCCESS);
    }
    note(format_args!("Job {}: {count} lines for {}", job.id, job.model));
    finish(at, job.id, options.results.as_deref()).await
}

/// The input as the API takes it, in a temporary file.
fn wrap(options: &CreateOptions) -> Result<(tempfile::NamedTempFile, u64)> {
    let (input, _) = upload::open(&options.input)?;
    let is_text = options.input.extension().is_some_and(|e| e.eq_ignore_ascii_case("txt"));
    let format = if is_text { lines::Format::Text } else { lines::Format::JsonLines };
    let defaults = Defaults {
        model: options.model.clone(),
        system: options.system.clone(),
        max_tokens: options.max_tokens,
    };
    let wrapped = tempfile::NamedTempFile::new().context("cannot write a temporary file")?;
    let out = BufWriter::new(wrapped.as_file());
    let count = lines::wrap_all(BufReader::new(input), out, format, &defaults).map_err(|e| {
        let sentence = format!("{}: {e}", options.input.display());
        e.context(sentence)
    })?;
    Ok((wrapped, count))
}

/// Watches to the end, then writes the results.
async fn finish(at: &Call, id: JobId, results: Option<&Path>) -> Result<ExitCode> {
    let Some(raw) = watch::until_final(at, id).await? else {
        note(format_args!("The job goes on. Come back with: chancery jobs wait {id}"));
        return Ok(ExitCode::from(130));
    };
    let job: Job = output::parse(raw.clone())?;
    if at.format == Format::Json {
        output::json(&raw)?;
    }
    match (results, job.output_file_id, job.error_file_id) {
        (Some(to), ..) => {
            let written = write_results(at, &job, to).await?;
            note(format_args!("Results: {written}"));
        }
        (None, None, None) => {}
        (None, ..) => note(format_args!("Results: chancery jobs results {id}")),
    }
    let counts = job.lines;
    let took = job.ended_at.map_or(0, |end| end.since(job.created_at).as_secs());
    note(format_args!(
        "{} of {} lines answered, {} failed, in {took} s",
        counts.completed, counts.total, counts.failed
    ));
    if counts.completed == counts.total {
        return Ok(ExitCode::SUCCESS);
    }
    if counts.failed == 0 {
        bail!("the job was cancelled after {} of {} lines", counts.completed, counts.total);
    }
    Err(anyhow!("{} of {} lines failed; their errors are among the results", counts.failed, counts.total))
}

/// Answers to `to`, errors beside it; says where.
async fn write_results(at: &Call, job: &Job, to: &Path) -> Result<String> {
    let mut places = Vec::new();
    if let Some(id) = job.output_file_id {
        super::files::download(at, id, to).await?;
        places.push(to.display().to_string());
    }
    if let Some(id) = job.error_file_id {
        let mut name = to.as_os_str().to_owned();
        name.push(".errors");
        super::files::download(at, id, Path::new(&name)).await?;
        places.push(Path::new(&name).display().to_string());
    }
    if places.is_empty() {
        bail!("the job has no results");
    }
    Ok(places.join(" and "))
}

async fn print_results(at: &Call, id: JobId, to: Option<&Path>) -> Result<()> {
    let job: Job = output::parse(at.client.get(Scope::Tenant, &path(id), &[]).await?)?;
    if !job.state.is_final() {
        bail!("the job is not done: wait for it with `chancery jobs wait {id}`");
    }
    match to {
        Some(to) => note(format_args!("Results: {}", write_results(at, &job, to).await?)),
        None => {
            for file in [job.output_file_id, job.error_file_id].into_iter().flatten() {
                super::files::print(at, file).await?;
            }
        }
    }
    Ok(())
}

fn path(id: JobId) -> String {
    format!("api/v1/jobs/{id}")
}

fn row(job: &Job) -> Vec<String> {
    vec![
        job.id.to_string(),
        job.model.clone(),
        job.state.as_str().to_owned(),
        format!("{} of {}", job.lines.completed, job.lines.total),
        job.lines.failed.to_string(),
        output::moment(job.created_at),
        watch::waits(job).unwrap_or_default(),
    ]
}

fn fields(job: &Job) -> Vec<(&'static str, String)> {
    let mut fields = vec![
        ("job", job.id.to_string()),
        ("model", format!("{} ({})", job.model, short(job.version_digest))),
        ("state", job.state.as_str().to_owned()),
        ("answered", format!("{} of {}", job.lines.completed, job.lines.total)),
        ("failed", job.lines.failed.to_string()),
        ("created", output::moment(job.created_at)),
        ("ended", output::moment_or_dash(job.ended_at)),
    ];
    fields.extend(watch::waits(job).map(|reason| ("note", reason)));
    fields.extend(job.output_file_id.map(|id| ("results", id.to_string())));
    fields.extend(job.error_file_id.map(|id| ("errors", id.to_string())));
    fields
}

/// For `watch`, which shows it while it changes.
async fn fetch(at: &Call, id: JobId) -> Result<Value> {
    at.client.get(Scope::Tenant, &path(id), &[]).await
}
