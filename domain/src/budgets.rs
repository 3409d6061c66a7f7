//! Budgets: what a tenant or a project may spend in a period, of accelerators'
//! time or of tokens.
//!
//! A budget is a node of the quota planner's ledger ([`crate::quotas::Budget`]).
//! A workload has no known end, so it reserves [`RESERVE_SECS`] of its
//! accelerators' time when it is placed; what it runs longer is spent as it goes
//! on. What it truly held is settled when it ends. Nothing that runs is ended
//! because a budget is exhausted or was cut; nothing new begins until there is
//! room again, which a new period gives.

use serde::{Deserialize, Serialize};
use time::{Date, Month, OffsetDateTime, Time};
use uuid::Uuid;

use crate::inference::MAX_COMPLETION_TOKENS;
use crate::quotas::{Amount, MAX_AMOUNT, NodeId, NodeKind};
use crate::tenants::Slug;
use crate::{ProjectId, TenantId, Timestamp};

/// Time of its accelerators that a workload reserves when it is placed. The
/// database's function `reserve_ms` says the same.
pub const RESERVE_SECS: Amount = 60;
/// Most lines of one tenant or project.
pub const MAX_LINES: usize = 64;
/// Thousandths of an accelerator times seconds, in an accelerator-second.
pub const MILLI_SECS: Amount = 1000;
/// Largest limit, in accelerator-seconds or tokens.
pub const MAX_LIMIT: Amount = MAX_AMOUNT / MILLI_SECS;

/// Tokens that a chat template may add to what was written.
const TEMPLATE_TOKENS: Amount = 128;

/// Most tokens that a request can come to: a token stands for a byte at least.
pub fn most_tokens(input_bytes: usize, max_tokens: Option<u32>) -> Amount {
    let answer = max_tokens.unwrap_or(MAX_COMPLETION_TOKENS).min(MAX_COMPLETION_TOKENS);
    let input = Amount::try_from(input_bytes).unwrap_or(MAX_AMOUNT);
    input.saturating_add(TEMPLATE_TOKENS).saturating_add(answer.into())
}

/// A budget of tokens that has less left than was asked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokensShort {
    /// It is the project's, not the whole tenant's.
    pub of_project: bool,
    /// How long it is for.
    pub period: Period,
    /// Most of it.
    pub limit: Amount,
    /// What is neither spent nor reserved.
    pub left: Amount,
    /// What was asked.
    pub asked: Amount,
    /// When the next period begins.
    pub ends: Timestamp,
}

impl std::fmt::Display for TokensShort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let whose = if self.of_project { "project" } else { "tenant" };
        let Self { limit, asked, ends, .. } = self;
        let (period, left) = (self.period.as_str(), self.left.max(0));
        write!(
            f,
            "the {whose}'s budget of {limit} tokens a {period} is spent or reserved but for {left}, and this may take \
             {asked}; its period ends at {ends}"
        )
    }
}

/// How long a budget is for. Periods are those of the calendar in UTC.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// From midnight to midnight.
    Day,
    /// From the first of a month to the first of the next.
    Month,
}

impl Period {
    /// The name used in the database and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// The first moment of the period that a moment is in.
    pub fn begins(self, at: Timestamp) -> Timestamp {
        let date = at.0.to_offset(time::UtcOffset::UTC).date();
        midnight(match self {
            Self::Day => date,
            Self::Month => first_of(date.year(), date.month()),
        })
    }

    /// The first moment of the next.
    pub fn ends(self, at: Timestamp) -> Timestamp {
        let date = at.0.to_offset(time::UtcOffset::UTC).date();
        midnight(match self {
            Self::Day => date.next_day().unwrap_or(Date::MAX),
            Self::Month => match date.month() {
                Month::December => first_of(date.year() + 1, Month::January),
                month => first_of(date.year(), month.next()),
            },
        })
    }
}

fn first_of(year: i32, month: Month) -> Date {
    Date::from_calendar_date(year, month, 1).unwrap_or(Date::MAX)
}

fn midnight(date: Date) -> Timestamp {
    Timestamp(OffsetDateTime::new_utc(date, Time::MIDNIGHT))
}

impl std::str::FromStr for Period {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let all = [Self::Day, Self::Month];
        all.into_iter().find(|period| period.as_str() == s).ok_or_else(|| format!("{s:?} is no period"))
    }
}

/// What a budget counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Counted {
    /// Seconds of whole accelerators of a class: half of one for an hour is 1800.
    AcceleratorSeconds,
    /// Tokens, read and written.
    Tokens,
}

/// A budget as it is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BudgetLine {
    /// What is counted.
    pub counts: Counted,
    /// Of which accelerator class; none for tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// How long it is for.
    pub period: Period,
    /// Most that may be spent in it: accelerator-seconds, or tokens.
    #[schema(minimum = 0, maximum = 9_007_199_254_740_i64)]
    pub limit: Amount,
}

/// Why lines cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinesError {
    /// Too many.
    #[error("must name at most {MAX_LINES} budgets")]
    Many,
    /// One is named twice.
    #[error("names {0} twice: one budget has one period")]
    Twice(String),
    /// Time without a class.
    #[error("of accelerator_seconds must name the class that is counted")]
    Class,
    /// Tokens with one.
    #[error("of tokens must name no class: they are counted whatever they are made on")]
    NoClass,
    /// Out of bounds.
    #[error("each limit must be 0 to {MAX_LIMIT}")]
    Limit,
}

/// Whether lines can be.
pub fn check(lines: &[BudgetLine]) -> Result<(), LinesError> {
    if lines.len() > MAX_LINES {
        return Err(LinesError::Many);
    }
    for (n, line) in lines.iter().enumerate() {
        match (line.counts, &line.class) {
            (Counted::AcceleratorSeconds, None) => return Err(LinesError::Class),
            (Counted::Tokens, Some(_)) => return Err(LinesError::NoClass),
            _ => {}
        }
        if !(0..=MAX_LIMIT).contains(&line.limit) {
            return Err(LinesError::Limit);
        }
        if lines[..n].iter().any(|other| other.class == line.class) {
            return Err(LinesError::Twice(line.class.clone().unwrap_or_else(|| "tokens".to_owned())));
        }
    }
    Ok(())
}

impl BudgetLine {
    /// The limit in the unit of the ledger: thousandths of an accelerator times
    /// seconds, or tokens.
    pub fn amount(&self) -> Amount {
        match self.counts {
            Counted::AcceleratorSeconds => self.limit.saturating_mul(MILLI_SECS),
            Counted::Tokens => self.limit,
        }
    }
}

/// A budget with what is left of it, in accelerator-seconds or tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BudgetUse {
    /// What is counted.
    pub counts: Counted,
    /// Of which accelerator class; null for tokens.
    pub class: Option<String>,
    /// How long it is for.
    pub period: Period,
    /// Most that may be spent in it.
    pub limit: Amount,
    /// Spent in this period, by what runs too; a part counts as a whole.
    pub spent: Amount,
    /// Reserved beyond that by what runs; a part counts as a whole.
    pub reserved: Amount,
    /// What can still be reserved; negative after a cut, or where work ran on.
    pub free: Amount,
    /// When this period began.
    pub period_began: Timestamp,
    /// When the next begins, in which nothing is spent yet.
    pub period_ends: Timestamp,
    /// Counts changes.
    pub revision: i64,
    /// When it was made.
    pub created_at: Timestamp,
}

/// The budgets of a tenant or a project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BudgetNode {
    /// What it is.
    pub kind: NodeKind,
    /// Identifier: that of the tenant or project.
    pub id: Uuid,
    /// Its short name.
    pub name: Slug,
    /// Short name of its tenant.
    pub tenant: Slug,
    /// By class, tokens first.
    pub budgets: Vec<BudgetUse>,
}

/// What the scheduler's planner knows of a budget of accelerators' time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeBudget {
    /// Of this project alone.
    pub project: Option<ProjectId>,
    /// Of this class.
    pub class: String,
    /// How long it is for.
    pub period: Period,
    /// Most of it, in thousandths of an accelerator times seconds.
    pub limit: Amount,
    /// What has ended held in the period that began at `began`, in thousandths
    /// of an accelerator times milliseconds.
    pub settled_ms: Amount,
    /// The period that this is of.
    pub began: Timestamp,
}

impl TimeBudget {
    /// Whose it is.
    pub fn node(&self, tenant: TenantId) -> NodeId {
        self.project.map_or(NodeId::Tenant(tenant), NodeId::Project)
    }

    /// Whether work on a class of a project spends it.
    pub fn covers(&self, project: ProjectId, class: &str) -> bool {
        self.class == class && self.project.is_none_or(|own| own == project)
    }

    /// Whether it is the same but for what is spent.
    pub fn is_alike(&self, other: &Self) -> bool {
        let of = |budget: &Self| (budget.project, budget.class.clone(), budget.period, budget.limit);
        of(self) == of(other)
    }

    /// Whether its period is over.
    pub fn is_over(&self, now: Timestamp) -> bool {
        now >= self.period.ends(self.began)
    }

    /// What had ended by now held in this period, in the unit of `settled_ms`.
    pub fn settled(&self, now: Timestamp) -> Amount {
        if self.is_over(now) { 0 } else { self.settled_ms }
    }

    /// Something that it covers ended, and had run since then.
    pub fn settle(&mut self, milli: u32, since: Timestamp, ended: Timestamp) {
        let began = self.period.begins(ended);
        if began > self.began {
            (self.began, self.settled_ms) = (began, 0);
        }
        let ran = Amount::try_from(ended.since(since.max(began)).as_millis()).unwrap_or(Amount::MAX);
        self.settled_ms = self.settled_ms.saturating_add(ran.saturating_mul(milli.into()));
    }

    /// What something that runs has spent in this period beyond what it
    /// reserved, in the unit of `settled_ms`.
    pub fn beyond_reserve(&self, milli: u32, since: Timestamp, now: Timestamp) -> Amount {
        let began = self.period.begins(now).max(self.began);
        let ran = now.since(since.max(began)).as_millis();
        let ran = Amount::try_from(ran).unwrap_or(Amount::MAX);
        ran.saturating_sub(RESERVE_SECS * 1000).max(0).saturating_mul(milli.into())
    }
}

/// From thousandths times milliseconds to thousandths times seconds, rounded up.
pub fn whole(milli_ms: Amount) -> Amount {
    milli_ms.saturating_add(999) / 1000
}

/// Time of accelerators in words: `1.5 accelerator-hours`, `40 accelerator-seconds`,
/// of thousandths times seconds.
pub fn in_words(milli_secs: Amount) -> String {
    const HOUR: Amount = 3600 * MILLI_SECS;
    let (n, of, unit) = if milli_secs.abs() >= HOUR {
        (milli_secs, HOUR, "accelerator-hours")
    } else {
        (milli_secs, MILLI_SECS, "accelerator-seconds")
    };
    let hundredths = (i128::from(n) * 100 / i128::from(of)).unsigned_abs();
    let sign = if n < 0 { "-" } else { "" };
    let text = format!("{sign}{}.{:02}", hundredths / 100, hundredths % 100);
    format!("{} {unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn periods_are_those_of_the_calendar() {
        for (period, moment, began, ends) in [
            (Period::Day, "2026-02-28T23:59:59.999999Z", "2026-02-28T00:00:00Z", "2026-03-01T00:00:00Z"),
            (Period::Day, "2028-02-28T00:00:00Z", "2028-02-28T00:00:00Z", "2028-02-29T00:00:00Z"),
            (Period::Month, "2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            (Period::Month, "2026-03-01T00:00:00Z", "2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z"),
            // Wherever the clock that wrote it stands.
            (Period::Day, "2026-03-01T01:00:00+02:00", "2026-02-28T00:00:00Z", "2026-03-01T00:00:00Z"),
        ] {
            assert_eq!(
                (period.begins(at(moment)), period.ends(at(moment))),
                (at(began), at(ends)),
                "{moment}"
            );
        }
    }

    proptest! {
        #[test]
        fn periods_follow_each_other_without_a_gap(secs in 0i64..4_000_000_000, month: bool) {
            let period = if month { Period::Month } else { Period::Day };
            let now = Timestamp(OffsetDateTime::from_unix_timestamp(secs).unwrap());
            let (began, ends) = (period.begins(now), period.ends(now));
            prop_assert!(began <= now && now < ends);
            prop_assert_eq!(period.begins(began), began);
            prop_assert_eq!(period.begins(ends), ends);
            prop_assert_eq!(period.ends(began), ends);
        }
    }

    #[test]
    fn lines_are_checked() {
        let time = |class: &str| BudgetLine {
            counts: Counted::AcceleratorSeconds,
            class: Some(class.to_owned()),
            period: Period::Day,
            limit: 1,
        };
        let tokens = BudgetLine { counts: Counted::Tokens, class: None, ..time("cpu") };
        assert_eq!(check(&[time("a"), time("b"), tokens.clone()]), Ok(()));
        let monthly = BudgetLine { period: Period::Month, ..time("a") };
        assert_eq!(check(&[time("a"), monthly]), Err(LinesError::Twice("a".to_owned())));
        assert_eq!(check(&[tokens.clone(), tokens.clone()]), Err(LinesError::Twice("tokens".to_owned())));
        assert_eq!(check(&[BudgetLine { class: None, ..time("a") }]), Err(LinesError::Class));
        let classy = BudgetLine { class: Some("cpu".to_owned()), ..tokens.clone() };
        assert_eq!(check(&[classy]), Err(LinesError::NoClass));
        for limit in [-1, MAX_LIMIT + 1] {
            assert_eq!(check(&[BudgetLine { limit, ..tokens.clone() }]), Err(LinesError::Limit));
        }
        assert_eq!((time("a").amount(), tokens.amount()), (1000, 1));
    }

    #[test]
    fn what_runs_on_is_spent_in_its_own_period() {
        let budget = TimeBudget {
            project: None,
            class: "cpu".to_owned(),
            period: Period::Day,
            limit: 0,
            settled_ms: 7,
            began: at("2026-03-01T00:00:00Z"),
        };
        let since = at("2026-03-01T23:00:00Z");
        let beyond = |now| budget.beyond_reserve(500, since, at(now));
        assert_eq!(beyond("2026-03-01T23:01:00Z"), 0);
        assert_eq!(beyond("2026-03-01T23:01:01Z"), 500_000);
        assert_eq!((beyond("2026-03-02T00:01:00Z"), beyond("2026-03-02T00:01:00.001Z")), (0, 500));
        assert_eq!(budget.settled(at("2026-03-01T23:59:59Z")), 7);
        assert_eq!(budget.settled(at("2026-03-02T00:00:00Z")), 0);
    }

    #[test]
    fn a_request_comes_to_no_more_than_its_bytes_and_its_answer() {
        assert_eq!(most_tokens(100, Some(9)), 100 + 128 + 9);
        assert_eq!(most_tokens(0, None), 128 + 4096);
        assert_eq!(most_tokens(0, Some(1 << 20)), 128 + 4096);
    }

    #[test]
    fn time_is_told_in_hours_or_seconds() {
        for (milli_secs, text) in [
            (0, "0 accelerator-seconds"),
            (500, "0.5 accelerator-seconds"),
            (90_000, "90 accelerator-seconds"),
            (5_400_000, "1.5 accelerator-hours"),
            (-5_400_000, "-1.5 accelerator-hours"),
        ] {
            assert_eq!(in_words(milli_secs), text);
        }
    }
}
