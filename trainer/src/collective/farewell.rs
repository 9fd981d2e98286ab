//! Which rank has ended, and why: a rank that cannot go on leaves a word in the common store, and looks for those of the others.

use super::gloo::Store;
use super::operation::Result;
use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long all take to say farewell.
#[derive(Debug, Clone, Copy)]
struct Times {
    /// How long to wait for the others' words.
    patience: Duration,
    /// How long rank 0 keeps a store that it serves and that holds a reason, for others that have not noticed yet: they may
    /// be in the middle of a long computation.
    kept: Duration,
}

const TIMES: Times = Times { patience: Duration::from_secs(3), kept: Duration::from_secs(30) };

/// How long the store itself may take to answer beyond that.
const GRACE: Duration = Duration::from_secs(1);

/// Waits for this long for another look.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What is known about the other ranks, once one of them has failed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Farewell {
    /// Ranks that ended with an error of their own, and what they said.
    pub(super) reasons: Vec<(usize, String)>,
    /// Ranks that have said nothing.
    pub(super) missing: Vec<usize>,
    /// Ranks that ended because of another one, in their view.
    pub(super) followers: Vec<usize>,
}

/// Tells the other ranks that this one ends: for a `reason` of its own, or without one because another rank has failed.
/// Returns what they say within a few seconds. Where the store of rank 0 (`is_served_by_first`) is gone, so is that rank;
/// `None` where nothing can be known.
///
/// Rank 0 stays until all others have read a reason, but no longer than half a minute. Where there is none, because a rank
/// died without a word, it ends as soon as the others.
pub(super) fn farewell(
    store: Store,
    place: (usize, usize),
    reason: Option<String>,
    is_served_by_first: bool,
) -> Option<Farewell> {
    within(TIMES, store, place, reason, is_served_by_first)
}

fn within(
    times: Times,
    store: Store,
    (rank, world): (usize, usize),
    reason: Option<String>,
    is_served_by_first: bool,
) -> Option<Farewell> {
    let serves = is_served_by_first && rank == 0;
    let most = if serves { times.kept + times.patience + GRACE } else { times.patience };
    let (send, receive) = mpsc::channel();
    // Requests to a store whose process is stopped block forever.
    let work = move || {
        let ranks = Ranks { times, store: &store, rank, world, serves };
        let _ = send.send(ranks.part(&reason.unwrap_or_default())); // the receiver may have given up
        std::mem::forget(store); // the process is about to end, and the other end may not answer
    };
    std::thread::Builder::new().name("farewell".to_owned()).spawn(work).ok()?;
    match receive.recv_timeout(most + GRACE) {
        Ok(Ok(found)) => Some(found),
        _ if is_served_by_first && rank > 0 => Some(Farewell { missing: vec![0], ..Farewell::default() }),
        _ => None,
    }
}

/// The ranks that part, as one of them sees them.
struct Ranks<'a> {
    times: Times,
    store: &'a Store,
    rank: usize,
    world: usize,
    /// Whether the store is gone when this rank is.
    serves: bool,
}

impl Ranks<'_> {
    fn others(&self) -> impl Iterator<Item = usize> {
        let rank = self.rank;
        (0..self.world).filter(move |other| *other != rank)
    }

    fn part(&self, reason: &str) -> Result<Farewell> {
        self.store.set(&word(self.rank), reason.as_bytes())?;
        let words = self.words(!reason.is_empty())?;
        let _ = self.store.set(&done(self.rank), &[]); // gone, if rank 0 did not wait for this one
        if self.serves {
            self.wait_for_readers(words.keys().copied());
        }
        let missing = self.others().filter(|other| !words.contains_key(other)).collect();
        let (reasons, followers): (Vec<_>, Vec<_>) =
            words.into_iter().partition(|(_, reason)| !reason.is_empty());
        let followers = followers.into_iter().map(|(rank, _)| rank).collect();
        Ok(Farewell { reasons, missing, followers })
    }

    /// What the others say, until all have spoken or the time is up.
    fn words(&self, has_own_reason: bool) -> Result<BTreeMap<usize, String>> {
        let began = Instant::now();
        let mut words: BTreeMap<usize, String> = BTreeMap::new();
        loop {
            for other in self.others() {
                if !words.contains_key(&other) && self.store.has(&word(other))? {
                    let said = self.store.get(&word(other))?;
                    words.insert(other, String::from_utf8_lossy(&said).into_owned());
                }
            }
            let has_reason = has_own_reason || words.values().any(|reason| !reason.is_empty());
            let most = if self.serves && has_reason { self.times.kept } else { self.times.patience };
            if words.len() + 1 >= self.world || began.elapsed() >= most {
                return Ok(words);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until those that have spoken have also read; none of them takes longer than its patience.
    fn wait_for_readers(&self, readers: impl Iterator<Item = usize>) {
        let began = Instant::now();
        for reader in readers {
            while began.elapsed() < self.times.patience + GRACE
                && self.store.has(&done(reader)).is_ok_and(|is_done| !is_done)
            {
                std::thread::sleep(LOOK_EVERY);
            }
        }
    }
}

/// Key of what a rank says.
fn word(rank: usize) -> String {
    format!("farewell/{rank}")
}

/// Key of a rank that has read what the others say.
fn done(rank: usize) -> String {
    format!("farewell/{rank}/done")
}

impl Farewell {
    /// Who has failed and how, in words; `how` is what is known from the failure itself, such as "has ended". `None` where no
    /// rank can be named.
    pub(super) fn reason(&self, how: &str) -> Option<String> {
        if let Some((rank, reason)) = self.reasons.first() {
            return Some(format!("rank {rank} has ended: {reason}"));
        }
        // If all others ended because of another rank, that may be this one, which was stopped for a while.
        let (suspects, remark) = if self.missing.is_empty() {
            (&self.followers, "; no rank gave a reason, so this rank may have been suspended")
        } else {
            (&self.missing, "")
        };
        match suspects.as_slice() {
            [] => None,
            [rank] => Some(format!("rank {rank} {how}{remark}")),
            several => {
                let several: Vec<String> = several.iter().map(ToString::to_string).collect();
                Some(format!("one of the ranks {} {how}{remark}", several.join(", ")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::free_port;
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Short for a test, but `kept` is long enough that a test fails if it waits for all of it.
    const TIMES: Times = Times { patience: Duration::from_millis(500), kept: Duration::from_secs(600) };

    /// A store of this process, and a connection to it for each further rank.
    fn stores<const WORLD: usize>() -> [Store; WORLD] {
        let port = free_port();
        let open = |rank| Store::open(("127.0.0.1", port), rank == 0, "test", Duration::from_secs(60));
        std::array::from_fn(|rank| open(rank).expect("a store"))
    }

    /// Rank 2 is busy for longer than the others wait for a word, whether rank 0 fails itself or reads of another.
    #[test]
    fn rank_0_keeps_a_reason_for_those_who_are_busy() {
        for victim in [0, 1] {
            let [first, second, third] = stores();
            let has_noticed = AtomicBool::new(false);
            let reason = |rank| (rank == victim).then(|| "no memory".to_owned());
            let [early, late] = std::thread::scope(|scope| {
                let first = scope.spawn(|| {
                    let found = within(TIMES, first, (0, 3), reason(0), true);
                    assert!(has_noticed.load(Ordering::SeqCst), "rank 0 ends before rank 2 has looked");
                    found
                });
                let second = scope.spawn(|| within(TIMES, second, (1, 3), reason(1), true));
                let early = if victim == 0 { second } else { first };
                let late = scope.spawn(|| {
                    std::thread::sleep(3 * TIMES.patience);
                    has_noticed.store(true, Ordering::SeqCst);
                    within(TIMES, third, (2, 3), None, true)
                });
                [early, late].map(|rank| rank.join().expect("a rank").expect("found"))
            });
            let reasons = vec![(victim, "no memory".to_owned())];
            assert_eq!((&early.reasons, &late.reasons), (&reasons, &reasons));
            assert!(late.missing.is_empty(), "all have spoken: {late:?}");
        }
    }

    #[test]
    fn rank_0_does_not_stay_for_the_dead() {
        let [store, _other] = stores();
        let found = within(TIMES, store, (0, 2), None, true).expect("found");
        assert_eq!(found, Farewell { missing: vec![1], ..Farewell::default() });
    }

    /// Rank 0 was stopped until the other had given it up.
    #[test]
    fn the_rank_that_gave_this_one_up_is_named() {
        let [first, second] = stores();
        let given_up = within(TIMES, second, (1, 2), None, true).expect("found");
        assert_eq!(given_up, Farewell { missing: vec![0], ..Farewell::default() });
        let found = within(TIMES, first, (0, 2), None, true).expect("found");
        assert_eq!(found, Farewell { followers: vec![1], ..Farewell::default() });
        let said = found.reason("has ended").expect("a rank");
        assert!(said.starts_with("rank 1 has ended; no rank gave a reason"), "{said}");
    }

    #[test]
    fn the_rank_that_failed_is_named() {
        let reason = |reasons: &[(usize, &str)], missing: &[usize]| {
            let reasons = reasons.iter().map(|(rank, reason)| (*rank, (*reason).to_owned())).collect();
            Farewell { reasons, missing: missing.to_vec(), followers: vec![7] }.reason("has ended")
        };
        assert_eq!(reason(&[], &[1]).as_deref(), Some("rank 1 has ended"));
        assert_eq!(reason(&[], &[1, 3]).as_deref(), Some("one of the ranks 1, 3 has ended"));
        assert_eq!(reason(&[(2, "no memory")], &[1]).as_deref(), Some("rank 2 has ended: no memory"));
        assert_eq!(Farewell::default().reason("has ended"), None);
    }
}
