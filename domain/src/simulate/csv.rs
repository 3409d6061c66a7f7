//! Comma-separated values without quotes, as traces are: a header, then one
//! line for each row.

use std::collections::BTreeMap;

use super::{MAX_SECS, Micros, SECOND};

/// Longest text of a field that an error repeats.
const SHOWN: usize = 40;

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsvError {
    /// No line at all.
    #[error("line 1: expected a header with the columns {0}, found nothing")]
    Empty(String),
    /// A column is missing.
    #[error("line 1: expected a column {0} in the header, found only {1}")]
    Missing(String, String),
    /// A column that means nothing.
    #[error("line 1: column {0:?} is not known: the columns are {1}")]
    Unknown(String, String),
    /// A column is there twice.
    #[error("line 1: column {0:?} is there twice")]
    Twice(String),
    /// A field is not what it should be.
    #[error("line {line}, column {column}: expected {expected}, found {found:?}")]
    Field {
        /// From 1, the header.
        line: usize,
        /// Its name.
        column: String,
        /// In words.
        expected: String,
        /// The beginning of what is there.
        found: String,
    },
    /// A line has too many or too few fields.
    #[error("line {line}: expected {expected} fields as in the header, found {found}")]
    Fields {
        /// From 1, the header.
        line: usize,
        /// As many as the header.
        expected: usize,
        /// As many as there are.
        found: usize,
    },
    /// More than is read.
    #[error("line {line}: more than {most} {what}: split the file")]
    TooMany {
        /// Where it becomes too much.
        line: usize,
        /// The limit.
        most: usize,
        /// Of what.
        what: &'static str,
    },
}

/// Where columns are.
pub(super) struct Header<'a> {
    places: BTreeMap<&'a str, usize>,
    fields: usize,
}

/// One line.
pub(super) struct Row<'a, 'h> {
    pub line: usize,
    fields: Vec<&'a str>,
    header: &'h Header<'a>,
}

/// The header of a file, which has these columns; where `strict`, no others
/// but `optional` ones.
pub(super) fn header<'a>(
    text: &'a str,
    required: &[&str],
    optional: &[&str],
    strict: bool,
) -> Result<Header<'a>, CsvError> {
    let all = || [required, optional].concat().join(", ");
    let first = text.lines().next().filter(|line| !line.trim().is_empty());
    let first = first.ok_or_else(|| CsvError::Empty(required.join(", ")))?;
    // Spreadsheets begin files with a byte order mark.
    let first = first.trim_start_matches('\u{feff}');
    let mut places = BTreeMap::new();
    let mut fields = 0;
    for (place, name) in first.split(',').map(str::trim).enumerate() {
        if strict && !required.contains(&name) && !optional.contains(&name) {
            return Err(CsvError::Unknown(shown(name), all()));
        }
        if places.insert(name, place).is_some() {
            return Err(CsvError::Twice(shown(name)));
        }
        fields = place + 1;
    }
    match required.iter().find(|name| !places.contains_key(*name)) {
        Some(name) => Err(CsvError::Missing((*name).to_owned(), first.chars().take(200).collect())),
        None => Ok(Header { places, fields }),
    }
}

impl<'a> Header<'a> {
    /// The rows; empty lines and lines that begin with `#` are none.
    pub fn rows<'h>(&'h self, text: &'a str) -> impl Iterator<Item = Result<Row<'a, 'h>, CsvError>> {
        let lines = (1..).zip(text.lines()).skip(1);
        lines.filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#')).map(|(line, text)| {
            let fields: Vec<&str> = text.split(',').map(str::trim).collect();
            if fields.len() == self.fields {
                Ok(Row { line, fields, header: self })
            } else {
                Err(CsvError::Fields { line, expected: self.fields, found: fields.len() })
            }
        })
    }
}

impl Row<'_, '_> {
    /// What is in a column, if anything is.
    pub fn get(&self, column: &str) -> Option<&str> {
        let place = self.header.places.get(column)?;
        self.fields.get(*place).copied().filter(|field| !field.is_empty())
    }

    /// The value of a column, which must be there.
    pub fn value<T>(
        &self,
        column: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, CsvError> {
        let field = self.get(column).unwrap_or_default();
        parse(field).ok_or_else(|| self.wrong(column, expected))
    }

    /// The value of a column, or nothing where nothing is.
    pub fn optional<T>(
        &self,
        column: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, CsvError> {
        self.get(column).map(|field| parse(field).ok_or_else(|| self.wrong(column, expected))).transpose()
    }

    /// What is there is something else than expected.
    pub fn wrong(&self, column: &str, expected: &str) -> CsvError {
        CsvError::Field {
            line: self.line,
            column: column.to_owned(),
            expected: expected.to_owned(),
            found: shown(self.get(column).unwrap_or_default()),
        }
    }
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// Seconds with at most six decimals, as microseconds.
pub(super) fn seconds(text: &str) -> Option<Micros> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 6 {
        return None;
    }
    let whole: u64 = whole.parse().ok().filter(|secs| *secs <= MAX_SECS)?;
    let part: u64 = format!("{part:0<6}").parse().ok()?;
    Some(whole * SECOND + part)
}
