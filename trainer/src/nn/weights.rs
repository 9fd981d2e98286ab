//! Named weights, the leaves of every gradient: copying and hashing.

use super::low_precision::LowPrecisionCache;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

/// Marks LoRA matrices among a student's weights: `lora.<layer>.A` and `lora.<layer>.B`.
pub(crate) const LORA: &str = "lora.";

/// True for the name of a LoRA matrix among a student's weights.
pub fn is_lora(name: &str) -> bool {
    name.starts_with(LORA)
}

/// Factor and dropout of the LoRA matrices in a set of weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoraScaling {
    /// Factor of all pairs.
    pub factor: f64,
    /// Dropout before A in training.
    pub dropout: f64,
}

/// Weights by name, float32. Sorted by name, so that every iteration has the same order.
#[derive(Debug, Default)]
pub struct Weights {
    tensors: BTreeMap<String, Tensor>,
    copies: Rc<LowPrecisionCache>,
    /// Set if they include LoRA matrices.
    scaling: Option<LoraScaling>,
}

impl Weights {
    /// Weights of these tensors.
    pub fn new(tensors: BTreeMap<String, Tensor>) -> Self {
        Self { tensors, ..Self::default() }
    }

    /// The weight of this name.
    ///
    /// # Panics
    /// If there is none: every set of weights is checked against its configuration when it is read.
    pub fn get(&self, name: &str) -> Tensor {
        match self.tensors.get(name) {
            Some(tensor) => tensor.shallow_clone(),
            None => unreachable!("weights were checked when they were read, but `{name}` is missing"),
        }
    }

    /// The weight of this name, if there is one.
    pub fn find(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// Adds or replaces a weight.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) {
        let name = name.into();
        self.copies.forget(&name);
        self.tensors.insert(name, tensor);
    }

    /// Adds all weights of another set, replacing those of the same names.
    pub fn extend(&mut self, others: Self) {
        others.tensors.into_iter().for_each(|(name, tensor)| self.insert(name, tensor));
    }

    /// Removes a weight.
    pub fn remove(&mut self, name: &str) -> Option<Tensor> {
        self.copies.forget(name);
        self.tensors.remove(name)
    }

    /// All names and weights, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The low-precision cache of these weights, which all students of these weights share.
    pub fn copies(&self) -> Rc<LowPrecisionCache> {
        Rc::clone(&self.copies)
    }

    /// Factor and dropout of their LoRA matrices; `None` if there are none.
    pub fn scaling(&self) -> Option<LoraScaling> {
        self.scaling
    }

    /// Sets factor and dropout of their LoRA matrices.
    pub fn set_scaling(&mut self, scaling: Option<LoraScaling>) {
        self.scaling = scaling;
    }

    /// Number of parameters.
    pub fn count(&self) -> i64 {
        self.tensors.values().map(|tensor| tensor.numel() as i64).sum()
    }

    /// Number of parameters that are trained.
    pub fn trained_count(&self) -> i64 {
        let trained = self.tensors.values().filter(|tensor| tensor.requires_grad());
        trained.map(|tensor| tensor.numel() as i64).sum()
    }

    /// A deep copy on `device`, without gradients.
    pub fn copy_to(&self, device: Device) -> Self {
        self.copy_some(device, |_| true)
    }

    /// A deep copy of the LoRA matrices alone.
    pub fn copy_lora(&self, device: Device) -> Self {
        self.copy_some(device, is_lora)
    }

    fn copy_some(&self, device: Device, wanted: impl Fn(&str) -> bool) -> Self {
        let some = self.tensors.iter().filter(|(name, _)| wanted(name));
        let copies = some.map(|(name, tensor)| (name.clone(), tensor.detach().to_device(device).copy()));
        Self { scaling: self.scaling, ..Self::new(copies.collect()) }
    }

    /// These weights on `device`; copied only if they are elsewhere.
    pub fn into_device(self, device: Device) -> Self {
        let moved = self.tensors.into_iter().map(|(name, tensor)| (name, tensor.detach().to_device(device)));
        Self { scaling: self.scaling, ..Self::new(moved.collect()) }
    }

    /// The same weights, in the same memory, with the LoRA matrices of `adapter` in place of their own. The low-precision cache
    /// is shared too.
    pub fn with_lora_of(&self, adapter: &Self) -> Self {
        let own = self.tensors.iter().filter(|(name, _)| !is_lora(name));
        let added = adapter.tensors.iter().filter(|(name, _)| is_lora(name));
        let tensors = own.chain(added).map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
        Self { tensors: tensors.collect(), copies: self.copies(), scaling: adapter.scaling }
    }

    /// Gradients by name of the weights that are trained and have one: in float32, or in the dtype of the copies used by
    /// products.
    pub fn gradients(&self) -> BTreeMap<String, Tensor> {
        let mut gradients = self.copies.gradients();
        for (name, weight) in self.tensors.iter().filter(|(_, weight)| weight.requires_grad()) {
            let own = weight.grad();
            if own.defined() {
                gradients.entry(name.clone()).or_insert(own);
            }
        }
        gradients
    }

    /// Enables gradients for the weights whose names `trainable` accepts, and disables them for all others.
    pub fn train_only(&self, trainable: impl Fn(&str) -> bool) {
        for (name, tensor) in &self.tensors {
            let _ = tensor.set_requires_grad(trainable(name));
        }
    }

    /// Enables gradients for the LoRA matrices if there are any, else for all weights.
    pub fn train(&self) {
        self.train_only(|name| self.scaling.is_none() || is_lora(name));
    }

    /// sha256 over names, shapes and float32 bytes: the fingerprint in the `policy` column. With LoRA matrices, it combines the
    /// fingerprint of all other weights, the matrices, and their factor.
    pub fn fingerprint(&self) -> String {
        self.fingerprint_on(&self.trunk_fingerprint())
    }

    /// Fingerprint of all weights but LoRA matrices.
    pub fn trunk_fingerprint(&self) -> String {
        fingerprint(self.tensors.iter().filter(|(name, _)| !is_lora(name)))
    }

    /// [`Weights::fingerprint`], if that of all but the LoRA matrices is known.
    pub(crate) fn fingerprint_on(&self, trunk: &str) -> String {
        let Some(LoraScaling { factor, .. }) = self.scaling else { return trunk.to_owned() };
        let matrices = fingerprint(self.tensors.iter().filter(|(name, _)| is_lora(name)));
        schemas::provenance::sha256_hex(format!("{trunk} {matrices} {factor:?}").as_bytes())
    }
}

/// sha256 over names, shapes and float32 bytes, in the order of names.
pub(crate) fn fingerprint<'a>(tensors: impl IntoIterator<Item = (&'a String, &'a Tensor)>) -> String {
    let mut hash = Sha256::new();
    for (name, tensor) in tensors {
        hash.update(name.as_bytes());
        hash.update(format!("{:?}", tensor.size()));
        let Ok(()) = each_bytes(tensor, |bytes| -> Result<(), std::convert::Infallible> {
            hash.update(bytes);
            Ok(())
        });
    }
    schemas::provenance::hex(&hash.finalize())
}

/// Numbers converted to bytes at a time.
const NUMBERS_AT_ONCE: i64 = 1 << 20;

/// Passes a tensor's little-endian float32 bytes to `take` in chunks.
///
/// # Errors
/// As `take`.
pub(crate) fn each_bytes<E>(tensor: &Tensor, mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let flat = tensor.detach().contiguous().view(-1);
    let total = flat.size()[0];
    let (mut numbers, mut bytes) = (Vec::new(), Vec::new());
    for start in (0..total).step_by(NUMBERS_AT_ONCE as usize) {
        let part = flat.narrow(0, start, NUMBERS_AT_ONCE.min(total - start));
        let part = part.to_device(Device::Cpu).to_kind(Kind::Float);
        let length = part.numel();
        numbers.resize(length, 0f32);
        part.copy_data(&mut numbers, length);
        bytes.clear();
        bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        take(&bytes)?;
    }
    Ok(())
}
