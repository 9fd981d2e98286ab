//! `pytorch_model.bin` as Python writes it: what libtorch reads, and the suggested conversion if it cannot.

use crate::checkpoints::{assert_same_tensors, values};
use crate::reference;
use crate::t5::read_student;
use trainer::checkpoint::hf::{read_pickle, read_safetensors};

#[test]
fn dicts_of_tensors_and_parameters_are_read() {
    let folder = values("pickles");
    for (expected, file) in
        [("expected.safetensors", "dict.bin"), ("expected_module.safetensors", "parameters.bin")]
    {
        let expected = read_safetensors(&folder.join(expected)).expect("values");
        let found = read_pickle(&folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_same_tensors(&found, &expected);
    }
}

#[test]
fn a_student_in_one_file_or_in_shards_is_read() {
    let expected = read_student(&values("rl_relu_tied")).expect("student");
    for name in ["student", "student_shards"] {
        let found = read_student(&values("pickles").join(name)).expect(name);
        assert_eq!(found.config, expected.config, "{name}");
        assert_eq!(found.weights.fingerprint(), expected.weights.fingerprint(), "{name}");
    }
}

#[test]
fn what_libtorch_cannot_read_says_how_to_convert_it() {
    let folder = values("pickles");
    for (file, found) in [
        ("before_1_6.bin", "found no zip;"),
        ("ordered.bin", "found something else (libtorch: "),
        ("state_dict.bin", "found something else (libtorch: "),
        ("nested.bin", "found something else (libtorch: "),
        ("one_tensor.bin", "found something else (libtorch: "),
    ] {
        let message = read_pickle(&folder.join(file)).expect_err(file).to_string();
        println!("{message}");
        let name = file.trim_end_matches(".bin");
        let begin = format!(
            "{}: expected a dict of tensors in a zip, as save_pretrained writes it, {found}",
            folder.join(file).display()
        );
        assert!(message.starts_with(&begin), "{message}");
        let end = format!(
            "convert it once with: python -c \"import torch, safetensors.torch as s; w = torch.load('{file}', \
             map_location='cpu', weights_only=True); s.save_file({{k: v.clone().contiguous() for k, v in \
             w.items()}}, '{name}.safetensors')\""
        );
        assert!(message.ends_with(&end), "{message}");
        assert_eq!(message.lines().count(), 1, "no stack of libtorch's: {message}");
    }
}

#[test]
fn quantized_numbers_are_refused() {
    let file = values("pickles").join("quantized.bin");
    let refused = read_pickle(&file).expect_err("quantized");
    let expected = format!(
        "{}: tensor `turned`: expected floating-point numbers, found a quantized tensor; use the unquantized \
         checkpoint",
        file.display()
    );
    assert_eq!((refused.to_string(), refused.exit_code()), (expected, 2));
}

#[test]
fn a_cut_off_file_is_refused() {
    let bytes = std::fs::read(values("pickles/student/pytorch_model.bin")).expect("file");
    let kept = tempfile::TempDir::new().expect("folder");
    let file = kept.path().join("pytorch_model.bin");
    for length in [0, 3, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&file, &bytes[..length]).expect("written");
        let message = read_pickle(&file).expect_err("cut off").to_string();
        let expected = match length {
            0..4 => "found no zip; convert it once with: python -c",
            _ => "expected a complete zip, found a truncated one; copy or download it again",
        };
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
#[cfg_attr(not(reference_values), ignore = "needs values of the public code: ARES_REFERENCE")]
fn the_public_codes_own_file_is_read() {
    let folder = reference::folder();
    let mut expected = read_safetensors(&folder.join("model/model.safetensors")).expect("weights");
    let mut found = read_pickle(&folder.join("model/pytorch_model.bin")).expect("pickle");
    // The two files contain different copies of the embedding.
    expected.retain(|name, _| !name.ends_with("embed_tokens.weight"));
    found.retain(|name, _| !name.ends_with("embed_tokens.weight"));
    assert_same_tensors(&found, &expected);
}
