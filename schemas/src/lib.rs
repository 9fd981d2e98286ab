//! What the two ARES commands share: the tables, the dataset folder, the settings file, and the rules for sentences.
//!
//! One round, and who writes what:
//!
//! ```text
//! problems ─► rollouts ─► scores ─► (rl) ─► rationales ─► corrections ─► (sft) ─► rationales ─► answers
//!  import      train      collect   train     train         collect      train      train       train
//!                            └── requests, rejects ──┘                 metrics: every train stage
//! ```
//!
//! Every table is a folder of Parquet files, `scores/round-1/part-00000.parquet`; only `problems` is a single file.

pub mod answer;
pub mod column;
pub mod completions;
pub mod correction;
pub mod dataset;
pub mod error;
pub mod file;
pub mod ids;
pub mod interrupt;
pub mod judgement;
pub mod lock;
pub mod metric;
pub mod number;
pub mod open;
pub mod opinions;
pub mod problem;
pub mod provenance;
pub mod rationale;
pub mod reject;
pub mod request;
pub mod rollout;
pub mod rounds;
pub mod say;
pub mod score;
pub mod sentences;
pub mod settings;
pub mod share;
pub mod table;
pub mod teacher;

pub use answer::Answer;
pub use column::{Column, Sentence, Table, TimestampMs};
pub use correction::Correction;
pub use dataset::{Dataset, DatasetCard};
pub use error::{Error, Result};
pub use ids::IdSet;
pub use judgement::Judgement;
pub use lock::Lock;
pub use metric::Metric;
pub use problem::Problem;
pub use provenance::Provenance;
pub use rationale::Rationale;
pub use reject::Reject;
pub use request::Request;
pub use rollout::Rollout;
pub use score::Score;
pub use settings::Settings;
