//! The student's tokenizer: a Hugging Face `tokenizer.json`, checked against its checkpoint.

use crate::checkpoint::weight_files::{ADAPTER_FILE, WEIGHTS_FILE, metadata_of};
use crate::error::{Error, Result};
use crate::model::ModelConfig;
use schemas::file::refuse_lfs_pointer;
use schemas::provenance::sha256_hex;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Maximum rows of an embedding without a token: sizes are rounded up, by some libraries to multiples of 1024.
const SPARE_ROWS: i64 = 1023;

/// Key of a weight file's metadata for the fingerprint of the vocabulary that it was written with.
pub(crate) const VOCABULARY: &str = "vocabulary_sha256";

/// A tokenizer with the student's special tokens.
#[derive(Debug)]
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    eos: i64,
    /// Tokens that the tokenizer's template puts before a text, such as `<s>`; T5's has none.
    before: Vec<i64>,
    /// Whether truncation was reported.
    has_warned: AtomicBool,
}

/// Reads a tokenizer file. Padding and truncation in the file are ignored: transformers stores the values of its last call
/// there, and sets both on each call.
fn read_file(path: &Path) -> Result<tokenizers::Tokenizer> {
    let wrong = |error: tokenizers::Error| Error::Tokenizer { path: path.into(), message: error.to_string() };
    refuse_lfs_pointer(path)?;
    let mut inner = tokenizers::Tokenizer::from_file(path).map_err(wrong)?;
    inner.with_padding(None);
    inner.with_truncation(None).map_err(wrong)?;
    Ok(inner)
}

/// Tokens that the tokenizer's template puts before a text. After the text, the template may have eos, which is added if it is
/// missing.
fn template(tokenizer: &tokenizers::Tokenizer, eos: i64) -> Result<Vec<i64>, String> {
    let ids = |special: bool| -> Result<Vec<i64>, String> {
        let encoding = tokenizer.encode("a", special).map_err(|error| error.to_string())?;
        Ok(encoding.get_ids().iter().map(|&id| i64::from(id)).collect())
    };
    let (text, whole) = (ids(false)?, ids(true)?);
    let start = (0..=whole.len()).find(|&start| whole[start..].starts_with(&text)).unwrap_or_default();
    let (before, after) = (&whole[..start], whole.get(start + text.len()..).unwrap_or_default());
    if !after.is_empty() && after != [eos] {
        let names: Vec<String> = after
            .iter()
            .map(|&id| u32::try_from(id).ok().and_then(|id| tokenizer.id_to_token(id)).unwrap_or_default())
            .collect();
        return Err(format!(
            "post_processor: expected nothing but </s> after a text, found {}",
            names.join(" ")
        ));
    }
    Ok(before.to_vec())
}

fn vocabulary_sha256(tokenizer: &tokenizers::Tokenizer) -> String {
    let mut tokens: Vec<(u32, String)> =
        tokenizer.get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
    tokens.sort_unstable();
    sha256_hex(format!("{tokens:?}").as_bytes())
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a checkpoint folder.
    ///
    /// # Errors
    /// If it is missing, broken, or not the tokenizer of this student.
    pub fn read(folder: &Path, config: &dyn ModelConfig) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let wrong = |message: String| Error::Tokenizer { path: path.clone(), message };
        if !path.is_file() {
            let mut message = "expected the student's tokenizer, found no such file".to_owned();
            if folder.join("spiece.model").is_file() {
                let folder = folder.display();
                message += &format!(
                    "; convert spiece.model once with: python -c \"from transformers import AutoTokenizer; \
                     AutoTokenizer.from_pretrained('{folder}').save_pretrained('{folder}')\""
                );
            }
            return Err(wrong(message));
        }
        let inner = read_file(&path)?;
        let size = inner.get_vocab_size(true) as i64;
        let special = config.special_tokens();
        let (least, most) = ((config.vocabulary() - SPARE_ROWS).max(1), config.vocabulary());
        if !(least..=most).contains(&size) {
            return Err(wrong(format!(
                "expected {least} to {most} tokens, for the checkpoint's {most} rows, found {size}"
            )));
        }
        for (text, expected) in [("<pad>", special.pad), ("</s>", special.eos)] {
            let found = inner.token_to_id(text).map(i64::from);
            if found != Some(expected) {
                let found = found.map_or("none".to_owned(), |id| id.to_string());
                return Err(wrong(format!("token {text}: expected id {expected}, found {found}")));
            }
        }
        for weights in [WEIGHTS_FILE, ADAPTER_FILE] {
            if let Some(expected) = metadata_of(&folder.join(weights), VOCABULARY)?
                && expected != vocabulary_sha256(&inner)
            {
                let message =
                    "expected the tokenizer that the weights were written with, found another vocabulary";
                return Err(wrong(message.into()));
            }
        }
        let before = template(&inner, special.eos).map_err(wrong)?;
        Ok(Self { path, inner, eos: special.eos, before, has_warned: AtomicBool::new(false) })
    }

    /// sha256 over the tokens of a folder's `tokenizer.json` and their ids; `None` if there is no such file, or a
    /// broken one.
    pub fn vocabulary(folder: &Path) -> Option<String> {
        let inner = read_file(&folder.join("tokenizer.json")).ok()?;
        Some(vocabulary_sha256(&inner))
    }

    /// Number of tokens, added ones included, of a tokenizer file without a student.
    ///
    /// # Errors
    /// If the file is missing or broken.
    pub fn vocabulary_size(folder: &Path) -> Result<i64> {
        Ok(read_file(&folder.join("tokenizer.json"))?.get_vocab_size(true) as i64)
    }

    /// Tokens of a text, with those that the tokenizer's template puts before it and eos at the end, truncated to the first
    /// `limit`, as in MM-CoT. The first truncated text is reported.
    ///
    /// # Errors
    /// If the tokenizer fails on the text.
    pub fn encode(&self, text: &str, limit: u32) -> Result<Vec<i64>> {
        let encoding = self
            .inner
            .encode(text, false)
            .map_err(|e| Error::Tokenizer { path: self.path.clone(), message: e.to_string() })?;
        let room = (limit as usize).saturating_sub(1 + self.before.len());
        let tokens = encoding.get_ids().len();
        if tokens > room && !self.has_warned.swap(true, Ordering::Relaxed) {
            schemas::warn!(
                "warning: a text of {tokens} tokens is truncated to {room}, and others may be too: see the limits in [student], [sft], [answer]"
            );
        }
        let ids = encoding.get_ids().iter().take(room).map(|&id| i64::from(id));
        Ok(self.before.iter().copied().chain(ids).chain([self.eos]).collect())
    }

    /// The Hugging Face tokenizer itself.
    pub fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }
}
