//! Our tokens against those of engines that share no code with ours.

use domain::inference::Input;
use engine::gguf::Gguf;
use engine::model::{Model, Piece, Precision};

use crate::support::{Case, engine, model_path, reference};

/// In float32, two implementations differ by so much in a logit.
const SAME: f32 = 0.02;
/// Rounding activations to 8 bits moves logits; when the two best are nearer than
/// this in float32, engines may choose differently, and their answers then part.
const NEAR_TIE: f32 = 0.5;

fn load(precision: Precision) -> Model {
    let mut gguf = Gguf::open(&model_path()).unwrap();
    Model::load(&mut gguf, 512, precision).unwrap()
}

fn argmax(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]).then(b.cmp(&a)));
    best.unwrap() as u32
}

/// Logits for each position of the reference's answer, given what it had before.
fn forced(model: &Model, case: &Case) -> Vec<Vec<f32>> {
    let (_, before) = case.f32_ids.split_last().unwrap();
    let tokens = [&case.prompt_ids[..], before].concat();
    let mut cache = model.new_cache(tokens.len()).unwrap();
    let logits = case.f32_ids.len();
    model.step(&mut [Piece { cache: &mut cache, tokens: &tokens, logits }]).unwrap()
}

fn free_running(model: &Model, case: &Case, steps: usize) -> Vec<u32> {
    let mut cache = model.new_cache(case.prompt_ids.len() + steps).unwrap();
    let mut tokens = case.prompt_ids.clone();
    let mut ids = Vec::new();
    while ids.len() < steps {
        let rows = model.step(&mut [Piece { cache: &mut cache, tokens: &tokens, logits: 1 }]).unwrap();
        let id = argmax(&rows[0]);
        ids.push(id);
        if id == 2 {
            break;
        }
        tokens = vec![id];
    }
    ids
}

#[test]
fn prompts_have_the_tokens_that_llama_cpp_gives_them() {
    for case in &reference().cases {
        let ids = engine().tokens(&Input::Chat(case.messages.clone())).unwrap();
        assert_eq!(ids, case.prompt_ids, "{}", case.name);
    }
    for text in &reference().texts {
        let ids = engine().tokens(&Input::Text(text.text.clone())).unwrap();
        assert_eq!(ids, text.ids, "{:?}", text.text);
    }
}

#[test]
fn in_float32_the_model_is_the_reference() {
    let model = load(Precision::Full);
    for case in reference().cases.iter().skip(1).step_by(4) {
        for (at, logits) in forced(&model, case).into_iter().enumerate() {
            let (expected, gap) = (case.f32_ids[at], case.f32_gaps[at]);
            let mut others = logits.clone();
            others[expected as usize] = f32::NEG_INFINITY;
            let ours = logits[expected as usize] - logits[argmax(&others) as usize];
            assert!((ours - gap).abs() < SAME, "{} at {at}: {ours} is not {gap}", case.name);
        }
    }
}

/// Where llama.cpp and float32 agree, so must we, until a near tie. Where they do
/// not, each choice must be float32's, given what float32 chose before, but for
/// near ties.
#[test]
fn answers_are_those_of_other_engines_until_a_near_tie() {
    let model = load(Precision::Stored);
    let steps = reference().steps;
    let (mut full, mut same, mut all) = (Vec::new(), 0, 0);
    for case in &reference().cases {
        let agreed = case.llama_cpp_ids == case.f32_ids && case.f32_ids.len() == steps;
        let ours = if agreed {
            free_running(&model, case, steps)
        } else {
            forced(&model, case).iter().map(|logits| argmax(logits)).collect()
        };
        let parted: Vec<usize> =
            (0..case.f32_ids.len()).filter(|&i| ours.get(i) != case.f32_ids.get(i)).collect();
        // What follows the first difference of a free answer is another story.
        let parted = if agreed { &parted[..parted.len().min(1)] } else { &parted[..] };
        for &at in parted {
            let gap = case.f32_gaps[at];
            println!("{} at {at}: {:?} is not {} (gap {gap})", case.name, ours[at], case.f32_ids[at]);
            assert!(gap < NEAR_TIE, "{} parts at {at} without a near tie: {gap}", case.name);
        }
        if agreed && parted.is_empty() {
            full.push(case.name.as_str());
        }
        let compared = if agreed { parted.first().map_or(steps, |at| at + 1) } else { case.f32_ids.len() };
        same += compared - parted.len();
        all += compared;
    }
    println!("{same} of {all} choices are the float32 reference's");
    println!("{} prompts agree over all {steps} tokens: {}", full.len(), full.join(", "));
    assert!(full.len() >= 10, "only {} prompts agree over all {steps} tokens", full.len());
}

#[test]
fn a_prompt_in_pieces_and_beside_others_is_the_same_prompt() {
    let model = load(Precision::Full);
    let cases = &reference().cases[..2];
    for (i, case) in cases.iter().enumerate() {
        let alone = forced(&model, case).swap_remove(0);
        let other = &cases[1 - i];
        let mut cache = model.new_cache(case.prompt_ids.len()).unwrap();
        let mut beside = model.new_cache(other.prompt_ids.len()).unwrap();
        let (first, rest) = case.prompt_ids.split_at(7);
        let (one, rest) = rest.split_at(1);
        let mut rows = Vec::new();
        for (tokens, others) in [(first, 0..5), (one, 5..6), (rest, 6..other.prompt_ids.len())] {
            let others = &other.prompt_ids[others];
            let logits = usize::from(cache.len() + tokens.len() == case.prompt_ids.len());
            let mut pieces = [
                Piece { cache: &mut beside, tokens: others, logits: 1 },
                Piece { cache: &mut cache, tokens, logits },
            ];
            rows = model.step(&mut pieces).unwrap();
        }
        let worst = alone.iter().zip(&rows[1]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < SAME, "{}: logits differ by {worst}", case.name);
    }
}
