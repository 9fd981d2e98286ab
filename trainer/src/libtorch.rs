//! Which device to run on, and how libtorch gets memory. `libtorch_cuda` is loaded at run time, where a GPU is there: one
//! binary serves both.

use crate::error::{Error, Result};
use schemas::settings::{Device as DeviceSetting, Dtype};
use std::path::{Path, PathBuf};
use tch::{Cuda, Device, Kind};

/// The device that the settings ask for; `auto` takes a GPU if there is one.
///
/// # Errors
/// If `cuda` was asked for and there is no usable GPU.
pub fn device(setting: DeviceSetting) -> Result<Device> {
    let wanted = match setting {
        DeviceSetting::Cpu => return Ok(Device::Cpu),
        DeviceSetting::Auto => Path::new("/dev/nvidiactl").exists(),
        DeviceSetting::Cuda => true,
    };
    if wanted {
        load_cuda();
        if Cuda::is_available() {
            return Ok(Device::Cuda(0));
        }
    }
    if setting == DeviceSetting::Cuda {
        let message = "student.device is cuda, but libtorch finds no GPU";
        return Err(Error::input(message, "next: --device cpu, or make setup on the machine with the GPU"));
    }
    Ok(Device::Cpu)
}

/// Number format in which matrix products run where `dtype` is asked for: on a processor that cannot multiply bfloat16
/// numbers libtorch does so one by one, a hundred times slower than in float32, so that those products run in float32.
pub fn product_kind(dtype: Dtype, device: Device) -> Kind {
    match dtype {
        Dtype::Bfloat16 if multiplies_bfloat16(device) => Kind::BFloat16,
        Dtype::Bfloat16 | Dtype::Float32 => Kind::Float,
    }
}

/// Whether `device` has instructions for products of bfloat16 numbers.
pub fn multiplies_bfloat16(device: Device) -> bool {
    match device {
        #[cfg(target_arch = "x86_64")]
        Device::Cpu => is_x86_feature_detected!("avx512bf16"),
        #[cfg(target_arch = "aarch64")]
        Device::Cpu => std::arch::is_aarch64_feature_detected!("bf16"),
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        Device::Cpu => false,
        _ => true,
    }
}

/// Has the C library keep freed memory for the next step. By itself it gives each large tensor back to the system, which
/// then has to clear every page of the next one: a seventh of a training step's time.
pub fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[allow(unsafe_code)]
    // SAFETY: only changes two numbers of the allocator, before other threads run.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
    }
}

/// Limits the cache of oneDNN, which generates code for each shape of a bfloat16 product. By default it keeps a
/// thousand shapes, most of which never recur: half a gigabyte scattered between the tensors.
pub fn keep_few_products() {
    const CAPACITY: &str = "ONEDNN_PRIMITIVE_CACHE_CAPACITY";
    if std::env::var_os(CAPACITY).is_none() {
        #[allow(unsafe_code)]
        // SAFETY: called before other threads run.
        unsafe {
            std::env::set_var(CAPACITY, "64");
        }
    }
}

/// Loads `libtorch_cuda.so` from the folder of `libtorch_cpu.so`; if it is missing, CUDA is unavailable.
#[allow(unsafe_code)]
fn load_cuda() {
    let Some(path) = folder_of_libtorch().map(|folder| folder.join("libtorch_cuda.so")) else { return };
    if path.is_file() {
        // SAFETY: the library comes from the same libtorch as libtorch_cpu, which expects it to be loaded this way.
        match unsafe { libloading::Library::new(&path) } {
            Ok(library) => std::mem::forget(library), // it registers itself and must stay for good
            Err(error) => schemas::warn!("cannot load {}: {error}", path.display()),
        }
    }
}

fn folder_of_libtorch() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("/libtorch_cpu.so"))?;
    Some(Path::new(line.get(line.find('/')?..)?).parent()?.to_path_buf())
}
