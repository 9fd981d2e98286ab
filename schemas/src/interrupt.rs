//! Ctrl-C and SIGTERM: the first signal is noted, so that a command can shut down cleanly; the second ends
//! the process. A closed terminal (SIGHUP) is not handled, so `nohup` works.

use std::io::Write;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

static NOTED: AtomicBool = AtomicBool::new(false);
static CAUGHT: Once = Once::new();

/// From now on, the first signal is noted and the message `said` is printed; the second ends the process with
/// status 130, immediately and without unloading libraries used by running threads.
pub fn catch(said: &'static str) {
    CAUGHT.call_once(|| {
        use signal_hook::consts::{SIGINT, SIGTERM};
        // If no handler can be set, a signal ends the process immediately; completed files are not lost.
        let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]) else { return };
        let watch = move || {
            for _ in signals.forever() {
                if NOTED.swap(true, Ordering::SeqCst) {
                    signal_hook::low_level::exit(130);
                }
                crate::warn!("{said}");
            }
        };
        let _ = std::thread::Builder::new().name("signals".to_owned()).spawn(watch);
    });
}

/// Ends the process with this status at once, without exit handlers: these can hang or crash while threads of a library still
/// run.
pub fn exit(status: u8) -> ! {
    let _ = std::io::stdout().flush(); // there is nowhere left to report a failure
    signal_hook::low_level::exit(status.into())
}

/// Whether a signal has arrived.
pub fn noted() -> bool {
    NOTED.load(Ordering::SeqCst)
}
