//! Invalid files, with the exact message, and valid files of other writers.

use crate::support::{batch, message, with_column, without_column, write_foreign};
use crate::write_golden::{Golden, provenance};
use arrow::array::{
    Array, ArrayRef, Float32Array, Float64Array, Int64Array, LargeListArray, LargeStringArray, ListArray,
    RecordBatch, StringArray, StringViewArray, StructArray, TimestampMillisecondArray,
    TimestampNanosecondArray, UInt32Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float32Type, Schema};
use schemas::{Correction, Dataset, Error, Judgement, Problem, Rollout, Score, table};
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

struct Place {
    _folder: TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("part-00000.parquet");
        Self { _folder: folder, path }
    }

    /// The message without the file's name, which each must begin with.
    fn reading<T: Golden>(&self) -> String {
        let message = message(table::read::<T>(&self.path));
        let (path, rest) = message.split_at(self.path.as_os_str().len());
        assert_eq!(path, self.path.display().to_string());
        rest.to_owned()
    }

    /// The message if one column of an otherwise valid file has these values.
    fn reading_with<T: Golden>(&self, column: &str, array: impl Array + 'static) -> String {
        write_foreign(&self.path, &with_column(&batch(&T::golden()), column, Arc::new(array)), &[]);
        self.reading::<T>()
    }
}

fn texts<const N: usize>(texts: [Option<&str>; N]) -> StringArray {
    StringArray::from(texts.to_vec())
}

#[test]
fn missing_file() {
    let place = Place::new();
    let error = table::read::<Score>(&place.path).unwrap_err();
    let expected = format!("cannot open {}: No such file or directory (os error 2)", place.path.display());
    assert_eq!(error.to_string(), expected);
    assert!(error.is_bad_input());
    assert_eq!(message(table::count_rows::<Score>(&place.path)), expected);
}

#[test]
fn compressions_that_are_not_built_in_are_named() {
    for name in ["gzip", "brotli"] {
        let place = Place::new();
        let stored = format!("{}/tests/compression/{name}.parquet", env!("CARGO_MANIFEST_DIR"));
        std::fs::copy(stored, &place.path).unwrap();
        let error = table::read::<Problem>(&place.path).unwrap_err();
        let expected =
            format!("{}: compression: expected zstd, snappy or none, found {name}", place.path.display());
        assert_eq!(error.to_string(), expected);
        assert!(error.is_bad_input() && error.hint().is_some_and(|hint| hint.contains("write_parquet")));
    }
}

#[test]
fn no_parquet_file() {
    let place = Place::new();
    std::fs::write(&place.path, "rollout_id,score\n1,0.5\n").unwrap();
    assert_eq!(
        place.reading::<Score>(),
        " is not a readable Parquet file: Invalid Parquet file. Corrupt footer"
    );
    std::fs::write(&place.path, "").unwrap();
    assert_eq!(
        place.reading::<Score>(),
        " is not a readable Parquet file: EOF: Parquet file too small. Size is 0 but need 8"
    );
    assert!(table::read::<Score>(&place.path).unwrap_err().is_bad_input());
}

#[test]
fn cut_off_parquet_file() {
    let place = Place::new();
    table::write(&place.path, Score::golden(), &provenance()).unwrap();
    let bytes = std::fs::read(&place.path).unwrap();
    std::fs::write(&place.path, &bytes[..bytes.len() - 9]).unwrap();
    assert_eq!(
        place.reading::<Score>(),
        " is not a readable Parquet file: Invalid Parquet file. Corrupt footer"
    );
}

#[test]
fn damaged_pages() {
    let place = Place::new();
    table::write(&place.path, Score::golden(), &provenance()).unwrap();
    let mut bytes = std::fs::read(&place.path).unwrap();
    bytes[4..200].fill(0xff);
    std::fs::write(&place.path, &bytes).unwrap();
    let message = place.reading::<Score>();
    assert!(message.starts_with(" is not a readable Parquet file: "), "{message}");
}

#[test]
fn other_table() {
    let place = Place::new();
    table::write(&place.path, Correction::golden(), &provenance()).unwrap();
    assert_eq!(place.reading::<Score>(), ": table: expected `scores`, found `corrections`");
    assert_eq!(
        message(table::count_rows::<Score>(&place.path)),
        format!("{}: table: expected `scores`, found `corrections`", place.path.display())
    );
}

#[test]
fn newer_schema_version() {
    let place = Place::new();
    let rows = batch(&Score::golden());
    let write = |version: &str| {
        write_foreign(&place.path, &rows, &[("ares.table", "scores"), ("ares.schema_version", version)]);
    };
    for newer in ["2.0", "11.3", "next"] {
        write(newer);
        assert_eq!(
            place.reading::<Score>(),
            format!(
                ": written with schema version {newer}, this program reads up to 1.3: use a newer version of it"
            )
        );
    }
    for known in ["1.0", "1.9", "0.1"] {
        write(known);
        assert_eq!(table::read::<Score>(&place.path).unwrap(), Score::golden());
    }
}

#[test]
fn missing_column() {
    let place = Place::new();
    let rows = without_column(&batch(&Score::golden()), "prompt_version");
    write_foreign(&place.path, &rows, &[]);
    assert_eq!(place.reading::<Score>(), ": column `prompt_version`: expected Utf8, found none");
}

#[test]
fn wrong_column_type() {
    let place = Place::new();
    assert_eq!(
        place.reading_with::<Score>("score", texts([Some("0.5"), Some("1"), Some("0")])),
        ": column `score`: expected Float32, found Utf8"
    );
    assert_eq!(
        place.reading_with::<Score>("score", Float64Array::from(vec![0.5, 1.0, 0.0])),
        ": column `score`: expected Float32, found Float64"
    );
    assert_eq!(
        place.reading_with::<Score>("round", Int64Array::from(vec![1, 1, 1])),
        ": column `round`: expected UInt32, found Int64"
    );
    let moments = TimestampNanosecondArray::from(vec![0, 1, 2]).with_timezone("UTC");
    assert_eq!(
        place.reading_with::<Score>("scored_at", moments),
        ": column `scored_at`: expected Timestamp(ms, \"UTC\"), found Timestamp(ns, \"UTC\")"
    );
    assert_eq!(
        place.reading_with::<Score>("scored_at", TimestampMillisecondArray::from(vec![0, 1, 2])),
        ": column `scored_at`: expected Timestamp(ms, \"UTC\"), found Timestamp(ms)"
    );
    assert_eq!(
        place.reading_with::<Problem>("choices", texts([Some("a"), Some("b"), Some("c")])),
        ": column `choices`: expected List(Utf8), found Utf8"
    );
    let ends = ListArray::from_iter_primitive::<Float32Type, _, _>(vec![Some(vec![Some(1.0)]), None]);
    assert_eq!(
        place.reading_with::<Rollout>("sentences", ends),
        ": column `sentences`: expected List(Struct(\"text\": non-null Utf8, \"token_end\": non-null UInt32)), \
         found List(Float32)"
    );
}

#[test]
fn null_where_none_may_be() {
    let place = Place::new();
    assert_eq!(
        place.reading_with::<Score>("sentence", texts([Some("a"), None, Some("c")])),
        ": column `sentence`, row 1: expected a value, found null"
    );
    let values =
        ListArray::from_iter_primitive::<Float32Type, _, _>(vec![Some(vec![Some(1.0)]), Some(vec![None])]);
    assert_eq!(
        place.reading_with::<Rollout>("values", values),
        ": column `values`, row 1: expected a list without nulls, found null"
    );
    let no_list = ListArray::from_iter_primitive::<Float32Type, _, _>(vec![None, Some(vec![Some(1.0)])]);
    assert_eq!(
        place.reading_with::<Rollout>("values", no_list),
        ": column `values`, row 0: expected a value, found null"
    );

    let text = Arc::new(texts([Some("a"), None])) as ArrayRef;
    let end = Arc::new(UInt32Array::from(vec![1, 2])) as ArrayRef;
    let sentences = StructArray::from(vec![
        (field("text", DataType::Utf8), text),
        (field("token_end", DataType::UInt32), end),
    ]);
    let item = field("item", sentences.data_type().clone());
    let lists = ListArray::new(item, OffsetBuffer::from_lengths([1, 1]), Arc::new(sentences), None);
    let message = place.reading_with::<Rollout>("sentences", lists);
    assert_eq!(
        message,
        ": column `sentences`: expected List(Struct(\"text\": non-null Utf8, \"token_end\": non-null UInt32)), \
         found Invalid argument error: Found unmasked nulls for non-nullable StructArray field \"text\""
    );
}

#[test]
fn score_out_of_range() {
    let place = Place::new();
    for (bad, found) in [
        (1.5, "1.5"),
        (-0.25, "-0.25"),
        (f32::NAN, "NaN"),
        (f32::INFINITY, "inf"),
        (f32::NEG_INFINITY, "-inf"),
    ] {
        assert_eq!(
            place.reading_with::<Score>("score", Float32Array::from(vec![0.0, 1.0, bad])),
            format!(": column `score`, row 2: expected a number from 0 to 1, found {found}")
        );
    }
}

#[test]
fn rows_are_counted_from_the_start_of_the_file() {
    let place = Place::new();
    let rows = batch(&vec![Score::golden().swap_remove(0); 5000]);
    let mut scores = vec![0.5_f32; 5000];
    scores[4999] = 2.0;
    write_foreign(&place.path, &with_column(&rows, "score", Arc::new(Float32Array::from(scores))), &[]);
    assert_eq!(
        place.reading::<Score>(),
        ": column `score`, row 4999: expected a number from 0 to 1, found 2"
    );
}

#[test]
fn text_that_is_not_in_the_list() {
    let place = Place::new();
    assert_eq!(
        place.reading_with::<Problem>("split", texts([Some("train"), Some("dev"), Some("test")])),
        ": column `split`, row 1: expected one of train, val, test, found `dev`"
    );
    assert_eq!(
        place.reading_with::<Judgement>("verdict", texts([Some(""), Some("win"), Some("tie")])),
        ": column `verdict`, row 0: expected one of win, tie, loss, found ``"
    );
}

#[test]
fn problems_of_a_dataset() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    assert_eq!(
        message(Dataset::open(root)),
        format!("{} is not a dataset folder: problems.parquet is missing", root.display())
    );
    let path = root.join("problems.parquet");
    let write = |rows: Vec<Problem>| table::write(&path, rows, &provenance()).unwrap();

    write(Problem::golden());
    let dataset = Dataset::open(root).unwrap();
    assert_eq!(dataset.problems().unwrap(), Problem::golden());

    let mut twice = Problem::golden();
    twice[2].problem_id = "1".into();
    write(twice);
    assert_eq!(message(dataset.problems()), format!("{}: problem_id `1` appears twice", path.display()));

    let mut no_option = Problem::golden();
    no_option[1].answer_index = Some(0);
    write(no_option);
    assert_eq!(
        message(dataset.problems()),
        format!(
            "{}: column `answer_index`, row 1: expected an index below 0, the number of choices, found 0",
            path.display()
        )
    );

    let mut past_the_last = Problem::golden();
    past_the_last[0].answer_index = Some(3);
    write(past_the_last);
    let error = dataset.problems().unwrap_err();
    assert!(matches!(error, Error::Value { row: 0, .. }));
    assert_eq!(
        error.to_string(),
        format!(
            "{}: column `answer_index`, row 0: expected an index below 3, the number of choices, found 3",
            path.display()
        )
    );
}

/// pandas, polars and DuckDB write text as LargeUtf8 or Utf8View, and lists as LargeList.
#[test]
fn other_spellings_of_text_and_lists() {
    let place = Place::new();
    let plain = batch(&Problem::golden());
    let as_large = respell(&plain, |data_type| match data_type {
        DataType::Utf8 => Some(DataType::LargeUtf8),
        DataType::List(_) => Some(DataType::LargeList(field("element", DataType::LargeUtf8))),
        _ => None,
    });
    assert!(as_large.column(0).as_any().is::<LargeStringArray>());
    assert!(as_large.column(3).as_any().is::<LargeListArray>());
    write_foreign(&place.path, &as_large, &[]);
    assert_eq!(table::read::<Problem>(&place.path).unwrap(), Problem::golden());

    let as_view = respell(&plain, |data_type| match data_type {
        DataType::Utf8 => Some(DataType::Utf8View),
        DataType::List(_) => Some(DataType::LargeList(field("item", DataType::Utf8View))),
        _ => None,
    });
    assert!(as_view.column(0).as_any().is::<StringViewArray>());
    write_foreign(&place.path, &as_view, &[]);
    assert_eq!(table::read::<Problem>(&place.path).unwrap(), Problem::golden());
}

#[test]
fn other_spellings_within_structs() {
    let place = Place::new();
    let sentence =
        vec![Field::new("text", DataType::LargeUtf8, true), Field::new("token_end", DataType::UInt32, true)];
    let spelling = DataType::LargeList(field("element", DataType::Struct(sentence.into())));
    let rows = batch(&Rollout::golden());
    let rows = respell(&rows, |data_type| match data_type {
        DataType::List(item) if matches!(item.data_type(), DataType::Struct(_)) => Some(spelling.clone()),
        _ => None,
    });
    write_foreign(&place.path, &rows, &[]);
    assert_eq!(table::read::<Rollout>(&place.path).unwrap(), Rollout::golden());
}

#[test]
fn columns_in_any_order_beside_unknown_ones() {
    let place = Place::new();
    let rows = batch(&Score::golden());
    let schema = rows.schema();
    let mut fields: Vec<_> = schema.fields().iter().rev().cloned().collect();
    let mut columns: Vec<_> = rows.columns().iter().rev().cloned().collect();
    fields.insert(1, field("note", DataType::Utf8));
    columns.insert(1, Arc::new(texts([Some("mine"), None, None])));
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    write_foreign(&place.path, &rows, &[]);
    assert_eq!(table::read::<Score>(&place.path).unwrap(), Score::golden());
}

fn field(name: &str, data_type: DataType) -> Arc<Field> {
    Arc::new(Field::new(name, data_type, true))
}

fn respell(batch: &RecordBatch, spelling: impl Fn(&DataType) -> Option<DataType>) -> RecordBatch {
    let mut respelt = batch.clone();
    for field in batch.schema().fields() {
        if let Some(other) = spelling(field.data_type()) {
            let array: ArrayRef = cast(batch.column_by_name(field.name()).unwrap(), &other).unwrap();
            respelt = with_column(&respelt, field.name(), array);
        }
    }
    respelt
}
