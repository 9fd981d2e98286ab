//! Pictures: those that the published source never had, those that must not be sent, and large ones. Also
//! rollouts from other sources.

use crate::shared::{Place, fast};
use schemas::{Problem, Rollout};
use std::collections::HashSet;
use workspace_tests::command::{Ran, collect_feedback, run};
use workspace_tests::small_dataset::{PICTURE, problem, provenance, rollout, show_pictures, write_rollouts};
use workspace_tests::teacher_service::TeacherService;

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
    let warning = "warning: the source has no picture for 2 of 12 items; the Teacher is asked without it\n";
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
    assert!(place.collect(&service, &arguments).stdout.contains("nothing to do"));
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

/// Scores round 1 through a provider's API.
fn score(place: &Place, service: &TeacherService, teacher: &str, more: &[&str]) -> Ran {
    let url = service.url();
    let mut arguments = vec!["--round", "1", "--stage", "scores", "--teacher", teacher, "--base-url", &url];
    arguments.extend(more);
    run(collect_feedback(place.path(), &arguments)).unwrap()
}

/// Two problems with the same text, the same rationale, and these pictures.
fn alike(pictures: [&str; 2]) -> Place {
    let place = Place::new(2, 1);
    let problems = pictures.iter().zip(["p0", "p1"]).map(|(path, id)| Problem {
        problem_id: id.to_owned(),
        image: Some((*path).to_owned()),
        ..problem(0)
    });
    schemas::table::write(&place.dataset.problems_path(), problems, &provenance()).unwrap();
    let rollouts = ["p0", "p1"].map(|id| Rollout {
        rollout_id: Rollout::id(id, 1, 0),
        problem_id: id.to_owned(),
        ..rollout(0, 0)
    });
    std::fs::remove_dir_all(place.path().join("rollouts")).unwrap();
    place.dataset.write_part(1, "00000", rollouts, &provenance()).unwrap();
    place
}

#[test]
fn two_problems_alike_but_for_the_picture_are_two_requests() {
    for (second, requests) in [(PICTURE.to_vec(), 1), ([PICTURE, b"another"].concat(), 2)] {
        for teacher in ["openai", "anthropic"] {
            let place = alike(["images/a.png", "images/b.png"]);
            std::fs::write(place.dataset.images_dir().join("a.png"), PICTURE).unwrap();
            std::fs::write(place.dataset.images_dir().join("b.png"), &second).unwrap();
            let service = place.service(fast());
            let ran = score(&place, &service, teacher, &[]);
            assert_eq!(ran.status, Some(0), "{}", ran.stderr);
            assert_eq!(service.stats().images, requests, "{teacher}");
            assert_eq!(place.tables().scores.len(), 6);
        }
    }
}

#[test]
fn pictures_outside_the_dataset_are_never_read() {
    for path in ["/private.png", "../private.png", "images/../../private.png", "images/link.png"] {
        let folder = tempfile::tempdir().unwrap();
        let outside = match path {
            "/private.png" => folder.path().join("private.png").display().to_string(),
            relative => relative.to_owned(),
        };
        let place = alike(["images/own.png", &outside]);
        std::fs::write(place.dataset.images_dir().join("own.png"), PICTURE).unwrap();
        let private = [PICTURE, b"private"].concat();
        for file in [place.folder.path().join("private.png"), folder.path().join("private.png")] {
            std::fs::write(file, &private).unwrap();
        }
        let link = place.dataset.images_dir().join("link.png");
        std::os::unix::fs::symlink(folder.path().join("private.png"), link).unwrap();
        let service = place.service(fast());
        let ran = score(&place, &service, "openai", &[]);
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        let tables = place.tables();
        assert_eq!((tables.scores.len(), service.stats().images), (3, 1), "{outside}");
        let [reject] = &tables.rejects[..] else { panic!("{outside}: {:?}", tables.rejects) };
        assert_eq!(reject.reason, format!("picture path leaves the dataset folder: {outside}"));
    }
}

#[test]
fn large_pictures_get_there_whole_one_by_one_and_in_batches() {
    for teacher in ["anthropic", "openai"] {
        for more in [&[][..], &["--batch"]] {
            let place = Place::new(6, 2);
            show_pictures(&place.dataset, 0..6, 300_000).unwrap();
            let service = place.service(fast());
            let ran = score(&place, &service, teacher, more);
            assert_eq!(ran.status, Some(0), "{}", ran.stderr);
            // The service decodes what it receives, so a byte too few or too many is an error.
            let tables = place.tables();
            assert_eq!((tables.scores.len(), tables.rejects.len()), (36, 0), "{teacher} {more:?}");
            assert_eq!(service.stats().images, 12, "{teacher} {more:?}");
        }
    }
}
