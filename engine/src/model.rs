//! The Llama family's forward pass over candle's quantised products: RMSNorm,
//! rotary positions, grouped-query attention, SwiGLU.
//!
//! A [`Model::step`] takes pieces of any number of sequences at any positions and
//! puts their rows through each product together; attention alone looks at one
//! sequence's cache at a time. So there is neither a padding mask nor a common
//! position to get wrong, and a long prompt can be fed a piece at a time.
//!
//! The cache is float32, because candle's attention on the CPU is fast for that
//! type only. It grows by doubling, up to what the sequence reserved.

use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{DType, Device, Tensor};
use candle_nn::attention::{AttnMask, flash_attn};
use candle_nn::ops::{rms_norm, silu};
use candle_nn::rotary_emb::rope_i;

use crate::EngineError;
use crate::gguf::Gguf;
pub use crate::product::Precision;
use crate::product::Product;

/// The sizes of a model, from its metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Blocks of attention and feed-forward.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the feed-forward block.
    pub feed_forward: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Positions the model was made for.
    pub context: usize,
    /// Added to the mean square in RMSNorm.
    pub norm_epsilon: f32,
    /// Base of the rotary frequencies.
    pub rope_base: f32,
    /// All positions are divided by this (linear scaling).
    pub rope_scale: f32,
}

impl Config {
    /// Reads and checks the sizes.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, EngineError> {
        let arch = gguf.architecture()?;
        let key = |name: &str| format!("{arch}.{name}");
        let size = |name: &str| match gguf.u32(&key(name))? {
            0 => Err(bad(key(name), "is 0")),
            n => Ok(n as usize),
        };
        let (hidden, heads) = (size("embedding_length")?, size("attention.head_count")?);
        let kv_heads = gguf.optional_u32(&key("attention.head_count_kv"))?.map_or(heads, |n| n as usize);
        if kv_heads == 0 || heads % kv_heads != 0 {
            return Err(bad(key("attention.head_count_kv"), "does not divide the number of heads"));
        }
        let head_dim = match gguf.optional_u32(&key("attention.key_length"))? {
            Some(n) => n as usize,
            None => hidden / heads,
        };
        let rotated = gguf.optional_u32(&key("rope.dimension_count"))?.map_or(head_dim, |n| n as usize);
        if head_dim == 0 || head_dim % 2 != 0 || rotated != head_dim {
            return Err(bad(key("rope.dimension_count"), "is not the width of a head"));
        }
        let vocab = gguf.shape("token_embd.weight")?.first().copied().unwrap_or(0);
        let positive = |name: &str, default: f32| match gguf.optional_f32(&key(name))?.unwrap_or(default) {
            v if v > 0.0 => Ok(v),
            _ => Err(bad(key(name), "is not positive")),
        };
        let scaling = gguf.optional_string(&key("rope.scaling.type"))?.unwrap_or("none");
        let rope_scale = match scaling {
            "none" => 1.0,
            "linear" => positive("rope.scaling.factor", 1.0)?,
            other => {
                return Err(EngineError::Unsupported {
                    what: "the position scaling",
                    found: other.to_owned(),
                    supported: "none, linear".to_owned(),
                });
            }
        };
        Ok(Self {
            layers: size("block_count")?,
            hidden,
            feed_forward: size("feed_forward_length")?,
            heads,
            kv_heads,
            head_dim,
            vocab,
            context: size("context_length")?,
            norm_epsilon: positive("attention.layer_norm_rms_epsilon", 1e-5)?,
            rope_base: positive("rope.freq_base", 10_000.0)?,
            rope_scale,
        })
    }

    /// Bytes of cache for one position of one sequence: keys and values of all layers.
    pub fn kv_bytes_per_token(&self) -> u64 {
        (2 * self.layers * self.kv_heads * self.head_dim * size_of::<f32>()) as u64
    }
}

/// Positions for which a new cache has room at first.
const FIRST_POSITIONS: usize = 256;

/// Keys and values of one sequence, `[1, room, kv_heads, head_dim]` per layer.
pub struct KvCache {
    layers: Vec<(Tensor, Tensor)>,
    len: usize,
    room: usize,
    capacity: usize,
}

impl KvCache {
    /// Positions written.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes room for `tokens` more, one tensor at a time, so that little is held twice.
    fn grow(&mut self, tokens: usize) -> Result<(), candle_core::Error> {
        let needed = self.len + tokens;
        if needed <= self.room {
            return Ok(());
        }
        let room = needed.max(2 * self.room).min(self.capacity);
        for (keys, values) in &mut self.layers {
            for tensor in [keys, values] {
                let (_, _, heads, dim) = tensor.dims4()?;
                let larger = Tensor::zeros((1, room, heads, dim), tensor.dtype(), tensor.device())?;
                larger.slice_set(&tensor.narrow(1, 0, self.len)?, 1, 0)?;
                *tensor = larger;
            }
        }
        self.room = room;
        Ok(())
    }
}

/// The next tokens of one sequence.
pub struct Piece<'a> {
    /// What came before; the tokens are appended.
    pub cache: &'a mut KvCache,
    /// At least one.
    pub tokens: &'a [u32],
    /// For how many of the last tokens logits are wanted: none in the middle of
    /// a prompt, one when generating.
    pub logits: usize,
}

struct Layer {
    attention_norm: Tensor,
    query: Product,
    key: Product,
    value: Product,
    attention_output: Product,
    feed_forward_norm: Tensor,
    gate: Product,
    up: Product,
    down: Product,
}

/// Weights in memory.
pub struct Model {
    config: Config,
    device: Device,
    embedding: Arc<QTensor>,
    layers: Vec<Layer>,
    output_norm: Tensor,
    output: Product,
    /// `[context, head_dim / 2]`
    cos: Tensor,
    /// `[context, head_dim / 2]`
    sin: Tensor,
}

impl Model {
    /// Reads the weights, for sequences of at most `context` positions.
    pub fn load(gguf: &mut Gguf, context: usize, precision: Precision) -> Result<Self, EngineError> {
        let config = Config::from_gguf(gguf)?;
        let device = Device::Cpu;
        let (hidden, ff) = (config.hidden, config.feed_forward);
        let (q_rows, kv_rows) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let embedding = Arc::new(gguf.tensor("token_embd.weight", &[config.vocab, hidden], &device)?);
        let mut layers = Vec::new();
        for i in 0..config.layers {
            let mut norm = |name: &str| vector(gguf, &format!("blk.{i}.{name}.weight"), hidden, &device);
            let (attention_norm, feed_forward_norm) = (norm("attn_norm")?, norm("ffn_norm")?);
            let mut product = |name: &str, rows: usize, columns: usize| {
                let tensor = gguf.tensor(&format!("blk.{i}.{name}.weight"), &[rows, columns], &device)?;
                Ok::<_, EngineError>(Product::new(tensor, precision)?)
            };
            layers.push(Layer {
                attention_norm,
                query: product("attn_q", q_rows, hidden)?,
                key: product("attn_k", kv_rows, hidden)?,
                value: product("attn_v", kv_rows, hidden)?,
                attention_output: product("attn_output", hidden, q_rows)?,
                feed_forward_norm,
                gate: product("ffn_gate", ff, hidden)?,
                up: product("ffn_up", ff, hidden)?,
                down: product("ffn_down", hidden, ff)?,
            });
        }
        let output_norm = vector(gguf, "output_norm.weight", hidden, &device)?;
        // Small models have no output weights of their own: the embedding serves both ways.
        let output = if gguf.has_tensor("output.weight") {
            Product::new(gguf.tensor("output.weight", &[config.vocab, hidden], &device)?, precision)?
        } else {
            Product::shared(embedding.clone(), precision)?
        };
        let (cos, sin) = rotary_tables(&config, gguf, context, &device)?;
        Ok(Self { config, device, embedding, layers, output_norm, output, cos, sin })
    }

    /// The sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Room for one sequence of at most `capacity` tokens.
    pub fn new_cache(&self, capacity: usize) -> Result<KvCache, EngineError> {
        let room = FIRST_POSITIONS.min(capacity);
        let shape = (1, room, self.config.kv_heads, self.config.head_dim);
        let empty = || Tensor::zeros(shape, DType::F32, &self.device);
        let layers = (0..self.config.layers).map(|_| Ok((empty()?, empty()?)));
        Ok(KvCache { layers: layers.collect::<Result<_, candle_core::Error>>()?, len: 0, room, capacity })
    }

    /// Appends every piece to its sequence. Gives the wanted rows of logits, each
    /// as long as the vocabulary, in the order of the pieces. After an error the
    /// caches of all pieces are of no more use.
    ///
    /// # Panics
    /// If a piece is empty or does not fit into its cache: the caller's arithmetic is wrong.
    pub fn step(&self, pieces: &mut [Piece<'_>]) -> Result<Vec<Vec<f32>>, EngineError> {
        for piece in pieces.iter() {
            assert!(!piece.tokens.is_empty() && piece.logits <= piece.tokens.len(), "a piece of no tokens");
            assert!(piece.cache.len + piece.tokens.len() <= piece.cache.capacity, "a piece beyond its cache");
        }
        for piece in pieces.iter_mut() {
            piece.cache.grow(piece.tokens.len())?;
        }
        let ids: Vec<u32> = pieces.iter().flat_map(|p| p.tokens).copied().collect();
        let epsilon = self.config.norm_epsilon;
        let mut x = self.embedding.embedding(&Tensor::new(ids, &self.device)?)?;
        for (i, layer) in self.layers.iter().enumerate() {
            let normed = rms_norm(&x, &layer.attention_norm, epsilon)?;
            let mixed = self.attention(i, layer, &normed, pieces)?;
            x = (x + layer.attention_output.forward(&mixed)?)?;
            let normed = rms_norm(&x, &layer.feed_forward_norm, epsilon)?;
            let gated = (silu(&layer.gate.forward(&normed)?)? * layer.up.forward(&normed)?)?;
            x = (x + layer.down.forward(&gated)?)?;
        }
        let mut wanted = Vec::new();
        let mut end = 0;
        for piece in pieces {
            end += piece.tokens.len();
            piece.cache.len += piece.tokens.len();
            wanted.extend((end - piece.logits..end).map(|row| row as u32));
        }
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let rows = x.index_select(&Tensor::new(wanted, &self.device)?, 0)?;
        let logits = self.output.forward(&rms_norm(&rows, &self.output_norm, epsilon)?)?;
        Ok(logits.to_vec2()?)
    }

    /// `[rows, hidden]` → `[rows, heads * head_dim]`, each piece with its own past.
    fn attention(
        &self,
        layer_index: usize,
        layer: &Layer,
        x: &Tensor,
        pieces: &mut [Piece<'_>],
    ) -> Result<Tensor, candle_core::Error> {
        let c = &self.config;
        let (q, k, v) = (layer.query.forward(x)?, layer.key.forward(x)?, layer.value.forward(x)?);
        let scale = 1.0 / (c.head_dim as f32).sqrt();
        let mut mixed = Vec::with_capacity(pieces.len());
        let mut row = 0;
        for piece in pieces {
            let (n, past) = (piece.tokens.len(), piece.cache.len);
            let q = self.rotate(&q.narrow(0, row, n)?, c.heads, past)?;
            let k = self.rotate(&k.narrow(0, row, n)?, c.kv_heads, past)?;
            let v = v.narrow(0, row, n)?.reshape((1, n, c.kv_heads, c.head_dim))?;
            row += n;
            let (keys, values) = &piece.cache.layers[layer_index];
            keys.slice_set(&k, 1, past)?;
            values.slice_set(&v, 1, past)?;
            let (keys, values) = (keys.narrow(1, 0, past + n)?, values.narrow(1, 0, past + n)?);
            let mask = AttnMask::causal_with_offset(past);
            let out = flash_attn::<f32>(&q, &keys, &values, scale, mask, None, None)?;
            mixed.push(out.transpose(1, 2)?.reshape((n, c.heads * c.head_dim))?);
        }
        if mixed.len() == 1 { Ok(mixed.remove(0)) } else { Tensor::cat(&mixed, 0) }
    }

    /// `[n, heads * head_dim]` → `[1, n, heads, head_dim]`, turned by the positions
    /// from `past` on. GGUF orders the rows of Llama's queries and keys so that a
    /// pair is two neighbours.
    fn rotate(&self, x: &Tensor, heads: usize, past: usize) -> Result<Tensor, candle_core::Error> {
        let (n, dim) = (x.dim(0)?, self.config.head_dim);
        let (cos, sin) = (self.cos.narrow(0, past, n)?, self.sin.narrow(0, past, n)?);
        if n == 1 {
            // One position: `[heads, 1]` and `[1, heads]` are the same memory.
            return rope_i(&x.reshape((1, heads, 1, dim))?, &cos, &sin)?.reshape((1, 1, heads, dim));
        }
        let by_head = x.reshape((1, n, heads, dim))?.transpose(1, 2)?.contiguous()?;
        rope_i(&by_head, &cos, &sin)?.transpose(1, 2)?.contiguous()
    }
}

fn bad(key: String, problem: &str) -> EngineError {
    EngineError::BadKey { key, problem: problem.to_owned() }
}

fn vector(gguf: &mut Gguf, name: &str, len: usize, device: &Device) -> Result<Tensor, EngineError> {
    Ok(gguf.tensor(name, &[len], device)?.dequantize(device)?)
}

/// Cosines and sines of position × frequency. Llama 3.1 and later divide the
/// frequencies by factors, which their files carry as `rope_freqs.weight`.
fn rotary_tables(
    config: &Config,
    gguf: &mut Gguf,
    context: usize,
    device: &Device,
) -> Result<(Tensor, Tensor), EngineError> {
    let half = config.head_dim / 2;
    let factors = if gguf.has_tensor("rope_freqs.weight") {
        vector(gguf, "rope_freqs.weight", half, device)?.to_vec1::<f32>()?
    } else {
        vec![1.0; half]
    };
    let frequency = |i: usize| {
        let exponent = -2.0 * i as f64 / config.head_dim as f64;
        f64::from(config.rope_base).powf(exponent) / f64::from(factors[i]) / f64::from(config.rope_scale)
    };
    let frequencies: Vec<f64> = (0..half).map(frequency).collect();
    // In f64: at position 100,000 a float32 product is already off by 0.01 radian.
    let table = |turn: fn(f64) -> f64| {
        let angles = (0..context).flat_map(|p| frequencies.iter().map(move |f| p as f64 * f));
        Tensor::from_iter(angles.map(|a| turn(a) as f32), device)?.reshape((context, half))
    };
    Ok((table(f64::cos)?, table(f64::sin)?))
}
