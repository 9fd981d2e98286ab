//! Tables as lazy frames, read and checked by the same code as everywhere else.

use crate::error::{Error, Result};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes as arrow_type;
use polars::prelude::*;
use schemas::{Dataset, Table};

/// Columns of a table's round, for queries. A list becomes its length, a timestamp its milliseconds; numbers below 64 bits
/// widen, because fewer types make a smaller program. Rows keep their order.
pub(super) fn frame<T: Table>(dataset: &Dataset, round: u32, names: &[&'static str]) -> Result<LazyFrame> {
    table::<T>(&dataset.columns::<T>(round, names)?, names).map(IntoLazy::lazy).map_err(failed::<T>)
}

/// Adds a column that says whether `holds` is true of a text. This is done outside polars, because its string functions would
/// make the binary a good deal larger.
pub(super) fn with_test(
    frame: LazyFrame,
    text: &str,
    name: &str,
    holds: impl Fn(&str) -> bool,
) -> Result<LazyFrame> {
    let add = || {
        let mut frame = frame.collect()?;
        let texts = frame.column(text)?.str()?;
        let held = texts.iter().map(|text| Some(holds(text.unwrap_or_default())));
        let held = BooleanChunked::from_iter_options(PlSmallStr::from_str(name), held).into_column();
        frame.with_column(held)?;
        Ok(frame.lazy())
    };
    add().map_err(unexpected)
}

/// A left join that keeps the order of the left frame: each of its rows once per match in the right one, or
/// once without a match.
pub(super) fn left_join(left: LazyFrame, on: &str, right: LazyFrame, right_on: &str) -> LazyFrame {
    let order = JoinArgs { maintain_order: MaintainOrderJoin::Left, ..JoinArgs::new(JoinType::Left) };
    left.join(right, [col(on)], [col(right_on)], order)
}

/// The error of a query over a table.
pub(super) fn failed<T: Table>(error: PolarsError) -> Error {
    Error::bad_input(format!("table `{}`", T::NAME), error.to_string())
}

fn table<T: Table>(batches: &[RecordBatch], names: &[&'static str]) -> PolarsResult<DataFrame> {
    let declared = T::columns();
    let column = |name: &&'static str| {
        let declared = declared.iter().find(|column| column.name == *name);
        let declared = declared.ok_or_else(|| polars_err!(ColumnNotFound: "{name}"))?;
        let arrays = batches.iter().filter_map(|batch| batch.column_by_name(name));
        column(name, &declared.data_type, arrays.map(AsRef::as_ref))
    };
    let columns = names.iter().map(column).collect::<PolarsResult<Vec<_>>>()?;
    DataFrame::new_infer_height(columns)
}

fn column<'a>(
    name: &str,
    data_type: &arrow_type::DataType,
    arrays: impl Iterator<Item = &'a dyn Array>,
) -> PolarsResult<Column> {
    use arrow_type::DataType as T;
    let name = PlSmallStr::from_str(name);
    macro_rules! numbers {
        ($arrow:ident, $polars:ident) => {
            $polars::from_iter_options(
                name,
                arrays.flat_map(|array| {
                    array.as_primitive::<arrow_type::$arrow>().iter().map(|value| value.map(Into::into))
                }),
            )
            .into_column()
        };
    }
    Ok(match data_type {
        T::Utf8 => {
            StringChunked::from_iter_options(name, arrays.flat_map(|array| array.as_string::<i32>().iter()))
                .into_column()
        }
        T::Boolean => {
            BooleanChunked::from_iter_options(name, arrays.flat_map(|array| array.as_boolean().iter()))
                .into_column()
        }
        T::UInt8 => numbers!(UInt8Type, UInt64Chunked),
        T::UInt32 => numbers!(UInt32Type, UInt64Chunked),
        T::UInt64 => numbers!(UInt64Type, UInt64Chunked),
        T::Float32 => numbers!(Float32Type, Float64Chunked),
        T::Float64 => numbers!(Float64Type, Float64Chunked),
        T::Timestamp(..) => numbers!(TimestampMillisecondType, Int64Chunked),
        T::List(_) => {
            let lengths = |array: &'a dyn Array| {
                let list = array.as_list::<i32>();
                (0..list.len())
                    .map(|row| list.is_valid(row).then(|| u64::from(list.value_length(row).unsigned_abs())))
            };
            UInt64Chunked::from_iter_options(name, arrays.flat_map(lengths)).into_column()
        }
        other => polars_bail!(SchemaMismatch: "column `{name}` of type {other} has no counterpart here"),
    })
}

/// A collected query, read column by column.
pub(super) struct Collected(DataFrame);

impl Collected {
    /// Runs a query over a table.
    pub(super) fn of<T: Table>(query: LazyFrame) -> Result<Self> {
        query.collect().map(Self).map_err(failed::<T>)
    }

    /// Rows.
    pub(super) fn len(&self) -> usize {
        self.0.height()
    }

    /// A column of texts; null is empty.
    pub(super) fn texts(&self, name: &str) -> Result<Vec<String>> {
        let read = || {
            Ok(self.0.column(name)?.str()?.iter().map(|text| text.unwrap_or_default().to_owned()).collect())
        };
        read().map_err(unexpected)
    }

    /// A column of counts; null is 0.
    pub(super) fn counts(&self, name: &str) -> Result<Vec<u64>> {
        let read = || {
            let column = self.0.column(name)?.cast(&DataType::UInt64)?;
            Ok(column.u64()?.iter().map(Option::unwrap_or_default).collect())
        };
        read().map_err(unexpected)
    }

    /// A column of numbers.
    pub(super) fn numbers(&self, name: &str) -> Result<Vec<Option<f64>>> {
        let read = || Ok(self.0.column(name)?.f64()?.iter().collect());
        read().map_err(unexpected)
    }
}

/// A column of a query's result is missing or has another type: a bug in this program.
fn unexpected(error: PolarsError) -> Error {
    Error::Failed(format!("a query's result: {error}"))
}
