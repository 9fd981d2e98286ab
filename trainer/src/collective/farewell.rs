//! Which rank has ended, and why: a rank that cannot go on leaves a word in the common store, and looks for those of the others.

use super::gloo::Store;
use super::operation::Result;
use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long to wait for the others' words; rank 0, who may serve the store, keeps it for as long.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long the store itself may take to answer beyond that.
const GRACE: Duration = Duration::from_secs(1);

/// How long rank 0 keeps the store for others that are still looking.
const LINGER: Duration = Duration::from_millis(200);

/// Waits for this long for another look.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What is known about the other ranks, once one of them has failed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Farewell {
    /// Ranks that ended with an error of their own, and what they said.
    pub(super) reasons: Vec<(usize, String)>,
    /// Ranks that have said nothing.
    pub(super) missing: Vec<usize>,
}

/// Tells the other ranks that this one ends: for a `reason` of its own, or without one because another rank has failed.
/// Returns what they say within a few seconds. Where the store of rank 0 (`is_served_by_first`) is gone, so is that rank;
/// `None` where nothing can be known.
pub(super) fn farewell(
    store: Store,
    (rank, world): (usize, usize),
    reason: Option<String>,
    is_served_by_first: bool,
) -> Option<Farewell> {
    let (send, receive) = mpsc::channel();
    // A store whose process stands still would be waited for without end.
    let work = move || {
        let found = look(&store, (rank, world), &reason.unwrap_or_default());
        if rank == 0 {
            std::thread::sleep(LINGER);
        }
        let _ = send.send(found); // nobody waits any more
        std::mem::forget(store); // the process is about to end, and the other end may not answer
    };
    std::thread::Builder::new().name("farewell".to_owned()).spawn(work).ok()?;
    match receive.recv_timeout(PATIENCE + GRACE) {
        Ok(Ok(found)) => Some(found),
        _ if is_served_by_first && rank > 0 => Some(Farewell { missing: vec![0], ..Farewell::default() }),
        _ => None,
    }
}

fn look(store: &Store, (rank, world): (usize, usize), reason: &str) -> Result<Farewell> {
    store.set(&key(rank), reason.as_bytes())?;
    let until = Instant::now() + PATIENCE;
    let mut words: BTreeMap<usize, String> = BTreeMap::new();
    loop {
        for other in (0..world).filter(|other| *other != rank) {
            if !words.contains_key(&other) && store.has(&key(other))? {
                words.insert(other, String::from_utf8_lossy(&store.get(&key(other))?).into_owned());
            }
        }
        if words.len() + 1 >= world || Instant::now() >= until {
            break;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let missing = (0..world).filter(|other| *other != rank && !words.contains_key(other)).collect();
    let reasons = words.into_iter().filter(|(_, reason)| !reason.is_empty()).collect();
    Ok(Farewell { reasons, missing })
}

fn key(rank: usize) -> String {
    format!("farewell/{rank}")
}

impl Farewell {
    /// Who has failed and how, in words; `how` is what is known from the failure itself, such as "has ended". `None` where no
    /// rank can be named.
    pub(super) fn reason(&self, how: &str) -> Option<String> {
        if let Some((rank, reason)) = self.reasons.first() {
            return Some(format!("rank {rank} has ended: {reason}"));
        }
        match self.missing.as_slice() {
            [] => None,
            [rank] => Some(format!("rank {rank} {how}")),
            several => {
                let several: Vec<String> = several.iter().map(ToString::to_string).collect();
                Some(format!("one of the ranks {} {how}", several.join(", ")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rank_that_failed_is_named() {
        let reason = |reasons: &[(usize, &str)], missing: &[usize]| {
            let reasons = reasons.iter().map(|(rank, reason)| (*rank, (*reason).to_owned())).collect();
            Farewell { reasons, missing: missing.to_vec() }.reason("has ended")
        };
        assert_eq!(reason(&[], &[1]).as_deref(), Some("rank 1 has ended"));
        assert_eq!(reason(&[], &[1, 3]).as_deref(), Some("one of the ranks 1, 3 has ended"));
        assert_eq!(reason(&[(2, "no memory")], &[1]).as_deref(), Some("rank 2 has ended: no memory"));
        assert_eq!(reason(&[], &[]), None);
    }
}
