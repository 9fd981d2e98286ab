//! Sums on GPUs, against a stand-in for NCCL whose GPU memory is main memory (`tests/stand_in/nccl.cpp`).

use super::tests::on_ranks;
use super::*;
use crate::error::Error;
use libloading::Library;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};

/// Two ranks have one GPU, or not, for all tests at once.
static ALONE: Mutex<()> = Mutex::new(());

/// The stand-in, compiled once, and loaded for good: its threads may wait forever.
#[allow(unsafe_code)]
fn stand_in() -> &'static Libraries {
    static BUILT: OnceLock<Libraries> = OnceLock::new();
    BUILT.get_or_init(|| {
        let library = tempfile::tempdir().expect("folder").keep().join("libnccl.so.2");
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/stand_in/nccl.cpp");
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
        let built = Command::new(compiler)
            .args(["-std=c++17", "-O1", "-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .status();
        assert!(built.expect("a C++ compiler").success());
        // SAFETY: it has no initialization but that of its variables.
        std::mem::forget(unsafe { Library::new(&library) }.expect("library"));
        Libraries { nccl: library.clone(), runtime: library }
    })
}

/// Runs `work` on ranks that sum by the stand-in. Returns what they return, and how many communicators were opened, closed and
/// aborted.
fn on_gpus<T: Send>(world: usize, work: impl Fn(Group) -> T + Sync) -> (Vec<T>, [i32; 3]) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = counts();
    let found = on_ranks(world, |group| {
        group.connect_gpus(stand_in(), Device::Cpu).expect("connected");
        work(group)
    });
    let after = counts();
    (found, std::array::from_fn(|index| after[index] - before[index]))
}

/// Communicators that were opened, closed and aborted so far.
#[allow(unsafe_code)]
fn counts() -> [i32; 3] {
    let mut counts = [0; 3];
    // SAFETY: the stand-in fills in three numbers.
    unsafe {
        let library = Library::new(&stand_in().nccl).expect("library");
        let ask = *library.get::<unsafe extern "C" fn(*mut i32)>(b"stand_in_counts").expect("function");
        ask(counts.as_mut_ptr());
    }
    counts
}

#[allow(unsafe_code)]
fn share_gpu(shares: bool) {
    // SAFETY: the stand-in takes a number.
    unsafe {
        let library = Library::new(&stand_in().nccl).expect("library");
        let set = *library.get::<unsafe extern "C" fn(i32)>(b"stand_in_share_gpu").expect("function");
        set(i32::from(shares));
    }
}

#[test]
fn sums_on_gpus_are_those_of_all_ranks() {
    for world in [2, 3] {
        let (found, communicators) = on_gpus(world, |group| {
            let own = (group.rank() + 1) as f64;
            let of = |kind: Kind| Tensor::ones([1000], (kind, Device::Cpu)) * own;
            let wide = Tensor::ones([4, 6], (Kind::Float, Device::Cpu)) * own;
            let gaps = wide.slice(1, 0, 6, 2);
            let sums: Vec<Tensor> = [Kind::Float, Kind::Double, Kind::BFloat16, Kind::Int64]
                .into_iter()
                .map(of)
                .chain([gaps])
                .collect();
            for _ in 0..20 {
                group.sum(&mut of(Kind::Float)).expect("sum");
            }
            group.sum_each(sums.iter().map(Tensor::shallow_clone)).expect("sums");
            let from_each: Vec<Tensor> = (0..world).map(|_| of(Kind::Float)).collect();
            group
                .broadcast_each(from_each.iter().map(Tensor::shallow_clone).zip(0..))
                .expect("each is that of one rank");
            group.finish().expect("finished");
            let mean = |tensor: &Tensor| tensor.to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
            (sums.iter().map(mean).collect::<Vec<_>>(), from_each.iter().map(mean).collect::<Vec<_>>())
        });
        let sum = (world * (world + 1) / 2) as f64;
        for (sums, from_each) in found {
            assert_eq!(sums, [sum; 5]);
            assert_eq!(from_each, (1..=world).map(|rank| rank as f64).collect::<Vec<_>>());
        }
        assert_eq!(communicators, [world as i32, world as i32, 0], "opened and closed");
    }
}

#[test]
fn the_sum_of_one_rank_is_its_own() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let gpus = Nccl::alone(stand_in(), Device::Cpu).expect("opened");
    let numbers = Tensor::arange(100, (Kind::Float, Device::Cpu));
    gpus.sum(&numbers).expect("sum");
    assert_eq!(numbers, Tensor::arange(100, (Kind::Float, Device::Cpu)));
    assert!(gpus.sum(&numbers.gt(1)).is_err(), "there is no type for it");
}

#[test]
fn a_gpu_does_not_wait_for_a_rank_that_has_ended() {
    let begun = Instant::now();
    let (found, communicators) = on_gpus(2, |group| {
        if group.rank() == 1 {
            group.leave(&Error::input("the disk is full", ""));
            return None;
        }
        let failed = group.sum(&mut Tensor::ones([10], (Kind::Float, Device::Cpu)));
        let again = group.sum(&mut Tensor::ones([10], (Kind::Float, Device::Cpu)));
        assert!(again.is_err(), "the group is broken for good");
        Some(failed.expect_err("rank 1 is gone").to_string())
    });
    let said = found[0].as_deref().unwrap_or_default();
    assert!(said.contains("rank 1 has ended: the disk is full"), "{said}");
    assert_eq!(communicators, [2, 0, 2], "no sum stays on a GPU");
    assert!(begun.elapsed() < Duration::from_secs(50), "long before the time for an answer is over");
}

#[test]
fn what_nccl_says_is_told_on_every_rank() {
    let (found, _) = on_gpus(2, |group| {
        let size = 10 + group.rank() as i64;
        let failed = group.sum(&mut Tensor::ones([size], (Kind::Float, Device::Cpu)));
        failed.expect_err("they differ in size").to_string()
    });
    for said in &found {
        assert!(
            said.contains("another rank did something else") || said.contains("failed on another rank"),
            "{said}"
        );
    }
}

/// NCCL fails on the last rank alone; the others wait for that rank without end.
#[test]
fn two_ranks_on_one_gpu_are_refused() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (before, begun) = (counts(), Instant::now());
    share_gpu(true);
    let tried = [2, 3].map(|world| {
        on_ranks(world, |group| {
            let refused = group.connect_gpus(stand_in(), Device::Cpu).expect_err("one GPU");
            let are_connected = group.gather(group.rank()).is_ok();
            (refused.to_string(), refused.exit_code(), refused.hint().map(ToOwned::to_owned), are_connected)
        })
    });
    share_gpu(false);
    for found in tried {
        let rank = found.len() - 1;
        for (said, code, hint, are_connected) in found {
            assert!(said.contains(&format!("rank {rank} cannot sum on its GPU: NCCL: ")), "{said}");
            assert!(said.contains("Duplicate GPU"), "{said}");
            assert_eq!(code, 2);
            assert!(hint.is_some_and(|hint| hint.contains("LOCAL_RANK")), "{said}");
            assert!(are_connected, "the ranks can still tell each other more");
        }
    }
    assert_eq!(counts(), before, "none was opened");
    assert!(begun.elapsed() < Duration::from_secs(50), "long before the time for an answer is over");
}

#[test]
fn a_library_that_is_not_there_is_named() {
    let nowhere = Libraries { nccl: "/nowhere/libnccl.so.2".into(), runtime: "/nowhere/libcudart.so".into() };
    let found =
        on_ranks(2, |group| group.connect_gpus(&nowhere, Device::Cpu).expect_err("no library").to_string());
    assert!(found.iter().all(|said| said.contains("/nowhere/libnccl.so.2")), "{found:?}");
    assert!(Group::alone().connect_gpus(&nowhere, Device::Cpu).is_ok(), "a process by itself needs none");
}
