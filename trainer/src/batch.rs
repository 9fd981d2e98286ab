//! Batches: token sequences padded at the end, with masks.

use crate::student::Source;
use crate::vision::ImageFeatures;
use tch::{Device, Kind, Tensor};

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

/// 1 where a sequence has an element, 0 where it is padded: [batch, longest], float32.
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

/// Float32 numbers of a tensor's row, on the CPU.
pub fn row_numbers(tensor: &Tensor, row: i64, length: usize) -> Vec<f32> {
    let row =
        tensor.get(row).narrow(0, 0, length as i64).to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
    let mut numbers = vec![0f32; length];
    row.copy_data(&mut numbers, length);
    numbers
}

/// Splits a minibatch so that no part holds more than `budget` tokens, padding included: rows of like length share a
/// part, each part has at least one row. `lengths` holds source and target tokens; without a budget all rows stay
/// together in their order.
pub fn parts(lengths: &[(usize, usize)], budget: Option<u64>) -> Vec<Vec<usize>> {
    let Some(budget) = budget else { return vec![(0..lengths.len()).collect()] };
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&row| (lengths[row].0 + lengths[row].1, row));
    let mut parts: Vec<Vec<usize>> = Vec::new();
    let mut longest = (0, 0);
    for row in order {
        let (source, target) = lengths[row];
        let grown = (longest.0.max(source), longest.1.max(target));
        match parts.last_mut() {
            Some(part) if ((part.len() + 1) * (grown.0 + grown.1)) as u64 <= budget => {
                part.push(row);
                longest = grown;
            }
            _ => {
                parts.push(vec![row]);
                longest = (source, target);
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn parts_hold_all_rows_within_the_budget() {
        let lengths = [(10, 5), (100, 50), (12, 5), (11, 90), (9, 4)];
        assert_eq!(parts(&lengths, None), [[0, 1, 2, 3, 4]]);
        let split = parts(&lengths, Some(60));
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
    }
}
