//! Log-probabilities and values of given sequences, in one teacher-forced pass.

use crate::student::value_head::ValueHead;
use crate::student::{Mode, Student};
use tch::{Kind, Tensor};

/// log π(token) for `hidden` [batch, target, d] and `tokens` [batch, target]: [batch, target]. The state at
/// position t scores token t of `tokens`, because the decoder's input is shifted by the start token.
pub fn token_logprobs(student: &Student, hidden: &Tensor, tokens: &Tensor, mode: Mode) -> Tensor {
    let logits = student.logits(hidden, mode);
    logits.gather(-1, &tokens.unsqueeze(-1), false).squeeze_dim(-1) - logits.logsumexp(-1, false)
}

/// As [`token_logprobs`], only for the positions where `mask` is 1: a vector in row order. The head, the widest
/// layer, then never runs on padding.
pub fn masked_logprobs(
    student: &Student,
    hidden: &Tensor,
    tokens: &Tensor,
    mask: &Tensor,
    mode: Mode,
) -> Tensor {
    let kept = mask.view(-1).nonzero().squeeze_dim(-1);
    let width = hidden.size()[2];
    let hidden = hidden.contiguous().view([-1, width]).index_select(0, &kept);
    let tokens = tokens.contiguous().view(-1).index_select(0, &kept);
    token_logprobs(student, &hidden, &tokens, mode)
}

/// A value model: a second student with a value head, its own head unused.
#[derive(Debug)]
pub struct ValueModel {
    /// The second student.
    pub student: Student,
    /// d → 2d → ReLU → 1.
    pub head: ValueHead,
}

impl ValueModel {
    /// Values [batch, target] of decoder states [batch, target, d] of this model's student.
    pub fn values(&self, hidden: &Tensor, mode: Mode) -> Tensor {
        self.head.forward(hidden, mode)
    }
}

/// Spreads a vector of values at the positions where `mask` [batch, target] is 1 over zeros.
pub fn spread(values: &Tensor, mask: &Tensor) -> Tensor {
    let kept = mask.view(-1).nonzero().squeeze_dim(-1);
    let flat = Tensor::zeros([mask.numel() as i64], (Kind::Float, mask.device()));
    flat.index_put(&[Some(kept)], values, false).view_as(mask)
}
