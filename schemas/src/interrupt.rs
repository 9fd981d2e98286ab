//! Ctrl-C and SIGTERM: the first is noted, so that a command ends in order; the second ends the process. A closed terminal
//! (SIGHUP) does what it does to any command, so that `nohup` works.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

static NOTED: AtomicBool = AtomicBool::new(false);
static CAUGHT: Once = Once::new();

/// From now on, to the end of the process, the first signal is noted and `said` to the user; the second ends the
/// process with status 130, immediately and without unloading libraries used by running threads.
pub fn catch(said: &'static str) {
    CAUGHT.call_once(|| {
        use signal_hook::consts::{SIGINT, SIGTERM};
        // If no handler can be set, a signal ends the process immediately, which loses no completed file.
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

/// Whether such a signal came.
pub fn noted() -> bool {
    NOTED.load(Ordering::SeqCst)
}
