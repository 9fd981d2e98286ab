//! A minimal client, and requests to send with it.

use base64::Engine as _;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;
use workspace_tests::small_dataset::{PICTURE, Size, make, problem};
use workspace_tests::teacher_service::{Options, Service, TeacherService};

/// A service with its own dataset.
pub(crate) struct Desk {
    pub(crate) service: TeacherService,
    _folder: tempfile::TempDir,
}

/// A reply as it came.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) bytes: Vec<u8>,
}

impl Heard {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The text of a good reply over the chat API.
    pub(crate) fn content(&self) -> String {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned()
    }
}

/// A key header.
pub(crate) type Header = (&'static str, &'static str);

pub(crate) const BEARER: Header = ("authorization", "Bearer k");

impl Desk {
    pub(crate) fn new(options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("small");
        make(&root, Size { problems: 4, samples: 1 }).unwrap();
        let service = TeacherService::start(Options { data: vec![root], ..options }).unwrap();
        Self { service, _folder: folder }
    }

    pub(crate) fn of(service: Service) -> Self {
        Self::new(Options { service, ..Options::default() })
    }

    /// Sends bytes and reads the reply.
    pub(crate) fn send(&self, method: &str, path: &str, headers: &[Header], body: &[u8]) -> Heard {
        let mut stream = self.begin(method, path, headers, body);
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let headers = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
        Heard { status, headers, bytes: bytes[end + 4..].to_vec() }
    }

    /// Sends bytes; the reply arrives on the returned connection.
    pub(crate) fn begin(&self, method: &str, path: &str, headers: &[Header], body: &[u8]) -> TcpStream {
        let address = self.service.url();
        let mut stream = TcpStream::connect(address.trim_start_matches("http://")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        stream
    }

    pub(crate) fn post(&self, path: &str, headers: &[Header], body: &Value) -> Heard {
        self.send("POST", path, headers, body.to_string().as_bytes())
    }

    /// Over the chat API, at the usual path.
    pub(crate) fn chat(&self, body: &Value) -> Heard {
        self.post("/v1/chat/completions", &[BEARER], body)
    }

    /// Over Anthropic's API.
    pub(crate) fn message(&self, body: &Value) -> Heard {
        self.post("/v1/messages", &[("x-api-key", "k"), ("anthropic-version", "2023-06-01")], body)
    }
}

fn shown(number: usize) -> String {
    let problem = problem(number);
    let letter = if problem.answer_index == Some(1) { "B" } else { "A" };
    format!(
        "<problem>\nQuestion: {}\nOptions: (A) red (B) blue\nHint: {}\nCorrect answer: ({letter})\n</problem>\n",
        problem.question, problem.hint
    )
}

/// A user's text that asks for scores.
pub(crate) fn scores() -> String {
    format!(
        "{}<sentences>\n1: The box holds 3 red marbles.\n2: The box holds 9 blue marbles.\n3: So most are blue.\n</sentences>",
        shown(1)
    )
}

/// A user's text that asks for a correction.
pub(crate) fn correction() -> String {
    format!("{}<rationale>\nThe box holds 9 red marbles.\nSo most are green.\n</rationale>", shown(1))
}

/// A user's text that asks for a judgement.
pub(crate) fn judgement() -> String {
    format!(
        "{}<rationale_a>\nSo most are green.\n</rationale_a>\n<rationale_b>\nThe box holds 3 red marbles. The box holds 4 blue marbles. So most are blue.\n</rationale_b>",
        shown(1)
    )
}

/// A schema that every service accepts.
pub(crate) fn schema() -> Value {
    json!({"type": "object", "additionalProperties": false, "required": ["scores"], "properties": {"scores": {
        "type": "array", "items": {"type": "object", "additionalProperties": false, "required": ["sentence", "score"],
            "properties": {"sentence": {"type": "integer"}, "score": {"type": "number"}}},
    }}})
}

/// A request over the chat API.
pub(crate) fn chat(model: &str, text: &str) -> Value {
    json!({"model": model, "messages": [
        {"role": "system", "content": "Grade each sentence. Reply with JSON."}, {"role": "user", "content": text},
    ]})
}

/// The same with more fields.
pub(crate) fn with(mut body: Value, more: Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

/// A request with a schema, in OpenAI's format.
pub(crate) fn with_schema(body: Value) -> Value {
    let format =
        json!({"type": "json_schema", "json_schema": {"name": "scores", "strict": true, "schema": schema()}});
    with(body, json!({ "response_format": format }))
}

/// A request over Anthropic's API.
pub(crate) fn message(model: &str, text: &str, max_tokens: u64) -> Value {
    json!({"model": model, "max_tokens": max_tokens, "system": [{"type": "text", "text": "Grade each sentence."}],
        "messages": [{"role": "user", "content": text}]})
}

/// A picture as a part of a chat message; `media` as declared, whatever the bytes are.
pub(crate) fn chat_with_picture(model: &str, bytes: &[u8], media: &str, detail: Option<&str>) -> Value {
    let data = base64::engine::general_purpose::STANDARD.encode(bytes);
    let mut url = json!({"url": format!("data:{media};base64,{data}")});
    if let Some(detail) = detail {
        url["detail"] = detail.into();
    }
    json!({"model": model, "messages": [{"role": "system", "content": "Grade."}, {"role": "user", "content": [
        {"type": "image_url", "image_url": url}, {"type": "text", "text": scores()},
    ]}]})
}

/// A PNG with this size in its header.
pub(crate) fn picture(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = PICTURE.to_vec();
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    bytes
}
