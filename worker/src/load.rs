//! How busy a replica is: averages over the last seconds in which what is older
//! counts ever less, so that it does not matter when they are read.

use std::time::{Duration, Instant};

use domain::workers::ReplicaLoad;

/// After this time a moment counts for a third of what it did.
const FADE: Duration = Duration::from_secs(10);
/// Times until the first token that have faded below this weight say nothing any
/// more: the last came half a minute ago.
const LEAST_WEIGHT: f64 = 0.05;

/// Measures one replica. Requests tell it what becomes of them.
#[derive(Debug)]
pub struct Meter {
    at: Instant,
    requests: u32,
    waiting: u32,
    tokens: u64,
    queued_average: f64,
    tokens_average: f64,
    /// Sum of times until the first token, in milliseconds, and of their weights.
    first_tokens: (f64, f64),
    idle_since: Instant,
}

impl Meter {
    /// Of a replica that begins, idle.
    pub fn new(now: Instant) -> Self {
        Self {
            at: now,
            requests: 0,
            waiting: 0,
            tokens: 0,
            queued_average: 0.0,
            tokens_average: 0.0,
            first_tokens: (0.0, 0.0),
            idle_since: now,
        }
    }

    /// A request came.
    pub fn begin(&mut self, now: Instant) {
        self.pass(now);
        self.requests += 1;
        self.waiting += 1;
    }

    /// More tokens of a request were read or written.
    pub fn grow(&mut self, tokens: u32, now: Instant) {
        self.pass(now);
        self.tokens += u64::from(tokens);
    }

    /// The first token came, after this time.
    pub fn first_token(&mut self, after: Duration, now: Instant) {
        self.pass(now);
        self.waiting -= 1;
        self.first_tokens.0 += after.as_secs_f64() * 1000.0;
        self.first_tokens.1 += 1.0;
    }

    /// A request is over, that had so many tokens, and waited still or did not.
    pub fn end(&mut self, tokens: u64, waiting: bool, now: Instant) {
        self.pass(now);
        self.requests -= 1;
        self.waiting -= u32::from(waiting);
        self.tokens -= tokens;
        self.idle_since = now;
    }

    /// What it measured.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "averages of what is not negative; a cast keeps within the type"
    )]
    pub fn load(&mut self, now: Instant) -> ReplicaLoad {
        self.pass(now);
        let (sum, weight) = self.first_tokens;
        let idle = if self.requests > 0 { Duration::ZERO } else { now.duration_since(self.idle_since) };
        ReplicaLoad {
            queued_milli: (self.queued_average * 1000.0).round() as u64,
            tokens: self.tokens_average.round() as u64,
            first_token_ms: (weight >= LEAST_WEIGHT).then(|| (sum / weight).round() as u64),
            idle_ms: u64::try_from(idle.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Lets what was fade, and what is count for the time since then.
    #[expect(clippy::cast_precision_loss, reason = "nobody has 2^52 tokens in flight")]
    fn pass(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        let kept = (-passed.as_secs_f64() / FADE.as_secs_f64()).exp();
        let mix = |average: f64, now: f64| average * kept + now * (1.0 - kept);
        self.queued_average = mix(self.queued_average, f64::from(self.waiting));
        self.tokens_average = mix(self.tokens_average, self.tokens as f64);
        self.first_tokens = (self.first_tokens.0 * kept, self.first_tokens.1 * kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_what_is_measured_however_often_it_is_read() {
        let start = Instant::now();
        let (mut often, mut once) = (Meter::new(start), Meter::new(start));
        for meter in [&mut often, &mut once] {
            (0..3).for_each(|_| meter.begin(start));
            meter.grow(100, start);
        }
        let mut now = start;
        for _ in 0..1000 {
            now += Duration::from_millis(100);
            often.load(now);
        }
        let (often, once) = (often.load(now), once.load(now));
        assert_eq!(often, once);
        assert_eq!((once.queued_milli, once.tokens, once.first_token_ms, once.idle_ms), (3000, 100, None, 0));
    }

    #[test]
    fn what_is_over_fades_and_idleness_is_exact() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        meter.begin(start);
        meter.grow(50, start);
        let answered = start + Duration::from_millis(200);
        meter.first_token(Duration::from_millis(200), answered);
        let load = meter.load(answered);
        assert_eq!((load.queued_milli, load.first_token_ms, load.idle_ms), (20, Some(200), 0));
        let over = start + Duration::from_secs(100);
        meter.end(50, false, over);
        assert_eq!(meter.load(over).tokens, 50);
        let later = over + Duration::from_secs(60);
        let load = meter.load(later);
        assert_eq!(load, ReplicaLoad { queued_milli: 0, tokens: 0, first_token_ms: None, idle_ms: 60_000 });
    }

    #[test]
    fn who_hangs_up_while_waiting_waits_no_more() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        meter.begin(start);
        meter.end(0, true, start);
        assert_eq!(meter.load(start + Duration::from_secs(1)).queued_milli, 0);
    }
}
