//! The report: one HTML file that needs nothing else. Everything that comes from
//! files is escaped.

use domain::simulate::{Outcome, Scenario, TenantFigures};

use super::SimulateOptions;
use super::chart::{self, Line};
use super::figures::{self, difference, number, with_unit};
use super::inputs::Inputs;

const STYLE: &str = include_str!("report.css");
/// Most tenants in a table, those with most work.
const MOST_TENANTS: usize = 200;

/// Text that is only text, in elements and in attributes.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}

/// The whole report.
pub fn html(inputs: &Inputs, options: &SimulateOptions, base: &Scenario, outcomes: &[Outcome]) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>Simulation of {0}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>Simulation of {0}</h1>\n",
        escaped(inputs.trace_name())
    );
    out += &summary(base, outcomes);
    out += &compared(outcomes);
    out += &charts(outcomes);
    out += &waiting(outcomes);
    out += &left_over(inputs, outcomes);
    out += &meanings(inputs);
    out += &provenance(inputs, options);
    out += "</main>\n</body>\n</html>\n";
    out
}

fn summary(base: &Scenario, outcomes: &[Outcome]) -> String {
    let first = &outcomes[0];
    let mut out = format!(
        "<p class=\"dim\">{} pieces of work of {} tenants on {} workers, played for {} of virtual time{}.</p>\n\
         <div class=\"tiles\">\n",
        first.work.pieces,
        first.tenants.len(),
        base.workers(),
        span(first.end_secs),
        if first.stopped { ", where it was stopped" } else { "" },
    );
    let mut tile = |value: String, what: String| {
        out += &format!("<div class=\"tile\"><b>{}</b>{}</div>\n", escaped(&value), escaped(&what));
    };
    for class in first.classes.iter().filter(|class| class.used_hours > 0.0).take(3) {
        tile(format!("{} %", number(class.utilisation_pct)), format!("of {} used", class.class));
    }
    tile(span(first.waits.p50_secs), "half waited at most".to_owned());
    tile(span(first.waits.p95_secs), "95 % waited at most".to_owned());
    tile(first.jain.map_or_else(|| "–".to_owned(), number), "fairness".to_owned());
    tile(first.preemptions.total.to_string(), "made to leave".to_owned());
    tile(first.work.waiting.to_string(), "left waiting".to_owned());
    out += "</div>\n";
    out
}

/// The table of figures, with differences from the base.
fn compared(outcomes: &[Outcome]) -> String {
    let mut out =
        "<h2>Figures</h2>\n<div class=\"scroll\"><table>\n<caption>Of the base and of each change, \
                   with the difference from the base</caption>\n<thead><tr><th scope=\"col\">figure</th>"
            .to_owned();
    for outcome in outcomes {
        out += &format!("<th scope=\"col\">{}</th>", escaped(&outcome.name));
    }
    out += "</tr></thead>\n<tbody>\n";
    for figure in figures::all(outcomes) {
        out += &format!("<tr><th scope=\"row\">{}</th>", escaped(&figure.name));
        let base = figure.values[0];
        for (index, value) in figure.values.iter().enumerate() {
            let shown = value.map_or_else(|| "–".to_owned(), |v| with_unit(&number(v), figure.unit));
            let by = match (index, value, base) {
                (1.., Some(value), Some(base)) => format!(" <small>{}</small>", difference(value - base)),
                _ => String::new(),
            };
            out += &format!("<td>{}{by}</td>", escaped(&shown));
        }
        out += "</tr>\n";
    }
    out += "</tbody></table></div>\n";
    out
}

fn charts(outcomes: &[Outcome]) -> String {
    let mut out = "<h2>Over time</h2>\n".to_owned();
    if outcomes.len() > 1 {
        out += "<ul class=\"key\">";
        for (index, outcome) in outcomes.iter().enumerate() {
            out += &format!(
                "<li><svg viewBox=\"0 0 30 8\" aria-hidden=\"true\"><line class=\"line l{index}\" x1=\"0\" x2=\"30\" \
                 y1=\"4\" y2=\"4\"/></svg>{}</li>",
                escaped(&outcome.name)
            );
        }
        out += "</ul>\n";
    }
    let mut figure =
        |title: &str, unit: &str, top: f64, note: &str, of: &dyn Fn(&Outcome) -> &[(f64, f64)]| {
            let lines: Vec<Line<'_>> =
                outcomes.iter().map(|o| Line { name: &o.name, points: of(o) }).collect();
            if lines.iter().all(|line| line.points.is_empty()) {
                return;
            }
            out += &format!(
                "<h3>{}</h3>\n<figure>{}<figcaption>{note}</figcaption></figure>\n",
                escaped(title),
                chart::svg(title, unit, &lines, top)
            );
        };
    let mut classes: Vec<&str> = outcomes
        .iter()
        .flat_map(|o| &o.classes)
        .filter(|c| c.used_hours > 0.0)
        .map(|c| c.class.as_str())
        .collect();
    classes.sort_unstable();
    classes.dedup();
    for class in classes {
        let place = |o: &Outcome| o.classes.iter().position(|known| known.class == class);
        figure(&format!("Utilisation of {class}"), " %", 100.0, "Used, of what there is.", &|o| {
            place(o).map_or(&[], |ix| &o.plots.utilisation_pct[ix])
        });
        figure(
            &format!("Fragmentation of {class}"),
            " %",
            1.0,
            "Free and of no use to a usual request, of what there is.",
            &|o| place(o).map_or(&[], |ix| &o.plots.fragmentation_pct[ix]),
        );
    }
    figure("Queue", "", 1.0, "Pieces of work that wait.", &|o| &o.plots.queue);
    figure("Fairness", "", 1.0, "Jain’s index while two or more tenants wait; 1 is even.", &|o| {
        &o.plots.jain
    });
    figure("Made to leave", "", 1.0, "Preemptions so far.", &|o| &o.plots.preemptions);
    out
}

fn waiting(outcomes: &[Outcome]) -> String {
    let mut out = "<h2>Waiting, by tenant</h2>\n".to_owned();
    for outcome in outcomes {
        let mut tenants: Vec<&TenantFigures> = outcome.tenants.iter().collect();
        tenants.sort_by_key(|tenant| (std::cmp::Reverse(tenant.arrived), &tenant.tenant));
        let more = tenants.len().saturating_sub(MOST_TENANTS);
        tenants.truncate(MOST_TENANTS);
        out += &format!(
            "<div class=\"scroll\"><table><caption>{}</caption>\n<thead><tr><th scope=\"col\">tenant</th>\
             <th scope=\"col\">weight</th><th scope=\"col\">work</th><th scope=\"col\">finished</th>\
             <th scope=\"col\">mean</th><th scope=\"col\">half</th><th scope=\"col\">95 %</th>\
             <th scope=\"col\">longest</th><th scope=\"col\">accelerator hours</th>\
             <th scope=\"col\">made to leave</th></tr></thead>\n<tbody>\n",
            escaped(&outcome.name)
        );
        for tenant in tenants {
            let waits = tenant.waits;
            out += &format!("<tr><th scope=\"row\">{}</th>", escaped(&tenant.tenant));
            let cells = [
                number(tenant.weight),
                tenant.arrived.to_string(),
                tenant.finished.to_string(),
                span(waits.mean_secs),
                span(waits.p50_secs),
                span(waits.p95_secs),
                span(waits.most_secs),
                number(tenant.used_hours),
                tenant.preempted.to_string(),
            ];
            cells.iter().for_each(|cell| out += &format!("<td>{}</td>", escaped(cell)));
            out += "</tr>\n";
        }
        out += "</tbody></table></div>\n";
        if more > 0 {
            out += &format!("<p class=\"dim\">{more} more tenants with less work are not shown.</p>\n");
        }
    }
    out
}

fn left_over(inputs: &Inputs, outcomes: &[Outcome]) -> String {
    let mut out = "<h2>Left waiting</h2>\n".to_owned();
    if outcomes.iter().all(|outcome| outcome.left_over.is_empty()) {
        return out + "<p>Nothing: all work that arrived was placed.</p>\n";
    }
    for outcome in outcomes.iter().filter(|outcome| !outcome.left_over.is_empty()) {
        out += &format!(
            "<div class=\"scroll\"><table><caption>{}: what waits at the end, the most frequent reasons</caption>\n\
             <thead><tr><th scope=\"col\">pieces</th><th scope=\"col\">first line of {}</th>\
             <th scope=\"col\">why</th></tr></thead>\n<tbody>\n",
            escaped(&outcome.name),
            escaped(inputs.trace_name())
        );
        for left in &outcome.left_over {
            out += &format!(
                "<tr><td>{}</td><td>{}</td><td class=\"text\">{}</td></tr>\n",
                left.pieces,
                left.line,
                escaped(&left.reason)
            );
        }
        out += "</tbody></table></div>\n";
    }
    out
}

fn meanings(inputs: &Inputs) -> String {
    let mut out = "<h2>What the figures mean</h2>\n\
        <p><b>Utilisation</b>: accelerators used, of those that are there, over all of the time; of cordoned workers \
        only what is used counts as there.</p>\n\
        <p><b>Fragmentation</b>: for each usual request of a class, the free thousandths on devices on which it does \
        not fit; averaged over the requests by how often they occur, as a part of the class. Usual are the most \
        frequent requests of the trace that make up 95 % of its work.</p>\n\
        <p><b>Waiting</b>: all of the time in which a piece of work was not placed, also after it was made to leave. \
        What waits at the end counts with its time until then.</p>\n\
        <p><b>Fairness</b>: at each moment, of the tenants of which something waits, the largest part of any class \
        that each holds, divided by its weight; Jain’s index of those, (Σx)² ÷ (n Σx²), averaged over the time in \
        which there are two or more. 1 is even, 1 ÷ n is all to one. Tenants of unequal quota are not meant to be \
        even: compare runs.</p>\n\
        <p><b>Made to leave</b>: preemptions. Work that cannot end within the drain time loses its progress (begun in \
        vain) and waits anew. Placing and starting take no time.</p>\n"
        .to_owned();
    if inputs.split > 0 {
        out += &format!(
            "<p><b>Of the openb trace</b>: {} pods of several accelerators ask for each by itself; what pods with \
             accelerators need of the processor is not counted.</p>\n",
            inputs.split
        );
    }
    out
}

/// What it takes to make the report again.
fn provenance(inputs: &Inputs, options: &SimulateOptions) -> String {
    let until = options.until.map_or_else(
        || "until nothing happens any more".to_owned(),
        |until| format!("until {} s", until.as_secs()),
    );
    let mut out = format!(
        "<h2>Made from</h2>\n<p>chancery {}, seed {}, {until}. The same files give the same report, byte for byte.</p>\n\
         <div class=\"scroll\"><table><thead><tr><th scope=\"col\">file</th><th scope=\"col\">as</th>\
         <th scope=\"col\">SHA-256</th></tr></thead>\n<tbody>\n",
        env!("CARGO_PKG_VERSION"),
        options.seed
    );
    for file in &inputs.files {
        out += &format!(
            "<tr><th scope=\"row\">{}</th><td>{}</td><td><code>{}</code></td></tr>\n",
            escaped(&file.name),
            file.role,
            file.sha256
        );
    }
    out += "</tbody></table></div>\n";
    out
}

/// A time in the unit that it reads best in.
fn span(secs: f64) -> String {
    match secs {
        secs if secs >= 2.0 * 86400.0 => format!("{} d", number(secs / 86400.0)),
        secs if secs >= 2.0 * 3600.0 => format!("{} h", number(secs / 3600.0)),
        secs if secs >= 120.0 => format!("{} min", number(secs / 60.0)),
        secs => format!("{} s", number(secs)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_files_is_only_text() {
        assert_eq!(escaped("<a href='x'>&\"</a>"), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;&lt;/a&gt;");
        assert_eq!([span(1.0), span(7200.0), span(864_000.0)], ["1 s", "2 h", "10 d"]);
    }
}
