//! From a request to a reply: reads it as the service does, and answers it with the scheduled faults and
//! shapes.

use super::answer::Kind;
use super::services::failure::{Failure, Told};
use super::services::{Head, Sent, Spent, thinking, tokens};
use super::shape::{self, Shape};
use super::wire::{self, Api, Saying};
use super::{Fault, Shared, http};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A request that was accepted.
pub(super) struct Received {
    pub(super) api: Api,
    kind: Kind,
    pub(super) number: u64,
    digest: [u8; 32],
    text: [u8; 32],
    /// How often it arrived before, and good replies so far.
    times: u32,
    good: u64,
    pub(super) asked: wire::Asked,
    answer: Value,
    /// The result of the service's rules: the limit of the reply, the tokens of thinking, and where thinking
    /// appears.
    limit: Option<u64>,
    thinking: u64,
    shown: thinking::Shown,
    /// The reply has no limit, so it continues until the context is full.
    runs_on: bool,
    drops_schema: bool,
}

/// Reads a request as the service does; refusals are counted.
pub(super) fn receive(shared: &Shared, api: Api, head: &Head, body: &[u8]) -> Result<Received, Failure> {
    let digest: [u8; 32] = Sha256::digest(body).into();
    let (good, number) = {
        let mut stats = shared.stats();
        stats.requests += 1;
        *stats.seen.entry(digest).or_default() += 1;
        (stats.good, stats.requests)
    };
    let value: Value =
        serde_json::from_slice(body).map_err(|_| Failure::bad("body", "the body is no JSON"))?;
    let mut received = understand(shared, api, head, &value)?;
    (received.digest, received.number, received.good) = (digest, number, good);
    received.thinking = thinking::varied(received.thinking, &received.text);
    received.runs_on &= received.text[5].is_multiple_of(4);
    let mut stats = shared.stats();
    let times = stats.asked.entry(received.text).or_default();
    *times += 1;
    received.times = *times - 1;
    *stats.kinds.entry(received.kind.name()).or_default() += 1;
    stats.images += received.asked.pictures.len() as u64;
    Ok(received)
}

fn understand(shared: &Shared, api: Api, head: &Head, value: &Value) -> Result<Received, Failure> {
    let profile = shared.profile();
    let mut asked =
        wire::read(api, value, !profile.is_named).map_err(|message| Failure::bad("body", message))?;
    let pictures = std::mem::take(&mut asked.pictures);
    let sent = Sent {
        api,
        model: value["model"].as_str().unwrap_or_default(),
        body: value,
        version: head.version.as_deref(),
        pictures: &pictures,
    };
    (profile.check)(&sent)?;
    if shared.options.blind && !pictures.is_empty() {
        return Err((profile.blind)(&sent));
    }
    let by_tokenizer = shared.options.real_tokens;
    let counted = if profile.is_named {
        Some(tokens::request(profile, &sent, by_tokenizer, &shared.prompt_cache)?)
    } else {
        by_tokenizer.then(|| super::count::request(api, value, &shared.prompt_cache))
    };
    if let Some(counted) = counted {
        asked.input_tokens = counted.plain + counted.written + counted.read;
        (asked.cached, asked.real_tokens) = ((counted.written, counted.read), by_tokenizer);
    }
    let (kind, mut answer) =
        shared.brain.answer(&asked.text).map_err(|message| Failure::bad("body", message))?;
    if shared.options.own_mind > 0.0 {
        super::answer::differ(&mut answer, &asked.text, shared.options.own_mind);
    }
    if wants_reasons(value) {
        super::answer::add_reasons(&mut answer);
    }
    let limit = (profile.limit)(&sent);
    let (thinking, shown) = ((profile.thinks)(&sent), (profile.shows)(&sent));
    let drops_schema = (profile.drops_schema)(&sent);
    asked.pictures = pictures;
    Ok(Received {
        api,
        kind,
        number: 0,
        digest: [0; 32],
        text: Sha256::digest(asked.text.as_bytes()).into(),
        times: 0,
        good: 0,
        asked,
        answer,
        limit,
        thinking,
        shown,
        runs_on: limit.is_none() && profile.context.is_some(),
        drops_schema,
    })
}

/// Whether the instructions show a format with reasons.
fn wants_reasons(body: &Value) -> bool {
    let says = |text: &Value| text.as_str().is_some_and(|text| text.contains("\"reason\":"));
    let blocks = |content: &Value| {
        says(content) || content.as_array().is_some_and(|all| all.iter().any(|one| says(&one["text"])))
    };
    let messages = body["messages"].as_array().into_iter().flatten();
    blocks(&body["system"])
        || messages.filter(|one| one["role"] != "assistant").any(|one| blocks(&one["content"]))
}

/// Tokens of a request, for the endpoint that only counts them.
pub(super) fn count_only(shared: &Shared, head: &Head, body: &[u8]) -> Result<u64, Failure> {
    let mut value: Value =
        serde_json::from_slice(body).map_err(|_| Failure::bad("body", "the body is no JSON"))?;
    if value["max_tokens"].is_null() {
        value["max_tokens"] = 1_024.into();
    }
    understand(shared, Api::Anthropic, head, &value).map(|received| received.asked.input_tokens)
}

impl Received {
    pub(super) fn fault(&self, shared: &Shared) -> Option<Fault> {
        let fault = shared.options.faults.pick(&self.text, self.times, self.good)?;
        *shared.stats().faults.entry(fault.name()).or_default() += 1;
        Some(fault)
    }

    /// The form of the reply; only for requests without a fault.
    pub(super) fn shape(&self, shared: &Shared) -> Option<Shape> {
        let shape = shared.options.shapes.pick(&self.text, self.times, self.good)?;
        *shared.stats().shapes.entry(shape.name()).or_default() += 1;
        Some(shape)
    }

    /// How many times longer than usual the reply takes.
    pub(super) fn slowness(&self, fault: Option<Fault>) -> u32 {
        if fault == Some(Fault::Slow) || self.runs_on { 3 } else { 1 }
    }

    /// The reply's body, with faults of its content; it counts as good if it arrives complete.
    pub(super) fn reply(self, shared: &Shared, fault: Option<Fault>, shape: Option<Shape>) -> String {
        let (text, ended) = match shape {
            _ if shared.options.only_one && self.asked.text.contains("\n<samples>\n") => {
                (r#"{"scores":[{"sentence":1,"score":0.5}]}"#.to_owned(), "stop")
            }
            Some(shape) => shape::say(shape, &self.answer),
            None => spoil(fault, &self.answer),
        };
        let mut reply = match fault {
            Some(Fault::Strange) => {
                json!({"object": "other", "usage": {"prompt_tokens": 50, "completion_tokens": 5}})
            }
            _ => self.envelop(shared, text, ended, shape),
        };
        if let Some(shape) = shape {
            if let Some(failure) = shape::failure(shape, self.api, &reply) {
                return http::written(&failure);
            }
            shape::enclose(shape, self.api, &mut reply, &self.answer, &shape::draft(&self.answer));
        }
        if fault == Some(Fault::NoUsage) {
            reply["usage"] = Value::Null;
        }
        if !matches!(fault, Some(Fault::CutOff | Fault::NoJson | Fault::HangUp | Fault::EchoedKey)) {
            let mut stats = shared.stats();
            stats.good += 1;
            stats.input_tokens += self.asked.input_tokens;
            let usage = &reply["usage"];
            stats.output_tokens = stats.output_tokens.saturating_add(
                usage["output_tokens"].as_u64().or(usage["completion_tokens"].as_u64()).unwrap_or(0),
            );
            *stats.answered.entry(self.digest).or_default() += 1;
        }
        http::written(&reply)
    }

    /// A text in the service's envelope, truncated at the limit.
    fn envelop(&self, shared: &Shared, text: String, ended: &'static str, shape: Option<Shape>) -> Value {
        let (profile, more) = (shared.profile(), shared.options.extra_output_tokens);
        if !profile.is_named {
            let tokens = (shape == Some(Shape::BudgetSpent)).then_some(1_024);
            let saying = Saying { text: &text, ended, tokens, more };
            return wire::reply(self.api, self.number, &self.asked, &saying);
        }
        let model = self.asked.model.as_str().unwrap_or_default();
        let count = |text: &str| tokens::text(profile, model, text, self.asked.real_tokens) + 1;
        let (mut text, mut ended) = (text, ended);
        if self.drops_schema && ended == "stop" && shape.is_none() {
            text =
                format!("Here is what you asked for:\n\n```json\n{text}\n```\n\nTell me if I can do more.");
        }
        let (mut thinking, mut answer) = (self.thinking, count(&text));
        match (self.limit, profile.context) {
            _ if shape == Some(Shape::BudgetSpent) => {
                (thinking, answer) = (self.limit.unwrap_or(1_024), 0);
            }
            (Some(limit), _) if thinking + answer > limit => {
                ended = "length";
                thinking = thinking.min(limit);
                let left = limit - thinking;
                let kept = text.chars().count() as u64 * left / answer;
                text = text.chars().take(kept as usize).collect();
                answer = left;
            }
            (_, Some(context)) if self.runs_on && ended == "stop" => {
                ended = "length";
                answer = context.saturating_sub(self.asked.input_tokens + thinking).max(answer);
                text.push_str(&" \n".repeat(answer as usize / 2));
            }
            _ => {}
        }
        let saying = Saying { text: &text, ended, tokens: Some(answer), more: thinking + more };
        let mut reply = wire::reply(self.api, self.number, &self.asked, &saying);
        thinking::show(self.shown, self.api, &mut reply, thinking);
        if self.api == Api::OpenAi {
            let (written, read) = self.asked.cached;
            let spent =
                Spent { input: self.asked.input_tokens, written, read, answer, thinking: thinking + more };
            (profile.usage)(&mut reply["usage"], &spent);
        }
        if text.is_empty() && self.api == Api::Anthropic {
            let blocks = reply["content"].as_array_mut();
            blocks.into_iter().for_each(|blocks| blocks.retain(|block| block["type"] != "text"));
        }
        reply
    }
}

/// The result of a request in a batch.
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) body: String,
}

/// Answers a request in a batch. Faults that would break the connection of a single request are internal
/// errors here, and unusual HTTP is left out.
pub(super) fn answer(shared: &Shared, api: Api, body: &[u8]) -> Answered {
    let word = |failure: &Failure| Answered {
        status: failure.status,
        body: (shared.profile().word)(api, failure).to_string(),
    };
    let internal = || word(&Failure::new(500, "api_error", "internal", "internal"));
    let head = Head { version: Some("2023-06-01".to_owned()), ..Head::default() };
    let received = match receive(shared, api, &head, body) {
        Ok(received) => received,
        Err(failure) => {
            shared.refuse(&failure);
            return word(&failure);
        }
    };
    let fault = received.fault(shared);
    let shape = if fault.is_none() { received.shape(shared) } else { None };
    if let Some(failure) = shape.and_then(|shape| flagged(shared, shape)) {
        return word(&failure);
    }
    match fault {
        Some(Fault::CutOff | Fault::NoJson | Fault::HangUp) => internal(),
        Some(fault) => match refusal(shared, fault) {
            Some(failure) => word(&failure),
            None => Answered { status: 200, body: received.reply(shared, Some(fault), None) },
        },
        None => {
            let status = if shape == Some(Shape::Created) { 201 } else { 200 };
            Answered { status, body: received.reply(shared, None, shape) }
        }
    }
}

/// The error status of a fault, as the service words it.
pub(super) fn refusal(shared: &Shared, fault: Fault) -> Option<Failure> {
    let profile = shared.profile();
    Some(match fault {
        Fault::LimitedWithWait | Fault::Limited => {
            Failure::new(429, "rate_limit_error", "limit", "slow down").code("rate_limit_exceeded")
        }
        Fault::Overloaded => {
            Failure::new(profile.overloaded, "overloaded_error", "overload", "overloaded").code("overloaded")
        }
        Fault::Internal => Failure::new(500, "api_error", "internal", "internal").code("internal"),
        Fault::BadRequest => Failure::bad("request", "a field is wrong"),
        Fault::BadKey => (profile.bad_key)(),
        Fault::Forbidden => Failure::new(403, "forbidden", "access", "access was ended"),
        Fault::NoMoney => (profile.no_money)(),
        _ => return None,
    })
}

/// The error of a shape that belongs to one request.
pub(super) fn flagged(shared: &Shared, shape: Shape) -> Option<Failure> {
    match shape {
        Shape::FlaggedItem => Some((shared.profile().flagged)()),
        Shape::BadGatewayItem => Some(Failure::new(502, "api_error", "upstream", "Bad gateway")),
        _ => None,
    }
}

/// The text of a reply with a fault, and why it ended.
fn spoil(fault: Option<Fault>, answer: &Value) -> (String, &'static str) {
    match fault {
        Some(Fault::WrongJson) => ("Here you are: {\"verdict\": \"fine\"}".to_owned(), "stop"),
        Some(Fault::WrongCount) => {
            let mut answer = answer.clone();
            if let Some(scores) = answer["scores"].as_array_mut() {
                scores.pop();
            } else {
                answer = json!({"rationale": "", "better": "C"});
            }
            (answer.to_string(), "stop")
        }
        Some(Fault::Refusal) => ("I cannot help with that.".to_owned(), "refusal"),
        Some(Fault::Truncated) => {
            let text = answer.to_string();
            (text.chars().take(text.len() / 2).collect(), "length")
        }
        _ => (answer.to_string(), "stop"),
    }
}

/// The body of a failure, as the service words it.
pub(super) fn word(shared: &Shared, api: Api, failure: &Failure) -> Told {
    (shared.profile().word)(api, failure)
}
