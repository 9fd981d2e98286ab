//! A batch on its way: as many requests as the provider takes at once, in the form that it wants.

use crate::store::Entry;
use bytes::Bytes;
use schemas::TimestampMs;
use schemas::provenance::{hex, sha256_hex};
use schemas::settings::Provider;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a provider takes in one batch.
#[derive(Debug, Clone, Copy)]
struct Most {
    requests: usize,
    bytes: usize,
}

/// Requests of one batch, written one after the other into the body that will be sent.
pub(super) struct Chunk {
    provider: Provider,
    most: Most,
    plan: String,
    body: Vec<u8>,
    entries: Vec<Entry>,
}

/// Boundary of the upload's parts: text of JSON lines cannot hold it, as it begins with a newline.
pub(super) fn boundary(plan: &str) -> String {
    format!("ares-{plan}")
}

impl Chunk {
    pub(super) fn new(provider: Provider) -> Self {
        let most = match provider {
            Provider::Anthropic => Most { requests: 100_000, bytes: 256_000_000 },
            _ => Most { requests: 50_000, bytes: 200_000_000 },
        };
        Self::within(provider, most)
    }

    fn within(provider: Provider, most: Most) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{} {} {number}", TimestampMs::now().0, std::process::id());
        let plan: String = sha256_hex(name.as_bytes()).chars().take(24).collect();
        let body = match provider {
            Provider::Anthropic => br#"{"requests":["#.to_vec(),
            _ => format!(
                "--{0}\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n\
                 --{0}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"ares-{plan}.jsonl\"\r\n\
                 Content-Type: application/jsonl\r\n\r\n",
                boundary(&plan)
            )
            .into_bytes(),
        };
        Self { provider, most, plan, body, entries: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// True where a request may join. One alone always may.
    pub(super) fn has_room(&self, body: &[u8]) -> bool {
        const AROUND: usize = 256;
        self.is_empty()
            || (self.entries.len() < self.most.requests
                && self.body.len() + body.len() + AROUND <= self.most.bytes)
    }

    pub(super) fn push(&mut self, body: &[u8], entry: Entry) {
        let id = hex(&entry.sent_key);
        match self.provider {
            Provider::Anthropic => {
                if !self.is_empty() {
                    self.body.push(b',');
                }
                self.body.extend_from_slice(format!(r#"{{"custom_id":"{id}","params":"#).as_bytes());
                self.body.extend_from_slice(body);
                self.body.push(b'}');
            }
            _ => {
                let head =
                    format!(r#"{{"custom_id":"{id}","method":"POST","url":"/v1/chat/completions","body":"#);
                self.body.extend_from_slice(head.as_bytes());
                self.body.extend_from_slice(body);
                self.body.extend_from_slice(b"}\n");
            }
        }
        self.entries.push(entry);
    }

    /// Our name of the batch, what is sent, and the requests in it.
    pub(super) fn finish(mut self) -> (String, Bytes, Vec<Entry>) {
        match self.provider {
            Provider::Anthropic => self.body.extend_from_slice(b"]}"),
            _ => self.body.extend_from_slice(format!("\r\n--{}--\r\n", boundary(&self.plan)).as_bytes()),
        }
        (self.plan, self.body.into(), self.entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Ask;
    use std::sync::Arc;

    fn entry(number: u8) -> Entry {
        let ask = Ask {
            key: [number; 32],
            scope: "scores".into(),
            round: 1,
            subject_id: "a".into(),
            problem_id: "a".into(),
            provider: Provider::Anthropic,
            model: "m".into(),
            prompt_version: "v".into(),
            user_text: String::new(),
            image_sha256: None,
        };
        Entry { sent_key: [number; 32], ask: Arc::new(ask), turn: 0 }
    }

    #[test]
    fn a_chunk_is_full_by_count_or_by_bytes() {
        for provider in [Provider::Anthropic, Provider::OpenAi] {
            let mut chunk = Chunk::within(provider, Most { requests: 2, bytes: 10_000 });
            assert!(chunk.has_room(&[b'1'; 20_000]), "one alone is the provider's to refuse");
            chunk.push(b"{}", entry(1));
            assert!(chunk.has_room(b"{}") && !chunk.has_room(&[b'1'; 9_800]));
            chunk.push(b"{}", entry(2));
            assert!(!chunk.has_room(b"{}"));
            let (plan, body, entries) = chunk.finish();
            assert_eq!((plan.len(), entries.len()), (24, 2));
            let text = String::from_utf8(body.to_vec()).unwrap();
            assert_eq!(text.matches("\"custom_id\"").count(), 2);
            if provider == Provider::Anthropic {
                serde_json::from_str::<serde_json::Value>(&text).unwrap();
            } else {
                assert!(text.ends_with(&format!("}}\n\r\n--ares-{plan}--\r\n")), "{text}");
            }
        }
    }

    #[test]
    fn plans_have_names_of_their_own() {
        assert_ne!(Chunk::new(Provider::OpenAi).plan, Chunk::new(Provider::OpenAi).plan);
    }
}
