//! Batches: token sequences padded at the end, with masks.

use super::vision::ImageFeatures;
use crate::collective::Overlap;
use crate::model::{Source, Student};
use crate::nn::mode::Mode;
use std::collections::HashMap;
use tch::{Device, Kind, Tensor};

/// A target text with its source.
pub trait Row {
    /// Problem whose picture belongs to the source.
    fn problem_id(&self) -> &str;
    /// Source tokens.
    fn source(&self) -> &[i64];
    /// Target tokens, eos at the end.
    fn target(&self) -> &[i64];
}

/// Tokens of a row, for [`parts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths {
    /// Source tokens.
    pub source: usize,
    /// Target tokens.
    pub target: usize,
    /// The first row with the same source; the encoder runs once for all of them.
    pub same_source: usize,
}

/// Lengths of rows that are encoded individually, as needed with dropout.
pub fn lengths<R: Row>(rows: &[&R]) -> Vec<Lengths> {
    let each = rows.iter().enumerate();
    each.map(|(own, row)| Lengths {
        source: row.source().len(),
        target: row.target().len(),
        same_source: own,
    })
    .collect()
}

/// Lengths of rows, where rows with the same source share its encoding.
pub fn shared_lengths<R: Row>(rows: &[&R]) -> Vec<Lengths> {
    let first = first_of_source(rows);
    lengths(rows).into_iter().zip(first).map(|(row, same_source)| Lengths { same_source, ..row }).collect()
}

/// For each row, the first one with the same source and picture.
fn first_of_source<R: Row>(rows: &[&R]) -> Vec<usize> {
    let mut first: HashMap<(&str, &[i64]), usize> = HashMap::new();
    let each = rows.iter().enumerate();
    each.map(|(place, row)| *first.entry((row.problem_id(), row.source())).or_insert(place)).collect()
}

/// Sequences padded with `pad` to the longest of them: [batch, longest].
pub fn pad(sequences: &[&[i64]], pad: i64, device: Device) -> Tensor {
    let longest = sequences.iter().map(|sequence| sequence.len()).max().unwrap_or(0).max(1);
    let mut ids = Vec::with_capacity(sequences.len() * longest);
    for sequence in sequences {
        ids.extend_from_slice(sequence);
        ids.extend(std::iter::repeat_n(pad, longest - sequence.len()));
    }
    Tensor::from_slice(&ids).view([sequences.len() as i64, longest as i64]).to_device(device)
}

/// Rows of numbers padded with zeros: [batch, longest], float32.
pub fn pad_numbers(rows: &[&[f32]], device: Device) -> Tensor {
    let longest = rows.iter().map(|row| row.len()).max().unwrap_or(0).max(1);
    let mut numbers = Vec::with_capacity(rows.len() * longest);
    for row in rows {
        numbers.extend_from_slice(row);
        numbers.extend(std::iter::repeat_n(0.0, longest - row.len()));
    }
    Tensor::from_slice(&numbers).view([rows.len() as i64, longest as i64]).to_device(device)
}

/// 1 if a sequence has an element, 0 if it is padded: [batch, longest], float32.
pub fn mask(lengths: &[usize], device: Device) -> Tensor {
    let longest = lengths.iter().copied().max().unwrap_or(0).max(1);
    let numbers: Vec<f32> = lengths
        .iter()
        .flat_map(|&length| (0..longest).map(move |i| f32::from(u8::from(i < length))))
        .collect();
    Tensor::from_slice(&numbers).view([lengths.len() as i64, longest as i64]).to_device(device)
}

/// The source side of a batch: token sequences with their problems' pictures.
pub fn source(rows: &[(&[i64], &str)], features: &ImageFeatures, pad_id: i64, device: Device) -> Source {
    let sequences: Vec<&[i64]> = rows.iter().map(|(ids, _)| *ids).collect();
    let lengths: Vec<usize> = sequences.iter().map(|ids| ids.len()).collect();
    let problems: Vec<&str> = rows.iter().map(|(_, problem)| *problem).collect();
    Source {
        ids: pad(&sequences, pad_id, device),
        mask: mask(&lengths, device),
        image: features.batch(&problems, device),
    }
}

/// Decoder inputs: `start` and all tokens but the last, padded.
pub fn decoder_inputs(targets: &[&[i64]], start: i64, pad_id: i64, device: Device) -> Tensor {
    let shifted: Vec<Vec<i64>> = targets
        .iter()
        .map(|tokens| {
            let before_last = &tokens[..tokens.len().saturating_sub(1)];
            std::iter::once(start).chain(before_last.iter().copied()).collect()
        })
        .collect();
    pad(&shifted.iter().map(Vec::as_slice).collect::<Vec<_>>(), pad_id, device)
}

/// Sources with their targets, padded for a model; targets are kept as a vector of the real tokens, row by row. Rows with the
/// same source are encoded once, unless dropout is on.
#[derive(Debug)]
pub struct Padded {
    /// The distinct sources.
    source: Source,
    /// For each row, the index of its source.
    source_of: Vec<usize>,
    inputs: Tensor,
    /// The real tokens of the targets.
    tokens: Tensor,
    /// Their indices in [rows · longest].
    kept: Tensor,
}

impl Padded {
    /// Pads rows for a student.
    pub fn new<R: Row>(rows: &[&R], features: &ImageFeatures, student: &Student) -> Self {
        let (special, device) = (student.config.special_tokens(), student.device());
        let first = first_of_source(rows);
        let mut places = HashMap::new();
        let mut sources: Vec<(&[i64], &str)> = Vec::with_capacity(rows.len());
        let source_of = first.into_iter().map(|first| {
            *places.entry(first).or_insert_with(|| {
                sources.push((rows[first].source(), rows[first].problem_id()));
                sources.len() - 1
            })
        });
        let source_of = source_of.collect();
        let targets: Vec<&[i64]> = rows.iter().map(|row| row.target()).collect();
        let lengths: Vec<usize> = targets.iter().map(|target| target.len()).collect();
        Self {
            source: source(&sources, features, special.pad, device),
            source_of,
            inputs: decoder_inputs(&targets, special.start, special.pad, device),
            tokens: Tensor::from_slice(&targets.concat()).to_device(device),
            kept: mask(&lengths, device).view(-1).nonzero().squeeze_dim(-1),
        }
    }

    /// Decoder states that the real tokens are predicted from: [tokens, d].
    pub fn states(&self, student: &Student, mode: Mode) -> Tensor {
        let hidden = if self.source_of.iter().copied().eq(0..self.source.ids.size()[0] as usize) {
            student.hidden(&self.source, &self.inputs, mode)
        } else if mode.train {
            student.hidden(&self.source.of_rows(&self.source_of), &self.inputs, mode)
        } else {
            student.hidden_shared(&self.source, &self.source_of, &self.inputs, mode)
        };
        hidden.contiguous().view([-1, student.config.width()]).index_select(0, &self.kept)
    }

    /// The real tokens of the targets: a vector.
    pub fn tokens(&self) -> &Tensor {
        &self.tokens
    }

    /// The elements of `numbers` [rows, length] at real tokens; `length` may exceed that of the targets.
    pub fn real(&self, numbers: &Tensor) -> Tensor {
        numbers.narrow(1, 0, self.inputs.size()[1]).contiguous().view(-1).index_select(0, &self.kept)
    }
}

/// Float32 numbers of a tensor's row, on the CPU.
pub fn row_numbers(tensor: &Tensor, row: i64, length: usize) -> Vec<f32> {
    let row =
        tensor.get(row).narrow(0, 0, length as i64).to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
    let mut numbers = vec![0f32; length];
    row.copy_data(&mut numbers, length);
    numbers
}

/// The part of a minibatch that a process handles: its rank's share of the rows, and the maximum number of tokens, padding
/// included, per pass.
#[derive(Debug, Clone, Copy)]
pub struct Portion<'a> {
    most: Option<u64>,
    rank: usize,
    world: usize,
    last: Last<'a>,
}

/// Whether a backward pass is the last one of a step. If it is, the sums over all ranks of the gradients that it completes may
/// begin while it runs. By default it is not.
#[derive(Debug, Clone, Copy, Default)]
pub struct Last<'a>(Option<&'a Overlap>);

impl Last<'_> {
    /// The backward pass from `loss`.
    pub fn backward(self, loss: &Tensor) {
        match self.0 {
            Some(sums) => sums.last_backward(loss),
            None => loss.backward(),
        }
    }

    /// Unchanged if `is_last`, else the default.
    fn only_if(self, is_last: bool) -> Self {
        if is_last { self } else { Self(None) }
    }
}

impl From<Option<u64>> for Portion<'_> {
    /// All rows, with at most this many tokens per pass.
    fn from(most: Option<u64>) -> Self {
        Self::new(most, 0, 1)
    }
}

impl<'a> Portion<'a> {
    /// A rank's share of the rows, with at most `most` tokens per pass.
    pub fn new(most: Option<u64>, rank: usize, world: usize) -> Self {
        Self { most, rank, world, last: Last::default() }
    }

    /// The same portion, whose last backward pass may begin `sums`.
    #[must_use]
    pub fn with_sums(self, sums: Option<&'a Overlap>) -> Self {
        Self { last: Last(sums), ..self }
    }

    /// The same portion, for a minibatch that is the last of its step or is not.
    #[must_use]
    pub fn of_minibatch(self, is_last: bool) -> Self {
        Self { last: self.last.only_if(is_last), ..self }
    }

    /// The parts, each with its [`Last`]: only the final part can be the last.
    pub fn each<'p, P>(self, parts: &'p [P]) -> impl Iterator<Item = (&'p P, Last<'a>)> {
        let count = parts.len();
        (1..).zip(parts).map(move |(number, part)| (part, self.last.only_if(number == count)))
    }

    /// All rows, with the same limit.
    #[must_use]
    pub fn whole(self) -> Self {
        Self { rank: 0, world: 1, ..self }
    }

    /// The rows of the share, ascending. Each row is in exactly one rank's share, and shares have similar numbers of tokens:
    /// the longest rows are assigned first, each to the rank with the fewest tokens so far.
    pub fn rows(&self, lengths: &[Lengths]) -> Vec<usize> {
        if self.world == 1 {
            return (0..lengths.len()).collect();
        }
        let tokens = |row: usize| lengths[row].source + lengths[row].target;
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        order.sort_by_key(|&row| (std::cmp::Reverse(tokens(row)), row));
        let mut dealt = vec![0; self.world];
        let mut own = Vec::new();
        for row in order {
            let rank = (0..self.world).min_by_key(|&rank| dealt[rank]).unwrap_or(0);
            dealt[rank] += tokens(row);
            if rank == self.rank {
                own.push(row);
            }
        }
        own.sort_unstable();
        own
    }
}

/// Splits a portion of a minibatch into parts with the least total padding, each within the token limit, padding included; a
/// part has at least one row. A source shared by rows counts once per part. `part_tokens` is the cost of another part.
pub fn parts<'a>(lengths: &[Lengths], portion: impl Into<Portion<'a>>, part_tokens: u64) -> Vec<Vec<usize>> {
    let portion = portion.into();
    let budget = portion.most.unwrap_or(u64::MAX);
    let mut order = portion.rows(lengths);
    let mut longest: HashMap<usize, usize> = HashMap::new();
    for row in order.iter().map(|&row| lengths[row]) {
        let tokens = longest.entry(row.same_source).or_default();
        *tokens = row.target.max(*tokens);
    }
    // Rows of a source are adjacent.
    order.sort_by_key(|&row| {
        let Lengths { source, target, same_source } = lengths[row];
        (source + longest[&same_source], same_source, target, row)
    });
    // Cost of the best split of the first rows, and where its last part begins.
    let mut best: Vec<(u64, usize)> = vec![(0, 0)];
    for end in 1..=order.len() {
        let mut longest = (0, 0);
        let mut found = (u64::MAX, end - 1);
        let (mut sources, mut last) = (0, None);
        for start in (0..end).rev() {
            let Lengths { source, target, same_source } = lengths[order[start]];
            longest = (longest.0.max(source), longest.1.max(target));
            if last.replace(same_source) != Some(same_source) {
                sources += 1;
            }
            let tokens = (sources * longest.0 + (end - start) * longest.1) as u64;
            if tokens > budget && end - start > 1 {
                break;
            }
            let cost = best[start].0.saturating_add(part_tokens).saturating_add(tokens);
            // Of equal costs, fewer parts.
            if cost <= found.0 {
                found = (cost, start);
            }
        }
        best.push(found);
    }
    let mut parts = Vec::new();
    let mut end = order.len();
    while end > 0 {
        let start = best[end].1;
        parts.push(order[start..end].to_vec());
        end = start;
    }
    parts.reverse();
    if let [all] = parts.as_mut_slice() {
        all.sort_unstable();
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::{Lengths, Padded, Portion, parts};
    use crate::data::vision::ImageFeatures;
    use crate::model::Student;
    use crate::model::mm_t5::StudentConfig;
    use crate::model::random_weights;
    use crate::nn::mode::Mode;
    use crate::objective::sft::Example;
    use tch::{Device, Kind, Tensor};

    const CPU: u64 = 32;
    const GPU: u64 = u64::MAX / 1024;

    fn apart(lengths: &[(usize, usize)]) -> Vec<Lengths> {
        let each = lengths.iter().enumerate();
        each.map(|(same_source, &(source, target))| Lengths { source, target, same_source }).collect()
    }

    #[test]
    fn a_cpu_works_on_little_padding() {
        let alike = [(20, 20), (22, 19), (21, 20)];
        assert_eq!(parts(&apart(&alike), None, CPU), [[0, 1, 2]]);
        // Padded together 4 × 330 tokens; apart 4 × 330 − 3 × 290 and a part's cost.
        let mixed = [(20, 20), (300, 30), (18, 22), (20, 20)];
        assert_eq!(parts(&apart(&mixed), None, CPU), [vec![0, 2, 3], vec![1]]);
    }

    #[test]
    fn parts_hold_all_rows_within_the_budget() {
        let lengths = [(10, 5), (100, 50), (12, 5), (11, 90), (9, 4)];
        assert_eq!(parts(&apart(&lengths), None, GPU), [[0, 1, 2, 3, 4]]);
        let split = parts(&apart(&lengths), Some(60), CPU);
        let mut rows: Vec<usize> = split.concat();
        rows.sort_unstable();
        assert_eq!(rows, [0, 1, 2, 3, 4]);
        for part in &split {
            let longest =
                |side: fn(&(usize, usize)) -> usize| part.iter().map(|&row| side(&lengths[row])).max();
            let tokens = part.len() * (longest(|l| l.0).unwrap_or(0) + longest(|l| l.1).unwrap_or(0));
            assert!(part.len() == 1 || tokens <= 60, "{part:?}");
        }
        assert_eq!(split[0], [4, 0, 2]);
        assert_eq!(parts(&apart(&lengths), Some(60), GPU).len(), 3);
    }

    /// Two problems of three samples: a source of 100 tokens counts once, so the samples of a problem stay together.
    #[test]
    fn rows_of_a_source_are_kept_together() {
        let row = |same_source, target| Lengths { source: 100, target, same_source };
        let lengths = [row(0, 10), row(1, 30), row(0, 30), row(1, 12), row(0, 20), row(1, 11)];
        let split = parts(&lengths, Some(200), CPU);
        assert_eq!(split, [vec![0, 4, 2], vec![5, 3, 1]]);
        let split = parts(&lengths, Some(120), CPU);
        assert!(split.iter().all(|part| part.len() == 1), "100 + 2 · 11 is too much: {split:?}");
    }

    #[test]
    fn ranks_share_the_rows_evenly() {
        let lengths = [(10, 5), (100, 50), (12, 5), (11, 90), (9, 4), (60, 40), (7, 7)];
        for world in [1, 2, 3, 9] {
            let mut all = Vec::new();
            let mut tokens = Vec::new();
            for rank in 0..world {
                let split = parts(&apart(&lengths), Portion::new(Some(60), rank, world), CPU);
                let own: Vec<usize> = split.concat();
                tokens.push(own.iter().map(|&row| lengths[row].0 + lengths[row].1).sum::<usize>());
                all.extend(own);
            }
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2, 3, 4, 5, 6], "{world}");
            if world == 2 {
                assert_eq!(tokens, [209, 201]);
            }
        }
        let lengths = apart(&lengths);
        assert_eq!(
            parts(&lengths, Portion::new(Some(60), 1, 2).whole(), CPU),
            parts(&lengths, Some(60), CPU)
        );
    }

    /// Two rows of one problem and one of another: states and gradients equal those of each row alone.
    #[test]
    fn a_shared_source_gives_the_same_states_and_gradients() {
        let config = StudentConfig::named("tiny", 64, 8).expect("shape");
        let start = random_weights(&config, 3);
        let features = ImageFeatures::none(8);
        let row = |problem: &str, source: &[i64], target: &[i64]| Example {
            problem_id: problem.into(),
            source: source.to_vec(),
            target: target.to_vec(),
        };
        let rows = [
            row("a", &[5, 6, 7, 1], &[8, 9, 1]),
            row("b", &[9, 3, 1], &[4, 1]),
            row("a", &[5, 6, 7, 1], &[7, 1]),
        ];
        let run = |together: &[&[usize]]| {
            let weights = start.copy_to(Device::Cpu);
            weights.train_only(|_| true);
            let student = Student::new(&weights, &config);
            let mut states = Vec::new();
            for chosen in together {
                let chosen: Vec<&Example> = chosen.iter().map(|&row| &rows[row]).collect();
                let padded = Padded::new(&chosen, &features, &student);
                assert_eq!(padded.source.ids.size()[0], chosen.len().min(2) as i64);
                let of_part = padded.states(&student, Mode::EVAL);
                of_part.square().sum(Kind::Float).backward();
                states.push(of_part.detach());
            }
            let gradients = weights.gradients().into_iter().map(|(name, gradient)| (name, gradient.copy()));
            (Tensor::cat(&states, 0), gradients.collect::<Vec<_>>())
        };
        let (expected, gradients) = run(&[&[0], &[1], &[2]]);
        let (found, shared) = run(&[&[0, 1, 2]]);
        assert!((found - &expected).abs().max().double_value(&[]) < 1e-5);
        assert_eq!(shared.len(), gradients.len());
        for ((name, found), (_, expected)) in shared.iter().zip(&gradients) {
            let off = (found - expected).abs().max().double_value(&[]);
            assert!(off < 1e-4 * (1.0 + expected.abs().max().double_value(&[])), "{name}: off by {off:e}");
        }
    }
}
