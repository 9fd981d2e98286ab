//! The source side of a batch.

use tch::{Kind, Tensor};

/// Source side of a batch.
#[derive(Debug)]
pub struct Source {
    /// Tokens [batch, source], padded at the end.
    pub ids: Tensor,
    /// 1 for tokens, 0 for padding [batch, source].
    pub mask: Tensor,
    /// Image features [batch, patches, p], float32; zeros if there is no picture.
    pub image: Tensor,
}

impl Source {
    /// The rows at these indices, which may repeat.
    pub fn of_rows(&self, rows: &[usize]) -> Self {
        let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        let rows = Tensor::from_slice(&rows).to_device(self.ids.device());
        let of = |tensor: &Tensor| tensor.index_select(0, &rows);
        Self { ids: of(&self.ids), mask: of(&self.mask), image: of(&self.image) }
    }

    /// The problems `start..start + count`, padded to the longest of them.
    pub fn narrow(&self, start: i64, count: i64) -> Self {
        let some = |tensor: &Tensor| tensor.narrow(0, start, count);
        let mask = some(&self.mask);
        let longest = mask.sum_dim_intlist(1, false, Kind::Int64).max().int64_value(&[]).max(1);
        let shortened = |tensor: &Tensor| tensor.narrow(1, 0, longest);
        Self { ids: shortened(&some(&self.ids)), mask: shortened(&mask), image: some(&self.image) }
    }
}
