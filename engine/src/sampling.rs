//! Choosing the next token from logits: repetition penalty, temperature, top-k,
//! top-p, in this order (the order that `domain::inference::Sampling` promises).

use std::collections::HashSet;

use domain::inference::Sampling;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Highest temperature accepted.
pub const MAX_TEMPERATURE: f32 = 2.0;
/// Highest repetition penalty accepted, and its reciprocal the lowest.
pub const MAX_REPETITION_PENALTY: f32 = 10.0;
/// How many of the best candidates top-p sorts first, before it tries more:
/// nearly always enough, and far cheaper than sorting a whole vocabulary.
const FIRST_SORTED: usize = 256;

/// Says what is wrong with the settings, if anything is.
pub fn check(sampling: &Sampling) -> Result<(), String> {
    let Sampling { temperature, top_p, repetition_penalty, .. } = *sampling;
    if !(0.0..=MAX_TEMPERATURE).contains(&temperature) {
        return Err(format!("temperature is {temperature}; it must be from 0 to {MAX_TEMPERATURE}"));
    }
    if !(top_p > 0.0 && top_p <= 1.0) {
        return Err(format!("top_p is {top_p}; it must be above 0 and at most 1"));
    }
    let least = 1.0 / MAX_REPETITION_PENALTY;
    if !(least..=MAX_REPETITION_PENALTY).contains(&repetition_penalty) {
        return Err(format!(
            "repetition_penalty is {repetition_penalty}; it must be from {least} to {MAX_REPETITION_PENALTY}"
        ));
    }
    Ok(())
}

/// Chooses the tokens of one sequence.
pub struct Sampler {
    settings: Sampling,
    seen: HashSet<u32>,
    rng: StdRng,
}

impl Sampler {
    /// For a sequence that starts with `prompt`. `seed` is used if the settings have none.
    pub fn new(settings: Sampling, prompt: &[u32], seed: u64) -> Self {
        let penalised = settings.repetition_penalty != 1.0;
        let seen = if penalised { prompt.iter().copied().collect() } else { HashSet::new() };
        let rng = StdRng::seed_from_u64(settings.seed.unwrap_or(seed));
        Self { settings, seen, rng }
    }

    /// The next token; `None` if no logit is a number. Equal logits: the lowest token.
    pub fn sample(&mut self, logits: &mut [f32]) -> Option<u32> {
        self.penalise(logits);
        let best = argmax(logits)?;
        let token = if self.settings.temperature == 0.0 { best } else { self.draw(logits, best) };
        if self.settings.repetition_penalty != 1.0 {
            self.seen.insert(token);
        }
        Some(token)
    }

    fn penalise(&self, logits: &mut [f32]) {
        let penalty = self.settings.repetition_penalty;
        for &token in &self.seen {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }

    /// Weights are relative to the best token's, so nothing overflows.
    fn draw(&mut self, logits: &[f32], best: u32) -> u32 {
        let highest = logits[best as usize];
        let inverse = 1.0 / f64::from(self.settings.temperature);
        let weight = |&logit: &f32| (f64::from(logit - highest) * inverse).exp();
        let mut kept: Vec<(f64, u32)> =
            logits.iter().map(weight).zip(0..).filter(|&(w, _)| w > 0.0).collect();
        let top_k = self.settings.top_k as usize;
        if top_k > 0 && top_k < kept.len() {
            kept.select_nth_unstable_by(top_k - 1, heavier_first);
            kept.truncate(top_k);
        }
        if self.settings.top_p < 1.0 {
            keep_top_p(&mut kept, f64::from(self.settings.top_p));
        } else {
            // Selection leaves an order of its own; a seed must mean the same everywhere.
            kept.sort_unstable_by_key(|&(_, token)| token);
        }
        let total: f64 = kept.iter().map(|&(w, _)| w).sum();
        let mut left = self.rng.random::<f64>() * total;
        for &(weight, token) in &kept {
            left -= weight;
            if left < 0.0 {
                return token;
            }
        }
        // Rounding may leave a crumb: the best token has it.
        best
    }
}

/// Leaves the smallest set whose share of the weight reaches `top_p`, heaviest first.
fn keep_top_p(kept: &mut Vec<(f64, u32)>, top_p: f64) {
    let wanted = kept.iter().map(|&(w, _)| w).sum::<f64>() * top_p;
    let mut sorted = FIRST_SORTED;
    loop {
        let n = sorted.min(kept.len());
        if n < kept.len() {
            kept.select_nth_unstable_by(n - 1, heavier_first);
        }
        kept[..n].sort_unstable_by(heavier_first);
        let mut reached = 0.0;
        let enough = kept[..n].iter().position(|&(w, _)| {
            reached += w;
            reached >= wanted
        });
        match enough {
            Some(last) => return kept.truncate(last + 1),
            None if n == kept.len() => return,
            None => sorted *= 8,
        }
    }
}

fn heavier_first(a: &(f64, u32), b: &(f64, u32)) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

fn argmax(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(u32, f32)> = None;
    for (token, &logit) in (0..).zip(logits) {
        if logit.is_finite() && best.is_none_or(|(_, highest)| logit > highest) {
            best = Some((token, logit));
        }
    }
    best.map(|(token, _)| token)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn logits() -> impl Strategy<Value = Vec<f32>> {
        prop::collection::vec(-20.0f32..20.0, 1..400)
    }

    fn settings() -> impl Strategy<Value = Sampling> {
        (0.05f32..=2.0, 0.01f32..=1.0, 0u32..50, 0.5f32..2.0, any::<u64>()).prop_map(
            |(temperature, top_p, top_k, repetition_penalty, seed)| Sampling {
                temperature,
                top_p,
                top_k,
                repetition_penalty,
                seed: Some(seed),
            },
        )
    }

    fn ranks(logits: &[f32]) -> Vec<u32> {
        let mut tokens: Vec<u32> = (0..logits.len() as u32).collect();
        tokens.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        tokens
    }

    proptest! {
        #[test]
        fn greedy_is_the_highest_logit(logits in logits()) {
            let settings = Sampling { temperature: 0.0, ..Sampling::default() };
            let token = Sampler::new(settings, &[], 0).sample(&mut logits.clone());
            prop_assert_eq!(token, ranks(&logits).first().copied());
        }

        #[test]
        fn same_seed_same_tokens(logits in logits(), settings in settings()) {
            let draw = || {
                let mut sampler = Sampler::new(settings.clone(), &[1, 2], 9);
                (0..20).map(|_| sampler.sample(&mut logits.clone())).collect::<Vec<_>>()
            };
            prop_assert_eq!(draw(), draw());
        }

        #[test]
        fn top_k_keeps_the_k_best(logits in logits(), mut settings in settings()) {
            settings.repetition_penalty = 1.0;
            let k = settings.top_k.max(1);
            settings.top_k = k;
            let token = Sampler::new(settings, &[], 0).sample(&mut logits.clone()).unwrap();
            let kept = ranks(&logits).into_iter().take(k as usize);
            prop_assert!(kept.into_iter().any(|t| t == token));
        }

        #[test]
        fn top_p_keeps_the_smallest_set(logits in logits(), mut settings in settings()) {
            settings.repetition_penalty = 1.0;
            settings.top_k = 0;
            let weight = |t: u32| f64::from(logits[t as usize] / settings.temperature).exp();
            let total: f64 = (0..logits.len() as u32).map(weight).sum();
            let token = Sampler::new(settings.clone(), &[], 0).sample(&mut logits.clone()).unwrap();
            // Everything better than the token had not yet reached top_p.
            let before: f64 = ranks(&logits).into_iter().take_while(|&t| t != token).map(weight).sum();
            prop_assert!(before / total < f64::from(settings.top_p) + 1e-6);
        }

        #[test]
        fn the_penalty_never_raises_what_was_seen(logits in logits(), penalty in 1.0f32..3.0) {
            let settings = Sampling { repetition_penalty: penalty, ..Sampling::default() };
            let mut after = logits.clone();
            Sampler::new(settings, &[0], 0).penalise(&mut after);
            prop_assert!(after[0] <= logits[0]);
            prop_assert_eq!(&after[1..], &logits[1..]);
        }
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let mut sampler = Sampler::new(Sampling { seed: Some(7), ..Sampling::default() }, &[], 0);
        let mut counts = [0; 3];
        for _ in 0..20_000 {
            let token = sampler.sample(&mut [0.5f32.ln(), 0.3f32.ln(), 0.2f32.ln()]).unwrap();
            counts[token as usize] += 1;
        }
        for (count, expected) in counts.into_iter().zip([10_000i32, 6_000, 4_000]) {
            assert!((expected - count).abs() < 300, "{counts:?}");
        }
    }

    #[test]
    fn logits_that_are_no_numbers_choose_nothing() {
        let mut sampler = Sampler::new(Sampling::default(), &[], 0);
        assert_eq!(sampler.sample(&mut [f32::NAN, f32::NAN]), None);
        assert_eq!(sampler.sample(&mut [f32::NAN, 1.0]), Some(1));
        assert_eq!(sampler.sample(&mut []), None);
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let ok = Sampling::default();
        assert_eq!(check(&ok), Ok(()));
        for wrong in [
            Sampling { temperature: -0.1, ..ok.clone() },
            Sampling { temperature: f32::NAN, ..ok.clone() },
            Sampling { top_p: 0.0, ..ok.clone() },
            Sampling { top_p: 1.1, ..ok.clone() },
            Sampling { repetition_penalty: 0.0, ..ok.clone() },
            Sampling { repetition_penalty: f32::INFINITY, ..ok },
        ] {
            assert!(check(&wrong).is_err(), "{wrong:?}");
        }
    }
}
