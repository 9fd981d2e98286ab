//! Presets: values of several settings under one name.

use super::choice::Preset;

/// The values of a preset as `ares.toml` text; the file and flags override them.
pub(super) fn text(preset: Preset) -> &'static str {
    match preset {
        Preset::None => "",
        Preset::PaperBase => PAPER_BASE,
        Preset::PaperLarge => PAPER_LARGE,
    }
}

/// The ARES paper (arXiv 2407.00087) and its public code, for the base model.
const PAPER_BASE: &str = r#"
[rollout]
samples = 4
top_k = 50
top_p = 1.0
temperature = 1.0
[rl]
algorithm = "ppo"
reward = "sentence"
answer_weight = 0.0
answer_reward = "sum"
baseline = "sampled"
passes = 10
minibatch = 8
accumulation = 8
learning_rate = 2e-5
schedule = "constant"
weight_decay = 0.01
max_grad_norm = 0.0
clip = 0.2
kl_penalty = 0.0
max_kl = 0.0
kl_coefficient = 1e-4
gamma = 1.0
lambda = 0.95
gae_unit = "token"
whiten = true
whiten_over = "minibatch"
logprobs = "full"
neutral_score = 0.5
penalize_empty = false
value_model = "separate"
value_init = "random"
value_loss = true
value_coefficient = 1.0
[sft]
epochs = 20
batch = 8
learning_rate = 8e-5
weight_decay = 0.01
"#;

/// The same for the large model.
const PAPER_LARGE: &str = r#"
[rollout]
samples = 4
top_k = 50
top_p = 1.0
temperature = 1.0
[rl]
algorithm = "ppo"
reward = "sentence"
answer_weight = 0.0
answer_reward = "sum"
baseline = "sampled"
passes = 5
minibatch = 2
accumulation = 16
learning_rate = 2e-5
schedule = "constant"
weight_decay = 0.01
max_grad_norm = 0.0
clip = 0.2
kl_penalty = 0.0
max_kl = 0.0
kl_coefficient = 1e-4
gamma = 1.0
lambda = 0.95
gae_unit = "token"
whiten = false
logprobs = "full"
neutral_score = 0.5
penalize_empty = false
value_model = "separate"
value_init = "random"
value_loss = true
value_coefficient = 1.0
[sft]
epochs = 50
batch = 2
learning_rate = 5e-5
weight_decay = 0.01
"#;
