//! Placements of endpoints: held, served, drained, and what goes wrong.

use axum::http::StatusCode;
use domain::inference::{Event, FailureKind, FinishReason, TokenCounts};
use domain::models::Sha256Digest;
use domain::workers::ObservedState;

use crate::api::{Api, GATEWAY_KEY};
use crate::support::{
    deps, drained, endpoint, events, eventually, expected_devices, is_alive, kill_hard, settings, version,
    worker,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn placements_of_one_version_share_an_engine_and_are_served() {
    let f = worker().await;
    let version = f.publish(b"GGUF one");
    let (a, b) = (endpoint(&version), endpoint(&version));
    f.api.desire(1, vec![a.clone(), b.clone()]);
    f.reported(&a, ObservedState::Ready).await;
    f.reported(&b, ObservedState::Ready).await;
    assert_eq!(f.api.change(|api| api.worker.clone()).unwrap().devices, expected_devices());
    let start = f.evidence("starts");
    assert_eq!(start.len(), 1, "one process for both");
    let memory = 2u64 << 30;
    assert!(start[0].ends_with(&format!(" {memory} {} 1", 512 << 20)), "{start:?}");

    let counts = TokenCounts { prompt_tokens: 2, completion_tokens: 2 };
    assert_eq!(
        f.generate(&a, "hello world").await,
        [
            Event::Started { prompt_tokens: 2 },
            Event::Text { text: "hello ".to_owned(), tokens: 1 },
            Event::Text { text: "world ".to_owned(), tokens: 1 },
            Event::Finished { reason: FinishReason::Stop, counts, accelerator_ms: 5 },
        ]
    );
    assert_eq!(f.post(&a, "wrong", "hello").await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(f.post(&endpoint(&version), GATEWAY_KEY, "hello").await.status(), StatusCode::NOT_FOUND);
    let health = f.http.get(format!("{}/healthz", f.address)).send().await.unwrap();
    assert_eq!(health.status(), StatusCode::OK);

    f.api.desire(1, vec![drained(&a), b.clone()]);
    f.reported(&a, ObservedState::Ended).await;
    let refused = f.post(&a, GATEWAY_KEY, "hello").await;
    assert_eq!(refused.status(), StatusCode::NOT_FOUND);
    assert_eq!(f.generate(&b, "still here").await.len(), 4);
    // Known to have ended, it is spoken of no more.
    f.api.desire(1, vec![drained(&b)]);
    f.reported(&b, ObservedState::Ended).await;
    assert!(!f.api.change(|api| api.reports.contains_key(&a.placement_id)));
    assert!(!is_alive(f.engines()[0]), "its memory is free when its end is reported");
    assert_eq!(f.evidence("ends").len(), 1, "ended by itself");
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_engine_is_started_again_and_answers_end_clearly() {
    let f = worker().await;
    let placement = endpoint(&f.publish(b"GGUF one"));
    f.api.desire(1, vec![placement.clone()]);
    f.reported(&placement, ObservedState::Ready).await;
    let mut answer = f.post(&placement, GATEWAY_KEY, "hang").await;
    let first = answer.chunk().await.unwrap().unwrap();
    assert_eq!(events(std::str::from_utf8(&first).unwrap()), [Event::Started { prompt_tokens: 1 }]);
    kill_hard(f.engines()[0]);
    let last = events(&answer.text().await.unwrap());
    assert!(matches!(&last[..], [Event::Failed { kind: FailureKind::Internal, .. }]), "{last:?}");
    let detail = "engine exited with signal 9 (perhaps out of memory); restarted in 250 ms";
    f.api.wait("the death is reported", |api| api.details.iter().any(|d| d == detail).then_some(())).await;
    f.reported(&placement, ObservedState::Ready).await;
    eventually("another engine runs", || f.engines().len() == 2).await;
    assert_eq!(f.generate(&placement, "again").await.len(), 3);
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_up_cancels_the_generation() {
    let f = worker().await;
    let placement = endpoint(&f.publish(b"GGUF one"));
    f.api.desire(1, vec![placement.clone()]);
    f.reported(&placement, ObservedState::Ready).await;
    let mut answer = f.post(&placement, GATEWAY_KEY, "hang").await;
    answer.chunk().await.unwrap().unwrap();
    assert!(f.evidence("cancelled").is_empty());
    drop(answer);
    eventually("the engine sees it", || f.evidence("cancelled").len() == 1).await;
    // Nothing is under way any more, so draining takes no time.
    f.api.desire(1, vec![drained(&placement)]);
    f.reported(&placement, ObservedState::Ended).await;
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_loaded_says_why_and_recovers() {
    let f = worker().await;
    let content = b"GGUF good";
    let damaged = endpoint(&version(content));
    f.api.change(|api| api.blobs.insert(Sha256Digest::of(content), b"GGUF evil".to_vec()));
    let unloadable = endpoint(&f.publish(b"GGUF unloadable"));
    f.api.desire(1, vec![damaged.clone(), unloadable.clone()]);
    f.reported(&damaged, ObservedState::Failing).await;
    f.reported(&unloadable, ObservedState::Failing).await;
    let detail = |p: &domain::workers::DesiredPlacement| {
        f.api.change(|api| api.reports[&p.placement_id].detail.clone()).unwrap()
    };
    let text = detail(&damaged);
    assert!(text.contains("model.gguf is damaged where it is stored"), "{text}");
    assert!(text.contains("register the model version again"), "{text}");
    let text = detail(&unloadable);
    assert!(
        text.starts_with("engine exited with status 3: error: model.gguf has no tokenizer; restarted in"),
        "{text}"
    );
    let refused = f.post(&damaged, GATEWAY_KEY, "hello").await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    let refused = events(&refused.text().await.unwrap());
    assert!(matches!(&refused[..], [Event::Failed { kind: FailureKind::NotReady, .. }]), "{refused:?}");

    f.publish(content);
    f.reported(&damaged, ObservedState::Ready).await;
    assert_eq!(f.generate(&damaged, "hello").await.len(), 3);
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_worker_joins_again_and_keeps_its_engines() {
    let f = worker().await;
    let placement = endpoint(&f.publish(b"GGUF one"));
    f.api.desire(7, vec![placement.clone()]);
    f.reported(&placement, ObservedState::Ready).await;
    // Also the epochs begin anew, as after the database was restored.
    f.api.change(|api| {
        api.credential = "none".to_owned();
        api.reports.clear();
        api.desired.as_mut().unwrap().epoch = 2;
    });
    f.api.wait("it joined again", |api| (api.joins == 2).then_some(())).await;
    f.reported(&placement, ObservedState::Ready).await;
    assert_eq!(f.generate(&placement, "hello").await.len(), 3);
    assert_eq!(f.engines().len(), 1);
    // A former scheduler is not obeyed.
    f.api.desire(1, vec![]);
    let other = endpoint(&f.publish(b"GGUF two"));
    f.api.desire(2, vec![placement.clone(), other.clone()]);
    f.reported(&other, ObservedState::Ready).await;
    assert!(is_alive(f.engines()[0]));
    f.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_is_announced_and_leaves_nothing_behind() {
    let f = worker().await;
    let placement = endpoint(&f.publish(b"GGUF one"));
    f.api.desire(1, vec![placement.clone()]);
    f.reported(&placement, ObservedState::Ready).await;
    let api = f.api.clone();
    f.end().await;
    let last = api.change(|api| api.reports[&placement.placement_id].clone());
    assert_eq!(last.state, ObservedState::Failing, "not ended: the next start holds it again");
    assert_eq!(last.detail.unwrap(), "the worker is shutting down");
}

#[tokio::test]
async fn a_worker_that_is_not_let_in_says_so() {
    let api = Api::start().await;
    let dir = tempfile::tempdir().unwrap();
    let deps = worker::Deps { join_token: "chj_wrong".to_owned().into(), ..deps(dir.path()) };
    let error = worker::run(settings(&api, dir.path()), deps, Default::default()).await.unwrap_err();
    assert!(error.to_string().contains("check its join token"), "{error}");
    assert!(!format!("{error:?}").contains("chj_wrong"));
}
