//! Judging with the embedded Teacher: no preference when a set is compared with itself, a clear one for gold
//! against nonsense; accounts of judgements; audits.

use crate::fixture::*;
use feedback_pipeline::collect::{Context, Outcome};
use feedback_pipeline::inspect::audit::{self, Choice};
use feedback_pipeline::inspect::status;
use feedback_pipeline::inspect::win_rate::WinRates;
use feedback_pipeline::items::{Job, Kind, Order};
use schemas::settings::Resolved;
use schemas::{Dataset, Judgement, Request, Score};
use tempfile::TempDir;

const SOLUTION: &str =
    "Look at the map. The arrow points down. Hull is north of Dover. So Dover is farthest south.";
const WRONG: &str =
    "Look at the map. The arrow points up. Hull is south of Dover. So Hull is farthest south.";
/// Sentences of the solution with their words in another order.
const MIXED: &str =
    "Map the at look. Down arrow the points. Dover of north Hull. South farthest Dover so is.";

fn context(dataset: &Dataset) -> Context {
    Context::new(dataset.clone(), Resolved::load(None, &Default::default()).unwrap())
}

/// Test problems with candidate and baseline from `text`, by problem number.
fn pairs(folder: &TempDir, count: usize, text: impl Fn(usize, bool) -> &'static str) -> Dataset {
    let ids: Vec<String> = (0..count).map(|number| format!("p{number:03}")).collect();
    let dataset = dataset(folder, ids.iter().map(|id| problem(id, "test", "maps", SOLUTION)).collect());
    let of = |stage: &str, round: u32, candidate: bool| {
        ids.iter()
            .enumerate()
            .map(|(n, id)| rationale(id, round, stage, "test", text(n, candidate)))
            .collect::<Vec<_>>()
    };
    dataset.write_part(0, "base", of("base", 0, false), &provenance()).unwrap();
    dataset.write_part(1, "sft", of("sft", 1, true), &provenance()).unwrap();
    dataset
}

fn judged(dataset: &Dataset, job: &Job) -> WinRates {
    assert!(matches!(context(dataset).collect(job).unwrap(), Outcome::Finished { left: 0, .. }));
    WinRates::read(dataset, 1).unwrap().into_iter().find(|rates| rates.against == job.against).unwrap()
}

#[test]
fn a_set_against_itself_is_even() {
    let folder = TempDir::new().unwrap();
    // Each side is good in half of the problems, and both are in a quarter of them, like two independent
    // draws from one set.
    let good = |n: usize, candidate: bool| if candidate { n % 4 < 2 } else { n.is_multiple_of(2) };
    let dataset = pairs(&folder, 200, |n, side| if good(n, side) { SOLUTION } else { WRONG });
    let rates = judged(&dataset, &Job::judge(1, "base"));
    let rate = rates.all.win_rate();
    assert!(rate.low < 0.5 && rate.high > 0.5 && rate.whole == 100, "{rates}");
    assert!(rates.shown_first.low < 0.5 && rates.shown_first.high > 0.5, "the order is no help: {rates}");
    let same = judged(&dataset, &Job::judge(1, "1"));
    assert_eq!((same.all.wins, same.all.losses, same.all.ties), (0, 0, 200));
    assert!(same.to_string().contains("none decided"), "{same}");
}

#[test]
fn gold_beats_mixed_words() {
    let folder = TempDir::new().unwrap();
    let dataset = pairs(&folder, 60, |_, candidate| if candidate { SOLUTION } else { MIXED });
    let rates = judged(&dataset, &Job::judge(1, "base"));
    assert!(rates.all.win_rate().low > 0.9, "{rates}");
    assert!(rates.subjects["maps"].wins == 60);
    assert!(rates.to_string().starts_with("against base: win rate 100.0 %"), "{rates}");
}

#[test]
fn both_orders_are_asked_once_and_counted_once() {
    let folder = TempDir::new().unwrap();
    let dataset = pairs(&folder, 20, |_, candidate| if candidate { SOLUTION } else { WRONG });
    judged(&dataset, &Job::judge(1, "base"));
    for order in [Order::CandidateFirst, Order::BaselineFirst] {
        judged(&dataset, &Job { order, ..Job::judge(1, "base") });
    }
    let rows = dataset.read::<Judgement>(1).unwrap();
    assert_eq!((rows.len(), rows.iter().filter(|row| row.candidate_shown_first).count()), (40, 20));
    let rates = WinRates::read(&dataset, 1).unwrap().remove(0);
    assert_eq!((rates.all.wins, rates.both_orders), (20, (20, 20)));
    let again = context(&dataset).collect(&Job::judge(1, "base")).unwrap();
    assert!(matches!(again, Outcome::NothingToDo { answered: 20, rejected: 0 }), "{again:?}");
    let state = status::report(&dataset, &schemas::Settings::default()).unwrap();
    let book = state.accounts.iter().find(|account| account.kind == "judgements").unwrap();
    assert_eq!((book.items, book.done, book.waiting, book.faults.len()), (20, 20, 0, 0), "{book}");
    assert!(state.to_string().contains("round 1, judgements against base: 20 pairs = 20 judged"), "{state}");
    let context = context(&dataset);
    feedback_pipeline::tables::rebuild::all(&context.dataset, &context.provenance).unwrap();
    let rebuilt = dataset.read::<Judgement>(1).unwrap();
    assert_eq!(rebuilt.len(), 40, "a rebuild keeps both orders");
}

#[test]
fn an_audit_asks_anew_and_leaves_the_scores_alone() {
    let folder = TempDir::new().unwrap();
    let dataset = dataset(&folder, vec![problem("a", "train", "maps", SOLUTION)]);
    let rollouts = [rollout("a", 1, 0, SOLUTION), rollout("a", 1, 1, WRONG), rollout("a", 1, 2, MIXED)];
    dataset.write_part(1, "0", rollouts, &provenance()).unwrap();
    let context = context(&dataset);
    let choice = Choice { sample: 2, seed: 5 };
    let error = audit::run(&context, 1, choice).unwrap_err();
    assert_eq!(error.exit_code(), 2, "nothing is scored yet: {error}");
    context.collect(&Job::new(Kind::Scores, 1)).unwrap();
    let before = dataset.read::<Score>(1).unwrap();
    let (audit, stopped) = audit::run(&context, 1, choice).unwrap();
    assert!(stopped.is_none());
    assert_eq!((audit.rollouts, audit.answered, audit.rejected, audit.sent), (2, 2, 0, 2));
    assert_eq!(
        (audit.agreement.sentences, audit.agreement.exact),
        (8, Some(1.0)),
        "the same Teacher agrees with itself"
    );
    assert_eq!(dataset.read::<Score>(1).unwrap(), before);
    let ledger = || dataset.read::<Request>(1).unwrap().into_iter().filter(|row| row.kind == "audit").count();
    assert_eq!(ledger(), 2);
    let (again, _) = audit::run(&context, 1, choice).unwrap();
    assert_eq!(
        (again.sent, again.agreement.clone(), ledger()),
        (0, audit.agreement, 2),
        "nothing is asked twice"
    );
    let (larger, _) = audit::run(&context, 1, Choice { sample: 3, seed: 5 }).unwrap();
    assert_eq!((larger.sent, larger.answered, ledger()), (1, 3, 3));
    let state = status::report(&dataset, &schemas::Settings::default()).unwrap();
    assert!(state.balanced, "{state}");
    assert!(larger.to_json().unwrap().contains("\"rank_correlation\""));
}
