//! When two sentences that say nearly the same contradict each other.

use super::words::{Alignment, Word, WordKind, is_listed};

/// Colours; in the same place they exclude each other.
const COLOURS: &str =
    "red orange yellow green blue purple/violet pink brown black white grey/gray turquoise/cyan gold silver";

/// Words that exclude each other, one group per line; words joined by `/` mean the same.
const GROUPS: &[&str] = &[
    COLOURS,
    "more/greater/larger/bigger/higher less/fewer/smaller/lower same/equal",
    "most/greatest/largest/biggest/highest least/fewest/smallest/lowest",
    "same/alike different",
    "increase/increased/increasing/rise/rises/rose decrease/decreased/decreasing/fall/fell",
    "attract/attracted repel/repelled",
    "north south east west",
    "northern southern eastern western",
    "northernmost southernmost easternmost westernmost",
    "left right",
    "true false",
    "yes no",
    "heavy light",
    "heavier lighter",
    "fast/quick slow",
    "faster/quicker slower",
    "long short",
    "longer shorter",
    "longest shortest",
    "tall short",
    "closer/nearer farther/further",
    "hot/warm cold/cool",
    "hotter/warmer colder/cooler",
    "hottest/warmest coldest/coolest",
    "heating cooling",
    "heated cooled",
    "solid liquid gas",
    "physical chemical",
    "dominant recessive",
    "vertebrate invertebrate",
    "predator prey",
    "living nonliving",
    "simple compound complex compound-complex",
    "inherited acquired",
    "above below",
    "inside outside",
    "winter summer spring autumn",
    "positive negative",
    "strong weak",
    "stronger weaker",
    "hard soft",
    "smooth rough",
    "shiny dull",
    "transparent opaque",
    "surplus shortage",
    "male female",
    "formal informal",
    "fact opinion",
    "ethos pathos logos",
    "mammal bird fish reptile amphibian insect arachnid",
    "igneous sedimentary metamorphic",
    "herbivore carnivore omnivore",
    "producer consumer decomposer",
    "declarative interrogative imperative exclamatory",
    "metaphor simile personification idiom hyperbole oxymoron paradox euphemism alliteration onomatopoeia",
    "older younger",
    "thicker thinner",
    "begin/start end/finish",
    "melting freezing boiling condensing",
    "past present future",
    "weather climate",
    "loud soft",
    "push pull",
    "natural artificial",
    "both neither",
    "all none",
    "always never",
    "early late",
    "earlier later",
];

/// True if a word names a colour.
pub(super) fn is_colour(word: &str) -> bool {
    COLOURS.split([' ', '/']).any(|colour| colour == word)
}

/// The group of a word and the meaning within it.
fn poles(word: &str) -> impl Iterator<Item = (usize, usize)> + '_ {
    GROUPS.iter().enumerate().filter_map(move |(group, line)| {
        let pole = line.split(' ').position(|pole| pole.split('/').any(|listed| listed == word))?;
        Some((group, pole))
    })
}

/// True if the two words exclude each other.
pub(super) fn exclude(a: &str, b: &str) -> bool {
    a != b && poles(a).any(|(group, pole)| poles(b).any(|(other, that)| group == other && pole != that))
}

/// Why a sentence contradicts another that it is aligned with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conflict {
    /// One says what the other denies.
    Negation,
    /// Another number or label in the same place.
    Number,
    /// A word that excludes the other's.
    Opposite,
    /// Another option's word in the same place.
    Choice,
    /// Another name in the same place.
    Name,
    /// Another thing after `is`.
    Identity,
}

/// The first contradiction between two aligned sentences; `choices_of` says which options a word belongs to, as bits,
/// and none for words that do not distinguish options.
pub(super) fn conflict(aligned: &Alignment<'_>, choices_of: impl Fn(&Word) -> u32) -> Option<Conflict> {
    let negations = |words: &[Word]| words.iter().filter(|word| word.kind == WordKind::Negation).count();
    let (mut denied, mut stated) = (0, 0);
    for (said, gold) in &aligned.differences {
        denied += negations(said);
        stated += negations(gold);
    }
    if denied != stated {
        return Some(Conflict::Negation);
    }
    for (said, gold) in &aligned.differences {
        let of = |words: &[Word], kind: WordKind| words.iter().any(|word| word.kind == kind);
        if of(said, WordKind::Number) && of(gold, WordKind::Number) {
            return Some(Conflict::Number);
        }
        for a in said.iter() {
            if gold.iter().any(|b| exclude(&a.text, &b.text)) && !gold.iter().any(|b| b.text == a.text) {
                return Some(Conflict::Opposite);
            }
        }
        let bits = |words: &[Word]| words.iter().fold(0, |bits, word| bits | choices_of(word));
        let (said_bits, gold_bits) = (bits(said), bits(gold));
        if said_bits != 0 && gold_bits != 0 && said_bits & gold_bits == 0 {
            return Some(Conflict::Choice);
        }
        let name = |words: &[Word]| words.iter().any(|word| word.name && word.kind == WordKind::Content);
        if name(said) && name(gold) {
            return Some(Conflict::Name);
        }
    }
    None
}

/// Number of positions with a different content word, though none that is known to contradict.
pub(super) fn replaced(aligned: &Alignment<'_>) -> usize {
    let content = |words: &[Word]| words.iter().any(|word| word.kind == WordKind::Content);
    aligned.differences.iter().filter(|(said, gold)| content(said) && content(gold)).count()
}

/// True if the sentence ends in `is (a) X` and the gold one in `is (a) Y`.
pub(super) fn another_identity(sentence: &[Word], aligned: &Alignment<'_>) -> Option<Conflict> {
    let (said, gold) = aligned.differences.last()?;
    let ends_here = sentence.ends_with(said) && !said.is_empty();
    let content = |words: &[Word]| words.iter().any(|word| word.kind == WordKind::Content);
    if !ends_here || !content(said) || !content(gold) {
        return None;
    }
    let before = &sentence[..sentence.len() - said.len()];
    let skipped = |word: &&Word| !matches!(word.text.as_str(), "a" | "an" | "the");
    let copula =
        before.iter().rev().find(skipped).is_some_and(|word| is_listed("is are was were", &word.text));
    copula.then_some(Conflict::Identity)
}
