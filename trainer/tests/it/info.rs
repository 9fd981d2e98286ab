//! `train info`: its description of a student, and its memory figures against measured ones.

use crate::checkpoints::assert_contains;
use crate::small::{Place, error_lines};
use std::process::Command;
use tch::{Device, Kind};
use trainer::info::memory::{Batch, Memory, Model};
use trainer::model::lora::LoraConfig;
use trainer::model::mm_t5::StudentConfig;

fn said(place: &Place, arguments: &[&str]) -> String {
    let output = place.train(arguments).output().expect("train");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A line of the table: its numbers, in GB.
fn row(text: &str, stage: &str) -> Vec<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(stage)).expect("the stage");
    line.split_whitespace().map(|number| number.parse().expect("a number")).collect()
}

#[test]
fn a_student_is_described() {
    let place = Place::new(40).scored();
    let text = said(&place, &["info", "checkpoints/base"]);
    assert_contains(
        &text,
        &[
            "multimodal T5, gated-gelu: 1 encoder and 1 decoder blocks, width 32, 2 heads of 8, feed-forward 48",
            "F32 in the file",
            "all of them; no adapter",
            "image features of width 16",
            "made by      not recorded",
            "on the CPU, float32: all weights are trained; 64 source tokens a row",
        ],
    );
    let lora = ["--student-lora-rank", "4", "--lora-targets", "q,v"];
    said(&place, &[&["--round", "1", "--stage", "rl"], &lora[..]].concat());
    let adapted = said(&place, &[&["info", "checkpoints/round-1/rl"], &lora[..]].concat());
    // 3 attentions with queries and values of 16 on 32: (32 + 16) · 4 numbers each.
    assert_contains(
        &adapted,
        &[
            "LoRA adapter with 1,152 parameters, rank 4, alpha 32, on 6 layers (q, v) of ",
            "made by      round 1, rl",
            "an adapter of rank 4 is trained",
        ],
    );
    for stage in ["rollout, round 1 ", "rollout, later ", "rl ", "sft ", "answer ", "pretrain "] {
        let total = row(&text, stage);
        let (sum, all) = total.split_at(5);
        assert!((sum.iter().sum::<f64>() - all[0]).abs() < 0.03, "{stage}: {total:?}");
    }
    let lines = error_lines(&place.train(&["info", "data"]).output().expect("train")).join("\n");
    assert_contains(&lines, &["data: expected a student, found no config.json"]);
}

/// T5 small as of v1.0, with fusion layers: the bench's `small`.
fn small() -> StudentConfig {
    StudentConfig {
        d_model: 512,
        num_heads: 8,
        num_layers: 6,
        num_decoder_layers: Some(6),
        feed_forward_proj: "relu".into(),
        tie_word_embeddings: true,
        ..StudentConfig::named("base", 32_128, 1024).expect("shape")
    }
}

/// Peak resident memory of a step measured by `train bench`, in bytes.
fn measured(flags: &[&str]) -> f64 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_train"));
    command.args(["bench", "--json", "--shapes", "small", "--iterations", "1", "--threads", "1"]);
    command
        .args(["--dtype", "float32", "--device", "cpu", "--batch", "8", "--source", "96", "--target", "64"]);
    let output = command.args(flags).output().expect("train");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("json");
    json["peak_rss_mb"].as_f64().expect("a number") * 1e6
}

/// Within 15 % on the machine of docs/benchmarks.md; other C libraries leave other gaps.
#[test]
#[cfg(target_os = "linux")]
fn predicted_memory_is_what_is_measured() {
    let config = small();
    let batch = Batch { rows: 4.0, source: 96.0, target: 64.0 };
    let lora = LoraConfig::new(&config, 16, 32.0, 0.0);
    let adapter: i64 = lora.layers(&config).iter().map(|(_, inputs, outputs)| 16 * (inputs + outputs)).sum();
    let model = |adapter: Option<f64>| Model {
        config: &config,
        device: Device::Cpu,
        kind: Kind::Float,
        patches: 145.0,
        adapter,
    };
    let (whole, adapted) = (model(None), model(Some(adapter as f64)));
    let rank = ["--student-lora-rank", "16"];
    let ppo = ["--work", "ppo", "--rl-value-loss", "true"];
    let cases: [(Vec<&str>, Memory); 4] = [
        (vec!["--work", "sft"], whole.fine_tuning(batch)),
        ([&["--work", "sft"], &rank[..]].concat(), adapted.fine_tuning(batch)),
        (ppo.to_vec(), whole.reinforcement(batch, Some(true), false)),
        ([&ppo[..], &rank[..]].concat(), adapted.reinforcement(batch, Some(true), false)),
    ];
    for (flags, predicted) in cases {
        let measured = measured(&flags);
        let share = predicted.total() / measured;
        println!("{flags:?}: {:.0} MB predicted, {:.0} MB measured", predicted.total() / 1e6, measured / 1e6);
        assert!((0.8..1.2).contains(&share), "{flags:?}: {share:.2} of {measured:.0}");
    }
}
