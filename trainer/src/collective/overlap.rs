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
        begins_early: bool,
    ) -> i32;
    fn ares_overlap_is_last(sums: *mut RawOverlap, is_last: bool);
    fn ares_overlap_begun(sums: *const RawOverlap) -> usize;
    fn ares_overlap_end(sums: *mut RawOverlap, order: *mut u64) -> i32;
    fn ares_overlap_close(sums: *mut RawOverlap);
}

/// Sums of the gradients of some weights, the same ones on all ranks: float32 in main memory, with a gradient already.
///
/// A sum begins as soon as its gradient is complete, in the last backward pass of a step, and those before it have begun: the
/// order is the same on all ranks. It is the order in which rank 0 completed the gradients of the first step, whose sums all
/// begin at its end.
#[derive(Debug)]
pub struct Overlap {
    group: Group,
    weights: Vec<Tensor>,
    hooks: Hooks,
    knows_order: bool,
}

impl Overlap {
    /// Sums of the gradients of these weights, of which no other lives; none in a process by itself.
    ///
    /// # Errors
    /// If the connection to the other ranks is lost.
    pub fn new(group: &Group, weights: Vec<Tensor>) -> Result<Option<Self>> {
        if group.is_alone() || weights.is_empty() {
            return Ok(None);
        }
        let hooks = Hooks::open(group, &weights, false)?;
        Ok(hooks.map(|hooks| Self { group: group.clone(), weights, hooks, knows_order: false }))
    }

    /// Whether the gradient of this weight is one of them.
    pub fn has(&self, weight: &Tensor) -> bool {
        let address = weight.data_ptr();
        self.weights.iter().any(|own| own.data_ptr() == address)
    }

    /// Number of sums that have begun.
    pub fn begun(&self) -> usize {
        // SAFETY: it is open.
        unsafe { ares_overlap_begun(self.hooks.raw.as_ptr()) }
    }

    /// A backward pass from `loss`, after which the gradients that it adds to are complete for this step.
    pub fn last_backward(&self, loss: &Tensor) {
        // SAFETY: it is open.
        unsafe { ares_overlap_is_last(self.hooks.raw.as_ptr(), true) }
        loss.backward(); // where it panics, nothing is added before the end, which undoes this
        // SAFETY: it is open.
        unsafe { ares_overlap_is_last(self.hooks.raw.as_ptr(), false) }
    }

    /// Begins the sums that have not begun, whatever their gradients are, and waits for all.
    ///
    /// # Errors
    /// If a rank has ended.
    pub fn end(&mut self) -> Result<()> {
        let mut order = vec![0; self.weights.len()];
        self.group.operate("sum", |_| self.hooks.end(&mut order))?;
        if !self.knows_order {
            let order = self.group.of_first(order)?;
            let weights = order.iter().filter_map(|&index| self.weights.get(usize::try_from(index).ok()?));
            self.weights = weights.map(Tensor::shallow_clone).collect();
            self.hooks.close();
            if let Some(hooks) = Hooks::open(&self.group, &self.weights, true)? {
                self.hooks = hooks;
            }
            self.knows_order = true;
        }
        Ok(())
    }
}

/// The hooks of the weights.
#[derive(Debug)]
struct Hooks {
    raw: NonNull<RawOverlap>,
    /// Whether they are to be closed: not after a failure, where a sum may wait for a rank that never answers.
    is_open: Cell<bool>,
}

impl Hooks {
    fn open(group: &Group, weights: &[Tensor], begins_early: bool) -> Result<Option<Self>> {
        let mut opened = None;
        group.operate("sum", |ring| {
            opened = Some(Self::on(ring, weights, begins_early)?);
            Ok(())
        })?;
        Ok(opened)
    }

    fn on(ring: &Ring, weights: &[Tensor], begins_early: bool) -> operation::Result<Self> {
        let mut handles: Vec<Tensor> = weights.iter().map(Tensor::shallow_clone).collect();
        let pointers = handles.iter_mut().map(raw).collect::<operation::Result<Vec<_>>>()?;
        let mut out = ptr::null_mut();
        // SAFETY: the group is open, and the tensors are checked; C++ holds on to both.
        outcome(unsafe {
            ares_overlap_open(&mut out, ring.raw(), pointers.as_ptr(), pointers.len(), begins_early)
        })?;
        let raw = NonNull::new(out).ok_or_else(|| "no sums were opened".to_owned())?;
        Ok(Self { raw, is_open: Cell::new(true) })
    }

    fn end(&self, order: &mut [u64]) -> operation::Result<()> {
        // SAFETY: it is open, and there is a place in `order` for each weight.
        let ended = outcome(unsafe { ares_overlap_end(self.raw.as_ptr(), order.as_mut_ptr()) });
        if ended.is_err() {
            self.is_open.set(false);
        }
        ended
    }

    fn close(&self) {
        if self.is_open.replace(false) {
            // SAFETY: it is closed once.
            unsafe { ares_overlap_close(self.raw.as_ptr()) }
        }
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        self.close();
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

    fn numbers(tensor: &Tensor) -> Vec<f32> {
        Vec::<f32>::try_from(tensor.reshape([-1])).expect("numbers")
    }

    /// How a rank ends a step: as usual, without rows for a last backward pass, or out of memory within it.
    #[derive(Clone, Copy, PartialEq)]
    enum End {
        Usual,
        NoRows,
        OutOfMemory,
    }

    #[test]
    fn sums_begin_within_the_last_backward_pass_and_are_those_of_a_sum_afterwards() {
        let found = on_ranks(2, |group| {
            let (early, late) = (layers(), layers());
            let mut sums = Overlap::new(&group, early.iter().map(Tensor::shallow_clone).collect())
                .expect("opened")
                .expect("not alone");
            let ends = [End::Usual, End::Usual, End::NoRows, End::OutOfMemory, End::Usual];
            let mut begun = Vec::new();
            for (step, end) in (1..).zip(ends) {
                let end = if group.rank() == 1 { end } else { End::Usual };
                let seed = f64::from(step) + 0.3 * group.rank() as f64;
                for layers in [&early, &late] {
                    loss(layers, seed).backward();
                }
                if end == End::Usual {
                    loss(&late, -2.0 * seed).backward();
                    sums.last_backward(&loss(&early, -2.0 * seed));
                }
                if end == End::OutOfMemory {
                    let broken = loss(&early, seed).reshape([1]);
                    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        sums.last_backward(&broken.expand([2], false)); // no scalar
                    }));
                    assert!(refused.is_err());
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
        // The order is not known in the first step.
        assert_eq!(found, [vec![0, 3, 3, 3, 3], vec![0, 3, 0, 0, 3]]);
    }

    #[test]
    fn a_rank_that_ended_is_named() {
        let found = on_ranks(2, |group| {
            let layers = layers();
            let weights = layers.iter().map(Tensor::shallow_clone).collect();
            let mut sums = Overlap::new(&group, weights).expect("opened").expect("not alone");
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

    #[test]
    fn a_process_by_itself_has_none() {
        assert!(Overlap::new(&Group::alone(), layers()).expect("nothing to open").is_none());
    }
}
