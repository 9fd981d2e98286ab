//! Checkpoints written by transformers and PEFT: the same logits in both directions, and refusals with their messages.
#![allow(clippy::expect_used)]

use crate::t5::{Loaded, read_student, read_t5};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};
use tempfile::TempDir;
use trainer::checkpoint::hf::{WEIGHTS_FILE, read_safetensors, write_safetensors, write_student};
use trainer::data::tokenizer::Tokenizer;
use trainer::model::mm_t5::{MmT5, StudentConfig};
use trainer::model::{Model, add_random};
use trainer::model::{Source, Student};
use trainer::nn::mode::Mode;
use trainer::nn::weights::Weights;

const PLAIN: [&str; 3] = ["t5_relu_tied", "t5_gated_untied", TIED_UNSCALED];
pub(crate) const TIED_UNSCALED: &str = "t5_gated_tied_shards";
const STUDENTS: [&str; 2] = ["student_relu_tied", "student_gated_untied"];

/// A folder of reference values, created by `tests/reference`.
pub(crate) fn values(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/values").join(name)
}

/// A copy of such a folder to break.
pub(crate) fn copy_folder(name: &str) -> (TempDir, PathBuf) {
    let kept = TempDir::new().expect("folder");
    let folder = kept.path().join(name);
    fs::create_dir(&folder).expect("folder");
    for entry in fs::read_dir(values(name)).expect("values") {
        let entry = entry.expect("entry");
        fs::copy(entry.path(), folder.join(entry.file_name())).expect("copied");
    }
    (kept, folder)
}

pub(crate) fn assert_close(what: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(found.size(), expected.size(), "{what}");
    let difference = (found.to_kind(Kind::Double) - expected.to_kind(Kind::Double)).abs().max();
    let difference = difference.double_value(&[]);
    println!("{what}: off by {difference:e}");
    assert!(difference <= tolerance, "{what}: off by {difference:e}, allowed {tolerance:e}");
}

pub(crate) fn expected(name: &str) -> BTreeMap<String, Tensor> {
    read_safetensors(&values(name).join("expected.safetensors")).expect("values")
}

pub(crate) fn fused_logits(student: &Student, given: &BTreeMap<String, Tensor>) -> Tensor {
    let take = |name: &str| given[name].shallow_clone();
    let source =
        Source { ids: take("input_ids"), mask: take("attention_mask"), image: take("image_features") };
    let hidden = student.hidden(&source, &given["decoder_input_ids"], Mode::EVAL);
    student.logits(&hidden, Mode::EVAL)
}

#[test]
fn plain_t5s_give_the_logits_of_transformers() {
    for name in PLAIN {
        let Loaded { config, mut weights } = read_t5(&values(name)).expect("t5");
        assert!(weights.find("encoder.image_dense.weight").is_none());
        // Fusion layers have to be there, but the text alone goes to the decoder.
        add_random(&mut weights, &config, config.fusion_shapes(), 1);
        let student = MmT5::new(&weights, &config);
        let given = expected(name);
        let mask = &given["attention_mask"];
        let text = student.encoder.text(&given["input_ids"], mask, Mode::EVAL);
        let hidden = student.decoder.forward(&given["decoder_input_ids"], &text, mask, None, Mode::EVAL);
        // Unscaled products with an embedding of deviation 1 are some ten times larger.
        let tolerance = if name == TIED_UNSCALED { 1e-4 } else { 1e-5 };
        assert_close(name, &student.logits(&hidden, Mode::EVAL), &given["logits"], tolerance);
    }
}

#[test]
fn the_head_is_tied_and_scaled_as_the_folders_mean_it() {
    let head = |name: &str| {
        let config = read_t5(&values(name)).expect("t5").config;
        (config.tie_word_embeddings, config.head_scale().is_some())
    };
    assert_eq!(head("t5_relu_tied"), (true, true));
    // Saved with `tie_word_embeddings: true` despite a separate head.
    assert_eq!(head("t5_gated_untied"), (false, false));
    // Tied, but not scaled.
    assert_eq!(head(TIED_UNSCALED), (true, false));
}

#[test]
fn students_give_the_logits_of_pytorch() {
    for name in STUDENTS {
        let Loaded { config, weights } = read_student(&values(name)).expect("student");
        assert_eq!(config.image_feature_width, 16, "taken from the weights");
        let given = expected(name);
        let student = Student::new(&weights, &config);
        assert_close(name, &fused_logits(&student, &given), &given["logits"], 1e-5);
    }
}

#[test]
fn steps_with_a_cache_give_the_same_logits() {
    for name in STUDENTS {
        let Loaded { config, weights } = read_student(&values(name)).expect("student");
        let student = Student::new(&weights, &config);
        let given = expected(name);
        let take = |name: &str| given[name].shallow_clone();
        let source =
            Source { ids: take("input_ids"), mask: take("attention_mask"), image: take("image_features") };
        let mut cache = student.start(&source, 1, Mode::EVAL);
        let steps: Vec<Tensor> = (0..given["decoder_input_ids"].size()[1])
            .map(|position| {
                let ids = given["decoder_input_ids"].select(1, position);
                student.logits(&cache.step(&ids), Mode::EVAL)
            })
            .collect();
        assert_close(name, &Tensor::stack(&steps, 1), &given["logits"], 1e-5);
    }
}

pub(crate) fn assert_same_tensors(found: &BTreeMap<String, Tensor>, expected: &BTreeMap<String, Tensor>) {
    assert!(found.keys().eq(expected.keys()), "{:?}, expected {:?}", found.keys(), expected.keys());
    for (name, tensor) in expected {
        assert!(found[name].equal(tensor), "{name}");
    }
}

#[test]
fn checkpoints_come_back_as_they_were_written() {
    for (name, count) in [("student_gated_untied", 60), ("student_relu_tied", 55)] {
        let loaded = read_student(&values(name)).expect("student");
        let kept = TempDir::new().expect("folder");
        let folder = kept.path().join("copy");
        write_student(&folder, &loaded.config, &loaded.weights, &values(name)).expect("written");
        let again = read_student(&folder).expect("copy");
        assert_eq!(again.config, loaded.config);
        assert_eq!(again.weights.fingerprint(), loaded.weights.fingerprint());

        // Every weight once: neither copies of the embedding nor a head that is the embedding.
        let found = read_safetensors(&folder.join(WEIGHTS_FILE)).expect("weights");
        assert_eq!(found.len(), count);
        assert_same_tensors(&found, &read_safetensors(&values(name).join(WEIGHTS_FILE)).expect("weights"));
        assert!(folder.join("generation_config.json").is_file());
        assert_eq!(fs::read_dir(kept.path()).expect("folder").count(), 1, "nothing is left beside it");
    }
}

#[test]
fn what_a_folder_means_outlives_being_written() {
    // The copy of a folder with a wrong value has the right one.
    for name in PLAIN {
        let loaded = read_t5(&values(name)).expect("t5");
        let kept = TempDir::new().expect("folder");
        let folder = kept.path().join("copy");
        write_student(&folder, &loaded.config, &loaded.weights, &values(name)).expect("written");
        let again = read_t5(&folder).expect("copy");
        assert_eq!(again.config, loaded.config);
        assert_eq!(again.weights.fingerprint(), loaded.weights.fingerprint());
        let has_head = loaded.weights.find("lm_head.weight").is_some();
        let config = StudentConfig::read(&folder.join("config.json")).expect("config");
        assert_eq!(config.tie_word_embeddings, !has_head);
    }
}

/// A copy of a valid student, changed by `change`, and the message of its refusal.
pub(crate) fn refused(change: impl FnOnce(&Path)) -> String {
    let (_kept, folder) = copy_folder("student_gated_untied");
    change(&folder);
    let message = read_student(&folder).expect_err("broken").to_string();
    // A T5 may lack its fusion layers, but nothing else.
    assert_eq!(read_t5(&folder).expect_err("broken").to_string(), message);
    message
}

pub(crate) fn assert_contains(message: &str, lines: &[&str]) {
    for line in lines {
        assert!(message.contains(line), "expected `{line}` in:\n{message}");
    }
}

fn change_weights(folder: &Path, change: impl FnOnce(&mut Weights)) {
    let file = folder.join(WEIGHTS_FILE);
    let mut weights = Weights::new(read_safetensors(&file).expect("weights"));
    change(&mut weights);
    let tensors = weights.iter().map(|(name, tensor)| (name.to_owned(), tensor));
    write_safetensors(&file, tensors, &[]).expect("written");
}

fn change_config(folder: &Path, from: &str, to: &str) {
    let file = folder.join("config.json");
    let text = fs::read_to_string(&file).expect("config");
    assert!(text.contains(from), "{text}");
    fs::write(&file, text.replace(from, to)).expect("written");
}

#[test]
fn everything_wrong_with_the_weights_is_listed_at_once() {
    let message = refused(|folder| {
        change_weights(folder, |weights| {
            weights.remove("decoder.block.1.layer.2.DenseReluDense.wi_1.weight");
            weights.remove("encoder.gate_dense.bias");
            let short = weights.get("encoder.final_layer_norm.weight").narrow(0, 0, 31);
            weights.insert("encoder.final_layer_norm.weight", short);
            let other = weights.get("shared.weight") + 1.0;
            weights.insert("decoder.embed_tokens.weight", other);
            let layer_norm = weights.get("decoder.final_layer_norm.weight");
            weights.insert("decoder.block.2.layer.0.layer_norm.weight", layer_norm);
        });
    });
    assert_contains(
        &message,
        &[
            "model.safetensors: weights do not fit the student:",
            "decoder.block.1.layer.2.DenseReluDense.wi_1.weight: expected shape [48, 32], found no such weight",
            "encoder.gate_dense.bias: expected shape [32], found no such weight",
            "encoder.final_layer_norm.weight: expected shape [32], found [31]",
            "decoder.embed_tokens.weight: expected a copy of shared.weight, found other numbers",
            "decoder.block.2.layer.0.layer_norm.weight: expected no such weight, found shape [32]",
        ],
    );
    assert_eq!(message.lines().count(), 6, "{message}");
}

#[test]
fn numbers_that_no_student_can_have_are_listed() {
    let message = refused(|folder| {
        change_weights(folder, |weights| {
            let bias = weights.get("encoder.gate_dense.bias");
            weights.insert("encoder.gate_dense.bias", bias * f64::NAN);
        });
        // One tensor of whole numbers, written by hand: the project itself writes only floats.
        let file = folder.join(WEIGHTS_FILE);
        let bytes = fs::read(&file).expect("weights");
        let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
        let header = String::from_utf8(bytes[8..8 + length].to_vec()).expect("header");
        let mut header: serde_json::Value = serde_json::from_str(&header).expect("json");
        let norm = &mut header["encoder.final_layer_norm.weight"];
        norm["dtype"] = "I64".into();
        norm["shape"] = serde_json::json!([16]);
        let header = header.to_string();
        let written =
            [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes[8 + length..]].concat();
        fs::write(&file, written).expect("written");
    });
    assert_contains(
        &message,
        &[
            "encoder.gate_dense.bias: expected finite numbers, found NaN or infinity",
            "encoder.final_layer_norm.weight: expected floating-point numbers, found Int64",
            "encoder.final_layer_norm.weight: expected shape [32], found [16]",
        ],
    );
}

#[test]
fn copies_of_the_embedding_are_dropped() {
    let (_kept, folder) = copy_folder("student_gated_untied");
    let before = read_student(&folder).expect("student").weights.fingerprint();
    change_weights(&folder, |weights| {
        weights.insert("encoder.embed_tokens.weight", weights.get("shared.weight"));
        weights.insert("decoder.embed_tokens.weight", weights.get("shared.weight"));
    });
    assert_eq!(read_student(&folder).expect("student").weights.fingerprint(), before);
}

#[test]
fn a_config_of_another_shape_is_refused() {
    let message = refused(|folder| change_config(folder, "\"num_heads\": 2", "\"num_heads\": 3"));
    assert_contains(
        &message,
        &[
            "encoder.block.0.layer.0.SelfAttention.q.weight: expected shape [24, 32], found [16, 32]",
            "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight: expected shape [8, 3], \
             found [8, 2]",
        ],
    );
    let message = refused(|folder| change_config(folder, "\"gated-gelu\"", "\"gated-silu\""));
    assert_contains(&message, &["feed_forward_proj: expected `relu` or `gated-gelu`, found `gated-silu`"]);
    let message = refused(|folder| change_config(folder, "\"d_ff\": 48", "\"d_ff\": -48"));
    assert_contains(&message, &["d_ff: expected a number from 1 to 1048576, found -48"]);
    let message = refused(|folder| change_config(folder, "\"eos_token_id\": 1", "\"eos_token_id\": 128"));
    assert_contains(&message, &["eos_token_id: expected a token below 128, found 128"]);
    let message = refused(|folder| change_config(folder, "\"eos_token_id\": 1", "\"eos_token_id\": [1, 2]"));
    assert_contains(&message, &["eos_token_id: expected a single end-of-sequence token, found [1, 2]"]);
    let message = refused(|folder| change_config(folder, "\"d_ff\": 48", "\"d_ff\": null"));
    assert_contains(&message, &["d_ff: invalid type: null"]);
    for (given, expected) in [
        ("\"dropout_rate\": 1.0", "dropout_rate: expected at least 0 and below 1, found 1"),
        ("\"dropout_rate\": -0.1", "dropout_rate: expected at least 0 and below 1, found -0.1"),
        ("\"layer_norm_epsilon\": 0", "layer_norm_epsilon: expected a number above 0, at most 0.1, found 0"),
        (
            "\"layer_norm_epsilon\": 1.5",
            "layer_norm_epsilon: expected a number above 0, at most 0.1, found 1.5",
        ),
        (
            "\"relative_attention_num_buckets\": 3",
            "relative_attention_num_buckets: expected a number from 4 to 65536, found 3",
        ),
        (
            "\"relative_attention_max_distance\": 4",
            "relative_attention_max_distance: expected more than 4, half of the buckets, found 4",
        ),
    ] {
        let message = refused(|folder| {
            let file = folder.join("config.json");
            let text = fs::read_to_string(&file).expect("config");
            let mut json: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(&text).expect("json");
            let given = serde_json::from_str::<serde_json::Map<_, _>>(&format!("{{{given}}}")).expect("json");
            json.extend(given);
            fs::write(&file, serde_json::Value::Object(json).to_string()).expect("written");
        });
        assert!(message.ends_with(&format!("config.json: {expected}")), "{message}");
    }
    let message = refused(|folder| change_config(folder, "\"t5\"", "\"bart\""));
    assert_contains(&message, &["config.json: model_type: expected `t5`, found `bart`"]);
    let message = refused(|folder| change_config(folder, "\"d_model\": 32,", ""));
    assert_contains(&message, &["config.json: missing field `d_model`"]);
    let message = refused(|folder| fs::remove_file(folder.join("config.json")).expect("removed"));
    assert_contains(&message, &["cannot read", "config.json"]);
}

/// A tokenizer of these special tokens and `words` others.
pub(crate) fn tokenizer(folder: &Path, special: &[&str], words: usize) {
    let others = (0..words).map(|word| format!("word{word}"));
    let names: Vec<String> = special.iter().map(|&name| name.to_owned()).chain(others).collect();
    let vocabulary: serde_json::Map<String, serde_json::Value> =
        names.iter().enumerate().map(|(id, name)| (name.clone(), id.into())).collect();
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    });
    fs::write(folder.join("tokenizer.json"), json.to_string()).expect("written");
}

#[test]
fn only_the_students_own_tokenizer_is_taken() {
    let (_kept, folder) = copy_folder("student_gated_untied");
    let config = read_student(&folder).expect("student").config;
    let refused = || Tokenizer::read(&folder, &config).expect_err("another tokenizer").to_string();
    assert_contains(&refused(), &["tokenizer.json: expected the student's tokenizer, found no such file"]);

    fs::write(folder.join("tokenizer.json"), "{}").expect("written");
    assert_contains(&refused(), &["tokenizer.json: "]);

    tokenizer(&folder, &["<pad>", "</s>", "<unk>"], 126);
    assert_contains(&refused(), &["expected 1 to 128 tokens, for the checkpoint's 128 rows, found 129"]);

    let large = StudentConfig { vocab_size: 32_128, ..config.clone() };
    tokenizer(&folder, &["<pad>", "</s>", "<unk>"], 125);
    let message = Tokenizer::read(&folder, &large).expect_err("another tokenizer").to_string();
    assert_contains(
        &message,
        &["expected 31105 to 32128 tokens, for the checkpoint's 32128 rows, found 128"],
    );

    tokenizer(&folder, &["</s>", "<pad>", "<unk>"], 125);
    assert_contains(&refused(), &["token <pad>: expected id 0, found 1"]);

    tokenizer(&folder, &["<pad>", "<unk>", "</s>"], 125);
    assert_contains(&refused(), &["token </s>: expected id 1, found 2"]);

    tokenizer(&folder, &["<pad>", "<eos>", "<unk>"], 125);
    assert_contains(&refused(), &["token </s>: expected id 1, found none"]);

    tokenizer(&folder, &["<pad>", "</s>", "<unk>"], 125);
    let read = Tokenizer::read(&folder, &config).expect("the student's own");
    // A text longer than the limit is truncated at its end, and still ends with eos.
    assert_eq!(read.encode("word0 word1 word2", 4).expect("tokens"), [3, 4, 5, 1]);
    assert_eq!(read.encode("word0 word1 word2", 3).expect("tokens"), [3, 4, 1]);
}

#[test]
fn what_a_tokenizer_file_tells_of_padding_and_truncation_is_left_out() {
    // As checkpoints of MM-CoT and ARES carry it, which transformers was called with.
    let original = crate::small::tokenizer_folder();
    let kept = TempDir::new().expect("folder");
    let text = fs::read_to_string(original.join("tokenizer.json")).expect("tokenizer");
    let mut json: serde_json::Value = serde_json::from_str(&text).expect("json");
    json["padding"] = serde_json::json!({
        "strategy": {"Fixed": 20}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "<pad>"
    });
    json["truncation"] =
        serde_json::json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
    fs::write(kept.path().join("tokenizer.json"), json.to_string()).expect("written");
    let tokens = Tokenizer::vocabulary_size(&original).expect("tokenizer");
    let config = StudentConfig::named("tiny", tokens, 16).expect("shape");
    let encode = |folder: &Path, text: &str| {
        Tokenizer::read(folder, &config).expect("tokenizer").encode(text, 512).expect("tokens")
    };
    for text in ["Red.", "The box holds four red marbles and three blue marbles."] {
        let expected = encode(&original, text);
        assert!(expected.iter().all(|&id| id != config.pad_token_id));
        assert_eq!(encode(kept.path(), text), expected);
    }
}

#[test]
fn an_end_in_a_list_is_read() {
    let (_kept, folder) = copy_folder("student_gated_untied");
    let before = read_student(&folder).expect("student").config;
    change_config(&folder, "\"eos_token_id\": 1", "\"eos_token_id\": [1]");
    assert_eq!(read_student(&folder).expect("student").config, before);
}

/// As converted tokenizers of other models have it; transformers puts the token there too.
#[test]
fn what_a_template_puts_before_a_text_is_there() {
    let (_kept, folder) = copy_folder("student_gated_untied");
    let config = read_student(&folder).expect("student").config;
    tokenizer(&folder, &["<pad>", "</s>", "<unk>", "<s>"], 124);
    let file = folder.join("tokenizer.json");
    let with = |single: serde_json::Value| {
        let text = fs::read_to_string(&file).expect("tokenizer");
        let mut json: serde_json::Value = serde_json::from_str(&text).expect("json");
        let special =
            |token: &str, id: u32| serde_json::json!({ "id": token, "ids": [id], "tokens": [token] });
        json["post_processor"] = serde_json::json!({
            "type": "TemplateProcessing",
            "single": single,
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 0 } }],
            "special_tokens": { "<s>": special("<s>", 3), "</s>": special("</s>", 1) },
        });
        fs::write(&file, json.to_string()).expect("written");
        Tokenizer::read(&folder, &config)
    };
    let token = |token: &str| serde_json::json!({ "SpecialToken": { "id": token, "type_id": 0 } });
    let text = serde_json::json!({ "Sequence": { "id": "A", "type_id": 0 } });
    let encode = |tokenizer: &Tokenizer, limit| tokenizer.encode("word5 word6 word7", limit).expect("tokens");
    let plain = encode(&with(serde_json::json!([text, token("</s>")])).expect("as T5's"), 9);
    assert_eq!((plain.len(), plain[3]), (4, 1));
    let bare = encode(&with(serde_json::json!([text])).expect("eos is added"), 9);
    assert_eq!(bare, plain);
    let begun =
        with(serde_json::json!([token("<s>"), text, token("</s>")])).expect("a token before the text");
    assert_eq!(encode(&begun, 9), [&[3][..], &plain].concat());
    assert_eq!(encode(&begun, 4), [3, plain[0], plain[1], 1], "within the limit");
    let other =
        with(serde_json::json!([text, token("</s>"), token("<s>")])).expect_err("another end").to_string();
    assert!(
        other.contains("post_processor: expected nothing but </s> after a text, found </s> <s>"),
        "{other}"
    );
}

#[test]
fn numbers_that_t5_never_uses_are_left_out() {
    let (_kept, folder) = copy_folder("t5_relu_tied");
    let file = folder.join(WEIGHTS_FILE);
    let mut tensors = read_safetensors(&file).expect("weights");
    let before = read_t5(&folder).expect("t5").weights.fingerprint();
    let name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";
    tensors.insert(name.into(), Tensor::zeros([32, 4], (Kind::Float, tch::Device::Cpu)));
    write_safetensors(&file, tensors.iter().map(|(name, tensor)| (name.clone(), tensor)), &[])
        .expect("written");
    assert_eq!(read_t5(&folder).expect("t5").weights.fingerprint(), before);
}

#[test]
fn a_folder_with_sentencepiece_alone_is_told_how_to_convert() {
    let (_kept, folder) = copy_folder("student_relu_tied");
    let config = StudentConfig::read(&folder.join("config.json")).expect("config");
    let _ = fs::remove_file(folder.join("tokenizer.json"));
    fs::write(folder.join("spiece.model"), b"pieces").expect("written");
    let message = Tokenizer::read(&folder, &config).expect_err("no tokenizer").to_string();
    assert!(message.contains("convert spiece.model once with: python -c"), "{message}");
}
