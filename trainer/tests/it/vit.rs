//! Agreement of the vision transformer with a folder that transformers saved.
#![allow(clippy::expect_used)]

use crate::checkpoints::{assert_close, copy_folder, values};
use std::fs;
use trainer::checkpoint::hf::{read_safetensors, write_safetensors};
use trainer::data::vision::vit::Vit;

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
    for (resample, name) in [(2, "bilinear"), (3, "bicubic")] {
        let (_kept, folder) = copy_folder("vit");
        let path = folder.join("preprocessor_config.json");
        let text = fs::read_to_string(&path).expect("settings");
        let mut json: serde_json::Value = serde_json::from_str(&text).expect("json");
        json["resample"] = resample.into();
        fs::write(&path, json.to_string()).expect("written");
        let vit = Vit::read(&folder).expect("vit");
        let expected = read_safetensors(&folder.join("expected.safetensors")).expect("values");
        for picture in ["picture", "tall", "tiny"] {
            let pixels = vit.read_image(&folder.join(format!("{picture}.png"))).expect("picture");
            // Far less than 1/255.
            assert_close(picture, &pixels, &expected[&format!("{picture}.{name}")], 1e-6);
            if name == "bilinear" {
                let hidden = vit.forward(&pixels.unsqueeze(0));
                assert_close(picture, &hidden, &expected[&format!("{picture}.hidden")], 1e-5);
            }
        }
    }
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
    assert!(refused().contains("not a safetensors file"), "{}", refused());
}

/// A copy of the valid folder with one setting changed, and the message of its refusal.
fn refused_with(file: &str, key: &str, value: serde_json::Value) -> String {
    let (_kept, folder) = copy_folder("vit");
    let path = folder.join(file);
    let mut json: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&path).expect("file")).expect("json");
    json[key] = value;
    fs::write(&path, json.to_string()).expect("written");
    let message = Vit::read(&folder).expect_err("refused").to_string();
    let begin = format!("{}: ", path.display());
    message.strip_prefix(&begin).unwrap_or_else(|| panic!("{message}")).to_owned()
}

#[test]
fn networks_of_another_kind_are_refused() {
    for (key, value, expected) in [
        ("model_type", "deit".into(), "model_type: expected `vit`, found `deit`"),
        ("hidden_act", "relu".into(), "hidden_act: expected `gelu`, found `relu`"),
        ("num_hidden_layers", (-1).into(), "num_hidden_layers: expected a number from 1 to 1024, found -1"),
        ("num_channels", 1.into(), "num_channels: expected 3, found 1"),
        ("hidden_size", 30.into(), "num_attention_heads: expected a divisor of hidden_size 30, found 4"),
        ("patch_size", 5.into(), "patch_size: expected a divisor of image_size 32, found 5"),
        ("layer_norm_eps", 0.into(), "layer_norm_eps: expected a number above 0, at most 0.1, found 0"),
    ] {
        assert_eq!(refused_with("config.json", key, value), expected);
    }
    let size = serde_json::json!({"height": 224, "width": 224});
    let deviation = serde_json::json!([0.5, 0.0, 0.5]);
    for (key, value, expected) in [
        ("size", size, "size: expected 32, the model's image_size, found 224"),
        ("size", 224.into(), "size: expected 32, the model's image_size, found 224"),
        ("do_resize", false.into(), "do_resize: expected true, found false"),
        ("rescale_factor", 0.5.into(), "rescale_factor: expected 1/255, found 0.5"),
        ("resample", 1.into(), "resample: expected 2 (bilinear) or 3 (bicubic), found 1"),
        ("image_std", deviation, "image_std: expected numbers above 0, found [0.5, 0.0, 0.5]"),
    ] {
        assert_eq!(refused_with("preprocessor_config.json", key, value), expected);
    }
}
