//! The student: a multimodal T5 as MM-CoT builds it (encoder, gated fusion with a picture, decoder, head).

pub mod adapter;
pub mod attention;
pub mod checkpoint;
pub mod config;
pub mod decoder;
pub mod dropout;
pub mod encoder;
pub mod folder;
pub mod fusion;
pub mod layers;
pub mod lora;
pub mod low_precision;
pub mod mode;
pub mod value_head;
pub mod weight_files;
pub mod weights;

pub use config::StudentConfig;
pub use mode::Mode;
pub use weights::Weights;

use decoder::Decoder;
use encoder::Encoder;
use layers::{Linear, Matrix};
use low_precision::LowPrecisionCache;
use std::rc::Rc;
use tch::{Kind, Tensor};
use weights::is_lora;

/// A student ready to run. It shares its tensors with the [`Weights`] it was made of: an optimizer step on those is
/// visible here.
#[derive(Debug)]
pub struct Student {
    /// Shape and constants.
    pub config: StudentConfig,
    /// Encoder and fusion.
    pub encoder: Encoder,
    /// Decoder.
    pub decoder: Decoder,
    head: Head,
    copies: Rc<LowPrecisionCache>,
    /// A LoRA matrix, where it has any: what tells it from other students on the same weights.
    lora: Option<Tensor>,
}

#[derive(Debug)]
enum Head {
    Tied(Matrix),
    Own(Linear),
}

/// Source side of a batch.
#[derive(Debug)]
pub struct Source {
    /// Tokens [batch, source], padded at the end.
    pub ids: Tensor,
    /// 1 for tokens, 0 for padding [batch, source].
    pub mask: Tensor,
    /// Image features [batch, patches, p], float32; zeros if there is no picture.
    pub image: Tensor,
}

impl Source {
    /// The rows at these places, which may repeat.
    pub fn of_rows(&self, rows: &[usize]) -> Self {
        let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        let rows = Tensor::from_slice(&rows).to_device(self.ids.device());
        let of = |tensor: &Tensor| tensor.index_select(0, &rows);
        Self { ids: of(&self.ids), mask: of(&self.mask), image: of(&self.image) }
    }

    /// The problems `start..start + count`, no longer than the longest of them.
    pub fn narrow(&self, start: i64, count: i64) -> Self {
        let some = |tensor: &Tensor| tensor.narrow(0, start, count);
        let mask = some(&self.mask);
        let longest = mask.sum_dim_intlist(1, false, Kind::Int64).max().int64_value(&[]).max(1);
        let shortened = |tensor: &Tensor| tensor.narrow(1, 0, longest);
        Self { ids: shortened(&some(&self.ids)), mask: shortened(&mask), image: some(&self.image) }
    }
}

impl Student {
    /// The student of these weights, which must have the names and shapes of `config`.
    pub fn new(weights: &Weights, config: &StudentConfig) -> Self {
        let head = match weights.find("lm_head.weight") {
            Some(_) => Head::Own(Linear::new(weights, "lm_head")),
            None => Head::Tied(Matrix::new(weights, "shared.weight")),
        };
        Self {
            encoder: Encoder::new(weights, config),
            decoder: Decoder::new(weights, config),
            head,
            copies: weights.copies(),
            lora: weights.iter().find(|(name, _)| is_lora(name)).map(|(_, matrix)| matrix.shallow_clone()),
            config: config.clone(),
        }
    }

    /// Whether both students read the same memory, so that one pass serves both.
    pub fn reads_same_weights(&self, other: &Self) -> bool {
        let lora = |student: &Self| student.lora.as_ref().map(Tensor::data_ptr);
        self.encoder.reads_same_weights(&other.encoder) && lora(self) == lora(other)
    }

    /// Whether both share copies of weights in another number format, as those with adapters on one trunk do.
    pub fn shares_copies(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.copies, &other.copies)
    }

    /// Flushes accumulated gradients of low-precision weights, if they are large.
    pub fn collect_gradients(&self) {
        self.copies.collect_gradients();
    }

    /// Takes up all of it.
    pub fn settle_gradients(&self) {
        self.copies.settle_gradients();
    }

    /// Gives back the memory of weights in another number format, until the next pass needs them.
    pub fn release_copies(&self) {
        self.copies.release();
    }

    /// Fused encoder states [batch, source, d].
    pub fn encode(&self, source: &Source, mode: Mode) -> Tensor {
        self.encoder.forward(&source.ids, &source.mask, &source.image, mode)
    }

    /// Logits [.., vocab] of decoder states [.., d].
    pub fn logits(&self, hidden: &Tensor, mode: Mode) -> Tensor {
        let scaled = self.config.head_scale().map(|scale| hidden * scale);
        let hidden = scaled.as_ref().unwrap_or(hidden);
        let logits = match &self.head {
            Head::Own(linear) => linear.forward(hidden, mode),
            Head::Tied(weight) => weight.product(hidden, None, mode),
        };
        logits.to_kind(Kind::Float)
    }

    /// Decoder states [batch, target, d] for decoder inputs `ids` [batch, target], which begin with the start token.
    pub fn hidden(&self, source: &Source, ids: &Tensor, mode: Mode) -> Tensor {
        let encoded = self.encode(source, mode);
        self.decoder.forward(ids, &encoded, &source.mask, None, mode)
    }

    /// As [`Student::hidden`], for decoder inputs whose row r belongs to the source at `source_of[r]`: each source runs through the
    /// encoder once.
    pub fn hidden_shared(&self, source: &Source, source_of: &[usize], ids: &Tensor, mode: Mode) -> Tensor {
        let encoded = self.encode(source, mode);
        self.decoder.forward(ids, &encoded, &source.mask, Some(source_of), mode)
    }
}
