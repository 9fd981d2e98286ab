//! Token-by-token decoding with a key-value cache; the encoder runs once per problem for all its samples.

use super::pick::{self, Sampling};
use crate::backend::libtorch::multiplies_bfloat16;
use crate::backend::{self, cpu::kernel::Level};
use crate::error::Result;
use crate::model::config::SpecialTokens;
use crate::model::lora::decoding_weights;
use crate::model::network::{CpuDecoder, Step};
use crate::model::{Source, Student};
use crate::nn::mode::Mode;
use crate::nn::value_head::ValueHead;
use crate::nn::weights::Weights;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use tch::{Device, Kind, Tensor, no_grad};

/// One decoded sequence.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Generated {
    /// Tokens after the start token, including eos if it was produced.
    pub tokens: Vec<i64>,
    /// log π(token) under the full softmax at temperature 1, one per token; empty for greedy decoding.
    #[serde(with = "crate::collective::exact")]
    pub logprobs: Vec<f32>,
    /// V of the state before each token; empty without a value head.
    #[serde(with = "crate::collective::exact")]
    pub values: Vec<f32>,
    /// True if the limit was reached before eos.
    pub truncated: bool,
}

/// A student prepared for decoding: weights in the sampling dtype, cast once, and on the CPU a decoder with its own kernels.
/// Later changes of weights that had to be copied are not visible to it.
#[derive(Debug)]
pub struct Generator<'a> {
    student: &'a Student,
    /// Set if products run on weights in the sampling dtype, or with LoRA merged, and there is no CPU decoder.
    copy: Option<Student>,
    cpu_decoder: Option<Box<dyn CpuDecoder>>,
    /// Set if values are requested and there is no CPU decoder.
    value_head: Option<ValueHead>,
    mode: Mode,
}

impl<'a> Generator<'a> {
    /// Decodes with `student`, built from `weights`, in the dtype `kind`.
    ///
    /// # Errors
    /// If threads cannot be started.
    pub fn new(student: &'a Student, weights: &Weights, kind: Kind) -> Result<Self> {
        let (config, device) = (&*student.config, student.device());
        let copied = decoding_weights(config, weights, kind);
        let runs_so = kind != Kind::BFloat16 || multiplies_bfloat16(device);
        let mode = Mode { train: false, kind: if runs_so { kind } else { Kind::Float } };
        let decoder = copied.as_ref().unwrap_or(weights);
        let encoder = if runs_so { decoder } else { weights };
        let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1).max(1);
        let cpu_decoder = match backend::of(device).has_decoder_kernels() {
            true => config.cpu_decoder(encoder, decoder, kind, mode, threads)?,
            false => None,
        };
        let needs_copy = cpu_decoder.is_none() && runs_so;
        let copy = copied.filter(|_| needs_copy).map(|weights| Student::new(&weights, config));
        Ok(Self { student, copy, cpu_decoder, value_head: None, mode })
    }

    /// Also returns the values of the head in `weights` for the states that tokens are chosen from.
    #[must_use]
    pub fn with_value_head(mut self, weights: &Weights) -> Self {
        match &mut self.cpu_decoder {
            Some(cpu_decoder) => cpu_decoder.add_value_head(weights),
            None => self.value_head = Some(ValueHead::new(weights)),
        }
        self
    }

    /// Decodes `seeds.len()` sequences: row i belongs to problem i / samples of `source`. Each row draws from its own random
    /// stream, so a sequence does not depend on the rest of the batch.
    pub fn generate(
        &self,
        source: &Source,
        sampling: Sampling,
        seeds: &[u64],
        max_new_tokens: u32,
    ) -> Vec<Generated> {
        let student = self.copy.as_ref().unwrap_or(self.student);
        no_grad(|| match &self.cpu_decoder {
            Some(cpu_decoder) => {
                let special = student.config.special_tokens();
                by_steps(&**cpu_decoder, source, special, sampling, seeds, max_new_tokens)
            }
            None => {
                let value_head = self.value_head.as_ref();
                decode(student, value_head, source, sampling, seeds, max_new_tokens, self.mode)
            }
        })
    }
}

/// As [`Generator::generate`], with libtorch's operations alone: the implementation for GPUs, and the reference for tests of
/// the CPU decoder.
pub fn generate(
    student: &Student,
    source: &Source,
    sampling: Sampling,
    seeds: &[u64],
    max_new_tokens: u32,
    mode: Mode,
) -> Vec<Generated> {
    no_grad(|| decode(student, None, source, sampling, seeds, max_new_tokens, mode))
}

fn samples(source: &Source, seeds: &[u64]) -> usize {
    (seeds.len() / (source.ids.size()[0] as usize).max(1)).max(1)
}

fn unfinished(seeds: &[u64]) -> Vec<Generated> {
    let unfinished =
        |_| Generated { tokens: Vec::new(), logprobs: Vec::new(), values: Vec::new(), truncated: true };
    seeds.iter().map(unfinished).collect()
}

/// Decoding on the CPU decoder. Rows form a grid of problems × samples, so samples share their problem's data; a
/// position whose row has finished is `None` and is processed until the grid can shrink.
fn by_steps(
    cpu_decoder: &dyn CpuDecoder,
    source: &Source,
    special: SpecialTokens,
    sampling: Sampling,
    seeds: &[u64],
    max_new_tokens: u32,
) -> Vec<Generated> {
    let mut cache = cpu_decoder.start(source, samples(source, seeds));
    let mut streams: Vec<ChaCha8Rng> = seeds.iter().map(|&seed| ChaCha8Rng::seed_from_u64(seed)).collect();
    let mut done = unfinished(seeds);
    let mut width = cache.samples();
    let mut grid: Vec<Option<usize>> = (0..seeds.len()).map(Some).collect();
    let mut inputs = vec![special.start; grid.len()];
    for _ in 0..max_new_tokens {
        let Step { logits, values } = cache.step(&inputs);
        let running: Vec<(usize, usize, f64)> = grid
            .iter()
            .enumerate()
            .filter_map(|(place, row)| row.map(|row| (place, row)))
            .map(|(place, row)| {
                (place, row, if sampling.is_random() { streams[row].random::<f64>() } else { 0.0 })
            })
            .collect();
        let (vocabulary, level) = (cpu_decoder.vocabulary(), Level::detect());
        let chosen: Vec<(i64, Option<f32>)> = cpu_decoder.pool().install(|| {
            let choose = |&(place, _, uniform): &(usize, usize, f64)| {
                let logits = &logits[place * vocabulary..(place + 1) * vocabulary];
                match sampling {
                    Sampling::Greedy => (pick::greedy(logits) as i64, None),
                    Sampling::Random { top_k, top_p, temperature } => {
                        let normalizer = level.log_sum_exp(logits);
                        let (token, logprob) =
                            pick::random(logits, normalizer, top_k, top_p, temperature, uniform);
                        (token, Some(logprob))
                    }
                }
            };
            running.par_iter().map(choose).collect()
        });
        for (&(place, row, _), (token, logprob)) in running.iter().zip(chosen) {
            let generated = &mut done[row];
            generated.tokens.push(token);
            generated.logprobs.extend(logprob);
            generated.values.extend(values.get(place));
            inputs[place] = token;
            if token == special.eos {
                generated.truncated = false;
                grid[place] = None;
            }
        }
        let alive: Vec<(usize, Vec<usize>)> = grid
            .chunks(width)
            .enumerate()
            .map(|(problem, rows)| {
                let places = (0..rows.len()).filter(|&sample| rows[sample].is_some());
                (problem, places.map(|sample| problem * width + sample).collect::<Vec<_>>())
            })
            .filter(|(_, places)| !places.is_empty())
            .collect();
        let Some(most) = alive.iter().map(|(_, places)| places.len()).max() else { break };
        // Shrinking copies the cache, so it waits until a quarter of the grid is gone.
        if alive.len() * most * 4 <= grid.len() * 3 {
            let problems: Vec<usize> = alive.iter().map(|(problem, _)| *problem).collect();
            let filled = |places: &[usize]| -> Vec<(usize, bool)> {
                (0..most).map(|i| (places[i.min(places.len() - 1)], i < places.len())).collect()
            };
            let kept: Vec<(usize, bool)> = alive.iter().flat_map(|(_, places)| filled(places)).collect();
            let places: Vec<usize> = kept.iter().map(|(place, _)| *place).collect();
            cache.select(&problems, &places, most);
            inputs = places.iter().map(|&place| inputs[place]).collect();
            grid = kept.iter().map(|&(place, real)| if real { grid[place] } else { None }).collect();
            width = most;
        }
    }
    done
}

fn decode(
    student: &Student,
    value_head: Option<&ValueHead>,
    source: &Source,
    sampling: Sampling,
    seeds: &[u64],
    max_new_tokens: u32,
    mode: Mode,
) -> Vec<Generated> {
    let special = student.config.special_tokens();
    let device = source.ids.device();
    let mut cache = student.start(source, samples(source, seeds) as i64, mode);
    let mut streams: Vec<ChaCha8Rng> = seeds.iter().map(|&seed| ChaCha8Rng::seed_from_u64(seed)).collect();
    let mut done = unfinished(seeds);
    // Rows of the running batch, as indices into `done`.
    let mut running: Vec<usize> = (0..seeds.len()).collect();
    let mut inputs: Vec<i64> = vec![special.start; running.len()];

    for _ in 0..max_new_tokens {
        let ids = Tensor::from_slice(&inputs).to_device(device);
        let hidden = cache.step(&ids);
        let logits = student.logits(&hidden, mode);
        let values = value_head.map(|head| numbers(&head.forward(&hidden, mode))).unwrap_or_default();
        let (tokens, logprobs) = choose(&logits, sampling, &running, &mut streams);
        inputs.clone_from(&tokens);
        for (place, &row) in running.iter().enumerate() {
            let generated = &mut done[row];
            if !generated.truncated {
                continue; // finished, not removed from the batch yet
            }
            generated.tokens.push(tokens[place]);
            if let Some(logprob) = logprobs.get(place) {
                generated.logprobs.push(*logprob);
            }
            generated.values.extend(values.get(place));
            generated.truncated = tokens[place] != special.eos;
        }
        let alive: Vec<usize> = (0..running.len()).filter(|&place| done[running[place]].truncated).collect();
        if alive.is_empty() {
            break;
        }
        // Removing rows copies the cache, so rows are removed in groups.
        if alive.len() * 4 <= running.len() * 3 {
            let rows: Vec<i64> = alive.iter().map(|&place| place as i64).collect();
            cache.select_rows(&Tensor::from_slice(&rows).to_device(device));
            inputs = alive.iter().map(|&place| inputs[place]).collect();
            running = alive.iter().map(|&place| running[place]).collect();
        }
    }
    done
}

/// Chooses one token per row from `logits` [rows, vocab]; log-probabilities only if tokens are drawn at random.
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
        let choice = pick::draw(values, top_p, temperature, streams[row].random::<f64>());
        tokens.push(indices[place * kept + choice]);
        logprobs.push(values[choice] - normalizer[place]);
    }
    (tokens, logprobs)
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
    use super::*;
    use crate::model::lora::LoraConfig;
    use crate::model::mm_t5::StudentConfig;
    use crate::model::random_weights;
    use crate::nn::value_head;
    use crate::rollout::score::teacher_forced;

    fn source(config: &StudentConfig) -> Source {
        let ids: Vec<Vec<i64>> =
            [11, 4, 7].iter().map(|&count| (0..count).map(|i| (i * 13 + count) % 60 + 2).collect()).collect();
        let rows: Vec<(&[i64], &str)> = ids.iter().map(|ids| (ids.as_slice(), "")).collect();
        let features = crate::data::vision::ImageFeatures::none(config.image_feature_width);
        crate::data::batch::source(&rows, &features, config.pad_token_id, Device::Cpu)
    }

    fn configs() -> Vec<StudentConfig> {
        let gated = StudentConfig::named("tiny", 64, 8).expect("shape");
        let mut plain = gated.clone();
        (plain.feed_forward_proj, plain.tie_word_embeddings) = ("relu".into(), true);
        vec![gated, plain]
    }

    fn close(a: &[f32], b: &[f32], tolerance: f32) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < tolerance)
    }

    const RANDOM: Sampling = Sampling::Random { top_k: 20, top_p: 0.95, temperature: 1.1 };

    #[test]
    fn the_cpu_decoder_agrees_with_libtorch() {
        for config in configs() {
            let weights = random_weights(&config, 5);
            let student = Student::new(&weights, &config);
            let source = source(&config);
            let generator = Generator::new(&student, &weights, Kind::Float).expect("generator");
            let seeds: Vec<u64> = (0..12).collect();
            for sampling in [RANDOM, Sampling::Greedy] {
                let ours = generator.generate(&source, sampling, &seeds, 60);
                let theirs = generate(&student, &source, sampling, &seeds, 60, Mode::EVAL);
                for (row, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
                    assert_eq!(ours.tokens, theirs.tokens, "row {row}");
                    assert_eq!(ours.truncated, theirs.truncated, "row {row}");
                    assert!(close(&ours.logprobs, &theirs.logprobs, 1e-4), "row {row}");
                }
            }
        }
    }

    #[test]
    fn values_are_those_of_a_value_model_of_the_same_weights() {
        for config in configs() {
            let weights = random_weights(&config, 5);
            let student = Student::new(&weights, &config);
            let mut head = Weights::default();
            head.extend(value_head::random(config.d_model, 6));
            let source = source(&config);
            let seeds: Vec<u64> = (0..6).collect();
            let cpu_decoder = Generator::new(&student, &weights, Kind::Float).expect("generator");
            let without_cpu_decoder = Generator {
                student: &student,
                copy: None,
                cpu_decoder: None,
                value_head: None,
                mode: Mode::EVAL,
            };
            for generator in [cpu_decoder.with_value_head(&head), without_cpu_decoder.with_value_head(&head)]
            {
                let generated = generator.generate(&source, RANDOM, &seeds, 40);
                let tokens: Vec<&[i64]> = generated.iter().map(|row| row.tokens.as_slice()).collect();
                let head = ValueHead::new(&head);
                let expected = teacher_forced(&student, Some(&head), &source, &tokens, Mode::EVAL).values;
                let expected = expected.expect("a head was given");
                for (row, (generated, expected)) in generated.iter().zip(&expected).enumerate() {
                    assert!(generated.values.iter().any(|value| value.abs() > 0.01), "row {row}");
                    assert!(close(&generated.values, expected, 1e-4), "row {row}");
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_batch() {
        let config = configs().remove(0);
        let weights = random_weights(&config, 6);
        let student = Student::new(&weights, &config);
        let source = source(&config);
        let generator = Generator::new(&student, &weights, Kind::Float).expect("generator");
        let together = generator.generate(&source, RANDOM, &[1, 2, 3, 4, 5, 6], 80);
        assert!(together.iter().any(|row| !row.truncated), "some rows must finish early");
        let samples = |seeds: [u64; 3]| generator.generate(&source, RANDOM, &seeds, 80);
        for (place, alone) in samples([1, 3, 5]).iter().enumerate() {
            assert_eq!(alone.tokens, together[place * 2].tokens);
            assert_eq!(alone.logprobs, together[place * 2].logprobs, "to the last bit");
        }
    }

    #[test]
    fn bfloat16_weights_and_lora_are_made_ready_once() {
        let config = configs().remove(0);
        let mut weights = random_weights(&config, 7);
        let lora = LoraConfig::new(&config, 4, 8.0, 0.0);
        lora.add_to(&mut weights, &config, 8, Device::Cpu);
        for (name, tensor) in weights.iter().filter(|(name, _)| name.ends_with(".B")) {
            let _ = no_grad(|| tensor.shallow_clone().normal_(0.0, 0.05));
            assert!(name.starts_with("lora."));
        }
        let student = Student::new(&weights, &config);
        let source = source(&config);
        let full = generate(&student, &source, RANDOM, &[1, 2, 3], 12, Mode::EVAL);
        let merged = Generator::new(&student, &weights, Kind::Float).expect("generator");
        for (merged, full) in merged.generate(&source, RANDOM, &[1, 2, 3], 12).iter().zip(&full) {
            assert_eq!(merged.tokens, full.tokens);
            assert!(close(&merged.logprobs, &full.logprobs, 1e-4));
        }
        let half = Generator::new(&student, &weights, Kind::BFloat16).expect("generator");
        // For the sampled tokens, whichever they are, float32 gives nearly the same log-probabilities.
        let exact = |rows: &[Generated]| {
            let tokens: Vec<&[i64]> = rows.iter().map(|row| row.tokens.as_slice()).collect();
            teacher_forced(&student, None, &source, &tokens, Mode::EVAL).logprobs
        };
        let half = half.generate(&source, RANDOM, &[1, 2, 3], 12);
        // As on a device with bfloat16 products, whatever this one supports.
        let cast = decoding_weights(&config, &weights, Kind::BFloat16).expect("cast");
        let cast = Student::new(&cast, &config);
        let products = Mode { train: false, kind: Kind::BFloat16 };
        let multiplied = generate(&cast, &source, RANDOM, &[1, 2, 3], 12, products);
        for rows in [half, multiplied] {
            assert_eq!(rows.len(), full.len());
            for (row, exact) in rows.iter().zip(exact(&rows)) {
                assert!(close(&row.logprobs, &exact, 0.1), "{row:?} {exact:?}");
                assert_ne!(row.logprobs, exact, "rounded, not copied");
            }
        }
    }
}
