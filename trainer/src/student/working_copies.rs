//! Weights in the number format of matrix products, where that is not their own: cast at the first use, then kept until they
//! are released, and cast again when the weights change. The float32 weights stay what is trained and saved.

use std::cell::RefCell;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor, no_grad};

/// Numbers added at once: their float32 copies stay in a core's cache.
const SLICE: i64 = 1 << 17;

/// Copies of weights, or of several weights that stand in one copy, by their names.
#[derive(Debug, Default)]
pub struct WorkingCopies {
    copies: RefCell<BTreeMap<Vec<String>, WorkingCopy>>,
}

#[derive(Debug)]
struct WorkingCopy {
    weights: Vec<Tensor>,
    /// Shares the copy's memory, the weights' rows one after the other, and takes its gradient, until that was added to
    /// the weights'.
    leaf: Tensor,
}

impl WorkingCopy {
    fn new(weights: &[Tensor], kind: Kind) -> Self {
        let weights: Vec<Tensor> = weights.iter().map(Tensor::shallow_clone).collect();
        let mut copies: Vec<Tensor> =
            no_grad(|| weights.iter().map(|weight| weight.detach().to_kind(kind)).collect());
        let leaf = if copies.len() == 1 { copies.remove(0) } else { Tensor::cat(&copies, 0) };
        let mut copy = Self { weights, leaf };
        copy.forget_gradient();
        copy
    }

    fn is_trained(&self) -> bool {
        self.weights.iter().any(Tensor::requires_grad)
    }

    fn forget_gradient(&mut self) {
        self.leaf = self.leaf.detach().set_requires_grad(self.is_trained());
    }

    /// Each weight with its rows of `whole`, which has the shape of the copy.
    fn parts(&self, whole: &Tensor) -> Vec<(&Tensor, Tensor)> {
        let mut first = 0;
        let part = |weight: &'_ Tensor| {
            let rows = weight.size()[0];
            first += rows;
            whole.narrow(0, first - rows, rows)
        };
        let parts: Vec<Tensor> = self.weights.iter().map(part).collect();
        self.weights.iter().zip(parts).collect()
    }
}

impl WorkingCopies {
    /// The weights of these names in the format `kind`, the rows of one after those of the other. A gradient of what is
    /// returned reaches the weights with [`WorkingCopies::collect_gradients`].
    pub fn get(&self, names: &[String], weights: &[Tensor], kind: Kind) -> Tensor {
        let mut copies = self.copies.borrow_mut();
        if let Some(copy) = copies.get_mut(names)
            && copy.leaf.kind() == kind
        {
            if copy.leaf.requires_grad() != copy.is_trained() {
                copy.forget_gradient();
            }
            return copy.leaf.shallow_clone();
        }
        let copy = WorkingCopy::new(weights, kind);
        let leaf = copy.leaf.shallow_clone();
        copies.insert(names.to_vec(), copy);
        leaf
    }

    /// Adds the gradients of the copies to those of their weights, in float32. Needed after each backward pass, so that
    /// sums over passes are not rounded to the copies' format.
    pub fn collect_gradients(&self) {
        for copy in self.copies.borrow_mut().values_mut() {
            let gradient = copy.leaf.grad();
            if gradient.defined() {
                let trained = copy.parts(&gradient).into_iter().filter(|(weight, _)| weight.requires_grad());
                trained.for_each(|(weight, gradient)| add_gradient(weight, &gradient));
                copy.forget_gradient();
            }
        }
    }

    /// Forgets gradients that were not collected; takes no memory, so it may follow a backward pass that ran out of it.
    pub fn discard_gradients(&self) {
        for copy in self.copies.borrow_mut().values_mut().filter(|copy| copy.leaf.grad().defined()) {
            copy.forget_gradient();
        }
    }

    /// Casts the weights that are trained again; needed whenever they have changed.
    pub fn refresh(&self) {
        no_grad(|| {
            for copy in self.copies.borrow().values().filter(|copy| copy.is_trained()) {
                for (weight, mut place) in copy.parts(&copy.leaf.detach()) {
                    place.copy_(weight);
                }
            }
        });
    }

    /// Gives the memory of the copies back; the next use makes them again. Gradients must have been collected.
    pub fn release(&self) {
        self.copies.borrow_mut().clear();
    }

    /// Forgets the copy of a weight that is not this name's any more.
    pub fn forget(&self, name: &str) {
        self.copies.borrow_mut().retain(|names, _| names.iter().all(|other| other != name));
    }
}

fn add_gradient(weight: &Tensor, gradient: &Tensor) {
    if !weight.grad().defined() {
        // The gradient of nothing: zeros in the weight's shape, which tch cannot set otherwise.
        weight.view(-1).narrow(0, 0, 0).sum(Kind::Float).backward();
    }
    let (sum, gradient) = (weight.grad(), gradient.contiguous());
    no_grad(|| {
        if sum.device() != Device::Cpu || !sum.is_contiguous() {
            let _ = sum.shallow_clone().g_add_(&gradient.to_kind(sum.kind()));
            return;
        }
        let (sum, gradient) = (sum.view(-1), gradient.view(-1));
        let total = sum.size()[0];
        for start in (0..total).step_by(SLICE as usize) {
            let length = SLICE.min(total - start);
            let _ =
                sum.narrow(0, start, length).g_add_(&gradient.narrow(0, start, length).to_kind(sum.kind()));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(shape: [i64; 2]) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu))
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|index| format!("w{index}")).collect()
    }

    #[test]
    fn gradients_are_those_of_a_cast_at_each_use() {
        // More numbers than are added at once.
        let start = random([400, 700]);
        let batches = [random([3, 700]), random([5, 700]), random([2, 700])];
        let output = |x: &Tensor, weight: &Tensor| {
            x.to_kind(Kind::BFloat16)
                .linear(weight, None::<&Tensor>)
                .to_kind(Kind::Float)
                .square()
                .sum(Kind::Float)
        };
        let cast = start.copy().set_requires_grad(true);
        let copied = [start.copy().set_requires_grad(true)];
        // The same rows in three weights, of which one is not trained.
        let stacked: Vec<Tensor> = [(0, 50), (50, 300), (350, 50)]
            .iter()
            .map(|&(first, rows)| start.narrow(0, first, rows).copy().set_requires_grad(first != 350))
            .collect();
        let copies = WorkingCopies::default();
        let (one, three) = (names(1), names(3));
        for x in &batches {
            output(x, &cast.to_kind(Kind::BFloat16)).backward();
            output(x, &copies.get(&one, &copied, Kind::BFloat16)).backward();
            output(x, &copies.get(&three, &stacked, Kind::BFloat16)).backward();
            copies.collect_gradients();
            copies.collect_gradients(); // nothing is added twice
        }
        assert_eq!(copied[0].grad(), cast.grad(), "to the last bit");
        let together = Tensor::cat(&[stacked[0].grad(), stacked[1].grad()], 0);
        assert_eq!(together, cast.grad().narrow(0, 0, 350), "to the last bit");
        assert!(!stacked[2].grad().defined());
        output(&batches[0], &copies.get(&one, &copied, Kind::BFloat16)).backward();
        copies.discard_gradients();
        copies.collect_gradients();
        assert_eq!(copied[0].grad(), cast.grad(), "discarded gradients are gone");
        assert!(cast.grad().abs().sum(Kind::Float).double_value(&[]) > 0.0);
    }

    #[test]
    fn a_copy_follows_its_weights() {
        let weights = [random([4, 4]).set_requires_grad(true), random([2, 4]).set_requires_grad(true)];
        let copies = WorkingCopies::default();
        let names = names(2);
        let get = |kind| copies.get(&names, &weights, kind);
        let all = |kind| Tensor::cat(&weights, 0).detach().to_kind(kind);
        assert!(get(Kind::BFloat16).requires_grad());
        for weight in &weights {
            no_grad(|| weight.detach().copy_(&random([weight.size()[0], 4])));
        }
        assert_ne!(get(Kind::BFloat16), all(Kind::BFloat16));
        copies.refresh();
        assert_eq!(get(Kind::BFloat16), all(Kind::BFloat16));
        assert_eq!(get(Kind::Half), all(Kind::Half));
        for weight in &weights {
            let _ = weight.set_requires_grad(false);
        }
        assert!(!get(Kind::Half).requires_grad());
        let others = [random([4, 4]), random([2, 4])];
        let get = || copies.get(&names, &others, Kind::Half);
        copies.forget("w2");
        assert_eq!(get(), all(Kind::Half));
        copies.forget("w1");
        assert_eq!(get(), Tensor::cat(&others, 0).to_kind(Kind::Half));
        let _ = no_grad(|| others[0].shallow_clone().zero_());
        copies.release();
        assert_eq!(get(), Tensor::cat(&others, 0).to_kind(Kind::Half));
    }
}
