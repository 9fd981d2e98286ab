//! Import from Parquet: the layouts of the Hugging Face Hub, other layouts by a map of columns, and every refusal.

use crate::import::Folder;
use arrow::array::*;
use arrow::datatypes::{DataType, Field, Fields, Int8Type, Int32Type, Schema};
use feedback_pipeline::import::Command;
use image::{DynamicImage, ImageFormat, RgbImage};
use parquet::arrow::ArrowWriter;
use schemas::{Problem, Rollout};
use std::fs::{self, File};
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

/// A picture of its own for each seed, of about `side`² × 3 bytes.
fn picture(seed: u32, side: u32, format: ImageFormat) -> Vec<u8> {
    let pixel = |x: u32, y: u32| {
        let noise = (x ^ (y << 9) ^ (seed << 18)).wrapping_mul(2_654_435_761);
        image::Rgb([(noise >> 24) as u8, (noise >> 16) as u8, (noise >> 8) as u8])
    };
    let mut bytes = Vec::new();
    let picture = DynamicImage::from(RgbImage::from_fn(side, side, pixel));
    picture.write_to(&mut Cursor::new(&mut bytes), format).unwrap();
    bytes
}

fn png(seed: u32) -> Vec<u8> {
    picture(seed, 4, ImageFormat::Png)
}

fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let fields: Vec<Field> =
        columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let batch =
        RecordBatch::try_new(schema.clone(), columns.into_iter().map(|(_, array)| array).collect()).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn texts<'a>(values: impl IntoIterator<Item = &'a str>) -> ArrayRef {
    Arc::new(values.into_iter().map(Some).collect::<StringArray>())
}

fn lists(values: &[&[&str]]) -> ArrayRef {
    let mut builder = ListBuilder::new(StringBuilder::new());
    values.iter().for_each(|items| builder.append_value(items.iter().map(|item| Some(*item))));
    Arc::new(builder.finish())
}

/// Pictures as `datasets` writes them: a struct of bytes and path.
fn pictures(values: &[Option<Vec<u8>>]) -> ArrayRef {
    let bytes: BinaryArray = values.iter().map(|value| value.as_deref()).collect();
    let paths: StringArray = values.iter().map(|value| value.as_ref().map(|_| "image.png")).collect();
    let fields = Fields::from(vec![
        Field::new("bytes", DataType::Binary, true),
        Field::new("path", DataType::Utf8, true),
    ]);
    let valid = values.iter().map(Option::is_some).collect::<Vec<bool>>().into();
    Arc::new(StructArray::new(fields, vec![Arc::new(bytes), Arc::new(paths)], Some(valid)))
}

/// One row of ScienceQA.
#[derive(Clone)]
struct Row {
    question: &'static str,
    answer: Option<i8>,
    image: Option<Vec<u8>>,
}

fn row(question: &'static str, answer: i8, image: Option<u32>) -> Row {
    Row { question, answer: Some(answer), image: image.map(png) }
}

fn columns(rows: &[Row]) -> Vec<(&'static str, ArrayRef)> {
    let all = |text: &'static str| texts(vec![text; rows.len()]);
    let choices: Vec<&[&str]> = vec![&["2", "5"]; rows.len()];
    vec![
        ("image", pictures(&rows.iter().map(|row| row.image.clone()).collect::<Vec<_>>())),
        ("question", texts(rows.iter().map(|row| row.question))),
        ("choices", lists(&choices)),
        ("answer", Arc::new(rows.iter().map(|row| row.answer).collect::<Int8Array>())),
        ("hint", all("")),
        ("task", all("closed choice")),
        ("grade", all("grade2")),
        ("subject", all("natural science")),
        ("topic", all("number")),
        ("category", all("Counting")),
        ("skill", all("Count on")),
        ("lecture", all("To count on, add one.")),
        ("solution", all("Counting on adds one.")),
    ]
}

fn science(folder: &Folder, shards: &[&[Row]]) {
    for (number, rows) in shards.iter().enumerate() {
        let name = format!("from/data/train-{number:05}-of-{:05}-0123456789abcdef.parquet", shards.len());
        write(&folder.path(&name), columns(rows));
    }
    let rest = [row("In test?", 1, Some(9))];
    write(&folder.path("from/data/test-00000-of-00001-0123456789abcdef.parquet"), columns(&rest));
    let rest = [row("In val?", 0, None)];
    write(&folder.path("from/data/validation-00000-of-00001-0123456789abcdef.parquet"), columns(&rest));
}

fn rows() -> [Row; 5] {
    [
        row("After 1?", 0, Some(1)),
        row("After 2?", 1, None),
        row("After 1?", 0, Some(2)),
        row("After 2?", 1, None),
        row("After 4?", 1, Some(1)),
    ]
}

#[test]
fn scienceqa_of_the_hub() {
    let folder = Folder::new();
    let rows = rows();
    science(&folder, &[&rows[..2], &rows[2..]]);
    folder.scienceqa("from").unwrap();
    let problems = folder.problems();
    let seen: Vec<_> =
        problems.iter().map(|p| (p.split.as_str(), p.question.as_str(), p.answer_index)).collect();
    assert_eq!(
        seen,
        [
            ("train", "After 1?", Some(0)),
            ("train", "After 2?", Some(1)),
            ("train", "After 1?", Some(0)),
            ("train", "After 2?", Some(1)),
            ("train", "After 4?", Some(1)),
            ("val", "In val?", Some(0)),
            ("test", "In test?", Some(1)),
        ]
    );
    let first = &problems[0];
    assert_eq!(first.choices, ["2", "5"]);
    let also = [&first.subject, &first.topic, &first.category, &first.skill, &first.grade]
        .map(|text| text.as_deref());
    assert_eq!(also, ["natural science", "number", "Counting", "Count on", "grade2"].map(Some));
    assert_eq!([&first.lecture, &first.solution], ["To count on, add one.", "Counting on adds one."]);
    assert_eq!(first.source, "scienceqa");
    // Every picture under its problem's name, with its own bytes.
    let held = |problem: &Problem| {
        let image = problem.image.as_ref()?;
        assert_eq!(*image, format!("images/{}.png", problem.problem_id));
        Some(fs::read(folder.path("data").join(image)).unwrap())
    };
    let expected = [Some(1), None, Some(2), None, Some(1), None, Some(9)].map(|seed| seed.map(png));
    assert_eq!(problems.iter().map(held).collect::<Vec<_>>(), expected);
    // The same question with another picture is another problem; the same row twice has a number.
    assert_ne!(problems[0].problem_id, problems[2].problem_id);
    assert_eq!(problems[3].problem_id, format!("{}-2", problems[1].problem_id));
    assert_eq!(folder.dataset().card().unwrap().licence, "CC BY-NC-SA 4.0");

    let before = folder.contents();
    folder.scienceqa("from").unwrap();
    assert_eq!(folder.contents(), before, "again");
    fs::remove_dir_all(folder.path("from")).unwrap();
    science(&folder, &[&rows[..1], &rows[1..4], &rows[4..]]);
    folder.scienceqa("from").unwrap();
    assert_eq!(folder.contents(), before, "in other shards");
    // A picture that was lost comes back.
    fs::remove_file(folder.path("data").join(problems[2].image.as_ref().unwrap())).unwrap();
    folder.scienceqa("from").unwrap();
    assert_eq!(folder.contents(), before);
    // A part of the source, in another order, names the same problems.
    fs::remove_dir_all(folder.path("from")).unwrap();
    science(&folder, &[&[rows[4].clone(), rows[2].clone()]]);
    folder.scienceqa("from").unwrap();
    assert_eq!(folder.contents(), before);
}

/// Ids that the publisher gives, and ids made from contents, would double every problem.
#[test]
fn the_same_source_under_other_ids_is_refused() {
    let folder = Folder::new();
    folder.write("json/problems.json", crate::import::PROBLEMS);
    folder.scienceqa("json").unwrap();
    science(&folder, &[&rows()]);
    let before = folder.contents();
    let error = folder.scienceqa("from").unwrap_err();
    assert!(
        error.starts_with("@/data: it has problems of scienceqa with other ids (`7`, and now `train-"),
        "{error}"
    );
    assert_eq!(folder.contents(), before);
}

#[test]
fn texts_and_numbers_in_any_type() {
    let mut seen = Vec::new();
    for form in 0..4 {
        let folder = Folder::new();
        let mut columns = columns(&rows());
        let questions: Vec<&str> = rows().iter().map(|row| row.question).collect();
        let set = |columns: &mut Vec<(&str, ArrayRef)>, name: &str, array: ArrayRef| {
            columns.iter_mut().find(|(column, _)| *column == name).unwrap().1 = array;
        };
        match form {
            0 => {}
            1 => {
                set(&mut columns, "question", Arc::new(LargeStringArray::from(questions)));
                let mut choices = LargeListBuilder::new(LargeStringBuilder::new());
                (0..5).for_each(|_| choices.append_value([Some("2"), Some("5")]));
                set(&mut columns, "choices", Arc::new(choices.finish()));
                set(&mut columns, "answer", Arc::new(Float64Array::from(vec![0.0, 1.0, 0.0, 1.0, 1.0])));
            }
            2 => {
                set(&mut columns, "question", Arc::new(StringViewArray::from(questions)));
                let values = Int64Array::from([2, 5].repeat(5));
                let item = Arc::new(Field::new("item", DataType::Int64, true));
                set(
                    &mut columns,
                    "choices",
                    Arc::new(FixedSizeListArray::new(item, 2, Arc::new(values), None)),
                );
                set(&mut columns, "answer", texts(["A", "B", "2", "(B)", "5"]));
            }
            _ => {
                set(
                    &mut columns,
                    "question",
                    Arc::new(questions.into_iter().collect::<DictionaryArray<Int32Type>>()),
                );
                set(
                    &mut columns,
                    "choices",
                    texts(["['2', '5']", "[\"2\", \"5\"]", "['2', '5']", "['2', '5']", "['2','5']"]),
                );
                set(&mut columns, "hint", Arc::new(NullArray::new(5)));
                let grades: DictionaryArray<Int8Type> = vec!["grade2"; 5].into_iter().collect();
                set(&mut columns, "grade", Arc::new(grades));
                let bytes: LargeBinaryArray = rows()
                    .iter()
                    .map(|row| row.image.clone().or(Some(Vec::new())))
                    .collect::<Vec<_>>()
                    .iter()
                    .map(Option::as_deref)
                    .collect();
                set(&mut columns, "image", Arc::new(bytes));
            }
        }
        write(&folder.path("from/train.parquet"), columns);
        folder.scienceqa("from").unwrap();
        seen.push(folder.problems());
    }
    assert_eq!(seen[0].len(), 5);
    for (form, problems) in seen.iter().enumerate() {
        assert_eq!(problems, &seen[0], "form {form}");
    }
}

#[test]
fn aokvqa_of_the_hub() {
    let folder = Folder::new();
    let of_split = |split: &str, id: &str, answer: Option<i8>, rationales: &[&str], held: Vec<u8>| {
        let columns = vec![
            ("image", pictures(&[Some(held)])),
            ("question_id", texts([id])),
            ("question", texts(["What is it?"])),
            ("choices", lists(&[&["food", "cigarette"]])),
            ("correct_choice_idx", Arc::new(Int8Array::from(vec![answer])) as ArrayRef),
            ("direct_answers", texts([if answer.is_some() { "['cigarette', \"smoker's\"]" } else { "" }])),
            ("difficult_direct_answer", Arc::new(BooleanArray::from(vec![false]))),
            ("rationales", lists(&[rationales])),
        ];
        write(&folder.path(&format!("from/data/{split}-00000-of-00001-abc.parquet")), columns);
    };
    let jpeg = picture(1, 4, ImageFormat::Jpeg);
    of_split("validation", "22jb", Some(1), &["He smokes", " It is lit. "], jpeg.clone());
    of_split("test", "x9", None, &[], png(3));
    folder.aokvqa("from", None).unwrap();
    let problems = folder.problems();
    let [one, hidden] = &problems[..] else { panic!("{problems:?}") };
    assert_eq!((one.problem_id.as_str(), one.split.as_str(), one.answer_index), ("22jb", "val", Some(1)));
    assert_eq!(one.solution, "He smokes. It is lit.");
    assert_eq!(one.image.as_deref(), Some("images/22jb.jpg"), "by its bytes, not its path");
    assert_eq!(fs::read(folder.path("data/images/22jb.jpg")).unwrap(), jpeg);
    assert_eq!((hidden.split.as_str(), hidden.answer_index), ("test", None));
    let before = folder.contents();
    folder.aokvqa("from", None).unwrap();
    assert_eq!(folder.contents(), before);
    // −1 hides an answer in test, nowhere else.
    of_split("test", "x9", Some(-1), &[], png(3));
    folder.aokvqa("from", None).unwrap();
    assert_eq!(folder.contents(), before);
    of_split("train", "y1", Some(-1), &[], png(4));
    assert_eq!(
        folder.aokvqa("from", None).unwrap_err(),
        "@/from/data/train-00000-of-00001-abc.parquet, row 0: `correct_choice_idx`: expected a whole number from 0, found -1"
    );
    assert_eq!(folder.contents(), before);
}

fn import(folder: &Folder, from: &str, map: &[(&str, &str)], split: Option<&str>) -> Result<(), String> {
    folder.run(Command::Parquet {
        from: vec![folder.path(from)],
        map: map.iter().map(|(field, column)| ((*field).to_owned(), (*column).to_owned())).collect(),
        data: folder.path("data"),
        images: None,
        split: split.map(str::to_owned),
        licence: "CC0-1.0".to_owned(),
    })
}

#[test]
fn other_layouts_by_a_map_of_columns() {
    // Options in a struct beside their labels, the answer a letter, the picture a path.
    let folder = Folder::new();
    let inner = StructArray::from(vec![
        (
            Arc::new(Field::new(
                "label",
                DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))),
                true,
            )),
            lists(&[&["A", "B"]]),
        ),
        (
            Arc::new(Field::new(
                "text",
                DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))),
                true,
            )),
            lists(&[&["cat", "dog"]]),
        ),
    ]);
    let given = vec![
        ("id", Arc::new(Int64Array::from(vec![17])) as ArrayRef),
        ("query", texts(["Which barks?"])),
        ("options", Arc::new(inner)),
        ("key", texts(["B"])),
        ("file", texts(["pictures/17.png"])),
        ("level", Arc::new(Int32Array::from(vec![3]))),
        ("part", texts(["dev"])),
    ];
    write(&folder.path("own/all.parquet"), given);
    folder.write("own/pictures/17.png", png(5));
    let map = [
        ("problem_id", "id"),
        ("question", "query"),
        ("choices", "options.text"),
        ("answer_index", "key"),
        ("image", "file"),
        ("grade", "level"),
        ("split", "part"),
    ];
    import(&folder, "own/all.parquet", &map, None).unwrap();
    let [problem] = &folder.problems()[..] else { panic!() };
    assert_eq!((problem.problem_id.as_str(), problem.split.as_str()), ("17", "val"));
    assert_eq!((problem.choices.join(","), problem.answer_index), ("cat,dog".to_owned(), Some(1)));
    assert_eq!((problem.grade.as_deref(), problem.source.as_str()), (Some("3"), "data"));
    assert_eq!(fs::read(folder.path("data/images/17.png")).unwrap(), png(5));

    // A column for each option, the last of them empty for some; the answer as text; the split by --split.
    let folder = Folder::new();
    let last: StringArray = vec![Some("fish"), None].into_iter().collect();
    let given = vec![
        ("question", texts(["Which swims?", "Which barks?"])),
        ("A", texts(["cat", "cat"])),
        ("B", texts(["dog", "dog"])),
        ("C", Arc::new(last) as ArrayRef),
        ("answer", texts(["fish", "dog"])),
    ];
    write(&folder.path("own.parquet"), given);
    let map = [("choices", "A+B+C")];
    import(&folder, "own.parquet", &map, Some("test")).unwrap();
    let seen: Vec<_> =
        folder.problems().into_iter().map(|p| (p.split, p.choices.len(), p.answer_index)).collect();
    assert_eq!(seen, [("test".to_owned(), 3, Some(2)), ("test".to_owned(), 2, Some(1))]);
}

#[test]
fn refusals_name_the_file_the_row_and_the_column() {
    let refuses = |expected: &str, folder: &Folder, result: Result<(), String>| {
        assert_eq!(result.unwrap_err(), expected);
        assert!(!folder.path("data").exists(), "{expected}");
    };
    let folder = Folder::new();
    let mut some = columns(&rows());
    some.retain(|(name, _)| ["image", "question", "hint"].contains(name));
    write(&folder.path("from/train.parquet"), some);
    let has = "the file has image (struct of bytes, path), question (text), hint (text)";
    refuses(
        &format!(
            "@/from/train.parquet: expected columns `choices`, `answer` or `answer_index` (for answer_index), found none; {has}"
        ),
        &folder,
        folder.scienceqa("from"),
    );
    refuses(
        &format!(
            "@/from/train.parquet: expected columns `options` (for choices), `hint.a` (for lecture), found none; {has}"
        ),
        &folder,
        import(&folder, "from", &[("choices", "options"), ("lecture", "hint.a")], None),
    );
    refuses(
        "--map: unknown field `answer`; known: problem_id, split, question, choices, answer_index, hint, caption, lecture, solution, \
         image, subject, topic, category, skill, grade, source",
        &folder,
        import(&folder, "from", &[("answer", "key")], None),
    );
    write(&folder.path("mine.parquet"), columns(&rows()));
    let error = import(&folder, "mine.parquet", &[("answer_index", "answer")], None).unwrap_err();
    assert!(
        error.starts_with(
            "@/mine.parquet, row 0: cannot tell the split: expected files named train-*.parquet"
        ),
        "{error}"
    );

    // Pictures: all that are broken, with their problems.
    let mut rows = rows();
    let whole = png(1);
    rows[0].image = Some(whole[..whole.len() / 2].to_vec());
    rows[2].image = Some(b"BM, and then a bitmap of many bytes".to_vec());
    rows[4].image = Some(b"<html>not found</html>".to_vec());
    write(&folder.path("from/train.parquet"), columns(&rows));
    let error = folder.scienceqa("from").unwrap_err();
    let without_ids: String = {
        let mut parts = error.split("problem `train-");
        let first = parts.next().unwrap().to_owned();
        parts.fold(first, |text, part| text + "problem " + &part[16..])
    };
    refuses(
        "@/from: expected a PNG, JPEG, GIF or WebP picture, found 3 broken ones: problem ` (@/from/train.parquet, row 0): it is cut \
         off, problem ` (@/from/train.parquet, row 2): it is a Bmp picture, problem ` (@/from/train.parquet, row 4): no known \
         picture format",
        &folder,
        Err(without_ids),
    );
    let mut broken = columns(&self::rows());
    broken[0].1 = Arc::new(Int8Array::from(vec![1; 5]));
    write(&folder.path("from/train.parquet"), broken);
    refuses(
        "@/from/train.parquet, row 0: `image`: expected a picture: bytes, a path, or a struct of both, found int8",
        &folder,
        folder.scienceqa("from"),
    );

    // Files that are no Parquet, cut off, or compressed in other ways.
    write(&folder.path("from/train.parquet"), columns(&self::rows()));
    let bytes = fs::read(folder.path("from/train.parquet")).unwrap();
    folder.write("from/train.parquet", &bytes[..bytes.len() - 9]);
    let error = folder.scienceqa("from").unwrap_err();
    assert!(error.starts_with("@/from/train.parquet is not a readable Parquet file: "), "{error}");
    for name in ["gzip", "brotli"] {
        let stored = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/parquet/{name}.parquet"));
        folder.write("from/train.parquet", fs::read(stored).unwrap());
        let error = folder.scienceqa("from").unwrap_err();
        assert_eq!(
            error,
            format!("@/from/train.parquet: compression: expected zstd, snappy or none, found {name}")
        );
    }
    assert!(!folder.path("data").exists());
}

/// Large pictures in one row group are read in several batches, twice: each must come to its own row.
#[test]
fn a_wide_row_group_is_read_in_pieces() {
    let folder = Folder::new();
    let large: Vec<Vec<u8>> = (0..12).map(|seed| picture(seed, 900, ImageFormat::Png)).collect();
    assert!(large.iter().all(|bytes| bytes.len() > 1 << 20), "batches of less than 12 rows");
    let rows: Vec<Row> = large
        .iter()
        .map(|bytes| Row { question: "Q?", answer: Some(0), image: Some(bytes.clone()) })
        .collect();
    write(&folder.path("from/train.parquet"), columns(&rows));
    folder.scienceqa("from").unwrap();
    for (problem, bytes) in folder.problems().iter().zip(&large) {
        assert!(fs::read(folder.path("data").join(problem.image.as_ref().unwrap())).unwrap() == *bytes);
    }
}

fn rationales(
    folder: &Folder,
    from: &str,
    written_by: Option<&str>,
    map: &[(&str, &str)],
) -> Result<(), String> {
    folder.run(Command::Rationales {
        from: folder.path(from),
        data: folder.path("data"),
        round: 1,
        split: None,
        skip_unknown: false,
        written_by: written_by.map(str::to_owned),
        map: map.iter().map(|(field, column)| ((*field).to_owned(), (*column).to_owned())).collect(),
    })
}

#[test]
fn models_that_wrote_the_same_are_imported_again_without_a_change() {
    let folder = Folder::new();
    science(&folder, &[&rows()]);
    folder.scienceqa("from").unwrap();
    let id = folder.problems().remove(0).problem_id;
    let line =
        |model: &str| format!("{{\"problem_id\":\"{id}\",\"rationale\":\"a.\",\"model\":\"{model}\"}}\n");
    folder.write("r.jsonl", line("A") + &line("B"));
    rationales(&folder, "r.jsonl", None, &[]).unwrap();
    let before = folder.contents();
    rationales(&folder, "r.jsonl", None, &[]).unwrap();
    assert_eq!(folder.contents(), before);
    let error = rationales(&folder, "r.jsonl", Some("C"), &[]).unwrap_err();
    assert!(error.contains("as rationales of `import:A`, `import:B`, not of `import:C`"), "{error}");
}

#[test]
fn rationales_from_parquet_know_who_wrote_them() {
    let folder = Folder::new();
    science(&folder, &[&rows()]);
    folder.scienceqa("from").unwrap();
    let ids: Vec<String> = folder.problems().into_iter().map(|problem| problem.problem_id).collect();
    let given = vec![
        ("problem_id", texts([ids[0].as_str(), &ids[1]])),
        ("response", lists(&[&["One. Two.", "Three."], &["Four."]])),
    ];
    write(&folder.path("r.parquet"), given);
    let map = [("rationale", "response")];
    rationales(&folder, "r.parquet", Some("Qwen/Qwen2.5-VL-7B-Instruct"), &map).unwrap();
    let seen = |folder: &Folder| -> Vec<(String, u32, String, String)> {
        let rollouts = folder.dataset().read::<Rollout>(1).unwrap();
        rollouts.into_iter().map(|r| (r.problem_id, r.sample, r.rationale, r.policy)).collect()
    };
    let policy = "import:Qwen/Qwen2.5-VL-7B-Instruct".to_owned();
    let expected = [(0, 0, "One. Two."), (0, 1, "Three."), (1, 0, "Four.")].map(
        |(problem, sample, text): (usize, u32, &str)| {
            (ids[problem].clone(), sample, text.to_owned(), policy.clone())
        },
    );
    assert_eq!(seen(&folder), expected);
    let before = folder.contents();
    rationales(&folder, "r.parquet", Some("Qwen/Qwen2.5-VL-7B-Instruct"), &map).unwrap();
    assert_eq!(folder.contents(), before);
    assert_eq!(
        rationales(&folder, "r.parquet", Some("another"), &map).unwrap_err(),
        "@/r.parquet: was imported into round 1 before as rationales of `import:Qwen/Qwen2.5-VL-7B-Instruct`, not of `import:another`"
    );
    let error = rationales(&folder, "r.parquet", None, &[]).unwrap_err();
    assert!(
        error.starts_with(
            "@/r.parquet: expected a column `rationale`, found none; the file has problem_id (text), "
        ),
        "{error}"
    );
    assert_eq!(folder.contents(), before);

    // A model for each row; the same text by another model is another sample.
    folder.write(
        "more.jsonl",
        format!("{{\"problem_id\": \"{}\", \"rationale\": \"Four.\", \"model\": \"m-2\"}}\n", ids[1]),
    );
    rationales(&folder, "more.jsonl", None, &[]).unwrap();
    let last = seen(&folder).into_iter().find(|(_, _, _, policy)| policy == "import:m-2").unwrap();
    assert_eq!((last.0, last.1), (ids[1].clone(), 1));
    let lines = format!("{{\"problem_id\": \"{}\", \"rationale\": \"Five.\"}}\n", ids[1]);
    folder.write("unnamed.jsonl", lines);
    rationales(&folder, "unnamed.jsonl", None, &[]).unwrap();
    let policies: Vec<String> = seen(&folder).into_iter().map(|row| row.3).collect();
    assert!(policies.iter().any(|policy| policy.len() == "import:".len() + 16), "{policies:?}");
}

/// The process is killed once a number of pictures are there: no dataset is seen before it is whole, and the next import
/// completes it.
#[test]
fn a_killed_import_is_completed_by_the_next() {
    let folder = Folder::new();
    let rows: Vec<Row> = (0..120)
        .map(|seed| Row { question: "Q?", answer: Some(0), image: Some(picture(seed, 90, ImageFormat::Png)) })
        .collect();
    science(&folder, &[&rows]);
    folder.scienceqa("from").unwrap();
    let expected = folder.contents();
    let images = folder.path("data/images");
    let count = || fs::read_dir(&images).map_or(0, Iterator::count);
    let mut cut_off = 0;
    for pictures in [1, 40, 80, 110] {
        fs::remove_dir_all(folder.path("data")).unwrap();
        let mut running = std::process::Command::new(env!("CARGO_BIN_EXE_collect-feedback"))
            .args(["import", "scienceqa", "--from"])
            .arg(folder.path("from"))
            .arg("--data")
            .arg(folder.path("data"))
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while count() < pictures && running.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        running.kill().unwrap();
        running.wait().unwrap();
        let is_there = folder.path("data/problems.parquet").is_file();
        assert!(!is_there || count() == 121, "problems only with all their pictures");
        cut_off += usize::from(!is_there);
        folder.scienceqa("from").unwrap();
        assert!(folder.contents() == expected, "after {pictures} pictures");
    }
    assert!(cut_off > 0, "no import was killed in the middle");
}
