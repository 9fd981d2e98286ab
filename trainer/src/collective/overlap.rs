//! Sums of gradients that begin while a backward pass still computes others, through the C functions of `shim/overlap.cpp`.

#![allow(unsafe_code)] // calls of C functions, whose pointers are checked or made here

use super::gloo::{RawGroup, RawTensor, Ring, outcome, raw};
use super::group::Group;
use super::operation;
use crate::error::Result;
use std::cell::Cell;
use std::ptr::{self, NonNull};
use tch::Tensor;

#[repr(C)]
struct RawOverlap {
    _private: [u8; 0],
}

unsafe extern "C" {
    fn ares_overlap_open(
        out: *mut *mut RawOverlap,
        group: *mut RawGroup,
        weights: *const *mut RawTensor,
        count: usize,
    ) -> i32;
    fn ares_overlap_reorder(sums: *mut RawOverlap, order: *const u64) -> i32;
    fn ares_overlap_is_last(sums: *mut RawOverlap, is_last: bool);
    #[cfg(test)]
    fn ares_overlap_begun(sums: *const RawOverlap) -> usize;
    fn ares_overlap_end(sums: *mut RawOverlap, order: *mut u64, completed: *mut usize) -> i32;
    fn ares_overlap_close(sums: *mut RawOverlap);
}

/// Sums of the gradients of some weights, the same ones on all ranks. The weights are float32, in main memory, and already have
/// gradients.
///
/// In the last backward pass of a step, a sum begins once its gradient is complete and all sums before it have begun. The order is
/// the same on all ranks: that in which rank 0 completed its gradients in its first step with such a pass. Until it is known, all
/// sums begin at the end.
#[derive(Debug)]
pub struct Overlap {
    group: Group,
    weights: Vec<Tensor>,
    hooks: Hooks,
    knows_order: bool,
}

impl Overlap {
    /// Prepares the sums for these weights; no other `Overlap` of them may exist at the same time. `None` in a process by itself,
    /// or without weights.
    ///
    /// # Errors
    /// If the connection to the other ranks is lost.
    pub fn new(group: &Group, weights: Vec<Tensor>) -> Result<Option<Self>> {
        if group.is_alone() || weights.is_empty() {
            return Ok(None);
        }
        let mut hooks = None;
        group.operate("sum", |ring| {
            hooks = Some(Hooks::open(ring, &weights)?);
            Ok(())
        })?;
        Ok(hooks.map(|hooks| Self { group: group.clone(), weights, hooks, knows_order: false }))
    }

    /// Whether the gradient of this weight is one of them.
    pub fn has(&self, weight: &Tensor) -> bool {
        let address = weight.data_ptr();
        self.weights.iter().any(|own| own.data_ptr() == address)
    }

    /// Number of sums that have begun.
    #[cfg(test)]
    fn begun(&self) -> usize {
        // SAFETY: it lives.
        unsafe { ares_overlap_begun(self.hooks.raw.as_ptr()) }
    }

    /// A backward pass from `loss`, after which the gradients that it adds to are complete for this step.
    pub fn last_backward(&self, loss: &Tensor) {
        // SAFETY: it lives.
        unsafe { ares_overlap_is_last(self.hooks.raw.as_ptr(), true) }
        loss.backward(); // where it panics, nothing is added before the end, which undoes this
        // SAFETY: as above.
        unsafe { ares_overlap_is_last(self.hooks.raw.as_ptr(), false) }
    }

    /// Begins the remaining sums, whether or not their gradients are complete, and waits for all.
    ///
    /// # Errors
    /// If a rank has ended, or a backward pass added to a gradient after the last one.
    pub fn end(&mut self) -> Result<()> {
        let mut order = None;
        self.group.operate("sum", |_| {
            order = self.hooks.end()?;
            Ok(())
        })?;
        if !self.knows_order
            && let Some(order) = self.group.of_first(order)?
        {
            self.group.operate("sum", |_| self.hooks.reorder(&order))?;
            self.knows_order = true;
        }
        Ok(())
    }
}

/// The hooks of the weights.
#[derive(Debug)]
struct Hooks {
    raw: NonNull<RawOverlap>,
    count: usize,
    /// Whether dropping closes it. Not after a failure: a sum may then wait for a rank that never answers.
    closes_on_drop: Cell<bool>,
}

impl Hooks {
    fn open(ring: &Ring, weights: &[Tensor]) -> operation::Result<Self> {
        let mut handles: Vec<Tensor> = weights.iter().map(Tensor::shallow_clone).collect();
        let pointers = handles.iter_mut().map(raw).collect::<operation::Result<Vec<_>>>()?;
        let mut out = ptr::null_mut();
        // SAFETY: the group is open, and the tensors are checked; C++ holds on to both.
        outcome(unsafe { ares_overlap_open(&mut out, ring.raw(), pointers.as_ptr(), pointers.len()) })?;
        let raw = NonNull::new(out).ok_or_else(|| "no sums were opened".to_owned())?;
        Ok(Self { raw, count: weights.len(), closes_on_drop: Cell::new(true) })
    }

    /// Ends the sums of a step, and returns the order in which gradients were completed; `None` if none was.
    fn end(&self) -> operation::Result<Option<Vec<u64>>> {
        let mut order = vec![0; self.count];
        let mut completed = 0;
        // SAFETY: it lives, and there is a place in `order` for each weight.
        let ended =
            outcome(unsafe { ares_overlap_end(self.raw.as_ptr(), order.as_mut_ptr(), &mut completed) });
        if ended.is_err() {
            self.closes_on_drop.set(false);
        }
        ended.map(|()| (completed > 0).then_some(order))
    }

    fn reorder(&self, order: &[u64]) -> operation::Result<()> {
        if order.len() != self.count {
            return Err(format!("expected an order of {} weights, found {}", self.count, order.len()));
        }
        // SAFETY: it lives; there is an index for each weight, and C++ checks them.
        outcome(unsafe { ares_overlap_reorder(self.raw.as_ptr(), order.as_ptr()) })
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        if self.closes_on_drop.get() {
            // SAFETY: it is closed once.
            unsafe { ares_overlap_close(self.raw.as_ptr()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::on_ranks;
    use super::*;
    use tch::{Device, Kind, no_grad};

    const WIDTH: i64 = 64;

    /// Three layers, each a leaf with a gradient of zeros.
    fn layers() -> Vec<Tensor> {
        let layer = |factor: f64| {
            let numbers = Tensor::arange(WIDTH * WIDTH, (Kind::Float, Device::Cpu)) * factor;
            let layer = (numbers.sin() * 0.1).view([WIDTH, WIDTH]).set_requires_grad(true);
            layer.sum(Kind::Float).backward();
            let _ = layer.grad().zero_();
            layer
        };
        [1.0, 1.7, 2.3].map(layer).into()
    }

    fn loss(layers: &[Tensor], seed: f64) -> Tensor {
        let x = (Tensor::arange(4 * WIDTH, (Kind::Float, Device::Cpu)) * seed).cos().view([4, WIDTH]);
        layers.iter().fold(x, |x, layer| x.matmul(layer).tanh()).sum(Kind::Float)
    }

    /// The sums of these layers' gradients.
    fn opened(group: &Group, layers: &[Tensor]) -> Overlap {
        let weights = layers.iter().map(Tensor::shallow_clone).collect();
        Overlap::new(group, weights).expect("opened").expect("not alone")
    }

    fn numbers(tensor: &Tensor) -> Vec<f32> {
        Vec::<f32>::try_from(tensor.reshape([-1])).expect("numbers")
    }

    /// How a rank ends a step: as usual, without rows for a last backward pass, or after a pass that reached one weight only.
    #[derive(Clone, Copy, PartialEq)]
    enum End {
        Usual,
        NoRows,
        Partial,
    }

    #[test]
    fn sums_begin_within_the_last_backward_pass_and_are_those_of_a_sum_afterwards() {
        let found = on_ranks(2, |group| {
            let (early, late) = (layers(), layers());
            let mut sums = opened(&group, &early);
            let ends = [End::NoRows, End::Usual, End::Usual, End::NoRows, End::Partial, End::Usual];
            let mut begun = Vec::new();
            for (step, end) in (1..).zip(ends) {
                // In the first step rank 0 has no order to tell.
                let end = if group.rank() == usize::from(step > 1) { end } else { End::Usual };
                let seed = f64::from(step) + 0.3 * group.rank() as f64;
                for layers in [&early, &late] {
                    loss(layers, seed).backward();
                }
                if end == End::Usual {
                    loss(&late, -2.0 * seed).backward();
                    sums.last_backward(&loss(&early, -2.0 * seed));
                }
                if end == End::Partial {
                    late[2].sum(Kind::Float).backward();
                    sums.last_backward(&early[2].sum(Kind::Float));
                }
                begun.push(sums.begun());
                sums.end().expect("summed");
                for (early, late) in early.iter().zip(&late) {
                    group.sum(&mut late.grad()).expect("summed");
                    assert!(numbers(&early.grad()) == numbers(&late.grad()), "step {step}");
                    assert!(numbers(&early.grad()).iter().any(|number| *number != 0.0), "step {step}");
                    for gradient in [early.grad(), late.grad()] {
                        no_grad(|| drop(gradient.shallow_clone().zero_()));
                    }
                }
            }
            begun
        });
        assert_eq!(found, [vec![0, 0, 3, 3, 3, 3], vec![0, 0, 3, 0, 1, 3]]);
    }

    #[test]
    fn a_rank_that_ended_is_named() {
        let found = on_ranks(2, |group| {
            let layers = layers();
            let mut sums = opened(&group, &layers);
            sums.last_backward(&loss(&layers, 1.0));
            sums.end().expect("summed");
            if group.rank() == 1 {
                return None;
            }
            sums.last_backward(&loss(&layers, 1.0));
            Some(sums.end().expect_err("rank 1 has ended").to_string())
        });
        assert!(found[0].as_ref().is_some_and(|said| said.contains("rank 1 has ended")), "{found:?}");
    }

    /// Without this, ranks would add to a sum in progress, and their weights would drift apart.
    #[test]
    fn a_pass_after_the_last_one_is_an_error() {
        let found = on_ranks(2, |group| {
            let layers = layers();
            let mut sums = opened(&group, &layers);
            sums.last_backward(&loss(&layers, 1.0));
            loss(&layers, 2.0).backward();
            sums.end().expect_err("misused").to_string()
        });
        assert!(found.iter().all(|said| said.contains("after the one that was to be the last")), "{found:?}");
    }

    #[test]
    fn a_process_by_itself_has_none() {
        assert!(Overlap::new(&Group::alone(), layers()).expect("nothing to open").is_none());
    }
}
