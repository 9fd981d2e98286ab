//! The async runtime of the requests, with handling of Ctrl-C.

use crate::error::{Error, Result};
use crate::send::Session;
use schemas::interrupt;
use std::sync::Arc;
use std::time::Duration;

/// Interval between checks for Ctrl-C.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Checks between two updates of the progress.
const LOOKS_A_WORD: u32 = 5;

/// Runs the requests on a new runtime; returns when nothing is in flight.
pub(crate) fn run(session: &Arc<Session>, work: impl Future<Output = ()>) -> Result<()> {
    interrupt::catch(
        "stopping: nothing more is sent, waiting for in-flight replies; batches keep running at the service; press Ctrl-C again to stop immediately",
    );
    if interrupt::noted() {
        session.stop.because(Error::Interrupted); // before the first request leaves
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Error::io("start a runtime in", session.cache.path()))?;
    runtime.block_on(async {
        let watched = Arc::clone(session);
        let watch = tokio::spawn(async move {
            for look in 1_u32.. {
                tokio::time::sleep(LOOK_EVERY).await;
                if interrupt::noted() {
                    watched.stop.because(Error::Interrupted);
                }
                if look % LOOKS_A_WORD == 0 {
                    watched.progress.allow(watched.pace.requests_per_minute());
                    watched.progress.show();
                }
            }
        });
        work.await;
        watch.abort();
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    session.progress.finish();
    Ok(())
}
