//! Token rewards: a KL penalty at every token, the centred Teacher score at each sentence's last token.

use schemas::settings::RlSettings;

/// The score with zero reward; without a Teacher's scores, 0, that of a sentence without effect.
pub fn neutral(rl: &RlSettings) -> f64 {
    if rl.needs_scores() { rl.neutral_score } else { 0.0 }
}

/// r_t = −β · (log π(a_t) − log π_ref(a_t)), plus score − neutral if token t ends a sentence.
///
/// `sentence_ends` holds pairs of token index and the Teacher's raw score.
///
/// # Errors
/// If lengths differ or an index is out of range; the message names it.
pub fn token_rewards(
    logprobs: &[f32],
    ref_logprobs: &[f32],
    sentence_ends: &[(u32, f32)],
    kl_coefficient: f64,
    neutral_score: f64,
) -> Result<Vec<f32>, String> {
    if logprobs.len() != ref_logprobs.len() {
        return Err(format!("expected {} ref_logprobs, found {}", logprobs.len(), ref_logprobs.len()));
    }
    let kl = logprobs.iter().zip(ref_logprobs).map(|(policy, reference)| policy - reference);
    let mut rewards: Vec<f32> = kl.map(|kl| (-kl_coefficient * f64::from(kl)) as f32).collect();
    for &(token, score) in sentence_ends {
        let count = rewards.len();
        let reward = rewards
            .get_mut(token as usize)
            .ok_or_else(|| format!("expected a token_end below {count}, found {token}"))?;
        *reward += (f64::from(score) - neutral_score) as f32;
    }
    Ok(rewards)
}

/// Last tokens of the scored units, with the scores: one score per sentence or, if `whole`, their mean at the end of the last
/// sentence, as from a Teacher that scores whole rationales.
pub fn scored_ends(sentence_ends: &[u32], scores: &[f32], whole: bool) -> Vec<(u32, f32)> {
    let each = sentence_ends.iter().copied().zip(scores.iter().copied());
    if !whole {
        return each.collect();
    }
    let last = sentence_ends.iter().max();
    last.map(|&token| (token, scores.iter().sum::<f32>() / scores.len() as f32)).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::{scored_ends, token_rewards};

    #[test]
    fn a_whole_rationale_earns_the_mean_at_its_end() {
        assert_eq!(scored_ends(&[3, 9], &[1.0, 0.5], true), [(9, 0.75)]);
        assert_eq!(scored_ends(&[3, 9], &[1.0, 0.5], false), [(3, 1.0), (9, 0.5)]);
        assert!(scored_ends(&[], &[], true).is_empty());
    }

    #[test]
    fn scores_land_on_the_last_token_of_their_sentence() {
        let rewards = token_rewards(&[0.0; 4], &[0.0; 4], &[(1, 0.9), (3, 0.0)], 1e-4, 0.5);
        let rewards = rewards.expect("valid");
        let expected = [0.0, 0.4, 0.0, -0.5];
        assert!(rewards.iter().zip(expected).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-6), "{rewards:?}");
    }

    #[test]
    fn drifting_from_the_reference_costs() {
        let rewards = token_rewards(&[-1.0], &[-2.0], &[], 0.1, 0.5).expect("valid");
        assert!((rewards[0] + 0.1).abs() < 1e-6, "likelier than under the reference must cost: {rewards:?}");
    }

    #[test]
    fn ends_outside_are_refused() {
        let error = token_rewards(&[0.0; 2], &[0.0; 2], &[(2, 1.0)], 0.0, 0.5).expect_err("outside");
        assert_eq!(error, "expected a token_end below 2, found 2");
        let error = token_rewards(&[0.0; 2], &[0.0], &[], 0.0, 0.5).expect_err("lengths");
        assert_eq!(error, "expected 2 ref_logprobs, found 1");
    }
}
