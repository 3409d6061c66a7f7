//! The quota tree, drawn.

use std::collections::BTreeMap;

use anyhow::Result;
use domain::quotas::{NodeKind, QuotaNode, QuotaUse};
use uuid::Uuid;

use super::amounts::{name, shown};
use crate::args::Format;
use crate::client::Scope;
use crate::commands::{Call, note};
use crate::output;

pub(super) async fn draw(at: &Call) -> Result<()> {
    let scope = if at.client.acts_for_a_tenant() { Scope::Tenant } else { Scope::Platform };
    let answer = at.client.get(scope, "api/v1/quotas", &[]).await?;
    if at.format == Format::Json {
        return output::json(&answer);
    }
    let nodes = answer["nodes"].as_array().cloned().unwrap_or_default();
    if nodes.is_empty() {
        note("No quotas are set: devices alone bind the work. `chancery quotas set-tenant` sets some.");
        return Ok(());
    }
    let parsed: Vec<QuotaNode> = nodes.into_iter().map(output::parse).collect::<Result<_>>()?;
    let mut below: BTreeMap<Option<Uuid>, Vec<&QuotaNode>> = BTreeMap::new();
    for node in &parsed {
        // Where a tenant sees only its own, its cohort is not among them.
        let parent = node.parent.filter(|parent| parsed.iter().any(|other| other.id == *parent));
        below.entry(parent).or_default().push(node);
    }
    let mut rows = Vec::new();
    let roots = below.get(&None).cloned().unwrap_or_default();
    for root in &roots {
        rows.extend(branch(root, "", "", &below));
    }
    output::print(&output::table(
        &["node", "of", "its own", "used", "borrowed", "lent", "free", "limits"],
        rows,
    ))
}

/// A node and what is below it, a row for each thing counted.
fn branch(
    node: &QuotaNode,
    first: &str,
    others: &str,
    below: &BTreeMap<Option<Uuid>, Vec<&QuotaNode>>,
) -> Vec<Vec<String>> {
    let children = below.get(&Some(node.id)).map_or(&[][..], Vec::as_slice);
    let label = format!("{first}{} {}", node.kind.as_str(), node.name);
    let under = if children.is_empty() { others.to_owned() } else { format!("{others}│") };
    let mut rows: Vec<Vec<String>> = node.quotas.iter().map(|line| cells(node.kind, line)).collect();
    if rows.is_empty() {
        rows.push(vec![String::new(); 7]);
    }
    for (index, row) in rows.iter_mut().enumerate() {
        row.insert(0, if index == 0 { label.clone() } else { under.clone() });
    }
    for (index, child) in children.iter().enumerate() {
        let last = index + 1 == children.len();
        let (first, rest) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        rows.extend(branch(child, &format!("{others}{first}"), &format!("{others}{rest}"), below));
    }
    rows
}

fn cells(kind: NodeKind, line: &QuotaUse) -> Vec<String> {
    let amount = |amount| shown(amount, line.resource);
    let limit = |limit: Option<i64>, what: &str| limit.map(|most| format!("{what} ≤ {}", amount(most)));
    let limits = [limit(line.lending_limit, "lends"), limit(line.borrowing_limit, "borrows")];
    let limits: Vec<String> = limits.into_iter().flatten().collect();
    let own = if kind == NodeKind::Project {
        format!("≤ {}", amount(line.nominal))
    } else {
        amount(line.guaranteed)
    };
    vec![
        name(line),
        own,
        amount(line.used),
        amount(line.borrowed),
        amount(line.lent),
        amount(line.available),
        limits.join(", "),
    ]
}
