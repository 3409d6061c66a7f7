//! What workers' calls change and are answered, as in `store/src/workers/`.

use std::time::Duration;

use domain::accelerators::{Device, DeviceReport};
use domain::models::{Manifest, Sha256Digest};
use domain::tenants::Classification;
use domain::workers::{
    DesiredPlacement, DesiredState, DesiredVersion, ObservedState, PlacementReport, Worker,
};
use domain::workloads::PlacementState;
use domain::{PlacementId, Timestamp, WorkerId};

use super::Database;

/// How long an API believes a credential that it has seen.
const CREDENTIAL_TTL: Duration = Duration::from_secs(5);

/// What joins.
#[derive(Clone, Debug)]
pub struct Joining {
    pub name: String,
    pub zone: &'static str,
    pub devices: Vec<DeviceReport>,
}

impl Database {
    /// Adds a worker, or replaces the process that had its name.
    pub fn join(&mut self, joining: &Joining, credential: u64, now: Timestamp) -> WorkerId {
        let known = self.facts.workers.values().find(|w| w.name.as_str() == joining.name).map(|w| w.id);
        let id = known.unwrap_or_else(|| self.id());
        if let Some(former) = self.credentials.insert(id, credential) {
            self.former.insert(former, (id, now + CREDENTIAL_TTL));
        }
        let xid = self.feed.begin();
        let joined = self.commit(xid, |db| {
            let new = || Worker {
                id,
                name: joining.name.parse().expect("names are slugs"),
                pool: "default".parse().expect("a slug"),
                dedicated: false,
                zone: joining.zone.parse().expect("a slug"),
                address: String::new(),
                cordoned: false,
                clearance: Classification::Internal,
                live: true,
                devices: Vec::new(),
                seen_at: now,
                revision: 1,
                created_at: now,
            };
            let worker = db.facts.workers.entry(id).or_insert_with(new);
            worker.live = true;
            worker.seen_at = worker.seen_at.max(now);
            for placement in db.facts.placements.values_mut() {
                if placement.worker_id == id && placement.state == PlacementState::Ready {
                    placement.state = PlacementState::Assigned;
                }
            }
            db.match_devices(id, &joining.devices);
            Ok(id)
        });
        joined.expect("joining is never refused")
    }

    /// Makes the devices those that are reported; what does not fit any more ends.
    fn match_devices(&mut self, worker: WorkerId, reported: &[DeviceReport]) {
        for report in reported {
            let devices = &self.facts.workers[&worker].devices;
            let Some(at) = devices.iter().position(|device| device.ordinal == report.ordinal) else {
                let device = Device {
                    id: self.id(),
                    worker_id: worker,
                    ordinal: report.ordinal,
                    class: report.class.clone(),
                    memory_bytes: report.memory_bytes,
                    milli: report.milli,
                    available_memory_bytes: None,
                    used_memory_bytes: 0,
                    used_milli: 0,
                };
                self.facts.workers.get_mut(&worker).expect("it joined").devices.push(device);
                continue;
            };
            let id = devices[at].id;
            let held = self.facts.placements.values().filter(|p| p.holds.iter().any(|h| h.device_id == id));
            let mut youngest: Vec<_> = held.map(|p| (p.since, p.id)).collect();
            youngest.sort();
            let over = |db: &Self| {
                let device = &db.facts.workers[&worker].devices[at];
                device.used_memory_bytes > report.memory_bytes || device.used_milli > report.milli
            };
            while over(self)
                && let Some((_, placement)) = youngest.pop()
            {
                self.end_placement(placement);
            }
            let device = &mut self.facts.workers.get_mut(&worker).expect("it joined").devices[at];
            (device.memory_bytes, device.milli) = (report.memory_bytes, report.milli);
        }
    }

    /// Whose credential it is; a former one counts for a moment where an API
    /// remembers it.
    pub fn by_credential(&self, credential: u64, remembered: bool, now: Timestamp) -> Option<WorkerId> {
        let present = self.credentials.iter().find(|(_, present)| **present == credential);
        let former = self.former.get(&credential).filter(|(_, until)| remembered && now < *until);
        present.map(|(id, _)| *id).or(former.map(|(id, _)| *id))
    }

    /// A worker says that it lives and what it holds. Whether anybody is to know.
    pub fn report(&mut self, id: WorkerId, reports: &[PlacementReport], now: Timestamp) -> bool {
        let worker = self.facts.workers.get_mut(&id).expect("it has a credential");
        worker.seen_at = worker.seen_at.max(now);
        let observed = self.observed(id, reports);
        if self.facts.workers[&id].live && observed.is_empty() {
            return false;
        }
        let xid = self.feed.begin();
        let done = self.commit(xid, |db| {
            db.facts.workers.get_mut(&id).expect("it has a credential").live = true;
            for (placement, state) in observed {
                match state {
                    PlacementState::Ended => db.end_placement(placement),
                    state => db.facts.placements.get_mut(&placement).expect("it was found").state = state,
                }
            }
            Ok(())
        });
        done.expect("a report is never refused");
        true
    }

    /// Placements of the worker that are in another state than was known. What it
    /// does not mention it does not have; what drains does so until it ends.
    fn observed(&self, id: WorkerId, reports: &[PlacementReport]) -> Vec<(PlacementId, PlacementState)> {
        let of_worker = self.facts.placements.values().filter(|p| p.worker_id == id);
        let state = |placement: &domain::planner::LivePlacement| {
            let named = reports.iter().find(|report| report.placement_id == placement.id);
            let report = named.filter(|report| report.generation == placement.generation);
            match (placement.state, report.map(|report| report.state)) {
                (PlacementState::Draining, Some(ObservedState::Ended)) => PlacementState::Ended,
                (PlacementState::Draining, _) => PlacementState::Draining,
                (_, Some(ObservedState::Ready)) => PlacementState::Ready,
                (_, Some(_)) => PlacementState::Assigned,
                (PlacementState::Ready, None) if named.is_none() => PlacementState::Assigned,
                (other, None) => other,
            }
        };
        of_worker
            .map(|p| (p.id, p.state, state(p)))
            .filter(|(_, was, is)| was != is)
            .map(|(id, _, is)| (id, is))
            .collect()
    }

    /// What a worker is to hold.
    pub fn desired(&self, id: WorkerId) -> DesiredState {
        let placements = self.facts.placements.values().filter(|p| p.worker_id == id);
        let placements: Vec<_> = placements
            .map(|p| DesiredPlacement {
                placement_id: p.id,
                generation: p.generation,
                tenant_id: p.tenant_id,
                owner: p.owner,
                version: DesiredVersion {
                    id: p.version_id,
                    digest: Sha256Digest([0; 32]),
                    manifest: Manifest { format: String::new(), files: Vec::new() },
                },
                memory_bytes: p.resources.memory_bytes,
                milli: p.resources.milli,
                drain: p.state == PlacementState::Draining,
            })
            .collect();
        let mut revision = format!("{}", self.epoch);
        for p in &placements {
            revision += &format!(" {:x}.{}.{}", p.placement_id.0.as_u128(), p.generation, p.drain);
        }
        DesiredState { epoch: self.epoch, revision, placements }
    }
}
