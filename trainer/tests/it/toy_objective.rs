//! An example of adding an objective. Rationales better than the others of their problem are imitated, weighted by how much
//! better they were (reward-weighted regression, Peters & Schaal, 2007).

use crate::learning::{BANDIT, Run, settings};
use schemas::settings::Algorithm;
use std::collections::BTreeMap;
use tch::Kind;
use trainer::backend;
use trainer::data::batch::{self, Last, Padded, Portion, Row};
use trainer::data::vision::ImageFeatures;
use trainer::error::Result;
use trainer::model::Student;
use trainer::nn::mode::Mode;
use trainer::nn::weights::Weights;
use trainer::objective::Objective;
use trainer::objective::experience::Experience;
use trainer::objective::statistics::Statistics;
use trainer::rollout::distribution::Distribution;
use trainer::rollout::logprobs::backward_by_positions;

struct Imitation<'a> {
    policy: &'a Student,
    weights: &'a Weights,
    features: &'a ImageFeatures,
    experience: &'a [Experience],
    rows: Vec<Weighted>,
}

#[derive(Clone)]
struct Weighted {
    problem_id: String,
    source: Vec<i64>,
    tokens: Vec<i64>,
    weight: f64,
}

impl Row for Weighted {
    fn problem_id(&self) -> &str {
        &self.problem_id
    }

    fn source(&self) -> &[i64] {
        &self.source
    }

    fn target(&self) -> &[i64] {
        &self.tokens
    }
}

impl Objective for Imitation<'_> {
    type Row = Weighted;

    fn prepare(&mut self) -> Result<()> {
        let total = |row: &Experience| row.rewards.iter().map(|&reward| f64::from(reward)).sum::<f64>();
        let mut problems: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for row in self.experience {
            problems.entry(&row.problem_id).or_default().push(total(row));
        }
        let mean = |id: &str| problems[id].iter().sum::<f64>() / problems[id].len() as f64;
        let weighted = |row: &Experience| Weighted {
            problem_id: row.problem_id.clone(),
            source: row.source.clone(),
            tokens: row.tokens.clone(),
            weight: total(row) - mean(&row.problem_id),
        };
        self.rows = self.experience.iter().map(weighted).filter(|row| row.weight > 0.0).collect();
        Ok(())
    }

    fn rows(&self) -> &[Weighted] {
        &self.rows
    }

    fn sets(&self) -> Vec<(&'static str, &Weights)> {
        vec![("policy", self.weights)]
    }

    fn backward(&self, rows: &[&Weighted], portion: Portion<'_>, share: f64) -> Statistics {
        let device = self.policy.device();
        let mut statistics = Statistics::new(device).of_rows(&["loss"]);
        let parts =
            batch::parts(&batch::lengths(rows), portion, backend::of(device).part_tokens(Kind::Float));
        for part in parts {
            let chosen: Vec<&Weighted> = part.iter().map(|&row| rows[row]).collect();
            for row in chosen {
                let padded = Padded::new(&[row], self.features, self.policy);
                let states = padded.states(self.policy, Mode::EVAL);
                let scale = -row.weight * share / rows.len() as f64;
                let loss = backward_by_positions(
                    self.policy,
                    &states,
                    padded.tokens(),
                    (Mode::EVAL, Last::default()),
                    |logprobs, _, _| logprobs.sum(Kind::Float) * scale,
                    None,
                );
                statistics.add_numbers(&[loss.double_value(&[]) * rows.len() as f64 / share]);
            }
        }
        self.policy.flush_all_gradients();
        statistics
    }

    fn drift(&self, _: &[&Weighted]) -> Result<Option<f64>> {
        Ok(None)
    }
}

#[test]
fn another_objective_runs_through_the_same_passes() {
    let run = Run::new(&BANDIT, settings(Algorithm::Grpo), Distribution::FULL);
    let before = run.mean_score(1000);
    for round in 0..25 {
        let experience = run.sampled(round);
        let policy = Student::new(&run.weights, &run.config);
        let objective = Imitation {
            policy: &policy,
            weights: &run.weights,
            features: &run.features,
            experience: &experience,
            rows: Vec::new(),
        };
        run.passes(objective);
    }
    let after = run.mean_score(1001);
    assert!(before < 0.5 && after > 0.8, "{before} → {after}");
}
