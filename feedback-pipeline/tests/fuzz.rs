//! Fuzzes the parsers of replies, headers and imports with randomly mutated valid input.
//!
//! The suite mutates each seed a few times; `ARES_FUZZ_SECS=600 cargo test --release --workspace fuzz` runs
//! each parser for that many seconds. The same parsers are cargo-fuzz targets in `feedback-pipeline/fuzz`.

#[path = "fuzz/readers.rs"]
mod readers;

use std::time::{Duration, Instant};

const REPLIES: &[&str] = &[
    r#"{"content":[{"type":"text","text":"{\"scores\":[{\"sentence\":1,\"score\":0.5},{\"sentence\":2,\"score\":1}]}"}],"stop_reason":"end_turn","usage":{"input_tokens":7,"output_tokens":2,"cache_read_input_tokens":4}}"#,
    r#"{"choices":[{"message":{"content":"{\"rationale\":\"a\"}","refusal":null},"finish_reason":"stop"}],"usage":{"prompt_tokens":10,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}"#,
    r#"{"scores":[{"sentence":1,"score":0.5},{"sentence":2,"score":1e-3}]} {"better":"A"} {"rationale":"b"}"#,
    r#"{"choices":[{"message":{"content":[{"type":"reasoning","text":"x"},{"type":"text","text":"<think>{\"better\":\"A\"}</think>{\"better\":\"B\",}"}],"reasoning_content":"{\"better\":\"A\"}","refusal":false},"finish_reason":"length","error":null}],"usage":{"prompt_tokens":"10","completion_tokens":2,"total_tokens":12,"cached_tokens":4,"completion_tokens_details":{"reasoning_tokens":1}}}"#,
    "data: {\"choices\":[{\"delta\":{\"content\":\"{\\\"better\\\":\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"\\\"A\\\"}\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":5}}\n\ndata: [DONE]\n\n",
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":5}}}\n\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"{}\"}}\n\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":5}}\n\n",
    r#"[{"error":{"code":400,"status":"INVALID_ARGUMENT","message":"x {\"error\":{\"message\":\"y\"}}","details":[{"reason":"API_KEY_INVALID"}],"metadata":{"raw":"{}","reasons":["z"]}}}]"#,
    r#"{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body","n"],"msg":"m","input":1}]},"type":"t","code":null}"#,
    r#"{"type":"error","error":{"type":"overloaded_error","code":"x","details":{"error_code":"y"},"message":"prompt is too long"}}"#,
    r#"{"custom_id":"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff","result":{"type":"errored","error":{"type":"error","error":{"type":"invalid_request_error","message":"m"}}}}"#,
    r#"{"custom_id":"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff","response":{"status_code":200,"body":{"choices":[]}},"error":{"code":"batch_expired"}}"#,
    r#"{"data":[{"id":"b","processing_status":"ended","status":"completed","created_at":"2026-11-23T10:11:12Z","request_counts":{"processing":1,"succeeded":2}}],"has_more":true}"#,
    r#"{"id":"b","status":"failed","created_at":5,"output_file_id":"f","request_counts":{"total":7,"completed":1,"failed":2},"metadata":{"ares_plan":"p"},"errors":{"data":[{"code":"c","message":"m"}]}}"#,
];
const HEADERS: &[&str] = &[
    "retry-after: 2\nretry-after-ms: 250\nx-should-retry: true",
    "retry-after: Sun, 06 Nov 1994 08:49:37 GMT\nanthropic-ratelimit-requests-limit: 4000",
    "x-ratelimit-limit-requests: 500\nx-ratelimit-limit-tokens: 18446744073709551615\nx-ratelimit-reset-requests: 12ms",
];
const IMPORTS: &[&str] = &[
    "\u{0}{\"7\":{\"question\":\"q\",\"choices\":[\"a\",\"b\"],\"answer\":0,\"hint\":\"\",\"image\":null,\"split\":\"train\",\"lecture\":\"l\",\"solution\":\"s\",\"grade\":\"g\"}}",
    "\u{1}{\"problem_id\":\"a\",\"split\":\"train\",\"question\":\"q\",\"choices\":[\"a\",\"b\"],\"answer_index\":0,\"image\":\"a.png\"}\n{\"problem_id\":\"b\",\"split\":\"test\",\"question\":\"q\",\"choices\":[\"a\"]}",
    "\u{2}[{\"split\":\"val\",\"image_id\":1,\"question_id\":\"x\",\"question\":\"q\",\"choices\":[\"a\",\"b\"],\"correct_choice_idx\":1,\"rationales\":[\"r\"]}]",
];

/// A small random generator with a fixed seed, so that every run mutates the same way.
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % most.max(1)
    }
}

/// Mutates bytes: flips, cuts, duplicates, inserts pieces that are hard to parse.
fn bend(random: &mut Random, seed: &[u8], other: &[u8]) -> Vec<u8> {
    const HARD: [&str; 16] = [
        "null",
        "-1",
        "1e999",
        "18446744073709551616",
        "\"\"",
        "{",
        "]",
        "\\u0000",
        "\\ud800",
        "\u{feff}",
        "NaN",
        "0.1e-400",
        "[[[[[[[[",
        "../",
        "\u{1F600}",
        "\r\n",
    ];
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len() + 1);
        match random.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 => bytes.truncate(at),
            2 => {
                let end = (at + random.below(24)).min(bytes.len());
                bytes.drain(at..end);
            }
            3 => {
                let end = (at + random.below(48)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            4 => {
                let from = random.below(other.len());
                let piece = other[from..(from + random.below(64)).min(other.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                bytes.splice(at..at, HARD[random.below(HARD.len())].bytes());
            }
        }
    }
    bytes
}

fn feed(name: &str, seeds: &[&str], rounds: usize, reader: fn(&[u8])) {
    let secs = std::env::var("ARES_FUZZ_SECS").ok().and_then(|secs| secs.parse().ok());
    let until = secs.map(|secs| Instant::now() + Duration::from_secs(secs));
    let mut random = Random(7);
    let mut fed = 0_u64;
    let mut pool: Vec<Vec<u8>> = seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect();
    loop {
        for _ in 0..rounds {
            let seed = pool[random.below(pool.len())].clone();
            let other = pool[random.below(pool.len())].clone();
            let bent = bend(&mut random, &seed, &other);
            reader(&bent);
            fed += 1;
            // Some mutated inputs are mutated again.
            if random.below(50) == 0 && bent.len() < 4_096 {
                let place = seeds.len() + random.below(64);
                if place < pool.len() { pool[place] = bent } else { pool.push(bent) }
            }
        }
        if until.is_none_or(|until| Instant::now() >= until) {
            break;
        }
    }
    println!("{name}: {fed} inputs");
}

#[test]
fn fuzz_replies() {
    feed("replies", REPLIES, 20_000, readers::reply);
}

#[test]
fn fuzz_headers() {
    feed("headers", HEADERS, 20_000, readers::headers);
}

#[test]
fn fuzz_imports() {
    feed("imports", IMPORTS, 500, readers::import);
}
