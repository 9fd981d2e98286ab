//! Metrics: measurements of training, in long form.

use crate::column::{TimestampMs, table};

table! {
    /// One number at one step of a stage.
    Metric, "metrics", by_round true {
        round: u32, "ARES round; 0 for the base student.";
        stage: String, "Stage that measured: rl, sft, answer, eval or pretrain.";
        step: u64, "Optimizer steps completed at the measurement.", unit "steps";
        epoch: f64, "Passes over the data completed at the measurement.", unit "passes";
        name: String, "Name of the number.";
        value: f64, "The number.";
        at: TimestampMs, "Time of the measurement.", unit "ms since 1970, UTC";
    }
}
