//! PyTorch's own process groups, through the C functions of `shim/process_group.cpp`.

#![allow(unsafe_code)] // calls of C functions, whose pointers are checked or made here

use super::operation::{Operation, Result, number};
use std::ffi::{CStr, CString, c_char};
use std::ptr::{self, NonNull};
use std::time::Duration;
use tch::{Device, Tensor};

#[repr(C)]
struct RawStore {
    _private: [u8; 0],
}

#[repr(C)]
pub(super) struct RawGroup {
    _private: [u8; 0],
}

#[repr(C)]
struct RawWork {
    _private: [u8; 0],
}

/// `at::Tensor`, which tch calls by another name.
pub(super) type RawTensor = std::ffi::c_void;

unsafe extern "C" {
    fn ares_failure() -> *const c_char;
    fn ares_store_open(
        out: *mut *mut RawStore,
        host: *const c_char,
        port: u16,
        serves: bool,
        prefix: *const c_char,
        timeout_ms: i64,
    ) -> i32;
    fn ares_store_set(store: *mut RawStore, key: *const c_char, bytes: *const u8, count: usize) -> i32;
    fn ares_store_add(store: *mut RawStore, key: *const c_char, amount: i64, sum: *mut i64) -> i32;
    fn ares_store_has(store: *mut RawStore, key: *const c_char, has: *mut bool) -> i32;
    fn ares_store_get(
        store: *mut RawStore,
        key: *const c_char,
        bytes: *mut *const u8,
        count: *mut usize,
    ) -> i32;
    fn ares_store_close(store: *mut RawStore);
    fn ares_group_open(
        out: *mut *mut RawGroup,
        store: *mut RawStore,
        address: *const c_char,
        rank: i32,
        world: i32,
        timeout_ms: i64,
    ) -> i32;
    fn ares_group_sum(group: *mut RawGroup, tensor: *mut RawTensor, out: *mut *mut RawWork) -> i32;
    fn ares_group_broadcast(
        group: *mut RawGroup,
        tensor: *mut RawTensor,
        from: i32,
        out: *mut *mut RawWork,
    ) -> i32;
    fn ares_work_wait(work: *mut RawWork) -> i32;
    fn ares_work_close(work: *mut RawWork);
    fn ares_group_gather(group: *mut RawGroup, into: *mut RawTensor, from: *mut RawTensor) -> i32;
    fn ares_group_send(group: *mut RawGroup, tensor: *mut RawTensor, to: i32) -> i32;
    fn ares_group_receive(group: *mut RawGroup, tensor: *mut RawTensor, from: i32) -> i32;
    fn ares_group_barrier(group: *mut RawGroup) -> i32;
    fn ares_group_close(group: *mut RawGroup);
}

/// The outcome of a call that this thread just made.
pub(super) fn outcome(status: i32) -> Result<()> {
    if status == 0 {
        return Ok(());
    }
    // SAFETY: a string of this thread, which its next call changes.
    let message = unsafe { CStr::from_ptr(ares_failure()) }.to_string_lossy();
    // Further lines hold a trace, or the same for each peer.
    Err(message.lines().next().unwrap_or_default().to_owned())
}

fn text(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| format!("expected a text without NUL, found {text:?}"))
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Keys and values that all ranks see, served by one of them or by their launcher.
#[derive(Debug)]
pub(super) struct Store(NonNull<RawStore>);

// SAFETY: c10d's stores lock each operation; one is handed from the thread that opened it to the one that joins.
unsafe impl Send for Store {}

impl Store {
    /// Connects to the store at `host`, or serves it. Keys are those under `prefix`.
    pub(super) fn open(
        (host, port): (&str, u16),
        serves: bool,
        prefix: &str,
        timeout: Duration,
    ) -> Result<Self> {
        let (host, prefix) = (text(host)?, text(prefix)?);
        let mut store = ptr::null_mut();
        // SAFETY: the strings outlive the call.
        let status = unsafe {
            ares_store_open(&mut store, host.as_ptr(), port, serves, prefix.as_ptr(), milliseconds(timeout))
        };
        outcome(status)?;
        NonNull::new(store).map(Self).ok_or_else(|| "no store was opened".to_owned())
    }

    /// Sets a key.
    pub(super) fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        let key = text(key)?;
        // SAFETY: the store is open; key and value outlive the call.
        outcome(unsafe { ares_store_set(self.0.as_ptr(), key.as_ptr(), value.as_ptr(), value.len()) })
    }

    /// Adds to a counter, which begins at 0; returns the sum.
    pub(super) fn add(&self, key: &str, amount: i64) -> Result<i64> {
        let key = text(key)?;
        let mut sum = 0;
        // SAFETY: as above.
        outcome(unsafe { ares_store_add(self.0.as_ptr(), key.as_ptr(), amount, &mut sum) })?;
        Ok(sum)
    }

    /// Whether a key is set.
    pub(super) fn has(&self, key: &str) -> Result<bool> {
        let key = text(key)?;
        let mut has = false;
        // SAFETY: as above.
        outcome(unsafe { ares_store_has(self.0.as_ptr(), key.as_ptr(), &mut has) })?;
        Ok(has)
    }

    /// The value of a key; waits for it.
    pub(super) fn get(&self, key: &str) -> Result<Vec<u8>> {
        let key = text(key)?;
        let (mut bytes, mut count) = (ptr::null(), 0);
        // SAFETY: as above; the bytes are this thread's until its next call, and copied before.
        unsafe {
            outcome(ares_store_get(self.0.as_ptr(), key.as_ptr(), &mut bytes, &mut count))?;
            Ok(if bytes.is_null() { Vec::new() } else { std::slice::from_raw_parts(bytes, count).to_vec() })
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: it is closed once; a group that was opened with it holds on to what it needs.
        unsafe { ares_store_close(self.0.as_ptr()) }
    }
}

/// Gloo's process group on the CPU. Operations are on contiguous tensors in main memory, of the same sizes on all ranks.
#[derive(Debug)]
pub(super) struct Ring(NonNull<RawGroup>);

// SAFETY: as of the store; operations are called by one thread at a time.
unsafe impl Send for Ring {}

impl Ring {
    /// The group, for other C functions; it lives at least as long as this.
    pub(super) fn raw(&self) -> *mut RawGroup {
        self.0.as_ptr()
    }

    /// Connects all ranks with each other.
    pub(super) fn open(
        store: &Store,
        address: &str,
        (rank, world): (usize, usize),
        timeout: Duration,
    ) -> Result<Self> {
        let address = text(address)?;
        let (rank, world) = (number(rank)?, number(world)?);
        let mut group = ptr::null_mut();
        // SAFETY: the store is open; the string outlives the call.
        let status = unsafe {
            ares_group_open(
                &mut group,
                store.0.as_ptr(),
                address.as_ptr(),
                rank,
                world,
                milliseconds(timeout),
            )
        };
        outcome(status)?;
        NonNull::new(group).map(Self).ok_or_else(|| "no group was opened".to_owned())
    }

    /// Begins an operation. Operations begin in the same order on all ranks, and several may be in progress.
    pub(super) fn begin(&self, operation: Operation, tensor: &mut Tensor) -> Result<Work> {
        let mut work = ptr::null_mut();
        let tensor = raw(tensor)?;
        // SAFETY: the tensor is checked; the operation holds on to its memory.
        outcome(unsafe {
            match operation {
                Operation::Sum => ares_group_sum(self.0.as_ptr(), tensor, &mut work),
                Operation::Broadcast(from) => {
                    ares_group_broadcast(self.0.as_ptr(), tensor, number(from)?, &mut work)
                }
            }
        })?;
        Work::of(work)
    }

    /// Fills `into` [ranks · n] with the `from` [n] of all ranks, in their order.
    pub(super) fn gather(&self, into: &mut Tensor, from: &mut Tensor) -> Result<()> {
        // SAFETY: the tensors are checked, and outlive the call, which ends when the operation has.
        outcome(unsafe { ares_group_gather(self.0.as_ptr(), raw(into)?, raw(from)?) })
    }

    /// Sends a tensor to one rank, which receives it.
    pub(super) fn send(&self, tensor: &mut Tensor, to: usize) -> Result<()> {
        // SAFETY: as above.
        outcome(unsafe { ares_group_send(self.0.as_ptr(), raw(tensor)?, number(to)?) })
    }

    /// Replaces a tensor by the one that a rank sends, of the same size.
    pub(super) fn receive(&self, tensor: &mut Tensor, from: usize) -> Result<()> {
        // SAFETY: as above.
        outcome(unsafe { ares_group_receive(self.0.as_ptr(), raw(tensor)?, number(from)?) })
    }

    /// Waits for all ranks.
    pub(super) fn barrier(&self) -> Result<()> {
        // SAFETY: the group is open.
        outcome(unsafe { ares_group_barrier(self.0.as_ptr()) })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: it is closed once.
        unsafe { ares_group_close(self.0.as_ptr()) }
    }
}

/// An operation in progress, whose tensor nobody reads or changes before it is over.
#[derive(Debug)]
pub(super) struct Work(NonNull<RawWork>);

impl Work {
    fn of(work: *mut RawWork) -> Result<Self> {
        NonNull::new(work).map(Self).ok_or_else(|| "no operation was begun".to_owned())
    }

    /// Waits for the end.
    pub(super) fn wait(self) -> Result<()> {
        // SAFETY: it is open.
        outcome(unsafe { ares_work_wait(self.0.as_ptr()) })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // SAFETY: it is closed once.
        unsafe { ares_work_close(self.0.as_ptr()) }
    }
}

/// Gloo would send the memory of a tensor with gaps as if it had none.
pub(super) fn raw(tensor: &mut Tensor) -> Result<*mut RawTensor> {
    if tensor.device() != Device::Cpu || !tensor.is_contiguous() {
        return Err(format!("expected a contiguous tensor in main memory, found {tensor:?}"));
    }
    Ok(tensor.as_mut_ptr().cast())
}
