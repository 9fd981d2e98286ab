//! Replacement of file sets: what readers see during it, the state after a kill, and how rebuild treats
//! abandoned requests.

use crate::shared::{Place, fast};
use schemas::{Reject, Score};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Rows of the old set and of the new one are never read together.
#[test]
fn a_reader_under_way_sees_one_set() {
    let place = Place::new(12, 3);
    assert_eq!(place.reference(&["--round", "1", "--stage", "scores"]).status, Some(0));
    let expected = place.tables().scores;
    let is_over = AtomicBool::new(false);
    let reads = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !is_over.load(Ordering::Relaxed) {
                let rows: Vec<Score> = place.dataset.read(1).unwrap();
                assert_eq!(rows.len(), expected.len());
                reads += 1;
            }
            reads
        });
        for _ in 0..4 {
            assert_eq!(place.reference(&["rebuild"]).status, Some(0));
        }
        is_over.store(true, Ordering::Relaxed);
        reader.join().unwrap()
    });
    println!("{reads} reads meanwhile");
    assert_eq!(place.tables().scores, expected);
}

#[test]
fn a_replacement_that_was_killed_is_completed_by_the_next_command() {
    let place = Place::new(8, 2);
    assert_eq!(place.reference(&["--round", "1"]).status, Some(0));
    let expected = place.tables();
    let root = place.path();
    // Incomplete: another command continues with the old set.
    std::fs::create_dir(root.join("scores/.writing-round-1")).unwrap();
    std::fs::write(root.join("scores/.writing-round-1/part-00001.parquet"), "half").unwrap();
    assert!(place.reference(&["--round", "1"]).stdout.contains("nothing to do"));
    assert!(!root.join("scores/.writing-round-1").exists());
    assert_eq!(place.tables(), expected);
    // Complete and announced, but not in place yet: even a command for another kind completes it.
    for table in ["scores", "rejects"] {
        let staged = root.join(table).join(".writing-round-1");
        std::fs::create_dir(&staged).unwrap();
        for entry in std::fs::read_dir(root.join(table).join("round-1")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let is_other = table == "rejects" && name.contains("corrections");
            let name = if is_other { name } else { name.replace("00000", "00001") };
            std::fs::copy(path, staged.join(name)).unwrap();
        }
    }
    std::fs::write(root.join("scores/.replacing-round-1"), "1").unwrap();
    let ran = place.reference(&["--round", "1", "--stage", "corrections"]);
    assert!(ran.stdout.contains("nothing to do"), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(place.tables(), expected);
    assert!(root.join("scores/round-1/part-00001.parquet").is_file());
    assert!(!root.join("scores/round-1/part-00000.parquet").exists());
    assert!(
        !root.join("scores/.replacing-round-1").exists() && !root.join("rejects/.writing-round-1").exists()
    );
}

/// Folders of the tables that have `from` in their names, with the names that have `to` instead, hidden ones last.
fn renamed(root: &Path, from: &str, to: &str) -> Vec<(PathBuf, PathBuf)> {
    let mut found = Vec::new();
    for table in
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir())
    {
        for entry in std::fs::read_dir(table).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if name.contains(from) {
                found.push((path.clone(), path.with_file_name(name.replace(from, to))));
            }
        }
    }
    found.sort_by_key(|(path, _)| {
        (path.file_name().unwrap().to_str().unwrap().starts_with('.'), path.clone())
    });
    found
}

/// A dataset of an earlier version, killed between the announcement of a new set and its exchange; and then killed again
/// after any number of its folders were renamed.
#[test]
fn folders_of_an_earlier_version_are_renamed_before_a_replacement_is_completed() {
    let place = Place::new(8, 2);
    assert_eq!(place.reference(&["--round", "1"]).status, Some(0));
    let expected = place.tables();
    let root = place.path();
    let mut step = 0;
    loop {
        for table in ["scores", "rejects"] {
            let (live, staged) =
                (root.join(table).join("round-1"), root.join(table).join(".writing-round-1"));
            std::fs::create_dir(&staged).unwrap();
            for entry in std::fs::read_dir(live).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                let is_other = table == "rejects" && name.contains("corrections");
                let new = if is_other {
                    name
                } else {
                    name.replace(&format!("{step:05}"), &format!("{:05}", step + 1))
                };
                std::fs::copy(path, staged.join(new)).unwrap();
            }
        }
        std::fs::write(root.join("scores/.replacing-round-1"), (step + 1).to_string()).unwrap();
        let folders = renamed(root, "round-1", "round=1");
        assert_eq!(folders.len(), 6 + 3, "{folders:?}");
        // Folders that the interrupted renaming has not reached yet.
        folders.iter().skip(step).for_each(|(new, old)| std::fs::rename(new, old).unwrap());
        assert_eq!(place.tables(), expected);
        for reading in [&["status"][..], &["estimate", "--round", "1"], &["report", "--round", "1"]] {
            let ran = place.reference(reading);
            assert_eq!(ran.status, Some(0), "{}", ran.stderr);
            assert_eq!(renamed(root, "round=1", "round-1").len(), 9 - step, "{reading:?} changes nothing");
        }
        let ran = place.reference(&["--round", "1", "--stage", "scores"]);
        assert!(ran.stdout.contains("nothing to do"), "{}{}", ran.stdout, ran.stderr);
        assert_eq!(renamed(root, "round=1", ""), []);
        assert_eq!(place.tables(), expected);
        let part = |number: usize| root.join(format!("scores/round-1/part-{number:05}.parquet"));
        assert!(part(step + 1).is_file() && !part(step).exists(), "step {step}");
        step += 1;
        if step == 9 {
            break;
        }
    }
}

#[test]
fn rejects_of_a_set_that_was_cut_off_are_removed() {
    let place = Place::new(6, 2);
    std::fs::remove_file(place.path().join("images/p3.png")).unwrap();
    let service = place.service(fast());
    assert_eq!(place.collect(&service, &["--stage", "scores"]).status, Some(0));
    let before = place.tables();
    assert_eq!(before.rejects.len(), 2);
    let part = |name: &str| place.dataset.part_path::<Reject>(1, name);
    std::fs::copy(part("scores-00000"), part("scores-00001")).unwrap();
    assert_eq!(place.tables().rejects.len(), 4);
    assert!(place.collect(&service, &["--stage", "scores"]).stdout.contains("nothing to do"));
    assert_eq!(place.tables(), before);
    assert!(!part("scores-00001").exists());
}

/// A malformed reply, a stop, the same with another setting, and a rebuild before it continues.
#[test]
fn rebuild_leaves_out_requests_that_were_given_up() {
    let place = Place::new(6, 2);
    let service = place.service(fast());
    let flags = ["--stage", "scores", "--model", "gpt-4o"];
    assert_eq!(place.collect(&service, &flags).status, Some(0));
    let before = place.tables();
    let cache = rusqlite::Connection::open(place.dataset.feedback_path()).unwrap();
    let body = r#"{"choices":[{"message":{"content":"hm"},"finish_reason":"stop"}]}"#;
    let (answered, pending) = (&before.scores[0].rollout_id, &before.scores.last().unwrap().rollout_id);
    assert_ne!(answered, pending);
    for (item, subject) in [answered, pending].into_iter().enumerate() {
        for attempt in 0..2_u8 {
            let key = [0xE0 + 2 * u8::try_from(item).unwrap() + attempt; 32];
            cache
                .execute(
                    "INSERT INTO asks (request_key, scope, round, subject_id, problem_id, provider, model, prompt_version,
                                       user_text, image_sha256)
                     SELECT ?1, asks.scope, asks.round, ?2, problem_id, provider, model, prompt_version,
                            user_text, image_sha256 FROM asks JOIN subjects USING (request_key)
                     WHERE subjects.subject_id = ?2 LIMIT 1",
                    rusqlite::params![key, subject],
                )
                .unwrap();
            cache
                .execute(
                    "INSERT INTO replies VALUES (?1, 0, ?1, 1, 200, '{}', ?2, 10, 0, 0, 5, 0.001, 1, 2, 1, NULL)",
                    rusqlite::params![key, body.as_bytes()],
                )
                .unwrap();
        }
        if item == 1 {
            cache.execute("DELETE FROM subjects WHERE subject_id = ?1", [subject]).unwrap();
        }
        for attempt in 0..2_u8 {
            let key = [0xE0 + 2 * u8::try_from(item).unwrap() + attempt; 32];
            cache
                .execute(
                    "INSERT INTO subjects (scope, round, subject_id, request_key) VALUES ('scores', 1, ?1, ?2)",
                    rusqlite::params![subject, key],
                )
                .unwrap();
        }
    }
    drop(cache);
    let ran = place.reference(&["rebuild"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let scores = place.tables().scores;
    let kept: Vec<Score> = before.scores.iter().filter(|row| row.rollout_id != *pending).cloned().collect();
    let without: Vec<Score> = scores.into_iter().filter(|row| row.rollout_id != *pending).collect();
    assert_eq!(without, kept);
    let ran = place.collect(&service, &flags);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(place.tables().scores.len(), before.scores.len());
}
