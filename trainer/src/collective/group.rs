//! The group itself: sums, gathers, broadcasts, and who does what.

use super::farewell::farewell;
use super::gloo::{Ring, Store};
use super::nccl::{Id, Libraries, Nccl, Opening};
use super::operation;
use super::wait::{End, until_end};
use crate::error::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::cell::{OnceCell, Ref, RefCell};
use std::rc::Rc;
use std::time::Duration;
use tch::{Device, Tensor};

/// The ranks of a run, of which this process is one. Clones are the same group.
///
/// Every operation is called by all ranks, in the same order. Where one of them ends, the others fail with
/// [`Error::Group`] as soon as they wait for it.
#[derive(Debug, Clone)]
pub struct Group(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    rank: usize,
    world: usize,
    /// Ranks on this machine.
    local_world: usize,
    /// Seconds after which a rank that says nothing is given up.
    timeout_secs: u64,
    /// Whether the store is gone when rank 0 is.
    is_served_by_first: bool,
    /// None in a process by itself, and after a failure.
    connection: RefCell<Option<(Ring, Store)>>,
    /// Sums on GPUs, where the ranks have some.
    gpus: RefCell<Option<Nccl>>,
    /// The operation that failed, and who is to blame.
    broken: OnceCell<String>,
}

/// What went wrong on a rank, for the others.
#[derive(serde::Serialize, serde::Deserialize)]
struct Failure {
    message: String,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    fn of(error: &Error) -> Self {
        Self {
            message: error.to_string(),
            hint: error.hint().map(ToOwned::to_owned),
            code: error.exit_code(),
        }
    }

    fn on(self, rank: usize) -> Error {
        if self.code == Error::Interrupted.exit_code() {
            return Error::Interrupted;
        }
        Error::OnRank { rank, message: self.message, hint: self.hint, code: self.code }
    }
}

impl Group {
    /// A process by itself.
    pub fn alone() -> Self {
        Self(Rc::new(Inner {
            rank: 0,
            world: 1,
            local_world: 1,
            timeout_secs: 0,
            is_served_by_first: false,
            connection: RefCell::new(None),
            gpus: RefCell::new(None),
            broken: OnceCell::new(),
        }))
    }

    /// One of several processes, which are connected.
    pub(super) fn of(
        (rank, world): (usize, usize),
        local_world: usize,
        timeout_secs: u64,
        is_served_by_first: bool,
        connection: (Ring, Store),
    ) -> Self {
        Self(Rc::new(Inner {
            rank,
            world,
            local_world,
            timeout_secs,
            is_served_by_first,
            connection: RefCell::new(Some(connection)),
            gpus: RefCell::new(None),
            broken: OnceCell::new(),
        }))
    }

    /// This process's number, from 0.
    pub fn rank(&self) -> usize {
        self.0.rank
    }

    /// Number of processes.
    pub fn world(&self) -> usize {
        self.0.world
    }

    /// Number of processes on this machine.
    pub fn local_world(&self) -> usize {
        self.0.local_world
    }

    /// Whether this process writes and speaks for all.
    pub fn is_first(&self) -> bool {
        self.0.rank == 0
    }

    /// Whether there are no others.
    pub fn is_alone(&self) -> bool {
        self.0.world == 1
    }

    /// An operation on the connection; `what` names it in errors.
    pub(super) fn operate(
        &self,
        what: &str,
        work: impl FnOnce(&Ring) -> operation::Result<()>,
    ) -> Result<()> {
        if self.is_alone() {
            return Ok(());
        }
        let failed = match self.0.connection.borrow().as_ref() {
            Some((ring, _)) => match work(ring) {
                Ok(()) => return Ok(()),
                Err(said) => said,
            },
            None => String::new(),
        };
        let message = self.0.broken.get_or_init(|| self.broken(what, &failed)).clone();
        Err(Error::Group {
            message,
            hint: "the last message of that rank gives the reason; the same command continues from the last step checkpoint"
                .to_owned(),
        })
    }

    /// Has sums and broadcasts of tensors on `device` run there: each rank has a GPU of its own, which is its first. Does
    /// nothing in a process by itself.
    ///
    /// # Errors
    /// If a library is missing, or NCCL cannot connect the GPUs.
    pub fn connect_gpus(&self, libraries: &Libraries, device: Device) -> Result<()> {
        if self.is_alone() {
            return Ok(());
        }
        let failed = |said: String| {
            Error::input(
                format!("rank {} cannot sum on its GPU: {said}", self.rank()),
                "each rank needs a GPU of its own (LOCAL_RANK says which), and NCCL's library; set NCCL_DEBUG=INFO for NCCL's log",
            )
        };
        let id = self.agree(self.is_first().then(|| Id::new(libraries)).transpose().map_err(failed))?;
        let Some(id) = self.of_first(id)? else { return Ok(()) };
        let opening = Opening::begin(libraries, &id, (self.rank(), self.world()), device);
        let opening = self.agree(opening.map_err(failed))?;
        // If it fails on one rank, the others would wait for that rank forever.
        let (mut opened, mut end) = (None, End::Over);
        let waited = self.operate("opening NCCL", |ring| {
            end = until_end(ring, self.timeout(), || {
                if opened.is_none() {
                    opened = opening.opened()?;
                }
                Ok(opened.is_some())
            })?;
            Ok(())
        });
        let own = if let End::Failed(said) = end { Err(failed(said)) } else { Ok(()) };
        let done = waited.and_then(|()| self.agree(own));
        if done.is_ok() {
            *self.0.gpus.borrow_mut() = opened;
        } else if let Some(gpus) = opened {
            gpus.abort(); // to close it would wait for the others
        }
        done
    }

    /// What operates on GPUs.
    pub(super) fn gpus(&self) -> Ref<'_, Option<Nccl>> {
        self.0.gpus.borrow()
    }

    /// How long an operation may take.
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_secs(self.0.timeout_secs)
    }

    /// Why an operation failed, in words. The connection is given up.
    fn broken(&self, what: &str, said: &str) -> String {
        if let Some(gpus) = self.0.gpus.take() {
            gpus.abort();
        }
        let timeout_secs = self.0.timeout_secs;
        let lower = said.to_lowercase();
        let how = if lower.contains("timed out") || lower.contains("timeout") {
            Some(format!("has not answered for {timeout_secs} s (student.rank_timeout_secs)"))
        } else if ["closed", "reset", "broken pipe", "refused"].iter().any(|sign| lower.contains(sign)) {
            Some("has ended".to_owned())
        } else {
            None
        };
        let found = self.0.connection.take().and_then(|(ring, store)| {
            // Its threads may still wait for a rank that never answers; the process is about to end.
            std::mem::forget(ring);
            farewell(store, (self.rank(), self.world()), None, self.0.is_served_by_first)
        });
        let reason = match how {
            Some(how) => {
                found.and_then(|found| found.reason(&how)).unwrap_or_else(|| format!("another rank {how}"))
            }
            None => "the ranks cannot continue together".to_owned(),
        };
        format!("{reason} ({what}: {said})")
    }

    /// Tells the other ranks why this one ends, unless that is because one of them did.
    pub fn leave(&self, error: &Error) {
        if matches!(error, Error::Group { .. }) {
            return;
        }
        if let Some(gpus) = self.0.gpus.take() {
            gpus.abort(); // to close it would take the others
        }
        if let Some((ring, store)) = self.0.connection.take() {
            drop(ring); // the others notice
            farewell(store, (self.rank(), self.world()), Some(error.to_string()), self.0.is_served_by_first);
        }
    }

    /// Bytes of all ranks, in their order, which may differ in number.
    ///
    /// # Errors
    /// As [`Group::sum`].
    fn gather_bytes(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        let lengths = self.gather_tensor(&Tensor::from_slice(&[own.len() as i64]))?;
        let lengths: Vec<usize> =
            (0..self.world()).map(|rank| lengths.int64_value(&[rank as i64]) as usize).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0).max(1);
        let mut padded = own.to_vec();
        padded.resize(longest, 0);
        let all = self.gather_tensor(&Tensor::from_slice(&padded))?;
        let mut bytes = vec![0u8; longest * self.world()];
        let count = bytes.len();
        all.copy_data_u8(&mut bytes, count);
        Ok(bytes.chunks(longest).zip(lengths).map(|(bytes, length)| bytes[..length].to_vec()).collect())
    }

    /// The values of all ranks, in rank order, on every rank.
    ///
    /// # Errors
    /// As [`Group::sum`].
    pub fn gather<T: Serialize + DeserializeOwned>(&self, own: T) -> Result<Vec<T>> {
        if self.is_alone() {
            return Ok(vec![own]);
        }
        let text = serde_json::to_vec(&own).map_err(|error| unreadable(&error))?;
        let all = self.gather_bytes(&text)?;
        all.iter().map(|text| serde_json::from_slice(text).map_err(|error| unreadable(&error))).collect()
    }

    /// The first rank whose value differs from rank 0's; `None` if all are equal.
    ///
    /// # Errors
    /// As [`Group::sum`].
    pub fn differing<T: Serialize + DeserializeOwned + PartialEq>(&self, own: T) -> Result<Option<usize>> {
        let all = self.gather(own)?;
        Ok(all.iter().position(|found| *found != all[0]))
    }

    /// Equally many numbers from each rank, in rank order.
    ///
    /// # Errors
    /// As [`Group::sum`].
    pub fn gather_numbers(&self, own: &[f64]) -> Result<Vec<Vec<f64>>> {
        if self.is_alone() || own.is_empty() {
            return Ok(vec![own.to_vec(); self.world()]);
        }
        let all = self.gather_tensor(&Tensor::from_slice(own))?;
        let mut numbers = vec![0f64; own.len() * self.world()];
        let count = numbers.len();
        all.copy_data(&mut numbers, count);
        Ok(numbers.chunks(own.len()).map(<[f64]>::to_vec).collect())
    }

    /// Rank 0's number.
    ///
    /// # Errors
    /// As [`Group::sum`].
    pub fn number_of_first(&self, own: f64) -> Result<f64> {
        let mut number = Tensor::from_slice(&[own]);
        self.broadcast(&mut number)?;
        Ok(number.double_value(&[0]))
    }

    /// Rank 0's value, on every rank.
    ///
    /// # Errors
    /// As [`Group::sum`].
    pub fn of_first<T: Serialize + DeserializeOwned>(&self, own: T) -> Result<T> {
        if self.is_alone() {
            return Ok(own);
        }
        let mut text = if self.is_first() {
            serde_json::to_vec(&own).map_err(|error| unreadable(&error))?
        } else {
            Vec::new()
        };
        let length = self.number_of_first(text.len() as f64)? as usize;
        text.resize(length.max(1), 0);
        let mut bytes = Tensor::from_slice(&text);
        self.broadcast(&mut bytes)?;
        let count = text.len();
        bytes.copy_data_u8(&mut text, count);
        serde_json::from_slice(&text[..length]).map_err(|error| unreadable(&error))
    }

    /// Whether it is so on any rank.
    ///
    /// # Errors
    /// As [`Group::sum`].
    pub fn any(&self, own: bool) -> Result<bool> {
        if self.is_alone() {
            return Ok(own);
        }
        let mut sum = Tensor::from_slice(&[i64::from(own)]);
        self.sum(&mut sum)?;
        Ok(sum.int64_value(&[0]) > 0)
    }

    /// `own`, if all ranks have done their part; else what went wrong on the first that has not.
    ///
    /// # Errors
    /// This rank's own, or [`Error::OnRank`].
    pub fn agree<T>(&self, own: Result<T>) -> Result<T> {
        if self.is_alone() || matches!(own, Err(Error::Group { .. })) {
            return own;
        }
        let failures = self.gather(own.as_ref().err().map(Failure::of))?;
        let done = own?;
        match failures.into_iter().enumerate().find_map(|(rank, failure)| Some((rank, failure?))) {
            Some((rank, failure)) => Err(failure.on(rank)),
            None => Ok(done),
        }
    }

    /// Has rank 0 do what only one may do, such as writing a file. All ranks wait for each other before it starts, and until
    /// it is complete. Returns the result on rank 0.
    ///
    /// # Errors
    /// Those of `work`, on every rank.
    pub fn on_first<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        if self.is_alone() {
            return work().map(Some);
        }
        self.operate("barrier", Ring::barrier)?;
        let own = self.is_first().then(work).transpose();
        match self.of_first(own.as_ref().err().map(Failure::of))? {
            Some(failure) if !self.is_first() => Err(failure.on(0)),
            _ => own,
        }
    }

    /// This rank's share of rows that are worked on in batches of `together`: whole batches in turn, or, where there are
    /// fewer batches than ranks, equal parts. A batch is the same whatever the number of ranks, as long as there are enough.
    pub fn share<T: Clone>(&self, rows: &[T], together: usize) -> Vec<T> {
        let batch = together.min(rows.len().div_ceil(self.world())).max(1);
        rows.chunks(batch).skip(self.rank()).step_by(self.world()).flatten().cloned().collect()
    }

    /// Rows of all ranks, each with its place, where the ranks did their share and no error came in between.
    ///
    /// # Errors
    /// What went wrong on any rank.
    pub fn collect<T: Serialize + DeserializeOwned>(
        &self,
        own: Vec<(usize, T)>,
        done: Result<()>,
    ) -> Result<Vec<(usize, T)>> {
        self.agree(done)?;
        Ok(self.gather(own)?.into_iter().flatten().collect())
    }

    /// Numbers of each of `rows`, of which each rank works on its share, as [`Group::share`] cuts it.
    ///
    /// # Errors
    /// What went wrong on any rank.
    pub fn numbers_of<R: Clone>(
        &self,
        rows: &[R],
        together: usize,
        work: impl FnOnce(&[R]) -> Result<Vec<Vec<f32>>>,
    ) -> Result<Vec<Vec<f32>>> {
        if self.is_alone() {
            return work(rows);
        }
        let places: Vec<usize> = self.share(&(0..rows.len()).collect::<Vec<_>>(), together);
        let own: Vec<R> = places.iter().map(|&place| rows[place].clone()).collect();
        let numbers = self.agree(work(&own))?;
        let own: Vec<(usize, Numbers)> = places.into_iter().zip(numbers.into_iter().map(Numbers)).collect();
        let mut all: Vec<(usize, Numbers)> = self.gather(own)?.into_iter().flatten().collect();
        all.sort_by_key(|(place, _)| *place);
        Ok(all.into_iter().map(|(_, Numbers(numbers))| numbers).collect())
    }

    /// How much of `total` all have done, as far as one rank can tell from its own part.
    pub fn done_by_all(&self, own: usize, total: usize) -> usize {
        (own * self.world()).min(total)
    }

    /// Waits until all ranks have come to the end.
    ///
    /// # Errors
    /// As [`Group::sum`].
    pub fn finish(&self) -> Result<()> {
        self.operate("barrier", Ring::barrier)
    }
}

pub(super) fn unreadable(error: &serde_json::Error) -> Error {
    Error::Group {
        message: format!("another rank sent an unreadable message: {error}"),
        hint: "all ranks must run the same version of train".to_owned(),
    }
}

/// Float32 numbers as their bits, for `#[serde(with)]`: as decimals they would come back in other last digits.
pub(crate) mod exact {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(numbers: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
        numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>().serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f32>, D::Error> {
        let bits = Vec::<u32>::deserialize(deserializer)?;
        Ok(bits.into_iter().map(f32::from_bits).collect())
    }
}

/// A row's numbers on their way to other ranks.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Numbers(#[serde(with = "exact")] pub(crate) Vec<f32>);
