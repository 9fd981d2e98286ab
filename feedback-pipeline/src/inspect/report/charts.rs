//! Charts as SVG. They are drawn in marker colours, which the page's style sheet maps to the light or the
//! dark theme.

use super::figures::{Figures, share};
use crate::error::{Error, Result};
use charts_rs::{AxisType, BarChart, ChartBase, Color, LineChart, Series, Symbol, YAxisConfig};
use schemas::Metric;
use std::collections::BTreeMap;

/// Width and height of every chart: legible at the width of a phone, and several fit side by side on a desktop.
const SIZE: (f32, f32) = (420.0, 240.0);
/// Maximum points of a curve; if there are more, neighbours are averaged.
const MOST_POINTS: usize = 150;
/// Maximum number of curves of a stage.
const MOST_CURVES: usize = 12;

// Marker colours; `report.css` names them again.
const TEXT: (u8, u8, u8) = (0x01, 0x01, 0x01);
const LINE: (u8, u8, u8) = (0x02, 0x02, 0x02);
const FIRST: (u8, u8, u8) = (0x03, 0x03, 0x03);
const SECOND: (u8, u8, u8) = (0x04, 0x04, 0x04);

/// A chart with its heading.
#[derive(Debug, Clone, serde::Serialize)]
pub(super) struct Chart {
    pub(super) title: String,
    /// Text alternative for screen readers.
    pub(super) summary: String,
    pub(super) svg: String,
}

/// Share of sentences by score.
pub(super) fn distribution(figures: &Figures) -> Result<Chart> {
    let all: u64 = figures.distribution.iter().sum();
    let shares: Vec<f32> = figures.distribution.iter().map(|count| percent(share(*count, all))).collect();
    let names: Vec<String> = (0..=10).map(|tenths| format!("{:.1}", f64::from(tenths) / 10.0)).collect();
    let summary = summary(&names, &shares, " %");
    // Room above the highest bar for its label.
    let top = shares.iter().fold(0.0, |most: f32, share| most.max(*share));
    let most = (top * 1.12 / 10.0).ceil() * 10.0;
    let svg = bars(vec![("sentences", shares)], names, most)?;
    Ok(Chart { title: "Sentences by score, %".to_owned(), summary, svg })
}

/// Mean score by position of the sentence.
pub(super) fn positions(figures: &Figures) -> Result<Chart> {
    let last = figures.positions.len();
    let names: Vec<String> =
        (1..=last).map(|place| if place == 10 { "10+".to_owned() } else { place.to_string() }).collect();
    let means: Vec<f32> = figures
        .positions
        .iter()
        .map(|tally| (tally.mean().unwrap_or_default() * 100.0).round() as f32 / 100.0)
        .collect();
    let summary = summary(&names, &means, "");
    let svg = bars(vec![("mean score", means)], names, 1.0)?;
    Ok(Chart { title: "Mean score by position of the sentence".to_owned(), summary, svg })
}

/// Mean score and share of rationales without a wrong sentence by round; `None` for a single round.
pub(super) fn rounds(figures: &Figures) -> Result<Option<Chart>> {
    let scored: Vec<_> = figures.rounds.iter().filter(|round| round.teacher.sentences > 0).collect();
    if scored.len() < 2 {
        return Ok(None);
    }
    let names: Vec<String> = scored.iter().map(|round| format!("round {}", round.round)).collect();
    let means: Vec<f32> = scored.iter().map(|round| percent(round.teacher.mean())).collect();
    let whole: Vec<f32> = scored.iter().map(|round| percent(round.teacher.share_without_wrong())).collect();
    let summary = format!("{}; {}", summary(&names, &means, " %"), summary(&names, &whole, " %"));
    let series = vec![("score × 100", means), ("no wrong sentence, %", whole)];
    let svg = bars(series, names, 100.0)?;
    Ok(Some(Chart { title: "Scores of the samples, round by round".to_owned(), summary, svg }))
}

/// Steps and values.
type Points = Vec<(f64, f64)>;

/// Learning curves of a stage: one chart for each metric measured more than once.
pub(super) fn curves(metrics: &[Metric]) -> Result<Vec<(String, Vec<Chart>)>> {
    let mut stages: BTreeMap<&str, BTreeMap<&str, Points>> = BTreeMap::new();
    for metric in metrics.iter().filter(|metric| metric.value.is_finite()) {
        let curve = stages.entry(&metric.stage).or_default().entry(&metric.name).or_default();
        curve.push((metric.step as f64, metric.value));
    }
    let mut drawn = Vec::new();
    for stage in ["rollout", "rl", "sft", "answer", "eval"] {
        let Some(curves) = stages.get(stage) else { continue };
        let mut charts = Vec::new();
        for (name, points) in curves.iter().filter(|(_, points)| points.len() > 1).take(MOST_CURVES) {
            let mut points = points.clone();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            let (first, last) = (points[0].1, points[points.len() - 1].1);
            let summary = format!("from {first:.4} to {last:.4} in {} measurements", points.len());
            let (factor, points) = legible(thinned(&points));
            let name = name.replace('_', " ");
            let title = if factor == 1.0 { name } else { format!("{name} × {factor}") };
            charts.push(Chart { title, summary, svg: curve(&points)? });
        }
        if !charts.is_empty() {
            drawn.push((stage.to_owned(), charts));
        }
    }
    Ok(drawn)
}

/// At most [`MOST_POINTS`] points, each the mean of its neighbourhood.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let size = points.len().div_ceil(MOST_POINTS).max(1);
    let mean = |chunk: &[(f64, f64)], of: fn(&(f64, f64)) -> f64| {
        chunk.iter().map(of).sum::<f64>() / chunk.len() as f64
    };
    points.chunks(size).map(|chunk| (mean(chunk, |p| p.0), mean(chunk, |p| p.1))).collect()
}

/// The axis shows one decimal, so small values are scaled by a power of ten.
fn legible(points: Vec<(f64, f64)>) -> (f64, Vec<(f64, f64)>) {
    let most = points.iter().fold(0.0, |most: f64, point| most.max(point.1.abs()));
    let factor = (1..=9).map(|power| 10_f64.powi(power)).find(|factor| most * factor >= 2.0);
    match factor {
        Some(factor) if most < 2.0 => (factor, points.into_iter().map(|(x, y)| (x, y * factor)).collect()),
        _ => (1.0, points),
    }
}

fn percent(share: Option<f64>) -> f32 {
    (share.unwrap_or_default() * 1000.0).round() as f32 / 10.0
}

fn summary(names: &[String], values: &[f32], unit: &str) -> String {
    let pairs = names.iter().zip(values).map(|(name, value)| format!("{name}: {value:.2}{unit}"));
    pairs.collect::<Vec<_>>().join(", ")
}

fn bars(series: Vec<(&str, Vec<f32>)>, names: Vec<String>, most: f32) -> Result<String> {
    let several = series.len() > 1;
    // Non-breaking spaces after each name: otherwise the legend's entries touch if the reader's font is wider
    // than the chart's.
    let mut series: Vec<Series> = series
        .into_iter()
        .map(|(name, values)| (format!("{name}\u{a0}\u{a0}\u{a0}").as_str(), values).into())
        .collect();
    for series in &mut series {
        series.label_show = true;
    }
    let mut chart = BarChart::new(series, names);
    dress(&mut chart.base, &mut chart.y_axis_configs);
    chart.base.legend.show = Some(several);
    chart.base.margin.top = 24.0; // otherwise the label above a full bar is cut off
    chart.radius = Some(2.0);
    for axis in &mut chart.y_axis_configs {
        axis.min = Some(0.0);
        axis.max = Some(most);
        axis.split_number = 5;
    }
    chart.svg().map_err(failed)
}

fn curve(points: &[(f64, f64)]) -> Result<String> {
    let values: Vec<f32> = points.iter().map(|point| point.1 as f32).collect();
    let mut series: Series = ("value", values).into();
    series.x_values = Some(points.iter().map(|point| point.0).collect());
    series.symbol = Some(Symbol::None);
    let mut chart = LineChart::new(vec![series], Vec::new());
    dress(&mut chart.base, &mut chart.y_axis_configs);
    chart.base.legend.show = Some(false);
    chart.base.x_axis.kind = AxisType::Value;
    chart.base.series.smooth = false;
    for axis in &mut chart.y_axis_configs {
        axis.split_number = 4;
    }
    chart.svg().map_err(failed)
}

/// Size, marker colours and fonts that all charts share.
fn dress(base: &mut ChartBase, axes: &mut Vec<YAxisConfig>) {
    (base.width, base.height) = SIZE;
    base.background_color = Color::transparent();
    base.compact = true;
    base.margin.top = 12.0; // otherwise the highest label of the axis is cut off
    base.series.colors = vec![FIRST.into(), SECOND.into()];
    base.series.stroke_width = 2.0;
    base.grid.stroke_color = LINE.into();
    base.x_axis.stroke_color = LINE.into();
    base.legend.font.color = TEXT.into();
    base.x_axis.font.color = TEXT.into();
    base.series.label.font.color = TEXT.into();
    base.x_axis.font.size = 12.0;
    base.legend.font.size = 12.0;
    base.series.label.font.size = 10.0;
    if axes.is_empty() {
        axes.push(YAxisConfig::default());
    }
    for axis in axes {
        axis.font.color = TEXT.into();
        axis.font.size = 12.0;
        axis.stroke_color = LINE.into();
    }
}

fn failed(error: charts_rs::Error) -> Error {
    Error::Failed(format!("a chart cannot be drawn: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_curves_are_thinned_and_keep_their_mean() {
        let points: Vec<(f64, f64)> = (0..1_000).map(|step| (f64::from(step), f64::from(step % 7))).collect();
        let thin = thinned(&points);
        assert!(thin.len() <= MOST_POINTS && thin.len() > MOST_POINTS / 2);
        assert_eq!(thin[0], (3.0, (0..7).map(f64::from).sum::<f64>() / 7.0));
    }

    #[test]
    fn small_values_are_drawn_larger() {
        assert_eq!(legible(vec![(0.0, 0.004), (1.0, -0.001)]), (1000.0, vec![(0.0, 4.0), (1.0, -1.0)]));
        assert_eq!(legible(vec![(0.0, 3.0)]), (1.0, vec![(0.0, 3.0)]));
        assert_eq!(legible(vec![(0.0, 0.0)]).0, 1.0);
    }

    #[test]
    fn charts_are_drawn_in_marker_colours_alone() {
        let svg = curve(&[(0.0, 1.0), (10.0, 0.5), (20.0, 0.25)]).unwrap();
        let svg = svg + &bars(vec![("a", vec![1.0, 2.0])], vec!["x".into(), "y".into()], 10.0).unwrap();
        for colour in svg.split('#').skip(1).map(|rest| &rest[..6]) {
            assert!(["010101", "020202", "030303", "040404"].contains(&colour), "{colour}");
        }
        assert!(!svg.contains("<script"));
    }
}
