//! What a rollout keeps of each token beside the token itself, in one teacher-forced pass of each model.

use super::Generated;
use super::logprobs::{ValueModel, token_logprobs};
use crate::batch;
use crate::student::{Mode, Source, Student};
use tch::{Tensor, no_grad};

/// The passes that a batch of rollouts needs.
#[derive(Debug, Clone, Copy)]
pub struct ForcedPasses<'a> {
    /// The sampling policy.
    pub policy: &'a Student,
    /// Whether its log-probabilities come from a pass, because sampling ran in another number format.
    pub own: bool,
    /// The reference policy where it is not the sampling policy.
    pub reference: Option<&'a Student>,
    /// None where the algorithm needs no values.
    pub value: Option<&'a ValueModel>,
    /// Number format of the passes.
    pub mode: Mode,
}

/// A number for each token of each rollout, `None` where no pass was asked for.
#[derive(Debug, Clone, Default)]
pub struct TokenNumbers {
    /// log π(token) of the sampling policy.
    pub own: Option<Vec<Vec<f32>>>,
    /// log π(token) of the reference policy.
    pub reference: Option<Vec<Vec<f32>>>,
    /// V of the state before each token.
    pub values: Option<Vec<Vec<f32>>>,
}

impl ForcedPasses<'_> {
    /// Runs the passes over `generated`, as many rows for each problem of `source`.
    pub fn run(&self, source: &Source, generated: &[Generated]) -> TokenNumbers {
        let config = &self.policy.config;
        let device = source.ids.device();
        let tokens: Vec<&[i64]> = generated.iter().map(|generated| generated.tokens.as_slice()).collect();
        let inputs =
            batch::decoder_inputs(&tokens, config.decoder_start_token_id, config.pad_token_id, device);
        let labels = batch::pad(&tokens, config.pad_token_id, device);
        let rows = |tensor: &Tensor| -> Vec<Vec<f32>> {
            (0i64..).zip(&tokens).map(|(row, tokens)| batch::row_numbers(tensor, row, tokens.len())).collect()
        };
        // The encoder runs once a problem.
        let hidden = |student: &Student| {
            let encoded = student.encode(source, self.mode);
            student.decoder.forward(&inputs, &encoded, &source.mask, self.mode)
        };
        let logprobs =
            |student: &Student, hidden: &Tensor| rows(&token_logprobs(student, hidden, &labels, self.mode));
        no_grad(|| {
            let shared = self.value.is_some_and(|value| value.student.reads_same_weights(self.policy));
            let of_policy = (self.own || shared).then(|| hidden(self.policy));
            TokenNumbers {
                own: of_policy.as_ref().filter(|_| self.own).map(|hidden| logprobs(self.policy, hidden)),
                values: self.value.map(|value| {
                    let shared = of_policy.as_ref().filter(|_| shared).map(Tensor::shallow_clone);
                    rows(&value.values(&shared.unwrap_or_else(|| hidden(&value.student)), self.mode))
                }),
                reference: self.reference.map(|student| logprobs(student, &hidden(student))),
            }
        })
    }
}
