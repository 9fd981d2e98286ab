//! How the ranks of a run meet: each leaves its terms in a common store, and all compare them before they connect.

use super::env::Launch;
use super::gloo::{Ring, Store};
use super::group::{Group, unreadable};
use crate::error::{Error, Result};
use crate::train::progress;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs, UdpSocket};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
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
struct Present {
    world: usize,
    machine: String,
    address: IpAddr,
    lines: Vec<String>,
}

/// Waits for this long for another look at what is missing.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits for this long for another look at what the ranks that are missing work on.
const NOTES_EVERY: Duration = Duration::from_secs(1);

/// How long rank 0 keeps the store for ranks that are still reading why they cannot join.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long a rank that is interrupted may take to tell the others.
const LEAVE: Duration = Duration::from_secs(FAREWELL.as_secs() + 1);

/// Time beyond the limit in which an operation is to notice by itself that it took too long.
const GRACE: Duration = Duration::from_secs(8);

/// Key that is set once a rank was interrupted.
const INTERRUPTED: &str = "interrupted";

/// The hint where datasets differ.
const SAME_DATASET: &str =
    "start all ranks with the same dataset (--data); a separate run needs its own MASTER_PORT";

/// What the thread that joins tells.
enum Step {
    /// The store is there, and the others can be told if this rank ends.
    Found,
    /// All ranks are in the store; this one now connects to the others from its address.
    Met(String),
    /// It has joined, or cannot.
    Joined(Result<(Ring, Store, usize)>),
}

/// Joins the other ranks of a run.
///
/// # Errors
/// If the port is taken, `MASTER_ADDR` leads elsewhere, ranks are missing at the end of the time or cannot be reached, or they
/// were started with something else; [`Error::Interrupted`].
pub fn join(launch: &Launch, terms: &Terms) -> Result<Group> {
    let (send, receive) = mpsc::channel();
    let (own_launch, own_terms) = (launch.clone(), terms.clone());
    // A program that listens on the port but is no store lets c10d wait for ever.
    let work = move || {
        let tell = |step: Step| {
            let _ = send.send(step); // the receiver may have given up
        };
        tell(Step::Joined(connect(&own_launch, &own_terms, &tell)));
    };
    let name = "join".to_owned();
    std::thread::Builder::new().name(name).spawn(work).map_err(|e| Error::Threads(e.to_string()))?;
    let joined = match wait(&receive, launch, terms) {
        // The others may have been interrupted as well, and be gone.
        Err(Error::Group { .. }) if progress::interrupted() => Err(Error::Interrupted),
        joined => joined,
    };
    let (ring, store, local_world) = joined?;
    let place = (launch.rank, launch.world);
    Ok(Group::of(place, local_world, terms.timeout.as_secs(), !launch.has_agent, (ring, store)))
}

/// Waits for the thread that joins, which may not end by itself.
fn wait(steps: &Receiver<Step>, launch: &Launch, terms: &Terms) -> Result<(Ring, Store, usize)> {
    let seconds = terms.join_timeout.as_secs();
    let mut until = Instant::now() + terms.join_timeout + GRACE;
    let (mut has_store, mut met, mut leaves_at) = (false, None, None);
    loop {
        match steps.recv_timeout(LOOK_EVERY) {
            Ok(Step::Joined(joined)) => return joined,
            Ok(Step::Found) => has_store = true,
            Ok(Step::Met(address)) => {
                // Connections that a firewall drops are tried for as long as an operation may take, which is much longer.
                until = Instant::now() + terms.join_timeout + GRACE;
                met = Some(address);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => until = Instant::now(),
        }
        let now = Instant::now();
        if leaves_at.is_none() && progress::interrupted() {
            // Without a store there is nobody to tell.
            leaves_at = Some(if has_store { now + LEAVE } else { now });
        }
        if leaves_at.is_some_and(|leaves_at| now >= leaves_at) {
            return Err(Error::Interrupted);
        }
        if now >= until {
            break;
        }
    }
    Err(match met {
        Some(address) => unconnected(&address, &format!("not connected within {seconds} s")),
        None if launch.serves && !has_store => misled(launch, &format!("no answer within {seconds} s")),
        None => failed(
            format!(
                "no rendezvous store answered at {} within {seconds} s: another program may be listening there",
                place(launch)
            ),
            "choose another MASTER_PORT for all ranks",
        ),
    })
}

fn failed(message: String, hint: &str) -> Error {
    Error::Group { message, hint: hint.to_owned() }
}

/// All ranks have met, but are not connected.
fn unconnected(address: &str, said: &str) -> Error {
    failed(
        format!("cannot connect to the other ranks from {address}: {said}"),
        "can the machines reach each other on all ports? GLOO_SOCKET_IFNAME names the network interface to use",
    )
}

/// Rank 0 does not reach its own store.
fn misled(launch: &Launch, said: &str) -> Error {
    failed(
        format!(
            "rank 0 cannot reach itself at MASTER_ADDR `{}`, port {}: the name does not resolve, or is not this machine's: {said}",
            launch.host, launch.port
        ),
        "set MASTER_ADDR to the name or address of rank 0's machine, on all ranks",
    )
}

/// Where the store is, for messages.
fn place(launch: &Launch) -> String {
    format!("{}:{}", launch.host, launch.port)
}

/// What the keys of a start begin with.
fn start(launch: &Launch) -> String {
    format!("ares/{}", launch.run)
}

/// What the keys of a run begin with.
fn prefix(launch: &Launch, terms: &Terms) -> String {
    format!("{}/{}", start(launch), terms.subject)
}

/// Key of what a rank works on, among those of a start.
fn note(rank: usize) -> String {
    format!("subject/{rank}")
}

/// Opens the store in which the ranks meet.
fn open(launch: &Launch, terms: &Terms) -> Result<Store> {
    let (master, keys) = ((launch.host.as_str(), launch.port), prefix(launch, terms));
    Store::open(master, launch.serves, &keys, terms.join_timeout).map_err(|said| {
        if !launch.serves {
            let (place, seconds) = (place(launch), terms.join_timeout.as_secs());
            let message = format!("found no rendezvous store at {place} within {seconds} s: {said}");
            failed(message, "was rank 0 started, and is MASTER_ADDR the address of its machine?")
        } else if said.contains("server socket") {
            // c10d's word for the socket that listens; it then connects to itself by MASTER_ADDR.
            failed(
                format!("cannot listen on port {} (MASTER_PORT): {said}", launch.port),
                "another program, or another run, has this port, or only root may use it: choose another MASTER_PORT for \
                 all ranks",
            )
        } else {
            misled(launch, &said)
        }
    })
}

/// Meets the other ranks and connects to them; `tell` hears of the steps on the way.
fn connect(launch: &Launch, terms: &Terms, tell: &dyn Fn(Step)) -> Result<(Ring, Store, usize)> {
    let deadline = Instant::now() + terms.join_timeout;
    let store = open(launch, terms)?;
    tell(Step::Found);
    let master = (launch.host.as_str(), launch.port);
    let own = Present {
        world: launch.world,
        machine: machine(),
        address: address_towards(master).unwrap_or(IpAddr::from([127, 0, 0, 1])),
        lines: terms.lines.clone(),
    };
    let all = Meeting::enter(launch, terms, &store, &own)?.wait(deadline)?;
    let address = reachable(own.address, all.iter().map(|other| other.address)).to_string();
    let local_world = all.iter().filter(|other| other.machine == own.machine).count();
    tell(Step::Met(address.clone()));
    let ring = Ring::open(&store, &address, (launch.rank, launch.world), terms.timeout);
    let ring = ring.map_err(|said| unconnected(&address, &said))?;
    Ok((ring, store, local_world))
}

/// Ranks that come together in the store, as one of them sees them.
struct Meeting<'a> {
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
    fn enter(launch: &'a Launch, terms: &'a Terms, store: &'a Store, own: &'a Present) -> Result<Self> {
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
    fn wait(mut self, deadline: Instant) -> Result<Vec<Present>> {
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
fn reachable(own: IpAddr, all: impl Iterator<Item = IpAddr>) -> IpAddr {
    if !own.is_loopback() {
        return own;
    }
    let mut elsewhere = all.filter(|other| !other.is_loopback());
    elsewhere.find_map(|other| address_towards((other, 9))).unwrap_or(own)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{free_port, launch, terms};
    use super::*;

    fn present(world: usize, lines: &[&str]) -> Present {
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

    /// As where a firewall lets through no port but MASTER_PORT: rank 1 is in the store, but does not connect.
    #[test]
    fn ranks_that_meet_but_cannot_connect_say_so() {
        let port = free_port();
        let (launch, terms) = (launch(0, 2, port), terms("same", 5));
        let refused = std::thread::scope(|scope| {
            let first = scope.spawn(|| join(&launch, &terms).expect_err("no connection"));
            let (master, keys) = (("127.0.0.1", port), prefix(&launch, &terms));
            let store = Store::open(master, false, &keys, Duration::from_secs(60)).expect("a store");
            let text = serde_json::to_vec(&present(2, &["same"])).expect("json");
            store.set("terms/1", &text).expect("set");
            first.join().expect("rank 0")
        });
        let expected = "cannot connect to the other ranks from 127.0.0.1: not connected within 5 s";
        assert_eq!((refused.to_string().as_str(), refused.exit_code()), (expected, 1));
        assert!(refused.hint().is_some_and(|hint| hint.contains("on all ports")));
    }

    /// Rank 1 of 3 was interrupted, while rank 2 was missing.
    #[test]
    fn ranks_that_wait_end_with_one_that_is_interrupted() {
        let port = free_port();
        let (launch, terms) = (launch(0, 3, port), terms("same", 60));
        let ended = std::thread::scope(|scope| {
            let first = scope.spawn(|| join(&launch, &terms).expect_err("rank 1 has left"));
            let (master, keys) = (("127.0.0.1", port), prefix(&launch, &terms));
            let store = Store::open(master, false, &keys, Duration::from_secs(60)).expect("a store");
            store.set(INTERRUPTED, &[]).expect("set");
            first.join().expect("rank 0")
        });
        assert_eq!(ended.exit_code(), 130, "{ended}");
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
