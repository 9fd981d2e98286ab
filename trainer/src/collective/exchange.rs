//! Operations of a group on tensors.

use super::gloo::Work;
use super::group::Group;
use super::operation::{self, Operation};
use super::wait::together;
use crate::error::Result;
use tch::{Device, Kind, Tensor, no_grad};

impl Group {
    /// Replaces numbers by their sums over all ranks, which are the same to the last bit everywhere.
    ///
    /// # Errors
    /// If a rank has ended or is silent.
    pub fn sum(&self, tensor: &mut Tensor) -> Result<()> {
        self.sum_each([tensor.shallow_clone()])
    }

    /// As [`Group::sum`], of several tensors, of which the first are on their way while the others are made.
    ///
    /// # Errors
    /// As [`Group::sum`].
    pub fn sum_each(&self, tensors: impl IntoIterator<Item = Tensor>) -> Result<()> {
        self.each("sum", tensors.into_iter().map(|tensor| (tensor, Operation::Sum)))
    }

    /// Replaces numbers by those of rank 0.
    ///
    /// # Errors
    /// As [`Group::sum`].
    pub fn broadcast(&self, tensor: &mut Tensor) -> Result<()> {
        self.broadcast_each([(tensor.shallow_clone(), 0)])
    }

    /// Replaces the numbers of each tensor by those of the rank with it, several at a time.
    ///
    /// # Errors
    /// As [`Group::sum`].
    pub fn broadcast_each(&self, tensors: impl IntoIterator<Item = (Tensor, usize)>) -> Result<()> {
        self.each("broadcast", tensors.into_iter().map(|(tensor, from)| (tensor, Operation::Broadcast(from))))
    }

    /// Sends numbers to one rank, which calls [`Group::receive`] meanwhile.
    ///
    /// # Errors
    /// As [`Group::sum`].
    pub fn send(&self, tensor: &Tensor, to: usize) -> Result<()> {
        let mut plain = no_grad(|| tensor.detach().to_device(Device::Cpu).contiguous());
        self.operate("send", |ring| ring.send(&mut plain, to))
    }

    /// Replaces numbers by those that a rank sends.
    ///
    /// # Errors
    /// As [`Group::sum`].
    pub fn receive(&self, tensor: &mut Tensor, from: usize) -> Result<()> {
        self.operate("receive", |ring| in_main_memory(tensor, |tensor| ring.receive(tensor, from)))
    }

    /// In-place operations, all started before waiting for the first; but those on tensors that have gaps, or are on another
    /// device without collectives of its own, one after the other.
    fn each(&self, what: &str, tensors: impl IntoIterator<Item = (Tensor, Operation)>) -> Result<()> {
        self.operate(what, |ring| {
            let gpus = self.gpus();
            let (mut begun, mut is_on_gpus) = (Vec::new(), false);
            for (tensor, operation) in tensors {
                let mut tensor = tensor.detach();
                if let Some(gpus) = gpus.as_ref().filter(|gpus| gpus.takes(&tensor)) {
                    gpus.begin(operation, &tensor)?;
                    is_on_gpus = true;
                } else if is_plain(&tensor) {
                    begun.push(ring.begin(operation, &mut tensor)?);
                } else {
                    in_main_memory(&mut tensor, |tensor| ring.begin(operation, tensor)?.wait())?;
                }
            }
            begun.into_iter().try_for_each(Work::wait)?;
            match gpus.as_ref().filter(|_| is_on_gpus) {
                Some(gpus) => together(ring, self.timeout(), || gpus.is_over()),
                None => Ok(()),
            }
        })
    }

    /// All ranks' vectors of one length as one vector in main memory.
    ///
    /// # Errors
    /// As [`Group::sum`].
    pub fn gather_tensor(&self, own: &Tensor) -> Result<Tensor> {
        if self.is_alone() {
            return Ok(own.shallow_clone());
        }
        let mut own = own.to_device(Device::Cpu).contiguous();
        let mut all = Tensor::empty([own.numel() as i64 * self.world() as i64], (own.kind(), Device::Cpu));
        self.operate("gather", |ring| ring.gather(&mut all, &mut own))?;
        Ok(all)
    }

    /// Float32 tensors of one shape of all ranks, rank by rank; a rank may have any number of them.
    ///
    /// # Errors
    /// As [`Group::sum`].
    pub fn gather_rows(&self, own: &[Tensor], shape: &[i64]) -> Result<Vec<Tensor>> {
        let counts = self.gather_numbers(&[own.len() as f64])?;
        let counts: Vec<i64> = counts.iter().map(|count| count[0] as i64).collect();
        let most = counts.iter().copied().max().unwrap_or(0);
        let size = [&[most], shape].concat();
        let padded = Tensor::zeros(&size, (Kind::Float, Device::Cpu));
        for (place, row) in (0..).zip(own) {
            padded.get(place).copy_(row);
        }
        if most == 0 {
            return Ok(Vec::new());
        }
        let all = self
            .gather_tensor(&padded.view(-1))?
            .view([&[counts.len() as i64], size.as_slice()].concat().as_slice());
        let rows = (0..).zip(&counts).flat_map(|(rank, &count)| {
            let of_rank = all.get(rank);
            (0..count).map(move |row| of_rank.get(row))
        });
        Ok(rows.collect())
    }
}

fn is_plain(tensor: &Tensor) -> bool {
    tensor.device() == Device::Cpu && tensor.is_contiguous()
}

/// An operation in place on a tensor, or on a plain copy of it that is copied back.
fn in_main_memory(
    tensor: &mut Tensor,
    work: impl FnOnce(&mut Tensor) -> operation::Result<()>,
) -> operation::Result<()> {
    no_grad(|| {
        let mut plain = tensor.detach();
        if is_plain(&plain) {
            return work(&mut plain);
        }
        let mut staged = plain.to_device(Device::Cpu).contiguous();
        work(&mut staged)?;
        plain.copy_(&staged);
        Ok(())
    })
}
