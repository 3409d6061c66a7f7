//! Room that is promised to one for whom others leave.

use crate::planner::simulation::World;
use crate::planner::*;
use crate::quotas::{Key, NodeId, NodeSpec, Quota, WithinTenant};
use crate::workloads::PlacementState;

const GB: u64 = 1_000_000_000;

/// Found by the simulation of the control loop: whoever left first was placed
/// again in the room that it had left, and told to leave it, until the last left.
#[test]
fn a_promise_is_kept_until_all_have_left_that_are_leaving() {
    let mut world = World::new(1);
    world.add_worker("cpu", 1, 4 * GB, 4000);
    let (stays, ends) = (world.add_job(2 * GB, 2000), world.add_job(2 * GB, 1000));
    let tenant = world.snapshot.intents[&stays].tenant_id;
    world.snapshot.intents.get_mut(&ends).unwrap().tenant_id = tenant;
    let mut spec = NodeSpec::new(NodeId::Tenant(tenant), None);
    spec.quotas.insert(Key::milli("cpu"), Quota { nominal: 3000, ..Quota::default() });
    spec.policies.within = WithinTenant::LowerPriority;
    world.snapshot.quotas.push(spec);
    world.settle();
    world.make_true();
    // One is over, and goes when it can; the other makes room for an endpoint,
    // which needs the quota of that other, and the memory of both.
    world.snapshot.intents.remove(&ends);
    let first = world.add_endpoint(4 * GB, 1500, 1);
    world.snapshot.intents.get_mut(&first).unwrap().tenant_id = tenant;
    world.settle();
    let placement = |world: &World, owner| {
        let found = world.snapshot.placements.values().find(|p| p.owner == owner);
        found.map(|p| (p.id, p.state))
    };
    let (evicted, state) = placement(&world, stays).unwrap();
    assert_eq!(state, PlacementState::Draining);
    world.snapshot.end_placement(evicted);
    assert!(!world.settle().iter().any(|d| matches!(d, Decision::Place { .. })), "it has only just left");
    assert!(world.snapshot.workloads.values().any(|w| w.owner == first && w.promised_at.is_some()));
    let (ended, _) = placement(&world, ends).unwrap();
    world.snapshot.end_placement(ended);
    world.settle();
    assert!(placement(&world, first).is_some());
    assert!(placement(&world, stays).is_none());
}
