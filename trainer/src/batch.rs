//! Batches: token sequences padded at the end, with masks.

use crate::student::{Mode, Source, Student, StudentConfig};
use crate::vision::ImageFeatures;
use tch::{Device, Kind, Tensor};

/// A text to learn from, with its source.
pub trait Row {
    /// Problem whose picture belongs to the source.
    fn problem_id(&self) -> &str;
    /// Source tokens.
    fn source(&self) -> &[i64];
    /// Target tokens, eos at the end.
    fn target(&self) -> &[i64];
}

/// Source and target lengths, for [`parts`].
pub fn lengths<R: Row>(rows: &[&R]) -> Vec<(usize, usize)> {
    rows.iter().map(|row| (row.source().len(), row.target().len())).collect()
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

/// Sources with their targets, padded for a model; what is kept of the targets is a vector of the real tokens, row by
/// row.
#[derive(Debug)]
pub struct Padded {
    source: Source,
    inputs: Tensor,
    /// The real tokens of the targets.
    tokens: Tensor,
    /// Their places in [rows · longest].
    kept: Tensor,
}

impl Padded {
    /// Pads rows.
    pub fn new<R: Row>(
        rows: &[&R],
        features: &ImageFeatures,
        config: &StudentConfig,
        device: Device,
    ) -> Self {
        let sources: Vec<(&[i64], &str)> = rows.iter().map(|row| (row.source(), row.problem_id())).collect();
        let targets: Vec<&[i64]> = rows.iter().map(|row| row.target()).collect();
        let lengths: Vec<usize> = targets.iter().map(|target| target.len()).collect();
        Self {
            source: source(&sources, features, config.pad_token_id, device),
            inputs: decoder_inputs(&targets, config.decoder_start_token_id, config.pad_token_id, device),
            tokens: Tensor::from_slice(&targets.concat()).to_device(device),
            kept: mask(&lengths, device).view(-1).nonzero().squeeze_dim(-1),
        }
    }

    /// Decoder states that the real tokens are predicted from: [tokens, d].
    pub fn states(&self, student: &Student, mode: Mode) -> Tensor {
        let hidden = student.hidden(&self.source, &self.inputs, mode);
        hidden.contiguous().view([-1, student.config.d_model]).index_select(0, &self.kept)
    }

    /// The real tokens of the targets: a vector.
    pub fn tokens(&self) -> &Tensor {
        &self.tokens
    }

    /// Of `numbers` [rows, length], which may be longer than the targets, those at real tokens.
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

/// Cost of another part, in tokens: on a CPU, reading weights and accumulating gradients once more plus the calls
/// themselves, which amounts to more tokens if products run in bfloat16; on a GPU, which processes all rows at once,
/// more than any padding.
pub fn part_tokens(device: Device, kind: Kind) -> u64 {
    match (device, kind) {
        (Device::Cpu, Kind::Float) => 32,
        (Device::Cpu, _) => 64,
        _ => u64::MAX / 1024,
    }
}

/// What a process takes of a minibatch: some of the rows where several ranks share it, and at most so many tokens, padding
/// included, at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Portion {
    most: Option<u64>,
    rank: usize,
    world: usize,
}

impl From<Option<u64>> for Portion {
    /// All rows, with at most this many tokens at once.
    fn from(most: Option<u64>) -> Self {
        Self { most, rank: 0, world: 1 }
    }
}

impl Portion {
    /// A rank's share of the rows, with at most `most` tokens at once.
    pub fn new(most: Option<u64>, rank: usize, world: usize) -> Self {
        Self { most, rank, world }
    }

    /// All rows, with the same limit.
    #[must_use]
    pub fn whole(self) -> Self {
        self.most.into()
    }

    /// The rows of the share, ascending. Each row is in one rank's share, and shares hold alike many tokens: the longest
    /// rows are dealt first, each to the rank with the fewest tokens so far.
    pub fn rows(&self, lengths: &[(usize, usize)]) -> Vec<usize> {
        if self.world == 1 {
            return (0..lengths.len()).collect();
        }
        let tokens = |row: usize| lengths[row].0 + lengths[row].1;
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

/// Splits a portion of a minibatch into parts that together hold the least padding, and none of them more tokens than its
/// limit, padding included; a part has at least one row. `lengths` holds source and target tokens, `part_tokens` is what
/// another part costs.
pub fn parts(lengths: &[(usize, usize)], portion: impl Into<Portion>, part_tokens: u64) -> Vec<Vec<usize>> {
    let portion = portion.into();
    let budget = portion.most.unwrap_or(u64::MAX);
    let mut order = portion.rows(lengths);
    order.sort_by_key(|&row| (lengths[row].0 + lengths[row].1, row));
    // Cost of the best split of the first rows, and where its last part begins.
    let mut best: Vec<(u64, usize)> = vec![(0, 0)];
    for end in 1..=order.len() {
        let mut longest = (0, 0);
        let mut found = (u64::MAX, end - 1);
        for start in (0..end).rev() {
            let (source, target) = lengths[order[start]];
            longest = (longest.0.max(source), longest.1.max(target));
            let tokens = ((end - start) * (longest.0 + longest.1)) as u64;
            if tokens > budget && end - start > 1 {
                break;
            }
            let cost = best[start].0.saturating_add(part_tokens).saturating_add(tokens);
            // Fewer parts where they cost the same.
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
    use super::{Portion, parts};

    const CPU: u64 = 32;
    const GPU: u64 = u64::MAX / 1024;

    #[test]
    fn a_cpu_works_on_little_padding() {
        let alike = [(20, 20), (22, 19), (21, 20)];
        assert_eq!(parts(&alike, None, CPU), [[0, 1, 2]]);
        // Padded together 4 × 330 tokens; apart 4 × 330 − 3 × 290 and a part's cost.
        let mixed = [(20, 20), (300, 30), (18, 22), (20, 20)];
        assert_eq!(parts(&mixed, None, CPU), [vec![0, 2, 3], vec![1]]);
    }

    #[test]
    fn parts_hold_all_rows_within_the_budget() {
        let lengths = [(10, 5), (100, 50), (12, 5), (11, 90), (9, 4)];
        assert_eq!(parts(&lengths, None, GPU), [[0, 1, 2, 3, 4]]);
        let split = parts(&lengths, Some(60), CPU);
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
        assert_eq!(parts(&lengths, Some(60), GPU).len(), 3);
    }

    #[test]
    fn ranks_share_the_rows_evenly() {
        let lengths = [(10, 5), (100, 50), (12, 5), (11, 90), (9, 4), (60, 40), (7, 7)];
        for world in [1, 2, 3, 9] {
            let mut all = Vec::new();
            let mut tokens = Vec::new();
            for rank in 0..world {
                let split = parts(&lengths, Portion::new(Some(60), rank, world), CPU);
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
        assert_eq!(
            parts(&lengths, Portion::new(Some(60), 1, 2).whole(), CPU),
            parts(&lengths, Some(60), CPU)
        );
    }
}
