//! Token by token decoding with cached keys and values; the encoder runs once a problem for all its samples.

use crate::student::{Mode, Source, Student};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor, no_grad};

/// How the next token is chosen.
#[derive(Debug, Clone, Copy)]
pub enum Sampling {
    /// The likeliest token.
    Greedy,
    /// At random among the likeliest.
    Random {
        /// How many of the likeliest tokens; 0 takes all.
        top_k: u32,
        /// Probability that the kept tokens must hold.
        top_p: f64,
        /// Divides the logits.
        temperature: f64,
    },
}

/// One decoded sequence.
#[derive(Debug, Clone)]
pub struct Generated {
    /// Tokens after the start token, eos included where it was produced.
    pub tokens: Vec<i64>,
    /// log π(token) under the full softmax at temperature 1, one a token; empty for greedy decoding.
    pub logprobs: Vec<f32>,
    /// True where the limit came before eos.
    pub truncated: bool,
}

/// Decodes `seeds.len()` sequences: row i belongs to problem i / samples of `source`. Each row draws from its own
/// random stream, so that a sequence does not depend on its neighbours.
pub fn generate(
    student: &Student,
    source: &Source,
    sampling: Sampling,
    seeds: &[u64],
    max_new_tokens: u32,
    mode: Mode,
) -> Vec<Generated> {
    no_grad(|| decode(student, source, sampling, seeds, max_new_tokens, mode))
}

fn decode(
    student: &Student,
    source: &Source,
    sampling: Sampling,
    seeds: &[u64],
    max_new_tokens: u32,
    mode: Mode,
) -> Vec<Generated> {
    let config = &student.config;
    let device = source.ids.device();
    let problems = source.ids.size()[0];
    let samples = (seeds.len() as i64 / problems.max(1)).max(1);
    let encoded = student.encode(source, mode);
    let mut cache = student.decoder.start(&encoded, &source.mask, samples, mode);
    let mut streams: Vec<ChaCha8Rng> = seeds.iter().map(|&seed| ChaCha8Rng::seed_from_u64(seed)).collect();
    let empty = || Generated { tokens: Vec::new(), logprobs: Vec::new(), truncated: true };
    let mut done: Vec<Generated> = seeds.iter().map(|_| empty()).collect();
    // Rows of the running batch, as indices into `done`.
    let mut running: Vec<usize> = (0..seeds.len()).collect();
    let mut inputs: Vec<i64> = vec![config.decoder_start_token_id; running.len()];

    for _ in 0..max_new_tokens {
        let ids = Tensor::from_slice(&inputs).to_device(device);
        let logits = student.logits(&student.decoder.step(&ids, &mut cache, mode), mode);
        let (tokens, logprobs) = choose(&logits, sampling, &running, &mut streams);
        inputs.clone_from(&tokens);
        for (place, &row) in running.iter().enumerate() {
            let generated = &mut done[row];
            if !generated.truncated {
                continue; // finished, waiting for its row to leave the batch
            }
            generated.tokens.push(tokens[place]);
            if let Some(logprob) = logprobs.get(place) {
                generated.logprobs.push(*logprob);
            }
            generated.truncated = tokens[place] != config.eos_token_id;
        }
        let alive: Vec<usize> = (0..running.len()).filter(|&place| done[running[place]].truncated).collect();
        if alive.is_empty() {
            break;
        }
        // Leaving costs a copy of the cache, so rows leave in groups.
        if alive.len() * 4 <= running.len() * 3 {
            let rows: Vec<i64> = alive.iter().map(|&place| place as i64).collect();
            cache.select_rows(&Tensor::from_slice(&rows).to_device(device));
            inputs = alive.iter().map(|&place| inputs[place]).collect();
            running = alive.iter().map(|&place| running[place]).collect();
        }
    }
    done
}

/// Chooses a token a row from `logits` [rows, vocab]; log-probabilities only where tokens are drawn at random.
fn choose(
    logits: &Tensor,
    sampling: Sampling,
    rows: &[usize],
    streams: &mut [ChaCha8Rng],
) -> (Vec<i64>, Vec<f32>) {
    let Sampling::Random { top_k, top_p, temperature } = sampling else {
        return (integers(&logits.argmax(-1, false)), Vec::new());
    };
    let vocabulary = logits.size()[1];
    let kept = if top_k == 0 { vocabulary } else { i64::from(top_k).min(vocabulary) };
    let (values, indices) = logits.topk(kept, -1, true, true);
    let (values, indices) = (numbers(&values), integers(&indices));
    let normalizer = numbers(&logits.logsumexp(-1, false));
    let kept = kept as usize;
    let mut tokens = Vec::with_capacity(rows.len());
    let mut logprobs = Vec::with_capacity(rows.len());
    for (place, &row) in rows.iter().enumerate() {
        let values = &values[place * kept..(place + 1) * kept];
        let choice = draw(values, top_p, temperature, streams[row].random::<f64>());
        tokens.push(indices[place * kept + choice]);
        logprobs.push(values[choice] - normalizer[place]);
    }
    (tokens, logprobs)
}

/// Index of the value that `uniform` in [0, 1) falls on, for `values` in descending order.
fn draw(values: &[f32], top_p: f64, temperature: f64, uniform: f64) -> usize {
    let highest = f64::from(values.first().copied().unwrap_or_default());
    let weights: Vec<f64> =
        values.iter().map(|&value| ((f64::from(value) - highest) / temperature).exp()).collect();
    let mut total: f64 = weights.iter().sum();
    let mut kept = weights.len();
    if top_p < 1.0 {
        // The smallest set whose probability reaches top_p, at least one token.
        let mut sum = 0.0;
        for (index, weight) in weights.iter().enumerate() {
            sum += weight;
            if sum >= top_p * total {
                kept = index + 1;
                break;
            }
        }
        total = weights[..kept].iter().sum();
    }
    let mut rest = uniform * total;
    for (index, weight) in weights[..kept].iter().enumerate() {
        rest -= weight;
        if rest < 0.0 {
            return index;
        }
    }
    kept - 1
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
    let mut numbers = vec![0f32; tensor.numel()];
    let length = numbers.len();
    tensor.copy_data(&mut numbers, length);
    numbers
}

fn integers(tensor: &Tensor) -> Vec<i64> {
    let tensor = tensor.to_device(Device::Cpu).to_kind(Kind::Int64).contiguous();
    let mut integers = vec![0i64; tensor.numel()];
    let length = integers.len();
    tensor.copy_data(&mut integers, length);
    integers
}

#[cfg(test)]
mod tests {
    use super::draw;

    #[test]
    fn draws_follow_the_distribution() {
        let values = [2.0f32, 1.0, 0.0];
        let total: f64 = values.iter().map(|&value| f64::from(value).exp()).sum();
        let first = 2f64.exp() / total;
        assert_eq!(draw(&values, 1.0, 1.0, first - 1e-9), 0);
        assert_eq!(draw(&values, 1.0, 1.0, first + 1e-9), 1);
        assert_eq!(draw(&values, 1.0, 1.0, 1.0 - 1e-12), 2);
    }

    #[test]
    fn top_p_keeps_the_smallest_set_that_reaches_it() {
        let values = [2.0f32, 1.0, 0.0]; // probabilities 0.665, 0.245, 0.090
        assert_eq!(draw(&values, 0.6, 1.0, 0.999_999), 0);
        assert_eq!(draw(&values, 0.7, 1.0, 0.999_999), 1);
        assert_eq!(draw(&values, 0.7, 1.0, 0.72), 0); // 0.665 / 0.910 = 0.731
        assert_eq!(draw(&values, 0.7, 1.0, 0.74), 1);
    }

    #[test]
    fn low_temperature_is_nearly_greedy() {
        assert_eq!(draw(&[1.0, 0.5], 1.0, 0.01, 0.999_999), 0);
    }
}
