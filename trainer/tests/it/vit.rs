//! Agreement of the vision transformer with a folder that transformers saved.
#![allow(clippy::expect_used)]

use crate::checkpoints::{assert_close, copy_folder, values};
use std::fs;
use trainer::student::checkpoint::{read_safetensors, write_safetensors};
use trainer::vision::vit::Vit;

#[test]
fn hidden_states_agree_with_transformers() {
    let folder = values("vit");
    let vit = Vit::read(&folder).expect("vit");
    assert_eq!(vit.width(), 32);
    let expected = read_safetensors(&folder.join("expected.safetensors")).expect("values");
    let hidden = vit.forward(&expected["pixels"]);
    assert_eq!(hidden.size(), [2, 17, 32]);
    assert_close("hidden states", &hidden, &expected["last_hidden_state"], 1e-5);
}

#[test]
fn pictures_are_read_as_pillow_reads_them() {
    let folder = values("vit");
    let vit = Vit::read(&folder).expect("vit");
    let expected = read_safetensors(&folder.join("expected.safetensors")).expect("values");
    let pixels = vit.read_image(&folder.join("picture.png")).expect("picture");
    // One step of 255, by the smallest deviation of a colour: the two libraries round differently.
    assert_close("pixels", &pixels, &expected["picture"], 1.01 / 255.0 / 0.224);
}

#[test]
fn the_network_within_a_classifier_is_found() {
    let (_kept, folder) = copy_folder("vit");
    let file = folder.join("model.safetensors");
    let tensors = read_safetensors(&file).expect("weights");
    let renamed = tensors.iter().map(|(name, tensor)| (format!("vit.{name}"), tensor));
    write_safetensors(&file, renamed, &[]).expect("written");
    let expected = read_safetensors(&folder.join("expected.safetensors")).expect("values");
    let hidden = Vit::read(&folder).expect("vit").forward(&expected["pixels"]);
    assert_close("hidden states", &hidden, &expected["last_hidden_state"], 1e-5);
}

#[test]
fn broken_folders_are_refused_with_everything_that_is_wrong() {
    let (_kept, folder) = copy_folder("vit");
    let config = folder.join("config.json");
    let text = fs::read_to_string(&config).expect("config");
    let refused = || Vit::read(&folder).expect_err("broken").to_string();

    fs::write(&config, text.replace("\"hidden_size\": 32", "\"hidden_size\": 30")).expect("written");
    assert!(refused().contains("expected sizes that divide each other"), "{}", refused());

    fs::write(&config, text.replace("\"patch_size\": 8", "\"patch_size\": 16")).expect("written");
    let message = refused();
    for line in [
        "embeddings.position_embeddings: expected shape [1, 5, 32], found [1, 17, 32]",
        "embeddings.patch_embeddings.projection.weight: expected shape [32, 3, 16, 16], found [32, 3, 8, 8]",
    ] {
        assert!(message.contains(line), "{message}");
    }

    fs::write(&config, text).expect("written");
    fs::write(folder.join("model.safetensors"), b"not a model").expect("written");
    assert!(refused().contains("no safetensors file"), "{}", refused());
}
