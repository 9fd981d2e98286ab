//! The key-value cache of decoding: the decoder's own keys and values by row, the encoder's by problem.

use crate::backend::cpu::matrix::Matrix;
use crate::model::mm_t5::attention::KeyValue;
use tch::{Kind, Tensor};

/// Positions in a page. Pages are never copied to grow, and less than one page is reserved beyond a row's end.
const PAGE: usize = 32;

/// Keys and values of one block of the decoder at [`PAGE`] positions: [rows, heads, PAGE, d_kv] each.
#[derive(Debug)]
struct Page {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// Rows form a grid: `samples` rows for each problem, one problem after the other.
#[derive(Debug)]
pub(super) struct Cache {
    /// Keys and values of earlier positions by block.
    own: Vec<Vec<Page>>,
    /// Encoder keys and values by block: [problems, heads, source, d_kv].
    pub(super) cross: Vec<(Matrix, Matrix)>,
    /// Real tokens of each problem's source.
    pub(super) lengths: Vec<usize>,
    pub(super) source: usize,
    pub(super) samples: usize,
    pub(super) position: usize,
    /// Numbers of one position of one row: heads · d_kv, and d_kv alone.
    width: usize,
    d_kv: usize,
}

impl Cache {
    /// A cache for `samples` rows per problem; `encoder` holds keys and values by block, [problems, heads, source,
    /// d_kv].
    pub(super) fn new(encoder: Vec<KeyValue>, lengths: Vec<usize>, samples: usize, kind: Kind) -> Self {
        let size = encoder.first().map_or_else(|| vec![0; 4], |key_value| key_value.keys.size());
        let (heads, source, d_kv) = (size[1] as usize, size[2] as usize, size[3] as usize);
        let view = |tensor: &Tensor| Matrix::new(tensor, kind);
        Self {
            own: encoder.iter().map(|_| Vec::new()).collect(),
            cross: encoder.iter().map(|kv| (view(&kv.keys), view(&kv.values))).collect(),
            lengths,
            source,
            samples,
            position: 0,
            width: heads * d_kv,
            d_kv,
        }
    }

    /// Reserves the next position. Must be called on the thread that runs between the steps: another thread allocates from its
    /// own heap, which does not reuse the encoder's memory.
    pub(super) fn make_room(&mut self) {
        if !self.position.is_multiple_of(PAGE) {
            return;
        }
        let numbers = self.lengths.len() * self.samples * self.width * PAGE;
        for pages in &mut self.own {
            pages.push(Page { keys: vec![0.0; numbers], values: vec![0.0; numbers] });
        }
    }

    /// Stores one block's keys and values of this position, [rows, heads · d_kv] each.
    pub(super) fn put(&mut self, block: usize, keys: &[f32], values: &[f32]) {
        let page = &mut self.own[block][self.position / PAGE];
        let place = self.position % PAGE * self.d_kv;
        for (new, kept) in [(keys, &mut page.keys), (values, &mut page.values)] {
            let groups = new.chunks_exact(self.d_kv).zip(kept.chunks_exact_mut(PAGE * self.d_kv));
            groups.for_each(|(new, kept)| kept[place..place + self.d_kv].copy_from_slice(new));
        }
    }

    /// One block's keys and values up to this position for group `index` of rows · heads, page by page: [positions, d_kv].
    pub(super) fn seen(&self, block: usize, index: usize) -> impl Iterator<Item = (&[f32], &[f32])> {
        let stride = PAGE * self.d_kv;
        self.own[block].iter().enumerate().map(move |(page, Page { keys, values })| {
            let positions = PAGE.min(self.position + 1 - page * PAGE);
            let here = index * stride..index * stride + positions * self.d_kv;
            (&keys[here.clone()], &values[here])
        })
    }

    /// Keeps only these problems, with `samples` rows each; `rows` holds, for each new row, its index in the old grid.
    pub(super) fn select(&mut self, problems: &[usize], rows: &[usize], samples: usize) {
        let row = self.width * PAGE;
        for Page { keys, values } in self.own.iter_mut().flatten() {
            for numbers in [keys, values] {
                let mut kept = Vec::with_capacity(rows.len() * row);
                rows.iter().for_each(|&index| kept.extend_from_slice(&numbers[index * row..][..row]));
                *numbers = kept;
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
