//! An optimizer's state as named tensors of a step checkpoint, independent of how it was sharded.

use super::adamw::AdamW;
use crate::error::{Error, Result};
use crate::nn::weights::Weights;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// First and second moments.
const KEYS: [&str; 2] = ["adam.m.", "adam.v."];

/// Checks a saved state of these weights, given the size of each of its tensors.
///
/// # Errors
/// If a moment is missing or of another size: the message names it.
pub(crate) fn check_state(
    saved: &BTreeMap<String, usize>,
    weights: &[(&str, &Weights)],
) -> Result<(), String> {
    let sizes = lengths(weights).collect();
    names(saved.keys(), &sizes, |key| saved.get(key).copied().unwrap_or(0)).map(|_| ())
}

/// Numbers of each weight, by `<set>.<weight>`.
fn lengths(weights: &[(&str, &Weights)]) -> impl Iterator<Item = (String, usize)> {
    let named = |&(set, weights): &(&str, &Weights)| {
        let lengths = weights.iter().map(move |(name, weight)| (format!("{set}.{name}"), weight.numel()));
        lengths.collect::<Vec<_>>()
    };
    weights.iter().flat_map(named).collect::<Vec<_>>().into_iter()
}

/// The weights that have moments among these keys, which must have these sizes.
fn names<'a>(
    keys: impl Iterator<Item = &'a String>,
    sizes: &BTreeMap<String, usize>,
    found: impl Fn(&str) -> usize,
) -> Result<Vec<String>, String> {
    let names: Vec<String> =
        keys.filter_map(|key| key.strip_prefix(KEYS[0]).map(ToOwned::to_owned)).collect();
    for name in &names {
        let expected = sizes.get(name).ok_or_else(|| format!("adam.m.{name}: no such weight is trained"))?;
        for key in KEYS.map(|key| format!("{key}{name}")) {
            let found = found(&key);
            if found != *expected {
                return Err(format!("{key}: expected {expected} float32 numbers, found {found}"));
            }
        }
    }
    Ok(names)
}

impl AdamW {
    /// State as named tensors; with [`AdamW::sharded`], this rank's parts.
    pub fn state(&self) -> Vec<(String, &Tensor)> {
        let named = self.moments.iter();
        named
            .flat_map(|(name, (m, v))| [(format!("adam.m.{name}"), m), (format!("adam.v.{name}"), v)])
            .collect()
    }

    /// Restores a saved state of these weights; with [`AdamW::sharded`], this rank's parts.
    ///
    /// # Errors
    /// If a moment is missing or of another size: the message names it.
    pub fn restore(
        &mut self,
        tensors: &mut BTreeMap<String, Tensor>,
        steps: u64,
        weights: &[(&str, &Weights)],
        device: Device,
    ) -> Result<(), String> {
        let sizes = lengths(weights).map(|(name, length)| {
            let own = self.own(&name, length as i64);
            (name, (own.end - own.start) as usize)
        });
        let of_floats = |key: &str| tensors.get(key).filter(|found| found.kind() == Kind::Float);
        let found = |key: &str| of_floats(key).map_or(0, Tensor::numel);
        for name in names(tensors.keys(), &sizes.collect(), found)? {
            let mut moment = |key: &str| {
                tensors.remove(&format!("{key}{name}")).map(|found| found.view(-1).to_device(device))
            };
            let [m, v] = KEYS.map(&mut moment);
            if let Some(moments) = m.zip(v) {
                self.moments.insert(name, moments);
            }
        }
        self.steps = steps;
        Ok(())
    }

    /// Restores this rank's part of a saved tensor, which rank 0 holds.
    ///
    /// # Errors
    /// If a rank has ended.
    pub(crate) fn deal(&self, key: &str, whole: Option<&Tensor>) -> Option<Result<Tensor>> {
        self.shards.as_ref().map(|shards| shards.deal(weight_of(key), whole))
    }
}

/// The weight that a key's moments are of.
fn weight_of(key: &str) -> &str {
    KEYS.iter().find_map(|prefix| key.strip_prefix(prefix)).unwrap_or(key)
}

/// Gathers whole moments on rank 0, one at a time, in the order of their keys. All ranks must iterate over all of them.
pub(crate) struct Moments<'a> {
    optimizer: &'a AdamW,
    tensors: std::vec::IntoIter<(String, &'a Tensor)>,
    failed: Option<Error>,
}

impl<'a> Moments<'a> {
    /// Of this optimizer.
    pub(crate) fn of(optimizer: &'a AdamW) -> Self {
        let mut tensors = optimizer.state();
        tensors.sort_by(|(left, _), (right, _)| left.cmp(right));
        Self { optimizer, tensors: tensors.into_iter(), failed: None }
    }

    /// The remaining keys, and the size of each tensor.
    pub(crate) fn lengths(&self) -> Vec<(String, i64)> {
        let length = |key: &str, own: &Tensor| match self.optimizer.shards() {
            Some(shards) => shards.length(weight_of(key)),
            None => own.numel() as i64,
        };
        self.tensors.clone().map(|(key, own)| (key.clone(), length(&key, own))).collect()
    }

    /// The next one: whole on rank 0. `None` on the others, at the end, and after a failure.
    pub(crate) fn take(&mut self) -> Option<Tensor> {
        if self.failed.is_some() {
            return None;
        }
        let (key, own) = self.tensors.next()?;
        let Some(shards) = self.optimizer.shards() else { return Some(own.shallow_clone()) };
        shards.whole(weight_of(&key), own).unwrap_or_else(|error| {
            self.failed = Some(error);
            None
        })
    }

    /// Consumes the remaining ones, for instance if the disk is full, since the other ranks send them.
    ///
    /// # Errors
    /// If a rank has ended, now or before.
    pub(crate) fn finish(mut self) -> Result<()> {
        while self.optimizer.shards().is_some() && self.failed.is_none() && self.tensors.len() > 0 {
            let _ = self.take(); // not needed
        }
        self.failed.map_or(Ok(()), Err)
    }
}
