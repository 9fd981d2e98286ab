//! Log-probabilities and values of given sequences, in one teacher-forced pass.

use crate::backend::head_positions;
use crate::student::value_head::ValueHead;
use crate::student::{Mode, Student};
use tch::{Kind, Tensor};

/// log π(token) for `hidden` [.., d] and `tokens` of the same shape but the last: one number a token. The state at
/// position t scores token t of `tokens`, because the decoder's input is shifted by the start token.
pub fn token_logprobs(student: &Student, hidden: &Tensor, tokens: &Tensor, mode: Mode) -> Tensor {
    let of = |hidden: &Tensor, tokens: &Tensor| {
        let logits = student.logits(hidden, mode);
        logits.gather(-1, &tokens.unsqueeze(-1), false).squeeze_dim(-1) - logits.logsumexp(-1, false)
    };
    let (rows, positions) = (hidden.size()[0], tokens.numel() as i64);
    let at_once = (head_positions(hidden.device()) * rows / positions.max(1)).max(1);
    if hidden.requires_grad() || rows <= at_once {
        return of(hidden, tokens);
    }
    // Without gradients nothing needs all logits at once.
    let parts = (0..rows).step_by(at_once as usize).map(|row| {
        let count = at_once.min(rows - row);
        of(&hidden.narrow(0, row, count), &tokens.narrow(0, row, count))
    });
    Tensor::cat(&parts.collect::<Vec<_>>(), 0)
}

/// Gradients of a loss that is a sum over tokens, without ever holding the logits of all of them: the head runs
/// forward and backward on a few positions at a time, and what it asks of the states below goes down once.
///
/// `hidden` `[tokens, d]` and `tokens` `[tokens]` hold only real tokens; `loss` takes log π of the tokens
/// `start..start + length` and returns their share. `also` is a further loss of the same states. Returns the sum of
/// the shares, `also` left out.
pub fn backward_by_positions(
    student: &Student,
    hidden: &Tensor,
    tokens: &Tensor,
    mode: Mode,
    mut loss: impl FnMut(&Tensor, i64, i64) -> Tensor,
    also: Option<Tensor>,
) -> Tensor {
    let leaf = hidden.detach().set_requires_grad(true);
    let total = tokens.size()[0];
    let mut sum = Tensor::zeros([], (Kind::Float, hidden.device()));
    let at_once = head_positions(hidden.device());
    for start in (0..total).step_by(at_once as usize) {
        let length = at_once.min(total - start);
        let tokens = tokens.narrow(0, start, length);
        let logprobs = token_logprobs(student, &leaf.narrow(0, start, length), &tokens, mode);
        let share = loss(&logprobs, start, length);
        share.backward();
        student.collect_gradients();
        sum += share.detach();
    }
    // Σ hidden · ∂L/∂hidden has the gradient of L with respect to everything below `hidden`.
    let mut below = (hidden * leaf.grad()).sum(Kind::Float);
    if let Some(also) = also {
        below += also;
    }
    if below.requires_grad() {
        below.backward();
        student.collect_gradients();
    }
    sum
}

/// A value model: a student with a value head, its own head unused. Its student may read the policy's own weights;
/// then one pass serves both.
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

    /// Flushes accumulated gradients of low-precision weights, if they are large.
    pub fn collect_gradients(&self) {
        self.student.collect_gradients();
        self.head.collect_gradients();
    }

    /// Takes up all of it.
    pub fn settle_gradients(&self) {
        self.student.settle_gradients();
        self.head.settle_gradients();
    }
}
