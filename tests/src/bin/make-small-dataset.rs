//! Makes a dataset with rollouts and rationales of round 1, for measurements: `make-small-dataset FOLDER
//! PROBLEMS SAMPLES [PICTURE_BYTES]`. With the last argument, every problem has a picture of about that size.

use workspace_tests::small_dataset::{Size, make, show_pictures};

fn main() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let ([folder, problems, samples] | [folder, problems, samples, _]) = arguments.as_slice() else {
        return Err("usage: make-small-dataset FOLDER PROBLEMS SAMPLES [PICTURE_BYTES]".to_owned());
    };
    let number = |text: &String| text.parse::<u32>().map_err(|e| format!("{text}: {e}"));
    let size = Size { problems: number(problems)? as usize, samples: number(samples)? };
    let dataset = make(folder.as_ref(), size).map_err(|e| e.to_string())?;
    match arguments.get(3) {
        None => Ok(()),
        Some(bytes) => {
            let bytes = number(bytes)? as usize;
            show_pictures(&dataset, 0..size.problems, bytes).map_err(|e| e.to_string())
        }
    }
}
