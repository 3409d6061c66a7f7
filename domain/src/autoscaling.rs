//! Autoscaling: how many replicas an endpoint should have, by what was measured.
//!
//! Up at once, by whichever target asks for most. Down only after a time in which
//! fewer were enough all along, then to the most that was asked for in it, at most
//! by half. A rise soon after a fall shows that the fall was wrong: the next must
//! be justified for twice as long. Nothing falls while a measurement is missing,
//! and none are left only when nobody has asked for long enough.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// A measurement that is older than this says nothing.
pub const STALE_AFTER: Duration = Duration::from_secs(15);
/// At most so many times as long as usual must a fall be justified.
const MOST_PATIENCE: u32 = 16;
/// What each target may be.
pub mod limits {
    use std::ops::RangeInclusive;

    /// Requests.
    pub const QUEUED: RangeInclusive<u32> = 1..=1000;
    /// Tokens.
    pub const TOKENS: RangeInclusive<u32> = 1..=100_000_000;
    /// Milliseconds.
    pub const FIRST_TOKEN_MS: RangeInclusive<u32> = 1..=600_000;
    /// Seconds.
    pub const IDLE_SECS: RangeInclusive<u32> = 1..=604_800;
}

/// What the autoscaler aims at. Whichever asks for most replicas decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Targets {
    /// Requests that wait for their first token, per replica, 1 to 1000.
    #[schema(default = 2, minimum = 1, maximum = 1000)]
    pub queued_per_replica: u32,
    /// Tokens of requests that are being answered, per replica: those that were
    /// read and those that were written. 1 to 100000000.
    #[schema(default = 16384, minimum = 1, maximum = 100_000_000)]
    pub tokens_per_replica: u32,
    /// Time from a request to its first token, in milliseconds, 1 to 600000.
    /// Counts while requests wait for each other: no replica makes a long
    /// prompt shorter.
    #[schema(default = 5000, minimum = 1, maximum = 600_000)]
    pub first_token_ms: u32,
    /// How long nobody must have asked before the last replica goes, in seconds,
    /// 1 to 604800. Counts where the least number of replicas is 0.
    #[schema(default = 600, minimum = 1, maximum = 604_800)]
    pub idle_secs: u32,
}

impl Default for Targets {
    fn default() -> Self {
        Self { queued_per_replica: 2, tokens_per_replica: 16_384, first_token_ms: 5000, idle_secs: 600 }
    }
}

/// Between how many replicas may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The least; 0 lets it go when nobody asks.
    pub min: u32,
    /// The most, at least 1.
    pub max: u32,
}

/// What was measured of an endpoint over the last seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Replicas that answer.
    pub ready: u32,
    /// Those of them of which there is a fresh measurement. What follows is of
    /// these.
    pub measured: u32,
    /// Requests that waited for their first token, in thousandths.
    pub queued_milli: u64,
    /// Tokens of requests that were being answered.
    pub tokens: u64,
    /// From a request to its first token, in milliseconds, if any came.
    pub first_token_ms: Option<u64>,
    /// For how long none of them has had a request, in milliseconds.
    pub idle_ms: Option<u64>,
    /// Requests that gateways hold because no replica is there.
    pub held: u32,
}

/// Another number of replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How many.
    pub replicas: u32,
    /// Why, in plain words.
    pub why: String,
}

/// What is remembered of an endpoint from one look to the next. A new leader
/// remembers nothing, and takes its time before it lets anything go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Since when every look is remembered.
    since: Timestamp,
    /// Since when no request was held.
    unasked_since: Timestamp,
    /// What was asked for lately, most first: of each number the last time, as
    /// far as nothing larger came later.
    asked: VecDeque<(Timestamp, u32)>,
    fell_at: Option<Timestamp>,
    /// By what a fall must be justified longer than usual.
    patience: u32,
}

/// What asks for a number of replicas.
enum Cause {
    /// Nobody asks, but somebody may any moment.
    Kept,
    Held,
    Queued,
    Tokens,
    FirstToken,
}

impl Memory {
    /// Of an endpoint that is looked at for the first time.
    pub fn new(now: Timestamp) -> Self {
        Self { since: now, unasked_since: now, asked: VecDeque::new(), fell_at: None, patience: 1 }
    }

    /// How many replicas there should be instead of `replicas`, unless that is
    /// right. `window` is how long fewer must have been enough before some go.
    pub fn judge(
        &mut self,
        range: Range,
        targets: &Targets,
        window: Duration,
        replicas: u32,
        load: &Load,
        now: Timestamp,
    ) -> Option<Verdict> {
        if load.held > 0 {
            self.unasked_since = now;
        }
        let known = load.measured >= load.ready;
        let idle = known && self.is_idle(targets, load, now);
        let (asked, cause) = ask(targets, replicas, load, idle);
        // What is not known may be as much as there is.
        let right = if known { asked } else { asked.max(replicas) }.clamp(range.min, range.max);
        let window = window * self.patience;
        self.remember(right, window, now);
        if right > replicas {
            if asked > range.min {
                let wrong = self.fell_at.is_some_and(|fell| now.since(fell) < window);
                self.patience = if wrong { MOST_PATIENCE.min(2 * self.patience) } else { 1 };
            }
            let why = if asked < range.min {
                format!("min_replicas is {}", range.min)
            } else {
                because(&cause, targets, load, asked, range.max)
            };
            return Some(Verdict { replicas: right, why });
        }
        if replicas > range.max {
            return Some(Verdict { replicas: range.max, why: format!("max_replicas is {}", range.max) });
        }
        if right == replicas {
            return None;
        }
        if right == 0 {
            self.since = now;
            let why = format!("nobody asked for {} s", targets.idle_secs);
            return Some(Verdict { replicas: 0, why });
        }
        let most = self.asked.front().map_or(right, |(_, most)| *most);
        if now.since(self.since) < window || most >= replicas {
            return None;
        }
        let fewer = most.max(replicas / 2);
        (self.since, self.fell_at) = (now, Some(now));
        Some(Verdict {
            replicas: fewer,
            why: format!("for {} s no more than {most} were needed", window.as_secs()),
        })
    }

    fn is_idle(&self, targets: &Targets, load: &Load, now: Timestamp) -> bool {
        let enough = Duration::from_secs(targets.idle_secs.into());
        let replicas = load.idle_ms.is_none_or(|ms| Duration::from_millis(ms) >= enough);
        load.held == 0 && replicas && now.since(self.unasked_since) >= enough
    }

    fn remember(&mut self, right: u32, window: Duration, now: Timestamp) {
        while self.asked.back().is_some_and(|(_, asked)| *asked <= right) {
            self.asked.pop_back();
        }
        self.asked.push_back((now, right));
        while self.asked.front().is_some_and(|(at, _)| now.since(*at) > window) {
            self.asked.pop_front();
        }
    }
}

/// How many replicas the targets ask for, and which of them.
fn ask(targets: &Targets, replicas: u32, load: &Load, idle: bool) -> (u32, Cause) {
    // The last replica stays for a while; that it is gone is no reason for another.
    let (mut most, mut cause) = (u32::from(!idle && replicas > 0), Cause::Kept);
    let mut by = |asked: u32, why: Cause| {
        if asked > most {
            (most, cause) = (asked, why);
        }
    };
    by(load.held.min(1), Cause::Held);
    let queued = load.queued_milli.saturating_add(u64::from(load.held) * 1000);
    by(parts(queued, u64::from(targets.queued_per_replica) * 1000), Cause::Queued);
    by(parts(load.tokens, targets.tokens_per_replica.into()), Cause::Tokens);
    // Those that are coming may be enough.
    if let Some(ms) = load.first_token_ms
        && load.ready >= replicas
        && load.queued_milli > u64::from(load.ready) * 1000
    {
        let asked = parts(ms.saturating_mul(load.ready.into()), targets.first_token_ms.into());
        by(asked.min(load.ready.saturating_mul(2)), Cause::FirstToken);
    }
    (most, cause)
}

/// How many parts of this size there are, the last begun.
fn parts(of: u64, size: u64) -> u32 {
    u32::try_from(of.div_ceil(size.max(1))).unwrap_or(u32::MAX)
}

fn because(cause: &Cause, targets: &Targets, load: &Load, asked: u32, max: u32) -> String {
    let Targets { queued_per_replica, tokens_per_replica, first_token_ms, .. } = targets;
    let mut why = match cause {
        Cause::Kept | Cause::Held => "a request waits until a replica is there".to_owned(),
        Cause::Queued => {
            let queued = load.queued_milli.saturating_add(u64::from(load.held) * 1000);
            let (whole, tenths) = (queued / 1000, queued % 1000 / 100);
            format!(
                "{whole}.{tenths} requests wait for their first token; the target is {queued_per_replica} per replica"
            )
        }
        Cause::Tokens => {
            format!("{} tokens are in flight; the target is {tokens_per_replica} per replica", load.tokens)
        }
        Cause::FirstToken => {
            let ms = load.first_token_ms.unwrap_or_default();
            format!("the first token takes {ms} ms; the target is {first_token_ms} ms")
        }
    };
    if asked > max {
        let _ = write!(why, "; that asks for {asked}, but max_replicas is {max}");
    }
    why
}

#[cfg(test)]
mod tests;
