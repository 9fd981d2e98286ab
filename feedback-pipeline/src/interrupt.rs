//! Ctrl-C and SIGTERM: the first ends the run in order, the second ends the process.

use crate::error::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on, to the end of the process, the first Ctrl-C is noted and the second ends the process.
pub fn catch() {
    // Where a handler is set already, or none can be, Ctrl-C does what it did: nothing that is paid for waits in memory.
    let _ = ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        schemas::warn!(
            "ending: replies in flight are waited for, as they are paid; batches go on at the service; Ctrl-C again ends at once"
        );
    });
}

/// Whether Ctrl-C was pressed.
pub fn noted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Fails where Ctrl-C was pressed.
///
/// # Errors
/// [`Error::Interrupted`].
pub fn check() -> Result<()> {
    if noted() { Err(Error::Interrupted) } else { Ok(()) }
}
