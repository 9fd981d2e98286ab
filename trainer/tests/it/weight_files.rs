//! Weight files that are damaged, truncated, or do not belong together.

use crate::checkpoints::{TIED_UNSCALED, assert_contains, copy_folder, refused};
use crate::t5::read_t5;
use std::fs;
use trainer::checkpoint::hf::{WEIGHTS_FILE, read_safetensors, write_safetensors};

#[test]
fn broken_weight_files_are_refused() {
    let message = refused(|folder| fs::write(folder.join(WEIGHTS_FILE), b"PK\x03\x04 zip").expect("written"));
    assert_contains(&message, &["model.safetensors: not a safetensors file"]);
    let message = refused(|folder| fs::write(folder.join(WEIGHTS_FILE), b"").expect("written"));
    assert_contains(&message, &["model.safetensors"]);
    for kept in [4usize, 1000, 100_000] {
        let message = refused(|folder| {
            let file = folder.join(WEIGHTS_FILE);
            let bytes = fs::read(&file).expect("weights");
            fs::write(&file, &bytes[..kept]).expect("written");
        });
        assert_contains(&message, &["model.safetensors: not a safetensors file"]);
    }
}

#[test]
fn a_shape_that_no_tensor_has_is_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join(WEIGHTS_FILE);
    let header = r#"{"w": {"dtype": "F32", "shape": [0, 9223372036854775808], "data_offsets": [0, 0]}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    fs::write(&path, bytes).expect("written");
    let message = read_safetensors(&path).expect_err("no such shape").to_string();
    assert_contains(&message, &["model.safetensors: tensor `w` of shape [0, 9223372036854775808]: "]);
}

#[test]
fn folders_without_safetensors_say_what_to_do() {
    let message = refused(|folder| fs::remove_file(folder.join(WEIGHTS_FILE)).expect("removed"));
    assert_contains(&message, &["expected a checkpoint with model.safetensors"]);
    let message = refused(|folder| {
        fs::rename(folder.join(WEIGHTS_FILE), folder.join("pytorch_model.bin")).expect("renamed");
    });
    assert_contains(
        &message,
        &[
            "pytorch_model.bin: expected a dict of tensors in a zip",
            "found no zip; convert it once with: python -c",
        ],
    );
}

#[test]
fn shards_stay_within_their_folder() {
    for outside in
        ["../model.safetensors", "/etc/passwd", "below/model.safetensors", "..\\\\model.safetensors"]
    {
        let message = refused(|folder| {
            fs::rename(folder.join(WEIGHTS_FILE), folder.join("../model.safetensors")).expect("moved");
            let index = format!(r#"{{"weight_map": {{"shared.weight": "{outside}"}}}}"#);
            fs::write(folder.join("model.safetensors.index.json"), index).expect("written");
        });
        assert_contains(
            &message,
            &["model.safetensors.index.json: expected file names in this folder, found"],
        );
    }
    let message = refused(|folder| {
        fs::remove_file(folder.join(WEIGHTS_FILE)).expect("removed");
        let index = r#"{"weight_map": {"shared.weight": "model-00001-of-00002.safetensors"}}"#;
        fs::write(folder.join("model.safetensors.index.json"), index).expect("written");
    });
    assert_contains(&message, &["cannot open", "model-00001-of-00002.safetensors"]);
    let message = refused(|folder| {
        fs::remove_file(folder.join(WEIGHTS_FILE)).expect("removed");
        fs::write(folder.join("model.safetensors.index.json"), "[]").expect("written");
    });
    assert_contains(&message, &["model.safetensors.index.json: "]);
}

#[test]
fn a_missing_shard_leaves_weights_missing() {
    let (_kept, folder) = copy_folder(TIED_UNSCALED);
    let index = folder.join("model.safetensors.index.json");
    let text = fs::read_to_string(&index).expect("index");
    fs::write(&index, text.replace("model-00002-of-00002", "model-00001-of-00002")).expect("written");
    let message = read_t5(&folder).expect_err("half").to_string();
    assert_contains(&message, &["found no such weight"]);
}

#[test]
fn a_tensor_in_two_shards_is_reported() {
    let (_kept, folder) = copy_folder(TIED_UNSCALED);
    let second = folder.join("model-00002-of-00002.safetensors");
    let mut tensors = read_safetensors(&second).expect("shard");
    let first = read_safetensors(&folder.join("model-00001-of-00002.safetensors")).expect("shard");
    let name = first.keys().next().expect("weight").clone();
    tensors.insert(name.clone(), first[&name].copy());
    write_safetensors(&second, tensors.iter().map(|(name, t)| (name.clone(), t)), &[]).expect("written");
    let message = read_t5(&folder).expect_err("twice").to_string();
    let expected = format!(
        "{name}: expected in one file, found in model-00001-of-00002.safetensors and \
         model-00002-of-00002.safetensors"
    );
    assert_contains(&message, &["weights do not fit the student:", &expected]);
    assert_eq!(message.lines().count(), 2, "{message}");
}
