//! This build reads files written with schema version 1, row for row.

use crate::write_golden::{Golden, folder, folder_of_minor, provenance};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use schemas::{
    Answer, Correction, Judgement, Metric, Problem, Rationale, Reject, Request, Rollout, Score, Table, table,
};
use std::fs::File;
use std::path::Path;

/// Checks a file of a minor version, which has these rows and the columns of that version.
fn check<T: Golden>(folder: &Path, minor: u32, expected: &[T]) {
    let path = folder.join(format!("{}.parquet", T::NAME));
    assert_eq!(table::read::<T>(&path).unwrap(), expected);
    assert_eq!(table::count_rows::<T>(&path).unwrap(), expected.len() as u64);

    let file = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap();
    let pairs = file.metadata().file_metadata().key_value_metadata().unwrap();
    let value = |key: &str| pairs.iter().find(|pair| pair.key == key).and_then(|pair| pair.value.as_deref());
    assert_eq!(value("ares.table"), Some(T::NAME));
    assert_eq!(value("ares.schema_version"), Some(format!("1.{minor}").as_str()));
    assert_eq!(value("ares.created_by"), Some("write_golden 0.1.0"));
    assert_eq!(value("ares.config_sha256"), Some(provenance().config_sha256.as_str()));

    let columns: Vec<_> = file.schema().fields().iter().map(|field| field.name().clone()).collect();
    let declared = T::columns().into_iter().filter(|column| column.since <= minor);
    assert_eq!(columns, declared.map(|column| column.name).collect::<Vec<_>>());
}

macro_rules! every_table {
    ($($name:ident $row:ty),+ $(,)?) => {
        $(#[test]
        fn $name() {
            check::<$row>(&folder(1), 0, &<$row>::golden());
        })+

        #[test]
        fn no_table_is_left_out() {
            let changed = ["rejects.parquet", "requests.parquet", "scores.parquet"];
            let mut here: Vec<&str> = [$(concat!(stringify!($name), ".parquet")),+].into_iter().chain(changed).collect();
            here.sort_unstable();
            assert_eq!(crate::support::names(&folder(1)), here);
        }

        #[test]
        fn columns_that_a_minor_version_added_are_nullable() {
            $(for column in <$row as Table>::columns() {
                assert!(column.since <= schemas::provenance::SCHEMA_VERSION.1);
                assert!(column.nullable || column.since == 0, "{}", column.name);
            })+
        }
    };
}

every_table! {
    problems Problem,
    rollouts Rollout,
    rationales Rationale,
    corrections Correction,
    judgements Judgement,
    answers Answer,
    metrics Metric,
}

fn added_in<T: Table>(minor: u32) -> Vec<&'static str> {
    T::columns().iter().filter(|column| column.since == minor).map(|column| column.name).collect()
}

#[test]
fn requests() {
    // Version 1.0 did not say how a request was written, 1.1 not how many items it was about, 1.2 not which repeat.
    let mut third = Request::golden();
    third.iter_mut().for_each(|row| row.repeat = None);
    let mut second = third.clone();
    second.iter_mut().for_each(|row| row.items = None);
    let mut first = second.clone();
    first.iter_mut().for_each(|row| row.dialect = None);
    check::<Request>(&folder(1), 0, &first);
    check::<Request>(&folder_of_minor(1, 1), 1, &second);
    check::<Request>(&folder_of_minor(1, 2), 2, &third);
    check::<Request>(&folder_of_minor(1, 3), 3, &Request::golden());
    assert_eq!([1, 2, 3].map(added_in::<Request>), [["dialect"], ["items"], ["repeat"]]);
}

#[test]
fn scores() {
    let mut second = Score::golden();
    second.iter_mut().for_each(|row| row.repeat = None);
    let mut first = second.clone();
    first.iter_mut().for_each(|row| row.reason = None);
    check::<Score>(&folder(1), 0, &first);
    check::<Score>(&folder_of_minor(1, 2), 2, &second);
    check::<Score>(&folder_of_minor(1, 3), 3, &Score::golden());
    assert_eq!([2, 3].map(added_in::<Score>), [["reason"], ["repeat"]]);
}

#[test]
fn rejects() {
    let mut first = Reject::golden();
    first.iter_mut().for_each(|row| (row.teacher, row.repeat) = (None, None));
    check::<Reject>(&folder(1), 0, &first);
    check::<Reject>(&folder_of_minor(1, 3), 3, &Reject::golden());
    assert_eq!(added_in::<Reject>(3), ["teacher", "repeat"]);
}

#[test]
fn parts_of_several_versions_are_read_as_one_table() {
    let place = tempfile::tempdir().unwrap();
    let dataset = schemas::Dataset::at(place.path());
    let copy = |folder: std::path::PathBuf, name: &str| {
        let to = dataset.part_path::<Request>(1, name);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(folder.join("requests.parquet"), to).unwrap();
    };
    copy(folder(1), "a");
    copy(folder_of_minor(1, 1), "b");
    copy(folder(1), "c");
    let dialects: Vec<_> = dataset.read::<Request>(1).unwrap().into_iter().map(|row| row.dialect).collect();
    assert_eq!(dialects.iter().filter(|dialect| dialect.is_some()).count(), 2);
    assert_eq!((dialects.len(), dialects[3].as_deref()), (9, Some("max_tokens 1024, json_schema")));
    #[derive(serde::Deserialize)]
    struct Only {
        dialect: Option<String>,
    }
    let only: Vec<Only> = dataset.project::<Request, Only>(1, &["dialect"]).unwrap();
    assert_eq!(only.into_iter().map(|row| row.dialect).collect::<Vec<_>>(), dialects);
}
