//! One cell of a Parquet table: as a JSON value, whatever Arrow type holds it, or as a picture.

use crate::import::json::Node;
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};

/// A cell as a JSON value, or the part of it at the path `fields`: fields of structs, also within lists. NaN,
/// which pandas writes for a missing number, is null.
///
/// # Errors
/// The name of a type that has no such form.
pub(super) fn node(array: &dyn Array, row: usize, fields: &[String]) -> Result<Node, String> {
    if array.is_null(row) {
        return Ok(Node::Null);
    }
    Ok(match array.data_type() {
        DataType::Null => Node::Null,
        DataType::Boolean => Node::Bool(array.as_boolean().value(row)),
        DataType::Int8 => number(array.as_primitive::<Int8Type>().value(row)),
        DataType::Int16 => number(array.as_primitive::<Int16Type>().value(row)),
        DataType::Int32 => number(array.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => number(array.as_primitive::<Int64Type>().value(row)),
        DataType::UInt8 => number(array.as_primitive::<UInt8Type>().value(row)),
        DataType::UInt16 => number(array.as_primitive::<UInt16Type>().value(row)),
        DataType::UInt32 => number(array.as_primitive::<UInt32Type>().value(row)),
        DataType::UInt64 => Node::Number(array.as_primitive::<UInt64Type>().value(row).into()),
        DataType::Float16 => float(array.as_primitive::<Float16Type>().value(row).into()),
        DataType::Float32 => float(array.as_primitive::<Float32Type>().value(row).into()),
        DataType::Float64 => float(array.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => Node::Text(array.as_string::<i32>().value(row).to_owned()),
        DataType::LargeUtf8 => Node::Text(array.as_string::<i64>().value(row).to_owned()),
        DataType::Utf8View => Node::Text(array.as_string_view().value(row).to_owned()),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            // Older writers do not mark texts as such.
            let bytes = bytes(array, row).unwrap_or_default();
            Node::Text(str::from_utf8(bytes).map_err(|_| "bytes".to_owned())?.to_owned())
        }
        DataType::Dictionary(..) => {
            let (values, key) = dictionary(array, row);
            node(&values, key, fields)?
        }
        DataType::Struct(_) => {
            let structure = array.as_struct();
            if let Some((first, rest)) = fields.split_first() {
                let child =
                    structure.column_by_name(first).ok_or_else(|| format!("a struct without `{first}`"))?;
                return node(child, row, rest);
            }
            let cells = structure.column_names().into_iter().zip(structure.columns());
            let cells = cells.map(|(name, child)| Ok((name.to_owned(), node(child, row, &[])?)));
            Node::Object(cells.collect::<Result<_, String>>()?)
        }
        other => match list(array, row) {
            Some(items) => {
                Node::List((0..items.len()).map(|item| node(&items, item, fields)).collect::<Result<_, _>>()?)
            }
            None => return Err(other.to_string()),
        },
    })
}

fn number(value: impl Into<i64>) -> Node {
    Node::Number(value.into().into())
}

/// Whole numbers stored as floats, because the column has missing values, are read as whole numbers.
fn float(value: f64) -> Node {
    if value.fract() == 0.0 && value.abs() < 9e15 {
        return Node::Number((value as i64).into());
    }
    serde_json::Number::from_f64(value).map_or(Node::Null, Node::Number)
}

/// The values of a dictionary array, and the index of a row's value among them.
fn dictionary(array: &dyn Array, row: usize) -> (ArrayRef, usize) {
    let slice = array.slice(row, 1);
    let dictionary = slice.as_any_dictionary();
    let key = dictionary.normalized_keys().first().copied().unwrap_or_default();
    (dictionary.values().clone(), key)
}

/// The items of a list of any form.
fn list(array: &dyn Array, row: usize) -> Option<ArrayRef> {
    Some(match array.data_type() {
        DataType::List(_) => array.as_list::<i32>().value(row),
        DataType::LargeList(_) => array.as_list::<i64>().value(row),
        DataType::ListView(_) => array.as_list_view::<i32>().value(row),
        DataType::LargeListView(_) => array.as_list_view::<i64>().value(row),
        DataType::FixedSizeList(..) => array.as_fixed_size_list().value(row),
        _ => return None,
    })
}

fn bytes(array: &dyn Array, row: usize) -> Option<&[u8]> {
    Some(match array.data_type() {
        DataType::Binary => array.as_binary::<i32>().value(row),
        DataType::LargeBinary => array.as_binary::<i64>().value(row),
        DataType::BinaryView => array.as_binary_view().value(row),
        _ => return None,
    })
}

/// The contents of a picture cell.
#[derive(Debug, PartialEq)]
pub(super) enum Held {
    /// There is none.
    Nothing,
    /// Zero bytes: with some writers, this means that there is none.
    Empty,
    /// The file's bytes.
    Bytes(Vec<u8>),
    /// Only its path.
    Path(String),
}

/// The picture of a cell: bytes, a path, or the struct of both that Hugging Face `datasets` writes. Nulls may
/// occur at any level.
///
/// # Errors
/// What was found instead.
pub(super) fn picture(array: &dyn Array, row: usize, fields: &[String]) -> Result<Held, String> {
    if array.is_null(row) {
        return Ok(Held::Nothing);
    }
    if let Some(bytes) = bytes(array, row) {
        return Ok(if bytes.is_empty() { Held::Empty } else { Held::Bytes(bytes.to_vec()) });
    }
    match array.data_type() {
        DataType::Null => Ok(Held::Nothing),
        DataType::Dictionary(..) => {
            let (values, key) = dictionary(array, row);
            picture(&values, key, fields)
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => match node(array, row, &[])? {
            Node::Text(path) if !path.trim().is_empty() => Ok(Held::Path(path)),
            _ => Ok(Held::Nothing),
        },
        DataType::Struct(_) => {
            let structure = array.as_struct();
            if let Some((first, rest)) = fields.split_first() {
                let child =
                    structure.column_by_name(first).ok_or_else(|| format!("a struct without `{first}`"))?;
                return picture(child, row, rest);
            }
            let children = ["bytes", "path"].map(|name| structure.column_by_name(name));
            if children == [None, None] {
                return Err("a struct without `bytes` and `path`".to_owned());
            }
            let mut found = Held::Nothing;
            for child in children.into_iter().flatten() {
                match picture(child, row, &[])? {
                    Held::Nothing => {}
                    Held::Empty => found = Held::Empty,
                    held => return Ok(held),
                }
            }
            Ok(found)
        }
        other => match list(array, row) {
            Some(items) if items.is_empty() => Ok(Held::Nothing),
            Some(items) if items.len() == 1 => picture(&items, 0, fields),
            Some(items) => Err(format!("{} pictures", items.len())),
            None => Err(type_name(other)),
        },
    }
}

/// A type in a few words.
pub(super) fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "bytes".to_owned(),
        DataType::Boolean => "bool".to_owned(),
        DataType::Dictionary(_, values) => type_name(values),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => format!("list of {}", type_name(item.data_type())),
        DataType::Struct(fields) => {
            let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
            format!("struct of {}", names.join(", "))
        }
        other => other.to_string().to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::*;
    use arrow::datatypes::{Field, Fields};
    use std::sync::Arc;

    fn text(text: &str) -> Node {
        Node::Text(text.to_owned())
    }

    fn nodes(array: &dyn Array) -> Vec<Node> {
        (0..array.len()).map(|row| node(array, row, &[]).unwrap()).collect()
    }

    #[test]
    fn one_value_in_every_type() {
        let texts: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![Some("a"), None])),
            Arc::new(LargeStringArray::from(vec![Some("a"), None])),
            Arc::new(StringViewArray::from(vec![Some("a"), None])),
            Arc::new(BinaryArray::from(vec![Some("a".as_bytes()), None])),
            Arc::new(vec![Some("a"), None].into_iter().collect::<DictionaryArray<Int32Type>>()),
        ];
        for array in texts {
            assert_eq!(nodes(&array), [text("a"), Node::Null], "{}", array.data_type());
        }
        let numbers: Vec<ArrayRef> = vec![
            Arc::new(Int8Array::from(vec![Some(3), None])),
            Arc::new(UInt64Array::from(vec![Some(3), None])),
            Arc::new(Float64Array::from(vec![3.0, f64::NAN])),
            Arc::new(Float32Array::from(vec![Some(3.0), None])),
        ];
        for array in numbers {
            assert_eq!(nodes(&array), [Node::Number(3.into()), Node::Null], "{}", array.data_type());
        }
        assert_eq!(nodes(&NullArray::new(1)), [Node::Null]);
        assert_eq!(
            nodes(&Float64Array::from(vec![0.5])),
            [Node::Number(serde_json::Number::from_f64(0.5).unwrap())]
        );
        assert!(node(&Date32Array::from(vec![1]), 0, &[]).is_err());
    }

    #[test]
    fn lists_and_structs() {
        let mut builder = ListBuilder::new(StringViewBuilder::new());
        builder.append_value([Some("a"), Some("b")]);
        builder.append_null();
        let list: ArrayRef = Arc::new(builder.finish());
        let expected = [Node::List(vec![text("a"), text("b")]), Node::Null];
        assert_eq!(nodes(&list), expected);
        let fields = Fields::from(vec![Field::new("text", list.data_type().clone(), true)]);
        let structure = StructArray::new(fields, vec![list], None);
        let path = ["text".to_owned()];
        assert_eq!([0, 1].map(|row| node(&structure, row, &path).unwrap()), expected);
        assert_eq!(nodes(&structure)[0], Node::Object(vec![("text".to_owned(), expected[0].clone())]));
        assert!(node(&structure, 0, &["label".to_owned()]).is_err());
        // A list of structs: the field of each.
        let inner = StructArray::from(vec![(
            Arc::new(Field::new("text", DataType::Utf8, true)),
            Arc::new(StringArray::from(vec!["a", "b"])) as ArrayRef,
        )]);
        let item = Arc::new(Field::new("item", inner.data_type().clone(), true));
        let list = FixedSizeListArray::new(item, 2, Arc::new(inner), None);
        assert_eq!(node(&list, 0, &path).unwrap(), expected[0]);
    }

    #[test]
    fn pictures_and_every_form_of_none() {
        let binary = |values: Vec<Option<&[u8]>>| Arc::new(BinaryArray::from(values)) as ArrayRef;
        let paths =
            Arc::new(StringArray::from(vec![Some("a.png"), Some("b.png"), None, Some(""), Some("c.png")]))
                as ArrayRef;
        let fields = Fields::from(vec![
            Field::new("bytes", DataType::Binary, true),
            Field::new("path", DataType::Utf8, true),
        ]);
        let held = binary(vec![Some(b"png"), Some(b""), None, None, None]);
        let valid = vec![true, true, true, true, false].into();
        let structure = StructArray::new(fields, vec![held, paths], Some(valid));
        let found = (0..5).map(|row| picture(&structure, row, &[]).unwrap());
        let expected = [
            Held::Bytes(b"png".to_vec()),
            Held::Path("b.png".to_owned()),
            Held::Nothing,
            Held::Nothing,
            Held::Nothing,
        ];
        assert_eq!(found.collect::<Vec<_>>(), expected);
        let views = BinaryViewArray::from(vec![b"png".as_slice(), b""]);
        assert_eq!(picture(&views, 1, &[]).unwrap(), Held::Empty);
        assert_eq!(picture(&views, 0, &[]).unwrap(), expected[0]);
        let mut list = ListBuilder::new(BinaryBuilder::new());
        list.append_value([Some(b"png")]);
        list.append_value([] as [Option<&[u8]>; 0]);
        list.append_value([Some(b"one"), Some(b"two")]);
        let list = list.finish();
        assert_eq!(picture(&list, 0, &[]).unwrap(), expected[0]);
        assert_eq!(picture(&list, 1, &[]).unwrap(), Held::Nothing);
        assert_eq!(picture(&list, 2, &[]).unwrap_err(), "2 pictures");
        assert_eq!(picture(&Int8Array::from(vec![1]), 0, &[]).unwrap_err(), "int8");
    }
}
