//! The verdict on the replies to one item: an answer, a reject, or a follow-up. Pure, and recomputed from the stored
//! replies each time, so that a better parser needs no new request.

use super::{Answer, complaint, is_all_thinking, read, samples};
use crate::items::Content;
use crate::items::samples::Listed;
use crate::teacher::{self, Ended, Envelope, FollowUp, ServiceError, Unopened};
use schemas::settings::Provider;

/// Number of follow-ups after malformed replies.
pub const MOST_FOLLOW_UPS: usize = 2;

/// Status stored for an item that could not be sent; the body contains the reason.
pub const NOT_SENT: u16 = 0;

/// The verdict on the replies so far.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The Teacher is to be asked, after these malformed replies.
    Ask(Vec<FollowUp>),
    /// A usable answer.
    Answer(Answer),
    /// A reply to several items has no answer for this one, which is then requested individually.
    Missing {
        /// Why.
        reason: String,
    },
    /// No usable answer will come.
    Reject {
        /// Why.
        reason: String,
        /// The last reply's text.
        reply: String,
    },
}

/// Judges replies (HTTP status and body) to an item, in order.
pub fn judge<'a>(
    provider: Provider,
    content: &Content,
    replies: impl IntoIterator<Item = (u16, &'a [u8])>,
) -> Verdict {
    let mut follow_ups: Vec<FollowUp> = Vec::new();
    for (status, body) in replies {
        if status == NOT_SENT {
            return Verdict::Reject {
                reason: String::from_utf8_lossy(body).into_owned(),
                reply: String::new(),
            };
        }
        let opened = match status {
            200..=299 => teacher::open(provider, body),
            status => Err(Unopened::Error { status, error: ServiceError::read(body) }),
        };
        let envelope = match opened {
            Ok(envelope) => envelope,
            Err(why) => {
                return Verdict::Reject { reason: unopened(why), reply: teacher::text(body).into_owned() };
            }
        };
        let reason = match (read(content, &envelope), envelope.ended) {
            (_, Ended::Refused) => "refusal".to_owned(),
            (Ok(answer), _) => return Verdict::Answer(answer),
            (Err(_), Ended::Truncated) => truncated(&envelope),
            (Err(reason), Ended::Complete) if follow_ups.len() < MOST_FOLLOW_UPS => {
                follow_ups.push(FollowUp { reply: envelope.text, complaint: complaint(&reason) });
                continue;
            }
            (Err(reason), Ended::Complete) => format!("malformed: {reason}"),
        };
        return Verdict::Reject { reason, reply: envelope.text };
    }
    Verdict::Ask(follow_ups)
}

/// Judges replies to several samples, for the sample at index `place`.
pub fn judge_sample<'a>(
    provider: Provider,
    list: &[Listed],
    place: usize,
    replies: impl IntoIterator<Item = (u16, &'a [u8])>,
) -> Verdict {
    let Some((status, body)) = replies.into_iter().last() else { return Verdict::Ask(Vec::new()) };
    let opened = match status {
        NOT_SENT => return Verdict::Missing { reason: String::from_utf8_lossy(body).into_owned() },
        200..=299 => teacher::open(provider, body),
        status => Err(Unopened::Error { status, error: ServiceError::read(body) }),
    };
    match opened.map_err(unopened).and_then(|envelope| samples::read(list, place, &envelope)) {
        Ok(scores) => Verdict::Answer(Answer::Scores(scores)),
        Err(reason) => Verdict::Missing { reason },
    }
}

/// Why a body without a reply is not an answer.
fn unopened(why: Unopened) -> String {
    match why {
        Unopened::Error { status, error } => teacher::final_for_item(status, &error)
            .unwrap_or_else(|| format!("no answer: HTTP {status}, {error}")),
        Unopened::NotAReply(why) => format!("malformed: {why}"),
    }
}

/// Why a reply was truncated; if thinking used up the limit, the user can change the settings.
fn truncated(envelope: &Envelope) -> String {
    match envelope.usage {
        _ if !is_all_thinking(envelope) => "truncated".to_owned(),
        Some(usage) => format!("truncated: the limit of {} tokens was used up by thinking", usage.output),
        None => "truncated: the limit of tokens was used up by thinking".to_owned(),
    }
}

/// Short name of a reject's reason for the ledger: the part before the first colon.
pub fn status_of(reason: &str) -> &str {
    reason.split(':').next().unwrap_or(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str, finish: &str) -> Vec<u8> {
        serde_json::json!({"choices": [{"message": {"content": text}, "finish_reason": finish}]})
            .to_string()
            .into_bytes()
    }

    fn told(replies: &[(u16, Vec<u8>)]) -> Verdict {
        let content = Content::Correction { rationale: "a".into() };
        judge(Provider::OpenAi, &content, replies.iter().map(|(status, body)| (*status, body.as_slice())))
    }

    #[test]
    fn malformed_replies_are_asked_again_twice() {
        let bad = || (200, said("hm", "stop"));
        assert_eq!(told(&[]), Verdict::Ask(vec![]));
        let Verdict::Ask(follow_ups) = told(&[bad(), bad()]) else { panic!() };
        assert_eq!(follow_ups.len(), 2);
        assert!(follow_ups[0].complaint.contains("it holds no JSON object"), "{follow_ups:?}");
        let Verdict::Reject { reason, reply } = told(&[bad(), bad(), bad()]) else { panic!() };
        assert_eq!((reason.as_str(), reply.as_str()), ("malformed: it holds no JSON object", "hm"));
        assert_eq!(status_of(&reason), "malformed");
        let good = (200, said("{\"rationale\":\"b\"}", "stop"));
        assert_eq!(told(&[bad(), good]), Verdict::Answer(Answer::Correction("b".into())));
    }

    #[test]
    fn refusal_truncation_and_errors_are_told_apart() {
        let reason = |reply| match told(&[reply]) {
            Verdict::Reject { reason, .. } => reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(reason((200, said("{", "length"))), "truncated");
        assert_eq!(reason((200, said("no", "content_filter"))), "refusal");
        assert_eq!(reason((413, Vec::new())), "request too large");
        assert_eq!(reason((500, Vec::new())), "no answer: HTTP 500, no explanation");
        assert_eq!(reason((NOT_SENT, b"missing image: a.png".to_vec())), "missing image: a.png");
    }
}
