//! Teacher-forced log-probabilities of given sequences.

use super::distribution::Distribution;
use crate::backend;
use crate::data::batch::Last;
use crate::model::Student;
use crate::nn::mode::Mode;
use tch::{Kind, Tensor};

/// log π(token) for `hidden` [.., d] and `tokens` [..]: one number per token. The state at position t scores token t of
/// `tokens`, because the decoder's input is shifted by the start token.
pub fn token_logprobs(student: &Student, hidden: &Tensor, tokens: &Tensor, mode: Mode) -> Tensor {
    token_logprobs_under(student, hidden, tokens, mode, Distribution::FULL)
}

/// As [`token_logprobs`], under another distribution derived from the same logits.
pub fn token_logprobs_under(
    student: &Student,
    hidden: &Tensor,
    tokens: &Tensor,
    mode: Mode,
    distribution: Distribution,
) -> Tensor {
    let of = |hidden: &Tensor, tokens: &Tensor| distribution.logprobs(&student.logits(hidden, mode), tokens);
    let (rows, positions) = (hidden.size()[0], tokens.numel() as i64);
    let at_once = (backend::of(hidden.device()).head_positions() * rows / positions.max(1)).max(1);
    if hidden.requires_grad() || rows <= at_once {
        return of(hidden, tokens);
    }
    // Without gradients, all logits are never needed at the same time.
    let parts = (0..rows).step_by(at_once as usize).map(|row| {
        let count = at_once.min(rows - row);
        of(&hidden.narrow(0, row, count), &tokens.narrow(0, row, count))
    });
    Tensor::cat(&parts.collect::<Vec<_>>(), 0)
}

/// Gradients of a loss that is a sum over tokens, without ever holding the logits of all of them: the head runs forward and
/// backward on a few positions at a time, and the gradient of the states is propagated down once.
///
/// `hidden` `[tokens, d]` and `tokens` `[tokens]` hold only real tokens; `loss` takes log π of the tokens
/// `start..start + length` and returns their share. `also` is a further loss of the same states. Returns the sum of the shares
/// without `also`. `last` applies to the backward pass below `hidden`.
pub fn backward_by_positions(
    student: &Student,
    hidden: &Tensor,
    tokens: &Tensor,
    (mode, last): (Mode, Last<'_>),
    loss: impl FnMut(&Tensor, i64, i64) -> Tensor,
    also: Option<Tensor>,
) -> Tensor {
    backward_under(student, hidden, tokens, (mode, Distribution::FULL, last), loss, also)
}

/// As [`backward_by_positions`], with log-probabilities under another distribution derived from the same logits.
pub fn backward_under(
    student: &Student,
    hidden: &Tensor,
    tokens: &Tensor,
    (mode, distribution, last): (Mode, Distribution, Last<'_>),
    mut loss: impl FnMut(&Tensor, i64, i64) -> Tensor,
    also: Option<Tensor>,
) -> Tensor {
    let leaf = hidden.detach().set_requires_grad(true);
    let total = tokens.size()[0];
    let mut sum = Tensor::zeros([], (Kind::Float, hidden.device()));
    let at_once = backend::of(hidden.device()).head_positions();
    for start in (0..total).step_by(at_once as usize) {
        let length = at_once.min(total - start);
        let tokens = tokens.narrow(0, start, length);
        let hidden = leaf.narrow(0, start, length);
        let logprobs = token_logprobs_under(student, &hidden, &tokens, mode, distribution);
        let share = loss(&logprobs, start, length);
        share.backward();
        student.flush_gradients();
        sum += share.detach();
    }
    // Σ hidden · ∂L/∂hidden has the gradient of L with respect to everything below `hidden`.
    let mut below = (hidden * leaf.grad()).sum(Kind::Float);
    if let Some(also) = also {
        below += also;
    }
    if below.requires_grad() {
        last.backward(&below);
        student.flush_gradients();
    }
    sum
}
