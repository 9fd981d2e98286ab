//! The sum of a policy's gradients over ranks.

use super::system::Clock;
use super::{Bench, Measurement, Work};
use crate::backend;
use crate::collective::Nccl;
use crate::error::{Error, Result};
use tch::{Kind, Tensor};

impl Bench<'_> {
    /// As many float32 numbers as the policy has parameters, in one tensor. With one rank, the sum equals its input.
    pub(super) fn sums(&self) -> Result<Measurement> {
        let libraries = backend::of(self.device).collective_libraries()?.ok_or_else(|| {
            Error::input("--work sums: expected a GPU, found none", "next: train bench --help")
        })?;
        let failed = |said: String| Error::Group {
            message: said,
            hint: "NCCL_DEBUG=INFO makes it print more".to_owned(),
        };
        let nccl = Nccl::alone(&libraries, self.device).map_err(failed)?;
        let parameters = self.weights().count();
        let numbers = Tensor::arange(parameters, (Kind::Float, self.device));
        let expected = numbers.copy();
        let mut times = Vec::new();
        for _ in 0..=self.options.iterations {
            self.wait();
            let clock = Clock::start();
            nccl.sum(&numbers).map_err(failed)?;
            times.push(clock.elapsed());
        }
        if numbers != expected {
            return Err(failed("NCCL: the sum over one rank differs from its input".to_owned()));
        }
        Ok(self.measurement(Work::Sums, "float32".to_owned(), &times[1..], parameters))
    }
}
