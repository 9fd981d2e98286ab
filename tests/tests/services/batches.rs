//! Batches as services return them.

use crate::client::{BEARER, Desk, Header, Heard, chat, message, scores};
use serde_json::{Value, json};
use std::time::Duration;
use workspace_tests::teacher_service::{BatchOptions, Fault, Faults, Options, Service, Shape, Shapes};

/// Submits a batch of three to OpenAI's API, and returns the reply.
fn sent(desk: &Desk, base: &str, model: &str) -> Value {
    let lines: Vec<String> = (0..3)
        .map(|number| {
            let text = scores().replace("9 blue", &format!("{number} blue"));
            json!({"custom_id": format!("c{number}"), "method": "POST", "url": "/v1/chat/completions",
                "body": chat(model, &text)})
            .to_string()
        })
        .collect();
    let part = |name: &str, content: &str| {
        format!("--xyz\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{content}\r\n")
    };
    let upload = format!("{}{}--xyz--\r\n", part("purpose", "batch"), part("file", &lines.join("\n")));
    let file = desk.send("POST", &format!("{base}/files"), &[BEARER], upload.as_bytes()).json();
    let asked =
        json!({"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"});
    desk.post(&format!("{base}/batches"), &[BEARER], &asked).json()
}

fn get(desk: &Desk, path: &str, header: Header) -> Heard {
    desk.send("GET", path, &[header], b"")
}

fn with_batches(service: Service, batch: BatchOptions) -> Options {
    Options { service, batch, ..Options::default() }
}

#[test]
fn odd_files() {
    let batch = BatchOptions {
        empty_error_id: true,
        late_output: Duration::from_millis(300),
        double_lines: 1,
        bom: true,
        ..BatchOptions::default()
    };
    let desk = Desk::new(with_batches(Service::Gemini, batch));
    let told = sent(&desk, "/v1beta/openai", "gemini-3.5-flash");
    assert_eq!(
        (&told["status"], &told["error_file_id"], &told["output_file_id"]),
        (&json!("completed"), &json!(""), &Value::Null)
    );
    assert_eq!(desk.service.requests().len(), 3);
    std::thread::sleep(Duration::from_millis(350));
    let path = format!("/v1beta/openai/batches/{}", told["id"].as_str().unwrap());
    let told = get(&desk, &path, BEARER).json();
    let file = format!("/v1beta/openai/files/{}/content", told["output_file_id"].as_str().unwrap());
    let lines = get(&desk, &file, BEARER).text();
    assert!(lines.starts_with("\u{feff}{"));
    assert_eq!(lines.lines().count(), 5, "the first and the last twice");
    assert_eq!(get(&desk, &path.replace("/v1beta/openai", "/v1"), BEARER).status, 404);
}

#[test]
fn errors_in_one_envelope_more_and_shapes_in_results() {
    let batch = BatchOptions { wrap_errors: true, ..BatchOptions::default() };
    let requests = json!([{"custom_id": "a", "params": message("claude-haiku-5-5", &scores(), 4_096)}]);
    let version = ("anthropic-version", "2023-06-01");
    let result = |options: Options| {
        let desk = Desk::new(options);
        let told = desk
            .post("/v1/messages/batches", &[("x-api-key", "k"), version], &json!({ "requests": requests }))
            .json();
        let path = format!("/v1/messages/batches/{}/results", told["id"].as_str().unwrap());
        get(&desk, &path, ("x-api-key", "k")).json()["result"].clone()
    };
    let faults = Faults::only(Fault::BadRequest, 1.0);
    let errored = result(Options { faults, ..with_batches(Service::Anthropic, batch) });
    assert_eq!(errored["type"], "errored");
    assert_eq!(errored["error"]["error"]["error"]["type"], "invalid_request_error");
    let shapes = Shapes::only(Shape::ThinkDraft, 1.0);
    let odd = Options { shapes, service: Service::Anthropic, ..Options::default() };
    let said = result(odd)["message"]["content"][1]["text"].as_str().unwrap().to_owned();
    assert!(said.starts_with("<think>"), "{said}");
    // A request that is refused individually is refused in a batch.
    let desk = Desk::of(Service::OpenAi);
    let told = sent(&desk, "/v1", "gpt-3.5-turbo");
    assert!(told["error_file_id"].is_string() && told["output_file_id"].is_null(), "{told}");
    assert_eq!(desk.service.stats().refusals["model"], 3);
}
