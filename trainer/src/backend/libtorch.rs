//! Which device to run on, and how libtorch allocates memory. `libtorch_cuda` is loaded at run time if there is a GPU, so one
//! binary serves both.

use crate::error::{Error, Result};
use schemas::settings::{Device as DeviceSetting, Dtype};
use std::path::{Path, PathBuf};
use tch::{Cuda, Device, Kind};

/// The device that the settings ask for; `auto` takes a GPU if there is one, and warns if there are signs of one that
/// cannot be used.
///
/// # Errors
/// If `cuda` was asked for and there is no usable GPU.
pub fn device(setting: DeviceSetting) -> Result<Device> {
    if setting == DeviceSetting::Cpu {
        return Ok(Device::Cpu);
    }
    let signs = Signs::find();
    if setting == DeviceSetting::Cuda || signs.driver {
        load_cuda();
        if Cuda::is_available() {
            return Ok(Device::Cuda(0));
        }
    }
    let reason = signs.reason();
    if setting == DeviceSetting::Cuda {
        let reason = reason.map_or(String::new(), |reason| format!(": {reason}"));
        let message = format!("student.device is cuda, but libtorch finds no GPU{reason}");
        return Err(Error::input(message, "next: --device cpu, or make setup on the machine with the GPU"));
    }
    if let Some(reason) = reason {
        schemas::warn!(
            "warning: no GPU is used: {reason}. Running on the CPU; --device cpu silences this warning"
        );
    }
    Ok(Device::Cpu)
}

/// Signs that there is a GPU, or that one was meant to be used.
#[derive(Debug, Clone, Default)]
struct Signs {
    /// NVIDIA's driver, natively or under WSL.
    driver: bool,
    /// A libtorch with CUDA.
    library: bool,
    /// `CUDA_VISIBLE_DEVICES`, if it names a device.
    named: Option<String>,
}

impl Signs {
    fn find() -> Self {
        let named = std::env::var("CUDA_VISIBLE_DEVICES").ok();
        Self {
            driver: ["/dev/nvidiactl", "/dev/dxg"].iter().any(|device| Path::new(device).exists()),
            library: cuda_library().is_some_and(|library| library.is_file()),
            named: named.filter(|named| !matches!(named.trim(), "" | "-1" | "none" | "NoDevFiles")),
        }
    }

    /// Why the GPU that these signs point to is not used; `None` if there are none.
    fn reason(&self) -> Option<String> {
        match self {
            Self { driver: true, library: false, .. } => Some(
                "an NVIDIA driver is installed, but this libtorch supports the CPU only (make setup installs the one with CUDA)"
                    .to_owned(),
            ),
            Self { driver: true, .. } => Some(
                "libtorch cannot use the GPU that the driver reports: the driver may be too old for its CUDA version, or hide the GPU"
                    .to_owned(),
            ),
            Self { named: Some(named), .. } => {
                Some(format!("CUDA_VISIBLE_DEVICES is {named}, but there is no NVIDIA driver{CONTAINER}"))
            }
            Self { library: true, .. } => {
                Some(format!("this libtorch has CUDA, but there is no NVIDIA driver{CONTAINER}"))
            }
            _ => None,
        }
    }
}

/// Where a driver is most often missing.
const CONTAINER: &str = " (a container needs --gpus all)";

/// Device and arithmetic as text, for messages and for the identity of a resumable run.
pub fn described(device: Device) -> String {
    match device {
        Device::Cuda(_) => {
            let name =
                crate::backend::gpu::first().map_or_else(|| "an NVIDIA GPU".to_owned(), |gpu| gpu.name);
            let tf32 = match tf32() {
                Some(true) => "with TF32",
                Some(false) => "without TF32",
                None => "with libtorch's default for TF32",
            };
            format!("{name}, float32 products {tf32}")
        }
        Device::Cpu => format!("cpu, {} threads", tch::get_num_threads()),
        other => format!("{other:?}"),
    }
}

/// libtorch's global settings, through the functions it exports for C++.
mod context {
    #![allow(unsafe_code)]

    use std::ffi::c_void;

    type Global = unsafe extern "C" fn() -> *mut c_void;
    type Get = unsafe extern "C" fn(*const c_void) -> bool;
    type Set = unsafe extern "C" fn(*mut c_void, bool);

    /// A function of this process; `None` if libtorch does not have it under this name.
    #[cfg(unix)]
    unsafe fn find<T: Copy>(name: &[u8]) -> Option<T> {
        // SAFETY: the caller names a function of type T.
        unsafe { libloading::os::unix::Library::this().get::<T>(name).ok().map(|symbol| *symbol) }
    }

    #[cfg(not(unix))]
    unsafe fn find<T: Copy>(_: &[u8]) -> Option<T> {
        None
    }

    /// Whether products in float32 may use TF32; `None` if libtorch does not say.
    pub(super) fn tf32() -> Option<bool> {
        // SAFETY: `Context& at::globalContext()` and `bool at::Context::allowTF32CuBLAS() const`.
        unsafe {
            let global: Global = find(b"_ZN2at13globalContextEv\0")?;
            let get: Get = find(b"_ZNK2at7Context15allowTF32CuBLASEv\0")?;
            Some(get(global()))
        }
    }

    /// Sets it, for products and convolutions.
    pub(super) fn set_tf32(allowed: bool) -> Option<()> {
        // SAFETY: as above; both are `void at::Context::setAllow…(bool)`.
        unsafe {
            let global: Global = find(b"_ZN2at13globalContextEv\0")?;
            let products: Set = find(b"_ZN2at7Context18setAllowTF32CuBLASEb\0")?;
            let convolutions: Set = find(b"_ZN2at7Context17setAllowTF32CuDNNEb\0")?;
            products(global(), allowed);
            convolutions(global(), allowed);
        }
        Some(())
    }
}

/// Whether products in float32 may round their inputs to TF32 on a GPU; `None` if libtorch does not say.
pub fn tf32() -> Option<bool> {
    context::tf32()
}

/// Allows that, or forbids it. Returns whether libtorch does so now.
pub fn set_tf32(allowed: bool) -> bool {
    context::set_tf32(allowed).is_some() && context::tf32() == Some(allowed)
}

/// Compute dtype of matrix products for the requested `dtype`. On a processor without bfloat16 instructions, libtorch
/// multiplies bfloat16 numbers one by one, a hundred times slower than in float32, so products run in float32 there.
pub fn product_kind(dtype: Dtype, device: Device) -> Kind {
    match dtype {
        Dtype::Bfloat16 if multiplies_bfloat16(device) => Kind::BFloat16,
        Dtype::Bfloat16 | Dtype::Float32 | Dtype::Auto => Kind::Float,
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

/// Makes the C library keep freed memory for the next step. By default it returns each large tensor to the system, which then
/// has to clear every page of the next one: a seventh of a training step's time.
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
    set_unless_set("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64");
}

/// Silences libtorch's own log unless the user configured it: failures between ranks are reported as errors, without a C++
/// stack trace before them. Also turns off the unused recording of each operation between ranks with its trace.
pub fn keep_traces_short() {
    set_unless_set("TORCH_CPP_LOG_LEVEL", "FATAL");
    set_unless_set("TORCH_FR_BUFFER_SIZE", "0");
}

/// Sets an environment variable that libtorch reads later. Must be called before other threads run.
fn set_unless_set(name: &str, value: &str) {
    if std::env::var_os(name).is_none() {
        #[allow(unsafe_code)]
        // SAFETY: no other thread runs that could read the environment.
        unsafe {
            std::env::set_var(name, value);
        }
    }
}

/// Loads `libtorch_cuda.so` from the folder of `libtorch_cpu.so`; if it is missing, CUDA is unavailable.
#[allow(unsafe_code)]
fn load_cuda() {
    let Some(path) = cuda_library() else { return };
    if path.is_file() {
        // SAFETY: the library comes from the same libtorch as libtorch_cpu, which expects it to be loaded this way.
        match unsafe { libloading::Library::new(&path) } {
            Ok(library) => std::mem::forget(library), // it registers itself and must stay for good
            Err(error) => schemas::warn!("cannot load {}: {error}", path.display()),
        }
    }
}

/// Where `libtorch_cuda.so` would be.
fn cuda_library() -> Option<PathBuf> {
    folder_of_libtorch().map(|folder| folder.join("libtorch_cuda.so"))
}

fn folder_of_libtorch() -> Option<PathBuf> {
    Some(loaded("libtorch_cpu.so")?.parent()?.to_path_buf())
}

/// Path of a library that this process has loaded; its name may have a version after `name`.
pub fn loaded(name: &str) -> Option<PathBuf> {
    find_mapped(&std::fs::read_to_string("/proc/self/maps").ok()?, name)
}

/// As [`loaded`], from the lines of `/proc/self/maps`.
fn find_mapped(maps: &str, name: &str) -> Option<PathBuf> {
    let mut paths = maps.lines().filter_map(|line| line.get(line.find('/')?..)).map(Path::new);
    let is_it = |path: &&Path| {
        let version =
            path.file_name().and_then(|file| file.to_str()).and_then(|file| file.strip_prefix(name));
        version.is_some_and(|version| version.is_empty() || version.starts_with('.'))
    };
    paths.find(is_it).map(Path::to_path_buf)
}

/// Makes one of several GPUs visible to libtorch: that of the rank with this number on its machine. The devices in
/// `CUDA_VISIBLE_DEVICES` are numbered from 0; a single one is kept, since launchers may give each rank its own. Must be called
/// before other threads run.
pub fn see_one_gpu(local_rank: usize) {
    if !Signs::find().driver {
        return;
    }
    if let Some(own) = own_gpu(std::env::var("CUDA_VISIBLE_DEVICES").ok().as_deref(), local_rank) {
        #[allow(unsafe_code)]
        // SAFETY: no other thread runs that could read the environment.
        unsafe {
            std::env::set_var("CUDA_VISIBLE_DEVICES", own);
        }
    }
}

/// The GPU of a rank; `None` if the variable stays unchanged.
fn own_gpu(visible: Option<&str>, local_rank: usize) -> Option<String> {
    let Some(visible) = visible else { return Some(local_rank.to_string()) };
    let visible: Vec<&str> = visible.split(',').map(str::trim).filter(|one| !one.is_empty()).collect();
    match visible.as_slice() {
        [] | [_] => None,
        // No GPU is left for it: CUDA sees none if the number is unknown.
        several => Some(several.get(local_rank).map_or("-1", |own| own).to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unused_gpu_has_a_reason() {
        let signs = |driver, library, named: Option<&str>| Signs {
            driver,
            library,
            named: named.map(ToOwned::to_owned),
        };
        assert_eq!(signs(false, false, None).reason(), None, "a machine without a GPU needs no warning");
        for (signs, part) in [
            (signs(true, false, None), "supports the CPU only"),
            (signs(true, true, None), "too old"),
            (signs(false, true, None), "no NVIDIA driver"),
            (signs(false, false, Some("0")), "CUDA_VISIBLE_DEVICES is 0"),
        ] {
            assert!(signs.reason().is_some_and(|reason| reason.contains(part)), "{signs:?}");
        }
    }

    #[test]
    fn a_rank_has_the_gpu_of_its_number() {
        let own = |visible, local_rank| own_gpu(visible, local_rank);
        assert_eq!(own(None, 3).as_deref(), Some("3"));
        assert_eq!(own(Some("4,5, GPU-6"), 2).as_deref(), Some("GPU-6"));
        assert_eq!(own(Some("4,5"), 2).as_deref(), Some("-1"), "more ranks than GPUs");
        assert_eq!(own(Some("7"), 1), None, "the launcher has chosen");
        assert_eq!(own(Some(""), 1), None, "no GPU was meant to be seen");
    }

    #[test]
    fn a_loaded_library_is_found_by_its_name() {
        let maps = "7f0-7f1 r-xp 0000 00:1f 12   /opt/a b/libnccl.so.2\n7f1-7f2 r--p 0000 00:1f 13   /x/libnccl.source\n\
                    7f3-7f4 rw-p 0000 00:00 0    [heap]\n7f5-7f6 r-xp 0000 00:1f 14   /opt/libcudart.so.13";
        assert_eq!(find_mapped(maps, "libnccl.so"), Some("/opt/a b/libnccl.so.2".into()));
        assert_eq!(find_mapped(maps, "libcudart.so"), Some("/opt/libcudart.so.13".into()));
        assert_eq!(find_mapped(maps, "libcuda.so"), None);
        assert_eq!(find_mapped(maps, "libtorch_cpu.so"), None);
        assert!(loaded("libtorch_cpu.so").is_some_and(|path| path.is_file()), "this test runs on it");
    }

    #[test]
    fn tf32_is_what_was_set() {
        for allowed in [true, false] {
            assert!(set_tf32(allowed), "libtorch exports the setting");
            assert_eq!(tf32(), Some(allowed));
        }
    }
}
