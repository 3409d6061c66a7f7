//! Budgets as people write and read them: `cpu=100h/month`, `tokens=1000000/day`.

use domain::budgets::{BudgetLine, Counted, MAX_LIMIT, Period};
use domain::quotas::Amount;

/// Units of time of an accelerator, in seconds.
const UNITS: [(char, Amount); 3] = [('h', 3600), ('m', 60), ('s', 1)];

/// `CLASS=HOURSh/PERIOD`, or `tokens=N/PERIOD`.
pub(super) fn line(text: &str) -> Result<BudgetLine, String> {
    let wrong = || "write e.g. cpu=100h/month, cpu=90m/day or tokens=1000000/month".to_owned();
    let (what, rest) = text.split_once('=').ok_or_else(wrong)?;
    let (amount, period) = rest.split_once('/').ok_or_else(wrong)?;
    let period: Period = period.parse().map_err(|_| format!("{period:?} is neither day nor month"))?;
    let (counts, class, limit) = match what {
        "" => return Err(wrong()),
        "tokens" => (Counted::Tokens, None, whole(amount).ok_or_else(wrong)?),
        class => (Counted::AcceleratorSeconds, Some(class.to_owned()), seconds(amount)?),
    };
    if limit > MAX_LIMIT {
        return Err(format!("{amount} is too much"));
    }
    Ok(BudgetLine { counts, class, period, limit })
}

fn whole(text: &str) -> Option<Amount> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// `1.5h` is 5400.
fn seconds(text: &str) -> Result<Amount, String> {
    let wrong = || format!("{text:?} is no time of accelerators such as 100h, 1.5h, 90m or 30s");
    let (number, unit) =
        UNITS.iter().find_map(|(unit, secs)| Some((text.strip_suffix(*unit)?, *secs))).ok_or_else(wrong)?;
    let (before, after) = number.split_once('.').unwrap_or((number, "0"));
    if after.len() > 3 {
        return Err(wrong());
    }
    let after: Amount = whole(after).and_then(|_| format!("{after:0<3}").parse().ok()).ok_or_else(wrong)?;
    let thousandths = whole(before).ok_or_else(wrong)?.checked_mul(1000).and_then(|n| n.checked_add(after));
    thousandths.and_then(|n| n.checked_mul(unit)).map(|n| n / 1000).ok_or_else(wrong)
}

/// A quantity of what is counted: `100h`, `1.5h`, `40s`, `1000000`.
pub(super) fn shown(amount: Amount, counts: Counted) -> String {
    if counts == Counted::Tokens {
        return amount.to_string();
    }
    let sign = if amount < 0 { "-" } else { "" };
    let n = amount.unsigned_abs();
    if n < 3600 {
        return format!("{sign}{n}s");
    }
    let hundredths = n * 100 / 3600;
    let text = format!("{}.{:02}", hundredths / 100, hundredths % 100);
    format!("{sign}{}h", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_read_and_shown() {
        for (text, limit) in
            [("cpu=100h/month", 360_000), ("cpu=1.5h/day", 5400), ("cpu=90m/day", 5400), ("cpu=30s/day", 30)]
        {
            let line = line(text).unwrap();
            assert_eq!((line.class.as_deref(), line.limit), (Some("cpu"), limit), "{text}");
        }
        let tokens = line("tokens=1000000/month").unwrap();
        assert_eq!((tokens.counts, tokens.class, tokens.period), (Counted::Tokens, None, Period::Month));
        for bad in [
            "cpu",
            "cpu=1h",
            "cpu=1/day",
            "cpu=1h/year",
            "=1h/day",
            "tokens=1h/day",
            "tokens=-1/day",
            "cpu=-1h/day",
            "cpu=1.2345h/day",
            "cpu=.h/day",
            "tokens=9999999999999999999/day",
        ] {
            assert!(line(bad).is_err(), "{bad}");
        }
        for (amount, text) in [(0, "0s"), (59, "59s"), (5400, "1.5h"), (-7200, "-2h"), (360_000, "100h")] {
            assert_eq!(shown(amount, Counted::AcceleratorSeconds), text);
        }
        assert_eq!(shown(12, Counted::Tokens), "12");
    }
}
