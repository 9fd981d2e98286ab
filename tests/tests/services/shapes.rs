//! Unusual forms of replies: the correct answer is where it should be, and the drafts are wrong.

use crate::client::{BEARER, Desk, chat, correction, judgement, message, scores};
use serde_json::{Value, json};
use std::io::Read as _;
use std::time::{Duration, Instant};
use workspace_tests::teacher_service::{Options, Service, Shape, Shapes};

fn desk(shape: Shape) -> Desk {
    Desk::new(Options { shapes: Shapes::only(shape, 1.0), ..Options::default() })
}

#[test]
fn drafts_come_before_the_answer() {
    for shape in Shape::DRAFTS.iter().filter(|shape| **shape != Shape::ReasoningPart) {
        let desk = desk(*shape);
        for text in [scores(), correction(), judgement()] {
            let right = desk.service.right_answer(&text).unwrap().to_string();
            for said in [
                desk.chat(&chat("m", &text)).content(),
                desk.message(&message("m", &text, 500)).json()["content"][0]["text"]
                    .as_str()
                    .unwrap()
                    .to_owned(),
            ] {
                let place = said.rfind(&right).unwrap_or_else(|| panic!("{shape:?}: {said}"));
                assert!(said[..place].contains('{'), "{shape:?}: {said}");
            }
        }
        assert_eq!(desk.service.stats().good, 6, "they are paid for");
        assert_eq!(desk.service.stats().shapes[shape.name()], 6);
    }
}

#[test]
fn envelopes() {
    let reply = |shape| desk(shape).chat(&chat("m", &scores())).json();
    let right: Value = desk(Shape::Bom).service.right_answer(&scores()).unwrap();
    let message = |value: &Value| value["choices"][0]["message"].clone();
    assert_eq!(message(&reply(Shape::ContentObject))["content"], right);
    let parts = message(&reply(Shape::ReasoningPart))["content"].clone();
    assert_eq!((&parts[0]["type"], &parts[1]["text"]), (&json!("reasoning"), &json!(right.to_string())));
    let only = message(&reply(Shape::ReasoningOnly));
    assert_eq!((&only["content"], &only["reasoning_content"]), (&Value::Null, &json!(right.to_string())));
    assert_eq!(message(&reply(Shape::RefusalFalse))["refusal"], false);
    assert_eq!(reply(Shape::FinishZero)["choices"][0]["finish_reason"], 0);
    let spent = reply(Shape::BudgetSpent);
    assert_eq!(
        (&message(&spent)["content"], &spent["usage"]["completion_tokens"]),
        (&json!(""), &json!(1_024))
    );
    assert_eq!(reply(Shape::UsageEmpty)["usage"], json!({}));
    assert_eq!(reply(Shape::UsageList)["usage"], json!([]));
    assert_eq!(reply(Shape::UsageZeros)["usage"]["prompt_tokens"], 0);
    assert!(reply(Shape::UsageStrings)["usage"]["prompt_tokens"].is_string());
    assert!(reply(Shape::UsageHuge)["usage"]["completion_tokens"].as_u64().unwrap() > u64::MAX / 2);
    assert!(reply(Shape::DetailsText)["usage"]["prompt_tokens_details"].is_string());
}

#[test]
fn failures_inside_a_good_status() {
    for (shape, code) in [
        (Shape::LimitInside, 429),
        (Shape::OverloadInside, 503),
        (Shape::CreditInside, 402),
        (Shape::KeyInside, 401),
    ] {
        let desk = desk(shape);
        let heard = desk.chat(&chat("m", &scores()));
        assert_eq!((heard.status, &heard.json()["error"]["code"]), (200, &json!(code)));
        assert_eq!(desk.message(&message("m", &scores(), 500)).json()["type"], "error");
        assert_eq!(desk.service.stats().good, 0);
    }
    let reply = |shape| desk(shape).chat(&chat("m", &scores())).json();
    assert_eq!(reply(Shape::ChoiceError)["choices"][0]["error"]["code"], 502);
    assert_eq!(reply(Shape::NoChoices)["choices"], json!([]));
    assert_eq!(reply(Shape::NullChoices)["choices"], Value::Null);
}

#[test]
fn bodies_and_statuses() {
    let heard = |shape| desk(shape).chat(&chat("m", &scores()));
    let right = desk(Shape::Bom).service.right_answer(&scores()).unwrap().to_string();
    let sse = heard(Shape::Sse);
    assert!(sse.headers.contains("text/event-stream") && sse.text().ends_with("data: [DONE]\n\n"));
    let chunks = sse.text();
    let chunks =
        chunks.lines().filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok());
    let said: String = chunks
        .filter_map(|chunk| Some(chunk["choices"][0]["delta"]["content"].as_str()?.to_owned()))
        .collect();
    assert_eq!(said, right);
    let gzip = heard(Shape::Gzip);
    assert!(gzip.headers.contains("content-encoding: gzip"));
    let mut plain = String::new();
    flate2::read::GzDecoder::new(&gzip.bytes[..]).read_to_string(&mut plain).unwrap();
    assert!(plain.contains("chat.completion"));
    assert_eq!(heard(Shape::Created).status, 201);
    assert!(heard(Shape::Bom).text().starts_with("\u{feff}{"));
    let lone = heard(Shape::LoneSurrogate);
    assert!(lone.text().contains("\\ud83d ") && serde_json::from_slice::<Value>(&lone.bytes).is_err());
    assert_eq!(heard(Shape::FlaggedItem).status, 403);
    let shapes = Shapes::only(Shape::FlaggedItem, 1.0);
    let azure = Desk::new(Options { service: Service::Azure, shapes, ..Options::default() });
    let heard_there = azure.post("/openai/v1/chat/completions", &[BEARER], &chat("gpt-4.1", &scores()));
    assert_eq!((heard_there.status, &heard_there.json()["error"]["code"]), (400, &json!("content_filter")));
    assert_eq!(heard(Shape::BadGatewayItem).status, 502);
}

#[test]
fn shapes_follow_share_and_seed() {
    let shapes = Shapes { seed: 4, share: 0.3, kinds: vec![Shape::FlaggedItem], after: 2 };
    let ask = |shapes: &Shapes| -> Vec<u16> {
        let desk = Desk::new(Options { shapes: shapes.clone(), ..Options::default() });
        let texts = (0..40).map(|number| scores().replace("9 blue", &format!("{number} blue")));
        texts.map(|text| desk.chat(&chat("m", &text)).status).collect()
    };
    let seen = ask(&shapes);
    assert_eq!(seen, ask(&shapes));
    assert_ne!(seen, ask(&Shapes { seed: 5, ..shapes }));
    let flagged = seen.iter().filter(|status| **status == 403).count();
    assert!((4..20).contains(&flagged) && seen[..2] == [200, 200], "{seen:?}");
}

#[test]
fn one_slot_serves_one_at_a_time() {
    let latency = Duration::from_millis(60);
    let desk = Desk::new(Options { slots: Some(1), latency, ..Options::default() });
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(desk.chat(&chat("m", &scores())).status, 200));
        }
    });
    assert!(begun.elapsed() >= latency * 4);
}

#[test]
fn who_gives_up_leaves_the_line() {
    // Long enough for the others to come and go meanwhile, also on a busy machine.
    let latency = Duration::from_secs(1);
    let desk = Desk::new(Options { slots: Some(1), latency, ..Options::default() });
    let have_come = |count: u64| {
        let begun = Instant::now();
        while desk.service.stats().requests < count {
            assert!(begun.elapsed() < Duration::from_secs(10), "no request {count}");
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let body = chat("m", &scores()).to_string();
    let begin = || desk.begin("POST", "/v1/chat/completions", &[BEARER], body.as_bytes());
    let first = begin();
    have_come(1);
    let others = (begin(), begin(), begin());
    have_come(4);
    drop(others);
    assert_eq!(desk.chat(&chat("m", &scores())).status, 200);
    assert_eq!((desk.service.stats().good, desk.service.stats().requests), (2, 5));
    drop(first);
}
