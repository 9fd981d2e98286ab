//! The gradients of all ranks, summed in one go.

use crate::collective::Group;
use crate::error::Result;
use crate::nn::weights::Weights;
use tch::{Device, Kind, Tensor, no_grad};

/// Room for all gradients in a row, in float32, from one step to the next.
#[derive(Debug)]
pub struct GradientSum {
    /// Gradients in the order of sets and names, then for each weight whether it has one. None before the first sum.
    flat: Option<Tensor>,
    /// Numbers of each weight that is trained.
    lengths: Vec<i64>,
}

/// The weights that are trained, with their set, its name and their own, in the order of sets and names.
pub(super) fn trained<'a>(
    sets: &'a [(&str, &Weights)],
) -> impl Iterator<Item = (&'a str, &'a Weights, &'a str, &'a Tensor)> {
    sets.iter().flat_map(|&(set, weights)| {
        let trained = weights.iter().filter(|(_, weight)| weight.requires_grad());
        trained.map(move |(name, weight)| (set, weights, name, weight))
    })
}

impl GradientSum {
    /// Of these weights. Memory is taken by the first sum of several ranks.
    pub fn new(sets: &[(&str, &Weights)]) -> Self {
        let lengths = trained(sets).map(|(.., weight)| weight.numel() as i64).collect();
        Self { flat: None, lengths }
    }

    /// Replaces the gradients of each rank by their sum over all of them, in float32. A weight without a gradient on any rank
    /// stays without.
    ///
    /// # Errors
    /// If a rank has ended.
    pub fn add_up(&mut self, sets: &[(&str, &Weights)], group: &Group) -> Result<()> {
        if group.is_alone() {
            return Ok(());
        }
        let count = self.lengths.len() as i64;
        let numbers: i64 = self.lengths.iter().sum();
        let flat =
            self.flat.get_or_insert_with(|| Tensor::zeros([numbers + count], (Kind::Float, Device::Cpu)));
        let has = flat.narrow(0, numbers, count);
        let mut own = vec![0f32; self.lengths.len()];
        no_grad(|| {
            let mut start = 0;
            let mut index = 0;
            for &(_, weights) in sets {
                let gradients = weights.gradients();
                for (name, weight) in weights.iter().filter(|(_, weight)| weight.requires_grad()) {
                    let mut place = flat.narrow(0, start, self.lengths[index]);
                    match gradients.get(name) {
                        Some(gradient) => place.view_as(weight).copy_(gradient),
                        None => drop(place.zero_()),
                    }
                    own[index] = f32::from(u8::from(gradients.contains_key(name)));
                    start += self.lengths[index];
                    index += 1;
                }
                // From here on the sum is the only gradient.
                drop(gradients);
                weights.copies().discard_gradients();
            }
            has.shallow_clone().copy_(&Tensor::from_slice(&own));
        });
        group.sum(flat)?;
        let mut found = vec![0f32; self.lengths.len()];
        has.copy_data(&mut found, self.lengths.len());
        let mut start = 0;
        for (((.., weight), &length), found) in trained(sets).zip(&self.lengths).zip(found) {
            if found > 0.0 {
                if !weight.grad().defined() {
                    // tch cannot set a gradient: that of nothing is zeros in the weight's shape.
                    weight.view(-1).narrow(0, 0, 0).sum(Kind::Float).backward();
                }
                no_grad(|| weight.grad().copy_(&flat.narrow(0, start, length).view_as(weight)));
            }
            start += length;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::tests::on_ranks;
    use std::collections::BTreeMap;

    /// Three weights: one with a gradient on both ranks, one on rank 1 alone, one on none.
    #[test]
    fn gradients_are_sums_over_ranks() {
        let found = on_ranks(2, |group| {
            let rank = group.rank();
            let weight = |shape: &[i64]| Tensor::ones(shape, (Kind::Float, Device::Cpu));
            let tensors = [("a", weight(&[2, 3])), ("b", weight(&[4])), ("c", weight(&[1]))];
            let tensors: BTreeMap<String, Tensor> =
                tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
            let weights = Weights::new(tensors);
            weights.train_only(|_| true);
            let sets = [("student", &weights)];
            let mut sum = GradientSum::new(&sets);
            let mut steps = Vec::new();
            for step in 1..3 {
                (weights.get("a") * (step * (rank + 1)) as f64).sum(Kind::Float).backward();
                if rank == 1 {
                    (weights.get("b") * 0.5).sum(Kind::Float).backward();
                }
                sum.add_up(&sets, &group).expect("summed");
                let gradients = weights.gradients();
                let of = |name: &str| {
                    gradients.get(name).map(|gradient| gradient.mean(Kind::Float).double_value(&[]))
                };
                steps.push((of("a"), of("b"), of("c")));
                super::super::zero_gradients(&sets);
            }
            steps
        });
        let expected = vec![(Some(3.0), Some(0.5), None), (Some(6.0), Some(0.5), None)];
        assert_eq!(found, [expected.clone(), expected]);
    }
}
