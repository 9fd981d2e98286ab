//! Step checkpoints: reading back, refusal, and sharing between ranks.

use super::*;

#[test]
fn metrics_come_back_to_the_last_bit() {
    let mut log = MetricLog::new(1, "rl");
    log.push(0, 0.0, [("rollouts", 7.0)]);
    for (step, value) in (1..).zip([0.1 + 0.2, f64::NAN, -0.0, 1e-320, f64::INFINITY]) {
        log.push(step, step as f64 / 13.0, [("loss", value), ("kl", -value)]);
    }
    let json = serde_json::to_vec(&SavedMetrics::new(&log)).expect("json");
    let mut again = MetricLog::new(1, "rl");
    assert!(serde_json::from_slice::<SavedMetrics>(&json).expect("json").restore(&mut again));
    let rows = |log: &MetricLog| -> Vec<String> {
        let bits = |row: &schemas::Metric| (row.epoch.to_bits(), row.value.to_bits());
        let row = |row: &schemas::Metric| format!("{} {} {:?} {:?}", row.stage, row.name, bits(row), row.at);
        log.rows().iter().map(row).collect()
    };
    assert_eq!(rows(&again), rows(&log));
    let nameless = SavedMetrics { names: Vec::new(), rows: vec![(0, 1, 0, 0, 0)] };
    assert!(!nameless.restore(&mut again));
}

#[test]
fn saving_costs_at_most_a_twentieth_of_the_time() {
    let folder = tempfile::tempdir().expect("folder");
    let (log, optimizer) = (MetricLog::new(1, "sft"), AdamW::new(0.0));
    let mut saved = StepCheckpoint::new(&folder.path().join("sft"), "id".into(), Duration::from_nanos(1));
    let files = || std::fs::read_dir(folder.path()).expect("folder").count();
    saved.cost = Duration::from_secs(60);
    assert!(!saved.save(&[], &optimizer, &log, false).expect("alone"), "not yet");
    assert_eq!(files(), 0, "20 minutes have not passed");
    saved.cost = Duration::ZERO;
    assert!(saved.save(&[], &optimizer, &log, false).expect("alone"));
    assert_eq!(files(), 2);
    saved.cost = Duration::from_secs(60);
    assert!(saved.save(&[], &optimizer, &log, true).expect("alone"), "at once");
    assert!(saved.cost < Duration::from_secs(60), "it was measured again");
}

/// A run that was killed before its first position leaves best weights that nothing refers to; those of other inputs may
/// belong to a run that goes on later.
#[test]
fn best_weights_are_forgotten_where_no_position_refers_to_them() {
    let folder = tempfile::tempdir().expect("folder");
    let weights =
        Weights::new([("a".to_owned(), Tensor::zeros([2], (tch::Kind::Float, Device::Cpu)))].into());
    weights.train();
    let sets = [("student", &weights)];
    let of =
        |identity: &str| StepCheckpoint::new(&folder.path().join("sft"), identity.into(), Duration::ZERO);
    let (mut own, other) = (of("0123456789"), of("abcdefghij"));
    let best = |of: &StepCheckpoint, pass: u64| of.best_path(pass).is_file();
    other.save_best(1, &sets).expect("written");
    own.save_best(2, &sets).expect("written");
    own.forget_own_best();
    assert_eq!((best(&own, 2), best(&other, 1)), (false, true));

    own.save_best(3, &sets).expect("written");
    assert!(own.save(&sets, &AdamW::new(0.0), &MetricLog::new(1, "sft"), true).expect("alone"));
    own.forget_own_best();
    assert!(best(&own, 3), "the saved position may refer to it");
    own.save_best(4, &sets).expect("written");
    own.forget_best_but(4);
    assert_eq!((best(&own, 3), best(&own, 4), best(&other, 1)), (false, true, false));
}

#[test]
fn moments_of_other_weights_are_refused() {
    let weights =
        Weights::new([("a".to_owned(), Tensor::zeros([2, 3], (tch::Kind::Float, Device::Cpu)))].into());
    let refused = |moments: &[(&str, i64)]| {
        let zeros = |size: i64| Tensor::zeros([size], (tch::Kind::Float, Device::Cpu));
        let mut tensors: BTreeMap<String, Tensor> =
            moments.iter().map(|(name, size)| ((*name).to_owned(), zeros(*size))).collect();
        AdamW::new(0.0).restore(&mut tensors, 1, &[("student", &weights)], Device::Cpu)
    };
    assert_eq!(refused(&[("adam.m.student.a", 6), ("adam.v.student.a", 6)]), Ok(()));
    for (moments, message) in [
        (
            &[("adam.m.student.a", 5), ("adam.v.student.a", 6)][..],
            "adam.m.student.a: expected 6 float32 numbers, found 5",
        ),
        (&[("adam.m.student.a", 6)][..], "adam.v.student.a: expected 6 float32 numbers, found 0"),
        (&[("adam.m.student.b", 6)][..], "adam.m.student.b: no such weight is trained"),
    ] {
        assert_eq!(refused(moments), Err(message.to_owned()));
    }
}

#[test]
fn a_long_run_goes_on() {
    let folder = tempfile::tempdir().expect("folder");
    let mut log = MetricLog::new(1, "sft");
    for step in 0..400_000 {
        log.push(step, 1.0, [("loss", 0.5)]);
    }
    let mut saved = StepCheckpoint::new(&folder.path().join("sft"), "id".into(), Duration::ZERO);
    let mut optimizer = AdamW::new(0.0);
    assert!(saved.save(&[], &optimizer, &log, true).expect("alone"));
    let mut again = MetricLog::new(1, "sft");
    saved.restore(&[], &mut optimizer, &mut again).expect("restored");
    assert_eq!(again.rows().len(), 400_000);
    assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 2);
    // As a kill leaves it.
    std::fs::write(folder.path().join(".writing-.sft-step.safetensors"), "half").expect("written");
    StepCheckpoint::forget(&folder.path().join("sft"), &Group::alone());
    assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 0);
}

/// Weights of 17 · 9 + 40 + 1 numbers, of which the last has no gradient, and an optimizer for them.
fn shared_out(group: &Group, saved: &StepCheckpoint) -> (Weights, AdamW) {
    // Ranks are threads here, and share libtorch's random numbers.
    let numbers = |shape: &[i64]| {
        Tensor::arange(shape.iter().product::<i64>(), (Kind::Float, Device::Cpu)).sin().view(shape)
    };
    let named = [("a", numbers(&[17, 9])), ("b", numbers(&[40])), ("c", numbers(&[1]))];
    let weights = Weights::new(named.map(|(name, tensor)| (name.to_owned(), tensor)).into());
    weights.train_only(|_| true);
    let optimizer = saved.optimizer(&[("student", &weights)], 0.1);
    assert_eq!(optimizer.shards().is_some(), saved.shards_optimizer && !group.is_alone());
    (weights, optimizer)
}

/// Two ranks with a sharded optimizer state write the same file as two without; one, two or three ranks continue from it.
#[test]
fn a_step_checkpoint_does_not_know_how_moments_were_shared_out() {
    let folder = tempfile::tempdir().expect("folder");
    let saved = |group: &Group, name: &str, shards: bool| {
        let saved = StepCheckpoint::new(&folder.path().join(name), "id".into(), Duration::ZERO);
        saved.shared_by(group).sharding_optimizer(shards)
    };
    let steps = |weights: &Weights, optimizer: &mut AdamW, steps: std::ops::Range<i64>| {
        for step in steps {
            for name in ["a", "b"] {
                (weights.get(name) * (step as f64 * 0.3)).square().sum(Kind::Float).backward();
            }
            optimizer.step(&[("student", weights)], 0.01, 0.7);
            optimizer.spread(&[("student", weights)]).expect("spread");
        }
    };
    for (name, shards) in [("whole", false), ("shards", true)] {
        crate::collective::tests::on_ranks(2, |group| {
            let mut saved = saved(&group, name, shards);
            let (weights, mut optimizer) = shared_out(&group, &saved);
            steps(&weights, &mut optimizer, 1..4);
            let log = MetricLog::new(1, "sft");
            let written = saved.save(&[("student", &weights)], &optimizer, &log, true);
            assert!(written.expect("all are there"));
        });
    }
    let bytes = |name: &str| std::fs::read(path_beside(&folder.path().join(name))).expect("saved");
    assert!(bytes("whole") == bytes("shards"));
    let go_on = |group: Group, shards: bool| {
        let saved = saved(&group, "shards", shards);
        let (weights, mut optimizer) = shared_out(&group, &saved);
        let sets = [("student", &weights)];
        let done = saved.restore(&sets, &mut optimizer, &mut MetricLog::new(1, "sft"));
        assert_eq!(done.expect("restored"), 3);
        steps(&weights, &mut optimizer, 4..6);
        (weights.fingerprint(), optimizer.state().iter().map(|(_, moment)| moment.numel()).sum::<usize>())
    };
    let (expected, all) = go_on(Group::alone(), true);
    assert_eq!(all, 2 * (17 * 9 + 40), "the moments of what has a gradient");
    for (world, shards) in [(2, true), (3, true), (2, false)] {
        let found = crate::collective::tests::on_ranks(world, |group| go_on(group, shards));
        assert!(found.iter().all(|(weights, _)| *weights == expected), "{world} ranks, {shards}");
        let kept: usize = found.iter().map(|(_, numbers)| numbers).sum();
        assert_eq!(kept, if shards { all } else { world * all });
    }
}

/// If rank 0 cannot write, the others' moments are still received, and training continues.
#[test]
fn moments_of_a_file_that_cannot_be_written_do_not_hold_up_the_ranks() {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("file"), "").expect("written");
    crate::collective::tests::on_ranks(2, |group| {
        let target = folder.path().join("file/sft");
        let mut saved = StepCheckpoint::new(&target, "id".into(), Duration::ZERO)
            .shared_by(&group)
            .sharding_optimizer(true);
        let (weights, mut optimizer) = shared_out(&group, &saved);
        weights.get("a").sum(Kind::Float).backward();
        let sets = [("student", &weights)];
        optimizer.step(&sets, 0.01, 1.0);
        for now in [false, true] {
            let log = MetricLog::new(1, "sft");
            assert!(!saved.save(&sets, &optimizer, &log, now).expect("no rank has ended"));
        }
        group.finish().expect("all are there");
    });
}

/// Their sums would be meaningless, and tensors of different sizes would crash the process inside a library.
#[test]
fn ranks_that_start_from_something_else_are_refused() {
    let found = crate::collective::tests::on_ranks(2, |group| {
        let refused = |identity: &str, size: i64| {
            let folder = tempfile::tempdir().expect("folder");
            let tensor = Tensor::zeros([size], (Kind::Float, Device::Cpu));
            let weights = Weights::new([("a".to_owned(), tensor)].into());
            weights.train_only(|_| true);
            let saved = StepCheckpoint::new(&folder.path().join("sft"), identity.into(), Duration::MAX);
            let mut log = MetricLog::new(1, "sft");
            let sets = [("student", &weights)];
            let restored = saved.shared_by(&group).restore(&sets, &mut AdamW::new(0.0), &mut log);
            restored.map_err(|error| (error.to_string(), error.exit_code()))
        };
        let own = group.rank() as i64;
        (refused("same", 3), refused(&own.to_string(), 3), refused("same", 3 + own))
    });
    for (same, identity, shapes) in found {
        assert_eq!(same, Ok(0));
        for refused in [identity, shapes] {
            let (said, code) = refused.expect_err("they differ");
            assert!(
                said.contains("rank 1 starts from different weights, data or settings than rank 0"),
                "{said}"
            );
            assert_eq!(code, 2);
        }
    }
}
