//! A rationale of another model, as its file has it.

/// One rationale as the file has it.
pub(super) struct Entry {
    pub(super) problem_id: String,
    pub(super) rationale: String,
    /// The model that wrote it, if the file says.
    pub(super) model: Option<String>,
}
