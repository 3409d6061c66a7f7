//! Shares of jobs: chunks leased, run and handed in.

use std::time::Duration;

use domain::inference::{FailureKind, Priority};
use domain::workers::{
    CompletedLine, DesiredPlacement, LEASE_TTL_SECS, LeasedChunk, LeasedLine, LineOutcome, ObservedState,
};
use domain::workloads::WorkloadOwner;
use domain::{Clock, JobId, LeaseToken};

use crate::support::{Fixture, drained, eventually, is_alive, placement, request, worker};

async fn share() -> (Fixture, DesiredPlacement, JobId) {
    let f = worker().await;
    let job = JobId::generate();
    let share = placement(&f.publish(b"GGUF one"), WorkloadOwner::Job(job));
    f.api.desire(1, vec![share.clone()]);
    f.reported(&share, ObservedState::Ready).await;
    (f, share, job)
}

fn chunk(job_id: JobId, index: u32, texts: &[&str]) -> LeasedChunk {
    let line = |(n, text): (usize, &&str)| {
        let mut request = request(text);
        request.priority = Priority::Batch;
        LeasedLine { line: u64::from(index) * 100 + n as u64, request }
    };
    LeasedChunk {
        job_id,
        index,
        token: LeaseToken::generate(),
        expires_at: Clock::system().now() + Duration::from_secs(LEASE_TTL_SECS),
        lines: texts.iter().enumerate().map(line).collect(),
    }
}

async fn results(f: &Fixture, index: u32) -> Vec<CompletedLine> {
    let what = format!("chunk {index} is complete");
    f.api.wait(&what, |api| api.completed.get(&index).map(|c| c.lines.clone())).await
}

fn text(line: &CompletedLine) -> &str {
    match &line.outcome {
        LineOutcome::Answered { text, .. } => text,
        LineOutcome::Failed { message, .. } => message,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_of_every_chunk_has_one_outcome() {
    let (f, share, job) = share().await;
    let lines = ["one", "die-once", "invalid", "four", "overloaded-once", "six six", "seven"];
    f.api.change(|api| api.waiting.extend([chunk(job, 0, &lines), chunk(job, 1, &["more"])]));
    let first = results(&f, 0).await;
    assert_eq!(first.iter().map(|l| l.line).collect::<Vec<_>>(), (0..7).collect::<Vec<_>>());
    assert_eq!(
        first.iter().map(text).collect::<Vec<_>>(),
        ["one ", "die-once ", "too long", "four ", "overloaded-once ", "six six ", "seven "]
    );
    assert!(matches!(first[2].outcome, LineOutcome::Failed { kind: FailureKind::Invalid, .. }));
    let second = results(&f, 1).await;
    assert_eq!((second[0].line, text(&second[0])), (100, "more "));
    assert_eq!(f.engines().len(), 2, "it died once");

    // It looks for more, until it is drained.
    let leases = f.api.change(|api| api.leases);
    f.api.wait("it asks again", |api| (api.leases > leases + 1).then_some(())).await;
    f.api.desire(1, vec![drained(&share)]);
    f.reported(&share, ObservedState::Ended).await;
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_kills_engines_takes_no_other_with_it() {
    let (f, _, job) = share().await;
    f.api.change(|api| api.waiting.push_back(chunk(job, 0, &["a", "b", "die", "c", "d", "e"])));
    let lines = results(&f, 0).await;
    for (n, line) in lines.iter().enumerate() {
        let failed = matches!(line.outcome, LineOutcome::Failed { kind: FailureKind::Internal, .. });
        assert_eq!(failed, n == 2, "{line:?}");
    }
    assert!(text(&lines[2]).contains("gave up after 4 tries"), "{}", text(&lines[2]));
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_whose_lease_is_lost_is_dropped() {
    let (f, _, job) = share().await;
    f.api.change(|api| {
        api.lost.push(0);
        api.waiting.extend([chunk(job, 0, &["a"]), chunk(job, 1, &["b"])]);
    });
    assert_eq!(text(&results(&f, 1).await[0]), "b ");
    assert!(f.api.change(|api| !api.completed.contains_key(&0)));
    assert_eq!(f.evidence("requests"), ["a", "b"], "run once each");
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_renewed_until_it_is_lost_which_ends_the_work_at_once() {
    let (f, _, job) = share().await;
    f.api.change(|api| api.waiting.extend([chunk(job, 0, &["hang"]), chunk(job, 1, &["b"])]));
    f.api.wait("it is renewed", |api| (api.renewals == 1).then_some(())).await;
    assert!(f.evidence("cancelled").is_empty(), "goes on");
    f.api.change(|api| api.leased.remove(&0));
    assert_eq!(text(&results(&f, 1).await[0]), "b ");
    eventually("the generation is cancelled", || f.evidence("cancelled").len() == 1).await;
    assert_eq!(f.api.change(|api| api.renewals), 2);
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_finishes_the_chunk_under_way() {
    let (f, share, job) = share().await;
    let long = "word ".repeat(2000);
    f.api.change(|api| api.waiting.extend([chunk(job, 0, &[long.as_str(); 8]), chunk(job, 1, &["never"])]));
    f.api.wait("it is leased", |api| api.leased.contains_key(&0).then_some(())).await;
    f.api.desire(1, vec![drained(&share)]);
    f.reported(&share, ObservedState::Ended).await;
    assert!(f.api.change(|api| api.completed.contains_key(&0) && !api.completed.contains_key(&1)));
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_placement_that_nobody_wants_lets_go_of_its_chunk_at_once() {
    let (f, share, job) = share().await;
    f.api.change(|api| api.waiting.push_back(chunk(job, 0, &["hang"])));
    f.api.wait("it is leased", |api| api.leased.contains_key(&0).then_some(())).await;
    f.api.desire(1, vec![]);
    f.api.wait("it is let go of", |api| (!api.reports.contains_key(&share.placement_id)).then_some(())).await;
    eventually("its engine is gone", || !is_alive(f.engines()[0])).await;
    assert!(f.api.change(|api| api.completed.is_empty()));
    f.end().await;
}
