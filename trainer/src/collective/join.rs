//! How the ranks of a run meet: each leaves its terms in a common store, and all compare them before they connect.

use super::env::Launch;
use super::gloo::{Ring, Store};
use super::group::Group;
use super::meeting::{FAREWELL, LOOK_EVERY, Meeting, Present, Terms, failed, place, prefix, reachable};
use crate::error::{Error, Result};
use crate::train::progress;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How long a rank that is interrupted may take to tell the others.
const LEAVE: Duration = Duration::from_secs(FAREWELL.as_secs() + 1);

/// Time beyond the limit in which an operation is to notice by itself that it took too long.
const GRACE: Duration = Duration::from_secs(8);

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
    // A program that listens on the port but is no store makes c10d wait forever.
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
    let own = Present::of(launch, terms);
    let all = Meeting::enter(launch, terms, &store, &own)?.wait(deadline)?;
    let address = reachable(own.address, all.iter().map(|other| other.address)).to_string();
    let local_world = all.iter().filter(|other| other.machine == own.machine).count();
    tell(Step::Met(address.clone()));
    let ring = Ring::open(&store, &address, (launch.rank, launch.world), terms.timeout);
    let ring = ring.map_err(|said| unconnected(&address, &said))?;
    Ok((ring, store, local_world))
}

#[cfg(test)]
mod tests {
    use super::super::meeting::INTERRUPTED;
    use super::super::meeting::tests::present;
    use super::super::tests::{free_port, launch, terms};
    use super::*;

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
}
