//! The dataset folder: its lock, its card, its rounds and parts.

use crate::support::{self, message, names};
use crate::write_golden::{Golden, provenance};
use schemas::{Dataset, DatasetCard, Rollout, Score};
use std::fs;

#[test]
fn a_second_lock_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("new");
    let dataset = Dataset::at(&root);
    let lock = dataset.lock("collect-feedback").unwrap();
    let error = dataset.lock("collect-feedback").unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{0} is in use by another collect-feedback (its lock file is {0}/.collect-feedback.lock)",
            root.display()
        )
    );
    assert!(error.is_bad_input());
    let _other_program = dataset.lock("train").unwrap();
    drop(lock);
    let _again = dataset.lock("collect-feedback").unwrap();
}

#[test]
fn rounds_and_parts_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::at(folder.path());
    let of_round = |round| Score::golden().into_iter().map(move |row| Score { round, ..row });
    for round in [10, 2] {
        dataset.write_part(round, "00007", of_round(round), &provenance()).unwrap();
    }
    fs::create_dir_all(dataset.round_dir::<Score>(3)).unwrap();
    fs::create_dir_all(folder.path().join("scores/round-x")).unwrap();
    fs::write(folder.path().join("scores/.DS_Store"), "").unwrap();
    assert_eq!(dataset.rounds::<Score>().unwrap(), [2, 10]);

    dataset.write_part(2, "00008", of_round(2).take(1), &provenance()).unwrap();
    assert_eq!(names(&dataset.round_dir::<Score>(2)), ["part-00007.parquet", "part-00008.parquet"]);
    assert_eq!(dataset.count::<Score>(2).unwrap(), 4);
    assert_eq!(dataset.read::<Score>(2).unwrap().len(), 4);
    assert_eq!(dataset.count::<Score>(1).unwrap(), 0);

    // A part that was copied from another round.
    let copy = dataset.part_path::<Score>(2, "00009");
    fs::copy(dataset.part_path::<Score>(10, "00007"), &copy).unwrap();
    #[derive(serde::Deserialize, Debug)]
    struct Of {
        #[expect(dead_code)]
        rollout_id: String,
    }
    let told = format!("{}: column `round`, row 0: expected 2, found 10", copy.display());
    assert_eq!(dataset.read::<Score>(2).unwrap_err().to_string(), told);
    let projected = dataset.project::<Score, Of>(2, &["rollout_id"]);
    assert_eq!(projected.unwrap_err().to_string(), told, "also where the column was not asked for");
}

#[test]
fn card() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::at(folder.path().join("mine"));
    let card = DatasetCard {
        name: "mine".into(),
        source: "a \"quoted\" source".into(),
        licence: "CC BY 4.0".into(),
        created_by: "a test".into(),
    };
    dataset.write_card(&card).unwrap();
    assert_eq!(dataset.card().unwrap(), card);
    assert_eq!(dataset.name(), "mine");

    fs::write(dataset.card_path(), "name = \"mine\"\n").unwrap();
    let message = message(dataset.card());
    let path = dataset.card_path().display().to_string();
    assert!(message.starts_with(&path) && message.contains("missing field `source`"), "{message}");
}

#[test]
fn a_dataset_is_chosen_by_folder() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("absent");
    assert_eq!(
        message(Dataset::choose(Some(root.clone()))),
        format!("{} is not a dataset folder: problems.parquet is missing", root.display())
    );
}

/// The round's folder is replaced while its rows are read.
#[test]
fn a_reader_goes_on_with_the_parts_that_it_began_with() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::at(folder.path());
    let rows = |count: usize| vec![Score::golden(); count].concat();
    let write = |name: &str, rows: Vec<Score>| {
        dataset.write_part(1, name, rows, &provenance()).unwrap();
    };
    write("00000", rows(1));
    write("00001", rows(2));
    let mut reader = dataset.stream::<Score>(1).unwrap();
    let first = reader.next().unwrap().unwrap();
    let live = dataset.round_dir::<Score>(1);
    std::fs::rename(&live, live.with_file_name("old")).unwrap();
    write("00002", rows(7));
    std::fs::remove_dir_all(live.with_file_name("old")).unwrap();
    let rest: Vec<Score> = reader.map(Result::unwrap).collect();
    assert_eq!([vec![first], rest].concat(), rows(3), "the old set");
    assert_eq!(dataset.read::<Score>(1).unwrap(), rows(7), "the new one");
}

/// A dataset of an earlier version, with rounds 1 and 2 of two tables.
fn earlier() -> (tempfile::TempDir, Dataset) {
    let folder = tempfile::tempdir().unwrap();
    let dataset = Dataset::at(folder.path());
    for round in [1, 2] {
        let scores = Score::golden().into_iter().map(|row| Score { round, ..row });
        dataset.write_part(round, "00000", scores, &provenance()).unwrap();
        let rollouts = Rollout::golden().into_iter().map(|row| Rollout { round, ..row });
        dataset.write_part(round, "00000", rollouts, &provenance()).unwrap();
        for table in ["scores", "rollouts"] {
            let table = folder.path().join(table);
            fs::rename(table.join(format!("round-{round}")), table.join(format!("round={round}"))).unwrap();
        }
    }
    (folder, dataset)
}

#[test]
fn folders_of_an_earlier_version_are_read_and_renamed_under_the_lock() {
    let (folder, dataset) = earlier();
    let rows = |dataset: &Dataset| {
        assert_eq!(dataset.rounds::<Score>().unwrap(), [1, 2]);
        assert_eq!(dataset.count::<Rollout>(2).unwrap(), Rollout::golden().len() as u64);
        [dataset.read::<Score>(1).unwrap(), dataset.read::<Score>(2).unwrap()].concat()
    };
    let names = |table: &str| names(&folder.path().join(table));
    let before = rows(&dataset);
    assert_eq!(before.len(), 2 * Score::golden().len());
    assert_eq!(names("scores"), ["round=1", "round=2"], "reading changes nothing");

    // A part written in the meantime joins the others.
    dataset
        .write_part(
            2,
            "00001",
            Score::golden().into_iter().map(|row| Score { round: 2, ..row }),
            &provenance(),
        )
        .unwrap();
    assert_eq!(names("scores"), ["round=1", "round=2"]);
    dataset.remove_part::<Score>(2, "00001").unwrap();

    // While the other program runs, its tables keep their names: it may only know the old ones.
    let train =
        fs::File::options().create(true).write(true).truncate(false).open(folder.path().join(".train.lock"));
    let train = train.unwrap();
    train.lock().unwrap();
    drop(dataset.lock("collect-feedback").unwrap());
    assert_eq!([names("scores"), names("rollouts")], [["round-1", "round-2"], ["round=1", "round=2"]]);
    assert_eq!(rows(&dataset), before);
    drop(train);
    drop(dataset.lock("collect-feedback").unwrap());
    assert_eq!([names("scores"), names("rollouts")], [["round-1", "round-2"]; 2]);
    assert_eq!(rows(&dataset), before);

    let (folder, dataset) = earlier();
    drop(dataset.lock("train").unwrap());
    assert_eq!(support::names(&folder.path().join("scores")), ["round-1", "round-2"]);
    assert_eq!(rows(&dataset), before);
}

/// A part found under the old name is found again under the new one.
#[test]
fn a_reader_goes_on_while_the_folder_is_renamed() {
    let (folder, dataset) = earlier();
    for number in 1..200 {
        let rows = Score::golden().into_iter().take(1);
        dataset.write_part(1, &format!("{number:05}"), rows, &provenance()).unwrap();
    }
    let expected = Score::golden().len() + 199;
    let mut reader = dataset.stream::<Score>(1).unwrap();
    reader.next().unwrap().unwrap();
    drop(dataset.lock("train").unwrap());
    assert_eq!(names(&folder.path().join("scores")), ["round-1", "round-2"]);
    assert_eq!(1 + reader.map(Result::unwrap).count(), expected);
}
