//! NVIDIA's NCCL, which sums on GPUs. Its library, which libtorch needs too, is loaded at run time and called through the C
//! functions of nccl.h.
//!
//! Operations are put on the GPU's default stream, where libtorch's own run: they wait for what made the tensor, and what
//! reads it waits for them.

#![allow(unsafe_code)] // calls of C functions, with the signatures of nccl.h and cuda_runtime_api.h

use super::operation::{Operation, Result, number};
use libloading::Library;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::mpsc;
use std::time::Duration;
use tch::{Device, Kind, Tensor};

/// The libraries that sums on GPUs need, as libtorch has loaded them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Libraries {
    /// `libnccl.so.2`.
    pub nccl: PathBuf,
    /// `libcudart.so`.
    pub runtime: PathBuf,
}

/// `ncclUniqueId`, by which the ranks of a communicator find each other.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawId([c_char; 128]);

/// `ncclComm_t`.
type Comm = *mut c_void;

/// `cudaStream_t`; null is the default stream.
type Stream = *mut c_void;

const DEFAULT_STREAM: Stream = ptr::null_mut();

/// `ncclSuccess` and `cudaSuccess`.
const SUCCESS: c_int = 0;

/// `ncclInProgress`.
const IN_PROGRESS: c_int = 7;

/// `cudaErrorNotReady`.
const NOT_READY: c_int = 600;

/// `ncclSum`.
const SUM: c_int = 0;

/// Waits for this long for another look.
const LOOK_EVERY: Duration = Duration::from_micros(100);

/// How long aborted operations may take to leave the GPU; the process is about to end.
const ABORT: Duration = Duration::from_secs(2);

/// The functions that are called.
#[derive(Debug, Clone, Copy)]
struct Functions {
    unique_id: unsafe extern "C" fn(*mut RawId) -> c_int,
    init: unsafe extern "C" fn(*mut Comm, c_int, RawId, c_int) -> c_int,
    all_reduce: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, Stream) -> c_int,
    broadcast: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, Stream) -> c_int,
    async_error: unsafe extern "C" fn(Comm, *mut c_int) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    last_error: unsafe extern "C" fn(Comm) -> *const c_char,
    abort: unsafe extern "C" fn(Comm) -> c_int,
    destroy: unsafe extern "C" fn(Comm) -> c_int,
    stream_query: unsafe extern "C" fn(Stream) -> c_int,
    cuda_error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    cuda_last_error: unsafe extern "C" fn() -> c_int,
}

impl Functions {
    fn load(libraries: &Libraries) -> Result<Self> {
        let (nccl, runtime) = (open(&libraries.nccl)?, open(&libraries.runtime)?);
        // SAFETY: the fields have the signatures of the headers.
        unsafe {
            Ok(Self {
                unique_id: find(nccl, "ncclGetUniqueId")?,
                init: find(nccl, "ncclCommInitRank")?,
                all_reduce: find(nccl, "ncclAllReduce")?,
                broadcast: find(nccl, "ncclBroadcast")?,
                async_error: find(nccl, "ncclCommGetAsyncError")?,
                error_string: find(nccl, "ncclGetErrorString")?,
                last_error: find(nccl, "ncclGetLastError")?,
                abort: find(nccl, "ncclCommAbort")?,
                destroy: find(nccl, "ncclCommDestroy")?,
                stream_query: find(runtime, "cudaStreamQuery")?,
                cuda_error_string: find(runtime, "cudaGetErrorString")?,
                cuda_last_error: find(runtime, "cudaGetLastError")?,
            })
        }
    }

    /// The outcome of a call of NCCL that this thread just made.
    fn outcome(&self, status: c_int) -> Result<()> {
        if status == SUCCESS || status == IN_PROGRESS {
            return Ok(());
        }
        // SAFETY: both return strings that stay; no communicator is needed for this thread's last error.
        let (what, details) =
            unsafe { (text((self.error_string)(status)), text((self.last_error)(ptr::null_mut()))) };
        Err(if details.is_empty() { format!("NCCL: {what}") } else { format!("NCCL: {what}: {details}") })
    }
}

/// Loads a library for good.
fn open(path: &Path) -> Result<&'static Library> {
    // SAFETY: libtorch has loaded it already; its initialization has run.
    let library = unsafe { Library::new(path) }.map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Box::leak(Box::new(library)))
}

/// A function of a library.
unsafe fn find<T: Copy>(library: &Library, name: &str) -> Result<T> {
    // SAFETY: the caller names a function of type T.
    unsafe {
        library.get::<T>(name.as_bytes()).map(|symbol| *symbol).map_err(|error| format!("{name}: {error}"))
    }
}

/// A C string, which may be null.
unsafe fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: the caller has a string of a library.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().trim().to_owned()
}

/// The identifier of a communicator, which one rank makes and the others get.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Id(Vec<u8>);

impl Id {
    /// A new one.
    pub(super) fn new(libraries: &Libraries) -> Result<Self> {
        let functions = Functions::load(libraries)?;
        let mut id = RawId([0; 128]);
        // SAFETY: it is filled in.
        functions.outcome(unsafe { (functions.unique_id)(&raw mut id) })?;
        Ok(Self(id.0.iter().map(|byte| byte.to_ne_bytes()[0]).collect()))
    }

    fn raw(&self) -> Result<RawId> {
        let bytes: Vec<c_char> = self.0.iter().map(|byte| c_char::from_ne_bytes([*byte])).collect();
        let found = bytes.len();
        bytes
            .try_into()
            .map(RawId)
            .map_err(|_| format!("NCCL's identifier: expected 128 bytes, found {found}"))
    }
}

/// A communicator that was opened on another thread.
struct Opened(Result<Comm>);

// SAFETY: a communicator may be used by any thread, by one at a time.
unsafe impl Send for Opened {}

impl Opened {
    fn comm(self) -> Result<Comm> {
        self.0
    }
}

/// A communicator that is being opened, which takes all ranks.
pub(super) struct Opening {
    functions: Functions,
    device: Device,
    receive: mpsc::Receiver<Opened>,
}

impl Opening {
    /// Begins to open one, for tensors on `device`, which is the thread's current one.
    pub(super) fn begin(
        libraries: &Libraries,
        id: &Id,
        (rank, world): (usize, usize),
        device: Device,
    ) -> Result<Self> {
        let functions = Functions::load(libraries)?;
        let (id, rank, world) = (id.raw()?, number(rank)?, number(world)?);
        let (send, receive) = mpsc::channel();
        // It waits for ranks that may have ended.
        let work = move || {
            let mut comm = ptr::null_mut();
            // SAFETY: the communicator is filled in.
            let status = unsafe { (functions.init)(&raw mut comm, world, id, rank) };
            let _ = send.send(Opened(functions.outcome(status).map(|()| comm))); // the receiver may have given up
        };
        std::thread::Builder::new().name("nccl".to_owned()).spawn(work).map_err(|error| error.to_string())?;
        Ok(Self { functions, device, receive })
    }

    /// The communicator, once it is open.
    pub(super) fn opened(&self) -> Result<Option<Nccl>> {
        match self.receive.try_recv() {
            Ok(opened) => {
                Ok(Some(Nccl { functions: self.functions, comm: opened.comm()?, device: self.device }))
            }
            Err(mpsc::TryRecvError::Empty) => Ok(None),
            Err(mpsc::TryRecvError::Disconnected) => Err("NCCL: no communicator was opened".to_owned()),
        }
    }
}

/// A communicator of all ranks, each with a GPU of its own.
#[derive(Debug)]
pub(crate) struct Nccl {
    functions: Functions,
    comm: Comm,
    device: Device,
}

impl Nccl {
    /// A communicator of one rank, to see whether NCCL works here.
    pub(crate) fn alone(libraries: &Libraries, device: Device) -> Result<Self> {
        let opening = Opening::begin(libraries, &Id::new(libraries)?, (0, 1), device)?;
        loop {
            if let Some(opened) = opening.opened()? {
                return Ok(opened);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Sums a tensor that it takes, and waits for the sum.
    pub(crate) fn sum(&self, tensor: &Tensor) -> Result<()> {
        self.begin(Operation::Sum, tensor)?;
        while !self.is_over()? {
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Whether it operates on such a tensor in place.
    pub(super) fn takes(&self, tensor: &Tensor) -> bool {
        tensor.device() == self.device && tensor.is_contiguous() && data_type(tensor.kind()).is_some()
    }

    /// Begins an operation on a tensor that it takes.
    pub(super) fn begin(&self, operation: Operation, tensor: &Tensor) -> Result<()> {
        let Some(kind) = data_type(tensor.kind()).filter(|_| self.takes(tensor)) else {
            return Err(format!(
                "expected a contiguous tensor of numbers on {:?}, found {tensor:?}",
                self.device
            ));
        };
        let (numbers, count) = (tensor.data_ptr(), tensor.numel());
        // SAFETY: the tensor has `count` numbers of this type in one piece, on the communicator's GPU.
        let status = unsafe {
            match operation {
                Operation::Sum => {
                    (self.functions.all_reduce)(numbers, numbers, count, kind, SUM, self.comm, DEFAULT_STREAM)
                }
                Operation::Broadcast(from) => (self.functions.broadcast)(
                    numbers,
                    numbers,
                    count,
                    kind,
                    number(from)?,
                    self.comm,
                    DEFAULT_STREAM,
                ),
            }
        };
        self.functions.outcome(status)
    }

    /// Whether all that was begun is over on this GPU.
    pub(super) fn is_over(&self) -> Result<bool> {
        let mut status = SUCCESS;
        // SAFETY: the communicator is open; the status is filled in.
        self.functions.outcome(unsafe { (self.functions.async_error)(self.comm, &raw mut status) })?;
        self.functions.outcome(status)?;
        // SAFETY: the default stream is always there.
        match unsafe { (self.functions.stream_query)(DEFAULT_STREAM) } {
            SUCCESS => Ok(status == SUCCESS),
            NOT_READY => {
                // SAFETY: forgets that it was not ready, which libtorch would take for an error of its own.
                unsafe { (self.functions.cuda_last_error)() };
                Ok(false)
            }
            // SAFETY: a string that stays.
            failed => Err(format!("CUDA: {}", unsafe { text((self.functions.cuda_error_string)(failed)) })),
        }
    }

    /// Gives up what was begun, which would wait on the GPU for ranks that have ended.
    pub(super) fn abort(self) {
        let (functions, opened) = (self.functions, Opened(Ok(self.comm)));
        // Aborting closes it.
        std::mem::forget(self);
        let (send, receive) = mpsc::channel();
        let work = move || {
            // SAFETY: the communicator is open, and nobody uses it any more.
            let aborted = opened.comm().map(|comm| unsafe { (functions.abort)(comm) });
            let _ = send.send(aborted); // the receiver may have given up
        };
        if std::thread::Builder::new().name("nccl".to_owned()).spawn(work).is_ok() {
            let _ = receive.recv_timeout(ABORT); // it ends with the process otherwise
        }
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        // SAFETY: it is closed once, and nothing is under way.
        unsafe { (self.functions.destroy)(self.comm) };
    }
}

/// `ncclDataType_t` of numbers; `None` for those that NCCL has no type for.
fn data_type(kind: Kind) -> Option<c_int> {
    Some(match kind {
        Kind::Int8 => 0,
        Kind::Uint8 => 1,
        Kind::Int => 2,
        Kind::Int64 => 4,
        Kind::Half => 6,
        Kind::Float => 7,
        Kind::Double => 8,
        Kind::BFloat16 => 9,
        _ => return None,
    })
}
