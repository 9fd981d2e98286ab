//! Requests: the part that all items of a kind share, and the messages of each.
//!
//! A [`Template`] is the shared part; its hash is taken once. The key of a request is the sha256 of everything that leaves
//! the machine, a picture standing for its own hash.

use super::dialect::Dialect;
use super::{Key, anthropic, embedded, json_text, openai};
use crate::items::Kind;
use schemas::settings::{Provider, SystemRole};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::sync::Arc;

/// A picture ready to be sent.
#[derive(Debug)]
pub struct Picture {
    /// For instance `image/png`.
    pub media_type: &'static str,
    /// sha256 of the bytes that are sent.
    pub sha256: String,
    /// The bytes in base64.
    pub base64: String,
    /// Width and height in pixels.
    pub size: (u32, u32),
}

/// A malformed reply and what the Teacher is told about it.
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
    /// Instructions that stand at the head of each user message, where the service takes no system message.
    instructions: String,
}

/// What the requests of a kind share, in whatever dialect.
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
    pub fn key(&self, image: Option<&Picture>, text: &str, follow_ups: &[FollowUp]) -> Key {
        let mut messages = Vec::with_capacity(text.len() + 256);
        let shown = image.map(|image| (image.media_type, image.sha256.as_str()));
        self.messages(&mut messages, shown, text, follow_ups);
        let mut hash = self.hashed_head.clone();
        hash.update(&messages);
        hash.update(TAIL);
        hash.finalize().into()
    }

    /// Body of a request.
    pub fn body(&self, image: Option<&Picture>, text: &str, follow_ups: &[FollowUp]) -> bytes::Bytes {
        let picture = image.map_or(0, |image| image.base64.len());
        let mut body = Vec::with_capacity(self.head.len() + text.len() + text.len() / 8 + picture + 512);
        body.extend_from_slice(&self.head);
        let shown = image.map(|image| (image.media_type, image.base64.as_str()));
        self.messages(&mut body, shown, text, follow_ups);
        body.extend_from_slice(TAIL);
        body.into()
    }

    fn messages(&self, out: &mut Vec<u8>, image: Option<(&str, &str)>, text: &str, follow_ups: &[FollowUp]) {
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
