//! Folders as users have them: other names of splits and pictures, files that are missing or were not
//! downloaded.

use crate::import::{Folder, JPEG, PROBLEMS, QUESTION};
use feedback_pipeline::import::Command;
use std::fs;

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";
const FOUND: &str = "a Git LFS pointer: the file itself was not downloaded; get it with `git lfs pull` in the folder of the clone";

#[test]
fn scienceqa_without_pid_splits_takes_the_problems_own_splits() {
    let folder = Folder::new();
    folder.write("from/problems.json", PROBLEMS.replace("\"test\"", "\"validation\""));
    folder.scienceqa("from").unwrap();
    let splits: Vec<_> = folder.problems().into_iter().map(|p| (p.problem_id, p.split)).collect();
    let expected = [("7", "train"), ("8", "train"), ("9", "val")];
    assert_eq!(splits, expected.map(|(id, split)| (id.to_owned(), split.to_owned())));
}

#[test]
fn an_empty_image_is_none() {
    let folder = Folder::new();
    folder.write("from/problems.json", PROBLEMS.replace("\"image\": null", "\"image\": \"\""));
    folder.scienceqa("from").unwrap();
    assert_eq!(folder.problems().iter().map(|p| p.image.is_some()).collect::<Vec<_>>(), [true, true, false]);
    folder.write(
        "own.jsonl",
        r#"{"problem_id": "a", "split": "valid", "question": "q", "choices": ["a"], "answer_index": 0, "image": " "}"#,
    );
    fs::remove_dir_all(folder.path("data")).unwrap();
    folder.jsonl("own.jsonl").unwrap();
    assert_eq!((folder.problems()[0].split.as_str(), &folder.problems()[0].image), ("val", &None));
}

#[test]
fn coco_pictures_of_2014_are_found() {
    for name in [
        "val2017/000000461751.jpg",
        "train2017/000000461751.jpg",
        "000000461751.jpg",
        "val2014/COCO_val2014_000000461751.jpg",
        "train2014/COCO_train2014_000000461751.jpg",
        "COCO_val2014_000000461751.jpg",
        "test2015/COCO_test2015_000000461751.jpg",
    ] {
        let folder = Folder::new();
        folder.write("from/aokvqa_v1p0_val.json", format!("[{QUESTION}]"));
        folder.write(&format!("coco/{name}"), JPEG);
        folder.aokvqa("from", Some("coco")).unwrap();
        assert_eq!(fs::read(folder.path("data/images/000000461751.jpg")).unwrap(), JPEG, "{name}");
    }
}

/// Every importer, every file it opens.
#[test]
fn git_lfs_pointers_are_told() {
    let folder = Folder::new();
    let nothing_written = |folder: &Folder| assert!(!folder.path("data").exists());
    let text = format!("expected text, found {FOUND}");

    folder.write("science/problems.json", POINTER);
    assert_eq!(folder.scienceqa("science").unwrap_err(), format!("@/science/problems.json: {text}"));
    folder.write("science/problems.json", PROBLEMS);
    folder.write("science/pid_splits.json", POINTER);
    assert_eq!(folder.scienceqa("science").unwrap_err(), format!("@/science/pid_splits.json: {text}"));
    fs::remove_file(folder.path("science/pid_splits.json")).unwrap();
    folder.write("science/captions.json", POINTER);
    assert_eq!(folder.scienceqa("science").unwrap_err(), format!("@/science/captions.json: {text}"));
    fs::remove_file(folder.path("science/captions.json")).unwrap();
    folder.write("science/images/train/7/image.png", POINTER);
    assert_eq!(
        folder.scienceqa("science").unwrap_err(),
        format!(
            "@/science/problems.json, problem `7`: `image`: expected a PNG, JPEG, GIF or WebP picture, found `image.png`, {FOUND}"
        )
    );

    folder.write("a/aokvqa_v1p0_val.json", POINTER);
    assert_eq!(folder.aokvqa("a", None).unwrap_err(), format!("@/a/aokvqa_v1p0_val.json: {text}"));
    folder.write("a/aokvqa_v1p0_val.json", format!("[{QUESTION}]"));
    folder.write("coco/000000461751.jpg", POINTER);
    assert_eq!(
        folder.aokvqa("a", Some("coco")).unwrap_err(),
        format!(
            "@/a/aokvqa_v1p0_val.json, question `22jb`: `image_id`: expected a PNG, JPEG, GIF or WebP picture, found \
             `000000461751.jpg`, {FOUND}"
        )
    );

    folder.write("own.jsonl", POINTER);
    assert_eq!(folder.jsonl("own.jsonl").unwrap_err(), format!("@/own.jsonl: {text}"));
    for layout in ["science", "a"] {
        folder.write("hub/data/train-00000-of-00001.parquet", POINTER);
        let error = if layout == "a" { folder.aokvqa("hub", None) } else { folder.scienceqa("hub") };
        assert_eq!(
            error.unwrap_err(),
            "@/hub/data/train-00000-of-00001.parquet: expected the file itself, found a pointer of Git LFS to 12345 bytes: it was \
             cloned without its content"
        );
    }
    nothing_written(&folder);

    folder.write(
        "one.jsonl",
        r#"{"problem_id": "a", "split": "train", "question": "q", "choices": ["a"], "answer_index": 0}"#,
    );
    folder.jsonl("one.jsonl").unwrap();
    let before = folder.contents();
    for name in ["r.jsonl", "r.json", "r.parquet"] {
        folder.write(name, POINTER);
        let command = Command::Rationales {
            from: folder.path(name),
            data: folder.path("data"),
            round: 1,
            split: None,
            skip_unknown: false,
            written_by: None,
            map: Vec::new(),
        };
        let error = folder.run(command).unwrap_err();
        assert!(error.starts_with(&format!("@/{name}")) && error.contains("Git LFS"), "{error}");
    }
    assert_eq!(folder.contents(), before);
}
