//! Devices: the backend of each kind, libtorch's global state, and recovery from running out of memory.

pub mod cpu;
pub mod device;
pub mod gpu;
pub mod interface;
pub mod libtorch;
pub mod memory;

pub use interface::Backend;

use cpu::Cpu;
use device::Gpu;
use schemas::settings::{Dtype, StudentSettings};
use tch::Device;

/// The backend of a device.
pub fn of(device: Device) -> &'static dyn Backend {
    match device {
        Device::Cpu => &Cpu,
        _ => &Gpu,
    }
}

/// Fills in the settings that depend on the device: `student.dtype` and `rollout.sampling_dtype` if `auto`, and
/// `student.decode_batch` if 0.
pub fn resolve(student: &mut StudentSettings, sampling_dtype: &mut Option<Dtype>, device: Device) {
    let backend = of(device);
    if student.dtype == Dtype::Auto {
        student.dtype = backend.dtype();
    }
    if *sampling_dtype == Some(Dtype::Auto) {
        *sampling_dtype = None;
    }
    if student.decode_batch == 0 {
        student.decode_batch = backend.decode_batch();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::Settings;

    const GPU: Device = Device::Cuda(0);

    #[test]
    fn each_device_has_its_own_numbers() {
        let (cpu, gpu) = (of(Device::Cpu), of(GPU));
        assert!(gpu.head_positions() > cpu.head_positions());
        assert_eq!((cpu.decode_batch(), gpu.decode_batch()), (32, 256));
        assert_eq!(cpu.dtype(), Dtype::Float32);
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
