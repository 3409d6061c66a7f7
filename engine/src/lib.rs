//! Inference of one model: reads a GGUF file, holds its weights, answers
//! [`domain::inference::GenerateRequest`]s, several at a time. No HTTP, no SQL.
//!
//! A request goes: [`engine`] (checks, template, tokens, on the caller's thread)
//! → a bounded queue → [`batch`] (the one thread that owns the model) →
//! [`events`] (text back to the caller). [`serve`] puts that on a Unix socket.
//!
//! Products run on as many threads as `RAYON_NUM_THREADS` says when the process
//! starts, otherwise on one for each core: candle reads it once.
#![warn(missing_docs)]

pub mod batch;
pub mod client;
pub mod engine;
pub mod error;
pub mod events;
pub mod gguf;
pub mod model;
mod product;
pub mod sampling;
mod sequence;
pub mod serve;
pub mod stream;
pub mod template;
pub mod tokenizer;

pub use engine::{Engine, EngineInfo, EngineOptions, EngineStatus};
pub use error::EngineError;
pub use events::Events;
