//! A rationale of another model, as read from its file.

/// One rationale, as read from the file.
pub(super) struct Entry {
    pub(super) problem_id: String,
    pub(super) rationale: String,
    /// The model that wrote it, if the file says.
    pub(super) model: Option<String>,
}
