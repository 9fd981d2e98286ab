//! The budget, the estimate and the ledger.

use crate::shared::{Place, fast};
use std::time::Duration;
use workspace_tests::teacher_service::{Fault, Faults, Options};

fn dollars(place: &Place) -> f64 {
    place.tables().requests.iter().map(|row| row.cost_usd.unwrap()).sum()
}

#[test]
fn cap_stops_within_one_request_and_a_higher_one_goes_on() {
    let calm = Place::new(60, 4);
    let service = calm.service(fast());
    assert_eq!(calm.collect(&service, &["--stage", "scores", "--model", "gpt-4o"]).status, Some(0));
    let whole = dollars(&calm);
    let most = calm.tables().requests.iter().filter_map(|row| row.cost_usd).fold(0.0, f64::max);

    let place = Place::new(60, 4);
    let service = place.service(Options { latency: Duration::from_millis(10), ..fast() });
    let cap = whole / 2.0;
    let ran =
        place.collect(&service, &["--stage", "scores", "--model", "gpt-4o", "--max-usd", &cap.to_string()]);
    assert_eq!(ran.status, Some(3), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("higher --max-usd"), "{}", ran.stderr);
    let spent = dollars(&place);
    assert!(spent <= cap && cap - spent <= 1.6 * most, "cap {cap}, spent {spent}, one request {most}");
    let before = service.stats().good;
    let ran = place.collect(
        &service,
        &["--stage", "scores", "--model", "gpt-4o", "--max-usd", &(whole * 1.1).to_string()],
    );
    assert_eq!(ran.status, Some(0), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(service.stats().good, 228);
    assert!(before < 228 && service.stats().bought_again() == 0);
    assert_eq!(place.tables(), calm.tables());
}

#[test]
fn unknown_price_and_a_cap_do_not_go_together() {
    let place = Place::new(3, 1);
    let service = place.service(fast());
    let ran = place.collect(&service, &["--model", "my-llama", "--max-usd", "1"]);
    assert_eq!(ran.status, Some(2));
    assert!(ran.stderr.contains("expected a model with a known price, found `my-llama`"), "{}", ran.stderr);
    let ran = place.collect(&service, &["--model", "my-llama"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(place.tables().requests.iter().all(|row| row.cost_usd.is_none()));
    let prices = place.folder.path().join("prices.toml");
    let table =
        "as_of = \"2026-01-01\"\n[models.my-llama]\ninput = 1\noutput = 2\ncache_write = 1\ncache_read = 1\n";
    std::fs::write(&prices, table).unwrap();
    let ran = place
        .collect(&service, &["--model", "my-llama", "--max-usd", "1", "--prices", prices.to_str().unwrap()]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
}

#[test]
fn estimate_sends_nothing_and_is_near_the_ledger() {
    let place = Place::new(60, 4);
    let service = place.service(fast());
    let url = service.url();
    let ran = place.reference(&[
        "estimate",
        "--round",
        "1",
        "--stage",
        "scores",
        "--teacher",
        "openai",
        "--base-url",
        &url,
        "--model",
        "gpt-4o",
    ]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(service.stats().requests, 0);
    assert!(ran.stdout.contains("requests                 228"), "{}", ran.stdout);
    let line = ran.stdout.lines().find(|line| line.contains("dollars")).unwrap();
    let estimated: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert_eq!(place.collect(&service, &["--stage", "scores", "--model", "gpt-4o"]).status, Some(0));
    let spent = dollars(&place);
    eprintln!("estimated {estimated}, spent {spent}");
    assert!((estimated / spent - 1.0).abs() < 0.3, "estimated {estimated}, spent {spent}");
}

/// If replies get longer, the budget is exceeded by at most one of them.
#[test]
fn cap_holds_where_replies_grow_longer() {
    let place = Place::new(60, 4);
    let short = place.service(fast());
    let stop = ["--stage", "scores", "--model", "gpt-4o"];
    let ran = place.collect(&short, &[&stop[..], &["--max-usd", "0.06"]].concat());
    assert_eq!(ran.status, Some(3), "{}", ran.stderr);
    let before = dollars(&place);
    let long =
        place.service(Options { extra_output_tokens: 900, latency: Duration::from_millis(20), ..fast() });
    let cap = 0.2;
    let ran = place.collect(&long, &[&stop[..], &["--max-usd", &cap.to_string()]].concat());
    assert_eq!(ran.status, Some(3), "{}{}", ran.stdout, ran.stderr);
    let (spent, one) = (dollars(&place), 1_000.0 * 10.0 / 1e6);
    assert!(before < 0.06 && spent > cap - 2.0 * one && spent < cap + one, "cap {cap}, spent {spent}");
}

/// The cost of a reply without usage is unknown: the budget assumes the maximum, in later runs too.
#[test]
fn replies_that_do_not_tell_their_tokens_count_under_the_cap() {
    let place = Place::new(60, 4);
    let service = place.service(Options { faults: Faults::only(Fault::NoUsage, 1.0), ..fast() });
    let capped = ["--stage", "scores", "--model", "gpt-4o", "--max-usd", "0.1", "--concurrency", "4"];
    let ran = place.collect(&service, &capped);
    assert_eq!(ran.status, Some(3), "{}", ran.stderr);
    assert!(ran.stderr.contains("replies contain no usage data"), "{}", ran.stderr);
    let mut requests = place.tables().requests;
    requests.retain(|row| !row.cached);
    // Each may have as many output tokens as are allowed, at 10 dollars a million.
    let most = 0.1 / (1_024.0 * 10.0 / 1e6);
    let asked = requests.len();
    assert!(asked > 2 && asked as f64 <= most, "{asked} of at most {most}");
    assert!(requests.iter().all(|row| row.cost_usd.is_none()));
    assert_eq!(place.collect(&service, &capped).status, Some(3));
    assert_eq!(service.stats().requests as usize, asked, "nothing more is bought under the same cap");
}

/// The ledger against the service's own counts, at prices written here.
#[test]
fn the_ledger_is_what_the_service_counted_at_the_price() {
    let place = Place::new(30, 4);
    let service = place.service(fast());
    assert_eq!(place.collect(&service, &["--model", "gpt-4o"]).status, Some(0));
    let stats = service.stats();
    let expected = stats.input_tokens as f64 * 2.5e-6 + stats.output_tokens as f64 * 10e-6;
    let spent = dollars(&place);
    assert!((spent - expected).abs() < 1e-9 && spent > 0.01, "{spent} {expected}");
}
