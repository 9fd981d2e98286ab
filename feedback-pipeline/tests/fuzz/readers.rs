//! Entry points that the fuzz targets and the tests call with arbitrary bytes. None may panic, and parsed
//! values must satisfy the invariants of their types.
#![allow(dead_code)] // each fuzz target uses one of them

use feedback_pipeline::import::{self, Command};
use feedback_pipeline::items::Content;
use feedback_pipeline::reply::verdict;
use feedback_pipeline::reply::{self, Answer};
use feedback_pipeline::send::batch::{anthropic, openai};
use feedback_pipeline::send::headers;
use feedback_pipeline::teacher::{self, ServiceError};
use schemas::settings::Provider;
use std::path::PathBuf;
use std::time::SystemTime;

fn contents() -> [Content; 3] {
    [
        Content::Scores { sample: 0, sentences: vec!["a".into(), "b".into()] },
        Content::Correction { rationale: "a".into() },
        Content::Judgement {
            against: "base".into(),
            candidate: "a".into(),
            baseline: "b".into(),
            candidate_shown_first: true,
        },
    ]
}

/// Envelopes, errors, answers, and what batch APIs say.
pub(crate) fn reply(bytes: &[u8]) {
    for provider in [Provider::Anthropic, Provider::OpenAi] {
        if let Ok(envelope) = teacher::open(provider, bytes)
            && let Some(usage) = envelope.usage
        {
            let all = [usage.input, usage.cache_write, usage.cache_read, usage.output];
            assert!(all.iter().all(|count| *count <= 200_000_000), "{usage:?}");
        }
        let _ = teacher::usage_of_unreadable(bytes);
        for content in &contents() {
            let _ = verdict::judge(provider, content, [(200, bytes), (429, bytes)]);
        }
    }
    let error = ServiceError::read(bytes);
    assert_eq!(error.to_string() == "no explanation", teacher::text(bytes).trim().is_empty(), "{error:?}");
    assert!((400..600).contains(&error.effective_status(200)));
    let _ = (error.is_moderation(), teacher::final_for_item(400, &error));
    let text = String::from_utf8_lossy(bytes);
    for content in &contents() {
        if let Ok(Answer::Scores(scores)) = reply::read_text(content, &text) {
            assert!(scores.len() == 2 && scores.iter().all(|score| (0.0..=1.0).contains(score)));
        }
    }
    let _ = (
        anthropic::created(bytes),
        anthropic::standing(bytes),
        anthropic::page(bytes),
        anthropic::line(bytes),
    );
    let _ = (openai::created(bytes), openai::standing(bytes), openai::page(bytes), openai::line(bytes));
}

/// Reply headers: a name and a value per line.
pub(crate) fn headers(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let pairs: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once(':')).collect();
    let limits = headers::limits(pairs.iter().copied(), true);
    assert!([limits.requests, limits.tokens].into_iter().flatten().all(|limit| limit > 0));
    let hints = headers::hints(pairs.iter().copied(), SystemTime::now());
    assert!(hints.retry_after.is_none_or(|wait| wait.as_secs() <= 7 * 24 * 3_600));
}

/// A file in each of the layouts that can be imported; the first byte says which.
pub(crate) fn import(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let folder = Folder::new();
    let data = folder.0.join("data");
    let from = folder.0.join(if first % 2 == 0 { "from.json" } else { "from.jsonl" });
    if std::fs::write(&from, rest).is_err() {
        return;
    }
    let command = match first % 3 {
        0 => Command::Scienceqa { from, data: data.clone(), captions: None, images: None },
        1 => Command::Jsonl { from, data: Some(data.clone()), images: None, licence: "none".into() },
        _ => Command::Aokvqa { from, data: data.clone(), images: None },
    };
    let read = import::run(command).is_ok();
    assert_eq!(read, data.join("problems.parquet").is_file(), "an import does all or nothing");
}

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ares-fuzz-{}-{number}", std::process::id()));
        let _ = std::fs::create_dir_all(&path);
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
