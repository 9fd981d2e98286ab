//! Files that schema version 1 wrote are read by this build, row for row.

use crate::write_golden::{Golden, folder, provenance};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use schemas::{
    Answer, Correction, Judgement, Metric, Problem, Rationale, Reject, Request, Rollout, Score, table,
};
use std::fs::File;

fn check<T: Golden>() {
    let path = folder(1).join(format!("{}.parquet", T::NAME));
    assert_eq!(table::read::<T>(&path).unwrap(), T::golden());

    let file = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap();
    let pairs = file.metadata().file_metadata().key_value_metadata().unwrap();
    let value = |key: &str| pairs.iter().find(|pair| pair.key == key).and_then(|pair| pair.value.as_deref());
    assert_eq!(value("ares.table"), Some(T::NAME));
    assert_eq!(value("ares.schema_version"), Some("1.0"));
    assert_eq!(value("ares.created_by"), Some("write_golden 0.1.0"));
    assert_eq!(value("ares.config_sha256"), Some(provenance().config_sha256.as_str()));

    let columns: Vec<_> = file.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(columns, T::columns().iter().map(|column| column.name).collect::<Vec<_>>());
}

macro_rules! every_table {
    ($($name:ident $row:ty),+ $(,)?) => {
        $(#[test]
        fn $name() {
            check::<$row>();
        })+

        #[test]
        fn no_table_is_left_out() {
            let mut here = [$(concat!(stringify!($name), ".parquet")),+];
            here.sort_unstable();
            assert_eq!(crate::support::names(&folder(1)), here);
        }
    };
}

every_table! {
    problems Problem,
    rollouts Rollout,
    scores Score,
    rationales Rationale,
    corrections Correction,
    judgements Judgement,
    answers Answer,
    rejects Reject,
    requests Request,
    metrics Metric,
}
