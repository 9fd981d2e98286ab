//! Detects a common cause of rejects, such as a limit that is too low or a format that the model does not
//! follow. Further replies would waste money, so the run stops and names the setting.

use crate::error::Error;
use crate::reply::verdict;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Number of latest outcomes considered.
const LATEST: usize = 33;
/// Number of similar rejects among them that indicates a common cause.
const ALIKE: usize = 30;

/// The latest outcomes of items that were sent.
#[derive(Debug, Default)]
pub struct Rejects(Mutex<VecDeque<Option<&'static Cause>>>);

/// A cause of rejects, identified by the start of their reasons.
#[derive(Debug)]
struct Cause {
    reason: &'static str,
    what: &'static str,
    hint: &'static str,
}

const CAUSES: [Cause; 6] = [
    Cause {
        reason: "truncated",
        what: "were cut off by the token limit",
        hint: "raise teacher.max_output_tokens, or lower teacher.effort: a model that thinks needs room for \
               it. Paid replies are kept; --retry-rejects asks again",
    },
    Cause {
        reason: "malformed",
        what: "do not have the requested form",
        hint: "try another --model, or set teacher.response_format to what this service supports. Paid \
               replies are kept; --retry-rejects asks again",
    },
    Cause {
        reason: "refusal",
        what: "are refusals",
        hint: "try another --model, or another prompt in teacher.prompts. Paid replies are kept; \
               --retry-rejects asks again",
    },
    Cause {
        reason: "bad request",
        what: "are refusals of the request itself",
        hint: "check --model and the settings of [teacher]. --retry-rejects asks again",
    },
    Cause {
        reason: "request too large",
        what: "say that the request is too large",
        hint: "give the server a larger context window, or choose another --model. --retry-rejects asks \
               again",
    },
    Cause {
        reason: "no answer",
        what: "are errors",
        hint: "check the status of the service. --retry-rejects asks again",
    },
];

impl Rejects {
    /// An item has a usable answer.
    pub fn answered(&self) {
        self.push(None);
    }

    /// An item was rejected after it was sent. Returns why the run cannot continue, if nearly all of the
    /// latest rejects have the same cause.
    pub fn rejected(&self, reason: &str) -> Option<Error> {
        let class = verdict::status_of(reason);
        let cause = CAUSES.iter().find(|cause| cause.reason == class)?;
        let alike = self.push(Some(cause));
        (alike >= ALIKE).then(|| Error::Service {
            why: format!("{alike} of the last {LATEST} replies {}; the last: {reason}", cause.what),
            hint: Some(cause.hint),
        })
    }

    /// Adds an outcome; returns how many of the latest have its cause.
    fn push(&self, outcome: Option<&'static Cause>) -> usize {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        latest.push_back(outcome);
        if latest.len() > LATEST {
            latest.pop_front();
        }
        let Some(cause) = outcome else { return 0 };
        latest.iter().flatten().filter(|other| std::ptr::eq(**other, cause)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn like_rejects_end_the_run_and_name_the_setting() {
        for (reason, setting) in [
            ("truncated", "teacher.max_output_tokens"),
            ("malformed: `scores` is missing", "teacher.response_format"),
            ("bad request: x", "--model"),
        ] {
            let rejects = Rejects::default();
            rejects.answered();
            let ends = (0..ALIKE).map(|_| rejects.rejected(reason)).collect::<Vec<_>>();
            assert!(ends[..ALIKE - 1].iter().all(Option::is_none), "{reason}");
            let error = ends.last().and_then(Option::as_ref).expect("the last one ends the run");
            assert!(error.to_string().contains(reason), "{error}");
            assert!(error.hint().is_some_and(|hint| hint.contains(setting)), "{error:?}");
        }
    }

    #[test]
    fn mixed_data_goes_on() {
        let rejects = Rejects::default();
        for item in 0..10_000 {
            match item % 10 {
                0 => rejects.answered(),
                1..6 => assert!(rejects.rejected("truncated").is_none()),
                _ => assert!(rejects.rejected("malformed: x").is_none()),
            }
        }
        // Two of three are similar.
        for item in 0..10_000 {
            match item % 3 {
                0 => rejects.answered(),
                _ => assert!(rejects.rejected("refusal").is_none()),
            }
        }
        assert!((0..100).all(|_| rejects.rejected("missing image: a.png").is_none()), "they were not asked");
    }
}
