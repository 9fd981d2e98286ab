//! Pairs of a better and a worse rationale for dpo, from the dataset's feedback on train problems.

use super::context::Context;
use super::policy::Policy;
use crate::data::corpus::{Corpus, rationale_source};
use crate::data::prompt;
use crate::data::sentences;
use crate::error::Result;
use crate::objective::dpo::{Pair, pairs_of_scores};
use crate::objective::experience::Experience;
use schemas::settings::PairSource;
use schemas::{Correction, Judgement};

/// The pairs that `rl.dpo_pairs` asks for: of this round's samples; of corrections of this and earlier rounds; of judgements of
/// earlier rounds. Other splits than train are ignored.
///
/// # Errors
/// If a table is broken, or holds a problem that does not exist.
pub(super) fn pairs(
    context: &Context,
    round: u32,
    policy: &Policy,
    corpus: &Corpus,
    experience: &[Experience],
) -> Result<Vec<Pair>> {
    let rl = &context.settings.rl;
    let wanted = |source| rl.dpo_pairs == source || rl.dpo_pairs == PairSource::All;
    let mut pairs =
        if wanted(PairSource::Scores) { pairs_of_scores(experience, rl.dpo_margin) } else { Vec::new() };
    let texts = Texts { context, policy, corpus };
    for earlier in 1..=round {
        let mut of_round = Vec::new();
        if wanted(PairSource::Corrections) {
            for row in context.dataset.read::<Correction>(earlier)? {
                of_round.push((row.problem_id, row.corrected, row.original));
            }
        }
        if wanted(PairSource::Judgements) && earlier < round {
            for row in context.dataset.read::<Judgement>(earlier)? {
                match row.verdict.as_str() {
                    "win" => of_round.push((row.problem_id, row.candidate, row.baseline)),
                    "loss" => of_round.push((row.problem_id, row.baseline, row.candidate)),
                    _ => {}
                }
            }
        }
        // The order of parts depends on interruptions of the collector; the training order must not.
        of_round.sort();
        for (problem_id, better, worse) in of_round {
            pairs.extend(texts.pair(&problem_id, &better, &worse)?);
        }
    }
    Ok(pairs)
}

struct Texts<'a> {
    context: &'a Context,
    policy: &'a Policy,
    corpus: &'a Corpus,
}

impl Texts<'_> {
    /// A pair of texts, unless they are the same or the problem is not of split train.
    fn pair(&self, problem_id: &str, better: &str, worse: &str) -> Result<Option<Pair>> {
        let problem = self.corpus.get(problem_id, "corrections or judgements")?;
        if problem.split != "train" {
            return Ok(None);
        }
        let source = rationale_source(&self.policy.tokenizer, problem, &self.context.settings.student)?;
        let (better, worse) = (self.encode(better)?, self.encode(worse)?);
        Ok(Pair::new(problem_id, &source, (&better.0, &better.1), (&worse.0, &worse.1)))
    }

    /// Tokens of a rationale as a target, and the last tokens of its sentences.
    fn encode(&self, text: &str) -> Result<(Vec<i64>, Vec<u32>)> {
        let limit = self.context.settings.sft.max_target_tokens;
        let tokens = self.policy.tokenizer.encode(&prompt::rationale_target(text), limit)?;
        let ids: Vec<i32> = tokens.iter().map(|&id| i32::try_from(id).unwrap_or(i32::MAX)).collect();
        let decoded = sentences::decode(self.policy.tokenizer.inner(), &ids)?;
        Ok((tokens, decoded.sentences.into_iter().map(|sentence| sentence.token_end).collect()))
    }
}
