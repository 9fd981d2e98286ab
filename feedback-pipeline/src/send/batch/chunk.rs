//! A batch on its way: as many requests as the provider takes at once, in the form that it wants.

use super::spool::{NotWritten, Spool, Spooled};
use crate::store::Entry;
use crate::teacher::Body;
use schemas::TimestampMs;
use schemas::provenance::{hex, sha256_hex};
use schemas::settings::Provider;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a provider takes in one batch.
#[derive(Debug, Clone, Copy)]
struct Most {
    requests: usize,
    bytes: u64,
}

/// Requests of one batch, written one after the other into the file that will be sent.
pub(super) struct Chunk {
    provider: Provider,
    most: Most,
    plan: String,
    /// Of the dialect that its requests are written in.
    lessons: u32,
    spool: Spool,
    entries: Vec<Entry>,
}

impl Chunk {
    /// An empty batch of requests in the dialect after so many lessons, whose file lies on the disk of a folder.
    pub(super) fn new(provider: Provider, lessons: u32, folder: &Path) -> io::Result<Self> {
        let most = match provider {
            Provider::Anthropic => Most { requests: 100_000, bytes: 256_000_000 },
            _ => Most { requests: 50_000, bytes: 200_000_000 },
        };
        Self::within(provider, lessons, folder, most)
    }

    fn within(provider: Provider, lessons: u32, folder: &Path, most: Most) -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{} {} {number}", TimestampMs::now().0, std::process::id());
        let plan: String = sha256_hex(name.as_bytes()).chars().take(24).collect();
        let mut spool = Spool::new(folder)?;
        if provider == Provider::Anthropic {
            spool.write(br#"{"requests":["#)?;
        }
        Ok(Self { provider, most, plan, lessons, spool, entries: Vec::new() })
    }

    pub(super) fn lessons(&self) -> u32 {
        self.lessons
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// True where a request may join. One alone always may.
    pub(super) fn has_room(&self, body: &Body) -> bool {
        const AROUND: u64 = 256;
        self.is_empty()
            || (self.entries.len() < self.most.requests
                && self.spool.len() + body.len() + AROUND <= self.most.bytes)
    }

    pub(super) fn push(&mut self, body: &Body, entry: Entry) -> Result<(), NotWritten> {
        let id = hex(&entry.sent_key);
        match self.provider {
            Provider::Anthropic => {
                let comma = if self.is_empty() { "" } else { "," };
                let head = format!(r#"{comma}{{"custom_id":"{id}","params":"#);
                self.spool.write_body(&head, body, "}")?;
            }
            _ => {
                let head =
                    format!(r#"{{"custom_id":"{id}","method":"POST","url":"/v1/chat/completions","body":"#);
                self.spool.write_body(&head, body, "}\n")?;
            }
        }
        self.entries.push(entry);
        Ok(())
    }

    /// Our name of the batch, what is sent, and the requests in it.
    pub(super) fn finish(mut self) -> io::Result<(String, Spooled, Vec<Entry>)> {
        if self.provider == Provider::Anthropic {
            self.spool.write(b"]}")?;
        }
        Ok((self.plan, self.spool.finish()?, self.entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::items::Kind;
    use crate::store::Ask;
    use crate::teacher::catalogue::{Model, Service};
    use crate::teacher::{Dialect, Template};
    use schemas::settings::Settings;
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

    fn body(text: &str) -> Body {
        let dialect = Dialect::new(&Settings::default().teacher, &Model::default(), &Service::default());
        Template::new(&dialect, "m", Kind::Scores, "Be fair.", "{}").body(None, text, &[])
    }

    #[test]
    fn a_chunk_is_full_by_count_or_by_bytes() {
        let folder = tempfile::tempdir().unwrap();
        for provider in [Provider::Anthropic, Provider::OpenAi] {
            let mut chunk =
                Chunk::within(provider, 0, folder.path(), Most { requests: 2, bytes: 10_000 }).unwrap();
            assert!(chunk.has_room(&body(&"1".repeat(20_000))), "one alone is the provider's to refuse");
            chunk.push(&body("a"), entry(1)).unwrap();
            assert!(chunk.has_room(&body("a")) && !chunk.has_room(&body(&"1".repeat(9_800))));
            chunk.push(&body("b"), entry(2)).unwrap();
            assert!(!chunk.has_room(&body("a")));
            let (plan, spooled, entries) = chunk.finish().unwrap();
            assert_eq!((plan.len(), entries.len()), (24, 2));
            let text = String::from_utf8(spooled.read_all()).unwrap();
            assert_eq!(text.matches("\"custom_id\"").count(), 2);
            if provider == Provider::Anthropic {
                serde_json::from_str::<serde_json::Value>(&text).unwrap();
            } else {
                let lines = text.lines().map(serde_json::from_str::<serde_json::Value>);
                assert_eq!(lines.filter(Result::is_ok).count(), 2, "{text}");
            }
        }
    }

    #[test]
    fn plans_have_names_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let plan = || Chunk::new(Provider::OpenAi, 0, folder.path()).unwrap().plan;
        assert_ne!(plan(), plan());
    }
}
