//! A model file: typed metadata and shape-checked tensors of a GGUF, so that a
//! damaged or foreign file is refused with one clear sentence.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::QTensor;
use candle_core::quantized::gguf_file::{Content, Value};

use crate::EngineError;

/// Values of `general.architecture` that [`crate::model`] implements.
pub const SUPPORTED_ARCHITECTURES: &[&str] = &["llama"];

/// An open GGUF file whose header has been read.
pub struct Gguf {
    path: PathBuf,
    content: Content,
    reader: BufReader<File>,
}

impl Gguf {
    /// Reads the header: metadata and the table of tensors, not their data.
    pub fn open(path: &Path) -> Result<Self, EngineError> {
        let file = File::open(path).map_err(|source| EngineError::Read { path: path.to_owned(), source })?;
        let mut reader = BufReader::new(file);
        let content = Content::read(&mut reader)
            .map_err(|e| EngineError::Damaged { path: path.to_owned(), reason: reason(&e) })?;
        Ok(Self { path: path.to_owned(), content, reader })
    }

    /// `general.architecture`, if it is one of [`SUPPORTED_ARCHITECTURES`].
    pub fn architecture(&self) -> Result<&str, EngineError> {
        let found = self.string("general.architecture")?;
        if SUPPORTED_ARCHITECTURES.contains(&found) {
            return Ok(found);
        }
        Err(EngineError::Unsupported {
            what: "the model architecture",
            found: found.to_owned(),
            supported: SUPPORTED_ARCHITECTURES.join(", "),
        })
    }

    /// A required whole number, whatever integer type the file stores it in.
    pub fn u32(&self, key: &str) -> Result<u32, EngineError> {
        self.optional_u32(key)?.ok_or_else(|| EngineError::MissingKey(key.to_owned()))
    }

    /// A whole number that may be absent.
    pub fn optional_u32(&self, key: &str) -> Result<Option<u32>, EngineError> {
        self.value(key).map(|v| to_u32(v).ok_or_else(|| wrong(key, "a whole number below 2^32"))).transpose()
    }

    /// A fraction that may be absent.
    pub fn optional_f32(&self, key: &str) -> Result<Option<f32>, EngineError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::F32(v)) if v.is_finite() => Ok(Some(*v)),
            Some(_) => Err(wrong(key, "a finite 32-bit fraction")),
        }
    }

    /// A yes or no that may be absent.
    pub fn optional_bool(&self, key: &str) -> Result<Option<bool>, EngineError> {
        self.value(key).map(|v| v.to_bool().map_err(|_| wrong(key, "a yes or no"))).transpose()
    }

    /// A required text.
    pub fn string(&self, key: &str) -> Result<&str, EngineError> {
        self.optional_string(key)?.ok_or_else(|| EngineError::MissingKey(key.to_owned()))
    }

    /// A text that may be absent.
    pub fn optional_string(&self, key: &str) -> Result<Option<&str>, EngineError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(v)) => Ok(Some(v)),
            Some(_) => Err(wrong(key, "a text")),
        }
    }

    /// A required list of texts.
    pub fn strings(&self, key: &str) -> Result<Vec<&str>, EngineError> {
        let mut texts = Vec::new();
        for value in self.list(key)? {
            let Value::String(text) = value else { return Err(wrong(key, "a list of texts")) };
            texts.push(text.as_str());
        }
        Ok(texts)
    }

    /// A required list of whole numbers.
    pub fn u32s(&self, key: &str) -> Result<Vec<u32>, EngineError> {
        let element = |v| to_u32(v).ok_or_else(|| wrong(key, "a list of whole numbers"));
        self.list(key)?.iter().map(element).collect()
    }

    /// Whether the file names this tensor.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    /// The dimensions of a tensor, rows first.
    pub fn shape(&self, name: &str) -> Result<&[usize], EngineError> {
        let info = self.content.tensor_infos.get(name);
        info.map(|i| i.shape.dims()).ok_or_else(|| EngineError::MissingTensor(name.to_owned()))
    }

    /// Reads a tensor, in the types in which the file has it, if its shape is
    /// `shape` (rows first).
    pub fn tensor(&mut self, name: &str, shape: &[usize], device: &Device) -> Result<QTensor, EngineError> {
        let found = self.shape(name)?;
        if found != shape {
            let reason = format!("tensor `{name}` is {found:?}, but the metadata makes it {shape:?}");
            return Err(self.damaged(reason));
        }
        let tensor = self.content.tensor(&mut self.reader, name, device);
        tensor.map_err(|e| self.damaged(format!("tensor `{name}`: {}", reason(&e))))
    }

    /// Numbers in all tensors.
    pub fn parameters(&self) -> u64 {
        self.content.tensor_infos.values().map(|i| i.shape.elem_count() as u64).sum()
    }

    /// Bytes of all tensors, as the file stores them.
    pub fn weights_bytes(&self) -> u64 {
        let bytes = |i: &candle_core::quantized::gguf_file::TensorInfo| {
            i.shape.elem_count() / i.ggml_dtype.block_size() * i.ggml_dtype.type_size()
        };
        self.content.tensor_infos.values().map(|i| bytes(i) as u64).sum()
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(key)
    }

    fn list(&self, key: &str) -> Result<&Vec<Value>, EngineError> {
        match self.value(key) {
            None => Err(EngineError::MissingKey(key.to_owned())),
            Some(Value::Array(values)) => Ok(values),
            Some(_) => Err(wrong(key, "a list")),
        }
    }

    fn damaged(&self, reason: String) -> EngineError {
        EngineError::Damaged { path: self.path.clone(), reason }
    }
}

/// The first line: with `RUST_BACKTRACE` candle's errors print where they came from.
fn reason(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

fn to_u32(value: &Value) -> Option<u32> {
    match *value {
        Value::U8(v) => Some(v.into()),
        Value::U16(v) => Some(v.into()),
        Value::U32(v) => Some(v),
        Value::U64(v) => v.try_into().ok(),
        Value::I8(v) => v.try_into().ok(),
        Value::I16(v) => v.try_into().ok(),
        Value::I32(v) => v.try_into().ok(),
        Value::I64(v) => v.try_into().ok(),
        _ => None,
    }
}

fn wrong(key: &str, expected: &str) -> EngineError {
    EngineError::BadKey { key: key.to_owned(), problem: format!("is not {expected}") }
}
