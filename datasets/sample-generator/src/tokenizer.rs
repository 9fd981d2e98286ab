//! The sample's own small tokenizer, in Hugging Face layout and by T5's conventions: `<pad>` 0, `</s>` 1,
//! `<unk>` 2, a Unigram model whose pieces mark the start of a word with `▁`.
//!
//! Pieces are the words of the set by frequency, everyday words and word endings for what a real Teacher may
//! write, and single characters, so that any plain English text can be encoded and decoded. A piece consists
//! of letters, one digit or one punctuation mark, never a mixture: `town.` is two pieces, and so is `25`.

use crate::Error;
use schemas::Problem;
use serde_json::json;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::unigram::Unigram;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer};

const SPECIAL: [&str; 3] = ["<pad>", "</s>", "<unk>"];

/// Marks the start of a word.
const SPACE: char = '▁';

/// What the student reads and writes besides the problems themselves.
const PROMPT: &str = "Question: Context: N/A Options: (A) (B) (C) (D) (E) Solution: Answer: The answer is (A). \
    The answer is (B). The answer is (C). The answer is (D). The answer is (E).";

/// Everyday words that may not occur in the problems.
const EVERYDAY: &str = "a about above after again all also although among an and any are as at because been before \
    being below best both but by can cannot choice choices clear clearly closest compared correct could did \
    different does each either else every farther far few fewer find first fits follow following for form found \
    from further given gives great has have having hence here high higher highest how if image in incorrect indicates into is it its \
    itself just known large largest last least left less level like long look looking lower lowest made make makes \
    match means meaning more most much must near nearest need needs neither never next no none not note notice now \
    object objects of on only option options or order other our out over own part place placed position right same \
    second see seen shape should show showing shown shows side similar since small smallest so some statement still \
    strong stronger such take tell than that their them then there therefore these they thing things third this those \
    through thus to together too total true two under until up upon us use used using very was way we weak weaker \
    well were what when where whether which while who whose why will with within without would wrong you your";

/// Prefixes and suffixes, for words without a piece of their own.
const PARTS: &str = "able al an ance ar ate ation ed en ence ent er ers es est ful ic ies il in ing ion is ist it ity \
    ive le less ly ment ness on or ous re ro st th tion ter un ur us";

/// Writes `tokenizer.json` and the two files that Hugging Face's Python library expects next to it.
pub(crate) fn write(folder: &Path, problems: &[Problem]) -> Result<(), Error> {
    let tokenizer = build(problems)?;
    let pretty = |value: &serde_json::Value| serde_json::to_string_pretty(value).map(|text| text + "\n");
    let names = json!({ "pad_token": SPECIAL[0], "eos_token": SPECIAL[1], "unk_token": SPECIAL[2] });
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 512,
        "clean_up_tokenization_spaces": false,
        "pad_token": SPECIAL[0],
        "eos_token": SPECIAL[1],
        "unk_token": SPECIAL[2],
    });
    schemas::file::write_bytes(
        &folder.join("tokenizer.json"),
        (tokenizer.to_string(true)? + "\n").as_bytes(),
    )?;
    schemas::file::write_bytes(&folder.join("tokenizer_config.json"), pretty(&config)?.as_bytes())?;
    schemas::file::write_bytes(&folder.join("special_tokens_map.json"), pretty(&names)?.as_bytes())?;
    Ok(())
}

fn build(problems: &[Problem]) -> Result<Tokenizer, Error> {
    let model = Unigram::from(vocabulary(problems), Some(2), false)?;
    let metaspace = || Metaspace::new(SPACE, PrependScheme::Always, true);
    let eos = (SPECIAL[1].to_owned(), 1);
    let mut tokenizer = Tokenizer::new(model);
    tokenizer
        .with_pre_tokenizer(Some(Sequence::new(vec![
            PreTokenizerWrapper::WhitespaceSplit(WhitespaceSplit),
            PreTokenizerWrapper::Metaspace(metaspace()),
        ])))
        .with_decoder(Some(DecoderWrapper::Metaspace(metaspace())))
        .with_post_processor(Some(
            TemplateProcessing::builder()
                .try_single("$A </s>")?
                .try_pair("$A </s> $B </s>")?
                .special_tokens(vec![eos])
                .build()?,
        ));
    tokenizer.add_special_tokens(&SPECIAL.map(|token| AddedToken::from(token, true)));
    Ok(tokenizer)
}

/// Pieces with their scores, log frequencies; the most frequent words first, ties by alphabet.
fn vocabulary(problems: &[Problem]) -> Vec<(String, f64)> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for problem in problems {
        let texts = [&problem.question, &problem.hint, &problem.caption, &problem.lecture, &problem.solution];
        for text in texts.into_iter().chain(&problem.choices) {
            count_pieces(text, &mut counts);
        }
    }
    for text in [PROMPT, EVERYDAY] {
        count_pieces(text, &mut counts);
    }
    for part in PARTS.split_whitespace() {
        counts.entry(part.to_owned()).or_insert(1);
    }
    let total: u64 = counts.values().sum();
    let mut words: Vec<(String, u64)> = counts.into_iter().collect();
    words.sort_by_key(|(_, count)| std::cmp::Reverse(*count));

    // A whole word must always score higher than its characters.
    let characters = (' '..='~').filter(|character| *character != ' ').chain("▁°–—’‘“”…×é".chars());
    let mut pieces: Vec<(String, f64)> = SPECIAL.map(|token| (token.to_owned(), 0.0)).to_vec();
    let known: HashSet<String> = words.iter().map(|(word, _)| word.clone()).collect();
    pieces.extend(words.into_iter().map(|(word, count)| (word, (count as f64 / total as f64).ln())));
    pieces.extend(
        characters.map(String::from).filter(|piece| !known.contains(piece)).map(|piece| (piece, -20.0)),
    );
    pieces
}

/// Counts runs of letters, single digits and single marks; those at the start of a word carry the word
/// marker.
fn count_pieces(text: &str, counts: &mut BTreeMap<String, u64>) {
    for word in text.split_whitespace() {
        let mut piece = String::from(SPACE);
        for character in word.chars() {
            let follows_letter = piece.chars().last().is_some_and(char::is_alphabetic);
            let starts = piece.chars().eq([SPACE]);
            let goes_on = follows_letter && character.is_alphabetic();
            if !(starts || goes_on) {
                *counts.entry(std::mem::take(&mut piece)).or_default() += 1;
            }
            piece.push(character);
        }
        *counts.entry(piece).or_default() += 1;
    }
}
