//! Sums the gradients of all ranks in place, in large groups.

use crate::collective::{Group, Overlap};
use crate::error::Result;
use crate::nn::weights::Weights;
use tch::{Device, Kind, Tensor, no_grad};

/// Tensors of at least this many numbers are exchanged in place; smaller ones are concatenated in a copy, since each operation
/// has a fixed overhead.
pub(super) const LARGE: usize = 1 << 16;

/// The weights that are trained, with their set, its name and their own, in the order of sets and names.
pub(super) fn trained<'a>(
    sets: &'a [(&str, &Weights)],
) -> impl Iterator<Item = (&'a str, &'a Weights, &'a str, &'a Tensor)> {
    sets.iter().flat_map(|&(set, weights)| {
        let trained = weights.iter().filter(|(_, weight)| weight.requires_grad());
        trained.map(move |(name, weight)| (set, weights, name, weight))
    })
}

/// The large weights whose gradients can be summed while a backward pass still computes others: on every rank the gradient
/// exists, is in main memory, and does not come from a low-precision copy. None in a process by itself.
///
/// # Errors
/// If a rank has ended.
pub fn summed_early(sets: &[(&str, &Weights)], group: &Group) -> Result<Vec<Tensor>> {
    let large: Vec<_> = trained(sets).filter(|(_, _, _, weight)| weight.numel() >= LARGE).collect();
    if group.is_alone() || large.is_empty() {
        return Ok(Vec::new());
    }
    let can = large.iter().map(|(_, weights, name, weight)| {
        let gradient = weight.grad();
        weight.device() == Device::Cpu
            && gradient.defined()
            && gradient.is_contiguous()
            && !weights.copies().has(name)
    });
    // A rank without rows has no copies yet.
    let own: Vec<f64> = can.map(|can| f64::from(u8::from(can))).collect();
    let all = group.gather_numbers(&own)?;
    let everywhere = (0..large.len()).filter(|&place| all.iter().all(|of_rank| of_rank[place] > 0.0));
    Ok(everywhere.map(|place| large[place].3.shallow_clone()).collect())
}

/// Replaces the gradients of each rank by their sum over all ranks, in float32, except those in `summed`, which are sums already. A
/// weight without a gradient on any rank still has none.
///
/// # Errors
/// If a rank has ended.
pub fn sum_gradients(sets: &[(&str, &Weights)], group: &Group, summed: Option<&Overlap>) -> Result<()> {
    if group.is_alone() {
        return Ok(());
    }
    let gradients: Vec<_> = sets.iter().map(|(_, weights)| weights.gradients()).collect();
    let mut all: Vec<(&Tensor, Option<&Tensor>)> = Vec::new();
    for ((_, weights), gradients) in sets.iter().zip(&gradients) {
        let left =
            |weight: &Tensor| weight.requires_grad() && !summed.is_some_and(|summed| summed.has(weight));
        let trained = weights.iter().filter(|(_, weight)| left(weight));
        all.extend(trained.map(|(name, weight)| (weight, gradients.get(name))));
    }
    if all.is_empty() {
        return Ok(());
    }
    let own: Vec<f32> = all.iter().map(|(_, gradient)| f32::from(u8::from(gradient.is_some()))).collect();
    let mut counts = Tensor::from_slice(&own);
    group.sum(&mut counts)?;
    let mut found = vec![0f32; own.len()];
    counts.copy_data(&mut found, own.len());
    let found = all.into_iter().zip(found).filter(|(_, count)| *count > 0.0).map(|(weight, _)| weight);
    let (large, small): (Vec<_>, Vec<_>) = found.partition(|(weight, _)| weight.numel() >= LARGE);
    let small: Vec<Tensor> = small.into_iter().map(own_gradient).collect();
    // The first are summed while the others are prepared.
    group.sum_each(large.into_iter().map(own_gradient))?;
    if !small.is_empty() {
        let mut together = flat(&small);
        group.sum(&mut together)?;
        put_flat(&together, &small);
    }
    // From here on the sum is the only gradient.
    drop(gradients);
    sets.iter().for_each(|(_, weights)| weights.copies().discard_gradients());
    Ok(())
}

/// The weight's gradient in float32, converted in place, or zeros.
fn own_gradient((weight, gradient): (&Tensor, Option<&Tensor>)) -> Tensor {
    if !weight.grad().defined() {
        // tch cannot set a gradient directly: an empty backward pass creates zeros in the weight's shape.
        weight.view(-1).narrow(0, 0, 0).sum(Kind::Float).backward();
    }
    let mut own = weight.grad();
    if let Some(gradient) = gradient.filter(|gradient| gradient.data_ptr() != own.data_ptr()) {
        no_grad(|| own.copy_(gradient));
    }
    own
}

/// Tensors concatenated, in main memory.
pub(super) fn flat(tensors: &[Tensor]) -> Tensor {
    let flat: Vec<Tensor> = tensors.iter().map(|tensor| tensor.detach().reshape([-1])).collect();
    no_grad(|| Tensor::cat(&flat, 0).to_device(Device::Cpu))
}

/// Copies the numbers of [`flat`] back to their tensors.
pub(super) fn put_flat(numbers: &Tensor, tensors: &[Tensor]) {
    let mut start = 0;
    for tensor in tensors {
        let length = tensor.numel() as i64;
        no_grad(|| tensor.detach().copy_(&numbers.narrow(0, start, length).view_as(tensor)));
        start += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::tests::on_ranks;
    use std::collections::BTreeMap;

    /// Five weights: one with a gradient on both ranks, one on rank 1 alone, one on none; two large ones, of which one is
    /// multiplied in bfloat16, on both ranks or on rank 1 alone.
    #[test]
    fn gradients_are_sums_over_ranks() {
        let found = on_ranks(2, |group| {
            let rank = group.rank();
            let weight = |shape: &[i64]| Tensor::ones(shape, (Kind::Float, Device::Cpu));
            let tensors = [
                ("a", weight(&[2, 3])),
                ("b", weight(&[4])),
                ("c", weight(&[1])),
                ("large", weight(&[300, 256])),
                ("low", weight(&[256, 300])),
            ];
            let tensors: BTreeMap<String, Tensor> =
                tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
            let weights = Weights::new(tensors);
            weights.train_only(|_| true);
            let sets = [("student", &weights)];
            let mut steps = Vec::new();
            for step in 1..3 {
                (weights.get("a") * (step * (rank + 1)) as f64).sum(Kind::Float).backward();
                (weights.get("large") * (rank + 2) as f64).sum(Kind::Float).backward();
                if rank == 1 || step == 2 {
                    let x = Tensor::ones([1, 300], (Kind::BFloat16, Device::Cpu)) * (rank + 1) as f64;
                    let product = weights.copies().product(&["low".to_owned()], &[weights.get("low")], &x);
                    product.to_kind(Kind::Float).sum(Kind::Float).backward();
                }
                if rank == 1 {
                    (weights.get("b") * 0.5).sum(Kind::Float).backward();
                }
                sum_gradients(&sets, &group, None).expect("summed");
                // In the first step rank 0 has no copy of `low`.
                let early = summed_early(&sets, &group).expect("agreed");
                assert!(early.iter().map(Tensor::data_ptr).eq([weights.get("large").data_ptr()]));
                let gradients = weights.gradients();
                let of = |name: &str| {
                    gradients.get(name).map(|gradient| gradient.mean(Kind::Float).double_value(&[]))
                };
                steps.push(["a", "b", "c", "large", "low"].map(of));
                super::super::zero_gradients(&sets);
            }
            steps
        });
        let expected = vec![
            [Some(3.0), Some(0.5), None, Some(5.0), Some(2.0)],
            [Some(6.0), Some(0.5), None, Some(5.0), Some(3.0)],
        ];
        assert_eq!(found, [expected.clone(), expected]);
    }
}
