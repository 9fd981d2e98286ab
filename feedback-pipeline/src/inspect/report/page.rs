//! Fills the template `templates/report.html` with numbers, charts, and the data of the interactive part.

use super::cards::{Deck, MOST_PROBLEMS};
use super::charts::{self, Chart};
use super::figures::{Effect, Figures, Stage, Tally, share};
use super::gather::Gathered;
use super::pictures::{MOST_PICTURE_BYTES, Pictures};
use crate::error::{Error, Result};
use crate::inspect::status::layout::{Align, Grid};
use crate::inspect::status::{self, Spending};
use crate::inspect::win_rate::{Results, WinRates};
use base64::Engine as _;
use minijinja::{Environment, UndefinedBehavior};
use schemas::Dataset;
use schemas::number::counted;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

const TEMPLATE: (&str, &str) = ("report.html", include_str!("../../../templates/report.html"));
const STYLE: &str = include_str!("../../../templates/report.css");
const SCRIPT: &str =
    concat!(include_str!("../../../templates/labels.js"), include_str!("../../../templates/report.js"));
/// Shown if nothing was measured.
const NONE: &str = "–";
/// Maximum number of rejects shown with their reply.
const MOST_REJECTS: usize = 20;
/// Maximum characters of a reject's reply.
const REPLY_CHARACTERS: usize = 300;

#[derive(Serialize)]
struct Page<'a> {
    name: String,
    round: u32,
    made: String,
    by: &'static str,
    teachers: String,
    facts: Vec<(&'static str, String)>,
    mixed: Vec<String>,
    notes: Vec<String>,
    stages: Vec<Vec<String>>,
    effects: Vec<Vec<String>>,
    scored: bool,
    charts: Vec<Chart>,
    groups: Vec<(&'static str, Vec<Group>)>,
    curves: Vec<(String, Vec<Chart>)>,
    rounds: Vec<Vec<String>>,
    wins: Vec<WinTable>,
    spending: Vec<Vec<String>>,
    /// Savings of requests about several items.
    saved: Vec<String>,
    accounts: Vec<String>,
    reject_counts: Vec<(String, String, u64)>,
    rejects: Vec<RejectRow>,
    rejects_left_out: usize,
    style: &'static str,
    script: &'static str,
    script_hash: String,
    cards: &'a str,
    pictures: &'a str,
}

/// Scores of a subject or a skill.
#[derive(Serialize)]
struct Group {
    name: String,
    mean: String,
    width: String,
    whole: String,
    rationales: String,
}

#[derive(Serialize)]
struct RejectRow {
    kind: String,
    subject_id: String,
    reason: String,
    reply: String,
}

/// The whole page.
pub(super) fn render(
    dataset: &Dataset,
    gathered: &Gathered,
    state: &status::Report,
    figures: &Figures,
    deck: &Deck,
    pictures: &Pictures,
) -> Result<String> {
    let mut drawn = Vec::new();
    if !figures.is_unscored() {
        drawn.push(charts::distribution(figures)?);
        drawn.push(charts::positions(figures)?);
    }
    drawn.extend(charts::rounds(figures)?);
    let (cards, uris) = (json(&deck.cards)?, json(&pictures.uris)?);
    let teachers: Vec<&str> = gathered.scores.by_teacher.keys().map(String::as_str).collect();
    let page = Page {
        name: dataset.card().map_or_else(|_| dataset.name(), |card| card.name),
        round: gathered.round,
        made: httpdate::fmt_http_date(std::time::SystemTime::now()),
        by: concat!("collect-feedback ", env!("CARGO_PKG_VERSION")),
        teachers: teachers.join(", "),
        facts: facts(gathered, figures),
        mixed: mixed(gathered),
        notes: notes(deck, pictures),
        stages: figures.stages.iter().map(stage_row).collect(),
        effects: figures.effects.iter().map(effect_row).collect(),
        scored: !figures.is_unscored(),
        charts: drawn,
        groups: vec![("Subject", groups(&figures.subjects)), ("Skill", groups(&figures.skills))],
        curves: charts::curves(&gathered.metrics)?,
        rounds: figures.rounds.iter().map(round_row).collect(),
        wins: wins(dataset, gathered.round)?,
        spending: state.spending.iter().map(spending_row).collect(),
        saved: state.groups.iter().map(ToString::to_string).collect(),
        accounts: state.accounts.iter().map(ToString::to_string).collect(),
        reject_counts: reject_counts(gathered),
        rejects: gathered.rejects.iter().take(MOST_REJECTS).map(reject_row).collect(),
        rejects_left_out: gathered.rejects.len().saturating_sub(MOST_REJECTS),
        style: STYLE,
        script: SCRIPT,
        script_hash: base64::engine::general_purpose::STANDARD.encode(Sha256::digest(SCRIPT.as_bytes())),
        cards: &cards,
        pictures: &uris,
    };
    fill(&page).map_err(|error| Error::Failed(format!("the report's template: {error:#}")))
}

/// Renders the template; its name makes minijinja escape every text that is not marked safe.
fn fill(page: &Page<'_>) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    // A misspelt name is an error, not an empty string.
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.add_template(TEMPLATE.0, TEMPLATE.1)?;
    environment.get_template(TEMPLATE.0)?.render(minijinja::value::Serde(page))
}

/// JSON that is safe inside a script element: without `<`, which could end it, and without `&`, which could
/// start an entity.
fn json<T: serde::Serialize>(value: &T) -> Result<String> {
    let text = serde_json::to_string(value).map_err(|error| Error::Failed(error.to_string()))?;
    Ok(text
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029"))
}

fn facts(gathered: &Gathered, figures: &Figures) -> Vec<(&'static str, String)> {
    let mut all = Tally::default();
    for tally in figures.subjects.values() {
        all.rationales += tally.rationales;
        all.sentences += tally.sentences;
        all.sum += tally.sum;
        all.without_wrong += tally.without_wrong;
    }
    let mut facts = Vec::new();
    if all.rationales > 0 {
        facts.push(("mean sentence score", number(all.mean(), 3)));
        facts.push(("rationales without a wrong sentence", percent(all.share_without_wrong())));
        facts.push(("sentences scored", status::grouped(all.sentences)));
    } else if !gathered.rollouts.is_empty() {
        facts.push(("rollouts, none scored yet", status::grouped(gathered.rollouts.len() as u64)));
    }
    if let Some(round) = figures.rounds.iter().find(|round| round.round == gathered.round) {
        if round.corrected.1 > 0 {
            facts.push((
                "corrections that changed something",
                percent(share(round.corrected.0, round.corrected.1)),
            ));
        }
        if round.test.1 > 0 {
            facts.push(("correct test answers", percent(share(round.test.0, round.test.1))));
        }
        for win in round.wins.iter().filter(|win| win.against == "base") {
            facts.push(("win rate against base", percent(win.all.win_rate().share)));
        }
    }
    facts
}

/// Kinds of feedback given by several Teachers, with the rows of each.
fn mixed(gathered: &Gathered) -> Vec<String> {
    let line = |(kind, teachers): (String, BTreeMap<String, usize>)| {
        let counts: Vec<String> =
            teachers.iter().map(|(teacher, rows)| format!("{teacher}: {rows}")).collect();
        format!("{kind} ({})", counts.join(", "))
    };
    gathered.mixed().into_iter().map(line).collect()
}

fn notes(deck: &Deck, pictures: &Pictures) -> Vec<String> {
    let mut notes = Vec::new();
    let count = |count: usize| status::grouped(count as u64);
    if deck.left_out > 0 {
        notes.push(format!(
            "The round has {} problems. {} are shown: the 2,000 with the lowest mean score and a sample of \
             the others. The figures above cover all of them.",
            count(deck.left_out + deck.cards.len()),
            count(MOST_PROBLEMS)
        ));
    }
    if pictures.left_out > 0 {
        notes.push(format!(
            "Pictures take at most {} MB of this file; those of {} are omitted.",
            MOST_PICTURE_BYTES >> 20,
            counted(pictures.left_out, "problem")
        ));
    }
    if pictures.unreadable > 0 {
        notes.push(format!("{} picture files are missing or unreadable.", count(pictures.unreadable)));
    }
    notes
}

fn stage_row(stage: &Stage) -> Vec<String> {
    let [train, val, test] = stage.embedded.each_ref().map(|scores| scores.all);
    let samples = stage.teacher.all;
    let form = &stage.form;
    let answers = stage.answers.map(|(right, all)| percent(share(right, all)));
    let [val_answers, test_answers] = answers;
    vec![
        stage.label.clone(),
        number(samples.mean(), 3),
        percent(samples.share_without_wrong()),
        number(train.mean(), 3),
        number(val.mean(), 3),
        number(test.mean(), 3),
        percent(test.share_without_wrong()),
        percent(share(form.repeated, form.sentences)),
        percent(share(form.truncated, form.rationales)),
        val_answers,
        test_answers,
    ]
}

fn effect_row(effect: &Effect) -> Vec<String> {
    let interval = effect.interval.map(|[low, high]| format!("{low:+.3} to {high:+.3}"));
    vec![
        effect.label.clone(),
        number(Some(effect.before), 3),
        number(Some(effect.after), 3),
        format!("{:+.3}", effect.after - effect.before),
        interval.unwrap_or_else(|| NONE.to_owned()),
        status::grouped(effect.problems as u64),
        effect.verdict().to_owned(),
    ]
}

/// The numbers of the stages and what RL changed as plain tables, and the cost of all feedback. A wrong sentence is one scored
/// below 0.5.
pub(super) fn summary(figures: &Figures, spending: &[Spending]) -> String {
    let headings = [
        "policy",
        "samples",
        "none wrong",
        "greedy: train",
        "val",
        "test",
        "none wrong",
        "repeated",
        "cut off",
        "answers: val",
        "test",
    ];
    let grid = table(&headings, figures.stages.iter().map(stage_row));
    let effects = if figures.effects.is_empty() {
        String::new()
    } else {
        let headings = ["what RL changed", "before", "after", "change", "95 % interval", "problems", ""];
        format!("\n{}\n", table(&headings, figures.effects.iter().map(effect_row)))
    };
    let sum = |count: fn(&Spending) -> u64| status::grouped(spending.iter().map(count).sum::<u64>());
    // The sum starts from 0.0: an empty sum of floats is -0.0.
    let dollars = spending.iter().fold(0.0, |sum, row| sum + row.cost_usd);
    format!(
        "{grid}samples are scored by the Teacher, greedy rationales by the embedded one\n{effects}\
         {}, {} input and {} output tokens, ${dollars:.2}\n",
        counted(spending.iter().map(|row| row.attempts).sum::<u64>(), "request"),
        sum(|row| row.input_tokens + row.cached_input_tokens),
        sum(|row| row.output_tokens),
    )
}

/// A table whose first column is text, the others numbers.
fn table(headings: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Grid {
    let side = |place: usize| match place {
        0 => Align::Left,
        _ => Align::Right,
    };
    let mut grid = Grid::new(headings.iter().enumerate().map(|(place, name)| (*name, side(place))));
    rows.for_each(|row| grid.row(row));
    grid
}

fn round_row(round: &super::figures::Round) -> Vec<String> {
    let base = round.wins.iter().find(|win| win.against == "base");
    vec![
        round.round.to_string(),
        round.teachers.iter().cloned().collect::<Vec<_>>().join(", "),
        status::grouped(round.teacher.rationales),
        number(round.teacher.mean(), 3),
        percent(round.teacher.share_without_wrong()),
        percent(share(round.corrected.0, round.corrected.1)),
        percent(share(round.test.0, round.test.1)),
        base.map_or_else(|| NONE.to_owned(), |win| percent(win.all.win_rate().share)),
    ]
}

fn groups(tallies: &BTreeMap<String, Tally>) -> Vec<Group> {
    let mut sorted: Vec<(&String, &Tally)> = tallies.iter().collect();
    // The worst first, since they matter most.
    sorted.sort_by(|a, b| a.1.mean().unwrap_or(2.0).total_cmp(&b.1.mean().unwrap_or(2.0)));
    let group = |(name, tally): (&String, &Tally)| Group {
        name: name.clone(),
        mean: number(tally.mean(), 3),
        width: format!("{:.1}", tally.mean().unwrap_or_default() * 100.0),
        whole: percent(tally.share_without_wrong()),
        rationales: status::grouped(tally.rationales),
    };
    sorted.into_iter().map(group).collect()
}

/// Baseline, rows of the table, and how often the rationale shown first won.
type WinTable = (String, Vec<Vec<String>>, String);

fn wins(dataset: &Dataset, round: u32) -> Result<Vec<WinTable>> {
    let row = |name: &str, results: &Results| {
        let rate = results.win_rate();
        let interval = format!("{:.1} – {:.1} %", rate.low * 100.0, rate.high * 100.0);
        vec![
            name.to_owned(),
            percent(rate.share),
            interval,
            status::grouped(results.wins),
            status::grouped(results.losses),
            status::grouped(results.ties),
        ]
    };
    let table = |rates: WinRates| {
        let mut rows = vec![row("all", &rates.all)];
        rows.extend(rates.subjects.iter().map(|(name, results)| row(name, results)));
        (rates.against, rows, rates.shown_first.to_string())
    };
    Ok(WinRates::read(dataset, round)?.into_iter().map(table).collect())
}

fn spending_row(line: &Spending) -> Vec<String> {
    let dollars = match (line.cost_usd, line.unpriced) {
        (cost, 0) => format!("{cost:.4}"),
        (0.0, _) => "not known".to_owned(),
        (cost, _) => format!("over {cost:.4}"),
    };
    vec![
        line.round.to_string(),
        line.kind.clone(),
        line.provider.clone(),
        line.model.clone(),
        status::grouped(line.items),
        status::grouped(line.shared),
        status::grouped(line.attempts),
        status::grouped(line.input_tokens),
        status::grouped(line.cached_input_tokens),
        status::grouped(line.output_tokens),
        dollars,
    ]
}

fn reject_counts(gathered: &Gathered) -> Vec<(String, String, u64)> {
    let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
    for reject in &gathered.rejects {
        let reason = crate::reply::verdict::status_of(&reject.reason).to_owned();
        *counts.entry((reject.kind.clone(), reason)).or_default() += 1;
    }
    counts.into_iter().map(|((kind, reason), count)| (kind, reason, count)).collect()
}

fn reject_row(reject: &schemas::Reject) -> RejectRow {
    let mut reply: String = reject.reply.chars().take(REPLY_CHARACTERS).collect();
    if reply.len() < reject.reply.len() {
        reply.push('…');
    }
    RejectRow {
        kind: reject.kind.clone(),
        subject_id: reject.subject_id.clone(),
        reason: reject.reason.clone(),
        reply,
    }
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| format!("{value:.digits$}"))
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| NONE.to_owned(), |share| format!("{:.1} %", share * 100.0))
}

#[cfg(test)]
mod tests {
    #[test]
    fn json_cannot_end_its_script_element() {
        let text = super::json(&vec!["</script><script>alert(1)</script>&lt;\u{2028}"]).unwrap();
        assert!(!text.contains(['<', '>', '&', '\u{2028}']), "{text}");
        let back: Vec<String> = serde_json::from_str(&text).unwrap();
        assert_eq!(back, ["</script><script>alert(1)</script>&lt;\u{2028}"]);
    }
}
