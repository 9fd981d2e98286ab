//! The first NVIDIA GPU as its driver describes it.

#![allow(unsafe_code)] // calls of the driver's C functions

use libloading::Library;
use std::ffi::{CStr, c_char, c_int};
use std::sync::OnceLock;

/// A GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Product name.
    pub name: String,
    /// Compute capability: major, minor.
    pub capability: (i32, i32),
    /// Memory in bytes.
    pub memory: usize,
}

/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR`; the minor one follows.
const CAPABILITY: c_int = 75;

/// The first GPU visible under `CUDA_VISIBLE_DEVICES`; `None` without a driver. Queried once.
pub fn first() -> Option<Gpu> {
    static FIRST: OnceLock<Option<Gpu>> = OnceLock::new();
    FIRST.get_or_init(ask).clone()
}

/// Queries the driver, whose functions return 0 on success.
fn ask() -> Option<Gpu> {
    // SAFETY: the signatures are those of cuda.h; every pointer is valid for the length passed with it, and the library stays
    // loaded, since libtorch may use it too.
    unsafe {
        let driver = Library::new("libcuda.so.1").ok()?;
        let init = *driver.get::<unsafe extern "C" fn(u32) -> c_int>(b"cuInit\0").ok()?;
        let get = *driver.get::<unsafe extern "C" fn(*mut c_int, c_int) -> c_int>(b"cuDeviceGet\0").ok()?;
        let get_name = *driver
            .get::<unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int>(b"cuDeviceGetName\0")
            .ok()?;
        let attribute = *driver
            .get::<unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int>(b"cuDeviceGetAttribute\0")
            .ok()?;
        let total =
            *driver.get::<unsafe extern "C" fn(*mut usize, c_int) -> c_int>(b"cuDeviceTotalMem_v2\0").ok()?;
        std::mem::forget(driver);
        let (mut device, mut memory, mut name) = (0, 0, [0; 256]);
        let found = init(0) == 0
            && get(&raw mut device, 0) == 0
            && get_name(name.as_mut_ptr(), 255, device) == 0
            && total(&raw mut memory, device) == 0;
        let number = |what: c_int| {
            let mut number = 0;
            (attribute(&raw mut number, what, device) == 0).then_some(number)
        };
        let capability = (number(CAPABILITY)?, number(CAPABILITY + 1)?);
        let name = CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned();
        found.then_some(Gpu { name, capability, memory })
    }
}
