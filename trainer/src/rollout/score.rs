//! Teacher-forced log-probabilities and values of given sequences, in one pass of a model.

use super::logprobs::token_logprobs;
use crate::backend;
use crate::data::batch;
use crate::model::{Source, Student};
use crate::nn::mode::Mode;
use crate::nn::value_head::ValueHead;
use tch::{Kind, Tensor, no_grad};

/// Whether log-probabilities from sampling differ from those that training compares with: only in float32 do the decoder and a
/// teacher-forced pass agree up to rounding.
pub fn needs_own_pass(sampling: Kind, training: Kind) -> bool {
    sampling != Kind::Float || training != Kind::Float
}

/// One number per token, by sequence.
#[derive(Debug, Clone)]
pub struct TeacherForced {
    /// log π(token) under the full softmax at temperature 1.
    pub logprobs: Vec<Vec<f32>>,
    /// V of the state before each token; `None` without a head.
    pub values: Option<Vec<Vec<f32>>>,
}

/// Runs `student` over sequences of tokens: the same number for each problem of `source`, grouped by problem; they share its
/// encoder states.
pub fn teacher_forced(
    student: &Student,
    value_head: Option<&ValueHead>,
    source: &Source,
    tokens: &[&[i64]],
    mode: Mode,
) -> TeacherForced {
    let (special, device) = (student.config.special_tokens(), source.ids.device());
    let problems = source.ids.size()[0] as usize;
    let samples = (tokens.len() / problems.max(1)).max(1);
    let longest = tokens.iter().map(|tokens| tokens.len()).max().unwrap_or(0);
    let of_problem = source.ids.size()[1] as usize + samples * longest;
    let at_once = backend::of(device).scoring_tokens().map_or(problems, |tokens| tokens / of_problem).max(1);
    let mut all = TeacherForced { logprobs: Vec::new(), values: value_head.map(|_| Vec::new()) };
    for (index, tokens) in tokens.chunks(at_once * samples).enumerate() {
        let source = source.narrow((index * at_once) as i64, (tokens.len() / samples) as i64);
        let inputs = batch::decoder_inputs(tokens, special.start, special.pad, device);
        let labels = batch::pad(tokens, special.pad, device);
        let rows = |tensor: &Tensor| -> Vec<Vec<f32>> {
            (0i64..).zip(tokens).map(|(row, tokens)| batch::row_numbers(tensor, row, tokens.len())).collect()
        };
        no_grad(|| {
            let hidden = student.hidden(&source, &inputs, mode);
            all.logprobs.extend(rows(&token_logprobs(student, &hidden, &labels, mode)));
            if let (Some(all), Some(head)) = (&mut all.values, value_head) {
                all.extend(rows(&head.forward(&hidden, mode)));
            }
        });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::vision::ImageFeatures;
    use crate::model::mm_t5::StudentConfig;
    use crate::model::random_weights;
    use crate::nn::value_head;
    use tch::Device;

    /// Samples that share a problem's encoder states get the same results as each alone.
    #[test]
    fn samples_of_a_problem_do_not_mix() {
        let config = StudentConfig::named("tiny", 64, 8).expect("shape");
        let mut weights = random_weights(&config, 3);
        weights.extend(value_head::random(config.d_model, 5));
        let (student, head) = (Student::new(&weights, &config), ValueHead::new(&weights));
        let features = ImageFeatures::none(config.image_feature_width);
        let source = |lengths: &[i64]| {
            let ids: Vec<Vec<i64>> = lengths
                .iter()
                .map(|&length| (0..length).map(|i| (i * 11 + length) % 60 + 2).collect())
                .collect();
            let rows: Vec<(&[i64], &str)> = ids.iter().map(|ids| (ids.as_slice(), "")).collect();
            batch::source(&rows, &features, config.pad_token_id, Device::Cpu)
        };
        let rows: Vec<Vec<i64>> = [3, 9, 5, 1, 7, 2]
            .iter()
            .map(|&length| (0..length).map(|i| (i * 17 + length) % 60 + 2).collect())
            .collect();
        let rows: Vec<&[i64]> = rows.iter().map(Vec::as_slice).collect();
        let together = teacher_forced(&student, Some(&head), &source(&[12, 5]), &rows, Mode::EVAL);
        let values = together.values.expect("asked");
        for (row, tokens) in rows.iter().enumerate() {
            let source = source(&[[12, 5][row / 3]]);
            let alone = teacher_forced(&student, Some(&head), &source, &[tokens], Mode::EVAL);
            let alone_values = alone.values.expect("asked");
            for (together, alone) in [(&together.logprobs, &alone.logprobs), (&values, &alone_values)] {
                assert_eq!(together[row].len(), tokens.len());
                for (a, b) in together[row].iter().zip(&alone[0]) {
                    assert!((a - b).abs() < 1e-4, "row {row}: {a} and {b}");
                }
            }
        }
    }
}
