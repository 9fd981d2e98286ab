//! Ids for problems whose source has none, derived from their contents.

use super::split::SPLITS;
use schemas::provenance;
use sha2::{Digest, Sha256};

/// An id that depends only on the problem as it is asked: not on the order of rows, the number of files, or a
/// later correction of the answer.
pub(super) fn derived_id(
    split: &str,
    question: &str,
    choices: &[String],
    hint: &str,
    picture: &[u8; 32],
) -> String {
    let mut hash = Sha256::new();
    let texts = [question, hint].into_iter().chain(choices.iter().map(String::as_str));
    for text in texts {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    hash.update(picture);
    format!("{split}-{}", provenance::hex(&hash.finalize()[..8]))
}

/// Whether an id was derived from the contents of a row: `train-0123456789abcdef`, with a number if rows are
/// identical.
pub(super) fn is_derived(id: &str) -> bool {
    let mut parts = id.splitn(3, '-');
    parts.next().is_some_and(|split| SPLITS.contains(&split))
        && parts.next().is_some_and(|hash| {
            hash.len() == 16
                && hash.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        })
        && parts.next().is_none_or(|number| number.parse::<u32>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_ids_are_told_from_others() {
        let id = derived_id("train", "Q?", &["a".to_owned()], "", &[0; 32]);
        assert_eq!(id.len(), "train-".len() + 16);
        assert!(is_derived(&id) && is_derived(&format!("{id}-2")));
        for other in [
            "7",
            "train-1",
            "train-0123456789abcdeg",
            "22jbM6gDxdaMaunuzgrsBB",
            "train-0123456789ABCDEF",
            &format!("{id}-x"),
        ] {
            assert!(!is_derived(other), "{other}");
        }
        // Moving the boundary between two texts changes the id.
        let of = |choices: [&str; 2]| derived_id("train", "Q?", &choices.map(str::to_owned), "", &[0; 32]);
        assert_ne!(of(["ab", "c"]), of(["a", "bc"]));
        assert_ne!(derived_id("train", "Q?", &["a".to_owned()], "", &[1; 32]), id);
    }
}
