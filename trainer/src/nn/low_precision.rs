//! The low-precision weight cache: if the compute dtype differs from that of the weights, they are cast at first use, kept
//! until released, and cast again when the weights change. The float32 weights are the ones trained and saved.
//!
//! The gradient of such a weight, Σ ∂L/∂y ᵀ·x over all rows, is computed as one product over many passes: reading and writing a
//! gradient as large as the weights for each short pass would take longer than the products themselves.

use crate::backend;
use std::cell::RefCell;
use std::collections::BTreeMap;
use tch::{Kind, Tensor, no_grad};

/// Rows of one weight's products that are accumulated over passes before a flush. They take about as much memory as the weight
/// copies of a student of base shape; one pass may add more.
const ROWS_WAITING: i64 = 512;

/// Copies of weights by name; one copy may hold several weights.
#[derive(Debug, Default)]
pub struct LowPrecisionCache {
    copies: RefCell<BTreeMap<Vec<String>, LowPrecisionWeight>>,
}

#[derive(Debug)]
struct LowPrecisionWeight {
    weights: Vec<Tensor>,
    /// The weights' rows, concatenated; none before the first use, and after release.
    cast: Option<Tensor>,
    /// Products whose share of the gradient has not been accumulated yet.
    uses: Vec<Use>,
    /// Sum of the shares so far, in the shape of the copy: in its dtype if there is one share, in float32 from the second on.
    gradient: Option<Tensor>,
}

/// A product with gradients.
#[derive(Debug)]
struct Use {
    /// x [rows, in].
    x: Tensor,
    /// Zeros [rows, out] added to the product in order to receive its gradient. They take no memory.
    zeros: Tensor,
}

impl LowPrecisionWeight {
    fn new(weights: &[Tensor]) -> Self {
        let weights = weights.iter().map(Tensor::shallow_clone).collect();
        Self { weights, cast: None, uses: Vec::new(), gradient: None }
    }

    fn is_trained(&self) -> bool {
        self.weights.iter().any(Tensor::requires_grad)
    }

    /// The copy, [out, in].
    fn cast(&mut self, kind: Kind) -> Tensor {
        if let Some(cast) = self.cast.as_ref().filter(|cast| cast.kind() == kind) {
            return cast.shallow_clone();
        }
        let mut casts: Vec<Tensor> =
            no_grad(|| self.weights.iter().map(|weight| weight.detach().to_kind(kind)).collect());
        let cast = if casts.len() == 1 { casts.remove(0) } else { Tensor::cat(&casts, 0) };
        self.cast = Some(cast.shallow_clone());
        cast
    }

    /// Each weight with its rows of `whole`, which has the shape of the copy.
    fn parts(&self, whole: &Tensor) -> Vec<(Tensor, Tensor)> {
        let mut first = 0;
        let part = |weight: &Tensor| {
            let rows = weight.size()[0];
            first += rows;
            (weight.shallow_clone(), whole.narrow(0, first - rows, rows))
        };
        self.weights.iter().map(part).collect()
    }

    /// Accumulates the products that a backward pass has reached, if they have at least `rows` rows in total.
    fn multiply(&mut self, rows: i64) {
        let (reached, others): (Vec<Use>, Vec<Use>) =
            std::mem::take(&mut self.uses).into_iter().partition(|one| one.zeros.grad().defined());
        let waiting: i64 = reached.iter().map(|one| one.x.size()[0]).sum();
        self.uses = others;
        if reached.is_empty() || waiting < rows {
            self.uses.extend(reached);
            return;
        }
        let together = |tensors: Vec<Tensor>| match tensors.as_slice() {
            [one] => one.shallow_clone(),
            several => Tensor::cat(several, 0),
        };
        let xs = together(reached.iter().map(|one| one.x.shallow_clone()).collect());
        let gradients = together(reached.iter().map(|one| one.zeros.grad()).collect());
        let share = no_grad(|| gradients.transpose(0, 1).matmul(&xs));
        self.gradient = Some(match self.gradient.take() {
            None => share,
            Some(sum) => {
                let sum = sum.to_kind(Kind::Float);
                backend::of(sum.device()).accumulate(&sum, &share);
                sum
            }
        });
    }

    /// Adds the gradient to the weights' existing gradients, if they have any.
    fn add_to_gradients(&mut self) {
        if !self.weights.iter().any(|weight| weight.grad().defined()) {
            return;
        }
        let Some(gradient) = self.gradient.take() else { return };
        for (weight, part) in self.parts(&gradient).into_iter().filter(|(weight, _)| weight.requires_grad()) {
            if !weight.grad().defined() {
                // Creates a zero gradient in the weight's shape, which tch cannot set directly.
                weight.view(-1).narrow(0, 0, 0).sum(Kind::Float).backward();
            }
            backend::of(weight.device()).accumulate(&weight.grad(), &part);
        }
    }
}

impl LowPrecisionCache {
    /// x·Wᵀ of `x` [.., in] in the dtype of `x`: [.., out], where W is the concatenated rows of the weights of these names.
    /// [`LowPrecisionCache::gradients`] returns their gradients.
    pub fn product(&self, names: &[String], weights: &[Tensor], x: &Tensor) -> Tensor {
        let mut copies = self.copies.borrow_mut();
        let copy = copies.entry(names.to_vec()).or_insert_with(|| LowPrecisionWeight::new(weights));
        let cast = copy.cast(x.kind());
        let (outputs, inputs) = (cast.size()[0], cast.size()[1]);
        if copy.is_trained() {
            let x2 = x.reshape([-1, inputs]);
            let zero = Tensor::zeros([1, 1], (x.kind(), x.device()));
            let zeros = zero.expand([x2.size()[0], outputs], false).set_requires_grad(true);
            // With gradient recording off, the result needs no gradient.
            if zeros.view_as(&zeros).requires_grad() {
                let y = zeros.addmm(&x2, &cast.transpose(0, 1));
                copy.uses.push(Use { x: x2.detach(), zeros });
                let mut size = x.size();
                if let Some(last) = size.last_mut() {
                    *last = outputs;
                }
                return y.view(size.as_slice());
            }
        }
        x.linear(&cast, None::<&Tensor>)
    }

    /// Flushes the accumulated gradients if they are large; otherwise they are kept.
    pub fn flush_gradients(&self) {
        self.copies.borrow_mut().values_mut().for_each(|copy| copy.multiply(ROWS_WAITING));
    }

    /// Accumulates everything that backward passes have left, and forgets products that none has reached.
    pub fn flush_all_gradients(&self) {
        for copy in self.copies.borrow_mut().values_mut() {
            copy.multiply(0);
            copy.uses.clear();
            copy.add_to_gradients();
        }
    }

    /// Gradients of weights by name, in the copies' dtype or in float32. If a weight is also used directly in operations, they
    /// are added to its own gradient.
    pub fn gradients(&self) -> BTreeMap<String, Tensor> {
        self.flush_all_gradients();
        let mut gradients: BTreeMap<String, Tensor> = BTreeMap::new();
        for (names, copy) in self.copies.borrow().iter() {
            let Some(gradient) = &copy.gradient else { continue };
            let trained = names.iter().zip(copy.parts(gradient));
            for (name, (_, part)) in trained.filter(|(_, (weight, _))| weight.requires_grad()) {
                let sum = match gradients.remove(name) {
                    Some(other) => other.to_kind(Kind::Float) + part.to_kind(Kind::Float),
                    None => part,
                };
                gradients.insert(name.clone(), sum);
            }
        }
        gradients
    }

    /// Forgets all gradients; allocates nothing, so it may follow a backward pass that ran out of memory.
    pub fn discard_gradients(&self) {
        for copy in self.copies.borrow_mut().values_mut() {
            copy.uses.clear();
            copy.gradient = None;
        }
    }

    /// The copies of trained weights, by the weight's name, for code that changes the weights.
    pub fn places(&self) -> Vec<(String, Tensor)> {
        let copies = self.copies.borrow();
        let trained = copies.iter().filter(|(_, copy)| copy.is_trained());
        let places = trained.filter_map(|(names, copy)| Some((names, copy.parts(copy.cast.as_ref()?))));
        places
            .flat_map(|(names, parts)| names.iter().cloned().zip(parts.into_iter().map(|(_, part)| part)))
            .collect()
    }

    /// Whether products use a copy of the weight of this name, even if the copy is released at the moment.
    pub fn has(&self, name: &str) -> bool {
        self.copies.borrow().keys().any(|names| names.iter().any(|other| other == name))
    }

    /// Casts the trained weights again; needed whenever they were changed without their copies ([`LowPrecisionCache::places`]).
    pub fn refresh(&self) {
        no_grad(|| {
            for copy in self.copies.borrow().values().filter(|copy| copy.is_trained()) {
                for (weight, mut place) in copy.cast.iter().flat_map(|cast| copy.parts(cast)) {
                    place.copy_(&weight);
                }
            }
        });
    }

    /// Releases the memory of the copies; the next use creates them again. Gradients are kept.
    pub fn release(&self) {
        self.copies.borrow_mut().values_mut().for_each(|copy| copy.cast = None);
    }

    /// Drops copies of the weight with this name, which was removed or reassigned.
    pub fn forget(&self, name: &str) {
        self.copies.borrow_mut().retain(|names, _| names.iter().all(|other| other != name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn random(shape: [i64; 2]) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu))
    }

    fn trained(tensor: &Tensor) -> Tensor {
        tensor.copy().set_requires_grad(true)
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|index| format!("w{index}")).collect()
    }

    /// A loss whose gradient differs between outputs.
    fn backward(y: &Tensor) {
        y.to_kind(Kind::Float).square().sum(Kind::Float).backward();
    }

    fn off(found: &Tensor, expected: &Tensor) -> f64 {
        let found = found.to_kind(Kind::Float);
        ((found - expected).norm() / expected.norm()).double_value(&[])
    }

    #[test]
    fn gradients_are_sums_over_passes() {
        // More numbers than are added at a time; passes that are accumulated, and passes that are not.
        for lengths in [[3, 5, 2], [520, 3, 1], [260, 260, 1]] {
            let weight = [trained(&(random([380, 370]) * 0.05))];
            let exact = trained(&weight[0].detach().to_kind(Kind::BFloat16).to_kind(Kind::Float));
            let copies = LowPrecisionCache::default();
            for length in lengths {
                // Rows in two dimensions, and an input that itself has a gradient.
                let x = trained(&random([length, 370]).to_kind(Kind::BFloat16).view([1, length, 370]));
                let wide = trained(&x.detach().to_kind(Kind::Float));
                backward(&wide.linear(&exact, None::<&Tensor>));
                let y = copies.product(&names(1), &weight, &x);
                assert_eq!(y.size(), [1, length, 380]);
                backward(&y);
                assert!(off(&x.grad(), &wide.grad()) < 0.01);
                copies.flush_gradients();
                copies.flush_gradients(); // a second flush must add nothing
            }
            let off = off(&copies.gradients()["w0"], &exact.grad());
            assert!(off < 0.01, "{lengths:?}: {off}");
        }
    }

    #[test]
    fn several_weights_in_one_product_get_their_own_rows() {
        let weights = [trained(&random([3, 8])), random([2, 8]), trained(&random([4, 8]))];
        let exact = Tensor::cat(&weights.each_ref().map(Tensor::detach), 0);
        let exact = trained(&exact.to_kind(Kind::BFloat16).to_kind(Kind::Float));
        let copies = LowPrecisionCache::default();
        for rows in [5, 700] {
            let x = random([rows, 8]).to_kind(Kind::BFloat16);
            backward(&x.to_kind(Kind::Float).linear(&exact, None::<&Tensor>));
            backward(&copies.product(&names(3), &weights, &x));
            copies.flush_gradients();
        }
        let found = copies.gradients();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["w0", "w2"]);
        assert!(off(&found["w0"], &exact.grad().narrow(0, 0, 3)) < 0.01);
        assert!(off(&found["w2"], &exact.grad().narrow(0, 5, 4)) < 0.01);
        copies.discard_gradients();
        assert!(copies.gradients().is_empty());
    }

    #[test]
    fn a_weight_that_has_a_gradient_from_elsewhere_gets_the_sum() {
        let weight = [trained(&random([6, 8]))];
        let exact = trained(&weight[0].detach().to_kind(Kind::BFloat16).to_kind(Kind::Float));
        let ids = Tensor::from_slice(&[1i64, 4, 4]);
        let copies = LowPrecisionCache::default();
        let x = random([3, 8]).to_kind(Kind::BFloat16);
        for _ in 0..2 {
            for weight in [&weight[0], &exact] {
                Tensor::embedding(weight, &ids, -1, false, false).sum(Kind::Float).backward();
            }
            backward(&x.to_kind(Kind::Float).linear(&exact, None::<&Tensor>));
            backward(&copies.product(&names(1), &weight, &x));
            copies.flush_all_gradients();
        }
        assert!(copies.gradients().is_empty(), "all of it is the weight's own");
        assert!(off(&weight[0].grad(), &exact.grad()) < 0.01);
    }

    #[test]
    fn only_what_a_backward_pass_reached_counts() {
        let weight = [trained(&random([6, 8]))];
        let copies = LowPrecisionCache::default();
        let x = random([3, 8]).to_kind(Kind::BFloat16);
        let without = no_grad(|| copies.product(&names(1), &weight, &x));
        assert!(!without.requires_grad());
        assert!(
            copies.copies.borrow().values().all(|copy| copy.uses.is_empty()),
            "no input is kept for nothing"
        );
        let _ = copies.product(&names(1), &weight, &x);
        assert!(copies.gradients().is_empty());
        let y = copies.product(&names(1), &weight, &x);
        assert_eq!(y, without);
        backward(&y);
        copies.discard_gradients();
        assert!(copies.gradients().is_empty());
    }

    #[test]
    fn a_copy_follows_its_weights() {
        let weights = [trained(&random([4, 4])), trained(&random([2, 4]))];
        let copies = LowPrecisionCache::default();
        let names = names(2);
        let eye = Tensor::eye(4, (Kind::BFloat16, Device::Cpu));
        // The product of an identity matrix is the copy itself.
        let get = |weights: &[Tensor]| {
            no_grad(|| copies.product(&names, weights, &eye).transpose(0, 1).contiguous())
        };
        let all = |weights: &[Tensor]| Tensor::cat(weights, 0).detach().to_kind(Kind::BFloat16);
        assert_eq!(get(&weights), all(&weights));
        let change = || {
            weights.iter().for_each(|weight| {
                no_grad(|| weight.detach().copy_(&random([weight.size()[0], 4])));
            })
        };
        change();
        assert_ne!(get(&weights), all(&weights));
        copies.refresh();
        assert_eq!(get(&weights), all(&weights));
        change();
        for (name, mut place) in copies.places() {
            let weight = if name == "w0" { &weights[0] } else { &weights[1] };
            no_grad(|| place.copy_(weight));
        }
        assert_eq!(get(&weights), all(&weights), "places are the copies' own memory");
        let others = [random([4, 4]), random([2, 4])];
        copies.forget("w2");
        assert_eq!(get(&others), all(&weights), "there is no w2");
        copies.forget("w1");
        assert_eq!(get(&others), all(&others));
        let _ = no_grad(|| others[0].shallow_clone().zero_());
        copies.release();
        assert_eq!(get(&others), all(&others), "made anew");
    }
}
