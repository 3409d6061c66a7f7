//! Properties of `reconcile`, against a model that carries its actions out.

use proptest::prelude::*;

use super::*;
use crate::models::{Manifest, Sha256Digest};
use crate::workers::DesiredVersion;
use crate::workloads::WorkloadOwner;
use crate::{EndpointId, TenantId, VersionId};

fn id(n: u8) -> PlacementId {
    format!("00000000-0000-7000-8000-0000000000{n:02x}").parse().unwrap()
}

fn placement(n: u8, generation: i64, drain: bool) -> DesiredPlacement {
    let uuid = id(n).0;
    DesiredPlacement {
        placement_id: id(n),
        generation,
        tenant_id: TenantId(uuid),
        owner: WorkloadOwner::Endpoint(EndpointId(uuid)),
        version: DesiredVersion {
            id: VersionId(uuid),
            digest: Sha256Digest([n; 32]),
            manifest: Manifest { format: "gguf".to_owned(), files: vec![] },
        },
        memory_bytes: 1 << 30,
        milli: 500,
        drain,
    }
}

fn desired(epoch: i64, placements: Vec<DesiredPlacement>) -> DesiredState {
    DesiredState { epoch, revision: String::new(), placements }
}

/// Carries actions out, as the worker does; what drains may end at any time.
fn apply(actual: &mut Actual, epoch: i64, actions: &[Action]) {
    actual.epoch = actual.epoch.max(epoch);
    for action in actions {
        match action {
            Action::Start(p) => {
                let new = Held { generation: p.generation, phase: Phase::Running };
                assert!(actual.held.insert(p.placement_id, new).is_none(), "started twice");
            }
            Action::SayEnded(p) => {
                let new = Held { generation: p.generation, phase: Phase::Ended };
                assert!(actual.held.insert(p.placement_id, new).is_none(), "said twice");
            }
            Action::Drain(id) => actual.held.get_mut(id).unwrap().phase = Phase::Draining,
            Action::Stop(id) | Action::Forget(id) => {
                let held = actual.held.remove(id).unwrap();
                actual.gone.remember(*id, held.generation);
            }
        }
    }
}

fn arbitrary_desired() -> impl Strategy<Value = DesiredState> {
    let one = (0u8..6, 1i64..4, any::<bool>());
    (0i64..5, proptest::collection::btree_map(0u8..6, one, 0..6)).prop_map(|(epoch, some)| {
        desired(
            epoch,
            some.into_iter().map(|(n, (_, generation, drain))| placement(n, generation, drain)).collect(),
        )
    })
}

proptest! {
    /// Whatever comes in whatever order, nothing of a lower epoch is done, and
    /// no generation goes back.
    #[test]
    fn stale_orders_are_never_obeyed(states in proptest::collection::vec((arbitrary_desired(), any::<bool>()), 0..20)) {
        let mut actual = Actual::default();
        let mut highest: BTreeMap<PlacementId, i64> = BTreeMap::new();
        for (state, drained) in states {
            let actions = reconcile(&actual, &state);
            if state.epoch < actual.epoch {
                prop_assert_eq!(&actions, &vec![]);
            }
            for action in &actions {
                if let Action::Start(p) = action {
                    let seen = highest.entry(p.placement_id).or_insert(i64::MIN);
                    prop_assert!(p.generation > *seen, "generation {} started after {}", p.generation, seen);
                    prop_assert!(!p.drain);
                    *seen = p.generation;
                }
            }
            apply(&mut actual, state.epoch, &actions);
            if drained {
                for held in actual.held.values_mut().filter(|held| held.phase == Phase::Draining) {
                    held.phase = Phase::Ended;
                }
            }
        }
    }

    /// Done once, there is nothing left to do; and what is held is what is
    /// wanted, but for what had already ended.
    #[test]
    fn reconciling_twice_changes_nothing(states in proptest::collection::vec(arbitrary_desired(), 1..6)) {
        let mut actual = Actual::default();
        for mut state in states {
            state.epoch = 7;
            let actions = reconcile(&actual, &state);
            apply(&mut actual, state.epoch, &actions);
            prop_assert_eq!(reconcile(&actual, &state), vec![]);
            let wanted: Vec<PlacementId> = state.placements.iter().map(|p| p.placement_id).collect();
            prop_assert_eq!(actual.held.keys().copied().collect::<Vec<_>>(), wanted);
            for p in &state.placements {
                let held = actual.held[&p.placement_id];
                prop_assert!(held.generation >= p.generation);
                if held.generation == p.generation && p.drain {
                    prop_assert!(held.phase != Phase::Running, "runs though it should drain");
                }
            }
        }
    }
}

#[test]
fn drains_then_ends_then_is_forgotten() {
    let mut actual = Actual::default();
    let actions = reconcile(&actual, &desired(1, vec![placement(1, 1, false)]));
    apply(&mut actual, 1, &actions);
    let actions = reconcile(&actual, &desired(1, vec![placement(1, 1, true)]));
    assert_eq!(actions, [Action::Drain(id(1))]);
    apply(&mut actual, 1, &actions);
    assert_eq!(reconcile(&actual, &desired(1, vec![placement(1, 1, true)])), [], "drains already");
    actual.held.get_mut(&id(1)).unwrap().phase = Phase::Ended;
    assert_eq!(reconcile(&actual, &desired(1, vec![placement(1, 1, false)])), [], "an end is final");
    assert_eq!(reconcile(&actual, &desired(1, vec![])), [Action::Forget(id(1))]);
}

#[test]
fn memory_is_freed_before_it_is_taken() {
    let mut actual = Actual::default();
    actual.held.insert(id(9), Held { generation: 1, phase: Phase::Running });
    let actions = reconcile(&actual, &desired(1, vec![placement(1, 1, false)]));
    assert_eq!(actions, [Action::Stop(id(9)), Action::Start(placement(1, 1, false))]);
}

#[test]
fn what_was_let_go_of_does_not_come_back() {
    let mut actual = Actual::default();
    actual.gone.remember(id(1), 2);
    assert_eq!(
        reconcile(&actual, &desired(1, vec![placement(1, 2, false)])),
        [Action::SayEnded(placement(1, 2, false))]
    );
    assert_eq!(
        reconcile(&actual, &desired(1, vec![placement(1, 3, false)])),
        [Action::Start(placement(1, 3, false))]
    );
}

#[test]
fn memory_of_the_past_is_bounded() {
    let mut gone = Gone::default();
    for n in 0..MAX_REMEMBERED + 10 {
        gone.remember(PlacementId::generate(), i64::try_from(n).unwrap());
    }
    assert_eq!((gone.order.len(), gone.generations.len()), (MAX_REMEMBERED, MAX_REMEMBERED));
}

#[test]
fn a_late_end_of_a_former_generation_does_not_open_the_way_for_a_later_one_again() {
    let mut actual = Actual::default();
    actual.gone.remember(id(1), 2);
    actual.gone.remember(id(1), 1);
    assert_eq!(
        reconcile(&actual, &desired(1, vec![placement(1, 2, false)])),
        [Action::SayEnded(placement(1, 2, false))]
    );
}
