//! Quantities as people write and read them: accelerators with up to three
//! decimals, memory with a unit.

use domain::quotas::{Amount, QuotaLine, QuotaUse, Resource};

use crate::output;

/// Units of memory, decimal as accelerators are sold and binary.
const UNITS: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// `CLASS=N[,lend=N][,borrow=N]`, or `CLASS/memory=…`.
pub(super) fn line(text: &str) -> Result<QuotaLine, String> {
    let (key, amounts) =
        text.split_once('=').ok_or("write the class and how many, e.g. cpu=4 or cpu=4,lend=2,borrow=0")?;
    let (class, resource) = match key.split_once('/') {
        None => (key, Resource::Milli),
        Some((class, "memory")) => (class, Resource::MemoryBytes),
        Some((_, other)) => return Err(format!("{other:?} is not counted; only memory is")),
    };
    let mut parts = amounts.split(',');
    let nominal = amount(parts.next().unwrap_or_default(), resource)?;
    let mut line =
        QuotaLine { class: class.to_owned(), resource, nominal, lending_limit: None, borrowing_limit: None };
    for part in parts {
        match part.split_once('=') {
            Some(("lend", most)) => line.lending_limit = Some(amount(most, resource)?),
            Some(("borrow", most)) => line.borrowing_limit = Some(amount(most, resource)?),
            _ => return Err(format!("{part:?} is neither lend=N nor borrow=N")),
        }
    }
    Ok(line)
}

fn amount(text: &str, resource: Resource) -> Result<Amount, String> {
    match resource {
        Resource::Milli => milli(text),
        Resource::MemoryBytes => memory(text),
    }
}

/// A weight, in thousandths.
pub(super) fn weight(text: &str) -> Result<u32, String> {
    milli(text)?.try_into().map_err(|_| format!("{text} is too large"))
}

/// `2.5` is 2500.
fn milli(text: &str) -> Result<Amount, String> {
    let wrong = || format!("{text:?} is no number such as 4 or 2.5, with at most three decimals");
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 3 {
        return Err(wrong());
    }
    let whole: Amount = whole.parse().map_err(|_| wrong())?;
    let part: Amount = format!("{part:0<3}").parse().map_err(|_| wrong())?;
    whole.checked_mul(1000).and_then(|milli| milli.checked_add(part)).ok_or_else(wrong)
}

/// `80GB`.
fn memory(text: &str) -> Result<Amount, String> {
    let wrong = || format!("{text:?} is no size such as 80GB or 64GiB");
    let unit = UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)));
    let (number, bytes) = unit.unwrap_or((text, 1));
    let number: u64 = number.trim().parse().map_err(|_| wrong())?;
    number.checked_mul(bytes).and_then(|n| n.try_into().ok()).ok_or_else(wrong)
}

/// `2.5` of 2500.
pub(super) fn thousandths(milli: Amount) -> String {
    let sign = if milli < 0 { "-" } else { "" };
    let (whole, part) = (milli.unsigned_abs() / 1000, milli.unsigned_abs() % 1000);
    let text = format!("{sign}{whole}.{part:03}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A quantity of a resource.
pub(super) fn shown(amount: Amount, resource: Resource) -> String {
    match resource {
        Resource::Milli => thousandths(amount),
        Resource::MemoryBytes if amount < 0 => format!("-{}", output::bytes(amount.unsigned_abs())),
        Resource::MemoryBytes => output::bytes(amount.unsigned_abs()),
    }
}

/// What is counted: `cpu`, or `cpu memory`.
pub(super) fn name(line: &QuotaUse) -> String {
    match line.resource {
        Resource::Milli => line.class.clone(),
        Resource::MemoryBytes => format!("{} memory", line.class),
    }
}

/// `4 cpu, lends at most 2, borrows at most 0`.
pub(super) fn in_short(line: &QuotaUse) -> String {
    let mut text = format!("{} {}", shown(line.nominal, line.resource), name(line));
    for (limit, what) in [(line.lending_limit, "lends"), (line.borrowing_limit, "borrows")] {
        if let Some(most) = limit {
            text.push_str(&format!(", {what} at most {}", shown(most, line.resource)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_and_shown() {
        let parsed = line("cpu=2.5,lend=1,borrow=0").unwrap();
        assert_eq!(
            (parsed.nominal, parsed.lending_limit, parsed.borrowing_limit),
            (2500, Some(1000), Some(0))
        );
        let memory = line("a/memory=80GB").unwrap();
        assert_eq!((memory.resource, memory.nominal), (Resource::MemoryBytes, 80_000_000_000));
        for (milli, text) in
            [(0, "0"), (1000, "1"), (2500, "2.5"), (1, "0.001"), (-1500, "-1.5"), (10_000, "10")]
        {
            assert_eq!(thousandths(milli), text);
        }
        for bad in
            ["cpu", "cpu=", "cpu=-1", "cpu=1.2345", "cpu=1,max=2", "cpu/power=3", "cpu=1e3", "a/memory=1PB"]
        {
            assert!(line(bad).is_err(), "{bad}");
        }
    }
}
