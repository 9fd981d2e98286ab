//! What decoding keeps between steps: the decoder's own keys and values by row, the encoder's by problem.

use super::matrix::Matrix;
use crate::student::attention::KeyValue;
use tch::{Kind, Tensor};

/// Rows stand in a grid: `samples` rows for each problem, one problem after the other.
#[derive(Debug)]
pub(in crate::rollout) struct Cache {
    /// Keys and values by block: [rows, heads, room, d_kv].
    pub(super) own: Vec<(Vec<f32>, Vec<f32>)>,
    /// Encoder keys and values by block: [problems, heads, source, d_kv].
    pub(super) cross: Vec<(Matrix, Matrix)>,
    /// Real tokens of each problem's source.
    pub(super) lengths: Vec<usize>,
    pub(super) source: usize,
    pub(super) samples: usize,
    pub(super) position: usize,
    /// Positions that the own keys and values have room for.
    pub(super) room: usize,
    /// Numbers of one position of one row: heads · d_kv, and d_kv alone.
    width: usize,
    d_kv: usize,
}

impl Cache {
    /// A cache for `samples` rows a problem; `encoder` holds keys and values by block, [problems, heads, source, d_kv].
    pub(in crate::rollout) fn new(
        encoder: &[KeyValue],
        lengths: Vec<usize>,
        samples: usize,
        kind: Kind,
    ) -> Self {
        let size = encoder.first().map_or_else(|| vec![0; 4], |key_value| key_value.keys.size());
        let (heads, source, d_kv) = (size[1] as usize, size[2] as usize, size[3] as usize);
        let view = |tensor: &Tensor| Matrix::new(tensor, kind);
        Self {
            own: encoder.iter().map(|_| (Vec::new(), Vec::new())).collect(),
            cross: encoder.iter().map(|kv| (view(&kv.keys), view(&kv.values))).collect(),
            lengths,
            source,
            samples,
            position: 0,
            room: 0,
            width: heads * d_kv,
            d_kv,
        }
    }

    /// Makes room for one more position. Growing by halves keeps copying in check without reserving the longest
    /// length for all.
    pub(super) fn make_room(&mut self) {
        if self.position < self.room {
            return;
        }
        let room = (self.room + (self.room / 2).max(32)).next_multiple_of(16);
        let groups = self.lengths.len() * self.samples * self.width / self.d_kv.max(1);
        let (old, new) = (self.room * self.d_kv, room * self.d_kv);
        for (keys, values) in &mut self.own {
            for numbers in [keys, values] {
                let mut grown = vec![0f32; groups * new];
                if old > 0 {
                    for (grown, numbers) in grown.chunks_exact_mut(new).zip(numbers.chunks_exact(old)) {
                        grown[..old].copy_from_slice(numbers);
                    }
                }
                *numbers = grown;
            }
        }
        self.room = room;
    }

    /// Rows of each problem.
    pub(in crate::rollout) fn samples(&self) -> usize {
        self.samples
    }

    /// Keeps only these problems, with `samples` rows each; `rows` are rows of the grid before, one for each row after.
    pub(in crate::rollout) fn select(&mut self, problems: &[usize], rows: &[usize], samples: usize) {
        let row = self.width * self.room;
        for (keys, values) in &mut self.own {
            for numbers in [keys, values] {
                *numbers =
                    rows.iter().flat_map(|&index| numbers[index * row..][..row].iter().copied()).collect();
            }
        }
        if problems.len() < self.lengths.len() {
            for (keys, values) in &mut self.cross {
                (*keys, *values) = (keys.select(problems), values.select(problems));
            }
            self.lengths = problems.iter().map(|&problem| self.lengths[problem]).collect();
        }
        self.samples = samples;
    }
}
