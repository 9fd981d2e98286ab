//! The repository contains what the generator produces.

use crate::{folder, problems};
use schemas::Dataset;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Relative path → bytes of the shipped files. For pictures, the pixels: the compressed bytes depend on the
/// deflate library that the workspace resolves to.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for part in ["problems.parquet", "dataset.toml", "images", "tokenizer"] {
        let path = root.join(part);
        if path.is_file() {
            found.insert(part.to_owned(), fs::read(&path).unwrap());
        } else {
            for entry in fs::read_dir(&path).unwrap() {
                let entry = entry.unwrap();
                let name = format!("{part}/{}", entry.file_name().to_str().unwrap());
                let bytes = fs::read(entry.path()).unwrap();
                found.insert(name, if part == "images" { pixels(&bytes) } else { bytes });
            }
        }
    }
    found
}

/// Palette and pixels of a PNG file.
fn pixels(png: &[u8]) -> Vec<u8> {
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
    let mut pixels = reader.info().palette.as_ref().unwrap().to_vec();
    let start = pixels.len();
    pixels.resize(start + reader.output_buffer_size().unwrap(), 0);
    reader.next_frame(&mut pixels[start..]).unwrap();
    pixels
}

#[test]
fn the_generator_makes_what_ships() {
    let made = tempfile::tempdir().unwrap();
    sample_generator::write(made.path(), sample_generator::SEED).unwrap();
    let (made, shipped) = (files(made.path()), files(&folder()));
    assert_eq!(made.keys().collect::<Vec<_>>(), shipped.keys().collect::<Vec<_>>());
    let differing: Vec<_> =
        made.iter().filter(|(name, bytes)| shipped[*name] != **bytes).map(|(name, _)| name).collect();
    assert!(differing.is_empty(), "not as the generator makes them, run it and commit: {differing:?}");
}

#[test]
fn another_seed_makes_other_problems() {
    let one = sample_generator::generate(1).unwrap();
    assert_eq!(one.problems.len(), 1000);
    assert_ne!(one.problems, problems());
}

#[test]
fn pictures_of_an_older_set_go_and_other_files_stay() {
    let made = tempfile::tempdir().unwrap();
    let images = made.path().join("images");
    fs::create_dir_all(&images).unwrap();
    fs::write(images.join("old-001.png"), b"old").unwrap();
    fs::write(made.path().join("notes.txt"), b"mine").unwrap();
    sample_generator::write(made.path(), 1).unwrap();
    assert!(!images.join("old-001.png").exists());
    assert!(made.path().join("notes.txt").exists());
}

#[test]
fn the_set_has_the_promised_size_and_shape() {
    let problems = problems();
    let count = |split: &str| problems.iter().filter(|problem| problem.split == split).count();
    assert_eq!([count("train"), count("val"), count("test")], [600, 100, 300]);
    let empty = |split: &str| problems.iter().filter(|p| p.split == split && p.solution.is_empty()).count();
    assert_eq!([empty("train"), empty("val"), empty("test")], [60, 0, 0]);
    let pictures = problems.iter().filter(|problem| problem.image.is_some()).count();
    assert!(pictures * 10 >= problems.len() * 8, "{pictures} problems with a picture");
    let families: BTreeSet<&str> = problems.iter().map(crate::family).collect();
    assert_eq!(families.len(), 7);
    for problem in &problems {
        assert!((2..=4).contains(&problem.choices.len()), "{}", problem.problem_id);
        assert!(!problem.lecture.is_empty(), "{}", problem.problem_id);
        assert_eq!(problem.image.is_some(), !problem.caption.is_empty(), "{}", problem.problem_id);
        let labels = [&problem.subject, &problem.topic, &problem.category, &problem.skill, &problem.grade];
        assert!(labels.into_iter().all(Option::is_some), "{}", problem.problem_id);
        if let Some(image) = &problem.image {
            assert_eq!(*image, format!("images/{}.png", problem.problem_id));
            assert!(folder().join(image).is_file());
        }
    }
}

#[test]
fn no_two_problems_are_alike() {
    let mut seen = BTreeMap::new();
    for problem in problems() {
        let mut choices = problem.choices.clone();
        choices.sort();
        let picture = problem.image.as_ref().map(|image| fs::read(folder().join(image)).unwrap());
        let before = seen.insert((problem.question, choices, picture), problem.problem_id.clone());
        assert_eq!(before, None, "the same as {}", problem.problem_id);
    }
}

#[test]
fn the_set_is_small() {
    let parts = ["", "images", "tokenizer"].map(|part| fs::read_dir(folder().join(part)).unwrap());
    let size: u64 = parts.into_iter().flatten().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(size < 4 << 20, "{size} bytes");
}

#[test]
fn the_card_names_the_generator() {
    let card = Dataset::open(folder()).unwrap().card().unwrap();
    assert_eq!(card.name, "sample");
    assert!(card.source.contains(&sample_generator::SEED.to_string()), "{}", card.source);
}
