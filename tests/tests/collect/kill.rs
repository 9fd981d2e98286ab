//! Kill -9 and Ctrl-C at any moment. `ARES_KILLS=50` kills that often.

use crate::shared::{Place, fast};
use std::process::Command;
use std::time::Duration;
use workspace_tests::command::{collect_feedback, run, start};
use workspace_tests::teacher_service::Options;

#[test]
fn kill_nine_at_random_moments_loses_at_most_what_was_in_flight() {
    const CONCURRENCY: u64 = 16;
    let wanted: u64 = std::env::var("ARES_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(5);
    let calm = Place::new(750, 4);
    let options = Options { latency: Duration::from_millis(40), ..fast() };
    let service = calm.service(options.clone());
    assert_eq!(calm.collect(&service, &["--stage", "scores"]).status, Some(0));
    let expected = calm.tables();
    let needed = service.stats().requests;

    let place = Place::new(750, 4);
    let service = place.service(options);
    let url = service.url();
    let concurrency = CONCURRENCY.to_string();
    let arguments = [
        "--round",
        "1",
        "--stage",
        "scores",
        "--teacher",
        "openai",
        "--base-url",
        &url,
        "--concurrency",
        &concurrency,
    ];
    let mut kills = 0;
    let mut moment = 17_u64;
    while kills < wanted {
        let before = service.stats().requests;
        let mut child = start(collect_feedback(place.path(), &arguments)).unwrap();
        moment = moment.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Every fifth run is killed before it sends anything, the others while requests are in flight,
        // regardless of the machine's speed.
        let amid = !kills.is_multiple_of(5);
        let mut ended = false;
        while amid && !ended && service.stats().requests == before {
            std::thread::sleep(Duration::from_millis(2));
            ended = child.try_wait().unwrap().is_some();
        }
        std::thread::sleep(Duration::from_millis((moment >> 33) % 60));
        if ended || child.try_wait().unwrap().is_some() {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    assert_eq!(run(collect_feedback(place.path(), &arguments)).unwrap().status, Some(0));
    assert_eq!(kills, wanted, "it ended before the last kill");
    assert_eq!(place.tables(), expected);
    let sent = service.stats().requests;
    println!("{kills} kills: {sent} requests arrived, {needed} were needed");
    assert!(sent <= needed + kills * CONCURRENCY, "{sent} sent, {needed} needed, {kills} kills");
}

#[test]
fn interrupt_keeps_every_paid_reply() {
    let place = Place::new(100, 4);
    let service = place.service(Options { latency: Duration::from_millis(100), ..fast() });
    let url = service.url();
    let arguments = [
        "--round",
        "1",
        "--stage",
        "scores",
        "--teacher",
        "openai",
        "--base-url",
        &url,
        "--concurrency",
        "8",
    ];
    let mut child = start(collect_feedback(place.path(), &arguments)).unwrap();
    std::thread::sleep(Duration::from_millis(1_000));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let answered = service.stats().good;
    assert!(answered > 0 && answered < 380, "{answered}");
    assert_eq!(place.tables().requests.iter().filter(|row| !row.cached).count() as u64, answered);
    assert_eq!(run(collect_feedback(place.path(), &arguments)).unwrap().status, Some(0));
    assert_eq!(service.stats().requests, 380, "nothing is paid for twice");
    assert_eq!(place.tables().scores.len(), 1_200);
}
