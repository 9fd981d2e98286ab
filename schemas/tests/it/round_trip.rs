//! What is written is what is read.

use crate::write_golden::{Golden, provenance};
use schemas::{
    Answer, Correction, Dataset, Judgement, Metric, Problem, Rationale, Reject, Request, Rollout, Score,
    Table, table,
};

fn one_row<T: Golden>() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sub/folder/file.parquet");
    let row = || T::golden().into_iter().take(1);
    assert_eq!(table::write(&path, row(), &provenance()).unwrap(), 1);
    assert_eq!(table::read::<T>(&path).unwrap(), row().collect::<Vec<_>>());
    assert_eq!(table::count_rows::<T>(&path).unwrap(), 1);
}

fn no_row<T: Golden>() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.parquet");
    assert_eq!(table::write::<T>(&path, [], &provenance()).unwrap(), 0);
    assert_eq!(table::read::<T>(&path).unwrap(), []);
    assert_eq!(table::count_rows::<T>(&path).unwrap(), 0);
}

macro_rules! every_table {
    ($($name:ident $row:ty),+ $(,)?) => {
        $(#[test]
        fn $name() {
            assert_eq!(<$row as Table>::NAME, stringify!($name));
            one_row::<$row>();
            no_row::<$row>();
        })+

        #[test]
        fn no_table_is_left_out() {
            let here = [$(stringify!($name)),+];
            assert_eq!(here, crate::data_cards::tables().map(|(name, ..)| name));
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

#[test]
fn many_rows_in_several_row_groups() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::at(folder.path());
    let rows: Vec<Metric> = (0..70_000)
        .map(|step| Metric { round: 3, step, value: step as f64 / 7.0, ..Metric::golden().swap_remove(0) })
        .collect();
    dataset.write_part(3, "rl", rows.clone(), &provenance()).unwrap();
    assert_eq!(dataset.count::<Metric>(3).unwrap(), 70_000);
    assert!(dataset.read::<Metric>(3).unwrap() == rows);
}

#[test]
fn some_columns_of_a_file() {
    #[derive(serde::Deserialize, Debug, PartialEq)]
    struct Spans {
        rollout_id: String,
        sentences: Vec<schemas::Sentence>,
    }
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::at(folder.path());
    let rollouts = Rollout::golden().into_iter().map(|row| Rollout { round: 1, ..row });
    dataset.write_part(1, "00000", rollouts, &provenance()).unwrap();
    let spans: Vec<Spans> = dataset.project::<Rollout, _>(1, &["rollout_id", "sentences"]).unwrap();
    let expected: Vec<Spans> = Rollout::golden()
        .into_iter()
        .map(|rollout| Spans { rollout_id: rollout.rollout_id, sentences: rollout.sentences })
        .collect();
    assert_eq!(spans, expected);
}
