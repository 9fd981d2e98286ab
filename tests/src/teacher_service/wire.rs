//! The two wire formats: reading requests, writing replies.

use super::answer::tokens;
use base64::Engine as _;
use serde_json::{Value, json};

/// The API of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Api {
    Anthropic,
    OpenAi,
}

/// A request, read.
pub(super) struct Asked {
    pub model: Value,
    /// The first user message's text.
    pub text: String,
    /// Everything that counts as input.
    pub input_tokens: u64,
    /// Of these, tokens written to the prompt cache and read from it.
    pub cached: (u64, u64),
    pub pictures: Vec<Picture>,
    /// Whether the reply's tokens are counted by a tokenizer.
    pub real_tokens: bool,
}

/// A picture in a request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Picture {
    /// Type detected from the bytes: png, jpeg, gif or webp; empty if it is none of these.
    pub(crate) kind: &'static str,
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// The picture detail.
    pub(crate) detail: Option<String>,
    pub(crate) base64_len: usize,
}

/// The content of a reply.
pub(super) struct Saying<'a> {
    pub(super) text: &'a str,
    /// Why it ended: stop, length or refusal.
    pub(super) ended: &'a str,
    /// Tokens of the text where they are known already.
    pub(super) tokens: Option<u64>,
    /// Tokens beyond the text, as for thinking.
    pub(super) more: u64,
}

/// Reads a request; `strictly` as the two public APIs' clients send it.
pub(super) fn read(api: Api, body: &Value, strictly: bool) -> Result<Asked, String> {
    let messages = body["messages"].as_array().ok_or("messages: expected a list")?;
    let mut asked = Asked {
        model: body["model"].clone(),
        text: String::new(),
        input_tokens: 3,
        cached: (0, 0),
        pictures: Vec::new(),
        real_tokens: false,
    };
    if !body["model"].is_string() {
        return Err("model: expected a text".to_owned());
    }
    match api {
        Api::Anthropic => {
            if !body["max_tokens"].is_u64() {
                return Err("max_tokens: expected a number".to_owned());
            }
            for block in body["system"].as_array().into_iter().flatten() {
                asked.input_tokens += tokens(block["text"].as_str().unwrap_or_default());
            }
        }
        Api::OpenAi if strictly && messages.first().is_none_or(|message| message["role"] != "system") => {
            return Err("messages: expected the system message first".to_owned());
        }
        Api::OpenAi => {}
    }
    for message in messages {
        let text = match &message["content"] {
            Value::String(text) => text.clone(),
            Value::Array(blocks) => read_blocks(api, blocks, &mut asked)?,
            _ => return Err("content: expected a text or a list".to_owned()),
        };
        asked.input_tokens += tokens(&text) + 4;
        if message["role"] == "user" && asked.text.is_empty() {
            asked.text = text;
        }
    }
    Ok(asked)
}

fn read_blocks(api: Api, blocks: &[Value], asked: &mut Asked) -> Result<String, String> {
    let mut texts = String::new();
    for block in blocks {
        let data = match (block["type"].as_str(), api) {
            (Some("text"), _) => {
                texts.push_str(block["text"].as_str().ok_or("text: expected a text")?);
                continue;
            }
            (Some("image"), Api::Anthropic) => {
                let media = block["source"]["media_type"].as_str().ok_or("image: no media_type")?;
                (media.to_owned(), block["source"]["data"].as_str().ok_or("image: no data")?)
            }
            (Some("image_url"), Api::OpenAi) => {
                let url = block["image_url"]["url"].as_str().ok_or("image_url: no url")?;
                let (media, data) = url
                    .strip_prefix("data:")
                    .and_then(|url| url.split_once(";base64,"))
                    .ok_or("image_url: no data URL")?;
                (media.to_owned(), data)
            }
            (other, _) => return Err(format!("content: unknown block {other:?}")),
        };
        if !texts.is_empty() {
            return Err("content: expected the image before the text".to_owned());
        }
        let bytes =
            base64::engine::general_purpose::STANDARD.decode(data.1).map_err(|e| format!("image: {e}"))?;
        let png = bytes.starts_with(b"\x89PNG");
        if png != (data.0 == "image/png") {
            return Err(format!("image: bytes are not {}", data.0));
        }
        let detail = block["image_url"]["detail"].as_str().map(str::to_owned);
        asked.pictures.push(Picture { detail, base64_len: data.1.len(), ..measure(&bytes) });
        asked.input_tokens += 200;
    }
    Ok(texts)
}

/// The contents of a picture's header.
fn measure(bytes: &[u8]) -> Picture {
    let kind = match image::guess_format(bytes) {
        Ok(image::ImageFormat::Png) => "png",
        Ok(image::ImageFormat::Jpeg) => "jpeg",
        Ok(image::ImageFormat::Gif) => "gif",
        Ok(image::ImageFormat::WebP) => "webp",
        _ => "",
    };
    let number = |from: usize| Some(u32::from_be_bytes(bytes.get(from..from + 4)?.try_into().ok()?));
    let size = if kind == "png" {
        number(16).zip(number(20))
    } else {
        let reader = image::ImageReader::new(std::io::Cursor::new(bytes)).with_guessed_format();
        reader.ok().and_then(|reader| reader.into_dimensions().ok())
    };
    let (width, height) = size.unwrap_or((1, 1));
    Picture { kind, width, height, ..Picture::default() }
}

/// A reply's body.
pub(super) fn reply(api: Api, number: u64, asked: &Asked, saying: &Saying<'_>) -> Value {
    let (said, ended) = (saying.text, saying.ended);
    let counted = || if asked.real_tokens { super::count::text(api, said) } else { tokens(said) + 1 };
    let output = saying.more + saying.tokens.unwrap_or_else(counted);
    let (written, read) = asked.cached;
    match api {
        Api::Anthropic => json!({
            "id": format!("msg_{number}"), "type": "message", "role": "assistant", "model": asked.model,
            "content": [{"type": "text", "text": said}],
            "stop_reason": match ended { "length" => "max_tokens", "refusal" => "refusal", _ => "end_turn" },
            "stop_sequence": null,
            "usage": {"input_tokens": asked.input_tokens - written - read, "output_tokens": output,
                "cache_creation_input_tokens": written, "cache_read_input_tokens": read},
        }),
        Api::OpenAi => {
            let (content, refusal) =
                if ended == "refusal" { (Value::Null, json!(said)) } else { (json!(said), Value::Null) };
            let finish = if ended == "refusal" { "stop" } else { ended };
            json!({
                "id": format!("chatcmpl-{number}"), "object": "chat.completion", "created": 1_760_000_000, "model": asked.model,
                "choices": [{"index": 0, "message": {"role": "assistant", "content": content, "refusal": refusal},
                    "finish_reason": finish}],
                "usage": {"prompt_tokens": asked.input_tokens, "completion_tokens": output,
                    "total_tokens": asked.input_tokens + output, "prompt_tokens_details": {"cached_tokens": read}},
            })
        }
    }
}

/// An error's body.
pub(super) fn error(kind: &str, code: &str, message: &str) -> Value {
    json!({"type": "error", "error": {"type": kind, "code": code, "message": message}})
}

/// Headers with the limits.
pub(super) fn limit_headers(api: Api, requests: f64, tokens: f64) -> Vec<(&'static str, String)> {
    let (request_name, token_name) = match api {
        Api::Anthropic => ("anthropic-ratelimit-requests-limit", "anthropic-ratelimit-input-tokens-limit"),
        Api::OpenAi => ("x-ratelimit-limit-requests", "x-ratelimit-limit-tokens"),
    };
    let told = [(request_name, requests), (token_name, tokens)];
    told.into_iter()
        .filter(|(_, limit)| *limit > 0.0)
        .map(|(name, limit)| (name, (limit as u64).to_string()))
        .collect()
}
