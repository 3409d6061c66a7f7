//! Waiting for a condition, with a deadline. Tests never sleep for luck.

use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(50);

/// Asks until the answer is `Some`, or panics saying what never came.
pub async fn until<T>(what: &str, deadline: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(start.elapsed() < deadline, "{what} did not happen within {deadline:?}");
        tokio::time::sleep(POLL).await;
    }
}
