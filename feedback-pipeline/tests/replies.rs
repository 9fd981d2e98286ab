//! Real forms of replies, for every kind of question, in both wire formats, sent one by one or in a batch.

use feedback_pipeline::items::Content;
use feedback_pipeline::reply::verdict::{self, Verdict};
use feedback_pipeline::reply::{Answer, Better};
use feedback_pipeline::send::batch::line::Answered;
use feedback_pipeline::send::batch::{anthropic, openai};
use feedback_pipeline::teacher::{self, Envelope, Unopened, Usage};
use schemas::settings::Provider;
use serde_json::{Value, json};
use std::io::Write;

/// A question with two answers that differ.
struct Asked {
    content: Content,
    draft: &'static str,
    answer: &'static str,
    read: Answer,
}

fn asked() -> [Asked; 3] {
    [
        Asked {
            content: Content::Scores { sample: 0, sentences: vec!["Ice melts.".into(), "It sinks.".into()] },
            draft: r#"{"scores":[{"sentence":1,"score":0.0},{"sentence":2,"score":0.0}]}"#,
            answer: r#"{"scores":[{"sentence":1,"score":0.9},{"sentence":2,"score":0.2}]}"#,
            read: Answer::Scores(vec![0.9, 0.2]),
        },
        Asked {
            content: Content::Correction { rationale: "Ice melts. It sinks.".into() },
            draft: r#"{"rationale":"Ice sinks."}"#,
            answer: r#"{"rationale":"Ice floats."}"#,
            read: Answer::Correction("Ice floats.".into()),
        },
        Asked {
            content: Content::Judgement {
                against: "base".into(),
                candidate: "Ice floats.".into(),
                baseline: "Ice sinks.".into(),
                candidate_shown_first: true,
            },
            draft: r#"{"better":"A"}"#,
            answer: r#"{"better":"B"}"#,
            read: Answer::Judgement(Better::B),
        },
    ]
}

const PROVIDERS: [Provider; 2] = [Provider::Anthropic, Provider::OpenAi];

/// A reply with a text.
fn said(provider: Provider, content: Value, end: &str) -> Value {
    let end = match (provider, end) {
        (Provider::Anthropic, "length") => "max_tokens",
        (Provider::Anthropic, _) => "end_turn",
        (_, end) => end,
    };
    match (provider, content) {
        (Provider::Anthropic, Value::String(text)) => {
            json!({"type": "message", "content": [{"type": "text", "text": text}], "stop_reason": end,
                "usage": {"input_tokens": 210, "output_tokens": 31}})
        }
        (Provider::Anthropic, content) => json!({"type": "message", "content": content, "stop_reason": end,
            "usage": {"input_tokens": 210, "output_tokens": 31}}),
        (_, content) => {
            json!({"choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": end}],
            "usage": {"prompt_tokens": 210, "completion_tokens": 31}})
        }
    }
}

/// The body that the parser gets when the service sends this one in a line of batch results.
fn through_a_batch(provider: Provider, body: &str) -> Vec<u8> {
    let id = "00".repeat(32);
    let read = match provider {
        Provider::Anthropic => anthropic::line(
            format!(r#"{{"custom_id":"{id}","result":{{"type":"succeeded","message":{body}}}}}"#).as_bytes(),
        ),
        _ => openai::line(
            format!(r#"{{"custom_id":"{id}","response":{{"status_code":200,"body":{body}}},"error":null}}"#)
                .as_bytes(),
        ),
    };
    match read.map(|line| line.answered) {
        Ok(Answered::Reply(body)) => body.to_vec(),
        other => panic!("{body}: {other:?}"),
    }
}

/// Judges a reply alone, sent one by one and in a batch.
fn judged(provider: Provider, content: &Content, body: &str) -> [Verdict; 2] {
    let batched = through_a_batch(provider, body);
    [body.as_bytes(), &batched].map(|body| verdict::judge(provider, content, [(200, body)]))
}

fn is_answer(provider: Provider, asked: &Asked, body: &str) {
    for verdict in judged(provider, &asked.content, body) {
        assert_eq!(verdict, Verdict::Answer(asked.read.clone()), "{provider:?}: {body}");
    }
}

fn is_asked_again(provider: Provider, asked: &Asked, body: &str, why: &str) {
    for verdict in judged(provider, &asked.content, body) {
        let Verdict::Ask(follow_ups) = &verdict else { panic!("{provider:?}: {body}: {verdict:?}") };
        assert!(follow_ups.len() == 1 && follow_ups[0].complaint.contains(why), "{body}: {follow_ups:?}");
    }
}

#[test]
fn drafts_are_never_taken_for_answers() {
    for asked in asked() {
        let (draft, answer) = (asked.draft, asked.answer);
        for provider in PROVIDERS {
            for text in [
                format!("<think>\nPerhaps {draft}? No.\n</think>\n\n{answer}"),
                format!("Perhaps {draft}? No.</think>{answer}"),
                format!("<thinking>{draft}</thinking>\n```json\n{answer}\n```"),
                format!("{answer}\nTo repeat: {answer}"),
                format!("{}\n", answer.replace(':', ": ").replace('}', ",}").replace(",}]", "}]")),
                answer.replace(':', ":\n\t"),
            ] {
                is_answer(provider, &asked, &said(provider, json!(text), "stop").to_string());
            }
            let thought = json!([
                {"type": "thinking", "thinking": draft, "text": draft}, {"type": "reasoning", "text": draft},
                {"type": "text", "text": answer},
            ]);
            is_answer(provider, &asked, &said(provider, thought, "stop").to_string());
            for (text, why) in [
                (format!("{draft}\nThat is wrong. Corrected:\n{answer}"), "several different answers"),
                (format!("```\n{draft}\n```\n```\n{answer}\n```"), "several different answers"),
                (format!("<think>{draft}"), "thinking does not end"),
                (format!("<think>{draft}</think>"), "it is empty"),
                (format!(r#"{{"before":{draft},"after":"#), "its JSON is broken"),
            ] {
                is_asked_again(provider, &asked, &said(provider, json!(text), "stop").to_string(), why);
            }
        }
    }
}

#[test]
fn answers_that_stay_different_are_a_reject() {
    for asked in asked() {
        for provider in PROVIDERS {
            let text = format!("{} or {}", asked.draft, asked.answer);
            let body = said(provider, json!(text), "stop").to_string();
            let replies = [(200, body.as_bytes()); 3];
            let Verdict::Reject { reason, reply } = verdict::judge(provider, &asked.content, replies) else {
                panic!()
            };
            assert_eq!((reason.as_str(), reply), ("malformed: it holds several different answers", text));
        }
    }
}

#[test]
fn only_what_is_needed_is_read_strictly() {
    for asked in asked() {
        let answer: Value = serde_json::from_str(asked.answer).unwrap();
        for provider in PROVIDERS {
            let text = json!({"type": "text", "text": asked.answer});
            for content in [text.clone(), json!([text]), json!([{"text": asked.answer}]), answer.clone()] {
                is_answer(provider, &asked, &said(provider, content, "stop").to_string());
            }
            let mut odd = said(provider, json!(asked.answer), "stop");
            let odd_fields =
                json!({"error": null, "stop_reason": 0, "stop_details": "none", "service_tier": 1});
            odd.as_object_mut().unwrap().extend(odd_fields.as_object().unwrap().clone());
            if let Some(choice) = odd.pointer_mut("/choices/0") {
                (choice["finish_reason"], choice["error"], choice["logprobs"]) =
                    (json!(0), json!({}), json!("none"));
                (choice["message"]["refusal"], choice["message"]["annotations"]) =
                    (json!(false), json!("none"));
            }
            odd["usage"]["prompt_tokens_details"] = json!("none");
            is_answer(provider, &asked, &odd.to_string());
        }
    }
}

#[test]
fn broken_characters_cost_no_reply() {
    let content = Content::Correction { rationale: "Ice melts.".into() };
    for provider in PROVIDERS {
        let body = said(provider, json!(r#"{"rationale":"Ice floats @."}"#), "stop").to_string();
        for broken in [r"\ud83d", r"\\ud83d", r"\udc00"] {
            for verdict in judged(provider, &content, &body.replace('@', broken)) {
                assert_eq!(
                    verdict,
                    Verdict::Answer(Answer::Correction("Ice floats \u{fffd}.".into())),
                    "{broken}"
                );
            }
        }
        let mut bytes = body.replace('@', "#").into_bytes();
        let at = bytes.iter().position(|byte| *byte == b'#').unwrap();
        bytes[at] = 0xff;
        let verdict = verdict::judge(provider, &content, [(200, bytes.as_slice())]);
        assert_eq!(verdict, Verdict::Answer(Answer::Correction("Ice floats \u{fffd}.".into())));
    }
}

#[test]
fn wrapped_bodies_are_read() {
    for asked in asked() {
        for provider in PROVIDERS {
            let body = said(provider, json!(asked.answer), "stop").to_string();
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(body.as_bytes()).unwrap();
            let comments = format!(": processing\n\n: processing\n\n{body}");
            for (status, wrapped) in [
                (200, gzip.finish().unwrap()),
                (200, format!("\u{feff}{body}").into_bytes()),
                (200, format!("\n\n  {body}\n").into_bytes()),
                (200, comments.into_bytes()),
                (200, events(provider, asked.answer).into_bytes()),
                (201, body.into_bytes()),
            ] {
                let verdict = verdict::judge(provider, &asked.content, [(status, wrapped.as_slice())]);
                assert_eq!(
                    verdict,
                    Verdict::Answer(asked.read.clone()),
                    "{}",
                    String::from_utf8_lossy(&wrapped)
                );
                let usage = teacher::open(provider, &wrapped).unwrap().usage;
                assert_eq!(usage, Some(Usage { input: 210, output: 31, ..Usage::default() }));
            }
        }
    }
}

/// A reply as a stream of events, in pieces of a few characters.
fn events(provider: Provider, text: &str) -> String {
    let pieces: Vec<String> =
        text.as_bytes().chunks(7).map(|piece| String::from_utf8_lossy(piece).into_owned()).collect();
    let mut events = Vec::new();
    if provider == Provider::Anthropic {
        events.push(json!({"type": "message_start", "message": {"content": [], "usage": {"input_tokens": 210, "output_tokens": 1}}}));
        events.push(json!({"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "{\"better\":\"tie\"}"}}));
        events.extend(pieces.iter().map(|piece| json!({"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": piece}})));
        events.push(json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 31}}));
        events.push(json!({"type": "message_stop"}));
    } else {
        events.push(json!({"choices": [{"index": 0, "delta": {"reasoning_content": "{\"better\":\"tie\"}"}, "finish_reason": null}], "usage": null}));
        events.extend(pieces.iter().map(
            |piece| json!({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": null}]}),
        ));
        events.push(json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}));
        events.push(json!({"choices": [], "usage": {"prompt_tokens": 210, "completion_tokens": 31}}));
    }
    let named = |event: &Value| match event.get("type").and_then(Value::as_str) {
        Some(name) => format!("event: {name}\r\ndata: {event}\r\n\r\n"),
        None => format!("data: {event}\n\n"),
    };
    let done = if provider == Provider::OpenAi { "data: [DONE]\n\n" } else { "" };
    events.iter().map(named).collect::<String>() + done
}

#[test]
fn streams_that_end_early_are_no_replies() {
    for provider in PROVIDERS {
        let whole = events(provider, r#"{"better":"A"}"#);
        let cut =
            &whole[..whole.find("finish_reason\":\"stop").or(whole.find("message_delta")).unwrap() - 60];
        assert!(matches!(teacher::open(provider, cut.as_bytes()), Err(Unopened::NotAReply(_))), "{cut}");
        let failed = format!("{cut}\n\ndata: {{\"error\":{{\"message\":\"lost\",\"code\":503}}}}\n\n");
        let lines = failed.lines().filter(|line| !line.starts_with("data: {") || line.ends_with('}'));
        let failed = lines.collect::<Vec<_>>().join("\n");
        assert!(
            matches!(teacher::open(provider, failed.as_bytes()), Err(Unopened::Error { status: 503, .. })),
            "{failed}"
        );
    }
}

#[test]
fn cut_off_replies() {
    for asked in asked() {
        for provider in PROVIDERS {
            let reason = |content: Value| {
                let body = said(provider, content, "length").to_string();
                judged(provider, &asked.content, &body).map(|verdict| match verdict {
                    Verdict::Answer(answer) if answer == asked.read => "answer".to_owned(),
                    Verdict::Reject { reason, .. } => reason,
                    other => panic!("{other:?}"),
                })
            };
            let both = |text: &str| [text.to_owned(), text.to_owned()];
            assert_eq!(reason(json!(format!("{}{}", asked.answer, " \n".repeat(500)))), both("answer"));
            assert_eq!(reason(json!(&asked.answer[..asked.answer.len() - 1])), both("truncated"));
            let by_thinking = both("truncated: the limit of 31 tokens was used up by thinking");
            assert_eq!(reason(json!(format!("<think>Hm. {}", asked.draft))), by_thinking);
            assert_eq!(reason(json!([{"type": "thinking", "thinking": asked.answer}])), by_thinking);
        }
    }
    let mut body = said(Provider::OpenAi, json!(""), "length");
    body["choices"][0]["message"]["reasoning_content"] = json!("Hm. {\"better\":\"A\"}. Hm.");
    let content = &asked()[2].content;
    for verdict in judged(Provider::OpenAi, content, &body.to_string()) {
        let Verdict::Reject { reason, .. } = verdict else { panic!("{verdict:?}") };
        assert_eq!(verdict::status_of(&reason), "truncated");
        assert!(reason.contains("31 tokens"), "{reason}");
    }
}

#[test]
fn errors_inside_a_200_are_what_they_name() {
    let of = |provider, body: Value| match teacher::open(provider, body.to_string().as_bytes()) {
        Err(Unopened::Error { status, error }) => (status, error.to_string()),
        other => panic!("{body}: {other:?}"),
    };
    for provider in PROVIDERS {
        let table = [
            (json!({"error": {"message": "Slow down", "code": 429}, "choices": null, "content": null}), 429),
            (json!({"error": {"message": "No credit", "code": "402"}}), 402),
            (json!({"error": "Wrong API key: invalid"}), 401),
            (json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}), 529),
            (json!([{"error": {"code": 503, "message": "Busy", "status": "UNAVAILABLE"}}]), 503),
            (
                json!({"object": "error", "message": "Busy", "type": "service_unavailable", "code": "3000"}),
                503,
            ),
            (json!({"detail": "Not authenticated"}), 401),
        ];
        for (body, status) in table {
            let (found, words) = of(provider, body.clone());
            assert_eq!(found, status, "{body}");
            assert_ne!(words, "no explanation", "{body}");
        }
    }
    let choice = |choice: Value| of(Provider::OpenAi, json!({"choices": [choice]}));
    let lost = json!({"message": {"content": ""}, "finish_reason": "error", "error": {"code": 504, "message": "lost"}});
    assert_eq!(choice(lost), (504, "lost".to_owned()));
    assert_eq!(choice(json!({"message": {"content": ""}, "finish_reason": "error"})).0, 502);
    assert_eq!(
        choice(json!({"message": {"content": ""}, "finish_reason": "insufficient_system_resource"})).0,
        503
    );
    for choices in [json!([]), json!(null)] {
        let body = json!({"choices": choices, "usage": {"prompt_tokens": 210, "completion_tokens": 0}});
        assert_eq!(of(Provider::OpenAi, body), (502, "the reply holds no choices".to_owned()));
    }
}

#[test]
fn usage_that_cannot_be_is_unknown() {
    for provider in PROVIDERS {
        let usage = |usage: Value| {
            let mut body = said(provider, json!("x"), "stop");
            body["usage"] = usage;
            let opened = teacher::open(provider, body.to_string().as_bytes());
            opened.map(|Envelope { usage, .. }| usage.map(|usage| (usage.input, usage.output)))
        };
        let of = |input: Value, output: Value| match provider {
            Provider::Anthropic => json!({"input_tokens": input, "output_tokens": output}),
            _ => json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input}),
        };
        assert_eq!(usage(of(json!("210"), json!("31"))), Ok(Some((210, 31))));
        for unknown in [
            json!({}),
            json!([]),
            json!(null),
            json!("none"),
            json!(7),
            of(json!(0), json!(0)),
            of(json!(210), json!(0)),
            of(json!(u64::MAX), json!(i64::MAX)),
            of(json!(-210), json!(31)),
            of(json!("many"), json!(31)),
            of(json!(null), json!(31)),
            of(json!(210), json!(1e12)),
        ] {
            assert_eq!(usage(unknown.clone()), Ok(None), "{provider:?}: {unknown}");
        }
    }
}
