//! `ares.toml`: every setting of both commands, declared once with its default and its meaning.
//!
//! Flags beat the file, the file beats the defaults. An unknown key is an error that names the nearest known one.
//! API keys are no settings: they come from the environment only.

mod choice;
mod flags;
mod resolve;

pub use choice::{
    Algorithm, AnswerKeepBy, ContentForm, CorrectionFilter, Device, Dtype, ImageDetail, KeepBy, PromptFormat,
    Provider, RationaleSource, ResponseFormat, RewardUnit, SystemRole, TokenLimitField, ValueTrunk,
};
pub use flags::SettingFlags;
pub use resolve::{Origin, Resolved};

use choice::SettingType;

/// Type of a setting's value, as it is written in `ares.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text,
    /// A whole number.
    Integer,
    /// A number.
    Float,
    /// true or false.
    Bool,
}

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
    /// Name of the flag: the key with dashes, with its section before it where two sections share the key.
    pub fn flag(&self) -> String {
        if (self.section, self.name) == ("teacher", "provider") {
            return "teacher".to_owned();
        }
        let shared = Settings::keys().iter().filter(|key| key.name == self.name).count() > 1;
        if shared { self.qualified_flag() } else { self.name.replace('_', "-") }
    }

    /// The flag with its section before it; always accepted.
    pub fn qualified_flag(&self) -> String {
        format!("{}-{}", self.section, self.name).replace('_', "-")
    }

    /// `section.key`.
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }
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
    /// Who gives feedback.
    teacher: TeacherSettings {
        provider: Provider = Provider::Reference, "Who gives feedback: anthropic, openai (any compatible server) or reference (embedded, for trials).";
        model: String = String::new(), "Model to ask; empty takes the provider's usual one.";
        base_url: String = String::new(), "Address of the service; empty takes the provider's own.";
        temperature: Option<f64> = None, "Sampling temperature; unset sends 0 where the model takes one.";
        effort: Option<String> = None, "Reasoning effort; unset takes the lowest the model offers (none, else low), empty sends none.";
        max_output_tokens: Option<u32> = None, "Limit of a reply in tokens, thinking included; unset takes 1024, or 8192 for a model that thinks.";
        response_format: ResponseFormat = ResponseFormat::Auto, "How JSON is asked for: auto, json_schema, json_object or none.";
        token_limit_field: TokenLimitField = TokenLimitField::Auto, "Field that limits a reply: auto, max_tokens or max_completion_tokens.";
        system_role: SystemRole = SystemRole::Auto, "Where the instructions are sent: auto, system or user.";
        content: ContentForm = ContentForm::Auto, "How user messages are sent: auto, parts (a list) or text (problems without a picture only).";
        image_detail: ImageDetail = ImageDetail::Auto, "Detail in which OpenAI-like services read pictures: auto, low, high or original.";
        max_image_edge: u32 = 2048, "Longest edge of a picture in pixels; larger ones are sized down before they are sent.";
        models: String = String::new(), "File of models and prices (TOML) that is laid over the built-in models.toml; empty takes that alone.";
        timeout_secs: u64 = 600, "Longest wait for one reply, in seconds.";
        prompts: String = String::new(), "Folder with scores.md, corrections.md, judgements.md that replace the built-in system prompts; empty takes those.";
    }
    /// How fast the Teacher may be asked.
    limits: LimitSettings {
        requests_per_minute: Option<u64> = None, "Requests a minute; unset takes what the provider's headers allow.";
        input_tokens_per_minute: Option<u64> = None, "Input tokens a minute.";
        output_tokens_per_minute: Option<u64> = None, "Output tokens a minute.";
        concurrency: u32 = 512, "Most requests in flight at once.";
    }
    /// What may be spent.
    budget: BudgetSettings {
        max_usd: Option<f64> = None, "Stop, with everything saved, before the dataset's total cost passes this many US dollars.";
        prices: String = String::new(), "File of prices (TOML) that replace those of the built-in models; empty takes those.";
    }
    /// The student and where it runs.
    student: StudentSettings {
        checkpoints: String = "checkpoints/<name>".to_owned(), "Folder of the checkpoints; `<name>` stands for the dataset's folder name.";
        device: Device = Device::Auto, "auto, cpu or cuda.";
        dtype: Dtype = Dtype::Float32, "float32 or bfloat16. Products of a CPU without bfloat16 instructions run in float32.";
        threads: u32 = 0, "CPU threads of a stage; 0 takes 1 for students below 10 million parameters, else all cores.";
        max_source_tokens: u32 = 512, "Source texts are cut at this many tokens.";
        use_caption: bool = true, "Whether the picture's caption joins the context.";
        vision: String = "vit".to_owned(), "Image features to use: the name of a file in the dataset's vision folder, or none.";
        decode_batch: u32 = 32, "Rationales decoded at once.";
        max_tokens_per_batch: Option<u64> = None, "Most source and target tokens, padding included, in one pass of training; larger minibatches are split, with the same gradient. Unset splits on a CPU alone, where that saves padding.";
        tensorboard: String = String::new(), "Folder of TensorBoard event files, one run a round and stage; empty writes none.";
        save_every_secs: u64 = 60, "Seconds between step checkpoints inside a stage.";
    }
    /// Sampling rationales.
    rollout: RolloutSettings {
        samples: u32 = 4, "Rationales sampled for each train problem.";
        top_k: u32 = 50, "Sample from this many most likely tokens; 0 takes all.";
        top_p: f64 = 1.0, "Sample from the most likely tokens that hold this probability.";
        temperature: f64 = 1.0, "Sampling temperature of the student.";
        max_new_tokens: u32 = 512, "Longest rationale, in tokens.";
        sampling_dtype: Option<Dtype> = None, "Number format of the weights in decoding: float32 or bfloat16; unset takes student.dtype.";
        seed: u64 = 42, "Seed of sampling, shuffling and dropout.";
    }
    /// Reinforcement learning on the scores.
    rl: RlSettings {
        algorithm: Algorithm = Algorithm::Ppo, "ppo (separate value model) or grpo (relative to the other samples of the problem).";
        reward: RewardUnit = RewardUnit::Sentence, "sentence (each score at its sentence's end) or rationale (their mean, once, at the end).";
        passes: u32 = 10, "Passes over the rollouts; 0 leaves the policy as it was.";
        minibatch: u32 = 8, "Rollouts in a minibatch.";
        accumulation: u32 = 8, "Minibatches in an optimizer step.";
        learning_rate: f64 = 2e-5, "Learning rate of AdamW.";
        weight_decay: f64 = 0.01, "Weight decay, not on norms and biases.";
        clip: f64 = 0.2, "Clip of the probability ratio.";
        kl_coefficient: f64 = 1e-4, "Weight of the KL penalty in the token reward.";
        kl_target: Option<f64> = None, "KL of a sampled rationale to the reference, in nats, to which kl_coefficient is steered from round to round; unset keeps it fixed.";
        gamma: f64 = 1.0, "Discount.";
        lambda: f64 = 0.95, "Lambda of generalized advantage estimation.";
        value_coefficient: f64 = 1.0, "Weight of the value loss.";
        whiten: bool = true, "Whether the advantages of ppo are brought to mean 0 and variance 1 in each minibatch.";
        neutral_score: f64 = 0.5, "Teacher score that earns no reward.";
        shuffle: bool = true, "Whether each pass takes the rollouts in a new order.";
        min_coverage: f64 = 0.95, "Least share of rollouts with sentences that must be scored.";
        max_grad_norm: Option<f64> = None, "Clip of the gradient's norm; unset or 0 does not clip.";
        value_model: ValueTrunk = ValueTrunk::Separate, "separate (a second student) or shared (the policy with a value head).";
        value_passes: u32 = 0, "Passes in which the value model alone learns the returns, before the policy learns; 0 as in the paper.";
        value_learning_rate: f64 = 1e-4, "Learning rate in those passes.";
        value_clip: Option<f64> = None, "How far values may move from those of sampling before their loss stops pulling; unset does not clip.";
        max_kl: Option<f64> = None, "A pass ends after a step whose KL to the sampling policy is above this, in nats a token; unset never ends one.";
    }
    /// Supervised fine-tuning on the corrections.
    sft: SftSettings {
        epochs: u32 = 20, "Passes over the corrections.";
        batch: u32 = 8, "Corrections in a step.";
        learning_rate: f64 = 8e-5, "Peak learning rate; it falls linearly to 0.";
        weight_decay: f64 = 0.01, "Weight decay, not on norms and biases.";
        max_target_tokens: u32 = 512, "Targets are cut at this many tokens.";
        warmup: f64 = 0.0, "Share of the steps in which the learning rate rises to its peak.";
        filter: CorrectionFilter = CorrectionFilter::All, "Texts to learn from: all corrections, changed (only those that changed the rationale), or scored (no corrections, but the round's sampled rationales from min_score on).";
        min_score: f64 = 0.9, "Least mean sentence score of a sampled rationale to learn from, with filter = scored.";
        keep: KeepBy = KeepBy::Last, "Pass that is kept: last, val_loss (lowest on the val split's gold solutions) or val_rouge_l (nearest to them).";
        patience: Option<u32> = None, "Passes without a better number of keep after which training ends; unset makes them all.";
        padded_loss: bool = false, "Whether padding up to max_target_tokens counts as a target, as in the public code.";
        max_grad_norm: Option<f64> = Some(1.0), "Clip of the gradient's norm; 0 does not clip.";
    }
    /// The answer model.
    answer: AnswerSettings {
        epochs: u32 = 20, "Passes over the train problems.";
        batch: u32 = 16, "Problems in a step.";
        learning_rate: f64 = 8e-5, "Peak learning rate; it falls linearly to 0.";
        weight_decay: f64 = 0.01, "Weight decay, not on biases.";
        lora_rank: u32 = 64, "Rank of the LoRA matrices.";
        lora_alpha: f64 = 128.0, "Scale of LoRA: alpha / rank.";
        lora_dropout: f64 = 0.05, "Dropout before the LoRA matrices.";
        max_new_tokens: u32 = 64, "Longest answer, in tokens.";
        warmup: f64 = 0.0, "Share of the steps in which the learning rate rises to its peak.";
        keep: AnswerKeepBy = AnswerKeepBy::Last, "Pass that is kept: last, val_loss (lowest on the right answers of the val split) or val_accuracy (most of them right).";
        patience: Option<u32> = None, "Passes without a better number of keep after which training ends; unset makes them all.";
        max_grad_norm: Option<f64> = Some(1.0), "Clip of the gradient's norm; 0 does not clip.";
        prompt_format: PromptFormat = PromptFormat::QcmgA, "QCMG-A (the rationale stands in the source) or QCM-A (it does not).";
        rationales: RationaleSource = RationaleSource::Generated, "Rationales to train on: generated (the policy's own) or gold.";
    }
}
