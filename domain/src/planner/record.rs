//! The record of what a planner was told and asked, so that anybody can plan
//! again from it and see that the same is decided.
//!
//! A record is a sequence of pages, each a line of JSON. The first says what the
//! planner knew when it began; each names the digest of the one before, and what
//! was decided has a digest too. A page is kept before what it decided is
//! carried out.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Change, Decision, Planner, Snapshot};
use crate::models::Sha256Digest;
use crate::placing::Demand;
use crate::{Timestamp, WorkloadId};

/// Steps without a decision that a page may have before it is kept anyway.
const MOST_STEPS: usize = 1024;
/// Changes told without a decision that a page may have.
const MOST_TOLD: usize = 4096;

/// A plan: the leader's epoch and the number of the plan in it, as `12-3045`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PlanId {
    /// Of the leader that planned.
    pub epoch: i64,
    /// From 0 in each epoch.
    pub number: i64,
}

impl fmt::Display for PlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.number)
    }
}

impl FromStr for PlanId {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let parts =
            s.split_once('-').and_then(|(epoch, number)| Some((epoch.parse().ok()?, number.parse().ok()?)));
        match parts {
            Some((epoch @ 0.., number @ 0..)) => Ok(Self { epoch, number }),
            _ => Err(format!("{s:?} names no plan: it is two numbers, as 12-3045")),
        }
    }
}

impl TryFrom<String> for PlanId {
    type Error = String;
    fn try_from(s: String) -> Result<Self, String> {
        s.parse()
    }
}

impl From<PlanId> for String {
    fn from(id: PlanId) -> Self {
        id.to_string()
    }
}

/// What a planner knew when it began.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beginning {
    /// What the database said.
    pub snapshot: Snapshot,
    /// What it had learned before of the requests that arrive, by class.
    pub demand: BTreeMap<String, Demand>,
}

/// One time that a planner was asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Workloads that the database refused to place, though it was decided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<WorkloadId>,
    /// What it was told since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub told: Vec<Change>,
    /// When it was asked.
    pub now: Timestamp,
    /// About how much it was to decide.
    pub most: u32,
}

/// Some steps, of which only the last decided something.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    /// The plan that the last step made.
    pub plan: PlanId,
    /// The program that planned: the same must plan again.
    pub version: String,
    /// Digest of the page before; nothing on the first.
    pub previous: Option<Sha256Digest>,
    /// Where the planner began; on the first page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<Beginning>,
    /// What it was told and asked.
    pub steps: Vec<Step>,
    /// Digest of what the last step decided.
    pub decided: Sha256Digest,
}

/// A page as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Which plan.
    pub plan: PlanId,
    /// Whether the planner began there.
    pub began: bool,
    /// The digest of the line.
    pub digest: Sha256Digest,
    /// The page, without an end of line.
    pub line: String,
}

/// A planner and its record.
pub struct Recorder {
    planner: Planner,
    version: &'static str,
    next: PlanId,
    previous: Option<Sha256Digest>,
    began: Option<Beginning>,
    steps: Vec<Step>,
    refused: Vec<WorkloadId>,
    told: Vec<Change>,
    /// Bytes of the pages since it began.
    written: usize,
}

impl Recorder {
    /// Begins with what the database says; `first` is the first plan that
    /// `version` of the program makes.
    pub fn new(first: PlanId, version: &'static str, snapshot: Snapshot) -> Self {
        let beginning = Beginning { snapshot, demand: BTreeMap::new() };
        Self {
            planner: beginning.planner(),
            version,
            next: first,
            previous: None,
            began: Some(beginning),
            steps: Vec::new(),
            refused: Vec::new(),
            told: Vec::new(),
            written: 0,
        }
    }

    /// Begins anew with what the database says now; what was learned of the
    /// requests that arrive stays.
    pub fn begin_anew(&mut self, snapshot: Snapshot) {
        let beginning = Beginning { snapshot, demand: self.planner.demand() };
        self.planner = beginning.planner();
        self.previous = None;
        self.began = Some(beginning);
        self.steps.clear();
        self.refused.clear();
        self.told.clear();
        self.written = 0;
    }

    /// What it plans with.
    pub fn planner(&self) -> &Planner {
        &self.planner
    }

    /// Bytes of the pages since it began.
    pub fn written(&self) -> usize {
        self.written
    }

    /// Tells the planner of a change.
    pub fn tell(&mut self, change: Change) {
        self.planner.tell(change.clone());
        self.told.push(change);
    }

    /// The database refused a decision. What it concerned is to be told anew.
    pub fn refused(&mut self, decision: &Decision) {
        if let Decision::Place { workload, .. } = decision {
            self.planner.refused(*workload);
            self.refused.push(*workload);
        }
    }

    /// Plans, and says what is to be kept before anything of it is carried out.
    pub fn plan(&mut self, now: Timestamp, most: u32) -> (Vec<Decision>, Option<Recorded>) {
        let (refused, told) = (std::mem::take(&mut self.refused), std::mem::take(&mut self.told));
        self.steps.push(Step { refused, told, now, most });
        let decided = self.planner.plan(now, most as usize);
        let told: usize = self.steps.iter().map(|step| step.told.len()).sum();
        let due = !decided.is_empty()
            || self.began.is_some()
            || self.steps.len() >= MOST_STEPS
            || told >= MOST_TOLD;
        let recorded = due.then(|| self.turn_page(digest(&decided)));
        (decided, recorded)
    }

    fn turn_page(&mut self, decided: Sha256Digest) -> Recorded {
        let page = Page {
            plan: self.next,
            version: self.version.to_owned(),
            previous: self.previous,
            began: self.began.take(),
            steps: std::mem::take(&mut self.steps),
            decided,
        };
        let line = serde_json::to_string(&page).expect("a page has text for keys and no broken numbers");
        let digest = Sha256Digest::of(line.as_bytes());
        self.previous = Some(digest);
        self.next.number += 1;
        self.written += line.len();
        Recorded { plan: page.plan, began: page.began.is_some(), digest, line }
    }
}

impl Beginning {
    fn planner(&self) -> Planner {
        Planner::knowing(self.snapshot.clone(), self.demand.clone())
    }
}

fn digest(decided: &[Decision]) -> Sha256Digest {
    Sha256Digest::of(
        &serde_json::to_vec(decided).expect("decisions have text for keys and no broken numbers"),
    )
}

/// Why a record proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A line is no page.
    #[error("line {line} is no page of a record: {error}")]
    Page {
        /// From 1.
        line: usize,
        /// What is wrong.
        error: serde_json::Error,
    },
    /// A page is missing, altered or out of order.
    #[error("line {line} does not follow the one before: a page is missing, was altered, or is out of order")]
    Broken {
        /// From 1.
        line: usize,
    },
    /// Something else is decided than was.
    #[error(
        "plan {plan} decided something else ({recorded}) than what is decided of the same now ({computed}); it was \
         recorded by version {version}"
    )]
    Differs {
        /// Which.
        plan: PlanId,
        /// Digest of what was decided.
        recorded: Sha256Digest,
        /// Digest of what is decided now.
        computed: Sha256Digest,
        /// The program that planned.
        version: String,
    },
}

/// Plans again what a record says, page by page.
#[derive(Default)]
pub struct Replay {
    planner: Option<Planner>,
    lines: usize,
    digest: Option<Sha256Digest>,
    decided: Vec<Decision>,
    last: Option<Page>,
    steps: usize,
}

impl Replay {
    /// Plans what the next line says, and compares.
    pub fn read(&mut self, line: &str) -> Result<(), ReplayError> {
        self.lines += 1;
        let page: Page =
            serde_json::from_str(line).map_err(|error| ReplayError::Page { line: self.lines, error })?;
        let follows = match &page.began {
            Some(_) => page.previous.is_none(),
            None => self.digest.is_some() && page.previous == self.digest,
        };
        if !follows {
            return Err(ReplayError::Broken { line: self.lines });
        }
        if let Some(began) = &page.began {
            self.planner = Some(began.planner());
        }
        let Some(planner) = &mut self.planner else { return Err(ReplayError::Broken { line: self.lines }) };
        for step in &page.steps {
            step.refused.iter().for_each(|workload| planner.refused(*workload));
            step.told.iter().for_each(|change| planner.tell(change.clone()));
            self.decided = planner.plan(step.now, step.most as usize);
        }
        let computed = digest(&self.decided);
        if computed != page.decided {
            let (plan, recorded, version) = (page.plan, page.decided, page.version);
            return Err(ReplayError::Differs { plan, recorded, computed, version });
        }
        self.steps += page.steps.len();
        self.digest = Some(Sha256Digest::of(line.as_bytes()));
        self.last = Some(page);
        Ok(())
    }

    /// The last page.
    pub fn last(&self) -> Option<&Page> {
        self.last.as_ref()
    }

    /// The digest of the last page: of all that led to its plan.
    pub fn digest(&self) -> Option<Sha256Digest> {
        self.digest
    }

    /// What the last page decided, again.
    pub fn decided(&self) -> &[Decision] {
        &self.decided
    }

    /// How often the planner was asked since the record begins.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// What the planner knows after the last page.
    pub fn facts(&self) -> Option<&Snapshot> {
        self.planner.as_ref().map(Planner::facts)
    }
}
