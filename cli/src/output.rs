//! What is printed: tables for people, JSON for programs.

use std::io::{self, Write};

use anyhow::{Context, Result};
use comfy_table::{ContentArrangement, Table, presets};
use domain::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::args::Format;

/// Writes to standard output. A reader that left (`| head`) is no error.
pub fn print(text: &str) -> Result<()> {
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    part(&format!("{text}{newline}")).map(drop)
}

/// Writes a part of a longer text as it is. False once the reader has left:
/// there is nobody to go on for.
pub fn part(text: &str) -> Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to standard output")
    {
        Err(e) if reader_left(&e) => Ok(false),
        result => result.map(|()| true),
    }
}

/// Whether this is the error of writing to somebody who does not read any more.
pub fn reader_left(error: &anyhow::Error) -> bool {
    error.root_cause().downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// JSON for programs.
pub fn json(value: &Value) -> Result<()> {
    print(&serde_json::to_string_pretty(value).context("cannot be written as JSON")?)
}

/// A list: as the API gave it, or one row each.
pub fn list<T: DeserializeOwned>(
    format: Format,
    items: Vec<Value>,
    header: &[&str],
    row: impl Fn(&T) -> Vec<String>,
) -> Result<()> {
    if format == Format::Json {
        return json(&Value::Array(items));
    }
    let rows =
        items.into_iter().map(|item| parse(item).map(|item| row(&item))).collect::<Result<Vec<_>>>()?;
    print(&table(header, rows))
}

/// One object: as the API gave it, or its fields below each other.
pub fn object<T: DeserializeOwned>(
    format: Format,
    item: Value,
    fields: impl Fn(&T) -> Vec<(&'static str, String)>,
) -> Result<()> {
    if format == Format::Json {
        return json(&item);
    }
    let fields = fields(&parse(item)?);
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines: Vec<_> = fields.iter().map(|(name, value)| format!("{name:width$}  {value}")).collect();
    print(&lines.join("\n"))
}

/// An object the API answered, as its type.
pub fn parse<T: DeserializeOwned>(item: Value) -> Result<T> {
    serde_json::from_value(item)
        .context("the API answered something else than expected: is it of another version?")
}

/// Rows below a header.
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(|name| name.to_uppercase()));
    table.add_rows(rows);
    table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned() + "\n").collect()
}

/// `2026-01-31 13:05:59`, UTC.
pub fn moment(at: Timestamp) -> String {
    let text = at.to_string();
    text.get(..19).unwrap_or(&text).replace('T', " ")
}

/// An optional moment.
pub fn moment_or_dash(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "–".to_owned(), moment)
}

/// `94 MB`: three digits at most before the unit.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 999.5 && unit < UNITS.len() - 1 {
        size /= 1000.0;
        unit += 1;
    }
    let decimals = usize::from(unit > 0 && size < 9.95);
    format!("{size:.decimals$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (n, text) in
            [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (98_362_432, "98 MB"), (1 << 40, "1.1 TB")]
        {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn moments_are_to_the_second() {
        let at: Timestamp = "2026-01-31T13:05:59.123456Z".parse().unwrap();
        assert_eq!(moment(at), "2026-01-31 13:05:59");
    }

    #[test]
    fn tables_start_at_the_margin() {
        let text = table(&["name", "n"], vec![vec!["a".into(), "1".into()], vec!["long".into(), "2".into()]]);
        assert_eq!(text, "NAME  N\na     1\nlong  2\n");
    }
}
