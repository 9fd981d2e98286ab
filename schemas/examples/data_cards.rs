//! The columns of every table as Markdown, from the declarations in the code.
//!
//! Without an argument all tables are printed. With the path of a file, the parts of it between
//! `<!-- columns: NAME -->` and `<!-- end -->` are rewritten:
//!
//! ```sh
//! cargo run --release -p schemas --example data_cards datasets/README.md
//! ```

use arrow::datatypes::{DataType, TimeUnit};
use schemas::{
    Answer, Column, Correction, Error, Judgement, Metric, Problem, Rationale, Reject, Request, Result,
    Rollout, Score, Table, file,
};
use std::fmt::Write;
use std::path::Path;

const BEGIN: &str = "<!-- columns: ";
const END: &str = "<!-- end -->";

fn main() -> Result<()> {
    let Some(path) = std::env::args_os().nth(1) else {
        for (name, row, columns) in tables() {
            println!("### {name}\n\n{row}\n\n{}", card(&columns));
        }
        return Ok(());
    };
    let path = Path::new(&path);
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let filled =
        fill(&text).map_err(|message| Error::Settings { origin: path.display().to_string(), message })?;
    if filled == text {
        println!("{} is up to date", path.display());
        return Ok(());
    }
    file::write_bytes(path, filled.as_bytes())?;
    println!("{} written", path.display());
    Ok(())
}

/// Name, meaning of a row, and columns of every table.
pub(crate) fn tables() -> [(&'static str, &'static str, Vec<Column>); 10] {
    fn table<T: Table>() -> (&'static str, &'static str, Vec<Column>) {
        (T::NAME, T::ROW.trim(), T::columns())
    }
    [
        table::<Problem>(),
        table::<Rollout>(),
        table::<Score>(),
        table::<Rationale>(),
        table::<Correction>(),
        table::<Judgement>(),
        table::<Answer>(),
        table::<Reject>(),
        table::<Request>(),
        table::<Metric>(),
    ]
}

/// A table's columns in Markdown.
pub(crate) fn card(columns: &[Column]) -> String {
    let mut text = String::from(
        "| name | type | meaning | unit | range | null |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for column in columns {
        let allowed = match column.range {
            Some((low, high)) => format!("{low} to {high}"),
            None => column.one_of.join(", "),
        };
        // Markdown would treat the angle brackets of a list type as HTML.
        let data_type = format!("`{}`", type_name(&column.data_type));
        let null = if column.nullable { "yes" } else { "no" };
        let cells = [column.name, &data_type, column.meaning, column.unit, &allowed, null];
        for cell in cells {
            let space = if cell.is_empty() { "" } else { " " };
            // Writing to a String cannot fail.
            let _ = write!(text, "| {}{space}", cell.replace('|', "\\|"));
        }
        text.push_str("|\n");
    }
    text
}

/// Arrow's name of a type in lower case; a list's items are in angle brackets.
fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "bool".to_owned(),
        DataType::List(item) => format!("list<{}>", type_name(item.data_type())),
        DataType::Struct(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|field| format!("{} {}", field.name(), type_name(field.data_type())))
                .collect();
            format!("struct<{}>", fields.join(", "))
        }
        DataType::Timestamp(TimeUnit::Millisecond, Some(zone)) => format!("timestamp(ms, {zone})"),
        other => other.to_string().to_lowercase(),
    }
}

/// The text with every table between its markers.
///
/// # Errors
/// If a marker names no table or has no end, or a table has no marker or two.
pub(crate) fn fill(text: &str) -> Result<String, String> {
    let mut tables: Vec<_> = tables().into();
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let (name, after) = after.split_once(" -->").ok_or_else(|| format!("`{BEGIN}` without `-->`"))?;
        let (_, after) =
            after.split_once(END).ok_or_else(|| format!("`{BEGIN}{name} -->` without `{END}`"))?;
        let place = tables
            .iter()
            .position(|(table, ..)| *table == name)
            .ok_or_else(|| format!("`{name}` is no table, or appears twice"))?;
        let (_, _, columns) = tables.remove(place);
        let _ = write!(filled, "{before}{BEGIN}{name} -->\n{}{END}", card(&columns));
        rest = after;
    }
    filled.push_str(rest);
    if tables.is_empty() {
        Ok(filled)
    } else {
        let names: Vec<&str> = tables.iter().map(|(name, ..)| *name).collect();
        Err(format!("no `{BEGIN}NAME -->` for {}", names.join(", ")))
    }
}
