//! Float32 numbers as their bits, for `#[serde(with)]`: as decimals they would come back in other last digits.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(crate) fn serialize<S: Serializer>(numbers: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
    numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>().serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f32>, D::Error> {
    let bits = Vec::<u32>::deserialize(deserializer)?;
    Ok(bits.into_iter().map(f32::from_bits).collect())
}

/// A row's numbers on their way to other ranks.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Numbers(#[serde(with = "self")] pub(crate) Vec<f32>);
