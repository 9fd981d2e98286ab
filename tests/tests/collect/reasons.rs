//! Reasons of scores, if the Teacher is asked for them.

use crate::shared::{Place, fast};
use std::collections::HashSet;
use workspace_tests::command::{collect_feedback, run};
use workspace_tests::teacher_service::{Options, Service};

const SCORES: [&str; 2] = ["--stage", "scores"];

#[test]
fn scores_come_with_reasons_alone_and_in_groups() {
    let plain = Place::new(20, 4);
    let service = plain.service(fast());
    assert_eq!(plain.collect(&service, &SCORES).status, Some(0));
    let expected = plain.tables().scores;
    assert!(expected.iter().all(|row| row.reason.is_none()));
    let scored = |rows: &[schemas::Score]| -> Vec<(String, u32, f32)> {
        rows.iter().map(|row| (row.rollout_id.clone(), row.sentence_index, row.score)).collect()
    };
    for (teacher, who) in
        [("openai", Service::default()), ("anthropic", Service::Anthropic), ("reference", Service::default())]
    {
        for most in ["1", "0"] {
            let place = Place::new(20, 4);
            let service = place.service(Options { service: who, ..fast() });
            let url = service.url();
            let mut arguments = vec!["--round", "1", "--stage", "scores", "--teacher", teacher];
            arguments.extend(["--reasons", "true", "--samples-per-request", most]);
            if teacher != "reference" {
                arguments.extend(["--base-url", &url]);
            }
            let mut command = collect_feedback(place.path(), &arguments);
            command.env("ANTHROPIC_API_KEY", "a-key");
            let ran = run(command).unwrap();
            assert_eq!(ran.status, Some(0), "{}", ran.stderr);
            let tables = place.tables();
            assert_eq!(scored(&tables.scores), scored(&expected), "{teacher} {most}");
            let without = tables.scores.iter().filter(|row| row.reason.is_none()).count();
            assert_eq!(without, 0, "{teacher} {most}");
            if teacher != "reference" {
                let right = tables.scores.iter().find(|row| row.score >= 0.5).unwrap();
                assert_eq!(right.reason.as_deref(), Some("It is \"right\" so far."));
                let asked = service.requests();
                assert!(
                    asked.iter().all(|one| one.body.to_string().contains("Give a reason for every score"))
                );
            }
            assert_eq!(place.reference(&["rebuild"]).status, Some(0));
            assert_eq!(place.tables().scores, tables.scores, "rebuilt with its reasons");
            let page = place.folder.path().join("report.html");
            let ran = place.reference(&["report", "--round", "1", "--out", page.to_str().unwrap()]);
            assert_eq!(ran.status, Some(0), "{}", ran.stderr);
            let said = tables.scores[0].reason.as_deref().unwrap().replace('"', "\\\"");
            assert!(std::fs::read_to_string(page).unwrap().contains(&said), "{said}");
        }
    }
}

#[test]
fn asking_for_reasons_later_buys_nothing_again() {
    let place = Place::grouped(20, 4);
    let service = place.service(fast());
    assert_eq!(place.collect(&service, &SCORES).status, Some(0));
    let before = place.tables();
    let ran = place.collect(&service, &[&SCORES[..], &["--reasons", "true"]].concat());
    assert!(ran.stdout.contains("nothing to do"), "{}{}", ran.stdout, ran.stderr);
    assert_eq!((service.stats().requests, place.tables()), (20, before));
    // Requests of other kinds are the same as without reasons.
    for reasons in ["true", "false"] {
        let ran = place.collect(&service, &["--stage", "corrections", "--reasons", reasons]);
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    }
    let keys: HashSet<_> = place.tables().corrections.iter().map(|row| row.request_key.clone()).collect();
    let other = Place::grouped(20, 4);
    assert_eq!(other.collect(&service, &["--stage", "corrections"]).status, Some(0));
    assert_eq!(
        other.tables().corrections.iter().map(|row| row.request_key.clone()).collect::<HashSet<_>>(),
        keys
    );
}
