//! All settings: one line each, with type, default and meaning.

use super::choice::SettingType;
use super::choice::{
    Algorithm, AnswerKeepBy, AnswerReward, BaselineKind, Combine, ContentForm, CorrectionFilter, Device,
    Disagreement, Dtype, GaeUnit, GrpoScale, ImageDetail, KeepBy, LogprobKind, PairSource, Preset,
    PromptFormat, Provider, RateSchedule, RationaleSource, ResponseFormat, RewardUnit, RlKeep, RoundStages,
    SystemRole, TokenLimitField, ValueInit, ValueTrunk, WhitenOver,
};
use super::kind::Kind;
use crate::share::Share;

/// One setting: its place in the file, its type and its meaning.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Section of `ares.toml`.
    pub section: &'static str,
    /// Key within the section.
    pub name: &'static str,
    /// Type of the value.
    pub kind: Kind,
    /// Meaning, unit included.
    pub meaning: &'static str,
}

impl Key {
    /// Name of the flag: the key with dashes, preceded by its section if several sections have the key.
    pub fn flag(&self) -> String {
        if (self.section, self.name) == ("teacher", "provider") {
            return "teacher".to_owned();
        }
        let shared = Settings::keys().iter().filter(|key| key.name == self.name).count() > 1;
        if shared { self.qualified_flag() } else { self.name.replace('_', "-") }
    }

    /// The flag preceded by its section; always accepted.
    pub fn qualified_flag(&self) -> String {
        format!("{}-{}", self.section, self.name).replace('_', "-")
    }

    /// A flag that this key had before another section got a key of its name; still accepted.
    pub fn former_flag(&self) -> Option<&'static str> {
        match (self.section, self.name) {
            ("answer", "lora_rank") => Some("lora-rank"),
            ("answer", "lora_alpha") => Some("lora-alpha"),
            _ => None,
        }
    }

    /// `section.key`.
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }
}

/// A Teacher that scores in addition to the main one.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FurtherTeacher {
    /// The Teacher, as in `[teacher]`.
    pub teacher: TeacherSettings,
    /// Its rate limits, as in `[limits]`.
    pub limits: LimitSettings,
}

macro_rules! settings {
    ($($(#[doc = $section_doc:literal])+ $section:ident : $struct:ident {
        $($key:ident : $ty:ty = $default:expr, $meaning:literal;)+
    })+) => {
        /// All settings, resolved.
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, Default)]
        #[serde(default, deny_unknown_fields)]
        pub struct Settings {
            $($(#[doc = $section_doc])+ pub $section: $struct,)+
            /// Teachers that score in addition to the main one, `[[teachers]]`.
            #[serde(skip_serializing_if = "Vec::is_empty")]
            pub teachers: Vec<FurtherTeacher>,
        }

        $(
            $(#[doc = $section_doc])+
            #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
            #[serde(default, deny_unknown_fields)]
            pub struct $struct { $(#[doc = $meaning] pub $key: $ty,)+ }

            impl Default for $struct {
                fn default() -> Self {
                    Self { $($key: $default,)+ }
                }
            }
        )+

        impl Settings {
            /// All keys, in the order of the file.
            pub fn keys() -> &'static [Key] {
                &[$($(Key {
                    section: stringify!($section),
                    name: stringify!($key),
                    kind: <$ty as SettingType>::KIND,
                    meaning: $meaning,
                }),+),+]
            }
        }
    };
}

settings! {
    /// The Teacher.
    teacher: TeacherSettings {
        provider: Provider = Provider::Reference, "Teacher to ask: anthropic, openai (or any compatible server), or reference (embedded, for trials).";
        model: String = String::new(), "Model to ask; empty uses the provider's default.";
        base_url: String = String::new(), "Base URL of the service; empty uses the provider's own.";
        api_key_env: String = String::new(), "Name of the environment variable with the API key; empty uses ANTHROPIC_API_KEY or OPENAI_API_KEY.";
        repeats: u32 = 1, "Times that each Teacher scores a sampled rationale; the first scoring uses teacher.temperature, the others temperature 1 if that is unset.";
        combine: Combine = Combine::Mean, "How several scores of a sentence are combined, of one Teacher or several: mean, median or trimmed_mean (without the lowest and highest quarter).";
        temperature: Option<f64> = None, "Sampling temperature; unset sends 0 if the model accepts a temperature.";
        effort: Option<String> = None, "Reasoning effort; unset sends the lowest level the model offers (none, else low), empty omits the field.";
        max_output_tokens: Option<u32> = None, "Maximum tokens of a reply, thinking included; unset means 1024, or 8192 for a reasoning model; instead of 1024, scores of several samples may take 2048, or 4096 with reasons.";
        response_format: ResponseFormat = ResponseFormat::Auto, "How JSON is requested: auto, json_schema, json_object or none.";
        token_limit_field: TokenLimitField = TokenLimitField::Auto, "Name of the field that limits a reply: auto, max_tokens or max_completion_tokens.";
        system_role: SystemRole = SystemRole::Auto, "Message that contains the instructions: auto, system or user.";
        content: ContentForm = ContentForm::Auto, "Form of user messages: auto, parts (a list) or text (for problems without a picture only).";
        image_detail: ImageDetail = ImageDetail::Auto, "Picture detail for OpenAI-like services: auto, low, high or original.";
        max_image_edge: u32 = 2048, "Maximum edge of a picture in pixels; larger ones are scaled down before they are sent.";
        models: String = String::new(), "TOML file with models and prices that override the built-in models.toml; empty uses the built-in ones.";
        timeout_secs: u64 = 600, "Timeout of a reply, in seconds.";
        reasons: bool = false, "Whether the Teacher gives a short reason with each score, for the column scores.reason and the report.";
        samples_per_request: u32 = 0, "Maximum samples of a problem in one request for scores; 0 means all of them, as far as their length allows, 1 one request per sample.";
        prompts: String = String::new(), "Folder with scores.md, corrections.md, judgements.md that replace the built-in system prompts; empty uses the built-in ones.";
    }
    /// Rate limits of the Teacher.
    limits: LimitSettings {
        requests_per_minute: Option<u64> = None, "Requests per minute; unset uses the limit in the provider's reply headers.";
        input_tokens_per_minute: Option<u64> = None, "Input tokens per minute.";
        output_tokens_per_minute: Option<u64> = None, "Output tokens per minute.";
        concurrency: u32 = 512, "Maximum requests in flight.";
    }
    /// The budget.
    budget: BudgetSettings {
        max_usd: Option<f64> = None, "Stop, with everything saved, before the dataset's total cost exceeds this many US dollars.";
        prices: String = String::new(), "TOML file with prices that replace the built-in ones; empty uses the built-in ones.";
    }
    /// The student and where it runs.
    student: StudentSettings {
        checkpoints: String = "checkpoints/<name>".to_owned(), "Folder of the checkpoints; `<name>` stands for the dataset's folder name.";
        device: Device = Device::Auto, "auto, cpu or cuda.";
        dtype: Dtype = Dtype::Auto, "auto (bfloat16 on a GPU that supports it, else float32), float32 or bfloat16. A CPU without bfloat16 instructions computes products in float32.";
        tf32: bool = false, "On an NVIDIA GPU, whether products in float32 round their inputs to TF32 (10 bits of mantissa), which is several times faster.";
        threads: u32 = 0, "CPU threads of a stage; 0 uses 1 for students below 10 million parameters, else all cores.";
        max_source_tokens: u32 = 512, "Source texts are truncated to this many tokens.";
        use_caption: bool = true, "Whether the picture's caption is part of the context.";
        vision: String = "vit".to_owned(), "Image features to use: the name of a file in the dataset's vision folder, or none.";
        decode_batch: u32 = 0, "Batch size of decoding; 0 uses 32 on a CPU, 256 on a GPU.";
        max_tokens_per_batch: Option<u64> = None, "Maximum source and target tokens, padding included, in one training pass; larger minibatches are split, with the same gradient. Unset splits only on a CPU, to reduce padding.";
        lora_rank: u32 = 0, "Rank of the LoRA adapter that pretraining, fine-tuning and RL train instead of all weights; 0 trains all weights.";
        lora_alpha: f64 = 32.0, "LoRA alpha of that adapter; the scale is alpha / rank.";
        lora_targets: String = "all-linear".to_owned(), "Layers with that adapter: all-linear, or names separated by commas, such as q,v (attention queries and values) or decoder.block.0.layer.0.SelfAttention.q (one layer).";
        tensorboard: String = String::new(), "Folder for TensorBoard event files, one run per round and stage; empty writes none.";
        save_every_secs: u64 = 60, "Seconds between step checkpoints inside a stage.";
        join_timeout_secs: u64 = 300, "With several ranks: seconds to wait for all of them to join.";
        shard_optimizer: bool = false, "With several ranks: whether each keeps only the optimizer state of its part of the weights, with the same results.";
        rank_timeout_secs: u64 = 1800, "With several ranks: seconds without an answer after which a rank counts as lost; must exceed the longest save or evaluation.";
    }
    /// A round as a whole.
    round: RoundSettings {
        preset: Preset = Preset::None, "Settings of all sections under one name: paper-base or paper-large; empty uses the defaults. The file and flags override it.";
        stages: RoundStages = RoundStages::All, "Stages of a round: all, or rl (sampling and RL without corrections; the next round starts from its policy).";
    }
    /// Sampling rationales.
    rollout: RolloutSettings {
        samples: u32 = 4, "Rationales sampled for each train problem.";
        problems_share: f64 = 1.0, "Approximate share of the train problems that a round samples; selected by rollout.seed, mostly different ones in each round. Raising it only adds problems. An equal sft.corrections_share selects the same problems.";
        top_k: u32 = 50, "Sample from this many most likely tokens; 0 means all.";
        top_p: f64 = 1.0, "Sample from the most likely tokens with this total probability.";
        temperature: f64 = 1.0, "Sampling temperature of the student.";
        max_new_tokens: u32 = 512, "Maximum tokens of a rationale.";
        sampling_dtype: Option<Dtype> = None, "Number format of the weights in decoding: float32 or bfloat16; unset or auto uses student.dtype.";
        seed: u64 = 42, "Seed of sampling, shuffling and dropout.";
    }
    /// Reinforcement learning on the scores.
    rl: RlSettings {
        algorithm: Algorithm = Algorithm::Ppo, "ppo (clipped policy gradient against a baseline), grpo (relative to the other samples of the problem) or dpo (better over worse rationales).";
        reward: RewardUnit = RewardUnit::Sentence, "sentence (each score at its sentence's end) or rationale (their mean, at the end).";
        answer_weight: f64 = 0.0, "Weight of the answer reward: how far each sentence raises the answer model's probability of the correct option; 0 disables it. The answer model is that of the round's starting policy (train eval).";
        answer_reward: AnswerReward = AnswerReward::Sum, "How the answer reward is used: sum (added to the scores), product (instead, each score times 1 - answer_weight + answer_weight * the probability after the whole rationale) or alone (without scores: no Teacher is needed).";
        baseline: BaselineKind = BaselineKind::LeaveOneOut, "Baseline of the advantages of ppo: leave_one_out (returns of the problem's other samples from the same sentence on), model (a value model trained first) or sampled (values of an untrained head, stored while sampling).";
        passes: u32 = 4, "Passes over the rollouts; 0 leaves the policy unchanged.";
        minibatch: u32 = 8, "Rollouts in a minibatch.";
        accumulation: u32 = 8, "Minibatches in an optimizer step.";
        learning_rate: f64 = 2e-5, "Peak learning rate of AdamW.";
        schedule: RateSchedule = RateSchedule::Linear, "Learning rate schedule: linear (falls to 0) or constant.";
        weight_decay: f64 = 0.01, "Weight decay, except for norms and biases.";
        max_grad_norm: Option<f64> = Some(1.0), "Maximum norm of the gradient; 0 does not clip.";
        clip: f64 = 0.2, "Clipping range of the probability ratio.";
        kl_penalty: f64 = 0.1, "Weight in the loss of the KL from the round's starting policy, in nats per token.";
        max_kl: Option<f64> = Some(0.1), "Training ends before a step that would exceed this KL from the round's starting policy, in nats per token; 0 sets no bound.";
        kl_coefficient: f64 = 1e-4, "Weight of the KL penalty in the token reward, whose reference is the base student.";
        kl_target: Option<f64> = None, "Target KL of a sampled rationale to the base student, in nats; kl_coefficient is adjusted from round to round. Unset keeps it fixed.";
        gamma: f64 = 1.0, "Discount factor.";
        lambda: f64 = 0.95, "Lambda of generalized advantage estimation.";
        gae_unit: GaeUnit = GaeUnit::Sentence, "Whether gamma and lambda count sentences or tokens.";
        whiten: bool = true, "Whether the advantages of ppo are normalized to variance 1, and to mean 0 unless the baseline is leave_one_out.";
        whiten_over: WhitenOver = WhitenOver::Rollouts, "What the advantages are normalized over: rollouts (all of the round) or minibatch (each one).";
        grpo_scale: GrpoScale = GrpoScale::Batch, "What the advantages of grpo are divided by: the standard deviation of sentence rewards over the batch (all rollouts) or the group (a problem's samples), or none.";
        dpo_pairs: PairSource = PairSource::Scores, "Pairs of dpo: scores (a problem's best sample over its worst), corrections (corrected over original, of this and earlier rounds), judgements (the preferred rationale, of earlier rounds) or all.";
        dpo_margin: f64 = 0.2, "Minimum difference of the mean scores in a pair of samples.";
        dpo_beta: f64 = 0.1, "Strength of dpo: the factor of the log-ratios to the round's starting policy.";
        logprobs: LogprobKind = LogprobKind::Sampled, "Distribution of the probability ratios: sampled (with rollout.temperature and top_p, if they are not 1) or full (the softmax at temperature 1).";
        neutral_score: f64 = 0.5, "Teacher score with zero reward.";
        penalize_empty: bool = true, "Whether a rationale without a sentence counts as a sentence with score 0; otherwise it is left out.";
        shuffle: bool = true, "Whether the rollouts are shuffled before each pass.";
        keep: RlKeep = RlKeep::Last, "Policy that the stage ends with: last, or best (the starting policy if the greedy rationales of val became less like the gold solutions, by ROUGE-L).";
        min_coverage: f64 = 0.95, "Minimum fraction of rollouts with sentences that must be scored, counting each Teacher and repeat.";
        max_spread: Option<f64> = None, "Maximum spread of a sentence's scores (highest minus lowest) that is not a disagreement; unset accepts any spread.";
        disagreement: Disagreement = Disagreement::LeaveOut, "Treatment of a sentence whose spread exceeds max_spread: leave_out (no reward) or down_weight (its reward times max_spread / spread).";
        value_model: ValueTrunk = ValueTrunk::Separate, "separate (a second student) or shared (the policy with a value head).";
        value_init: ValueInit = ValueInit::Zero, "Start of the value head: zero (its last layer) or random.";
        value_passes: u32 = 5, "Passes that train the value model before the policy, with baseline = model.";
        value_folds: u32 = 2, "Parts of the problems, each with a value model trained on the others, so that no value model has seen the returns it predicts; 1 trains a single one on all.";
        value_learning_rate: f64 = 1e-4, "Peak learning rate in the value passes.";
        value_loss: bool = false, "Whether the value model is also trained in the policy's passes, as in the paper; this affects the policy only with value_model = shared.";
        value_coefficient: f64 = 1.0, "Weight of the value loss.";
        value_clip: Option<f64> = None, "Clipping range of the values around those at sampling; unset does not clip.";
    }
    /// Supervised fine-tuning on the corrections.
    sft: SftSettings {
        epochs: u32 = 20, "Passes over the corrections.";
        batch: u32 = 8, "Corrections in a step.";
        learning_rate: f64 = 8e-5, "Peak learning rate; it falls linearly to 0.";
        weight_decay: f64 = 0.01, "Weight decay, except for norms and biases.";
        max_target_tokens: u32 = 512, "Targets are truncated to this many tokens.";
        warmup: f64 = 0.0, "Fraction of the steps in which the learning rate rises to its peak.";
        filter: CorrectionFilter = CorrectionFilter::All, "Texts to learn from: all corrections, changed (only those that changed the rationale), or scored (instead of corrections, the round's sampled rationales with at least min_score).";
        min_score: f64 = 0.9, "Minimum mean sentence score of a sampled rationale to learn from, with filter = scored.";
        keep: KeepBy = KeepBy::Last, "Epoch to keep: last, val_loss (lowest loss on the val split's gold solutions) or val_rouge_l (closest to them).";
        patience: Option<u32> = None, "Epochs without improvement (see keep) after which training stops; unset runs all epochs.";
        corrections_share: f64 = 1.0, "Approximate share of the train problems whose rationales are corrected; selected by rollout.seed, mostly different ones in each round. Raising it only adds problems.";
        padded_loss: bool = false, "Whether padding up to max_target_tokens counts as a target, as in the public code.";
        max_grad_norm: Option<f64> = Some(1.0), "Maximum norm of the gradient; 0 does not clip.";
    }
    /// The answer model.
    answer: AnswerSettings {
        epochs: u32 = 20, "Passes over the train problems.";
        batch: u32 = 16, "Problems in a step.";
        learning_rate: f64 = 8e-5, "Peak learning rate; it falls linearly to 0.";
        weight_decay: f64 = 0.01, "Weight decay, except for biases.";
        lora_rank: u32 = 64, "Rank of the LoRA matrices.";
        lora_alpha: f64 = 128.0, "LoRA alpha; the scale is alpha / rank.";
        lora_dropout: f64 = 0.05, "Dropout before the LoRA matrices.";
        max_new_tokens: u32 = 64, "Maximum tokens of an answer.";
        warmup: f64 = 0.0, "Fraction of the steps in which the learning rate rises to its peak.";
        keep: AnswerKeepBy = AnswerKeepBy::Last, "Epoch to keep: last, val_loss (lowest loss on the correct answers of the val split) or val_accuracy (highest).";
        patience: Option<u32> = None, "Epochs without improvement (see keep) after which training stops; unset runs all epochs.";
        max_grad_norm: Option<f64> = Some(1.0), "Maximum norm of the gradient; 0 does not clip.";
        prompt_format: PromptFormat = PromptFormat::QcmgA, "QCMG-A (the source contains the rationale) or QCM-A (it does not).";
        rationales: RationaleSource = RationaleSource::Generated, "Rationales to train on: generated (the policy's own) or gold.";
    }
}

impl RlSettings {
    /// Whether RL learns from a Teacher's scores.
    pub fn needs_scores(&self) -> bool {
        self.answer_reward != AnswerReward::Alone
    }
}

impl Settings {
    /// The train problems that a round samples.
    pub fn sampled(&self, round: u32) -> Share {
        Share::of_round(self.rollout.problems_share, self.rollout.seed, round)
    }

    /// The train problems whose rationales are corrected in a round.
    pub fn corrected(&self, round: u32) -> Share {
        Share::of_round(self.sft.corrections_share, self.rollout.seed, round)
    }

    /// Whether any stage of a round learns from a Teacher's scores.
    pub fn needs_scores(&self) -> bool {
        self.rl.needs_scores() || !self.needs_corrections()
    }

    /// Whether fine-tuning learns from a Teacher's corrections.
    pub fn needs_corrections(&self) -> bool {
        self.sft.filter != CorrectionFilter::Scored
    }
}
