//! `train merge`: merges a trunk and its adapter into a whole checkpoint.

use crate::checkpoint::folder;
use crate::checkpoint::folder::with_tokenizer;
use crate::checkpoint::hf::refuse_taken;
use crate::error::{Error, Result};
use std::path::Path;

/// Merges the adapter in `from` into its trunk's weights, and writes the student to `out`.
///
/// # Errors
/// If `from` is not a student with an adapter, or `out` exists.
pub fn merge(from: &Path, out: &Path) -> Result<String> {
    refuse_taken(out)?;
    let mut stored = folder::read(from)?;
    let Some((lora, trunk)) = stored.adapter.clone() else {
        return Err(Error::input(
            format!("{}: expected a student with an adapter, found a whole checkpoint", from.display()),
            "use it directly",
        ));
    };
    stored.merge();
    let made_by = folder::made_by(from)?.map_or_else(|| "merge".to_owned(), |made_by| made_by + ", merged");
    let companions = with_tokenizer(from, Some(&trunk));
    folder::write(out, (&*stored.config, &stored.weights), None, companions, &made_by)?;
    let layers = lora.layers(&*stored.config).len();
    Ok(format!("{}: adapter of {layers} layers merged with {}", out.display(), trunk.folder.display()))
}
