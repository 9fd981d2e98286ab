//! A file appears atomically.

use crate::support::{message, names};
use crate::write_golden::{Golden, provenance};
use schemas::table::{self, TableWriter};
use schemas::{Correction, Dataset, Rollout, Score};
use std::fs;

#[test]
fn a_dropped_writer_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("part-00000.parquet");
    let mut writer = TableWriter::<Score>::create(&path, &provenance()).unwrap();
    assert!(writer.is_empty());
    for row in vec![Score::golden().swap_remove(0); 10_000] {
        writer.push(row).unwrap();
    }
    assert_eq!(writer.len(), 10_000);
    assert_eq!(names(folder.path()), [".writing-part-00000.parquet"]);
    let dataset = Dataset::at(folder.path());
    assert_eq!(dataset.rounds::<Score>().unwrap(), []);
    drop(writer);
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn a_dropped_writer_leaves_the_older_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("part-sft.parquet");
    table::write(&path, Correction::golden(), &provenance()).unwrap();
    let before = fs::read(&path).unwrap();
    let mut writer = TableWriter::<Correction>::create(&path, &provenance()).unwrap();
    writer.push(Correction::golden().swap_remove(1)).unwrap();
    drop(writer);
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(names(folder.path()), ["part-sft.parquet"]);
}

#[test]
fn what_a_killed_process_left_is_no_part_and_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::at(folder.path());
    let round = dataset.round_dir::<Score>(1);
    fs::create_dir_all(&round).unwrap();
    fs::write(round.join(".writing-part-00000.parquet"), "PAR1").unwrap();
    assert!(dataset.parts::<Score>(1).unwrap().is_empty());
    assert!(dataset.rounds::<Score>().unwrap().is_empty());

    assert_eq!(dataset.write_part(1, "00000", Score::golden(), &provenance()).unwrap(), 3);
    assert_eq!(names(&round), ["part-00000.parquet"]);
    assert_eq!(dataset.read::<Score>(1).unwrap(), Score::golden());
}

#[test]
fn a_row_that_breaks_its_declaration_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("part-00000.parquet");
    let mut rows = Score::golden();
    rows[1].score = f32::NAN;
    assert_eq!(
        message(table::write(&path, rows, &provenance())),
        format!("{}: column `score`, row 1: expected a number from 0 to 1, found NaN", path.display())
    );
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn a_folder_that_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::at(folder.path());
    // A plain file in place of the table's folder makes writing fail even for root.
    let file = folder.path().join("rollouts");
    fs::write(&file, "not a folder").unwrap();
    assert_eq!(
        message(dataset.write_part(1, "00000", Rollout::golden(), &provenance())),
        format!("cannot create {}/round-1: Not a directory (os error 20)", file.display())
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), "not a folder");
    assert_eq!(names(folder.path()), ["rollouts"]);
}

#[cfg(unix)]
#[test]
fn a_read_only_folder() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("part-sft.parquet");
    table::write(&path, Correction::golden(), &provenance()).unwrap();
    let before = fs::read(&path).unwrap();
    let allow = |mode| fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
    allow(0o555);
    if fs::write(folder.path().join("probe"), "").is_ok() {
        allow(0o755);
        eprintln!("skipped: this user may write to read-only folders");
        return;
    }
    let result = table::write(&path, Correction::golden(), &provenance());
    allow(0o755);
    let temporary = folder.path().join(".writing-part-sft.parquet");
    assert_eq!(
        message(result),
        format!("cannot create {}: Permission denied (os error 13)", temporary.display())
    );
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(names(folder.path()), ["part-sft.parquet"]);
}
