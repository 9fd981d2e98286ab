//! Datasets written with `schemas` alone, for tests that need no trainer.

use schemas::{Dataset, DatasetCard, Problem, Provenance, Rationale, Result, Rollout, Sentence, file, table};
use std::path::Path;

/// Size of a small dataset.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Problems; every third has a picture.
    pub problems: usize,
    /// Rollouts of each problem.
    pub samples: u32,
}

/// A 2×2 picture in PNG.
pub const PICTURE: &[u8] = &[
    0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0x00, 0x00, 0x00, 0x0d, 0x49, 0x48, 0x44, 0x52, 0x00,
    0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x01, 0x08, 0x06, 0x00, 0x00, 0x00, 0x1f, 0x15, 0xc4, 0x89, 0x00,
    0x00, 0x00, 0x0d, 0x49, 0x44, 0x41, 0x54, 0x78, 0x9c, 0x63, 0xf8, 0xcf, 0xc0, 0xf0, 0x1f, 0x00, 0x05,
    0x00, 0x01, 0xff, 0x89, 0x99, 0x3d, 0x1d, 0x00, 0x00, 0x00, 0x00, 0x49, 0x45, 0x4e, 0x44, 0xae, 0x42,
    0x60, 0x82,
];

/// Makes a dataset with rollouts and RL rationales of round 1.
///
/// Samples 1 and 2 of every fifth problem have the same text, so that some requests are shared.
///
/// # Errors
/// If the write fails.
pub fn make(root: &Path, size: Size) -> Result<Dataset> {
    let dataset = Dataset::at(root);
    write_problems(&dataset, 0..size.problems)?;
    dataset.write_card(&DatasetCard {
        name: "small".into(),
        source: "made for a test".into(),
        licence: "CC0-1.0".into(),
        created_by: "workspace-tests".into(),
    })?;
    write_rollouts(&dataset, "00000", 0..size.problems, size.samples)?;
    dataset.write_part(
        1,
        "rl",
        (0..size.problems).map(|number| rationale(number, 1, "rl", "train")),
        &provenance(),
    )?;
    Ok(dataset)
}

/// Writes the problems of a dataset, and their pictures.
///
/// # Errors
/// If the write fails.
pub fn write_problems(dataset: &Dataset, numbers: std::ops::Range<usize>) -> Result<()> {
    for number in numbers.clone().filter(|number| number.is_multiple_of(3)) {
        file::write_bytes(&dataset.images_dir().join(format!("p{number}.png")), PICTURE)?;
    }
    table::write(&dataset.problems_path(), numbers.map(problem), &provenance())?;
    Ok(())
}

/// Gives every problem of a dataset its own picture of about this many bytes.
///
/// # Errors
/// If the write fails.
pub fn show_pictures(dataset: &Dataset, numbers: std::ops::Range<usize>, bytes: usize) -> Result<()> {
    for number in numbers.clone() {
        let path = dataset.images_dir().join(format!("p{number}.png"));
        file::write_bytes(&path, &noise_picture(number, bytes))?;
    }
    let problems =
        numbers.map(|number| Problem { image: Some(format!("images/p{number}.png")), ..problem(number) });
    table::write(&dataset.problems_path(), problems, &provenance()).map(|_| ())
}

/// A PNG of grey noise with about this many bytes, 400 pixels wide; each number gives a different one.
fn noise_picture(number: usize, bytes: usize) -> Vec<u8> {
    const WIDTH: usize = 400;
    let height = bytes.div_ceil(WIDTH).max(1);
    let mut state = (number as u32).wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut rows = vec![0; height * (WIDTH + 1)]; // each starts with 0: not filtered
    for row in rows.chunks_exact_mut(WIDTH + 1) {
        for pixel in row.iter_mut().skip(1) {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *pixel = state.to_be_bytes()[0];
        }
    }
    let mut head = [(WIDTH as u32).to_be_bytes(), (height as u32).to_be_bytes()].concat();
    head.extend([8, 0, 0, 0, 0]);
    // Stored without compression.
    let mut pixels = vec![0x78, 0x01];
    let mut blocks = rows.chunks(0xffff).peekable();
    while let Some(block) = blocks.next() {
        let length = block.len() as u16;
        pixels.push(u8::from(blocks.peek().is_none()));
        pixels.extend(length.to_le_bytes());
        pixels.extend((!length).to_le_bytes());
        pixels.extend(block);
    }
    let (low, high) = rows.iter().fold((1_u32, 0_u32), |(low, high), byte| {
        let low = (low + u32::from(*byte)) % 65_521;
        (low, (high + low) % 65_521)
    });
    pixels.extend((high << 16 | low).to_be_bytes());
    let chunks = [(b"IHDR", head), (b"IDAT", pixels), (b"IEND", Vec::new())];
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, content) in chunks {
        png.extend((content.len() as u32).to_be_bytes());
        let start = png.len();
        png.extend(kind);
        png.extend(content);
        let sum = !png.iter().skip(start).fold(u32::MAX, |sum, byte| {
            (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 * (sum & 1)))
        });
        png.extend(sum.to_be_bytes());
    }
    png
}

/// Writes a part of rollouts of round 1.
///
/// # Errors
/// If the write fails.
pub fn write_rollouts(
    dataset: &Dataset,
    part: &str,
    numbers: std::ops::Range<usize>,
    samples: u32,
) -> Result<()> {
    let rows = numbers.flat_map(|number| (0..samples).map(move |sample| rollout(number, sample)));
    dataset.write_part(1, part, rows, &provenance())?;
    Ok(())
}

/// Provenance of the test data.
pub fn provenance() -> Provenance {
    Provenance::new("workspace-tests", "")
}

/// Problem `number`.
pub fn problem(number: usize) -> Problem {
    let (a, b) = (number % 7 + 2, number % 5 + 3);
    Problem {
        problem_id: format!("p{number}"),
        split: if number % 4 == 3 { "test" } else { "train" }.into(),
        question: format!("Box {number} holds {a} red and {b} blue marbles. Which colour are most of them?"),
        choices: vec!["red".into(), "blue".into()],
        answer_index: Some(u8::from(b > a)),
        hint: "Count the marbles of each colour.".into(),
        caption: String::new(),
        lecture: String::new(),
        solution: format!(
            "The box holds {a} red marbles. The box holds {b} blue marbles. So most are {}.",
            more(a, b)
        ),
        image: number.is_multiple_of(3).then(|| format!("images/p{number}.png")),
        subject: Some("natural science".into()),
        topic: None,
        category: None,
        skill: None,
        grade: Some("grade2".into()),
        source: "test".into(),
    }
}

fn more(a: usize, b: usize) -> &'static str {
    if b > a { "blue" } else { "red" }
}

fn sentences(number: usize, sample: u32) -> Vec<String> {
    let (a, b) = (number % 7 + 2, number % 5 + 3);
    let sample = if number.is_multiple_of(5) && sample == 2 { 1 } else { sample };
    vec![
        format!("The box holds {} red marbles.", a + sample as usize),
        format!("The box holds {b} blue marbles."),
        format!("So most are {}.", if sample % 3 == 2 { "green" } else { more(a, b) }),
    ]
}

/// A rollout of problem `number`.
pub fn rollout(number: usize, sample: u32) -> Rollout {
    let problem_id = format!("p{number}");
    let sentences = sentences(number, sample);
    Rollout {
        rollout_id: Rollout::id(&problem_id, 1, sample),
        problem_id,
        round: 1,
        sample,
        rationale: format!("Solution: {}", sentences.join(" ")),
        token_ids: vec![1],
        logprobs: vec![-0.5],
        ref_logprobs: vec![-0.5],
        values: vec![0.0],
        sentences: sentences.into_iter().map(|text| Sentence { text, token_end: 0 }).collect(),
        truncated: false,
        policy: "test".into(),
        seed: 1,
    }
}

/// A greedily decoded rationale of problem `number`.
pub fn rationale(number: usize, round: u32, stage: &str, split: &str) -> Rationale {
    let problem_id = format!("p{number}");
    let sentences = sentences(number, round);
    Rationale {
        rationale_id: Rationale::id(&problem_id, round, stage),
        problem_id,
        round,
        split: split.into(),
        stage: stage.into(),
        rationale: sentences.join(" "),
        deduplicated: sentences.join("\n"),
        sentences,
        repeated_sentences: 0,
        truncated: false,
        policy: "test".into(),
    }
}
