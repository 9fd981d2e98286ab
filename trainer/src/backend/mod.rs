//! What a device does its own way: the number format it trains in, and how much it processes at once.

pub mod cpu;
pub mod gpu;
pub mod libtorch;
pub mod memory;

use schemas::settings::{Dtype, StudentSettings};
use tch::Device;

/// Fills in the settings that depend on the device: `student.dtype` and `rollout.sampling_dtype` of `auto`, and a
/// `student.decode_batch` of 0.
pub fn resolve(student: &mut StudentSettings, sampling_dtype: &mut Option<Dtype>, device: Device) {
    if student.dtype == Dtype::Auto {
        student.dtype = default_dtype(device, gpu::first().map(|gpu| gpu.capability));
    }
    if *sampling_dtype == Some(Dtype::Auto) {
        *sampling_dtype = None;
    }
    if student.decode_batch == 0 {
        student.decode_batch = default_decode_batch(device);
    }
}

/// bfloat16 on a GPU whose units multiply it (compute capability 8.0 and later); float32 elsewhere, where it costs little
/// and a resumed run ends with the same bits.
fn default_dtype(device: Device, capability: Option<(i32, i32)>) -> Dtype {
    match device {
        Device::Cuda(_) if capability.is_some_and(|(major, _)| major >= 8) => Dtype::Bfloat16,
        _ => Dtype::Float32,
    }
}

/// Rows decoded together: a CPU is as fast with few, a GPU waits for kernels to start unless there are many.
fn default_decode_batch(device: Device) -> u32 {
    match device {
        Device::Cpu => 32,
        _ => 256,
    }
}

/// Positions whose logits are held at once: with a vocabulary of 32,128, a position's float32 logits take 128 KiB. 512
/// positions keep a CPU busy; a GPU needs more for each of its kernels.
pub fn head_positions(device: Device) -> i64 {
    match device {
        Device::Cpu => 512,
        _ => 4096,
    }
}

/// Source and target tokens, padding included, of the problems that a teacher-forced pass without gradients processes
/// at once; `None` for all. On a CPU more would not be faster, but use more memory.
pub fn forced_tokens(device: Device) -> Option<usize> {
    match device {
        Device::Cpu => Some(2048),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::Settings;

    const GPU: Device = Device::Cuda(0);

    #[test]
    fn each_device_has_its_own_numbers() {
        assert!(head_positions(GPU) > head_positions(Device::Cpu));
        assert_eq!((default_decode_batch(Device::Cpu), default_decode_batch(GPU)), (32, 256));
        for (device, capability, expected) in [
            (Device::Cpu, Some((9, 0)), Dtype::Float32),
            (GPU, Some((9, 0)), Dtype::Bfloat16),
            (GPU, Some((7, 5)), Dtype::Float32),
            (GPU, None, Dtype::Float32),
        ] {
            assert_eq!(default_dtype(device, capability), expected, "{device:?} {capability:?}");
        }
    }

    #[test]
    fn what_was_set_stays() {
        let (mut student, mut sampling) = (Settings::default().student, Some(Dtype::Auto));
        resolve(&mut student, &mut sampling, Device::Cpu);
        assert_eq!((student.dtype, student.decode_batch, sampling), (Dtype::Float32, 32, None));
        (student.dtype, student.decode_batch, sampling) = (Dtype::Bfloat16, 7, Some(Dtype::Float32));
        resolve(&mut student, &mut sampling, GPU);
        assert_eq!((student.dtype, student.decode_batch), (Dtype::Bfloat16, 7));
        assert_eq!(sampling, Some(Dtype::Float32));
    }
}
