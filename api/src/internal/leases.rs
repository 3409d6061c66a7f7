//! Leases of job chunks. The worker gets what to generate and sends what came
//! of it; which answer each line becomes is decided here, in one place with
//! `/v1`. Lines are read from the input again each time: it is where they are.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use domain::files::File;
use domain::inference::Priority;
use domain::jobs::line_request_id;
use domain::openai::{BatchLine, ErrorBody, ErrorObject, Operation, answer_body, parse_line};
use domain::outbox::Topic;
use domain::workers::{
    CompleteRequest, CompletedLine, LeaseRequest, LeasedChunk, LeasedLine, LineOutcome, RenewRequest,
    RenewResponse,
};
use domain::{JobId, LeaseToken, Timestamp, WorkerId};
use serde_json::json;
use store::budgets::tokens;
use store::jobs::leases::{self, Chunk, Leased, Renewal};
use store::results::LineResult;
use store::usage::LineUsage;
use utoipa_axum::router::OpenApiRouter;

use super::WorkerIdentity;
use crate::extract::{Json, Path};
use crate::problem::{ApiError, Result};
use crate::state::App;

/// Largest report of a chunk: 64 answers of a long context.
const MAX_COMPLETE_BYTES: usize = 64 << 20;

pub(super) fn router() -> OpenApiRouter<App> {
    use axum::routing::post;
    OpenApiRouter::new()
        .route("/internal/v1/jobs/{job}/lease", post(lease_chunk))
        .route("/internal/v1/jobs/{job}/chunks/{index}/renew", post(renew_chunk))
        .route(
            "/internal/v1/jobs/{job}/chunks/{index}/complete",
            post(complete_chunk).layer(axum::extract::DefaultBodyLimit::max(MAX_COMPLETE_BYTES)),
        )
}

async fn lease_chunk(
    State(app): State<App>,
    WorkerIdentity(worker): WorkerIdentity,
    Path(job): Path<JobId>,
    Json(body): Json<LeaseRequest>,
) -> Result<Response> {
    let now = app.clock.now();
    let mut tx = app.store.system().await?;
    let token = LeaseToken(uuid::Builder::from_random_bytes(app.random()).into_uuid());
    let leased = leases::lease(&mut tx, job, worker, body.placement_id, body.generation, token, now).await?;
    let chunk = match leased {
        Leased::Chunk(chunk) => chunk,
        Leased::Nothing => return Ok(StatusCode::NO_CONTENT.into_response()),
        Leased::Short(short) => {
            drop(tx);
            let mut tx = app.store.system().await?;
            if tokens::wait_for_tokens(&mut tx, job, &short).await? {
                store::outbox::publish(&mut tx, Topic::Desired, job, now).await?;
                tx.commit().await?;
            }
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
    };
    tx.commit().await?;
    let lines = read_lines(&app, &chunk).await?;
    let lines = lines.into_iter().map(|(line, parsed)| LeasedLine {
        line,
        request: parsed.request.into_generate(line_request_id(token, line), Priority::Batch),
    });
    let answer = LeasedChunk {
        job_id: job,
        index: chunk.index,
        token,
        expires_at: chunk.expires_at,
        lines: lines.collect(),
    };
    Ok(Json(answer).into_response())
}

async fn renew_chunk(
    State(app): State<App>,
    WorkerIdentity(worker): WorkerIdentity,
    Path((job, index)): Path<(JobId, u32)>,
    Json(body): Json<RenewRequest>,
) -> Result<Json<RenewResponse>> {
    let mut tx = app.store.system().await?;
    let renewal = leases::renew(&mut tx, job, index, worker, body.token, app.clock.now()).await?;
    tx.commit().await?;
    match renewal {
        Renewal::Until(expires_at) => Ok(Json(RenewResponse { expires_at })),
        Renewal::Stop => Err(ApiError::Conflict("the job is being cancelled; drop the chunk".to_owned())),
    }
}

async fn complete_chunk(
    State(app): State<App>,
    WorkerIdentity(worker): WorkerIdentity,
    Path((job, index)): Path<(JobId, u32)>,
    Json(body): Json<CompleteRequest>,
) -> Result<StatusCode> {
    let mut tx = app.store.system().await?;
    let chunk = leases::held(&mut tx, job, index, worker, body.token, app.clock.now()).await?;
    tx.commit().await?;
    let lines = read_lines(&app, &chunk).await?;
    let now = app.clock.now();
    let (results, used) = results_of(&chunk, lines, body.lines, now)?;

    let mut event = store::audit::allowed(
        Some(chunk.tenant_id),
        now,
        format!("worker:{worker}"),
        "complete_chunk",
        format!("job:{job}"),
    );
    event.detail = audit_detail(&chunk, worker, &results, &used);
    let mut tx = app.store.system().await?;
    leases::complete(&mut tx, &chunk, worker, &results, &used, now).await?;
    store::audit::record(&mut tx, &event).await?;
    tx.commit().await?;
    metrics::counter!("chancery_job_lines_total", "outcome" => "answered").increment(used.len() as u64);
    metrics::counter!("chancery_job_lines_total", "outcome" => "failed")
        .increment((results.len() - used.len()) as u64);
    Ok(StatusCode::NO_CONTENT)
}

fn audit_detail(
    chunk: &Chunk,
    worker: WorkerId,
    results: &[LineResult],
    used: &[LineUsage],
) -> serde_json::Value {
    json!({
        "chunk": chunk.index,
        "first_line": chunk.range.first_line,
        "lines": results.len(),
        "failed": results.len() - used.len(),
        "version_digest": chunk.version_digest,
        "worker": worker,
        "prompt_tokens": used.iter().map(|u| u64::from(u.counts.prompt_tokens)).sum::<u64>(),
        "completion_tokens": used.iter().map(|u| u64::from(u.counts.completion_tokens)).sum::<u64>(),
    })
}

/// The chunk's lines, which were checked when the job was created.
async fn read_lines(app: &App, chunk: &Chunk) -> Result<Vec<(u64, BatchLine)>> {
    let damaged = |what: String| {
        ApiError::internal(format!(
            "the input of job {} was good when the job was created and is not any more: {what}",
            chunk.job_id
        ))
    };
    let operation: Operation = chunk.operation.parse().map_err(damaged)?;
    let key = File::object_key(chunk.tenant_id, chunk.input_file_id);
    let range = chunk.range.first_byte..chunk.range.first_byte + chunk.range.bytes;
    let bytes = app.objects.get_range(&key, range).await?;
    let lines: Result<Vec<_>, _> = chunk
        .range
        .lines_in(&bytes)
        .map(|(number, line)| parse_line(operation, line).map(|parsed| (number, parsed)))
        .collect();
    let lines = lines.map_err(|e| damaged(e.message))?;
    if lines.len() as u64 != chunk.range.lines {
        return Err(damaged(format!("chunk {} has {} lines", chunk.index, lines.len())));
    }
    Ok(lines)
}

/// What each line's outcome becomes for its author, and what it used. Every
/// line of the chunk must be there once.
fn results_of(
    chunk: &Chunk,
    lines: Vec<(u64, BatchLine)>,
    mut outcomes: Vec<CompletedLine>,
    now: Timestamp,
) -> Result<(Vec<LineResult>, Vec<LineUsage>)> {
    outcomes.sort_by_key(|o| o.line);
    if !outcomes.iter().map(|o| o.line).eq(lines.iter().map(|(number, _)| *number)) {
        return Err(ApiError::field("lines", "must have exactly one outcome for each leased line"));
    }
    let (mut results, mut used) = (Vec::with_capacity(lines.len()), Vec::with_capacity(lines.len()));
    for ((line, parsed), CompletedLine { outcome, .. }) in lines.into_iter().zip(outcomes) {
        let request_id = line_request_id(chunk.token, line);
        let (status_code, body) = match outcome {
            LineOutcome::Answered { text, reason, counts, accelerator_ms } => {
                used.push(LineUsage { request_id, counts, accelerator_ms });
                // PostgreSQL's jsonb holds no zero character.
                let text = text.replace('\0', "\u{fffd}");
                let operation = parsed.request.operation;
                let version = chunk.version_digest;
                (200, answer_body(operation, request_id, now, &chunk.model, version, text, reason, counts))
            }
            LineOutcome::Failed { kind, message } => {
                let (status, error) = ErrorObject::of_failure(kind, &message);
                (status, json!(ErrorBody::from(error)))
            }
        };
        results.push(LineResult { line, custom_id: parsed.custom_id, request_id, status_code, body });
    }
    Ok((results, used))
}

#[cfg(test)]
mod tests {
    use domain::inference::{FailureKind, FinishReason, TokenCounts};
    use domain::jobs::ChunkRange;
    use domain::models::Sha256Digest;
    use domain::{FileId, ProjectId, TenantId};

    use super::*;

    fn chunk() -> (Chunk, Vec<(u64, BatchLine)>) {
        let text: String = (0..3)
            .map(|i| {
                let body = json!({"model": "m", "prompt": "Once"});
                json!({"custom_id": format!("c{i}"), "method": "POST", "url": "/v1/completions", "body": body})
                    .to_string()
                    + "\n"
            })
            .collect();
        let range = ChunkRange { first_line: 4, lines: 3, first_byte: 0, bytes: text.len() as u64 };
        let lines = range
            .lines_in(text.as_bytes())
            .map(|(n, line)| (n, parse_line(Operation::Completions, line).unwrap()))
            .collect();
        let chunk = Chunk {
            tenant_id: TenantId::generate(),
            project_id: ProjectId::generate(),
            job_id: JobId::generate(),
            index: 1,
            operation: "/v1/completions".to_owned(),
            model: "m".to_owned(),
            version_digest: Sha256Digest::of(b"v"),
            input_file_id: FileId::generate(),
            range,
            token: LeaseToken::generate(),
            expires_at: Timestamp::UNIX_EPOCH,
        };
        (chunk, lines)
    }

    fn answered(line: u64) -> CompletedLine {
        let counts = TokenCounts { prompt_tokens: 1, completion_tokens: 2 };
        let outcome = LineOutcome::Answered {
            text: "upon\0a time".to_owned(),
            reason: FinishReason::Length,
            counts,
            accelerator_ms: 5,
        };
        CompletedLine { line, outcome }
    }

    #[test]
    fn each_line_becomes_an_answer_or_an_error() {
        let (chunk, lines) = chunk();
        let failed = CompletedLine {
            line: 5,
            outcome: LineOutcome::Failed { kind: FailureKind::Invalid, message: "too long".to_owned() },
        };
        let outcomes = vec![answered(6), answered(4), failed];
        let (results, used) = results_of(&chunk, lines, outcomes, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(results.iter().map(|r| r.status_code).collect::<Vec<_>>(), [200, 400, 200]);
        assert_eq!(results.iter().map(|r| r.custom_id.as_str()).collect::<Vec<_>>(), ["c0", "c1", "c2"]);
        assert_eq!(results[0].body["choices"][0]["text"], "upon\u{fffd}a time");
        assert_eq!(results[1].body["error"]["message"], "too long");
        assert_eq!(used.len(), 2);
        assert_eq!(used[0].request_id, line_request_id(chunk.token, 4));
    }

    #[test]
    fn a_report_with_a_line_missing_twice_or_foreign_is_refused() {
        for outcomes in [
            vec![answered(4), answered(5)],
            vec![answered(4), answered(5), answered(5)],
            vec![answered(4), answered(5), answered(7)],
            vec![answered(4), answered(5), answered(6), answered(6)],
        ] {
            let (chunk, lines) = chunk();
            assert!(results_of(&chunk, lines, outcomes, Timestamp::UNIX_EPOCH).is_err());
        }
    }
}
