//! Makes a dataset with rollouts and rationales of round 1, for measurements: `make-small-dataset FOLDER PROBLEMS SAMPLES`.

use workspace_tests::small_dataset::{Size, make};

fn main() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, problems, samples] = arguments.as_slice() else {
        return Err("usage: make-small-dataset FOLDER PROBLEMS SAMPLES".to_owned());
    };
    let number = |text: &String| text.parse::<u32>().map_err(|e| format!("{text}: {e}"));
    let size = Size { problems: number(problems)? as usize, samples: number(samples)? };
    make(folder.as_ref(), size).map(|_| ()).map_err(|e| e.to_string())
}
