//! Pictures that the published source never had, and rollouts that came from elsewhere.

use crate::shared::{Place, fast};
use schemas::Rollout;
use std::collections::HashSet;
use workspace_tests::small_dataset::write_rollouts;

fn texts(place: &Place) -> Vec<String> {
    let cache = rusqlite::Connection::open(place.dataset.feedback_path()).unwrap();
    let mut statement = cache.prepare("SELECT user_text FROM asks WHERE problem_id = 'p3'").unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

#[test]
fn problems_whose_picture_the_source_never_had_are_asked_with_a_remark() {
    let place = Place::new(6, 2);
    for gone in ["p0", "p3"] {
        std::fs::remove_file(place.path().join(format!("images/{gone}.png"))).unwrap();
    }
    std::fs::write(place.path().join("images/missing.txt"), "p3\n").unwrap();
    let service = place.service(fast());
    let arguments = ["--stage", "scores"];
    let ran = place.collect(&service, &arguments);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let warning = "warning: 2 of 12 items have no picture in the source; they are asked without it\n";
    assert!(ran.stderr.starts_with(warning), "{}", ran.stderr);
    let tables = place.tables();
    assert_eq!(tables.rejects.len(), 2, "a picture that vanished later is still a reject");
    assert!(tables.rejects.iter().all(|row| row.reason == "missing image: images/p0.png"));
    assert_eq!((tables.scores.len(), service.stats().images), (30, 0));
    let texts = texts(&place);
    assert!(
        texts.len() == 2
            && texts.iter().all(|text| text.contains("\n(the picture is not available)\n</problem>"))
    );
    assert!(place.collect(&service, &arguments).stdout.contains("nothing due"));
}

#[test]
fn picture_that_was_put_there_since_is_shown() {
    let place = Place::new(6, 2);
    std::fs::write(place.path().join("images/missing.txt"), "p0\np3\n").unwrap();
    let service = place.service(fast());
    let ran = place.collect(&service, &["--stage", "scores"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(!ran.stderr.contains("no picture in the source"), "{}", ran.stderr);
    assert_eq!(service.stats().images, 4);
}

#[test]
fn imported_and_sampled_rollouts_of_one_round_are_scored_side_by_side() {
    let place = Place::new(4, 2);
    std::fs::remove_dir_all(place.path().join("rollouts")).unwrap();
    let file = place.folder.path().join("theirs.json");
    std::fs::write(&file, r#"{"p1": "Their own words. Red is more.", "p2": "Other words. Blue is more."}"#)
        .unwrap();
    let data = place.path().display().to_string();
    let mut import = std::process::Command::new(workspace_tests::command::binary("collect-feedback"));
    import.args(["import", "rationales", "--round", "1", "--data", &data, "--from"]).arg(&file);
    assert!(import.output().unwrap().status.success());
    write_rollouts(&place.dataset, "00000", 0..4, 2).unwrap();
    let rollouts: Vec<Rollout> = place.dataset.read(1).unwrap();
    let ids: HashSet<_> = rollouts.iter().map(|rollout| &rollout.rollout_id).collect();
    assert_eq!((rollouts.len(), ids.len()), (10, 10));
    let ran = place.reference(&["--round", "1", "--stage", "scores"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let scored: HashSet<_> = place.tables().scores.into_iter().map(|row| row.rollout_id).collect();
    assert_eq!(scored.len(), 10);
    assert!(place.reference(&["status"]).stdout.contains("The books balance"));
}
