//! Tests the limit against simulated services with tokio's clock paused, so that no time passes.

use super::*;
use std::cell::RefCell;
use std::rc::Rc;
use tokio::time::sleep;

/// The result of a run of requests.
#[derive(Debug, Default)]
struct Tally {
    answered: usize,
    own_load: usize,
    blamed: usize,
    peak: usize,
}

/// Requests `items` from a service that answers `at_once` of them at the same time, each in `secs`; a request
/// that has waited for `timeout` seconds is dropped and repeated.
async fn drive(limits: &Arc<InFlight>, items: usize, (at_once, secs, timeout): (usize, f64, f64)) -> Tally {
    let service = Arc::new(Semaphore::new(at_once));
    let tally = Rc::new(RefCell::new(Tally::default()));
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let mut tasks = Vec::new();
            for _ in 0..items {
                let mut slot = limits.slot().await;
                let (limits, service, tally) = (Arc::clone(limits), Arc::clone(&service), Rc::clone(&tally));
                tasks.push(tokio::task::spawn_local(async move {
                    loop {
                        slot.departs();
                        let out = limits.state().out;
                        let peak = tally.borrow().peak.max(out);
                        tally.borrow_mut().peak = peak;
                        let served = async {
                            let _served = service.acquire().await.unwrap();
                            sleep(Duration::from_secs_f64(secs)).await;
                        };
                        if tokio::time::timeout(Duration::from_secs_f64(timeout), served).await.is_ok() {
                            slot.answered();
                            limits.prove(false);
                            tally.borrow_mut().answered += 1;
                            return;
                        }
                        match slot.failed(&Failure::TimedOut) {
                            true => tally.borrow_mut().own_load += 1,
                            false => tally.borrow_mut().blamed += 1,
                        }
                        sleep(Duration::from_millis(500)).await;
                        slot = limits.slot().await;
                    }
                }));
            }
            for task in tasks {
                task.await.unwrap();
            }
        })
        .await;
    let mut tally = tally.borrow_mut();
    std::mem::take(&mut *tally)
}

fn limits(ceiling: u32, timeout: u64, is_known: bool) -> Arc<InFlight> {
    InFlight::new(ceiling, Duration::from_secs(timeout), is_known)
}

#[tokio::test(start_paused = true)]
async fn a_service_with_one_slot_is_not_swamped() {
    let limits = limits(512, 10, false);
    let tally = drive(&limits, 400, (1, 0.5, 10.0)).await;
    assert_eq!((tally.answered, tally.own_load, tally.blamed), (400, 0, 0), "{tally:?}");
    assert!(limits.limit() < 20, "{}", limits.limit());
}

#[tokio::test(start_paused = true)]
async fn time_outs_of_own_load_are_no_fault_of_the_items() {
    for at_once in [1, 4] {
        let limits = limits(512, 10, true);
        let tally = drive(&limits, 600, (at_once, 1.0, 10.0)).await;
        assert_eq!((tally.answered, tally.blamed), (600, 0), "{at_once}: {tally:?}");
        assert!(tally.own_load > 0, "{at_once}: {tally:?}");
        assert!(limits.limit() < 64, "{at_once}: {}", limits.limit());
    }
}

#[tokio::test(start_paused = true)]
async fn a_fast_service_gets_all_at_once() {
    let limits = limits(512, 600, false);
    assert_eq!(limits.limit(), 16);
    let first = drive(&limits, 1, (usize::MAX >> 4, 0.05, 600.0)).await;
    assert_eq!((first.answered, limits.limit()), (1, 512));
}

/// Replies take long, but the service works on all of them at once: the limit doubles in each round.
#[tokio::test(start_paused = true)]
async fn a_slow_service_with_room_is_filled_in_a_few_rounds() {
    let limits = limits(512, 600, false);
    let start = Instant::now();
    let tally = drive(&limits, 3_000, (1_000, 20.0, 600.0)).await;
    assert_eq!((tally.answered, tally.own_load, limits.limit()), (3_000, 0, 512), "{tally:?}");
    // Six rounds at full width, and as many to get there.
    assert!(start.elapsed() < Duration::from_secs(14 * 20), "{:?}", start.elapsed());
}

/// A few requests never get a reply, from a service with spare capacity.
#[tokio::test(start_paused = true)]
async fn what_hangs_among_good_replies_is_blamed() {
    let limits = limits(64, 10, true);
    assert_eq!(drive(&limits, 2_000, (64, 0.1, 10.0)).await.answered, 2_000);
    let mut hung = limits.slot().await;
    let mut other = limits.slot().await;
    hung.departs();
    other.departs();
    assert_eq!(drive(&limits, 2_000, (64, 0.1, 10.0)).await.answered, 2_000);
    assert!(!hung.failed(&Failure::TimedOut));
    assert_eq!(limits.limit(), 64);
}

/// While everything fails, the limit falls; afterwards it is soon back.
#[tokio::test(start_paused = true)]
async fn an_outage_does_not_slow_down_what_follows() {
    let limits = limits(256, 10, true);
    assert_eq!(drive(&limits, 1_000, (256, 1.0, 10.0)).await.answered, 1_000);
    for _ in 0..10 {
        let mut slots = Vec::new();
        for _ in 0..limits.limit() {
            slots.push(limits.slot().await);
        }
        slots.iter_mut().for_each(Slot::departs);
        sleep(Duration::from_secs(20)).await;
        for slot in slots {
            slot.failed(&Failure::Unreachable(String::new()));
        }
    }
    assert!(limits.limit() < 4, "{}", limits.limit());
    let start = Instant::now();
    assert_eq!(drive(&limits, 1_000, (256, 1.0, 10.0)).await.answered, 1_000);
    assert!(start.elapsed() < Duration::from_secs(20) && limits.limit() >= 128, "{:?}", start.elapsed());
}

/// Unusable replies may have one cause: only a few are paid for before the first answer.
#[tokio::test(start_paused = true)]
async fn before_the_first_answer_few_are_in_flight() {
    let limits = limits(512, 600, false);
    for _ in 0..100 {
        let mut slot = limits.slot().await;
        slot.departs();
        sleep(Duration::from_millis(50)).await;
        slot.answered();
    }
    assert_eq!(limits.limit(), 16);
    limits.prove(true);
    assert_eq!(limits.limit(), 512);
}

#[tokio::test(start_paused = true)]
async fn the_limit_grows_only_where_it_is_used() {
    let limits = limits(512, 600, false);
    drive(&limits, 1, (1, 30.0, 600.0)).await;
    assert_eq!(limits.limit(), 5);
    for _ in 0..50 {
        drive(&limits, 1, (1, 1.0, 600.0)).await;
    }
    assert_eq!(limits.limit(), 5, "one at a time needs no more");
}
