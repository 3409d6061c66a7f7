//! What it costs to put a request on a worker.

use super::prices::{MAX_SIZES, ROUNDING, Table, size_milli};
use super::state::State;
use super::{Device, Needs, Score, Weights};
use crate::accelerators::WHOLE_MILLI;

/// What a worker is worth as it is, at certain prices.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Worth {
    value: f64,
    whole: u32,
    pub free_milli: u64,
    stranded: f64,
    pub places: [u16; MAX_SIZES],
    units: [u16; MAX_SIZES],
}

impl Worth {
    pub fn of(state: &State, table: &Table) -> Self {
        let mut worth = Self::default();
        for device in &state.devices {
            let gap = gap_milli(device);
            worth.value += table.worth_of_gap(gap);
            worth.whole += u32::from(gap >= u64::from(WHOLE_MILLI));
            worth.free_milli += u64::from(device.free_milli);
        }
        worth.stranded = table.stranded(worth.value, state.cpu_milli, state.host_memory_bytes);
        (worth.places, worth.units) =
            table.places(state.devices.len(), worth.whole, state.cpu_milli, state.host_memory_bytes);
        worth
    }
}

/// Order of preference; least is best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// Step of cost.
    pub step: i64,
    /// Then the fullest worker.
    free_milli: u64,
    /// Then the tightest gap.
    gap_milli: u64,
    /// Then any order that is always the same.
    fingerprint: u64,
}

/// Places for requests of each size that a placement takes away.
pub(super) type Lost = [u16; MAX_SIZES];

/// Where on the worker, and how good that is apart from the places lost, whose
/// prices change from one decision to the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Place {
    pub lost: Lost,
    pub key: Key,
    /// The only device, where one is asked.
    pub device: u8,
}

/// The best way to put `needs` on a worker that fits, for each set of places
/// that it can cost.
pub(super) fn evaluate(
    weights: &Weights,
    table: &Table,
    needs: &Needs,
    state: &State,
    worth: &Worth,
    fingerprint: u64,
    found: &mut Vec<Place>,
) {
    found.clear();
    let mut offer = |chosen: &[usize], device: u8, gap_milli: u64| {
        let (score, lost) = score(weights, table, needs, state, worth, chosen);
        let key = Key { step: score.step, free_milli: worth.free_milli, gap_milli, fingerprint };
        match found.iter_mut().find(|other| other.lost == lost) {
            None => found.push(Place { lost, key, device }),
            Some(other) if key < other.key => *other = Place { lost, key, device },
            Some(_) => {}
        }
    };
    if needs.devices != 1 {
        return offer(&chosen(needs, state, 0), 0, 0);
    }
    let mut last = None;
    for index in state.fitting(needs) {
        let device = state.devices[index];
        if last != Some(device) {
            last = Some(device);
            let number = u8::try_from(index).expect("a worker has at most 64 devices");
            offer(&[index], number, gap_milli(&device));
        }
    }
}

/// Which devices of the state, given which one if only one is asked.
pub(super) fn chosen(needs: &Needs, state: &State, device: u8) -> Vec<usize> {
    match needs.devices {
        0 => Vec::new(),
        1 => vec![usize::from(device)],
        many => state.fitting(needs).take(many as usize).collect(),
    }
}

/// The parts of the cost of putting `needs` on these devices, without that of
/// the places lost, and those.
pub(super) fn score(
    weights: &Weights,
    table: &Table,
    needs: &Needs,
    state: &State,
    worth: &Worth,
    chosen: &[usize],
) -> (Score, Lost) {
    let whole_milli = u64::from(WHOLE_MILLI);
    let (mut value, mut whole) = (worth.value, worth.whole);
    let (mut gap_loss, mut asked, mut opens) = (0.0, 0.0, 0);
    for &index in chosen {
        let device = state.devices[index];
        let (before, after) = (gap_milli(&device), gap_milli(&taken(device, needs)));
        let size = size_milli(needs.milli, needs.memory_bytes, &device);
        let (had, has) = (table.worth_of_gap(before), table.worth_of_gap(after));
        let worth = table.worth_of(size);
        value += has - had;
        gap_loss += had - has - worth;
        asked += worth;
        whole -= u32::from(before >= whole_milli && after < whole_milli);
        let untouched = before == u64::from(device.milli) && before >= whole_milli;
        opens += u32::from(untouched && size < whole_milli);
    }
    let cpu_milli = state.cpu_milli - needs.cpu_milli;
    let host_bytes = state.host_memory_bytes - needs.host_memory_bytes;
    let stranding = table.stranded(value, cpu_milli, host_bytes) - worth.stranded;
    let mut lost = worth.units;
    let (_, units) = table.places(state.devices.len(), whole, cpu_milli, host_bytes);
    for (lost, left) in lost.iter_mut().zip(units) {
        *lost -= left;
    }
    let scarcity = asked * table.scarcity;
    let cost =
        weights.gap * gap_loss + stranding + weights.scarcity * scarcity + weights.opens * f64::from(opens);
    #[expect(clippy::cast_possible_truncation, reason = "a cost is at most some thousand devices")]
    let step = (cost / weights.indifference + ROUNDING).floor() as i64;
    (Score { gap_loss, stranding, groups: 0.0, scarcity, opens, cost, step }, lost)
}

/// The device after its share of the request.
pub(super) fn taken(device: Device, needs: &Needs) -> Device {
    Device {
        free_milli: device.free_milli - needs.milli,
        free_memory_bytes: device.free_memory_bytes - needs.memory_bytes,
        ..device
    }
}

/// What is free of a device, by whichever of compute and memory is scarcer on
/// it, in thousandths.
fn gap_milli(device: &Device) -> u64 {
    let milli = u64::from(device.free_milli);
    if device.memory_bytes == 0 || device.free_memory_bytes == device.memory_bytes {
        return milli;
    }
    milli.min(device.free_memory_bytes.saturating_mul(u64::from(device.milli)) / device.memory_bytes)
}

/// A cost in steps.
pub(super) fn steps(weights: &Weights, cost: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "a cost is at most some thousand devices")]
    let steps = (cost / weights.indifference + 0.5).floor() as i64;
    steps
}
