//! System data of a measurement: time, processor time, memory.

use std::path::PathBuf;
use std::time::Instant;

/// Wall-clock and processor seconds.
pub(super) struct Clock {
    start: Instant,
    cpu: f64,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { start: Instant::now(), cpu: cpu_seconds() }
    }

    pub(super) fn elapsed(&self) -> (f64, f64) {
        (self.start.elapsed().as_secs_f64(), cpu_seconds() - self.cpu)
    }

    pub(super) fn share(&self, share: f64) -> (f64, f64) {
        let (seconds, cpu) = self.elapsed();
        (seconds * share, cpu * share)
    }
}

pub(super) fn add(sum: &mut (f64, f64), time: (f64, f64)) {
    *sum = (sum.0 + time.0, sum.1 + time.1);
}

/// A file for the time of a measurement.
pub(super) struct Scratch {
    pub(super) path: PathBuf,
}

impl Scratch {
    pub(super) fn new(name: &str) -> Self {
        let name = format!("ares-bench-{}-{name}.safetensors", std::process::id());
        Self { path: std::env::temp_dir().join(name) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// CPU seconds of this process so far, with a resolution of 0.01 s; 0 if unknown.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = |field: usize| after_name.split(' ').nth(field).and_then(|ticks| ticks.parse::<f64>().ok());
    (ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / 100.0
}

/// Resets the peak of resident memory, if the system supports it.
pub(super) fn reset_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Peak resident memory since then, in MB.
pub(super) fn peak_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024.0 / 1e6)
}
