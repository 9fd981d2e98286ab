//! What a rollout keeps of each token beside the token itself, in one teacher-forced pass of each model.

use super::Generated;
use super::logprobs::{ValueModel, token_logprobs};
use crate::batch;
use crate::student::{Mode, Source, Student};
use tch::{Kind, Tensor, no_grad};

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

/// Whether log-probabilities taken while sampling are not those that training will compare with: only in float32 do the
/// decoder and a teacher-forced pass agree to rounding.
pub fn needs_own_pass(sampling: Kind, training: Kind) -> bool {
    sampling != Kind::Float || training != Kind::Float
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::student::value_head::ValueHead;
    use crate::student::{StudentConfig, Weights};
    use crate::vision::ImageFeatures;
    use tch::Device;

    /// Samples that share a problem's encoder states get the numbers that each gets alone.
    #[test]
    fn samples_of_a_problem_do_not_mix() {
        let config = StudentConfig::named("tiny", 64, 8).expect("shape");
        let weights = Weights::random(&config, 3);
        let mut value_weights = Weights::random(&config, 4);
        value_weights.add_random(&config, config.value_head_shapes(), 5);
        let (policy, reference) = (Student::new(&weights, &config), Student::new(&value_weights, &config));
        let value = ValueModel {
            student: Student::new(&value_weights, &config),
            head: ValueHead::new(&value_weights),
        };
        let passes = ForcedPasses {
            policy: &policy,
            own: true,
            reference: Some(&reference),
            value: Some(&value),
            mode: Mode::EVAL,
        };
        let features = ImageFeatures::none(config.image_feature_width);
        let source = |lengths: &[i64]| {
            let ids: Vec<Vec<i64>> = lengths
                .iter()
                .map(|&length| (0..length).map(|i| (i * 11 + length) % 60 + 2).collect())
                .collect();
            let rows: Vec<(&[i64], &str)> = ids.iter().map(|ids| (ids.as_slice(), "")).collect();
            crate::batch::source(&rows, &features, config.pad_token_id, Device::Cpu)
        };
        let rows: Vec<Generated> = [3, 9, 5, 1, 7, 2]
            .iter()
            .map(|&length| Generated {
                tokens: (0..length).map(|i| (i * 17 + length) % 60 + 2).collect(),
                logprobs: Vec::new(),
                truncated: false,
            })
            .collect();
        let together = passes.run(&source(&[12, 5]), &rows);
        for (row, generated) in rows.iter().enumerate() {
            let alone = passes.run(&source(&[[12, 5][row / 3]]), std::slice::from_ref(generated));
            for (together, alone) in [
                (&together.own, &alone.own),
                (&together.reference, &alone.reference),
                (&together.values, &alone.values),
            ] {
                let (together, alone) = (together.as_ref().expect("asked"), alone.as_ref().expect("asked"));
                assert_eq!(together[row].len(), generated.tokens.len());
                for (a, b) in together[row].iter().zip(&alone[0]) {
                    assert!((a - b).abs() < 1e-4, "row {row}: {a} and {b}");
                }
            }
        }
        assert_ne!(together.own, together.reference);
    }
}
