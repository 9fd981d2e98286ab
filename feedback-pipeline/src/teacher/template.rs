//! Requests: the part that all items of a kind share, and the messages of each.
//!
//! A [`Template`] is the shared part; its hash is taken once. The key of a request is the sha256 of everything that
//! leaves the machine, a picture represented by its hash.

use super::dialect::Dialect;
use super::json::json_text;
use super::{Body, Key, Picture, anthropic, embedded, openai};
use crate::items::Kind;
use schemas::settings::{Provider, SystemRole};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::sync::Arc;

/// A malformed reply and the complaint about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowUp {
    /// Text of the reply that could not be used.
    pub reply: String,
    /// Why, in a sentence for the Teacher.
    pub complaint: String,
}

/// The part of a request that all items of a kind share.
#[derive(Clone)]
pub struct Template {
    dialect: Dialect,
    of: Arc<Shared>,
    head: Vec<u8>,
    hashed_head: Sha256,
    /// Instructions at the start of each user message, if the service accepts no system message.
    instructions: String,
}

/// What the requests of a kind share, regardless of the dialect.
struct Shared {
    model: String,
    kind: Kind,
    system: String,
    schema: String,
}

/// End of every request body: messages come last.
const TAIL: &[u8] = b"]}";

impl Template {
    /// Prepares requests of a kind to a model: `system` are the instructions, `schema` is the JSON schema of the reply.
    pub fn new(dialect: &Dialect, model: &str, kind: Kind, system: &str, schema: &str) -> Self {
        let (model, system, schema) = (model.to_owned(), system.to_owned(), schema.to_owned());
        Self::of(Arc::new(Shared { model, kind, system, schema }), dialect)
    }

    /// The same requests in another dialect.
    pub fn in_dialect(&self, dialect: &Dialect) -> Self {
        Self::of(Arc::clone(&self.of), dialect)
    }

    /// The dialect that its requests are written in.
    pub fn dialect(&self) -> &Dialect {
        &self.dialect
    }

    fn of(of: Arc<Shared>, dialect: &Dialect) -> Self {
        let Shared { model, kind, system, schema } = of.as_ref();
        let schema = serde_json::from_str::<&RawValue>(schema).ok();
        let mut head = match dialect.provider {
            Provider::Anthropic => anthropic::head(dialect, model, system, schema),
            Provider::OpenAi => openai::head(dialect, model, *kind, schema),
            Provider::Reference => embedded::head(model, system),
        };
        head.extend_from_slice(br#","messages":["#);
        if dialect.provider == Provider::OpenAi {
            openai::system(&mut head, dialect, system);
        }
        let in_user = dialect.system_role == SystemRole::User;
        let mut hashed_head = Sha256::new();
        hashed_head.update(dialect.provider.as_str().as_bytes());
        hashed_head.update(b"\n");
        hashed_head.update(&head);
        let instructions = if in_user { format!("{system}\n\n") } else { String::new() };
        Self { dialect: dialect.clone(), of, head, hashed_head, instructions }
    }

    /// Key of a request: hash of its body with the picture's hash in place of the picture.
    pub fn key(&self, image: Option<&Arc<Picture>>, text: &str, follow_ups: &[FollowUp]) -> Key {
        let mut messages = Vec::with_capacity(text.len() + 256);
        self.messages(&mut messages, image, text, follow_ups);
        let mut hash = self.hashed_head.clone();
        hash.update(&messages);
        hash.update(TAIL);
        hash.finalize().into()
    }

    /// Body of a request.
    pub fn body(&self, image: Option<&Arc<Picture>>, text: &str, follow_ups: &[FollowUp]) -> Body {
        let mut body = Vec::with_capacity(self.head.len() + text.len() + text.len() / 8 + 512);
        body.extend_from_slice(&self.head);
        self.messages(&mut body, image, text, follow_ups);
        body.extend_from_slice(TAIL);
        let Some(image) = image else { return Body::plain(body) };
        // The picture comes first in the messages, so the first occurrence of its hash is its own.
        let hash = image.sha256.as_bytes();
        let messages = body.get(self.head.len()..).unwrap_or_default();
        let Some(place) = messages.windows(hash.len()).position(|part| part == hash) else {
            return Body::plain(body);
        };
        let mut before = bytes::Bytes::from(body);
        let mut after = before.split_off(self.head.len() + place);
        let _ = after.split_to(hash.len());
        Body::around(before, Arc::clone(image), after)
    }

    /// Messages with the picture's hash in place of the picture.
    fn messages(&self, out: &mut Vec<u8>, image: Option<&Arc<Picture>>, text: &str, follow_ups: &[FollowUp]) {
        let image = image.map(|image| (image.media_type, image.sha256.as_str()));
        let text = &match self.instructions.as_str() {
            "" => Cow::Borrowed(text),
            instructions => Cow::Owned(format!("{instructions}{text}")),
        };
        match self.dialect.provider {
            Provider::Anthropic => anthropic::user(out, &self.dialect, image, text),
            Provider::OpenAi => openai::user(out, &self.dialect, image, text),
            Provider::Reference => embedded::user(out, image, text),
        }
        for follow_up in follow_ups {
            let reply = if follow_up.reply.trim().is_empty() { "(empty)" } else { &follow_up.reply };
            out.extend_from_slice(br#",{"role":"assistant","content":"#);
            json_text(out, reply);
            out.extend_from_slice(br#"},{"role":"user","content":"#);
            json_text(out, &follow_up.complaint);
            out.push(b'}');
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::teacher::catalogue::{Model, Service};
    use crate::teacher::picture::tests::picture_of;
    use base64::Engine as _;
    use schemas::settings::{ImageDetail, ResponseFormat, TeacherSettings, TokenLimitField};

    /// Requests for scores to a provider's services, with default settings.
    pub(crate) fn template(provider: Provider) -> Template {
        let settings = TeacherSettings { provider, ..TeacherSettings::default() };
        let dialect = Dialect::new(&settings, &Model::default(), &Service::default());
        Template::new(&dialect, "model", Kind::Scores, "Be fair.", r#"{"type":"object"}"#)
    }

    #[test]
    fn a_streamed_body_is_the_plain_one_byte_for_byte() {
        let follow_up =
            FollowUp { reply: "no \"scores\"".to_owned(), complaint: "Scores, please.".to_owned() };
        for provider in [Provider::Anthropic, Provider::OpenAi] {
            let template = template(provider);
            for length in [0, 1, 1_000, 100_000] {
                let bytes: Vec<u8> = (0..length).map(|at: u64| (at * at / 7) as u8).collect();
                let picture = Arc::new(picture_of(&bytes));
                // A text may contain anything, even another picture's hash.
                let text = format!("line\n\"{}\"", picture.sha256);
                let body = template.body(Some(&picture), &text, std::slice::from_ref(&follow_up));
                let mut plain = template.head.clone();
                template.messages(&mut plain, Some(&picture), &text, std::slice::from_ref(&follow_up));
                plain.extend_from_slice(TAIL);
                let base64 = base64::engine::general_purpose::STANDARD.encode(&bytes);
                let plain = String::from_utf8(plain).unwrap().replacen(&picture.sha256, &base64, 1);
                let sent = body.to_bytes().unwrap();
                assert!(sent == plain.as_bytes(), "{provider:?}, {length} bytes");
                assert_eq!((body.len(), body.text_len()), (sent.len() as u64, sent.len() - base64.len()));
                let read: serde_json::Value = serde_json::from_slice(&sent).unwrap();
                let user = read["messages"].as_array().unwrap().iter().find(|m| m["role"] == "user").unwrap();
                let block = &user["content"][0];
                let shown = match provider {
                    Provider::Anthropic => block["source"]["data"].as_str().unwrap().to_owned(),
                    _ => block["image_url"]["url"].as_str().unwrap().replace("data:image/png;base64,", ""),
                };
                assert!(shown == base64);
                assert_eq!(user["content"][1]["text"], text);
            }
            let body = template.body(None, "text", &[]);
            assert_eq!(body.as_plain().unwrap(), &body.to_bytes().unwrap());
        }
    }

    #[test]
    fn settings_are_in_the_body_and_part_of_a_requests_identity() {
        type Change = fn(&mut TeacherSettings);
        let changes: [(&str, Change, &str); 3] = [
            ("temperature", |s| s.temperature = Some(0.25), "0.25"),
            ("effort", |s| s.effort = Some("xhigh".to_owned()), r#""xhigh""#),
            ("max_output_tokens", |s| s.max_output_tokens = Some(777), "777"),
        ];
        let only_openai: [(&str, Change, &str); 4] = [
            (
                "token_limit_field",
                |s| s.token_limit_field = TokenLimitField::MaxCompletionTokens,
                "completion",
            ),
            ("response_format", |s| s.response_format = ResponseFormat::JsonObject, r#""json_object""#),
            ("image_detail", |s| s.image_detail = ImageDetail::Low, r#""detail":"low""#),
            ("system_role", |s| s.system_role = SystemRole::User, r#""text":"Be fair."#),
        ];
        let picture = Arc::new(picture_of(b"pixels"));
        let made = |provider, change: Change, model: &str| {
            let mut settings = TeacherSettings { provider, ..TeacherSettings::default() };
            change(&mut settings);
            let dialect = Dialect::new(&settings, &Model::default(), &Service::default());
            let template = Template::new(&dialect, model, Kind::Scores, "Be fair.", r#"{"type":"object"}"#);
            let body = template.body(Some(&picture), "text", &[]).to_bytes().unwrap();
            (template.key(Some(&picture), "text", &[]), String::from_utf8(body.to_vec()).unwrap())
        };
        let same: Change = |_| {};
        for provider in [Provider::Anthropic, Provider::OpenAi] {
            let (usual, usual_body) = made(provider, same, "model");
            assert_eq!(usual, made(provider, same, "model").0);
            let (other, other_body) = made(provider, same, "another");
            assert!(usual != other && other_body.contains(r#""model":"another""#), "model");
            let of_openai = only_openai.into_iter().filter(|_| provider == Provider::OpenAi);
            for (name, change, sent) in changes.into_iter().chain(of_openai) {
                let (key, body) = made(provider, change, "model");
                assert_ne!(key, usual, "{provider:?}: {name} is part of the key");
                assert!(body.contains(sent) && !usual_body.contains(sent), "{provider:?}: {name} in {body}");
            }
        }
    }

    #[test]
    fn a_picture_is_part_of_a_requests_identity() {
        for provider in [Provider::Anthropic, Provider::OpenAi] {
            let template = template(provider);
            let [one, same, other] = [b"one", b"one", b"two"].map(|bytes| Arc::new(picture_of(bytes)));
            let key = |picture| template.key(picture, "text", &[]);
            assert_eq!(key(Some(&one)), key(Some(&same)));
            assert_ne!(key(Some(&one)), key(Some(&other)));
            assert_ne!(key(Some(&one)), key(None));
        }
    }
}
