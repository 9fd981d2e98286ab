//! Kernels that a process launches on an NVIDIA GPU, counted by CUPTI, which comes with libtorch's CUDA libraries.

#![allow(unsafe_code)] // calls of CUPTI's C functions

use libloading::Library;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Names of the library, the one of CUDA 13 first.
const NAMES: [&str; 3] = ["libcupti.so.13", "libcupti.so.12", "libcupti.so"];
/// `CUPTI_CB_DOMAIN_DRIVER_API`: every kernel launch passes through it, those of libraries too.
const DRIVER_API: c_int = 1;
/// `CUPTI_API_ENTER`.
const ENTER: c_int = 0;

static COUNT: AtomicU64 = AtomicU64::new(0);

/// The first members of `CUpti_CallbackData`.
#[repr(C)]
struct Call {
    site: c_int,
    function: *const c_char,
}

type Callback = unsafe extern "C" fn(*mut c_void, c_int, c_uint, *const Call);
type Subscribe = unsafe extern "C" fn(*mut *mut c_void, Callback, *mut c_void) -> c_int;
type EnableDomain = unsafe extern "C" fn(c_uint, *mut c_void, c_int) -> c_int;

/// Counts a driver call that launches kernels: `cuLaunchKernel`, `cuLaunchKernelEx`, `cuGraphLaunch` and their variants.
unsafe extern "C" fn count(_: *mut c_void, domain: c_int, _: c_uint, call: *const Call) {
    // SAFETY: CUPTI passes a call of the driver API with a name that lives as long as the process.
    let Some(call) = (unsafe { call.as_ref() }) else { return };
    if domain != DRIVER_API || call.site != ENTER || call.function.is_null() {
        return;
    }
    // SAFETY: as above.
    if is_launch(unsafe { CStr::from_ptr(call.function) }) {
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
}

fn is_launch(function: &CStr) -> bool {
    let name = function.to_bytes();
    name.starts_with(b"cuLaunchKernel")
        || name.starts_with(b"cuLaunchCooperative")
        || name.starts_with(b"cuGraphLaunch")
}

/// Kernels launched so far; `None` if they cannot be counted. Counting begins with the first call.
pub(super) fn so_far() -> Option<u64> {
    static COUNTS: OnceLock<bool> = OnceLock::new();
    COUNTS.get_or_init(|| subscribe().is_some()).then(|| COUNT.load(Ordering::Relaxed))
}

fn subscribe() -> Option<()> {
    // SAFETY: the signatures are those of cupti_callbacks.h; the library stays loaded.
    unsafe {
        let library = NAMES.iter().find_map(|name| Library::new(name).ok())?;
        let subscribe = *library.get::<Subscribe>(b"cuptiSubscribe\0").ok()?;
        let enable = *library.get::<EnableDomain>(b"cuptiEnableDomain\0").ok()?;
        std::mem::forget(library);
        let mut subscriber = ptr::null_mut();
        let is_on = subscribe(&raw mut subscriber, count, ptr::null_mut()) == 0
            && enable(1, subscriber, DRIVER_API) == 0;
        is_on.then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_start_kernels_are_told_from_others() {
        let call = |site, function: &CStr| {
            let before = COUNT.load(Ordering::Relaxed);
            let call = Call { site, function: function.as_ptr() };
            // SAFETY: the call lives until the function returns.
            unsafe { count(ptr::null_mut(), DRIVER_API, 0, &raw const call) };
            COUNT.load(Ordering::Relaxed) - before
        };
        for (site, function, expected) in [
            (ENTER, c"cuLaunchKernel", 1),
            (ENTER, c"cuLaunchKernelEx_ptsz", 1),
            (ENTER, c"cuGraphLaunch", 1),
            (1, c"cuLaunchKernel", 0),
            (ENTER, c"cuMemcpyAsync", 0),
            (ENTER, c"cuLaunchHostFunc", 0),
        ] {
            assert_eq!(call(site, function), expected, "{function:?}");
        }
    }
}
