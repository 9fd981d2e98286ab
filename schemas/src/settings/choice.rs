//! Settings with a fixed set of names, and the types of setting values.

use super::kind::Kind;
use serde::{Deserialize, Serialize};

/// A Rust type of a setting.
pub(super) trait SettingType {
    const KIND: Kind;
}

macro_rules! setting_types {
    ($($ty:ty => $kind:ident),* $(,)?) => {$(
        impl SettingType for $ty {
            const KIND: Kind = Kind::$kind;
        }
    )*};
}

setting_types! {
    String => Text, bool => Bool, u32 => Integer, u64 => Integer, f64 => Float,
    Provider => Text, Device => Text, Dtype => Text, Algorithm => Text, PromptFormat => Text, RationaleSource => Text,
    ValueTrunk => Text, BaselineKind => Text, GaeUnit => Text, WhitenOver => Text, GrpoScale => Text,
    RateSchedule => Text, ValueInit => Text, LogprobKind => Text, PairSource => Text, RoundStages => Text, Preset => Text, CorrectionFilter => Text, RewardUnit => Text, AnswerReward => Text, RlKeep => Text, KeepBy => Text,
    AnswerKeepBy => Text, ResponseFormat => Text, TokenLimitField => Text, SystemRole => Text, ContentForm => Text,
    ImageDetail => Text, Combine => Text, Disagreement => Text,
}

impl<T: SettingType> SettingType for Option<T> {
    const KIND: Kind = T::KIND;
}

macro_rules! choices {
    ($($(#[doc = $doc:literal])+ $name:ident { $(#[doc = $variant_doc:literal] $variant:ident = $text:literal),+ $(,)? })+) => {$(
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name { $(#[doc = $variant_doc] #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// The name in `ares.toml`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )+};
}

choices! {
    /// Provider of the Teacher.
    Provider {
        /// Anthropic Messages API.
        Anthropic = "anthropic",
        /// OpenAI chat completions API, or a compatible server.
        OpenAi = "openai",
        /// The embedded Teacher, which grades against the dataset's own solutions.
        Reference = "reference",
    }
    /// How JSON is requested from a Teacher.
    ResponseFormat {
        /// Whatever the model supports.
        Auto = "auto",
        /// With the reply's JSON schema.
        JsonSchema = "json_schema",
        /// Any JSON object.
        JsonObject = "json_object",
        /// By the prompt alone.
        None = "none",
    }
    /// Name of the field that limits a reply.
    TokenLimitField {
        /// As the service expects it.
        Auto = "auto",
        /// `max_tokens`.
        MaxTokens = "max_tokens",
        /// `max_completion_tokens`.
        MaxCompletionTokens = "max_completion_tokens",
    }
    /// Where a Teacher's instructions are sent.
    SystemRole {
        /// In the system message, unless the service refuses one.
        Auto = "auto",
        /// In the system message.
        System = "system",
        /// At the start of the user message.
        User = "user",
    }
    /// Form of user messages.
    ContentForm {
        /// As parts, unless the service refuses them.
        Auto = "auto",
        /// As a list of parts.
        Parts = "parts",
        /// As plain text; items with a picture cannot be sent this way.
        Text = "text",
    }
    /// Detail in which a service reads pictures.
    ImageDetail {
        /// By the model: `high` if that limits the cost.
        Auto = "auto",
        /// Few tokens.
        Low = "low",
        /// At most 2,500 patches.
        High = "high",
        /// Every pixel.
        Original = "original",
    }
    /// How several scores of a sentence are combined.
    Combine {
        /// Their mean.
        Mean = "mean",
        /// Their median.
        Median = "median",
        /// The mean without the lowest and the highest quarter.
        TrimmedMean = "trimmed_mean",
    }
    /// Treatment of a sentence whose scores are too far apart.
    Disagreement {
        /// Its reward is 0.
        LeaveOut = "leave_out",
        /// Its reward shrinks with the spread.
        DownWeight = "down_weight",
    }
    /// Device of the tensors.
    Device {
        /// A GPU if there is one, else the CPU.
        Auto = "auto",
        /// The CPU.
        Cpu = "cpu",
        /// The first NVIDIA GPU.
        Cuda = "cuda",
    }
    /// Number format of the student's arithmetic.
    Dtype {
        /// The device's fast format.
        Auto = "auto",
        /// 32-bit floating point.
        Float32 = "float32",
        /// bfloat16 arithmetic on float32 master weights.
        Bfloat16 = "bfloat16",
    }
    /// How the policy learns from scores.
    Algorithm {
        /// Clipped PPO with a separate value model.
        Ppo = "ppo",
        /// Advantages relative to the other samples of the problem; no value model.
        Grpo = "grpo",
        /// Direct preference optimization on pairs of rationales.
        Dpo = "dpo",
    }
    /// Pairs of a better and a worse rationale.
    PairSource {
        /// The best and the worst sample of a problem.
        Scores = "scores",
        /// A correction and what it corrected.
        Corrections = "corrections",
        /// The rationale a judge preferred, and the one it was compared with.
        Judgements = "judgements",
        /// All of these.
        All = "all",
    }
    /// Settings of a whole round under one name.
    Preset {
        /// None.
        None = "",
        /// Those of the ARES paper for the base model.
        PaperBase = "paper-base",
        /// Those of the ARES paper for the large model.
        PaperLarge = "paper-large",
    }
    /// Stages of a round.
    RoundStages {
        /// Sampling, RL, fine-tuning on corrections, answers.
        All = "all",
        /// Sampling and RL; the next round starts from the policy after RL.
        Rl = "rl",
    }
    /// Baseline of the advantages of ppo.
    BaselineKind {
        /// The mean return of the problem's other samples from the same sentence on.
        LeaveOneOut = "leave_one_out",
        /// A value model that was trained on the round's rollouts of other problems.
        Model = "model",
        /// The values stored with the rollouts, as in the paper: those of an untrained value head.
        Sampled = "sampled",
    }
    /// Unit of gamma and lambda.
    GaeUnit {
        /// Sentences: they apply at the end of each scored sentence.
        Sentence = "sentence",
        /// Tokens, as in the paper.
        Token = "token",
    }
    /// Scope of the normalization of advantages.
    WhitenOver {
        /// All rollouts of the round.
        Rollouts = "rollouts",
        /// Each minibatch by itself, as in the paper.
        Minibatch = "minibatch",
    }
    /// Divisor of the advantages of grpo.
    GrpoScale {
        /// The standard deviation over all rollouts.
        Batch = "batch",
        /// The standard deviation over the samples of each problem.
        Group = "group",
        /// Nothing.
        None = "none",
    }
    /// How a learning rate changes over the steps.
    RateSchedule {
        /// It falls linearly to 0.
        Linear = "linear",
        /// It does not change.
        Constant = "constant",
    }
    /// How a value head starts.
    ValueInit {
        /// Its last layer is 0, and so are all values.
        Zero = "zero",
        /// Random.
        Random = "random",
    }
    /// The distribution of the log-probabilities in ratios.
    LogprobKind {
        /// The one tokens were sampled from: with temperature, top_k and top_p if temperature or top_p is not 1.
        Sampled = "sampled",
        /// The full softmax at temperature 1, regardless of the sampling distribution.
        Full = "full",
    }
    /// The network below the value head.
    ValueTrunk {
        /// A second student, as in the paper.
        Separate = "separate",
        /// The policy itself: half the memory and nearly half the time.
        Shared = "shared",
    }
    /// How rewards are assigned.
    RewardUnit {
        /// Each sentence gets its own score, at its last token.
        Sentence = "sentence",
        /// The whole rationale gets the mean of its sentences' scores, at the last token.
        Rationale = "rationale",
    }
    /// How the answer reward is used.
    AnswerReward {
        /// Each sentence's increase of the correct option's probability is added to its score.
        Sum = "sum",
        /// Scores are multiplied by a factor that grows with that probability after the whole rationale.
        Product = "product",
        /// The increase is the only reward: no scores are needed.
        Alone = "alone",
    }
    /// Which policy RL ends with.
    RlKeep {
        /// That after the last pass.
        Last = "last",
        /// The one before or after RL, whichever is better on the val split.
        Best = "best",
    }
        /// Texts that SFT learns from.
    CorrectionFilter {
        /// All.
        All = "all",
        /// Only those that changed the rationale.
        Changed = "changed",
        /// Instead of corrections, the round's sampled rationales with a high mean score.
        Scored = "scored",
    }
    /// Which pass of fine-tuning is kept.
    KeepBy {
        /// The last.
        Last = "last",
        /// The one with the lowest loss on the gold solutions of the val split.
        ValLoss = "val_loss",
        /// The one whose greedy rationales are closest to the gold solutions of the val split, by ROUGE-L.
        ValRougeL = "val_rouge_l",
    }
    /// Which pass of the answer model's training is kept.
    AnswerKeepBy {
        /// The last.
        Last = "last",
        /// The one with the lowest loss on the correct answers of the val split.
        ValLoss = "val_loss",
        /// The one with the highest accuracy on the val split.
        ValAccuracy = "val_accuracy",
    }
    /// Contents of the answer model's source text.
    PromptFormat {
        /// Question, context, options and the rationale.
        QcmgA = "QCMG-A",
        /// Question, context and options.
        QcmA = "QCM-A",
    }
    /// Rationales that the answer model is trained on.
    RationaleSource {
        /// The policy's own rationales of the train split.
        Generated = "generated",
        /// The dataset's lectures and solutions.
        Gold = "gold",
    }
}
