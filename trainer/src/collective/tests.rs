//! Ranks as threads of one process.

use super::*;
use crate::error::{Error, Result};
use std::net::TcpListener;
use std::time::Duration;
use tch::{Device, Kind, Tensor};

/// A port that was free just now.
pub(super) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("address").port()
}

/// How a rank of a test is started.
pub(super) fn launch(rank: usize, world: usize, port: u16) -> Launch {
    Launch {
        rank,
        world,
        local_rank: rank,
        host: "127.0.0.1".into(),
        port,
        serves: rank == 0,
        has_agent: false,
        run: String::new(),
    }
}

/// Terms with a line that all ranks must have in common, and seconds for joining.
pub(super) fn terms(line: &str, seconds: u64) -> Terms {
    Terms {
        subject: "test".into(),
        lines: vec![line.into()],
        join_timeout: Duration::from_secs(seconds),
        timeout: Duration::from_secs(60),
    }
}

/// Runs `work` on each of `world` ranks; what they return, by rank.
pub(crate) fn on_ranks<T: Send>(world: usize, work: impl Fn(Group) -> T + Sync) -> Vec<T> {
    let port = free_port();
    std::thread::scope(|scope| {
        let ranks: Vec<_> = (0..world)
            .map(|rank| {
                let work = &work;
                scope.spawn(move || {
                    let joined = join(&launch(rank, world, port), &terms("same", 60));
                    work(joined.expect("joined"))
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().expect("a rank")).collect()
    })
}

#[test]
fn sums_are_of_all_ranks_and_the_same_everywhere() {
    for world in [2, 3] {
        let found = on_ranks(world, |group| {
            let mut sum = Tensor::from_slice(&[0.1f32 * (group.rank() + 1) as f32; 1000]);
            group.sum(&mut sum).expect("sum");
            // A tensor with gaps: every other column.
            let wide = Tensor::ones([4, 6], (Kind::Float, Device::Cpu)) * (group.rank() + 1) as f64;
            let mut gaps = wide.slice(1, 0, 6, 2);
            group.sum(&mut gaps).expect("sum");
            let kept = wide.slice(1, 1, 6, 2).sum(Kind::Double).double_value(&[]);
            let sum = Vec::<f32>::try_from(sum).expect("numbers");
            let bits: Vec<u32> = sum.iter().map(|number| number.to_bits()).collect();
            (bits, gaps.sum(Kind::Double).double_value(&[]), kept, group.local_world())
        });
        let expected = 0.1 * (world * (world + 1) / 2) as f32;
        assert!((f32::from_bits(found[0].0[0]) - expected).abs() < 1e-6);
        for (rank, (bits, gaps, kept, local)) in found.iter().enumerate() {
            assert_eq!(bits, &found[0].0);
            assert_eq!(*gaps, 12.0 * (world * (world + 1) / 2) as f64);
            assert_eq!(*kept, 12.0 * (rank + 1) as f64, "the gaps are not touched");
            assert_eq!(*local, world);
        }
    }
}

#[test]
fn what_ranks_have_reaches_the_others() {
    let found = on_ranks(3, |group| {
        let rank = group.rank();
        let texts = group.gather("x".repeat(rank * 5)).expect("gathered");
        let numbers = group.gather_numbers(&[rank as f64, 0.5]).expect("gathered");
        let first = group.of_first(vec![rank, 7]).expect("a number");
        let mut tensor = Tensor::from_slice(&[rank as i64; 4]);
        group.broadcast(&mut tensor).expect("broadcast");
        let odd = Numbers(vec![0.1 + 0.2, f32::NAN, -0.0, 1e-40]);
        let exact = group.gather(odd.clone()).expect("gathered");
        let bits = |Numbers(numbers): &Numbers| numbers.iter().map(|n| n.to_bits()).collect::<Vec<_>>();
        assert!(exact.iter().all(|found| bits(found) == bits(&odd)));
        let any = (group.any(rank == 2).expect("asked"), group.any(false).expect("asked"));
        (texts, numbers, first, tensor.int64_value(&[3]), any)
    });
    for (texts, numbers, first, tensor, any) in found {
        assert_eq!(texts, ["", "xxxxx", "xxxxxxxxxx"]);
        assert_eq!(numbers, [[0.0, 0.5], [1.0, 0.5], [2.0, 0.5]]);
        assert_eq!((first, tensor, any), (vec![0, 7], 0, (true, false)));
    }
}

#[test]
fn only_rank_0_does_what_one_may_do_and_all_know_how_it_ended() {
    let done = std::sync::atomic::AtomicUsize::new(0);
    let found = on_ranks(2, |group| {
        let count = || Ok(done.fetch_add(1, std::sync::atomic::Ordering::SeqCst));
        let first = group.on_first(count).expect("done").is_some();
        let full = group.on_first(|| -> Result<()> { Err(Error::input("the disk is full", "make room")) });
        let failed = full.expect_err("it failed");
        let own = if group.rank() == 1 { Err(Error::Interrupted) } else { Ok(3) };
        let agreed = group.agree(own).expect_err("one was interrupted").exit_code();
        (first, failed.to_string(), failed.hint().map(ToOwned::to_owned), failed.exit_code(), agreed)
    });
    assert_eq!(done.into_inner(), 1);
    let hint = Some("make room".to_owned());
    assert_eq!(found[0], (true, "the disk is full".into(), hint.clone(), 2, 130));
    assert_eq!(found[1], (false, "rank 0: the disk is full".into(), hint, 2, 130));
}

#[test]
fn a_rank_that_ended_is_named_by_all_others() {
    for reason in [None, Some("the battery is empty")] {
        let found = on_ranks(3, |group| {
            group.sum(&mut Tensor::from_slice(&[1f32])).expect("all are there");
            if group.rank() == 1 {
                if let Some(reason) = reason {
                    group.leave(&Error::input(reason, "charge it"));
                }
                return None;
            }
            let failed = group.sum(&mut Tensor::from_slice(&[1f32])).expect_err("one has ended");
            // So do all further operations, and at once.
            let again = group.any(false).expect_err("one has ended").to_string();
            assert_eq!((failed.exit_code(), &failed.to_string()), (1, &again));
            Some(again)
        });
        let expected = match reason {
            Some(reason) => format!("rank 1 has ended: {reason} (sum: "),
            None => "rank 1 has ended (sum: ".to_owned(),
        };
        assert_eq!(found[1], None);
        for said in [&found[0], &found[2]].into_iter().flatten() {
            assert!(said.starts_with(&expected), "{said}");
        }
    }
}

#[test]
fn a_rank_that_is_silent_is_named() {
    let (port, end) = (free_port(), std::sync::Barrier::new(2));
    let found = std::thread::scope(|scope| {
        let end = &end;
        let ranks = [0, 1].map(|rank| {
            scope.spawn(move || {
                let terms = Terms { timeout: Duration::from_secs(1), ..terms("same", 60) };
                let group = join(&launch(rank, 2, port), &terms).expect("joined");
                let failed = (rank == 0).then(|| group.finish().expect_err("nobody answers"));
                end.wait();
                failed.map_or_else(String::new, |failed| failed.to_string())
            })
        });
        ranks.map(|rank| rank.join().expect("a rank"))
    });
    assert!(found[0].starts_with("rank 1 has not answered for 1 s (student.rank_timeout_secs)"), "{found:?}");
}

#[test]
fn a_group_of_one_is_the_process_itself() {
    let group = Group::alone();
    let mut tensor = Tensor::from_slice(&[1f32, 2.0]);
    group.sum(&mut tensor).expect("nothing to do");
    assert_eq!(Vec::<f32>::try_from(tensor).expect("numbers"), [1.0, 2.0]);
    assert_eq!(group.gather(5).expect("own"), [5]);
    assert_eq!(group.share(&[1, 2, 3], 2), [1, 2, 3]);
    assert_eq!(group.on_first(|| Ok(4)).expect("done"), Some(4));
    assert!(group.any(true).expect("own") && group.finish().is_ok());
}

#[test]
fn every_row_is_in_one_share() {
    let rows: Vec<u32> = (0..23).collect();
    let found = on_ranks(3, |group| (group.share(&rows, 4), group.share(&rows[..2], 4)));
    // Whole batches of four in turn.
    assert_eq!(found[1].0, [4, 5, 6, 7, 16, 17, 18, 19]);
    let mut all: Vec<u32> = found.iter().flat_map(|(share, _)| share.clone()).collect();
    all.sort_unstable();
    assert_eq!(all, rows);
    assert_eq!(found.iter().map(|(_, few)| few.len()).collect::<Vec<_>>(), [1, 1, 0]);
}

#[test]
fn ranks_of_other_settings_are_refused_on_both_sides() {
    let port = free_port();
    let refused = std::thread::scope(|scope| {
        let ranks = [("rl.clip = 0.2", 0), ("rl.clip = 0.3", 1)].map(|(line, rank)| {
            scope.spawn(move || {
                let refused = join(&launch(rank, 2, port), &terms(line, 60)).expect_err("they differ");
                (refused.to_string(), refused.exit_code())
            })
        });
        ranks.map(|rank| rank.join().expect("a rank"))
    });
    let expected = "ranks differ: rank 0 was started with `rl.clip = 0.2`, rank 1 with `rl.clip = 0.3`";
    for (said, code) in refused {
        assert_eq!((said.as_str(), code), (expected, 2));
    }
}

#[test]
fn a_rank_that_does_not_come_is_named() {
    let port = free_port();
    let refused = std::thread::scope(|scope| {
        let ranks = [0, 2].map(|rank| {
            scope.spawn(move || join(&launch(rank, 3, port), &terms("same", 1)).expect_err("one is missing"))
        });
        ranks.map(|rank| rank.join().expect("a rank"))
    });
    for error in refused {
        let said = error.to_string();
        assert!(said.contains("expected 3 ranks") && said.ends_with("within 1 s: 1"), "{said}");
        assert_eq!(error.exit_code(), 1);
    }
}

#[test]
fn a_port_that_is_taken_is_reported() {
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = other.local_addr().expect("address").port();
    let first = join(&launch(0, 2, port), &terms("same", 1)).expect_err("taken").to_string();
    assert!(first.contains(&format!("cannot listen on port {port}")), "{first}");
    // A program that accepts, and never says a word.
    let second = join(&launch(1, 2, port), &terms("same", 1)).expect_err("no store").to_string();
    assert!(second.contains("no rendezvous store"), "{second}");
}

#[test]
fn an_address_of_another_machine_is_not_taken_for_a_busy_port() {
    let elsewhere = Launch { host: "203.0.113.7".into(), ..launch(0, 2, free_port()) }; // for examples, and nobody's
    let refused = join(&elsewhere, &terms("same", 1)).expect_err("it leads elsewhere");
    let said = refused.to_string();
    assert!(said.contains("cannot reach itself at MASTER_ADDR `203.0.113.7`"), "{said}");
    assert!(refused.hint().is_some_and(|hint| !hint.contains("MASTER_PORT")));
}

#[test]
fn two_processes_with_one_rank_are_refused() {
    let port = free_port();
    let refused = std::thread::scope(|scope| {
        let first = scope.spawn(move || join(&launch(0, 2, port), &terms("same", 2)).map(|_| ()));
        std::thread::sleep(Duration::from_millis(500));
        let mut again = launch(0, 2, port);
        again.serves = false;
        let refused = join(&again, &terms("same", 1)).expect_err("a second rank 0").to_string();
        assert!(first.join().expect("a rank").is_err());
        refused
    });
    assert!(refused.contains("another process is already rank 0"), "{refused}");
}

#[test]
fn ranks_on_other_datasets_do_not_meet_and_name_the_difference() {
    let port = free_port();
    let refused = std::thread::scope(|scope| {
        // Rank 1 loses the store when rank 0 gives up.
        let ranks = [("one", 0, 5), ("other", 1, 60)].map(|(subject, rank, seconds)| {
            scope.spawn(move || {
                let terms = Terms { subject: subject.into(), ..terms("same", seconds) };
                join(&launch(rank, 2, port), &terms).expect_err("they are two runs")
            })
        });
        ranks.map(|rank| rank.join().expect("a rank"))
    });
    let expected = [
        "within 5 s: 1; rank 1 was started with another dataset: expected `one` as on rank 0, found `other`",
        "rank 0 was started with another dataset: expected `other` as on rank 1, found `one`",
    ];
    for (error, expected) in refused.iter().zip(expected) {
        assert!(error.to_string().ends_with(expected), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}

/// Ranks of another start left their datasets in a launcher's store.
#[test]
fn datasets_of_another_start_are_not_blamed() {
    let port = free_port();
    let earlier = Launch { run: "7/0".into(), ..launch(1, 2, port) };
    let later = Launch { run: "7/1".into(), ..launch(0, 2, port) };
    let found = std::thread::scope(|scope| {
        let later = scope.spawn(|| join(&later, &terms("same", 3)).expect_err("nobody comes"));
        let terms = Terms { subject: "other".into(), ..terms("same", 10) };
        join(&earlier, &terms).expect_err("its start is over");
        later.join().expect("a rank").to_string()
    });
    assert!(found.ends_with("within 3 s: 1"), "{found}");
}
