//! Reads the whole input of a job once, before anything is created: every line
//! must be a request that can be answered, and all name one model.

use std::collections::HashSet;

use domain::budgets::most_tokens;
use domain::files::File;
use domain::jobs::{ChunkRange, LineReader, MAX_LINES, MAX_PROBLEMS};
use domain::models::Sha256Digest;
use domain::openai::{Operation, parse_line};
use domain::quotas::Amount;
use futures_util::StreamExt;
use store::objects::Objects;

use crate::problem::{ApiError, Result};

/// A good input.
#[derive(Debug)]
pub(super) struct Input {
    /// The model that every line names.
    pub model: String,
    /// Its lines, as they will be leased.
    pub chunks: Vec<ChunkRange>,
    /// Most tokens that each chunk can come to.
    pub tokens: Vec<Amount>,
}

/// What was found so far.
struct Reading {
    operation: Operation,
    model: Option<String>,
    /// Digests of the ids, which may be long.
    ids: HashSet<[u8; 16]>,
    starts: Vec<u64>,
    /// Most tokens of each line.
    tokens: Vec<Amount>,
    problems: Vec<String>,
    more_problems: u64,
}

impl Reading {
    fn problem(&mut self, position: u64, what: impl std::fmt::Display) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(format!("line {position}: {what}"));
        } else {
            self.more_problems += 1;
        }
    }

    fn line(&mut self, line: domain::jobs::Line<'_>) {
        self.starts.push(line.first_byte);
        let parsed = match parse_line(self.operation, line.text) {
            Ok(parsed) => parsed,
            Err(e) => return self.problem(line.position, e.message),
        };
        self.tokens.push(most_tokens(line.text.len(), parsed.request.max_tokens));
        let digest = Sha256Digest::of(parsed.custom_id.as_bytes()).0;
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        if !self.ids.insert(id) {
            let shown: String = parsed.custom_id.chars().take(80).collect();
            self.problem(line.position, format_args!("custom_id {shown:?} was used by an earlier line"));
        }
        match &self.model {
            None => self.model = Some(parsed.request.model),
            Some(model) if *model == parsed.request.model => {}
            Some(model) => {
                let what =
                    format!("body.model is {:?} but that of earlier lines {model:?}", parsed.request.model);
                self.problem(line.position, what);
            }
        }
    }

    fn finish(self, bytes: u64) -> Result<Input> {
        if !self.problems.is_empty() {
            let mut text = format!("the input cannot be run: {}", self.problems.join("; "));
            if self.more_problems > 0 {
                text.push_str(&format!("; and {} more", self.more_problems));
            }
            return Err(ApiError::field("input_file_id", text));
        }
        let Some(model) = self.model else {
            return Err(ApiError::field(
                "input_file_id",
                "the input has no lines; write one request per line",
            ));
        };
        let chunks = ChunkRange::of_lines(&self.starts, bytes);
        let mut lines = self.tokens.into_iter();
        let sum = |chunk: &ChunkRange| {
            lines
                .by_ref()
                .take(usize::try_from(chunk.lines).unwrap_or(usize::MAX))
                .fold(0, Amount::saturating_add)
        };
        let tokens = chunks.iter().map(sum).collect();
        Ok(Input { model, chunks, tokens })
    }
}

/// Reads the input.
pub(super) async fn read(objects: &Objects, file: &File, operation: Operation) -> Result<Input> {
    let (bytes, mut parts) = objects.get(&File::object_key(file.tenant_id, file.id)).await?;
    let mut reading = Reading {
        operation,
        model: None,
        ids: HashSet::new(),
        starts: Vec::new(),
        tokens: Vec::new(),
        problems: Vec::new(),
        more_problems: 0,
    };
    let mut lines = LineReader::default();
    while let Some(part) = parts.next().await {
        lines
            .push(&part?, |line| reading.line(line))
            .map_err(|e| ApiError::field("input_file_id", format!("the input cannot be run: {e}")))?;
        if reading.starts.len() as u64 > MAX_LINES {
            return Err(too_many());
        }
        // Parsing is work; others get their turn.
        tokio::task::yield_now().await;
    }
    lines.finish(|line| reading.line(line));
    if reading.starts.len() as u64 > MAX_LINES {
        return Err(too_many());
    }
    reading.finish(bytes)
}

fn too_many() -> ApiError {
    ApiError::field("input_file_id", format!("the input has more than {MAX_LINES} lines; split it"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use domain::files::FilePurpose;
    use domain::{FileId, ProjectId, TenantId, Timestamp};
    use serde_json::json;

    use super::*;

    async fn check(content: String) -> Result<Input> {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::local(dir.path()).unwrap();
        let (id, tenant_id) = (FileId::generate(), TenantId::generate());
        let bytes = content.len() as u64;
        let body = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from(content))]);
        let stored = objects.put(&File::object_key(tenant_id, id), body, u64::MAX).await.unwrap();
        let file = File {
            id,
            tenant_id,
            project_id: ProjectId::generate(),
            purpose: FilePurpose::Batch,
            filename: "x".to_owned(),
            bytes,
            sha256: stored.sha256,
            created_at: Timestamp::UNIX_EPOCH,
        };
        read(&objects, &file, Operation::ChatCompletions).await
    }

    fn line(id: &str, model: &str) -> String {
        let body = json!({"model": model, "messages": [{"role": "user", "content": "Hi"}]});
        json!({"custom_id": id, "method": "POST", "url": "/v1/chat/completions", "body": body}).to_string()
            + "\n"
    }

    #[tokio::test]
    async fn a_good_input_becomes_chunks() {
        let content: String = (0..50).map(|i| line(&format!("r{i}"), "m")).collect();
        let input = check(content).await.unwrap();
        assert_eq!(input.model, "m");
        assert_eq!(input.chunks.iter().map(|c| c.lines).sum::<u64>(), 50);
        assert_eq!(input.tokens.len(), input.chunks.len());
        assert!(input.tokens.iter().sum::<i64>() > 50 * 4096, "no line says how long its answer may be");
    }

    #[tokio::test]
    async fn every_problem_is_told_with_its_line() {
        let content = line("a", "m") + "\n" + &line("a", "m") + "{\n" + &line("b", "other");
        let text = check(content).await.unwrap_err().to_string();
        for says in
            ["line 3: custom_id \"a\" was used", "line 4: not JSON", "line 5: body.model is \"other\""]
        {
            assert!(text.contains(says), "{text}");
        }
    }

    #[tokio::test]
    async fn only_the_first_problems_are_listed() {
        let text = check("{}\n".repeat(100)).await.unwrap_err().to_string();
        assert_eq!(text.matches("line ").count(), MAX_PROBLEMS);
        assert!(text.ends_with("and 80 more"), "{text}");
    }

    #[tokio::test]
    async fn an_input_without_lines_is_refused() {
        let text = check(" \n\n".to_owned()).await.unwrap_err().to_string();
        assert!(text.contains("no lines"), "{text}");
    }
}
