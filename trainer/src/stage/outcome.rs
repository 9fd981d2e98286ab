//! How a stage ended.

/// How a stage ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It ran; the line is for the user.
    Done(String),
    /// Its files were already there.
    Already,
    /// Feedback is missing; the line names it and the next command.
    Waiting(String),
}

/// Percentage of truncated texts above which it is reported: a few never end by themselves.
const MANY_TRUNCATED: usize = 20;

/// Reports how many texts were truncated by which setting, if there are many.
pub(super) fn warn_of_truncation(what: &str, (truncated, all): (usize, usize), setting: &str, limit: u32) {
    if truncated * 100 < all * MANY_TRUNCATED || truncated == 0 {
        return;
    }
    schemas::warn!(
        "{what}: {truncated} of {all} ({:.1} %) were cut off at {setting} = {limit}; raise it if their ends matter",
        truncated as f64 * 100.0 / all as f64
    );
}
