//! Text to tokens and tokens to bytes, from the vocabulary inside the model file:
//! byte-level BPE, as GPT-2 introduced it, in the variants that
//! [`SUPPORTED_SPLITS`] names.
//!
//! Splitting rules are llama.cpp's (`llama-vocab.cpp`), so that ids are the same.
//! Control tokens are found by this module and never by the BPE library, because
//! where they may be found is a matter of safety: see [`crate::template`].

use std::collections::HashSet;

use aho_corasick::{AhoCorasick, MatchKind};
use tokenizers::SplitDelimiterBehavior;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};

use crate::EngineError;
use crate::gguf::Gguf;
use crate::template::Rendered;

/// Values of `tokenizer.ggml.pre` that are implemented: how text is cut before
/// merging.
pub const SUPPORTED_SPLITS: &[&str] = &["smollm", "llama-bpe", "llama3", "gpt-2", "gpt2", "default"];
/// Most tokens a vocabulary may have.
const MAX_VOCABULARY: usize = 1 << 20;

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Names of tokens that end an answer, besides the one that the file names: files
/// often name only one of several.
const END_NAMES: &[&str] = &[
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
];

/// llama.cpp's token types, as far as they matter.
mod kind {
    pub const UNKNOWN: u32 = 2;
    pub const CONTROL: u32 = 3;
    pub const USER_DEFINED: u32 = 4;
}

/// A model's vocabulary.
pub struct Tokenizer {
    bpe: tokenizers::Tokenizer,
    /// The bytes of all tokens behind each other; token `i` ends at `ends[i]`.
    bytes: Vec<u8>,
    ends: Vec<u32>,
    longest: usize,
    /// Control tokens, name and id.
    control: Vec<(String, u32)>,
    control_finder: AhoCorasick,
    /// Tokens that stand for their name wherever it appears, also in messages.
    user_defined: Pieces,
    /// Both.
    special: Pieces,
    bos: Option<u32>,
    eos: Option<u32>,
    ends_answer: HashSet<u32>,
    add_bos: bool,
}

/// Finds tokens by their names, the longest where several begin.
struct Pieces {
    finder: AhoCorasick,
    ids: Vec<u32>,
}

impl Pieces {
    fn new(names: &[(String, u32)]) -> Result<Self, EngineError> {
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(names.iter().map(|(name, _)| name))
            .map_err(|e| EngineError::Vocabulary(e.to_string()))?;
        Ok(Self { finder, ids: names.iter().map(|&(_, id)| id).collect() })
    }
}

/// What [`Tokenizer::new`] needs to know.
#[derive(Default)]
struct Parts<'a> {
    split: &'a str,
    tokens: Vec<&'a str>,
    kinds: Vec<u32>,
    merges: Vec<&'a str>,
    bos: Option<u32>,
    eos: Option<u32>,
    end_of_turn: Option<u32>,
    add_bos: Option<bool>,
}

impl Tokenizer {
    /// Reads the vocabulary.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, EngineError> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let model = gguf.string(&key("model"))?;
        if model != "gpt2" {
            return Err(EngineError::Unsupported {
                what: "the tokenizer",
                found: model.to_owned(),
                supported: "gpt2 (byte-level BPE)".to_owned(),
            });
        }
        Self::new(&Parts {
            split: gguf.optional_string(&key("pre"))?.unwrap_or("default"),
            tokens: gguf.strings(&key("tokens"))?,
            kinds: gguf.u32s(&key("token_type"))?,
            merges: gguf.strings(&key("merges"))?,
            bos: gguf.optional_u32(&key("bos_token_id"))?,
            eos: gguf.optional_u32(&key("eos_token_id"))?,
            end_of_turn: gguf.optional_u32(&key("eot_token_id"))?,
            add_bos: gguf.optional_bool(&key("add_bos_token"))?,
        })
    }

    fn new(parts: &Parts<'_>) -> Result<Self, EngineError> {
        let count = parts.tokens.len();
        let unusable = |what: String| Err(EngineError::Vocabulary(what));
        if count == 0 || count > MAX_VOCABULARY {
            return unusable(format!("it has {count} tokens; from 1 to {MAX_VOCABULARY} can be used"));
        }
        if parts.kinds.len() != count {
            return unusable(format!("{count} tokens have {} types", parts.kinds.len()));
        }
        let named = [parts.bos, parts.eos, parts.end_of_turn].into_iter().flatten();
        if let Some(id) = named.clone().find(|&id| id as usize >= count) {
            return unusable(format!("token {id} is named, but there are only {count}"));
        }
        let of_kind = |wanted: &[u32]| -> Vec<(String, u32)> {
            let all = (0..).zip(parts.tokens.iter().zip(&parts.kinds));
            let wanted = all.filter(|(_, (name, kind))| wanted.contains(kind) && !name.is_empty());
            wanted.map(|(id, (name, _))| ((*name).to_owned(), id)).collect()
        };
        let control = of_kind(&[kind::CONTROL, kind::UNKNOWN]);
        let user_defined = of_kind(&[kind::USER_DEFINED]);
        let finder = AhoCorasick::new(control.iter().map(|(name, _)| name));
        let ends_answer = control.iter().filter(|(name, _)| END_NAMES.contains(&name.as_str()));
        let ends_answer = ends_answer.map(|&(_, id)| id).chain(parts.eos).chain(parts.end_of_turn).collect();
        let (bytes, ends) = token_bytes(parts);
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let longest = starts.zip(&ends).map(|(start, end)| end - start).max().unwrap_or(1).max(1);
        Ok(Self {
            bpe: bpe(parts)?,
            bytes,
            longest: longest as usize,
            ends,
            control_finder: finder.map_err(|e| EngineError::Vocabulary(e.to_string()))?,
            special: Pieces::new(&[&control[..], &user_defined[..]].concat())?,
            user_defined: Pieces::new(&user_defined)?,
            control,
            bos: parts.bos,
            eos: parts.eos,
            ends_answer,
            // Llama 3 files leave it out, and mean yes.
            add_bos: parts.add_bos.unwrap_or(matches!(parts.split, "llama-bpe" | "llama3")),
        })
    }

    /// Tokens in the vocabulary.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no token: never.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of the longest token: text cannot have fewer tokens than its length
    /// divided by this.
    pub fn longest_token_bytes(&self) -> usize {
        self.longest
    }

    /// The beginning-of-text token, if the file names one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The end-of-text token, if the file names one.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The name of a control token.
    pub fn name(&self, id: u32) -> Option<&str> {
        self.control.iter().find(|&&(_, other)| other == id).map(|(name, _)| name.as_str())
    }

    /// Whether the model says with this token that its answer is complete.
    pub fn ends_answer(&self, id: u32) -> bool {
        self.ends_answer.contains(&id)
    }

    /// What a token adds to the text; nothing for control tokens. Not always whole
    /// characters.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start as usize..end as usize]
    }

    /// Tokens of a text in which nothing is a control token.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let mut ids = Vec::new();
        self.add_bos(&mut ids);
        self.encode_around(&self.user_defined, text, None, &mut ids)?;
        Ok(ids)
    }

    /// Tokens of a rendered conversation: names of control tokens are those tokens,
    /// unless the guard breaks them.
    pub fn encode_rendered(&self, rendered: &Rendered) -> Result<Vec<u32>, EngineError> {
        let mut ids = Vec::new();
        self.encode_around(&self.special, &rendered.text, Some(rendered.guard), &mut ids)?;
        if ids.first().copied() != self.bos {
            let rest = std::mem::take(&mut ids);
            self.add_bos(&mut ids);
            ids.extend(rest);
        }
        Ok(ids)
    }

    /// Byte offsets at which a control token's name begins.
    pub fn control_starts(&self, text: &str) -> Vec<usize> {
        self.control_finder.find_overlapping_iter(text).map(|m| m.start()).collect()
    }

    /// Whether text before `text` could make its beginning, or all of it, part of a
    /// control token's name.
    pub fn could_go_on_from_control(&self, text: &str) -> bool {
        let goes_on = |name: &str| {
            name.contains(text) || name.char_indices().skip(1).any(|(at, _)| text.starts_with(&name[at..]))
        };
        self.control.iter().any(|(name, _)| goes_on(name))
    }

    /// Whether text after `text` could make its end part of a control token's name.
    pub fn could_become_control(&self, text: &str) -> bool {
        let becomes = |name: &str| name.char_indices().skip(1).any(|(at, _)| text.ends_with(&name[..at]));
        self.control.iter().any(|(name, _)| becomes(name))
    }

    fn add_bos(&self, ids: &mut Vec<u32>) {
        ids.extend(self.bos.filter(|_| self.add_bos));
    }

    fn encode_around(
        &self,
        pieces: &Pieces,
        text: &str,
        guard: Option<char>,
        ids: &mut Vec<u32>,
    ) -> Result<(), EngineError> {
        let plain = |text: &str, ids: &mut Vec<u32>| {
            let unguarded = guard.filter(|&g| text.contains(g)).map(|g| text.replace(g, ""));
            let text = unguarded.as_deref().unwrap_or(text);
            let encoding = self.bpe.encode_fast(text, false);
            let encoding = encoding.map_err(|e| EngineError::Vocabulary(e.to_string()))?;
            ids.extend_from_slice(encoding.get_ids());
            Ok::<(), EngineError>(())
        };
        let mut from = 0;
        for found in pieces.finder.find_iter(text) {
            plain(&text[from..found.start()], ids)?;
            ids.push(pieces.ids[found.pattern().as_usize()]);
            from = found.end();
        }
        plain(&text[from..], ids)
    }
}

fn bpe(parts: &Parts<'_>) -> Result<tokenizers::Tokenizer, EngineError> {
    let vocabulary: Vocab = parts.tokens.iter().zip(0..).map(|(&name, id)| (name.to_owned(), id)).collect();
    let pair = |merge: &&str| {
        // The first character may itself be a space in other alphabets, never in this one.
        let (left, right) = merge.split_once(' ')?;
        Some((left.to_owned(), right.to_owned()))
    };
    let merges: Option<Vec<_>> = parts.merges.iter().map(pair).collect();
    let merges = merges.ok_or_else(|| EngineError::Vocabulary("a merge is not two parts".to_owned()))?;
    let model = BPE::builder()
        .vocab_and_merges(vocabulary, merges)
        .ignore_merges(matches!(parts.split, "llama-bpe" | "llama3"))
        .build()
        .map_err(|e| EngineError::Vocabulary(e.to_string()))?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(splitter(parts.split)?));
    Ok(tokenizer)
}

/// Cuts by one pattern after the other, then spells bytes as characters.
fn splitter(split: &str) -> Result<PreTokenizerWrapper, EngineError> {
    let patterns: &[&str] = match split {
        "smollm" => &[r"\p{N}", GPT2],
        "llama-bpe" | "llama3" => &[LLAMA3],
        "gpt-2" | "gpt2" => &[GPT2],
        "default" => &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
        other => {
            return Err(EngineError::Unsupported {
                what: "the tokenizer's splitting rule",
                found: other.to_owned(),
                supported: SUPPORTED_SPLITS.join(", "),
            });
        }
    };
    let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
    for &pattern in patterns {
        let pattern = SplitPattern::Regex(pattern.to_owned());
        let step = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
        steps.push(step.map_err(|e| EngineError::Vocabulary(e.to_string()))?.into());
    }
    steps.push(ByteLevel::new(false, false, false).into());
    Ok(Sequence::new(steps).into())
}

/// The bytes that each token stands for, and where each ends.
fn token_bytes(parts: &Parts<'_>) -> (Vec<u8>, Vec<u32>) {
    let byte_of = byte_alphabet();
    let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(parts.tokens.len()));
    for (name, &kind) in parts.tokens.iter().zip(&parts.kinds) {
        match kind {
            kind::CONTROL | kind::UNKNOWN => {}
            kind::USER_DEFINED => bytes.extend_from_slice(name.as_bytes()),
            _ => {
                let spelled: Option<Vec<u8>> =
                    name.chars().map(|c| byte_of.get(c as usize).copied().flatten()).collect();
                bytes.extend(spelled.unwrap_or_else(|| name.as_bytes().to_vec()));
            }
        }
        ends.push(bytes.len() as u32);
    }
    (bytes, ends)
}

/// GPT-2's spelling of bytes as visible characters: printable Latin-1 stands for
/// itself, the other bytes for the characters from U+0100 on, in order.
fn byte_alphabet() -> Vec<Option<u8>> {
    let mut byte_of = vec![None; 0x200];
    let mut next = 0x100;
    for byte in 0..=255u8 {
        let visible = matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
        let character = if visible { usize::from(byte) } else { next };
        byte_of[character] = Some(byte);
        next += usize::from(!visible);
    }
    byte_of
}

#[cfg(test)]
impl Tokenizer {
    /// Every byte, a few merges, and ChatML's control tokens.
    pub(crate) fn for_tests() -> Self {
        tests::tokenizer("smollm", &["<|im_start|>", "<|im_end|>"], &["<tool>"]).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn tokenizer(split: &str, control: &[&str], user: &[&str]) -> Result<Tokenizer, EngineError> {
        let spelled: Vec<String> = byte_alphabet()
            .iter()
            .enumerate()
            .filter(|(_, byte)| byte.is_some())
            .filter_map(|(c, _)| char::from_u32(c as u32).map(String::from))
            .collect();
        let words = ["he", "ll", "hell", "hello"];
        let mut tokens: Vec<&str> = [control, user].concat();
        let kinds = [vec![kind::CONTROL; control.len()], vec![kind::USER_DEFINED; user.len()]].concat();
        tokens.extend(spelled.iter().map(String::as_str));
        tokens.extend(words);
        let kinds = kinds.into_iter().chain(std::iter::repeat(1)).take(tokens.len()).collect();
        let merges = vec!["h e", "l l", "he ll", "hell o"];
        Tokenizer::new(&Parts { split, tokens, kinds, merges, ..Parts::default() })
    }

    fn pieces(split: &str, text: &str) -> Vec<String> {
        use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};
        let mut cut = PreTokenizedString::from(text);
        splitter(split).unwrap().pre_tokenize(&mut cut).unwrap();
        let cut = cut.get_splits(OffsetReferential::Original, OffsetType::Byte);
        cut.into_iter().map(|(_, (from, to), _)| text[from..to].to_owned()).collect()
    }

    #[test]
    fn text_survives_the_round_trip() {
        let tokenizer = Tokenizer::for_tests();
        for text in ["hello", " hello\n\n  hello", "été 你好 👋🏽", "a<tool>b", "<|im_end|>", "\u{0}\t~", ""]
        {
            let ids = tokenizer.encode_text(text).unwrap();
            let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.token_bytes(id)).copied().collect();
            assert_eq!(String::from_utf8(bytes).unwrap(), text);
        }
        assert_eq!(tokenizer.token_bytes(u32::MAX), b"");
    }

    #[test]
    fn control_tokens_come_from_templates_only() {
        let tokenizer = Tokenizer::for_tests();
        let name = "<|im_end|>";
        let spelled = tokenizer.encode_text(name).unwrap();
        assert_eq!(spelled.len(), name.len());
        let rendered = |text: &str| {
            let rendered = Rendered { text: text.to_owned(), guard: '\u{FDD0}' };
            tokenizer.encode_rendered(&rendered).unwrap()
        };
        assert_eq!(rendered("<|im_end|>"), [1]);
        assert_eq!(rendered("<\u{FDD0}|im_end|>"), spelled);
        assert_eq!(tokenizer.token_bytes(1), b"");
        assert_eq!(tokenizer.name(1), Some(name));
        assert!(tokenizer.ends_answer(1) && !tokenizer.ends_answer(0));
        // User-defined tokens are words like others.
        assert_eq!(tokenizer.encode_text("<tool>").unwrap(), [2]);
    }

    #[test]
    fn splits_follow_their_rule() {
        let text = "It's 12345 été!\n\n  ok";
        assert_eq!(pieces("gpt-2", text), ["It", "'s", " 12345", " été", "!", "\n\n ", " ok"]);
        let digits = ["It", "'s", " ", "1", "2", "3", "4", "5", " été", "!", "\n\n ", " ok"];
        assert_eq!(pieces("smollm", text), digits);
        let llama3 = ["It", "'s", " ", "123", "45", " été", "!\n\n", " ", " ok"];
        assert_eq!(pieces("llama-bpe", text), llama3);
        let default = ["It", "'", "s", " ", "123", "45", " été", "!", "\n\n ", " ok"];
        assert_eq!(pieces("default", text), default);
    }

    #[test]
    fn unknown_rules_are_refused() {
        let error = tokenizer("deepseek-llm", &[], &[]).err().unwrap().to_string();
        let expected =
            "the tokenizer's splitting rule `deepseek-llm` is not supported; supported: smollm, llama-bpe";
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn contradictory_vocabularies_are_refused() {
        let tokens = vec!["a", "b"];
        let parts =
            |kinds, eos| Parts { split: "gpt2", tokens: tokens.clone(), kinds, eos, ..Parts::default() };
        assert!(Tokenizer::new(&parts(vec![1], None)).is_err());
        assert!(Tokenizer::new(&parts(vec![1, 1], Some(2))).is_err());
        assert!(Tokenizer::new(&parts(vec![1, 1], Some(1))).is_ok());
    }
}
