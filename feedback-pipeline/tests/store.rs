//! Files of every version of `feedback.sqlite` open and keep their contents.

use feedback_pipeline::items::{Job, Kind};
use feedback_pipeline::store::{Attempt, Cache, Whose};
use feedback_pipeline::teacher::Key;
use rusqlite::Connection;
use schemas::settings::Provider;
use std::path::{Path, PathBuf};

const VERSIONS: [&str; 6] = [
    include_str!("store/v1.sql"),
    include_str!("store/v2.sql"),
    include_str!("store/v3.sql"),
    include_str!("store/v4.sql"),
    include_str!("store/v5.sql"),
    include_str!("store/v6.sql"),
];

const SCORED: Key = [0xAA; 32];
const CORRECTED: Key = [0xBB; 32];
const GROUPED: Key = [0xDD; 32];

/// A file as written by a version.
fn file(folder: &Path, version: usize) -> PathBuf {
    let path = folder.join(format!("v{version}.sqlite"));
    Connection::open(&path).unwrap().execute_batch(VERSIONS[version - 1]).unwrap();
    path
}

fn check(cache: &Cache, version: usize) {
    let ask = cache.ask(&SCORED).unwrap().unwrap();
    assert_eq!((ask.provider, ask.model.as_str()), (Provider::Anthropic, "claude-a"));
    assert_eq!(cache.ask(&CORRECTED).unwrap().unwrap().image_sha256.as_deref(), Some("feed"));
    let reply = cache.replies(&SCORED).unwrap().pop().unwrap();
    assert_eq!(&reply.body[..], br#"{"scores":[1]}"#);
    assert_eq!((reply.attempts, reply.usage.cache_read, reply.cost_usd), (2, 20, Some(0.25)));
    assert_eq!(reply.dialect.as_deref(), (version >= 5).then_some("max_tokens 64"));
    assert_eq!(cache.keys_of("corrections", 1, "r1-p1-rl").unwrap(), [CORRECTED]);
    assert_eq!(cache.samples("scores", "claude-a").unwrap().len(), 1);
    assert_eq!(cache.spent_usd().unwrap(), 0.25);
    let lost = [0.0, 0.0, 0.0, 0.125, 0.1875, 0.1875];
    assert_eq!(cache.lost_usd().unwrap(), lost[version - 1]);
    let discarded = cache.discarded(&Job::new(Kind::Corrections, 1)).unwrap();
    assert_eq!(discarded.contains(&CORRECTED), version >= 5);
    assert!(ask.members.is_empty());
    if version >= 6 {
        let group = cache.ask(&GROUPED).unwrap().unwrap();
        let members = group.members.iter().map(|member| (member.subject_id.as_str(), member.weight));
        assert_eq!(members.collect::<Vec<_>>(), [("r1-p2-s0", 3), ("r1-p2-s1", 1)]);
        assert_eq!(cache.groups_with(&[0xEE; 32]).unwrap(), [GROUPED]);
    }
    if version >= 2 {
        let batch = cache.open_batches(Provider::OpenAi).unwrap().pop().unwrap();
        assert_eq!(batch.likely_usd, if version >= 3 { 0.5 } else { 0.0 });
        assert_eq!(cache.batch_request("plan", &[0xCC; 32]).unwrap(), Some((CORRECTED, 1)));
    }
}

/// The columns of each table, in a fixed order: columns added later come last.
fn layout(path: &Path) -> Vec<(String, String, String, bool)> {
    let connection = Connection::open(path).unwrap();
    let mut statement = connection
        .prepare(
            "SELECT sqlite_master.name, info.name, info.type, info.\"notnull\"
             FROM sqlite_master, pragma_table_info(sqlite_master.name) AS info
             WHERE sqlite_master.type = 'table' AND sqlite_master.name NOT LIKE 'sqlite_%' ORDER BY 1, 2",
        )
        .unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)));
    rows.unwrap().map(Result::unwrap).collect()
}

#[test]
fn files_of_every_version_open_and_keep_their_rows() {
    let folder = tempfile::tempdir().unwrap();
    let new = folder.path().join("new.sqlite");
    drop(Cache::open(&new).unwrap());
    for version in 1..=VERSIONS.len() {
        let path = file(folder.path(), version);
        let sums = Cache::sums(&path).unwrap();
        let open = Cache::in_progress_at(&path).unwrap();
        let open: Vec<_> =
            open.iter().map(|o| (o.scope.as_str(), &o.model[..], o.batches, o.requests)).collect();
        let expected = [("corrections", "gpt-a", 1, 1)];
        assert_eq!(open, expected[usize::from(version < 2)..]);
        let cache = Cache::open(&path).unwrap();
        check(&cache, version);
        assert_eq!(cache.in_progress().unwrap().len(), open.len());
        assert_eq!(sums, (cache.spent_usd().unwrap(), cache.lost_usd().unwrap()));
        // It accepts everything that a new file accepts.
        let job = Job::new(Kind::Scores, 1);
        let claude = Whose { model: Some("claude-a".into()), ..Whose::default() };
        assert_eq!(cache.keys_by(&job, &claude, false).unwrap(), [(SCORED, "claude-a".to_owned())]);
        cache.discard(vec![(job.clone(), vec![SCORED])], 7).unwrap();
        assert!(cache.is_discarded("scores", 1, &SCORED).unwrap());
        assert_eq!(cache.keys_by(&job, &claude, true).unwrap(), [(SCORED, "claude-a".to_owned())]);
        drop(cache);
        let cache = Cache::open(&path).unwrap();
        assert!(cache.discarded(&job).unwrap().contains(&SCORED), "durable");
        cache.undiscard(vec![(job.clone(), vec![SCORED])]).unwrap();
        assert!(cache.discarded(&job).unwrap().is_empty());
        assert!(cache.awaits_rewrite(Kind::Scores, 1).unwrap());
        cache.rewritten(Kind::Scores, 1).unwrap();
        assert!(!cache.awaits_rewrite(Kind::Scores, 1).unwrap());
        drop(cache);
        assert_eq!(layout(&path), layout(&new), "version {version}");
    }
}

#[test]
fn a_newer_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), VERSIONS.len());
    Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 7").unwrap();
    let before = std::fs::read(&path).unwrap();
    for error in [Cache::open(&path).err().unwrap(), Cache::look(&path).err().unwrap()] {
        assert!(error.to_string().contains("written with version 7, this program reads up to 6"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
    assert_eq!(std::fs::read(&path).unwrap().len(), before.len());
}

#[test]
fn several_may_open_an_older_file_at_once() {
    for version in 1..VERSIONS.len() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path(), version);
        let start = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    check(&Cache::open(&path).unwrap(), version);
                });
            }
        });
    }
}

#[test]
fn an_unusable_reply_is_kept_and_counts_as_spent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("feedback.sqlite");
    let attempt = Attempt {
        request_key: SCORED,
        turn: 0,
        sent_key: SCORED,
        status: 200,
        headers: "{}".into(),
        body: bytes::Bytes::from_static(b"half a rep"),
        received_at_ms: 5,
        likely_usd: Some(0.5),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let cache = Cache::open(&path).unwrap();
    runtime.block_on(cache.writer().unusable(attempt)).unwrap();
    // Durable on return: another process sees it while this one is running.
    let other = Connection::open(&path).unwrap();
    let body: Vec<u8> = other.query_row("SELECT body FROM attempts", [], |row| row.get(0)).unwrap();
    assert_eq!(body, b"half a rep");
    assert_eq!(cache.lost_usd().unwrap(), 0.5);
    assert_eq!(Cache::sums(&path).unwrap(), (0.0, 0.5));
}
