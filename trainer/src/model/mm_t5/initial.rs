//! Random weights of a new student.

use super::config::StudentConfig;
use tch::{Device, Kind, Tensor};

/// A random weight as Hugging Face initialises a T5 (normal with a scale by fan-in), and of the fusion layers as PyTorch does
/// (uniform within ±1/√fan-in; Xavier for the attention's input projection).
pub(super) fn initial(config: &StudentConfig, name: &str, shape: &[i64]) -> Tensor {
    let options = (Kind::Float, Device::Cpu);
    let normal = |deviation: f64| Tensor::randn(shape, options).g_mul_scalar_(deviation);
    let uniform = |bound: f64| Tensor::rand(shape, options).g_mul_scalar_(2.0 * bound).g_sub_scalar_(bound);
    let (d, ff) = (config.d_model as f64, config.d_ff as f64);
    let inner = (config.num_heads * config.d_kv) as f64;
    let last = name.trim_end_matches(".weight").rsplit('.').next().unwrap_or_default();
    match (last, name.ends_with(".weight")) {
        ("layer_norm" | "final_layer_norm", _) => Tensor::ones(shape, options),
        ("shared", _) => normal(1.0),
        ("lm_head", _) => normal(d.powf(-0.5)),
        ("q", _) => normal((d * config.d_kv as f64).powf(-0.5)),
        ("k" | "v", _) => normal(d.powf(-0.5)),
        ("o", _) => normal(inner.powf(-0.5)),
        ("relative_attention_bias", _) => normal(d.powf(-0.5)),
        ("wi" | "wi_0" | "wi_1", _) => normal(d.powf(-0.5)),
        ("wo", _) => normal(ff.powf(-0.5)),
        ("in_proj_weight", _) => uniform((6.0 / (d + 3.0 * d)).sqrt()),
        ("in_proj_bias", _) => Tensor::zeros(shape, options),
        (_, true) => uniform((*shape.last().unwrap_or(&1) as f64).powf(-0.5)),
        _ if name.starts_with("encoder.mha_layer") => Tensor::zeros(shape, options),
        _ if name.starts_with("encoder.image_dense") => {
            uniform((config.image_feature_width as f64).powf(-0.5))
        }
        _ if name.starts_with("encoder.gate_dense") => uniform((2.0 * d).powf(-0.5)),
        _ => Tensor::zeros(shape, options),
    }
}
