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
