//! Prints the comparison with people on the terminal.

use super::agreement::POSITIONS;
use super::people::{Comparison, Figures, Measure, People};
use schemas::number::{counted, grouped};
use std::fmt;

impl Measure {
    fn percent(&self) -> String {
        self.show(|value| format!("{:.1}", value * 100.0), " %")
    }

    fn plain(&self) -> String {
        self.show(|value| format!("{:.3}", value + 0.0), "")
    }

    fn show(&self, number: impl Fn(f64) -> String, unit: &str) -> String {
        match (self.value, self.interval) {
            (None, _) => "-".to_owned(),
            (Some(value), None) => format!("{}{unit}", number(value)),
            (Some(value), Some([low, high])) => {
                format!("{}{unit}  ({} to {})", number(value), number(low), number(high))
            }
        }
    }
}

fn rows(f: &mut fmt::Formatter<'_>, heading: &str, figures: &[(String, &Figures)]) -> fmt::Result {
    let width =
        figures.iter().map(|(name, _)| name.chars().count()).chain([heading.len()]).max().unwrap_or_default();
    writeln!(f, "\n  {heading:<width$}  number   equal  within 0.1  Spearman       κ  distance")?;
    for (name, of) in figures {
        let percent = |measure: &Measure| {
            measure.value.map_or_else(|| "-".to_owned(), |v| format!("{:.1} %", v * 100.0))
        };
        let plain = |measure: &Measure| measure.value.map_or_else(|| "-".to_owned(), |v| format!("{v:.3}"));
        writeln!(
            f,
            "  {name:<width$}  {:>6}  {:>6}  {:>10}  {:>8}  {:>6}  {:>8}",
            of.sentences,
            percent(&of.exact),
            percent(&of.within_tenth),
            plain(&of.rank_correlation),
            plain(&of.kappa),
            plain(&of.distance)
        )?;
    }
    Ok(())
}

impl fmt::Display for People {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { round, labels, sentences, .. } = self;
        writeln!(
            f,
            "round {round}: {} of {}; in brackets 95 % intervals",
            counted(*labels, "label"),
            counted(*sentences, "sentence")
        )?;
        if self.without_score > 0 {
            writeln!(
                f,
                "  labelled sentences without a score in this round: {}",
                grouped(self.without_score)
            )?;
        }
        if self.choices > 0 {
            writeln!(f, "  choices between two rationales, not compared here: {}", grouped(self.choices))?;
        }
        let below = format!("κ, below {} or not", self.neutral);
        for of in &self.teachers {
            writeln!(f, "\n{}", of.teacher)?;
            for (name, shown) in [
                ("sentences", of.all.sentences.to_string()),
                ("equal scores", of.all.exact.percent()),
                ("at most 0.1 apart", of.all.within_tenth.percent()),
                ("rank correlation", of.all.rank_correlation.plain()),
                (&below, of.all.kappa.plain()),
                ("mean distance", of.all.distance.plain()),
                ("mean difference", of.all.bias.plain()),
            ] {
                writeln!(f, "  {name:<20}  {shown}")?;
            }
            let positions: Vec<(String, &Figures)> = of
                .positions
                .iter()
                .map(|(place, of)| {
                    (if *place == POSITIONS { "10+".to_owned() } else { place.to_string() }, of)
                })
                .collect();
            rows(f, "sentence", &positions)?;
            let skills: Vec<(String, &Figures)> =
                of.skills.iter().map(|(skill, of)| (skill.clone(), of)).collect();
            rows(f, "skill", &skills)?;
            let needed: Vec<String> = of
                .labels_needed
                .iter()
                .filter_map(|(difference, labels)| {
                    Some(format!("{} for {difference}", grouped(usize::try_from((*labels)?).ok()?)))
                })
                .collect();
            if !needed.is_empty() {
                writeln!(
                    f,
                    "\n  labels needed to distinguish it from a Teacher with another mean distance: {} (for each of the two)",
                    needed.join(", ")
                )?;
            }
        }
        for Comparison { teachers: [one, other], sentences, difference, labels_needed } in &self.comparisons {
            let value = difference.value.unwrap_or_default();
            let (closer, farther) = if value <= 0.0 { (one, other) } else { (other, one) };
            let is_clear = difference.interval.is_some_and(|[low, high]| low > 0.0 || high < 0.0);
            let says = if is_clear { "is closer to people than" } else { "cannot be distinguished from" };
            writeln!(
                f,
                "\n{closer} {says} {farther}: {}, difference of the mean distance {}",
                counted(*sentences, "sentence"),
                difference.plain()
            )?;
            if let (false, Some(labels)) = (is_clear, labels_needed) {
                let labels = usize::try_from(*labels).unwrap_or(usize::MAX);
                writeln!(f, "  about {} would show such a difference", counted(labels, "label"))?;
            }
        }
        Ok(())
    }
}
