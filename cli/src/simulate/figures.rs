//! The figures of a simulation, beside those of its changes.

use domain::simulate::Outcome;

/// A figure of each outcome.
pub struct Figure {
    pub name: String,
    pub unit: &'static str,
    /// Nothing where it means nothing, e.g. of a class that only a change has.
    pub values: Vec<Option<f64>>,
}

/// Every figure that can be compared.
pub fn all(outcomes: &[Outcome]) -> Vec<Figure> {
    let mut all = Vec::new();
    let mut add = |name: String, unit: &'static str, of: &dyn Fn(&Outcome) -> Option<f64>| {
        all.push(Figure { name, unit, values: outcomes.iter().map(of).collect() });
    };
    let mut classes: Vec<&str> =
        outcomes.iter().flat_map(|outcome| &outcome.classes).map(|class| class.class.as_str()).collect();
    classes.sort_unstable();
    classes.dedup();
    for class in classes {
        let of = |outcome: &Outcome, what: fn(&domain::simulate::ClassFigures) -> f64| {
            outcome.classes.iter().find(|known| known.class == class).map(what)
        };
        add(format!("{class}: utilisation"), "%", &|o| of(o, |c| c.utilisation_pct));
        add(format!("{class}: fragmentation"), "%", &|o| of(o, |c| c.fragmentation_pct));
        add(format!("{class}: accelerators at the end"), "", &|o| of(o, |c| c.accelerators));
        add(format!("{class}: most used at a time"), "", &|o| of(o, |c| c.most_used));
        add(format!("{class}: accelerator hours used"), "h", &|o| of(o, |c| c.used_hours));
    }
    add("waiting, mean".to_owned(), "s", &|o| Some(o.waits.mean_secs));
    add("waiting, half at most".to_owned(), "s", &|o| Some(o.waits.p50_secs));
    add("waiting, 95 % at most".to_owned(), "s", &|o| Some(o.waits.p95_secs));
    add("waiting, longest".to_owned(), "s", &|o| Some(o.waits.most_secs));
    add("queue, mean".to_owned(), "", &|o| Some(o.queue_mean));
    add("queue, longest".to_owned(), "", &|o| Some(count(o.queue_most)));
    add("fairness (Jain)".to_owned(), "", &|o| o.jain);
    add("made to leave".to_owned(), "", &|o| Some(count(o.preemptions.total)));
    let mut rules: Vec<&String> = outcomes.iter().flat_map(|o| o.preemptions.by_rule.keys()).collect();
    rules.sort_unstable();
    rules.dedup();
    for rule in rules {
        let of = |o: &Outcome| Some(count(o.preemptions.by_rule.get(rule).copied().unwrap_or(0)));
        add(format!("made to leave by {}", rule.replace('_', " ")), "", &of);
    }
    add("lost with workers".to_owned(), "", &|o| Some(count(o.preemptions.lost_with_workers)));
    add("begun in vain, accelerator hours".to_owned(), "h", &|o| Some(o.preemptions.wasted_hours));
    add("pieces of work".to_owned(), "", &|o| Some(count(o.work.pieces)));
    add("finished".to_owned(), "", &|o| Some(count(o.work.finished)));
    add("left waiting".to_owned(), "", &|o| Some(count(o.work.waiting)));
    add("virtual time until the end".to_owned(), "s", &|o| Some(o.end_secs));
    all
}

/// For the terminal: a header and rows.
pub fn table(outcomes: &[Outcome]) -> (Vec<String>, Vec<Vec<String>>) {
    let header = std::iter::once("figure".to_owned()).chain(outcomes.iter().map(|o| o.name.clone()));
    let row = |figure: Figure| {
        let shown = figure.values.iter().map(|value| {
            value.map_or_else(|| "–".to_owned(), |value| with_unit(&number(value), figure.unit))
        });
        std::iter::once(figure.name.clone()).chain(shown).collect()
    };
    (header.collect(), all(outcomes).into_iter().map(row).collect())
}

/// `12 s`.
pub fn with_unit(number: &str, unit: &str) -> String {
    if unit.is_empty() { number.to_owned() } else { format!("{number} {unit}") }
}

/// With as many decimals as say something.
pub fn number(value: f64) -> String {
    let decimals = match value.abs() {
        v if v >= 1000.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// With its sign.
pub fn difference(value: f64) -> String {
    match number(value) {
        zero if zero == "0" => "±0".to_owned(),
        text if value > 0.0 => format!("+{text}"),
        text => text.replacen('-', "−", 1),
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
fn count(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in
            [(0.0, "0"), (0.12345, "0.123"), (9.999, "10"), (12.34, "12.3"), (12345.6, "12346")]
        {
            assert_eq!(number(value), text);
        }
        assert_eq!([difference(0.0), difference(1.5), difference(-20.0)], ["±0", "+1.5", "−20"]);
    }
}
