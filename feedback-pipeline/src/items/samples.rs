//! Samples of one problem that are listed together: leading sentences that two of them share are listed once.

/// A sample in a list of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// An earlier sample, from 0, and the number of leading sentences that both share, which are listed
    /// there.
    pub shared: Option<(usize, usize)>,
    /// Number of all its sentences.
    pub sentences: usize,
}

impl Listed {
    /// How samples are listed, each with the earlier one with which it shares most.
    pub fn list<T: PartialEq>(samples: &[Vec<T>]) -> Vec<Self> {
        let list = samples.iter().enumerate().map(|(place, sample)| {
            let common = |other: &Vec<T>| other.iter().zip(sample).take_while(|(a, b)| a == b).count();
            let mut shared = None;
            for (earlier, count) in samples.iter().take(place).map(common).enumerate() {
                if count > shared.map_or(0, |(_, most)| most) {
                    shared = Some((earlier, count));
                }
            }
            Self { shared, sentences: sample.len() }
        });
        list.collect()
    }

    /// Number of sentences listed under the sample itself.
    pub fn own(&self) -> usize {
        self.sentences - self.shared.map_or(0, |(_, count)| count.min(self.sentences))
    }
}

/// The sample under which a sentence of another is listed, both from 0; its number there is the same.
pub fn home(list: &[Listed], sample: usize, sentence: usize) -> usize {
    let mut home = sample;
    // Terminates, since each step leads to an earlier sample.
    while let Some((earlier, count)) = list.get(home).and_then(|listed| listed.shared)
        && sentence < count
        && earlier < home
    {
        home = earlier;
    }
    home
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_samples_begin_with_alike_is_listed_once() {
        let samples = [vec!["a", "b", "c"], vec!["a", "x"], vec!["a", "x", "c"], vec!["c"], vec!["a", "b"]];
        let list = Listed::list(&samples);
        let shared: Vec<_> = list.iter().map(|listed| listed.shared).collect();
        assert_eq!(shared, [None, Some((0, 1)), Some((1, 2)), None, Some((0, 2))]);
        assert_eq!(list.iter().map(Listed::own).collect::<Vec<_>>(), [3, 1, 1, 1, 0]);
        assert_eq!((home(&list, 2, 0), home(&list, 2, 1), home(&list, 2, 2)), (0, 1, 2));
        assert_eq!(home(&list, 4, 1), 0);
    }
}
