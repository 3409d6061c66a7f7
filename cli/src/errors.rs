//! How an error is told: one sentence, and its causes only when asked for.

use std::io;

use crate::client::failure::Unreachable;

/// The text for the terminal. Without `verbose` it is the outermost sentence,
/// with the innermost cause if that is an operating system's error, which says
/// what the sentence cannot know ("permission denied").
pub fn describe(error: &anyhow::Error, verbose: bool) -> String {
    if is_disk_full(error) {
        let more = if verbose { format!("\n  {error:#}") } else { String::new() };
        return format!("error: the disk is full: free some space and run this again{more}");
    }
    if verbose {
        return format!("error: {error:#}");
    }
    let sentence = error.to_string();
    if error.is::<Unreachable>() {
        return format!("error: {sentence}");
    }
    match error.root_cause().downcast_ref::<io::Error>() {
        Some(cause) if error.chain().count() > 1 && !sentence.contains(&cause.to_string()) => {
            format!("error: {sentence}: {cause}")
        }
        _ => format!("error: {sentence}"),
    }
}

/// A sentence that ends with the innermost cause, where only that says what
/// whoever runs the command can do.
pub fn because(sentence: &str, error: impl Into<anyhow::Error>) -> anyhow::Error {
    let error = error.into();
    let sentence = format!("{sentence}: {}", error.root_cause());
    error.context(sentence)
}

/// How the operating system says that a disk is full, e.g. in the log of a
/// program that ran out of it.
pub const NO_SPACE: &str = "No space left on device";

/// Whether anything in the chain is the operating system's "no space left",
/// and the sentence itself does not say it better, naming the disk.
fn is_disk_full(error: &anyhow::Error) -> bool {
    !error.to_string().contains("disk")
        && error.chain().any(|cause| {
            cause.to_string().contains(NO_SPACE)
                || cause.downcast_ref::<io::Error>().is_some_and(|e| {
                    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
                })
        })
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn one_sentence_unless_asked_for_more() {
        let error = Err::<(), _>(io::Error::from(io::ErrorKind::PermissionDenied))
            .context("cannot read secrets/pepper")
            .context("the API cannot start")
            .unwrap_err();
        assert_eq!(describe(&error, false), "error: the API cannot start: permission denied");
        assert!(describe(&error, true).contains("secrets/pepper"));
    }

    #[test]
    fn the_innermost_cause_is_said_where_it_is_asked_for() {
        let error = anyhow::anyhow!("password authentication failed").context("database error");
        let error = because("cannot connect", error);
        assert_eq!(describe(&error, false), "error: cannot connect: password authentication failed");
    }

    #[test]
    fn a_full_disk_is_said_first() {
        let error =
            Err::<(), _>(io::Error::from(io::ErrorKind::StorageFull)).context("cannot write x").unwrap_err();
        assert_eq!(describe(&error, false), "error: the disk is full: free some space and run this again");
    }
}
