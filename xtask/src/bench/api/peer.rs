//! pgbench, running the statements that the API runs, in the same transactions.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::database::{APP, Kept};
use super::operations::{Depth, Operation, Page, Role};
use super::rows;
use super::timings::Timings;
use crate::process::tail;

/// Ids before and after all others, and a time after all.
const LAST_ID: &str = "ffffffff-ffff-ffff-ffff-ffffffffffff";
const FIRST_ID: &str = "00000000-0000-0000-0000-000000000000";
const LAST_TIME: &str = "9999-12-31";
/// The newest and the oldest thirty days that there are.
const MONTHS: [(&str, &str); 2] = [("2026-09-28", "2026-10-28"), ("2026-01-01", "2026-01-31")];

/// The usage of a month: nothing to turn to, but further back in time.
pub fn month(depth: Depth) -> Page {
    let number = if depth == Depth::First { 1 } else { 2 };
    let (from, to) = MONTHS[number - 1];
    Page { query: format!("?from={from}T00:00:00Z&to={to}T00:00:00Z"), after: String::new(), number }
}

/// A statement with its place: one row, or a page.
fn placed(statement: &str, page: bool) -> String {
    let (from, to, limit) = if page {
        (":first", ":to", "51")
    } else if statement.contains("FROM endpoints") {
        ("bench.id(2, :t, :k)", "bench.id(2, :t, :k)", "1")
    } else {
        ("bench.id(3, :t, :k)", "bench.id(3, :t, :k)", "1")
    };
    statement.replace("/*from*/", from).replace("/*to*/", to).replace("/*limit*/", limit)
}

/// What pgbench runs for an operation.
fn script(operation: &Operation) -> String {
    let mut script = operation.rows.to_owned();
    if !script.contains("\\set k") {
        script += "\\set k 0\n";
    }
    for transaction in &operation.peer {
        // One round trip, as the API begins: role and tenant come with BEGIN.
        script += "\\startpipeline\nBEGIN;\n";
        script += match transaction.role {
            Role::Tenant => {
                "SELECT set_config('role', 'chancery_tenant', true), set_config('chancery.tenant', bench.id(0, :t, 0)::text, true);\n"
            }
            Role::System => "SET LOCAL ROLE chancery_system;\n",
        };
        script += "\\endpipeline\n";
        for statement in transaction.statements {
            script += &placed(statement, operation.list.is_some());
            script.push('\n');
        }
        script += if transaction.commits { "COMMIT;\n" } else { "ROLLBACK;\n" };
    }
    script
}

/// Variables of a page, as pgbench takes them.
fn variables(operation: &Operation, page: &Page, tenants: u32) -> Vec<String> {
    let (from, to) = MONTHS[usize::from(page.number > 1)];
    let deep = !page.after.is_empty();
    let to = match operation.list {
        Some(("usage", _)) => to.to_owned(),
        _ if deep => rows::before(&page.after),
        _ => LAST_ID.to_owned(),
    };
    let is_text = matches!(operation.list, Some(("projects" | "tenants" | "workers", _)));
    let after = match (deep, is_text) {
        (true, _) => page.after.clone(),
        (false, true) => "-".to_owned(),
        (false, false) => LAST_ID.to_owned(),
    };
    // The time of a page of files is that of its cursor's row; the peer asks
    // for it too, and uses what the id says.
    let time = if deep && !is_text { time_of(&page.after) } else { LAST_TIME.to_owned() };
    [
        ("tenants", tenants.to_string()),
        ("none", "-".to_owned()),
        ("model", "catalogue".to_owned()),
        ("first", FIRST_ID.to_owned()),
        ("from", from.to_owned()),
        ("to", to),
        ("after", after),
        ("time", time),
    ]
    .into_iter()
    .map(|(name, value)| format!("{name}={value}"))
    .collect()
}

/// The time in a UUID of version 7, as PostgreSQL reads it.
fn time_of(id: &str) -> String {
    let ms = u64::from_str_radix(id.replace('-', "").get(..12).unwrap_or_default(), 16).unwrap_or(0);
    let (days, ms) = (ms / 86_400_000, ms % 86_400_000);
    // The rows of the generator lie in 2026.
    let date = (1..=12).scan(20_454, |start, month| {
        let length = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month - 1];
        let found = (*start, month);
        *start += length;
        Some(found)
    });
    let (start, month) = date.take_while(|(start, _)| *start <= days).last().unwrap_or((20_454, 1));
    let seconds = ms / 1000;
    format!(
        "2026-{month:02}-{:02} {:02}:{:02}:{:02}.{:03}+00",
        days - start + 1,
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        ms % 1000
    )
}

/// Runs an operation's transactions for some seconds.
pub fn run(
    kept: &Kept,
    database: &str,
    dir: &Path,
    operation: &Operation,
    page: &Page,
    (clients, tenants, seconds): (u32, u32, u32),
) -> Result<Timings> {
    let file = dir.join("script.sql");
    fs::write(&file, script(operation))?;
    let logs = dir.join("logs");
    fs::create_dir_all(&logs)?;
    let mut command = kept.client("pgbench", APP, database);
    command.args(["-n", "-M", "prepared", "-j", "2", "-l"]);
    command.args(["-c", &clients.to_string(), "-T", &seconds.to_string()]);
    command.arg("-f").arg(&file).arg(format!("--log-prefix={}", logs.join("log").display()));
    for variable in variables(operation, page, tenants) {
        command.args(["-D", &variable]);
    }
    let output = command.stdin(Stdio::null()).output().context("cannot run pgbench")?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if !output.status.success() || said.contains("aborted") {
        bail!("pgbench could not run {}:\n{}", operation.name, tail(&said));
    }
    let mut timings = Timings::new(f64::from(seconds));
    for entry in fs::read_dir(&logs)? {
        let path = entry?.path();
        for line in fs::read_to_string(&path)?.lines() {
            // client, number, microseconds, …
            if let Some(Ok(micros)) = line.split(' ').nth(2).map(str::parse::<u64>) {
                timings.add(micros as f64 / 1000.0);
            }
        }
        fs::remove_file(&path)?;
    }
    if timings.is_empty() {
        bail!("pgbench ran nothing of {}:\n{}", operation.name, tail(&said));
    }
    Ok(timings)
}

/// Who runs a statement when the cost of row-level security is measured.
#[derive(Clone, Copy)]
pub enum Sees {
    /// The tenant's role: row-level security chooses the rows.
    Own,
    /// A role that row-level security does not bind: the statement says whose.
    All,
}

/// Mean milliseconds of one statement of ministry `t`, by one client.
pub fn statement(
    kept: &Kept,
    dir: &Path,
    (name, statement): (&str, &str),
    page: bool,
    (t, seconds): (u32, u32),
    sees: Sees,
) -> Result<f64> {
    let mut text = format!("\\set t {t}\n\\set k 7\n{}", placed(statement, page));
    while let Some(start) = text.find("/*own ") {
        let end = start + text[start..].find("*/").context("a comment ends")? + 2;
        let alias = text[start + 6..end - 2].to_owned();
        let predicate = match sees {
            Sees::Own => String::new(),
            Sees::All => format!("AND {alias}.tenant_id = :own"),
        };
        text.replace_range(start..end, &predicate);
    }
    let file = dir.join("statement.sql");
    fs::write(&file, text)?;
    let tenant =
        kept.query(super::database::LARGE, &format!("SELECT bench.id(0, {t}, 0)"))?.trim().to_owned();
    let mut command = kept.client("pgbench", postgres::SUPERUSER, super::database::LARGE);
    let role = match sees {
        Sees::Own => "chancery_tenant",
        Sees::All => "bench_bypass",
    };
    command.env("PGOPTIONS", format!("-c role={role} -c chancery.tenant={tenant}"));
    command.args(["-n", "-M", "prepared", "-c", "1", "-T", &seconds.to_string()]).arg("-f").arg(&file);
    let name_is_text = name == "list_projects";
    for (variable, value) in [
        ("own", tenant.as_str()),
        ("none", "-"),
        ("first", FIRST_ID),
        ("from", MONTHS[0].0),
        ("to", if name == "get_usage" { MONTHS[0].1 } else { LAST_ID }),
        ("after", if name_is_text { "-" } else { LAST_ID }),
        ("time", LAST_TIME),
    ] {
        command.arg("-D").arg(format!("{variable}={value}"));
    }
    let output = command.stdin(Stdio::null()).output().context("cannot run pgbench")?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let mean = said
        .lines()
        .find_map(|line| line.strip_prefix("latency average = ")?.split(' ').next()?.parse().ok());
    match mean {
        Some(mean) if output.status.success() && !said.contains("aborted") => Ok(mean),
        _ => bail!("pgbench could not run {name}:\n{}", tail(&said)),
    }
}

#[cfg(test)]
mod tests {
    use super::time_of;

    #[test]
    fn the_time_of_an_id_is_read() {
        assert_eq!(time_of("019baf5c-1089-7000-8004-00010000076c"), "2026-01-11 23:20:05.001+00");
    }
}
