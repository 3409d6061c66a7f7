use proptest::prelude::*;

use super::*;
use crate::cases::cases;

const WINDOW: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_secs(2);
const START: Timestamp = Timestamp::UNIX_EPOCH;

fn targets() -> Targets {
    Targets { idle_secs: 30, ..Targets::default() }
}

/// What is measured of `replicas` that all answer, when this much is asked of
/// the endpoint all the time.
#[derive(Clone, Copy, Debug)]
struct Demand {
    queued_milli: u64,
    tokens: u64,
    /// Of one replica alone; more share it.
    first_token_ms: u64,
}

impl Demand {
    fn of(self, replicas: u32) -> Load {
        let asked = self.queued_milli + self.tokens > 0;
        let held = if replicas == 0 && asked { 1 } else { 0 };
        Load {
            ready: replicas,
            measured: replicas,
            queued_milli: if replicas == 0 { 0 } else { self.queued_milli },
            tokens: if replicas == 0 { 0 } else { self.tokens },
            first_token_ms: (replicas > 0 && asked).then(|| self.first_token_ms / u64::from(replicas)),
            idle_ms: (replicas > 0).then_some(if asked { 0 } else { u64::MAX }),
            held,
        }
    }
}

/// Looks for so long at a demand; the numbers that were chosen one after the other.
fn watch(
    memory: &mut Memory,
    range: Range,
    mut replicas: u32,
    demand: Demand,
    now: &mut Timestamp,
    looks: u32,
) -> Vec<u32> {
    let mut chosen = vec![replicas];
    for _ in 0..looks {
        if let Some(verdict) = memory.judge(range, &targets(), WINDOW, replicas, &demand.of(replicas), *now) {
            assert!(!verdict.why.is_empty());
            assert_ne!(verdict.replicas, replicas, "{}", verdict.why);
            replicas = verdict.replicas;
            chosen.push(replicas);
        }
        *now = *now + STEP;
    }
    chosen
}

fn ranges() -> impl Strategy<Value = Range> {
    (0u32..6, 0u32..20).prop_map(|(min, more)| Range { min, max: (min + more).max(1) })
}

fn demands() -> impl Strategy<Value = Demand> {
    (0u64..60_000, 0u64..400_000, 0u64..60_000).prop_map(|(queued_milli, tokens, first_token_ms)| Demand {
        queued_milli,
        tokens,
        first_token_ms,
    })
}

/// Anything that might be measured, consistent or not.
fn loads() -> impl Strategy<Value = Load> {
    let times = (prop::option::of(0u64..100_000), prop::option::of(0u64..100_000));
    (0u32..20, 0u32..20, 0u64..100_000, 0u64..1_000_000, times, 0u32..50).prop_map(
        |(ready, measured, queued_milli, tokens, (first_token_ms, idle_ms), held)| Load {
            ready,
            measured: measured.min(ready),
            queued_milli,
            tokens,
            first_token_ms,
            idle_ms,
            held,
        },
    )
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn whatever_is_measured_the_range_is_kept(
        range in ranges(), from in 0u32..30, looks in prop::collection::vec((loads(), 0u64..100), 1..40)
    ) {
        let (mut memory, mut replicas, mut now) = (Memory::new(START), from, START);
        for (load, secs) in looks {
            if let Some(verdict) = memory.judge(range, &targets(), WINDOW, replicas, &load, now) {
                replicas = verdict.replicas;
            }
            prop_assert!((range.min..=range.max).contains(&replicas), "{replicas} of {range:?}");
            now = now + Duration::from_secs(secs);
        }
    }

    /// Where more is asked, no fewer replicas come of it.
    #[test]
    fn more_load_never_makes_fewer(
        range in ranges(), from in 0u32..20, before in demands(), less in demands(), more in demands(), looks in 0u32..60
    ) {
        let from = from.clamp(range.min, range.max);
        let (mut memory, mut now) = (Memory::new(START), START);
        let from = *watch(&mut memory, range, from, before, &mut now, looks).last().unwrap();
        let more = Demand {
            queued_milli: less.queued_milli + more.queued_milli,
            tokens: less.tokens + more.tokens,
            first_token_ms: less.first_token_ms + more.first_token_ms,
        };
        let judge = |demand: Demand| {
            let mut memory = memory.clone();
            memory.judge(range, &targets(), WINDOW, from, &demand.of(from), now).map_or(from, |v| v.replicas)
        };
        prop_assert!(judge(less) <= judge(more), "{} for less, {} for more", judge(less), judge(more));
    }

    /// What is asked all the time is answered by one number: it is found going one
    /// way, and then kept. Only how long the first token takes depends on the number
    /// itself; a fall that it proves wrong is tried ever more rarely.
    #[test]
    fn constant_load_comes_to_rest(range in ranges(), from in 0u32..20, demand in demands(), with_time: bool) {
        let demand = if with_time { demand } else { Demand { first_token_ms: 0, ..demand } };
        let from = from.clamp(range.min, range.max);
        let (mut memory, mut now) = (Memory::new(START), START);
        let hours = watch(&mut memory, range, from, demand, &mut now, 3600);
        let turns = hours.windows(3).filter(|w| (w[0] < w[1]) != (w[1] < w[2])).count();
        if with_time {
            prop_assert!(turns <= 20, "{hours:?}");
        } else {
            prop_assert_eq!(turns, 0, "{:?}", hours);
        }
    }

    /// A measurement that is missing may hide any load: nothing goes.
    #[test]
    fn nothing_goes_while_a_measurement_is_missing(range in ranges(), load in loads(), looks in 1u32..200) {
        prop_assume!(load.ready > 0);
        let load = Load { measured: load.ready - 1, ..load };
        let (mut memory, mut now, mut replicas) = (Memory::new(START), START, range.max);
        for _ in 0..looks {
            if let Some(verdict) = memory.judge(range, &targets(), WINDOW, replicas, &load, now) {
                prop_assert!(verdict.replicas > replicas, "{}", verdict.why);
                replicas = verdict.replicas;
            }
            now = now + STEP;
        }
    }
}

const ONE_ASKS: Demand = Demand { queued_milli: 100, tokens: 50, first_token_ms: 200 };
const NOBODY: Demand = Demand { queued_milli: 0, tokens: 0, first_token_ms: 0 };

#[test]
fn the_last_goes_only_when_nobody_has_asked_for_long_enough_and_comes_back_when_somebody_does() {
    let range = Range { min: 0, max: 3 };
    let (mut memory, mut now) = (Memory::new(START), START);
    assert_eq!(watch(&mut memory, range, 1, ONE_ASKS, &mut now, 1000), [1]);
    let mut load = NOBODY.of(1);
    load.idle_ms = Some(29_999);
    assert_eq!(memory.judge(range, &targets(), WINDOW, 1, &load, now), None);
    load.idle_ms = Some(30_000);
    let verdict = memory.judge(range, &targets(), WINDOW, 1, &load, now).unwrap();
    assert_eq!((verdict.replicas, &*verdict.why), (0, "nobody asked for 30 s"));
    assert_eq!(watch(&mut memory, range, 0, NOBODY, &mut now, 100), [0], "nobody asks");
    // Nor does one that has not seen anything yet bring it back.
    assert_eq!(watch(&mut Memory::new(now), range, 0, NOBODY, &mut now.clone(), 100), [0]);
    let held = Load { held: 1, ..Load::default() };
    let verdict = memory.judge(range, &targets(), WINDOW, 0, &held, now).unwrap();
    assert_eq!((verdict.replicas, &*verdict.why), (1, "a request waits until a replica is there"));
    // While it starts it is not taken away.
    let starting = Load::default();
    assert_eq!(memory.judge(range, &targets(), WINDOW, 1, &starting, now + STEP), None);
    let verdict =
        memory.judge(range, &targets(), WINDOW, 1, &starting, now + Duration::from_secs(31)).unwrap();
    assert_eq!(verdict.replicas, 0, "who asked has gone");
}

#[test]
fn many_that_are_held_bring_as_many_as_they_need() {
    let held = Load { held: 7, ..Load::default() };
    let mut memory = Memory::new(START);
    let verdict = memory.judge(Range { min: 0, max: 9 }, &targets(), WINDOW, 0, &held, START).unwrap();
    assert_eq!(verdict.replicas, 4);
    assert_eq!(verdict.why, "7.0 requests wait for their first token; the target is 2 per replica");
    let verdict = memory.judge(Range { min: 0, max: 3 }, &targets(), WINDOW, 0, &held, START).unwrap();
    assert_eq!(verdict.replicas, 3);
    assert!(verdict.why.ends_with("; that asks for 4, but max_replicas is 3"), "{}", verdict.why);
}

#[test]
fn it_rises_at_once_and_falls_by_half_after_the_window() {
    let range = Range { min: 1, max: 20 };
    let (mut memory, mut now) = (Memory::new(START), START);
    let busy = Demand { queued_milli: 20_000, tokens: 0, first_token_ms: 0 };
    assert_eq!(watch(&mut memory, range, 1, busy, &mut now, 1), [1, 10]);
    let calm = Demand { queued_milli: 100, ..busy };
    assert_eq!(watch(&mut memory, range, 10, calm, &mut now, 29), [10], "not before the window is over");
    assert_eq!(watch(&mut memory, range, 10, calm, &mut now, 200), [10, 5, 2, 1]);
}

#[test]
fn the_first_token_counts_where_requests_wait_for_each_other() {
    let slow = Load {
        ready: 2,
        measured: 2,
        queued_milli: 3000,
        first_token_ms: Some(12_000),
        idle_ms: Some(0),
        ..Load::default()
    };
    let range = Range { min: 1, max: 20 };
    let judge =
        |load: &Load, replicas| Memory::new(START).judge(range, &targets(), WINDOW, replicas, load, START);
    let verdict = judge(&slow, 2).unwrap();
    assert_eq!(
        (verdict.replicas, &*verdict.why),
        (4, "the first token takes 12000 ms; the target is 5000 ms")
    );
    assert_eq!(judge(&slow, 3), None, "another is on its way");
    assert_eq!(judge(&Load { queued_milli: 2000, ..slow }, 2), None, "a long prompt is no queue");
}

#[test]
fn a_range_that_changed_is_followed_at_once() {
    let judge = |min, max, replicas| {
        let load = ONE_ASKS.of(replicas);
        Memory::new(START).judge(Range { min, max }, &targets(), WINDOW, replicas, &load, START).unwrap()
    };
    assert_eq!(judge(3, 9, 1), Verdict { replicas: 3, why: "min_replicas is 3".to_owned() });
    assert_eq!(judge(1, 4, 9), Verdict { replicas: 4, why: "max_replicas is 4".to_owned() });
}
