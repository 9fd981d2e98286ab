//! A table's columns, declared once: Rust type, Arrow type, meaning, unit, range and nullability.
//!
//! The `table!` macro generates the row struct, its documentation, and the [`Column`] list from one
//! declaration.

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::sync::Arc;

/// The declaration of one column.
#[derive(Debug, Clone)]
pub struct Column {
    /// Name in the Parquet file.
    pub name: &'static str,
    /// Arrow type.
    pub data_type: DataType,
    /// Whether a cell may be null.
    pub nullable: bool,
    /// What a cell means, in a sentence.
    pub meaning: &'static str,
    /// Unit, empty if there is none.
    pub unit: &'static str,
    /// Smallest and largest allowed number; NaN is never allowed where a range is given.
    pub range: Option<(f64, f64)>,
    /// The only texts allowed; empty means any.
    pub one_of: &'static [&'static str],
    /// Minor schema version that introduced the column. Unless that is 0, the column is nullable: older files
    /// are read as if it were null in every row.
    pub since: u32,
}

impl Column {
    /// The Arrow field of this column.
    pub fn field(&self) -> Field {
        Field::new(self.name, self.data_type.clone(), self.nullable)
    }
}

/// A row type of one table.
pub trait Table: Serialize + DeserializeOwned + Send + 'static {
    /// Folder and file name of the table, for instance `scores`.
    const NAME: &'static str;
    /// Meaning of a row, in one sentence.
    const ROW: &'static str;
    /// Whether the table is in `round-N` folders (all but `problems`).
    const BY_ROUND: bool;
    /// The columns in their order in the file.
    fn columns() -> Vec<Column>;

    /// Arrow fields of all columns.
    fn fields() -> Vec<Arc<Field>> {
        Self::columns().iter().map(|column| Arc::new(column.field())).collect()
    }
}

/// A Rust type that corresponds to one Arrow type.
pub trait ColumnType {
    /// The Arrow type.
    fn data_type() -> DataType;
    /// Whether null is allowed.
    const NULLABLE: bool = false;
}

macro_rules! column_types {
    ($($rust:ty => $arrow:expr),* $(,)?) => {$(
        impl ColumnType for $rust {
            fn data_type() -> DataType { $arrow }
        }
    )*};
}

column_types! {
    String => DataType::Utf8,
    bool => DataType::Boolean,
    u8 => DataType::UInt8,
    u32 => DataType::UInt32,
    u64 => DataType::UInt64,
    i32 => DataType::Int32,
    f32 => DataType::Float32,
    f64 => DataType::Float64,
    TimestampMs => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
    Sentence => DataType::Struct(Fields::from(vec![
        Field::new("text", DataType::Utf8, false),
        Field::new("token_end", DataType::UInt32, false),
    ])),
}

impl<T: ColumnType> ColumnType for Option<T> {
    fn data_type() -> DataType {
        T::data_type()
    }
    const NULLABLE: bool = true;
}

impl<T: ColumnType> ColumnType for Vec<T> {
    fn data_type() -> DataType {
        DataType::List(Arc::new(Field::new("item", T::data_type(), true)))
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct TimestampMs(pub i64);

impl TimestampMs {
    /// The current time.
    pub fn now() -> Self {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self(since_epoch.map_or(0, |duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }
}

/// A sentence of a rollout and the position of its last token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sentence {
    /// The sentence, without surrounding separators.
    pub text: String,
    /// Index into `token_ids` of the sentence's last token; 0 in rollouts without token columns.
    pub token_end: u32,
}

/// Declares a table: row struct, column list and documentation in one place.
macro_rules! table {
    (
        $(#[doc = $row:literal])+
        $name:ident, $table:literal, by_round $by_round:literal {
            $($field:ident : $ty:ty, $meaning:literal $(, unit $unit:literal)? $(, range $low:literal to $high:literal)? $(, one_of $one_of:expr)? $(, since $since:literal)?;)+
        }
    ) => {
        $(#[doc = $row])+
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        pub struct $name {
            $(#[doc = $meaning] pub $field: $ty,)+
        }

        impl $crate::column::Table for $name {
            const NAME: &'static str = $table;
            const ROW: &'static str = concat!($($row),+);
            const BY_ROUND: bool = $by_round;

            fn columns() -> Vec<$crate::column::Column> {
                vec![$($crate::column::Column {
                    name: stringify!($field),
                    data_type: <$ty as $crate::column::ColumnType>::data_type(),
                    nullable: <$ty as $crate::column::ColumnType>::NULLABLE,
                    meaning: $meaning,
                    unit: concat!($($unit)?),
                    range: { let range: &[(f64, f64)] = &[$(($low, $high))?]; range.first().copied() },
                    since: { let since: &[u32] = &[$($since)?]; since.first().copied().unwrap_or_default() },
                    one_of: { let texts: &[&[&str]] = &[$(&$one_of)?]; texts.first().copied().unwrap_or(&[]) },
                }),+]
            }
        }
    };
}
pub(crate) use table;
