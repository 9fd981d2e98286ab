//! How a stage ended.

/// How a stage ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It ran, with a line for the user.
    Done(String),
    /// Its files were already there.
    Already,
    /// Feedback is missing; the line says what and which command comes next.
    Waiting(String),
}

/// Texts cut off by their limit, of all, in per cent, from which on it is reported: a few have no end of their own.
const MANY_TRUNCATED: usize = 20;

/// Says how many texts were cut off by which setting, where they are many.
pub(super) fn warn_of_truncation(what: &str, (truncated, all): (usize, usize), setting: &str, limit: u32) {
    if truncated * 100 < all * MANY_TRUNCATED || truncated == 0 {
        return;
    }
    schemas::warn!(
        "{what}: {truncated} of {all} ({:.1} %) were cut off at {setting} = {limit}; if their ends are missed, raise it",
        truncated as f64 * 100.0 / all as f64
    );
}
