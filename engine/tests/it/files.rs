//! Model files that cannot be used, and tiny models of other shapes.

use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use engine::gguf::Gguf;
use engine::model::{Config, Model, Piece, Precision};
use engine::{Engine, EngineOptions};
use tempfile::TempDir;

use crate::support::{collect, greedy, model_path};
use domain::inference::{Event, Input};

const HIDDEN: usize = 64;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const FEED_FORWARD: usize = 96;

/// A model of random weights, two layers, and a vocabulary of bytes.
struct Tiny {
    metadata: Vec<(String, Value)>,
    tensors: Vec<(String, QTensor)>,
    directory: TempDir,
}

impl Tiny {
    fn new() -> Self {
        let text = |s: &str| Value::String(s.to_owned());
        let list = |values: Vec<Value>| Value::Array(values);
        let mut characters: Vec<char> =
            ('!'..='~').chain('\u{A1}'..='\u{AC}').chain('\u{AE}'..='\u{FF}').collect();
        characters.extend('\u{100}'..='\u{143}');
        let mut tokens: Vec<String> = characters.into_iter().map(String::from).collect();
        tokens.push("<|end|>".to_owned());
        let count = tokens.len();
        let mut kinds = vec![Value::I32(1); count];
        kinds[count - 1] = Value::I32(3);
        let metadata = [
            ("general.architecture", text("llama")),
            ("llama.block_count", Value::U32(2)),
            ("llama.context_length", Value::U32(128)),
            ("llama.embedding_length", Value::U32(HIDDEN as u32)),
            ("llama.feed_forward_length", Value::U32(FEED_FORWARD as u32)),
            ("llama.attention.head_count", Value::U32(HEADS as u32)),
            ("llama.attention.head_count_kv", Value::U32(KV_HEADS as u32)),
            ("tokenizer.ggml.model", text("gpt2")),
            ("tokenizer.ggml.pre", text("gpt-2")),
            ("tokenizer.ggml.tokens", list(tokens.iter().map(|t| text(t)).collect())),
            ("tokenizer.ggml.token_type", list(kinds)),
            ("tokenizer.ggml.merges", list(Vec::new())),
            ("tokenizer.ggml.eos_token_id", Value::U32(count as u32 - 1)),
        ];
        let mut tiny = Self {
            metadata: metadata.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
            tensors: Vec::new(),
            directory: tempfile::tempdir().unwrap(),
        };
        let (dim, ff) = (HIDDEN / HEADS, FEED_FORWARD);
        tiny.random("token_embd", &[count, HIDDEN], GgmlDType::F16);
        tiny.random("output", &[count, HIDDEN], GgmlDType::Q8_0);
        tiny.random("output_norm", &[HIDDEN], GgmlDType::F32);
        for i in 0..2 {
            let mut add =
                |name: &str, shape: &[usize], kind| tiny.random(&format!("blk.{i}.{name}"), shape, kind);
            add("attn_norm", &[HIDDEN], GgmlDType::F32);
            add("attn_q", &[HEADS * dim, HIDDEN], GgmlDType::Q8_0);
            add("attn_k", &[KV_HEADS * dim, HIDDEN], GgmlDType::Q8_0);
            add("attn_v", &[KV_HEADS * dim, HIDDEN], GgmlDType::F16);
            add("attn_output", &[HIDDEN, HEADS * dim], GgmlDType::Q4_1);
            add("ffn_norm", &[HIDDEN], GgmlDType::F32);
            add("ffn_gate", &[ff, HIDDEN], GgmlDType::Q5_0);
            add("ffn_up", &[ff, HIDDEN], GgmlDType::Q4_0);
            add("ffn_down", &[HIDDEN, ff], GgmlDType::F32);
        }
        tiny
    }

    /// The same numbers each time: a small linear generator, seeded by the name.
    fn random(&mut self, name: &str, shape: &[usize], kind: GgmlDType) {
        let mut state = name.bytes().fold(7u32, |s, b| s.wrapping_mul(31).wrapping_add(b.into()));
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| next()).collect();
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        let tensor = QTensor::quantize(&tensor, kind).unwrap();
        self.tensors.push((format!("{name}.weight"), tensor));
    }

    fn set(mut self, key: &str, value: Option<Value>) -> Self {
        self.metadata.retain(|(k, _)| k != key);
        self.metadata.extend(value.map(|v| (key.to_owned(), v)));
        self
    }

    fn write(&self) -> PathBuf {
        let path = self.directory.path().join("tiny.gguf");
        let metadata: Vec<(&str, &Value)> = self.metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
        let tensors: Vec<(&str, &QTensor)> = self.tensors.iter().map(|(k, v)| (k.as_str(), v)).collect();
        let mut file = std::fs::File::create(&path).unwrap();
        gguf_file::write(&mut file, &metadata, &tensors).unwrap();
        path
    }

    fn error(&self) -> String {
        error(&self.write())
    }
}

fn error(path: &Path) -> String {
    Engine::load(path, &EngineOptions::default()).err().expect("a model that cannot be loaded").to_string()
}

#[test]
fn damaged_files_are_one_clear_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    let mut whole = std::fs::File::open(model_path()).unwrap();
    let mut begin = vec![0; 20 << 20];
    whole.read_exact(&mut begin).unwrap();
    for length in [0, 3, 100, 1 << 20, 20 << 20] {
        std::fs::write(&path, &begin[..length]).unwrap();
        let error = error(&path);
        assert!(error.contains("model.gguf is damaged or not GGUF ("), "{length}: {error}");
        assert!(error.ends_with("; fetch it again") && !error.contains('\n'), "{length}: {error}");
    }
    let missing = error(&directory.path().join("none.gguf"));
    assert!(missing.starts_with("cannot read the model file "), "{missing}");
}

#[test]
fn foreign_models_are_refused_by_name() {
    let text = |s: &str| Some(Value::String(s.to_owned()));
    let cases = [
        (
            "general.architecture",
            text("gemma3"),
            "the model architecture `gemma3` is not supported; supported: llama",
        ),
        ("general.architecture", None, "the model file has no metadata key `general.architecture`"),
        ("tokenizer.ggml.model", text("llama"), "the tokenizer `llama` is not supported; supported: gpt2"),
        ("tokenizer.ggml.pre", text("qwen2"), "the tokenizer's splitting rule `qwen2` is not supported"),
        ("llama.rope.scaling.type", text("yarn"), "the position scaling `yarn` is not supported"),
        ("llama.block_count", None, "the model file has no metadata key `llama.block_count`"),
        ("llama.block_count", Some(Value::U32(3)), "the model file has no tensor `blk.2.attn_norm.weight`"),
        (
            "llama.block_count",
            text("two"),
            "the model file's metadata key `llama.block_count` is not a whole number",
        ),
        (
            "llama.attention.head_count_kv",
            Some(Value::U32(3)),
            "the model file's metadata key `llama.attention.head_count_kv` does not divide",
        ),
        (
            "llama.rope.dimension_count",
            Some(Value::U32(8)),
            "the model file's metadata key `llama.rope.dimension_count` is not the width",
        ),
        (
            "tokenizer.ggml.eos_token_id",
            Some(Value::U32(999)),
            "the model's vocabulary cannot be used: token 999 is named",
        ),
        ("tokenizer.chat_template", text("{% if %}"), "the model's chat template cannot be used: "),
    ];
    for (key, value, expected) in cases {
        let error = Tiny::new().set(key, value).error();
        assert!(error.starts_with(expected), "{key}: {error}");
    }
    let wide = Tiny::new().set("llama.feed_forward_length", Some(Value::U32(64))).error();
    assert!(
        wide.contains("tensor `blk.0.ffn_gate.weight` is [96, 64], but the metadata makes it [64, 64]"),
        "{wide}"
    );
}

#[test]
fn an_untied_mixed_model_without_a_template_continues_text() {
    let engine = Engine::load(&Tiny::new().write(), &EngineOptions::default()).unwrap();
    assert!(!engine.info().chat);
    assert_eq!(engine.info().kv_bytes_per_token, (2 * 2 * KV_HEADS * HIDDEN / HEADS * 4) as u64);
    let answer = collect(engine.generate(greedy(Input::Text("hello".to_owned()), 20))).unwrap();
    assert_eq!(answer.counts.prompt_tokens, 5);
    let refused = collect(engine.generate(greedy(crate::support::chat(&[("user", "hello")]), 20)));
    let Err(Event::Failed { message, .. }) = refused else { panic!("{refused:?}") };
    assert!(message.starts_with("this model has no chat template"), "{message}");
}

#[test]
fn too_little_memory_for_a_context_is_said_at_once() {
    let options = EngineOptions { kv_bytes: 1000, ..EngineOptions::default() };
    let error = Engine::load(&Tiny::new().write(), &options).err().unwrap().to_string();
    assert!(
        error.contains("give the engine more cache memory (512 bytes are needed for each token)"),
        "{error}"
    );
}

/// However a prompt is cut, and whatever runs beside it, its logits are the same.
#[test]
fn pieces_and_neighbours_change_nothing() {
    let mut gguf = Gguf::open(&Tiny::new().write()).unwrap();
    let config = Config::from_gguf(&gguf).unwrap();
    let model = Model::load(&mut gguf, config.context, Precision::Full).unwrap();
    let prompt: Vec<u32> = (0..100).map(|i| (i * 37 + 11) % 250).collect();
    let run = |cuts: &[usize], neighbour: bool| {
        let mut cache = model.new_cache(prompt.len()).unwrap();
        let mut beside = model.new_cache(prompt.len()).unwrap();
        let mut row = Vec::new();
        for cut in cuts.windows(2) {
            let tokens = &prompt[cut[0]..cut[1]];
            let mut pieces = Vec::new();
            if neighbour {
                pieces.push(Piece { cache: &mut beside, tokens: &tokens[..1], logits: 0 });
            }
            pieces.push(Piece { cache: &mut cache, tokens, logits: usize::from(cut[1] == prompt.len()) });
            row = model.step(&mut pieces).unwrap();
        }
        row.swap_remove(0)
    };
    let whole = run(&[0, 100], false);
    for (cuts, neighbour) in
        [(vec![0, 100], true), (vec![0, 1, 2, 50, 99, 100], false), ((0..=100).collect(), true)]
    {
        let other = run(&cuts, neighbour);
        let worst = whole.iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-3, "{cuts:?}: logits differ by {worst}");
    }
}
