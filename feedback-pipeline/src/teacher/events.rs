//! Server-sent events, which some services send although no stream was requested. They are assembled into the
//! reply that would have come in one piece.

use super::lenient;
use serde_json::{Map, Value, json};

/// True if a body is a stream of events. Some services send comments (`: processing`) before a plain reply too.
pub(super) fn is_stream(text: &str) -> bool {
    let fields = ["data:", "event:", "id:", "retry:", ":"];
    fields.iter().any(|field| text.trim_start().starts_with(field))
}

/// The reply that a stream amounts to.
///
/// # Errors
/// If an event is not JSON, or the stream ends before the reply does.
pub(super) fn reply(text: &str) -> Result<Value, String> {
    let mut reply = Reply::default();
    let mut data: Option<String> = None;
    for line in text.lines().chain([""]) {
        if line.is_empty() {
            if let Some(event) = data.take()
                && let Some(whole) = reply.event(&event)?
            {
                return Ok(whole);
            }
        } else if let Some(more) = line.strip_prefix("data:") {
            let more = more.strip_prefix(' ').unwrap_or(more);
            data = Some(match data {
                None => more.to_owned(),
                // An event, without its empty line. Values over several lines are rare, and none of these
                // APIs sends them.
                Some(before) if lenient::whole::<Value>(&before).is_ok() => {
                    if let Some(whole) = reply.event(&before)? {
                        return Ok(whole);
                    }
                    more.to_owned()
                }
                Some(before) => before + "\n" + more,
            });
        } else if line.trim_start().starts_with('{') {
            // A complete reply after comments that keep the connection alive.
            let rest = text.get(line.as_ptr() as usize - text.as_ptr() as usize..).unwrap_or(line);
            return lenient::whole(rest);
        }
    }
    reply.put_together()
}

/// What the events have contained so far, for either API.
#[derive(Default)]
struct Reply {
    is_messages: bool,
    text: String,
    thinking: String,
    refusal: String,
    ended: Option<Value>,
    is_over: bool,
    usage: Map<String, Value>,
}

impl Reply {
    /// Adds an event; a complete reply or an error in it is the result.
    fn event(&mut self, data: &str) -> Result<Option<Value>, String> {
        if data.trim() == "[DONE]" {
            self.is_over = true;
            return Ok(None);
        }
        if data.trim().is_empty() {
            return Ok(None);
        }
        let event: Value = lenient::whole(data).map_err(|e| format!("an event is not JSON: {e}"))?;
        let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
        let is_error = super::envelope::says_something(event.get("error")) || kind == "error";
        if is_error || event.pointer("/choices/0/message").is_some_and(Value::is_object) || kind == "message"
        {
            return Ok(Some(event));
        }
        if kind.starts_with("message_") || kind.starts_with("content_block_") {
            self.is_messages = true;
            self.messages_event(kind, &event);
            return Ok(None);
        }
        self.usage(event.get("usage"));
        let choices = event.get("choices").and_then(Value::as_array);
        // One reply was asked for.
        let is_first = |choice: &&Value| choice.get("index").and_then(Value::as_u64).unwrap_or(0) == 0;
        for choice in choices.into_iter().flatten().filter(is_first) {
            if super::envelope::says_something(choice.get("error")) {
                return Ok(Some(event));
            }
            self.ended(choice.get("finish_reason"));
            let Some(delta) = choice.get("delta") else { continue };
            match delta.get("content") {
                Some(Value::Array(parts)) => parts.iter().for_each(|part| self.part(part)),
                other => append(&mut self.text, other),
            }
            append(&mut self.thinking, delta.get("reasoning_content").or(delta.get("reasoning")));
            append(&mut self.refusal, delta.get("refusal"));
        }
        Ok(None)
    }

    fn messages_event(&mut self, kind: &str, event: &Value) {
        self.usage(event.pointer("/message/usage"));
        self.usage(event.get("usage"));
        self.ended(event.pointer("/delta/stop_reason"));
        self.is_over |= kind == "message_stop";
        for part in [event.get("content_block"), event.get("delta")].into_iter().flatten() {
            self.part(part);
        }
    }

    fn part(&mut self, part: &Value) {
        match part.get("type").and_then(Value::as_str).unwrap_or("text") {
            "text" | "text_delta" | "output_text" => append(&mut self.text, part.get("text")),
            "thinking" | "thinking_delta" => append(&mut self.thinking, part.get("thinking")),
            _ => {}
        }
    }

    fn ended(&mut self, why: Option<&Value>) {
        if let Some(why) = why.filter(|why| !why.is_null()) {
            self.ended = Some(why.clone());
        }
    }

    /// Later counts replace earlier ones: they are for the whole reply.
    fn usage(&mut self, usage: Option<&Value>) {
        let counts = usage.and_then(Value::as_object);
        for (name, count) in counts.into_iter().flatten().filter(|(_, count)| !count.is_null()) {
            self.usage.insert(name.clone(), count.clone());
        }
    }

    fn put_together(self) -> Result<Value, String> {
        if !self.is_over && self.ended.is_none() {
            return Err("the stream of events ends before the reply does".to_owned());
        }
        if self.is_messages {
            return Ok(json!({
                "type": "message",
                "content": [{"type": "thinking", "thinking": self.thinking}, {"type": "text", "text": self.text}],
                "stop_reason": self.ended,
                "usage": self.usage,
            }));
        }
        let message =
            json!({"content": self.text, "reasoning_content": self.thinking, "refusal": self.refusal});
        Ok(json!({"choices": [{"message": message, "finish_reason": self.ended}], "usage": self.usage}))
    }
}

fn append(text: &mut String, more: Option<&Value>) {
    text.push_str(more.and_then(Value::as_str).unwrap_or_default());
}
