//! The store in which the ranks of a run meet, as one of them sees it: who has come, and with which terms.

use super::env::Launch;
use super::gloo::Store;
use super::group::unreadable;
use crate::error::{Error, Result};
use crate::train::progress;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

/// What all ranks must have in common, and how long they wait for each other.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The dataset of the run, in words; runs on other datasets do not meet, even on the same port.
    pub subject: String,
    /// Lines that must be the same on all ranks: version, command, settings.
    pub lines: Vec<String>,
    /// How long to wait for ranks that are not there yet, and then for the connections to them.
    pub join_timeout: Duration,
    /// How long to wait for a rank's part of an operation.
    pub timeout: Duration,
}

/// What a rank tells the others about itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Present {
    world: usize,
    pub(super) machine: String,
    pub(super) address: IpAddr,
    lines: Vec<String>,
}

/// Waits for this long for another look at what is missing.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How long rank 0 keeps the store for ranks that are still reading why they cannot join.
pub(super) const FAREWELL: Duration = Duration::from_secs(5);

/// Waits for this long for another look at what the ranks that are missing work on.
const NOTES_EVERY: Duration = Duration::from_secs(1);

/// Key that is set once a rank was interrupted.
pub(super) const INTERRUPTED: &str = "interrupted";

/// The hint where datasets differ.
const SAME_DATASET: &str =
    "start all ranks with the same dataset (--data); a separate run needs its own MASTER_PORT";

/// Key of what a rank works on, among those of a start.
fn note(rank: usize) -> String {
    format!("subject/{rank}")
}

impl Present {
    /// What this rank tells.
    pub(super) fn of(launch: &Launch, terms: &Terms) -> Self {
        let master = (launch.host.as_str(), launch.port);
        Self {
            world: launch.world,
            machine: machine(),
            address: address_towards(master).unwrap_or(IpAddr::from([127, 0, 0, 1])),
            lines: terms.lines.clone(),
        }
    }
}

pub(super) fn failed(message: String, hint: &str) -> Error {
    Error::Group { message, hint: hint.to_owned() }
}

/// Where the store is, for messages.
pub(super) fn place(launch: &Launch) -> String {
    format!("{}:{}", launch.host, launch.port)
}

/// What the keys of a start begin with.
fn start(launch: &Launch) -> String {
    format!("ares/{}", launch.run)
}

/// What the keys of a run begin with.
pub(super) fn prefix(launch: &Launch, terms: &Terms) -> String {
    format!("{}/{}", start(launch), terms.subject)
}

/// Ranks that come together in the store, as one of them sees them.
pub(super) struct Meeting<'a> {
    launch: &'a Launch,
    terms: &'a Terms,
    store: &'a Store,
    own: &'a Present,
    /// Those that have come, by number.
    present: Vec<Option<Present>>,
    /// The same store with the keys of the whole start. It only serves to explain why a rank is missing.
    notes: Option<Store>,
    /// Datasets of ranks that were missing at the last look.
    subjects: BTreeMap<usize, String>,
}

impl<'a> Meeting<'a> {
    /// Leaves this rank's terms in the store.
    pub(super) fn enter(
        launch: &'a Launch,
        terms: &'a Terms,
        store: &'a Store,
        own: &'a Present,
    ) -> Result<Self> {
        let (present, subjects) = (vec![None; launch.world], BTreeMap::new());
        let mut meeting = Self { launch, terms, store, own, present, notes: None, subjects };
        let rank = launch.rank;
        if store.add(&format!("here/{rank}"), 1).map_err(|said| meeting.lost(&said))? > 1 {
            return Err(failed(
                format!("another process is already rank {rank} at {}", place(launch)),
                "two runs share this port, or two processes have the same RANK: give each run a MASTER_PORT of its own",
            ));
        }
        let master = (launch.host.as_str(), launch.port);
        meeting.notes = Store::open(master, false, &start(launch), terms.join_timeout).ok();
        if let Some(notes) = &meeting.notes {
            let _ = notes.set(&note(rank), terms.subject.as_bytes()); // the next line notices a store that is gone
        }
        let text = serde_json::to_vec(own).map_err(|error| unreadable(&error))?;
        store.set(&format!("terms/{rank}"), &text).map_err(|said| meeting.lost(&said))?;
        Ok(meeting)
    }

    /// Waits until all have come, with the same terms.
    pub(super) fn wait(mut self, deadline: Instant) -> Result<Vec<Present>> {
        let mut notes_at = Instant::now();
        loop {
            self.look()?;
            let missing = self.missing();
            // Once all have come, they go on, and end together at the next safe point.
            let is_interrupted = progress::interrupted() && !missing.is_empty();
            if is_interrupted || self.store.has(INTERRUPTED).map_err(|said| self.lost(&said))? {
                let _ = self.store.set(INTERRUPTED, &[]); // gone, if rank 0 was interrupted as well
                self.part(self.launch.world - missing.len());
                return Err(Error::Interrupted);
            }
            if missing.is_empty() {
                return Ok(self.present.into_iter().flatten().collect());
            }
            let now = Instant::now();
            if now >= notes_at || now > deadline {
                self.read_notes(&missing);
                notes_at = now + NOTES_EVERY;
            }
            if now > deadline {
                return Err(self.incomplete(&missing));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn missing(&self) -> Vec<usize> {
        let missing = self.present.iter().enumerate().filter(|(_, present)| present.is_none());
        missing.map(|(rank, _)| rank).collect()
    }

    /// Reads the terms of those that have come since the last look.
    fn look(&mut self) -> Result<()> {
        for rank in self.missing() {
            let key = format!("terms/{rank}");
            if !self.store.has(&key).map_err(|said| self.lost(&said))? {
                continue;
            }
            let text = self.store.get(&key).map_err(|said| self.lost(&said))?;
            let found: Present = serde_json::from_slice(&text).map_err(|error| unreadable(&error))?;
            if let Some(difference) = difference((self.launch.rank, self.own), (rank, &found)) {
                self.part(self.launch.world);
                return Err(Error::input(
                    difference,
                    "start all ranks with the same version, command and settings",
                ));
            }
            self.present[rank] = Some(found);
        }
        Ok(())
    }

    /// Reads what ranks that are missing here work on. Later the store may be gone.
    fn read_notes(&mut self, missing: &[usize]) {
        let Some(notes) = &self.notes else { return };
        for &rank in missing {
            if notes.has(&note(rank)).is_ok_and(|has| has)
                && let Ok(subject) = notes.get(&note(rank))
            {
                self.subjects.insert(rank, String::from_utf8_lossy(&subject).into_owned());
            }
        }
    }

    /// How the dataset of a rank that is missing differs, if that is why.
    fn stranger(&self) -> Option<String> {
        let own = &self.terms.subject;
        let mut strangers = self.subjects.iter().filter(|(_, subject)| *subject != own);
        let (rank, subject) = strangers.find(|(rank, _)| self.present[**rank].is_none())?;
        let here = self.launch.rank;
        Some(format!(
            "rank {rank} was started with another dataset: expected `{own}` as on rank {here}, found `{subject}`"
        ))
    }

    /// The time is up.
    fn incomplete(&self, missing: &[usize]) -> Error {
        let world = self.launch.world;
        let ranks: Vec<String> = missing.iter().map(ToString::to_string).collect();
        let message = format!(
            "expected {world} ranks at {}, but these did not join within {} s: {}",
            place(self.launch),
            self.terms.join_timeout.as_secs(),
            ranks.join(", ")
        );
        self.part(world - missing.len());
        match self.stranger() {
            Some(stranger) => Error::input(format!("{message}; {stranger}"), SAME_DATASET),
            None => failed(message, "start them, or raise student.join_timeout_secs"),
        }
    }

    /// The store does not answer.
    fn lost(&self, said: &str) -> Error {
        if let Some(stranger) = self.stranger() {
            return Error::input(stranger, SAME_DATASET);
        }
        failed(
            format!("the rendezvous store at {} is gone: {said}", place(self.launch)),
            "the last message of rank 0 gives the reason",
        )
    }

    /// Leaves without joining. The rank that serves the store waits for the others, of `ranks`, who may still have to read
    /// why.
    fn part(&self, ranks: usize) {
        let until = Instant::now() + FAREWELL;
        let mut parted = self.store.add("parted", 1);
        while self.launch.serves
            && Instant::now() < until
            && parted.as_ref().is_ok_and(|parted| *parted < ranks as i64)
        {
            std::thread::sleep(LOOK_EVERY);
            parted = self.store.add("parted", 0);
        }
    }
}

/// How what another rank was started with differs from one's own, in the words that both ranks use.
fn difference((rank, own): (usize, &Present), (other, found): (usize, &Present)) -> Option<String> {
    let ((low, of_low), (high, of_high)) =
        if rank < other { ((rank, own), (other, found)) } else { ((other, found), (rank, own)) };
    let differ = |left: &str, right: &str| {
        Some(format!("ranks differ: rank {low} was started with `{left}`, rank {high} with `{right}`"))
    };
    if of_low.world != of_high.world {
        let world = |of: &Present| format!("WORLD_SIZE={}", of.world);
        return differ(&world(of_low), &world(of_high));
    }
    let longest = of_low.lines.len().max(of_high.lines.len());
    let line = |of: &Present, index: usize| of.lines.get(index).cloned().unwrap_or_default();
    let pairs = (0..longest).map(|index| (line(of_low, index), line(of_high, index)));
    pairs.into_iter().find(|(left, right)| left != right).and_then(|(left, right)| differ(&left, &right))
}

/// This machine's name.
fn machine() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::fs::read_to_string("/etc/hostname"));
    name.map_or_else(|_| std::env::var("HOSTNAME").unwrap_or_default(), |name| name.trim().to_owned())
}

/// The address of this machine from which a place is reached. Nothing is sent.
fn address_towards(place: impl ToSocketAddrs) -> Option<IpAddr> {
    place.to_socket_addrs().ok()?.find_map(|place| {
        let any: IpAddr = if place.is_ipv4() { [0u8; 4].into() } else { [0u8; 16].into() };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(place).ok()?;
        Some(socket.local_addr().ok()?.ip())
    })
}

/// An address by which the others reach this machine: where its name leads to itself alone (`127.0.1.1`), the one that
/// faces a rank elsewhere.
pub(super) fn reachable(own: IpAddr, all: impl Iterator<Item = IpAddr>) -> IpAddr {
    if !own.is_loopback() {
        return own;
    }
    let mut elsewhere = all.filter(|other| !other.is_loopback());
    elsewhere.find_map(|other| address_towards((other, 9))).unwrap_or(own)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn present(world: usize, lines: &[&str]) -> Present {
        let lines = lines.iter().map(|line| (*line).to_owned()).collect();
        Present { world, machine: String::new(), address: [127, 0, 0, 1].into(), lines }
    }

    #[test]
    fn both_sides_tell_a_difference_alike() {
        let (left, right) = (present(2, &["a = 1", "b = 2"]), present(2, &["a = 1", "b = 3"]));
        let expected = "ranks differ: rank 0 was started with `b = 2`, rank 1 with `b = 3`";
        assert_eq!(difference((0, &left), (1, &right)).as_deref(), Some(expected));
        assert_eq!(difference((1, &right), (0, &left)).as_deref(), Some(expected));
        assert_eq!(difference((0, &left), (1, &left)), None);
        assert!(
            difference((0, &left), (1, &present(3, &[]))).is_some_and(|said| said.contains("WORLD_SIZE=3"))
        );
        assert!(
            difference((0, &left), (1, &present(2, &["a = 1"]))).is_some_and(|said| said.contains("with ``"))
        );
    }

    #[test]
    fn an_address_leads_to_the_others() {
        assert!(address_towards(("127.0.0.1", 9)).is_some_and(|found| found.is_loopback()));
        let outside: IpAddr = [10, 1, 2, 3].into();
        let own: IpAddr = [127, 0, 1, 1].into();
        assert_eq!(reachable(outside, [own].into_iter()), outside);
        assert_eq!(reachable(own, [own, own].into_iter()), own, "all are on one machine");
    }
}
