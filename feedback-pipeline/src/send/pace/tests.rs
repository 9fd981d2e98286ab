//! Tests the rate limiting against a simulated service with tokio's clock paused, so that no time passes.

use super::*;
use std::cell::RefCell;
use std::rc::Rc;
use tokio::time::{Instant, sleep};

/// A service with token buckets of one second, like real providers.
struct Service {
    per_sec: f64,
    level: f64,
    tokens_per_sec: f64,
    token_level: f64,
    at: Instant,
    ok: Vec<f64>,
    refused: Vec<f64>,
    /// Share refused for no reason.
    random: f64,
    /// Seconds from the start in which everything is refused.
    closed: std::ops::Range<f64>,
    /// Requests in any minute.
    a_minute: usize,
    state: u64,
}

impl Service {
    fn new(per_sec: f64, tokens_per_sec: f64) -> Rc<RefCell<Self>> {
        let at = Instant::now();
        let service = Self {
            per_sec,
            level: per_sec,
            tokens_per_sec,
            token_level: tokens_per_sec,
            at,
            ok: Vec::new(),
            refused: Vec::new(),
            random: 0.0,
            closed: 0.0..0.0,
            a_minute: usize::MAX,
            state: 1,
        };
        Rc::new(RefCell::new(service))
    }

    fn accepts(&mut self, tokens: f64, since: f64) -> bool {
        let elapsed = self.at.elapsed().as_secs_f64();
        self.at = Instant::now();
        self.level = (self.level + elapsed * self.per_sec).min(self.per_sec);
        self.token_level = (self.token_level + elapsed * self.tokens_per_sec).min(self.tokens_per_sec);
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let unlucky = ((self.state >> 33) as f64 / f64::from(1_u32 << 31)) < self.random;
        let is_full = self.a_minute < usize::MAX
            && self.ok.iter().rev().take_while(|at| **at > since - 60.0).count() >= self.a_minute;
        let open = !self.closed.contains(&since) && !is_full;
        let ok = open && !unlucky && self.level >= 1.0 && self.token_level >= tokens;
        if ok {
            self.level -= 1.0;
            self.token_level -= tokens;
        }
        if ok {
            self.ok.push(since)
        } else {
            self.refused.push(since)
        }
        ok
    }
}

fn limits(requests: Option<u64>, input: Option<u64>) -> LimitSettings {
    LimitSettings {
        requests_per_minute: requests,
        input_tokens_per_minute: input,
        ..LimitSettings::default()
    }
}

/// Sends as fast as the pace allows for some seconds.
async fn drive(pace: Pace, service: Rc<RefCell<Service>>, secs: f64, latency: f64, tokens: u64) {
    drive_at_most(1 << 20, 0.001, (pace, service, secs, latency, tokens)).await;
}

/// The same with a bound for requests in flight, and refusals that take some seconds.
async fn drive_at_most(
    in_flight: usize,
    refusal: f64,
    (pace, service, secs, latency, tokens): (Pace, Rc<RefCell<Service>>, f64, f64, u64),
) {
    let pace = Rc::new(pace);
    let slots = std::sync::Arc::new(tokio::sync::Semaphore::new(in_flight));
    let start = Instant::now();
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            while start.elapsed().as_secs_f64() < secs {
                let slot = slots.clone().acquire_owned().await.unwrap();
                let reservation = pace.take(Kind::Scores, 2_000, 0).await;
                let (pace, service) = (pace.clone(), service.clone());
                tokio::task::spawn_local(async move {
                    let _slot = slot;
                    sleep(Duration::from_millis(1)).await;
                    let accepted = service.borrow_mut().accepts(tokens as f64, start.elapsed().as_secs_f64());
                    if accepted {
                        sleep(Duration::from_secs_f64(latency)).await;
                        pace.used(reservation, &Usage { input: tokens, output: 50, ..Usage::default() });
                    } else {
                        let refusal = Duration::from_secs_f64(refusal);
                        sleep(refusal).await;
                        pace.give_back(reservation);
                        pace.refused(Some(Duration::from_secs(1)), refusal);
                    }
                });
            }
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn whole_allowance_without_a_refusal() {
    for latency in [0.05, 8.0] {
        let service = Service::new(50.0, f64::MAX);
        drive(Pace::new(&limits(Some(3_000), None), 1_024), service.clone(), 60.0, latency, 500).await;
        let service = service.borrow();
        assert_eq!(service.refused.len(), 0, "latency {latency}");
        assert!(service.ok.len() >= 2_970, "latency {latency}: {} sent", service.ok.len());
    }
}

#[tokio::test(start_paused = true)]
async fn whole_token_allowance_whatever_the_first_guess() {
    // 2,000 bytes are first taken for 500 tokens.
    for (latency, tokens) in [(0.05, 500), (8.0, 500), (8.0, 450), (8.0, 520)] {
        let service = Service::new(1e9, 1e6 / 60.0);
        drive(
            Pace::new(&limits(Some(3_000), Some(1_000_000)), 1_024),
            service.clone(),
            60.0,
            latency,
            tokens,
        )
        .await;
        let service = service.borrow();
        let used = service.ok.len() as f64 * tokens as f64 / 1e6;
        assert!(used >= 0.97, "latency {latency}, {tokens} tokens: {used}");
        assert_eq!(service.refused.len(), 0, "latency {latency}, {tokens} tokens");
    }
}

#[tokio::test(start_paused = true)]
async fn service_that_allows_half_of_what_was_configured() {
    for latency in [0.05, 8.0] {
        let service = Service::new(25.0, f64::MAX);
        drive(Pace::new(&limits(Some(3_000), None), 1_024), service.clone(), 120.0, latency, 500).await;
        let service = service.borrow();
        let after = |times: &[f64]| times.iter().filter(|at| **at > 10.0).count() as f64;
        let (ok, refused) = (after(&service.ok), after(&service.refused));
        assert!(ok >= 0.95 * 25.0 * 110.0, "latency {latency}: {ok} accepted, {refused} refused");
        assert!(refused <= 0.01 * (ok + refused), "latency {latency}: {ok} accepted, {refused} refused");
    }
}

/// A service whose 429s are unrelated to the rate must not reduce it indefinitely.
#[tokio::test(start_paused = true)]
async fn random_refusals_do_not_end_in_a_standstill() {
    for (per_minute, latency, least) in
        [(3_000, 0.05, 0.9), (3_000, 8.0, 0.9), (60_000, 0.05, 0.95), (600, 0.05, 0.5)]
    {
        let service = Service::new(1e9, f64::MAX);
        service.borrow_mut().random = 0.05;
        drive(Pace::new(&limits(Some(per_minute), None), 1_024), service.clone(), 120.0, latency, 500).await;
        let service = service.borrow();
        let share = service.ok.len() as f64 / (per_minute as f64 * 2.0 * 0.95);
        assert!(share > least, "{per_minute} a minute, latency {latency}: {share} of what was possible");
    }
}

/// If nothing is accepted for a while, the rate is not the cause: it is restored, and few requests are sent
/// in the meantime.
#[tokio::test(start_paused = true)]
async fn an_outage_costs_little_more_than_its_time() {
    let cases: [(u32, _, _); 6] = [
        (600, 3.0..5.0, 0.05),
        (180, 3.0..6.0, 8.0),
        (180, 3.0..23.0, 0.05),
        (3_000, 3.0..63.0, 0.05),
        (30_000, 2.0..14.0, 0.05),
        (600, 0.0..10.0, 0.05),
    ];
    for (per_minute, closed, latency) in cases {
        let service = Service::new(f64::from(per_minute) / 60.0, f64::MAX);
        service.borrow_mut().closed = closed.clone();
        let limits = limits(Some(u64::from(per_minute)), None);
        drive(Pace::new(&limits, 1_024), service.clone(), 180.0, latency, 500).await;
        let service = service.borrow();
        let ok = service.ok.iter().filter(|at| **at > closed.end).count() as f64;
        let possible = service.per_sec * (180.0 - closed.end);
        let case = format!("{per_minute} a minute, closed {closed:?}: {ok} of {possible} accepted after");
        assert!(ok >= 0.75 * possible, "{case}");
        let probes = service.refused.iter().filter(|at| **at > closed.start + 2.5).count();
        assert!(probes < 30, "{case}, {probes} refused");
    }
}

/// As in the middle of a run without a known limit, with a service that refuses slowly.
#[tokio::test(start_paused = true)]
async fn an_outage_that_is_told_slowly() {
    let service = Service::new(100.0, f64::MAX);
    service.borrow_mut().closed = 30.0..90.0;
    let pace = Pace::new(&limits(Some(6_000), None), 1_024);
    drive_at_most(200, 2.0, (pace, service.clone(), 240.0, 1.0, 500)).await;
    let service = service.borrow();
    let ok = service.ok.iter().filter(|at| **at > 100.0).count();
    let refused = service.refused.len();
    assert!(ok > 10_000 && refused < 1_500, "{ok} of 14000 accepted, {refused} refused");
}

/// The rate is found even if no limit is known.
#[tokio::test(start_paused = true)]
async fn a_limit_that_nobody_tells_is_found() {
    for (per_sec, in_flight) in [(10.0, 14), (20.0, 16), (10.0, 64)] {
        let service = Service::new(per_sec, f64::MAX);
        let pace = Pace::new(&limits(None, None), 1_024);
        drive_at_most(in_flight, 0.05, (pace, service.clone(), 300.0, 0.5, 500)).await;
        let service = service.borrow();
        // Refused requests are repeated immediately here, so the first seconds say little.
        let after = |times: &[f64]| times.iter().filter(|at| **at > 20.0).count() as f64;
        let (ok, refused) = (after(&service.ok), after(&service.refused));
        let case = format!("{per_sec} a second, {in_flight} in flight: {ok} accepted, {refused} refused");
        assert!(ok > 0.85 * 280.0 * per_sec && refused < 0.1 * ok, "{case}");
    }
}

/// Nine of ten refused for some seconds.
#[tokio::test(start_paused = true)]
async fn a_rate_that_was_shrunk_too_far_grows_back() {
    let service = Service::new(1e9, f64::MAX);
    service.borrow_mut().random = 0.8;
    let pace = Pace::new(&limits(Some(600), None), 1_024);
    let calms_down = service.clone();
    let local = tokio::task::LocalSet::new();
    local.spawn_local(async move {
        sleep(Duration::from_secs(4)).await;
        calms_down.borrow_mut().random = 0.0;
    });
    local.run_until(drive(pace, service.clone(), 300.0, 0.05, 500)).await;
    let service = service.borrow();
    let last = service.ok.iter().filter(|at| **at > 240.0).count();
    assert!(last > 500, "{last} in the last minute, of 600");
}

/// A limit that is counted by the minute refuses everything once it is used up.
#[tokio::test(start_paused = true)]
async fn a_limit_by_the_minute_is_found() {
    let service = Service::new(1e9, f64::MAX);
    service.borrow_mut().a_minute = 100;
    drive(Pace::new(&limits(Some(200), None), 1_024), service.clone(), 600.0, 0.05, 500).await;
    let service = service.borrow();
    let (ok, refused) = (service.ok.len(), service.refused.len());
    assert!(ok > 800 && refused < 150, "{ok} of 1000 accepted, {refused} refused");
}

#[tokio::test(start_paused = true)]
async fn limits_are_learned_from_headers() {
    let pace = Pace::new(&limits(None, None), 1_024);
    assert_eq!(pace.requests_per_minute(), None);
    pace.learn(&Limits { requests: Some(600), ..Limits::default() });
    assert_eq!(pace.requests_per_minute(), Some(600.0));
    let configured = Pace::new(&limits(Some(60), None), 1_024);
    configured.learn(&Limits { requests: Some(600), ..Limits::default() });
    assert_eq!(configured.requests_per_minute(), Some(60.0));
}

#[test]
fn failed_attempts_give_tokens_back() {
    let clock = governor::clock::FakeRelativeClock::default();
    let pace = Pace::with_clock(&limits(None, Some(60_000)), 1_024, clock.clone());
    assert!(pace.try_take(Kind::Scores, 2_000, 0).is_err());
    clock.advance(Duration::from_secs(1));
    let reservation = pace.try_take(Kind::Scores, 2_000, 0).unwrap();
    assert!(pace.try_take(Kind::Scores, 2_000, 0).is_err());
    pace.give_back(reservation);
    assert!(pace.try_take(Kind::Scores, 2_000, 0).is_ok());
}
