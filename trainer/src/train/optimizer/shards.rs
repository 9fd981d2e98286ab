//! An optimizer state sharded over ranks: each keeps the moments of its part of the weights, updates that part, and then
//! fetches the other parts.

use super::sum::{LARGE, flat, put_flat, trained};
use crate::collective::Group;
use crate::error::Result;
use crate::nn::weights::Weights;
use std::collections::BTreeMap;
use std::ops::Range;
use tch::{Device, Kind, Tensor, no_grad};

/// Parts are aligned to this many numbers, a cache line.
const LINE: i64 = 16;

/// The assignment of the trained weights' numbers to ranks. In the order of sets and names, each rank gets the same count, so a
/// weight may be split over several ranks.
#[derive(Debug, Clone)]
pub struct Shards {
    group: Group,
    /// Numbers per rank; the last ranks may have fewer.
    share: i64,
    /// Offset of each weight's first number, and its length, by `<set>.<weight>`.
    places: BTreeMap<String, (i64, i64)>,
}

impl Shards {
    /// Of the weights that are trained.
    pub fn new(sets: &[(&str, &Weights)], group: &Group) -> Self {
        let mut places = BTreeMap::new();
        let mut end = 0;
        for (name, weight) in named(sets) {
            let length = weight.numel() as i64;
            places.insert(name, (end, length));
            end += length;
        }
        let world = group.world() as i64;
        let share = (end + world - 1) / world;
        Self { group: group.clone(), share: (share + LINE - 1) / LINE * LINE, places }
    }

    /// The range of a flattened weight that belongs to a rank.
    fn part(&self, name: &str, rank: usize) -> Range<i64> {
        let (start, length) = self.places.get(name).copied().unwrap_or_default();
        let first = self.share * rank as i64;
        let within = |place: i64| (place - start).clamp(0, length);
        within(first)..within(first + self.share)
    }

    /// The range of a flattened weight that belongs to this rank.
    pub(super) fn own(&self, name: &str) -> Range<i64> {
        self.part(name, self.group.rank())
    }

    /// Numbers of a weight.
    pub(super) fn length(&self, name: &str) -> i64 {
        self.places.get(name).map_or(0, |(_, length)| *length)
    }

    /// Distributes every rank's part of the weights to all others.
    ///
    /// # Errors
    /// If a rank has ended.
    pub(super) fn spread(&self, sets: &[(&str, &Weights)]) -> Result<()> {
        let mut large = Vec::new();
        let mut small: Vec<Vec<Tensor>> = (0..self.group.world()).map(|_| Vec::new()).collect();
        for (name, weight) in named(sets) {
            let whole = weight.detach().view(-1);
            for (rank, small) in small.iter_mut().enumerate() {
                let part = self.part(&name, rank);
                let part = whole.narrow(0, part.start, part.end - part.start);
                match part.numel() {
                    0 => {}
                    LARGE.. => large.push((part, rank)),
                    _ => small.push(part),
                }
            }
        }
        self.group.broadcast_each(large)?;
        for (rank, small) in small.into_iter().enumerate().filter(|(_, small)| !small.is_empty()) {
            let together = flat(&small);
            self.group.broadcast_each([(together.shallow_clone(), rank)])?;
            if rank != self.group.rank() {
                put_flat(&together, &small);
            }
        }
        sets.iter().for_each(|(_, weights)| weights.copies().refresh());
        Ok(())
    }

    /// Gathers a tensor as long as the weight of this name on rank 0, from each rank's `own` part; returns nothing on the others.
    ///
    /// # Errors
    /// If a rank has ended.
    pub fn whole(&self, name: &str, own: &Tensor) -> Result<Option<Tensor>> {
        if !self.group.is_first() {
            if own.numel() > 0 {
                self.group.send(own, 0)?;
            }
            return Ok(None);
        }
        let whole = Tensor::zeros([self.length(name)], (Kind::Float, Device::Cpu));
        for rank in 0..self.group.world() {
            let part = self.part(name, rank);
            let mut place = whole.narrow(0, part.start, part.end - part.start);
            if rank == 0 {
                no_grad(|| place.copy_(own));
            } else if place.numel() > 0 {
                self.group.receive(&mut place, rank)?;
            }
        }
        Ok(Some(whole))
    }

    /// This rank's part of a tensor as long as the weight of this name, scattered from rank 0.
    ///
    /// # Errors
    /// If a rank has ended.
    pub fn deal(&self, name: &str, whole: Option<&Tensor>) -> Result<Tensor> {
        let part = self.own(name);
        let length = part.end - part.start;
        let Some(whole) = whole else {
            let mut own = Tensor::zeros([length], (Kind::Float, Device::Cpu));
            if length > 0 {
                self.group.receive(&mut own, 0)?;
            }
            return Ok(own);
        };
        for rank in 1..self.group.world() {
            let part = self.part(name, rank);
            if !part.is_empty() {
                self.group.send(&whole.narrow(0, part.start, part.end - part.start), rank)?;
            }
        }
        // A copy, so that the memory of the other parts is freed.
        Ok(no_grad(|| whole.narrow(0, part.start, length).copy()))
    }
}

/// The weights that are trained, by `<set>.<weight>`, in the order of sets and names.
fn named<'a>(sets: &'a [(&str, &Weights)]) -> impl Iterator<Item = (String, &'a Tensor)> {
    trained(sets).map(|(set, _, name, weight)| (format!("{set}.{name}"), weight))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::tests::on_ranks;

    fn weights() -> Weights {
        let sizes: [(&str, &[i64]); 4] = [("a", &[70, 30]), ("b", &[1]), ("c", &[13, 9]), ("d", &[64])];
        let numbers = |shape: &[i64]| {
            Tensor::arange(shape.iter().product::<i64>(), (Kind::Float, Device::Cpu)).view(shape)
        };
        let named = sizes.map(|(name, shape)| (name.to_owned(), numbers(shape)));
        let weights = Weights::new(named.into());
        weights.train_only(|name| name != "d");
        weights
    }

    #[test]
    fn every_number_is_in_one_part_and_parts_are_of_one_size() {
        for world in [1, 2, 3, 5] {
            let found = on_ranks_or_alone(world, |group| {
                let (student, value) = (weights(), weights());
                let shards = Shards::new(&[("student", &student), ("value", &value)], &group);
                let mut owned = 0;
                for name in ["student.a", "student.b", "student.c", "value.a", "value.b", "value.c"] {
                    let parts: Vec<_> = (0..world).map(|rank| shards.part(name, rank)).collect();
                    assert_eq!((parts[0].start, parts[world - 1].end), (0, shards.length(name)));
                    assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start), "{name}: {parts:?}");
                    owned += shards.own(name).end - shards.own(name).start;
                }
                assert!(shards.own("student.d").is_empty(), "it is not trained");
                owned
            });
            let total = 2 * (70 * 30 + 1 + 13 * 9);
            assert_eq!(found.iter().sum::<i64>(), total);
            let even = total / world as i64;
            assert!(found.iter().all(|owned| (owned - even).abs() <= LINE * world as i64), "{found:?}");
        }
    }

    fn on_ranks_or_alone<T: Send>(world: usize, work: impl Fn(Group) -> T + Sync) -> Vec<T> {
        if world == 1 { vec![work(Group::alone())] } else { on_ranks(world, work) }
    }

    #[test]
    fn whole_tensors_are_gathered_and_dealt() {
        on_ranks(3, |group| {
            let weights = weights();
            let shards = Shards::new(&[("student", &weights)], &group);
            let whole = weights.get("a").detach().view(-1);
            let own = shards.own("student.a");
            let own = whole.narrow(0, own.start, own.end - own.start);
            let found = shards.whole("student.a", &own).expect("gathered");
            assert_eq!(found.is_some(), group.is_first());
            assert!(found.is_none_or(|found| found.equal(&whole)));
            let dealt = shards.deal("student.a", group.is_first().then_some(&whole)).expect("dealt");
            assert!(dealt.equal(&own));
        });
    }
}
