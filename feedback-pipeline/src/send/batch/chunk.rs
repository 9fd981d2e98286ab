//! A batch to be sent: as many requests as the provider accepts at once, in its format.

use crate::error::Result;
use crate::send::spool::{Spool, Spooled};
use crate::store::Entry;
use crate::teacher::{Body, PictureError};
use schemas::TimestampMs;
use schemas::provenance::{hex, sha256_hex};
use schemas::settings::Provider;
use std::sync::atomic::{AtomicU64, Ordering};

/// A provider's limits for one batch.
#[derive(Debug, Clone, Copy)]
struct Most {
    requests: usize,
    bytes: u64,
}

/// The dialect of a batch's requests.
#[derive(Debug, Clone)]
pub(super) struct Written {
    /// Number of lessons of the dialect.
    pub(super) lessons: u32,
    /// Description for the ledger.
    pub(super) dialect: String,
}

/// Requests of one batch, appended to the body that will be sent: up to hundreds of megabytes, kept on disk.
pub(super) struct Chunk {
    provider: Provider,
    most: Most,
    plan: String,
    dialect: Written,
    body: Spool,
    entries: Vec<Entry>,
}

impl Chunk {
    /// An empty batch.
    pub(super) fn new(provider: Provider, dialect: Written) -> Result<Self> {
        let most = match provider {
            Provider::Anthropic => Most { requests: 100_000, bytes: 256_000_000 },
            _ => Most { requests: 50_000, bytes: 200_000_000 },
        };
        Self::within(provider, dialect, most)
    }

    fn within(provider: Provider, dialect: Written, most: Most) -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{} {} {number}", TimestampMs::now().0, std::process::id());
        let plan: String = sha256_hex(name.as_bytes()).chars().take(24).collect();
        let mut body = Spool::new()?;
        if provider == Provider::Anthropic {
            body.write(br#"{"requests":["#)?;
        }
        Ok(Self { provider, most, plan, dialect, body, entries: Vec::new() })
    }

    /// The dialect of its first request.
    pub(super) fn dialect(&self) -> &Written {
        &self.dialect
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// True if a request may be added. A single one always may.
    pub(super) fn has_room(&self, body: &Body) -> bool {
        const AROUND: u64 = 256;
        self.is_empty()
            || (self.entries.len() < self.most.requests
                && self.body.len() + body.len() + AROUND <= self.most.bytes)
    }

    /// Adds a request.
    ///
    /// # Errors
    /// If the disk is full. The inner error says why the request has no body; nothing is added in that case.
    pub(super) fn push(
        &mut self,
        body: &Body,
        entry: Entry,
    ) -> Result<std::result::Result<(), PictureError>> {
        let body = match body.to_bytes() {
            Ok(body) => body,
            Err(error) => return Ok(Err(error)),
        };
        let id = hex(&entry.sent_key);
        let (head, end) = match self.provider {
            Provider::Anthropic => {
                let comma = if self.is_empty() { "" } else { "," };
                (format!(r#"{comma}{{"custom_id":"{id}","params":"#), "}")
            }
            _ => (
                format!(r#"{{"custom_id":"{id}","method":"POST","url":"/v1/chat/completions","body":"#),
                "}\n",
            ),
        };
        for part in [head.as_bytes(), &body, end.as_bytes()] {
            self.body.write(part)?;
        }
        self.entries.push(entry);
        Ok(Ok(()))
    }

    /// Our name of the batch, its body, and its requests.
    ///
    /// # Errors
    /// If the disk is full.
    pub(super) fn finish(mut self) -> Result<(String, Spooled, Vec<Entry>)> {
        if self.provider == Provider::Anthropic {
            self.body.write(b"]}")?;
        }
        Ok((self.plan, self.body.finish()?, self.entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Ask;
    use crate::teacher::test_template;
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
            members: Vec::new(),
        };
        Entry { sent_key: [number; 32], ask: Arc::new(ask), turn: 0 }
    }

    fn text(spooled: &Spooled) -> String {
        let (mut reader, mut all) = (spooled.read(), Vec::new());
        while (all.len() as u64) < spooled.len() {
            reader.next(&mut all).unwrap();
        }
        String::from_utf8(all).unwrap()
    }

    fn dialect() -> Written {
        Written { lessons: 0, dialect: String::new() }
    }

    fn body(text: &str) -> Body {
        test_template(Provider::OpenAi).body(None, text, &[])
    }

    #[test]
    fn a_chunk_is_full_by_count_or_by_bytes() {
        for provider in [Provider::Anthropic, Provider::OpenAi] {
            let mut chunk = Chunk::within(provider, dialect(), Most { requests: 2, bytes: 100_000 }).unwrap();
            let (small, large) = (body("x"), body(&"1".repeat(98_000)));
            assert!(chunk.has_room(&body(&"1".repeat(200_000))), "one alone is the provider's to refuse");
            chunk.push(&small, entry(1)).unwrap().unwrap();
            assert!(chunk.has_room(&small) && !chunk.has_room(&body(&"1".repeat(99_800))));
            chunk.push(&large, entry(2)).unwrap().unwrap();
            assert!(!chunk.has_room(&small));
            let (plan, sent, entries) = chunk.finish().unwrap();
            assert_eq!((plan.len(), entries.len()), (24, 2));
            for _ in 0..2 {
                // A batch that may not have been received is sent again.
                let text = text(&sent);
                assert_eq!(text.len() as u64, sent.len());
                assert_eq!(text.matches("\"custom_id\"").count(), 2);
                if provider == Provider::Anthropic {
                    serde_json::from_str::<serde_json::Value>(&text).unwrap();
                } else {
                    let lines = text.lines().map(serde_json::from_str::<serde_json::Value>);
                    assert_eq!(lines.filter(Result::is_ok).count(), 2);
                }
            }
        }
    }

    #[test]
    fn plans_have_names_of_their_own() {
        let plan = || Chunk::new(Provider::OpenAi, dialect()).unwrap().plan;
        assert_ne!(plan(), plan());
    }
}
