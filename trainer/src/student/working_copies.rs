//! Weights in the number format of matrix products, where that is not their own: cast at the first use, then kept, and
//! cast again only when the weights change. The float32 weights stay what is trained and saved.

use std::cell::RefCell;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor, no_grad};

/// Numbers added at once: their float32 copies stay in a core's cache.
const SLICE: i64 = 1 << 17;

/// Copies of weights, by name.
#[derive(Debug, Default)]
pub struct WorkingCopies {
    copies: RefCell<BTreeMap<String, WorkingCopy>>,
}

#[derive(Debug)]
struct WorkingCopy {
    weight: Tensor,
    /// Shares the copy's memory and takes its gradient, until that was added to the weight's.
    leaf: Tensor,
}

impl WorkingCopy {
    fn of(weight: &Tensor, copy: &Tensor) -> Self {
        let leaf = copy.detach().set_requires_grad(weight.requires_grad());
        Self { weight: weight.shallow_clone(), leaf }
    }
}

impl WorkingCopies {
    /// `weight`, called `name`, in the format `kind`. A gradient of what is returned reaches the weight with
    /// [`WorkingCopies::collect_gradients`].
    pub fn get(&self, name: &str, weight: &Tensor, kind: Kind) -> Tensor {
        let mut copies = self.copies.borrow_mut();
        if let Some(copy) = copies.get_mut(name)
            && copy.leaf.kind() == kind
        {
            if copy.leaf.requires_grad() != weight.requires_grad() {
                *copy = WorkingCopy::of(weight, &copy.leaf);
            }
            return copy.leaf.shallow_clone();
        }
        let copy = WorkingCopy::of(weight, &no_grad(|| weight.detach().to_kind(kind)));
        let leaf = copy.leaf.shallow_clone();
        copies.insert(name.to_owned(), copy);
        leaf
    }

    /// Adds the gradients of the copies to those of their weights, in float32. Needed after each backward pass, so that
    /// sums over passes are not rounded to the copies' format.
    pub fn collect_gradients(&self) {
        for copy in self.copies.borrow_mut().values_mut() {
            let gradient = copy.leaf.grad();
            if gradient.defined() {
                add_gradient(&copy.weight, &gradient);
                *copy = WorkingCopy::of(&copy.weight, &copy.leaf);
            }
        }
    }

    /// Forgets gradients that were not collected; takes no memory, so it may follow a backward pass that ran out of it.
    pub fn discard_gradients(&self) {
        for copy in self.copies.borrow_mut().values_mut().filter(|copy| copy.leaf.grad().defined()) {
            *copy = WorkingCopy::of(&copy.weight, &copy.leaf);
        }
    }

    /// Casts the weights that are trained again; needed whenever they have changed.
    pub fn refresh(&self) {
        no_grad(|| {
            for copy in self.copies.borrow().values().filter(|copy| copy.weight.requires_grad()) {
                copy.leaf.detach().copy_(&copy.weight);
            }
        });
    }

    /// Forgets the copy of a weight that is not this name's any more.
    pub fn forget(&self, name: &str) {
        self.copies.borrow_mut().remove(name);
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
        let (cast, copied) = (start.copy().set_requires_grad(true), start.copy().set_requires_grad(true));
        let copies = WorkingCopies::default();
        for x in &batches {
            output(x, &cast.to_kind(Kind::BFloat16)).backward();
            output(x, &copies.get("w", &copied, Kind::BFloat16)).backward();
            copies.collect_gradients();
            copies.collect_gradients(); // nothing is added twice
        }
        assert_eq!(copied.grad(), cast.grad(), "to the last bit");
        output(&batches[0], &copies.get("w", &copied, Kind::BFloat16)).backward();
        copies.discard_gradients();
        copies.collect_gradients();
        assert_eq!(copied.grad(), cast.grad(), "discarded gradients are gone");
        assert!(cast.grad().abs().sum(Kind::Float).double_value(&[]) > 0.0);
    }

    #[test]
    fn a_copy_follows_its_weight() {
        let weight = random([4, 4]).set_requires_grad(true);
        let copies = WorkingCopies::default();
        let get = |kind| copies.get("w", &weight, kind);
        assert!(get(Kind::BFloat16).requires_grad());
        no_grad(|| weight.detach().copy_(&random([4, 4])));
        assert_ne!(get(Kind::BFloat16), weight.to_kind(Kind::BFloat16));
        copies.refresh();
        assert_eq!(get(Kind::BFloat16), weight.to_kind(Kind::BFloat16));
        assert_eq!(get(Kind::Half), weight.to_kind(Kind::Half));
        let _ = weight.set_requires_grad(false);
        assert!(!get(Kind::Half).requires_grad());
        let other = random([4, 4]);
        copies.forget("w");
        assert_eq!(copies.get("w", &other, Kind::Half), other.to_kind(Kind::Half));
    }
}
