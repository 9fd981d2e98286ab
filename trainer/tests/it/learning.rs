//! Each objective reaches the known best policy of some tasks, from a random student.

use schemas::Settings;
use schemas::settings::{Algorithm, BaselineKind, RateSchedule, RlSettings};
use std::time::Duration;
use tch::{Device, Kind};
use trainer::data::batch;
use trainer::data::vision::ImageFeatures;
use trainer::model::Student;
use trainer::model::mm_t5::StudentConfig;
use trainer::model::random_weights;
use trainer::nn::weights::Weights;
use trainer::objective::dpo::{Dpo, pairs_of_scores};
use trainer::objective::experience::Experience;
use trainer::objective::passes;
use trainer::objective::plan::Plan;
use trainer::objective::policy_gradient::{PolicyGradient, Prepared};
use trainer::objective::ppo::Learner;
use trainer::objective::reward::token_rewards;
use trainer::objective::{Objective, ScoredRollout};
use trainer::rollout::distribution::Distribution;
use trainer::rollout::{Generator, Sampling};
use trainer::seed;
use trainer::train::metrics::MetricLog;
use trainer::train::resume::StepCheckpoint;

/// Samples of each problem in an iteration.
const SAMPLES: usize = 32;

/// A task: problems by their sources, and the correct tokens, one per sentence.
pub(crate) struct Task {
    /// Correct tokens of each problem.
    pub(crate) right: &'static [&'static [i64]],
}

/// One problem and one token: two arms, and four worthless tokens.
pub(crate) const BANDIT: Task = Task { right: &[&[4]] };

/// Two problems of three sentences, each a token. The third counts only after the right second.
const SENTENCES: Task = Task { right: &[&[4, 6, 3], &[7, 2, 5]] };

impl Task {
    fn source(problem: usize) -> Vec<i64> {
        vec![2 + problem as i64, 3, 1]
    }

    /// Scores of the sentences; the second arm of the bandit is worth 0.6.
    fn scores(&self, problem: usize, tokens: &[i64]) -> Vec<f32> {
        let right = self.right[problem];
        let is_right = |place: usize| tokens.get(place) == right.get(place);
        let score = |(place, token): (usize, &i64)| match place {
            2 if !is_right(1) => 0.0,
            _ if is_right(place) => 1.0,
            0 if right.len() == 1 && *token == 5 => 0.6,
            _ => 0.0,
        };
        tokens.iter().enumerate().map(score).collect()
    }
}

/// A random student for tokens below 8.
fn student() -> (StudentConfig, Weights) {
    tch::set_num_threads(1); // small matrices are finished before a second thread has woken up
    let config = StudentConfig {
        d_model: 32,
        d_kv: 8,
        d_ff: 48,
        num_layers: 1,
        num_decoder_layers: Some(1),
        num_heads: 2,
        ..StudentConfig::named("tiny", 8, 4).expect("shape")
    };
    let weights = random_weights(&config, 6);
    weights.train_only(|_| true);
    (config, weights)
}

pub(crate) struct Run<'a> {
    task: &'a Task,
    settings: RlSettings,
    distribution: Distribution,
    pub(crate) features: ImageFeatures,
    pub(crate) config: StudentConfig,
    pub(crate) weights: Weights,
}

impl<'a> Run<'a> {
    pub(crate) fn new(task: &'a Task, settings: RlSettings, distribution: Distribution) -> Self {
        let (config, weights) = student();
        Self { task, settings, distribution, features: ImageFeatures::none(4), config, weights }
    }

    /// Texts of each problem.
    fn said(
        &self,
        sampling: Sampling,
        samples: usize,
        iteration: usize,
    ) -> Vec<Vec<trainer::rollout::Generated>> {
        let policy = Student::new(&self.weights, &self.config);
        let generator = Generator::new(&policy, &self.weights, Kind::Float).expect("generator");
        let of_problem = |problem: usize| {
            let ids = Task::source(problem);
            let source = batch::source(&[(ids.as_slice(), "")], &self.features, 0, Device::Cpu);
            let seed = |sample| seed::derive(1, "toy", &format!("{iteration}/{problem}/{sample}"));
            let seeds: Vec<u64> = (0..samples).map(seed).collect();
            generator.generate(&source, sampling, &seeds, self.task.right[problem].len() as u32)
        };
        (0..self.task.right.len()).map(of_problem).collect()
    }

    fn sampling(&self) -> Sampling {
        let Distribution { temperature, top_k, top_p } = self.distribution;
        Sampling::Random { top_k, top_p, temperature }
    }

    pub(crate) fn sampled(&self, iteration: usize) -> Vec<Experience> {
        let said = self.said(self.sampling(), SAMPLES, iteration);
        let mut all = Vec::new();
        for (problem, texts) in said.into_iter().enumerate() {
            for text in texts {
                let scores = self.task.scores(problem, &text.tokens);
                let ends: Vec<(u32, f32)> = (0..).zip(scores).collect();
                // An untrained student earns less than 0.5 per sentence, and would learn to write nothing.
                let rewards = token_rewards(&text.logprobs, &text.logprobs, &ends, 0.0, 0.0);
                all.push(Experience {
                    problem_id: problem.to_string(),
                    source: Task::source(problem),
                    tokens: text.tokens,
                    ref_logprobs: text.logprobs.clone(),
                    logprobs: text.logprobs,
                    values: Vec::new(),
                    mean_score: ends.iter().map(|(_, score)| f64::from(*score)).sum::<f64>()
                        / ends.len() as f64,
                    ends,
                    undecided: Vec::new(),
                    rewards: rewards.expect("valid"),
                });
            }
        }
        all
    }

    /// Mean score over the possible sentences of a problem.
    pub(crate) fn mean_score(&self, iteration: usize) -> f64 {
        let experience = self.sampled(iteration);
        let sum: f64 = experience.iter().flat_map(|row| &row.ends).map(|(_, score)| f64::from(*score)).sum();
        sum / (experience.len() * self.task.right[0].len()) as f64
    }

    fn greedy(&self) -> Vec<Vec<i64>> {
        self.said(Sampling::Greedy, 1, 0).into_iter().map(|mut texts| texts.remove(0).tokens).collect()
    }

    /// One round: samples, and passes over them.
    fn learn(&self, iteration: usize) {
        let experience = self.sampled(iteration);
        let policy = Student::new(&self.weights, &self.config);
        let plan = Plan {
            settings: &self.settings,
            seed: seed::of_round(1, iteration as u32, "toy"),
            kind: Kind::Float,
            max_tokens_per_batch: None,
        };
        if self.settings.algorithm == Algorithm::Dpo {
            let pairs = pairs_of_scores(&experience, 0.1);
            if !pairs.is_empty() {
                self.passes(Dpo {
                    policy: &policy,
                    weights: &self.weights,
                    features: &self.features,
                    plan,
                    together: 64,
                    group: trainer::collective::Group::alone(),
                    pairs,
                });
            }
            return;
        }
        let differ = experience.iter().any(|row| row.rewards != experience[0].rewards);
        if !differ {
            return; // nothing is left to learn
        }
        let learner = Learner {
            policy: &policy,
            policy_weights: &self.weights,
            value: None,
            distribution: self.distribution,
        };
        self.passes(PolicyGradient {
            experience: &experience,
            learner,
            features: &self.features,
            plan,
            kl_coefficient: 0.0,
            together: 64,
            learned_values: &|_| unreachable!("no value model is asked for"),
            group: trainer::collective::Group::alone(),
            prepared: Prepared::default(),
        });
    }

    pub(crate) fn passes<O: Objective>(&self, mut objective: O) {
        let folder = tempfile::tempdir().expect("folder");
        let mut saved = StepCheckpoint::new(&folder.path().join("rl"), "toy".into(), Duration::MAX);
        let mut log = MetricLog::new(1, "rl");
        let plan = Plan { settings: &self.settings, seed: 1, kind: Kind::Float, max_tokens_per_batch: None };
        objective.prepare().expect("prepared");
        passes::train(&objective, &plan, &mut saved, &mut log).expect("trained");
    }
}

pub(crate) fn settings(algorithm: Algorithm) -> RlSettings {
    RlSettings {
        algorithm,
        passes: 4,
        minibatch: 64,
        accumulation: 1,
        learning_rate: 1e-3,
        schedule: RateSchedule::Constant,
        max_kl: None,
        dpo_beta: 0.5,
        ..Settings::default().rl
    }
}

fn reaches_the_optimum(task: &Task, settings: RlSettings, distribution: Distribution, rounds: usize) {
    let run = Run::new(task, settings, distribution);
    let name = format!("{} {}", run.settings.algorithm, run.settings.baseline);
    let before = run.mean_score(1000);
    assert!(before < 0.5, "{name}: a random student knows nothing: {before}");
    (0..rounds).for_each(|round| run.learn(round));
    let after = run.mean_score(1001);
    assert!(after > 0.9, "{name}: {before} → {after}");
    let right: Vec<Vec<i64>> = task.right.iter().map(|tokens| tokens.to_vec()).collect();
    assert_eq!(run.greedy(), right, "{name}");
}

#[test]
fn the_better_arm_of_a_bandit_is_found() {
    for algorithm in [Algorithm::Ppo, Algorithm::Grpo, Algorithm::Dpo] {
        reaches_the_optimum(&BANDIT, settings(algorithm), Distribution::FULL, 25);
    }
}

#[test]
fn three_sentences_are_learned() {
    for algorithm in [Algorithm::Ppo, Algorithm::Grpo, Algorithm::Dpo] {
        reaches_the_optimum(&SENTENCES, settings(algorithm), Distribution::FULL, 40);
    }
}

/// Sampled at another temperature, or with top-p: ratios of that distribution lead to the same optimum.
#[test]
fn a_tempered_policy_learns_too() {
    let tempered = Distribution { temperature: 1.5, top_k: 0, top_p: 1.0 };
    reaches_the_optimum(&SENTENCES, settings(Algorithm::Ppo), tempered, 40);
    // Tokens excluded by top-p are never sampled again, so a longer task may converge elsewhere.
    let nucleus = Distribution { temperature: 1.5, top_k: 6, top_p: 0.95 };
    reaches_the_optimum(&BANDIT, settings(Algorithm::Ppo), nucleus, 25);
}

/// With a KL bound, each round stays within it, and training still converges.
#[test]
fn a_bounded_policy_stays_within_its_bound() {
    let bound = 0.05;
    let settings = RlSettings { max_kl: Some(bound), minibatch: 64, passes: 6, ..settings(Algorithm::Ppo) };
    let run = Run::new(&SENTENCES, settings, Distribution::FULL);
    for round in 0..3 {
        let experience = run.sampled(round);
        run.learn(round);
        let policy = Student::new(&run.weights, &run.config);
        let learner = Learner {
            policy: &policy,
            policy_weights: &run.weights,
            value: None,
            distribution: Distribution::FULL,
        };
        let rows: Vec<ScoredRollout> = experience
            .iter()
            .map(|row| ScoredRollout {
                problem_id: row.problem_id.clone(),
                source: row.source.clone(),
                tokens: row.tokens.clone(),
                old_logprobs: row.logprobs.clone(),
                advantages: Vec::new(),
                returns: Vec::new(),
                values: Vec::new(),
            })
            .collect();
        let rows: Vec<&ScoredRollout> = rows.iter().collect();
        let kl = trainer::objective::ppo::drift(&learner, &rows, &run.features, 64, Kind::Float);
        let kl = kl.expect("fits");
        assert!(kl > 0.0 && kl <= bound * 1.0001, "round {round}: {kl}");
    }
    assert_eq!(run.settings.baseline, BaselineKind::LeaveOneOut);
}
