//! An example of adding a student. A bag-of-words encoder, and a decoder of one layer that sees the bag and the token before.
//! All stages run with it unchanged.

use crate::small::{Place, tokenizer_folder};
use clap::Parser;
use schemas::Answer;
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use tch::{Device, Kind, Tensor};
use trainer::checkpoint::weight_files::parse_json;
use trainer::error::Result;
use trainer::model::config::{Family, ModelConfig, Shapes, SpecialTokens};
use trainer::model::family::register;
use trainer::model::footprint::{Decoding, Pass};
use trainer::model::network::{DecoderCache, Model};
use trainer::model::source::Source;
use trainer::nn::layers::Linear;
use trainer::nn::mode::Mode;
use trainer::nn::weights::Weights;

const TOY: Family = Family { model_type: "toy", read, named };

#[derive(Debug, Clone, Serialize, Deserialize)]
struct ToyConfig {
    model_type: String,
    vocabulary: i64,
    width: i64,
    image_width: i64,
}

fn read(path: &Path, text: &str) -> Result<Box<dyn ModelConfig>> {
    Ok(Box::new(parse_json::<ToyConfig>(path, text)?))
}

fn named(shape: &str, vocabulary: i64, image_width: i64) -> Option<Box<dyn ModelConfig>> {
    let config = ToyConfig { model_type: "toy".into(), vocabulary, width: 24, image_width };
    (shape == "toy").then(|| Box::new(config) as Box<dyn ModelConfig>)
}

impl ModelConfig for ToyConfig {
    fn to_shared(&self) -> Rc<dyn ModelConfig> {
        Rc::new(self.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn special_tokens(&self) -> SpecialTokens {
        SpecialTokens { pad: 0, eos: 1, start: 0 }
    }

    fn vocabulary(&self) -> i64 {
        self.vocabulary
    }

    fn width(&self) -> i64 {
        self.width
    }

    fn image_width(&self) -> i64 {
        self.image_width
    }

    fn shapes(&self) -> Shapes {
        let (d, rows) = (self.width, self.vocabulary);
        let shapes = [
            ("embedding.weight", vec![rows, d]),
            ("head.weight", vec![rows, d]),
            ("picture.weight", vec![d, self.image_width]),
            ("step.bias", vec![d]),
            ("step.weight", vec![d, 2 * d]),
        ];
        shapes.map(|(name, shape)| (name.to_owned(), shape)).to_vec()
    }

    fn initial(&self, _name: &str, shape: &[i64]) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 0.3
    }

    fn linear_layers(&self) -> Vec<&'static str> {
        vec!["head", "picture", "step"]
    }

    fn is_product(&self, layer: &str) -> bool {
        layer != "embedding"
    }

    fn build(&self, weights: &Weights) -> Box<dyn Model> {
        Box::new(Toy {
            embedding: weights.get("embedding.weight"),
            picture: Linear::new(weights, "picture"),
            step: Linear::new(weights, "step"),
            head: Linear::new(weights, "head"),
        })
    }

    fn see_pictures(&mut self, image_width: i64) {
        self.image_width = image_width;
    }

    fn dropout(&self) -> f64 {
        0.0
    }

    fn set_dropout(&mut self, _dropout: f64) {}

    fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    fn describe(&self) -> String {
        format!("bag of words, width {}", self.width)
    }

    fn head_layer(&self) -> Option<&'static str> {
        Some("head")
    }

    fn kept_by_pass(&self, pass: &Pass) -> f64 {
        4.0 * pass.rows * pass.target * self.width as f64 * 4.0
    }

    fn scores_of_layer(&self, _pass: &Pass) -> f64 {
        0.0
    }

    fn cache(&self, decoding: &Decoding) -> f64 {
        4.0 * decoding.rows * self.width as f64
    }

    fn running(&self) -> f64 {
        4.0 * self.width as f64
    }
}

#[derive(Debug)]
struct Toy {
    embedding: Tensor,
    picture: Linear,
    step: Linear,
    head: Linear,
}

impl Toy {
    fn embed(&self, ids: &Tensor) -> Tensor {
        Tensor::embedding(&self.embedding, ids, -1, false, false)
    }

    /// States [.., d] of the token before [.., d] and the bag [.., d].
    fn state(&self, before: &Tensor, bag: &Tensor, mode: Mode) -> Tensor {
        let both = Tensor::cat(&[before, &bag.expand_as(before)], -1);
        self.step.forward(&both, mode).to_kind(Kind::Float).tanh()
    }
}

impl Model for Toy {
    fn encode(&self, source: &Source, mode: Mode) -> Tensor {
        let mask = source.mask.unsqueeze(-1);
        let count = mask.sum_dim_intlist(1, true, Kind::Float);
        let words = (self.embed(&source.ids) * &mask).sum_dim_intlist(1, true, Kind::Float) / count;
        let picture = source.image.mean_dim(1, true, Kind::Float);
        let bag = words + self.picture.forward(&picture, mode).to_kind(Kind::Float);
        bag.expand([-1, source.ids.size()[1], -1], false)
    }

    fn decode(
        &self,
        ids: &Tensor,
        encoded: &Tensor,
        _mask: &Tensor,
        source_of: Option<&[usize]>,
        mode: Mode,
    ) -> Tensor {
        let bag = encoded.narrow(1, 0, 1);
        let bag = source_of.map_or(bag.shallow_clone(), |rows| {
            let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
            bag.index_select(0, &Tensor::from_slice(&rows).to_device(bag.device()))
        });
        self.state(&self.embed(ids), &bag, mode)
    }

    fn logits(&self, hidden: &Tensor, mode: Mode) -> Tensor {
        self.head.forward(hidden, mode).to_kind(Kind::Float)
    }

    fn start<'a>(
        &'a self,
        encoded: &Tensor,
        _mask: &Tensor,
        samples: i64,
        mode: Mode,
    ) -> Box<dyn DecoderCache + 'a> {
        let bag = encoded.select(1, 0).repeat_interleave_self_int(samples, 0, None);
        Box::new(Bags { toy: self, bag, mode })
    }
}

struct Bags<'a> {
    toy: &'a Toy,
    bag: Tensor,
    mode: Mode,
}

impl DecoderCache for Bags<'_> {
    fn step(&mut self, ids: &Tensor) -> Tensor {
        self.toy.state(&self.toy.embed(ids), &self.bag, self.mode)
    }

    fn select_rows(&mut self, rows: &Tensor) {
        self.bag = self.bag.index_select(0, rows);
    }
}

/// Whole commands run in a separate process, since they set libtorch's threads and seeds for all tests of a process.
#[test]
fn a_round_runs_with_another_kind_of_student() {
    let mut command = Command::new(std::env::current_exe().expect("tests"));
    command.args(["--exact", "toy::in_a_process", "--ignored", "--nocapture"]);
    let output = command.output().expect("tests");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// `train` with these arguments on a place, in this process.
fn train(place: &Place, arguments: &[&str]) {
    let data = place.path().join("data").display().to_string();
    let config = place.path().join("ares.toml").display().to_string();
    let common = ["--data", data.as_str(), "--config", config.as_str()];
    let cli = trainer::cli::Cli::parse_from([&["train"], arguments, &common].concat());
    trainer::run(cli).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
}

#[test]
#[ignore = "started by the test above, in a process of its own"]
fn in_a_process() {
    register(TOY);
    let place = Place::new(40);
    let folder = |name: &str| place.checkpoint(name).display().to_string();
    std::fs::remove_dir_all(place.checkpoint("base")).expect("the T5 makes room");
    let (init, base) = (folder("init"), folder("base"));
    let tokenizer = tokenizer_folder().display().to_string();
    let shape = ["--shape", "toy", "--image-feature-width", "16"];
    train(&place, &[&["init", "--tokenizer", &tokenizer, "--out", &init], &shape[..]].concat());
    train(&place, &["pretrain", "--from", &init, "--out", &base, "--sft-learning-rate", "1e-2"]);
    train(&place, &["--round", "1", "--stage", "rollout"]);
    place.write_scores(&place.dataset().read(1).expect("rollouts"), |_| {});
    for flags in [&["--baseline", "model"][..], &["--student-lora-rank", "4"], &["--algorithm", "dpo"]] {
        let copy = place.copy();
        train(&copy, &[&["--round", "1", "--stage", "rl"], flags].concat());
        assert!(copy.numbers("rl", "loss").len() > 1, "{flags:?}");
    }
    train(&place, &["--round", "1", "--stage", "rl"]);
    place.write_corrections(|_| {});
    train(&place, &["--round", "1", "--sft-learning-rate", "1e-2", "--sft-epochs", "20"]);
    let losses = place.numbers("sft", "loss");
    assert!(losses.last() < losses.first().map(|loss| loss * 0.7).as_ref(), "{losses:?}");
    let answers: Vec<Answer> = place.dataset().read(1).expect("answers");
    assert!(answers.iter().any(|answer| answer.stage == "sft"));
    train(&place, &["info", &folder("round-1/sft")]);
}
