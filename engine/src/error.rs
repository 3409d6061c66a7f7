//! What can go wrong before a request is accepted: a file that is no model, a
//! model that is not supported, a socket that cannot be had.

use std::path::PathBuf;

/// Each says what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The file cannot be opened or read.
    #[error("cannot read the model file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no GGUF, is cut short, or its parts contradict each other.
    #[error("the model file {} is damaged or not GGUF ({reason}); fetch it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A metadata key that the architecture needs is absent.
    #[error("the model file has no metadata key `{0}`; convert the model again with a current tool")]
    MissingKey(String),
    /// A metadata key has a value that cannot be used.
    #[error("the model file's metadata key `{key}` {problem}")]
    BadKey {
        /// The key.
        key: String,
        /// For example "is 0, but must be positive".
        problem: String,
    },
    /// A tensor is absent.
    #[error("the model file has no tensor `{0}`; it is incomplete or of another architecture")]
    MissingTensor(String),
    /// A well-formed model of a kind that is not implemented.
    #[error("{what} `{found}` is not supported; supported: {supported}")]
    Unsupported {
        /// Architecture, tokenizer, and so on.
        what: &'static str,
        /// What the file says.
        found: String,
        /// What it could say.
        supported: String,
    },
    /// The chat template does not parse.
    #[error("the model's chat template cannot be used: {0}")]
    Template(String),
    /// The vocabulary does not make a tokenizer.
    #[error("the model's vocabulary cannot be used: {0}")]
    Vocabulary(String),
    /// An option cannot be met.
    #[error("{0}")]
    Options(String),
    /// A product failed: a defect, or memory ran out.
    #[error("the model could not be evaluated")]
    Compute(#[from] candle_core::Error),
    /// The socket cannot be served.
    #[error("cannot serve on {}: {reason}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What stands in the way.
        reason: String,
    },
    /// The operating system refused something else.
    #[error("cannot {what}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The thread that owns the model has ended by a defect.
    #[error("the model's thread ended unexpectedly; the log has the reason")]
    Died,
}
