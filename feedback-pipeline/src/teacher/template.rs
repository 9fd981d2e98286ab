//! Requests: the part that all items of a kind share, and the messages of each.
//!
//! A [`Template`] is the shared part; its hash is taken once. The key of a request is the sha256 of everything that leaves
//! the machine, a picture standing for its own hash.

use super::{Key, anthropic, embedded, json_text, openai};
use crate::items::Kind;
use schemas::settings::{Provider, TeacherSettings};
use sha2::{Digest, Sha256};

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
    provider: Provider,
    head: Vec<u8>,
    hashed_head: Sha256,
}

/// End of every request body: messages come last.
const TAIL: &[u8] = b"]}";

impl Template {
    /// Prepares requests of a kind.
    pub fn new(settings: &TeacherSettings, kind: Kind, system: &str, schema: &str) -> Self {
        let model = super::model(settings);
        let head = match settings.provider {
            Provider::Anthropic => anthropic::head(settings, &model, system, schema),
            Provider::OpenAi => openai::head(settings, &model, kind, system, schema),
            Provider::Reference => embedded::head(&model, system),
        };
        let mut hashed_head = Sha256::new();
        hashed_head.update(settings.provider.as_str().as_bytes());
        hashed_head.update(b"\n");
        hashed_head.update(&head);
        Self { provider: settings.provider, head, hashed_head }
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
        match self.provider {
            Provider::Anthropic => anthropic::user(out, image, text),
            Provider::OpenAi => openai::user(out, image, text),
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

    /// Key of a request of any turn, whose first has the key `first`.
    pub fn sent_key(&self, first: &Key, image: Option<&Picture>, text: &str, follow_ups: &[FollowUp]) -> Key {
        match follow_ups {
            [] => *first,
            follow_ups => self.key(image, text, follow_ups),
        }
    }
}
