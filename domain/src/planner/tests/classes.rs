//! Workloads that will do with devices of several classes.

use crate::planner::simulation::World;
use crate::planner::*;
use crate::quotas::{Key, NodeId, NodeSpec, Quota, Reclaim};

const GB: u64 = 1_000_000_000;

/// An endpoint that would rather have `first`, and will do with the others.
fn endpoint(world: &mut World, classes: &[&str], replicas: u32) -> WorkloadOwner {
    let owner = world.add_endpoint(GB, 1000, replicas);
    let resources = &mut world.snapshot.intents.get_mut(&owner).unwrap().resources;
    resources.class = classes[0].to_owned();
    resources.alternatives = classes[1..].iter().map(ToString::to_string).collect();
    owner
}

fn classes_of(world: &World, owner: WorkloadOwner) -> Vec<&str> {
    let placed = world.snapshot.placements.values().filter(|p| p.owner == owner);
    let mut classes: Vec<&str> = placed.map(|p| p.class.as_str()).collect();
    classes.sort_unstable();
    classes
}

fn quota(world: &mut World, owner: WorkloadOwner, quotas: &[(&str, i64)]) -> NodeId {
    let node = NodeId::Tenant(world.snapshot.intents[&owner].tenant_id);
    let mut spec = NodeSpec::new(node, None);
    for (class, nominal) in quotas {
        spec.quotas.insert(Key::milli(class), Quota { nominal: *nominal, ..Quota::default() });
    }
    spec.policies.reclaim = Reclaim::Any;
    world.snapshot.quotas.retain(|other| other.id != node);
    world.snapshot.quotas.push(spec);
    node
}

fn passed_over(decisions: &[Decision]) -> Vec<(&str, &[PassedOver])> {
    let placed = decisions.iter().filter_map(|decision| match decision {
        Decision::Place { class, passed_over, .. } => Some((class.as_str(), &**passed_over)),
        _ => None,
    });
    placed.collect()
}

#[test]
fn replicas_go_where_the_preferred_class_has_room_and_then_elsewhere() {
    let mut world = World::new(1);
    world.add_worker("h100", 2, 8 * GB, 1000);
    world.add_worker("a100", 1, 8 * GB, 1000);
    let owner = endpoint(&mut world, &["h100", "a100", "cpu"], 4);
    let decisions = world.settle();
    assert_eq!(classes_of(&world, owner), ["a100", "h100", "h100"]);
    let told = passed_over(&decisions);
    assert_eq!((told[0], told[1]), (("h100", &[][..]), ("h100", &[][..])));
    let full = "no worker of class h100 has 1000 milli-accelerators free: the most free is 0 on node-0";
    assert_eq!(told[2], ("a100", &[PassedOver { class: "h100".to_owned(), why: full.to_owned() }][..]));
    let waits = world.snapshot.workloads.values().find_map(|w| w.reason.clone()).unwrap();
    assert_eq!(
        waits,
        "no worker of class h100 has 1000 milli-accelerators free: the most free is 0 on node-0; \
         no worker of class a100 has 1000 milli-accelerators free: the most free is 0 on node-1; \
         no worker has a device of class cpu"
    );

    // A device of the last class: the one that waits takes it, and nobody moves.
    world.add_worker("cpu", 1, 8 * GB, 4000);
    world.settle();
    assert_eq!(classes_of(&world, owner), ["a100", "cpu", "h100", "h100"]);
    assert_eq!(plan(&world.snapshot, world.now), []);
}

#[test]
fn the_class_is_the_first_in_which_quota_has_room() {
    let mut world = World::new(1);
    world.add_worker("h100", 4, 8 * GB, 1000);
    world.add_worker("a100", 4, 8 * GB, 1000);
    let owner = endpoint(&mut world, &["h100", "a100"], 4);
    let node = quota(&mut world, owner, &[("h100", 1000), ("a100", 2000)]);
    let decisions = world.settle();
    assert_eq!(classes_of(&world, owner), ["a100", "a100", "h100"]);
    let why = "no quota of class h100 was left for it, or only what others lend";
    assert!(
        passed_over(&decisions).iter().filter(|(class, _)| *class == "a100").all(|(_, p)| p[0].why == why),
        "{decisions:?}"
    );
    let waits = world.snapshot.workloads.values().find_map(|w| w.reason.clone()).unwrap();
    assert_eq!(
        waits,
        "its tenant's quota of class h100 has less left than the 1000 milli-accelerators it asks for; \
         nor is quota left for it of class a100"
    );
    let mut tree = crate::quotas::Tree::new(&world.snapshot.quotas).unwrap();
    for placement in world.snapshot.placements.values() {
        tree.count(node, &Key::milli(&placement.class), placement.resources.milli.into());
    }
    for class in ["h100", "a100"] {
        assert_eq!(tree.figures(node, &Key::milli(class)).unwrap().available, 0, "{class} is used up");
    }
}

#[test]
fn devices_of_one_class_and_quota_of_another_are_told_together() {
    let mut world = World::new(1);
    world.add_worker("h100", 1, 8 * GB, 1000);
    world.add_worker("a100", 4, 8 * GB, 1000);
    let owner = endpoint(&mut world, &["h100", "a100"], 3);
    quota(&mut world, owner, &[("h100", 9000), ("a100", 1000)]);
    world.settle();
    assert_eq!(classes_of(&world, owner), ["a100", "h100"]);
    let waits = world.snapshot.workloads.values().find_map(|w| w.reason.clone()).unwrap();
    assert_eq!(
        waits,
        "no worker of class h100 has 1000 milli-accelerators free: the most free is 0 on node-0; \
         its tenant's quota of class a100 has less left than the 1000 milli-accelerators it asks for"
    );
    // Another tenant has quota of the second class, and is not kept from it.
    let other = endpoint(&mut world, &["h100", "a100"], 1);
    quota(&mut world, other, &[("h100", 1000), ("a100", 1000)]);
    world.settle();
    assert_eq!(classes_of(&world, other), ["a100"]);
}

#[test]
fn who_leaves_makes_room_in_its_own_class() {
    let mut world = World::new(1);
    world.add_worker("h100", 1, 8 * GB, 1000);
    world.add_worker("a100", 1, 8 * GB, 1000);
    let borrower = endpoint(&mut world, &["h100", "a100"], 2);
    let all = NodeId::Cohort(crate::CohortId(uuid::Uuid::from_u128(1 << 80)));
    world.snapshot.quotas.push(NodeSpec::new(all, None));
    quota(&mut world, borrower, &[("h100", 0), ("a100", 0)]);
    let lender = endpoint(&mut world, &["a100"], 0);
    quota(&mut world, lender, &[("h100", 1000), ("a100", 1000)]);
    world.snapshot.quotas.iter_mut().filter(|node| node.id != all).for_each(|node| node.parent = Some(all));
    world.settle();
    assert_eq!(classes_of(&world, borrower), ["a100", "h100"], "it borrows");
    world.make_true();
    world.snapshot.intents.get_mut(&lender).unwrap().count = 1;
    let decisions = world.settle();
    let evicted = decisions.iter().find_map(|d| match d {
        Decision::Evict { placement, .. } => Some(world.snapshot.placements[placement].class.clone()),
        _ => None,
    });
    assert_eq!(evicted.as_deref(), Some("a100"));
    let promised = world.snapshot.workloads.values().find_map(|w| w.promised_class.as_deref());
    assert_eq!(promised, Some("a100"));
    // A scheduler that begins anew keeps the promise, in that class.
    assert_eq!(plan(&world.snapshot, world.now), []);
    world.make_true();
    world.settle();
    assert_eq!((classes_of(&world, lender), classes_of(&world, borrower)), (vec!["a100"], vec!["h100"]));
    assert!(world.snapshot.workloads.values().all(|w| w.promised_class.is_none()));
}
