//! Collecting a round's missing feedback: the jobs in turn, their results, and the next command.

use crate::collect::panel::{self, Panel, Scoring};
use crate::collect::{Context, Outcome};
use crate::error::{Error, Result};
use crate::items::{Job, Kind};
use schemas::number::counted;
use schemas::opinions::Opinion;
use schemas::settings::Provider;
use schemas::{Answer, Dataset, Rollout, interrupt};
use std::path::PathBuf;

/// Results of the jobs so far.
#[derive(Default)]
struct Results {
    /// Whether there was anything to do.
    said: bool,
    rejects: bool,
    answers: bool,
    is_left: bool,
    /// Scorings with too many rejects for train to use the remaining rollouts, and those without.
    uncovered: usize,
    covered: usize,
}

/// Runs the jobs in turn, reports their results, names the next command, and says which batches are still open.
pub(super) fn collect(context: &Context, jobs: &[Job]) -> Result<()> {
    in_turn(context, jobs)?;
    say_open_batches(context)
}

/// Says which batches wait at a service to be fetched.
pub(super) fn say_open_batches(context: &Context) -> Result<()> {
    for open in context.open_batches()? {
        schemas::warn!("note: {open}");
    }
    Ok(())
}

fn in_turn(context: &Context, jobs: &[Job]) -> Result<()> {
    let is_embedded = |context: &Context| context.settings.teacher.provider == Provider::Reference;
    if is_embedded(context) {
        schemas::warn!(
            "note: the embedded Teacher (reference) grades against the dataset's own solutions; it is meant for trials and tests"
        );
    }
    let panel = Panel::of(context);
    let mut results = Results::default();
    for (place, job) in jobs.iter().enumerate() {
        if job.kind == Kind::Scores && job.audit.is_none() {
            scores(&panel, job.round, &mut results)?;
            if !results.said && place + 1 == jobs.len() {
                schemas::say!("{}", context.waits_for(job)?);
            }
            continue;
        }
        if interrupt::noted() {
            return Err(Error::Interrupted); // the next jobs would cost money
        }
        let outcome = context.collect(job)?;
        if let Outcome::NothingThere = outcome {
            // Without rationales, the round needs only the earlier feedback so far.
            if place > 0 && results.said {
                let is_over = is_over(&context.dataset, job.round)?;
                if job.kind == Kind::Corrections && !is_over && context.has_decoded(job.round)? {
                    schemas::say!("{}", context.waits_for(job)?);
                    return Ok(()); // train would only report the same
                }
            } else if place + 1 == jobs.len() {
                schemas::say!("{}", context.waits_for(&jobs[0])?);
            }
            continue;
        }
        results.record(context, job, None, outcome).map_or(Ok(()), Err)?;
    }
    if results.said && jobs.first().is_some_and(|job| job.kind != Kind::Judgements) {
        say_next(context, jobs[0].round, &results)?;
    }
    Ok(())
}

/// Collects the opinions of all Teachers on a round's rollouts. If the service of one fails, the others are still asked.
fn scores(panel: &Panel<'_>, round: u32, results: &mut Results) -> Result<()> {
    panel.check(round)?;
    panel.publish_others(round)?;
    let scorings = panel.scorings(round)?;
    if panel.are_several() {
        submit(&scorings)?;
    }
    let mut failed: Vec<(&str, Error)> = Vec::new();
    for scoring in &scorings {
        if interrupt::noted() {
            return Err(Error::Interrupted); // the next jobs would cost money
        }
        let Scoring { context, job } = scoring;
        if failed.iter().any(|(model, _)| *model == context.model) {
            continue;
        }
        let opinion = panel.are_several().then(|| scoring.opinion());
        let stopped = match context.collect(job)? {
            Outcome::NothingThere => return Ok(()),
            outcome => results.record(context, job, opinion.as_ref(), outcome),
        };
        match stopped {
            None => {}
            Some(error) if panel.are_several() && panel::is_of_one_teacher(&error) => {
                failed.push((&context.model, error));
            }
            Some(error) => {
                if panel.are_several() {
                    say_missing(&scorings)?;
                }
                return Err(error);
            }
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    say_missing(&scorings)?;
    schemas::say!(
        "round {round}: everything paid for is kept; run the same command again to request only what is missing. To continue \
         without a Teacher, remove it from the settings"
    );
    let mut failed = failed.into_iter();
    let first = failed.next();
    for (model, error) in failed {
        schemas::warn!("error: {model}: {error}");
    }
    first.map_or(Ok(()), |(_, error)| Err(error))
}

/// Submits the batches of all scorings first, so that none waits for another's results.
fn submit(scorings: &[Scoring<'_>]) -> Result<()> {
    for Scoring { context, job } in scorings.iter().filter(|scoring| scoring.context.batch) {
        if interrupt::noted() {
            return Err(Error::Interrupted); // the next jobs would cost money
        }
        // A failure here recurs when the results are collected, and is reported there.
        if let Some(Error::Interrupted) = context.submit(job)? {
            return Err(Error::Interrupted);
        }
    }
    Ok(())
}

/// Reports which opinions are missing.
fn say_missing(scorings: &[Scoring<'_>]) -> Result<()> {
    for scoring in scorings {
        let (pending, round) = (scoring.pending()?, scoring.job.round);
        if pending > 0 {
            let wait = if pending == 1 { "waits" } else { "wait" };
            schemas::say!("round {round}: {} {wait} for {}", scoring.job.counted(pending), scoring.opinion());
        }
    }
    Ok(())
}

impl Results {
    /// Reports the result of a job; returns why it ended early.
    fn record(
        &mut self,
        context: &Context,
        job: &Job,
        opinion: Option<&Opinion>,
        outcome: Outcome,
    ) -> Option<Error> {
        self.said = true;
        let (round, kind) = (job.round, job.kind.as_str());
        let by = opinion.map_or_else(String::new, |opinion| format!(" by {opinion}"));
        let (answered, rejected) = match outcome {
            Outcome::NothingThere => return None,
            Outcome::NothingToDo { answered, rejected } => {
                let remark = match rejected {
                    0 => String::new(),
                    1 => ", 1 was rejected (--retry-rejects asks about it again)".to_owned(),
                    _ => format!(", {rejected} were rejected (--retry-rejects asks about them again)"),
                };
                let (items, have) = (job.counted(answered), if answered == 1 { "has" } else { "have" });
                schemas::say!("round {round}: {items} {have} {kind}{by}{remark}; nothing to do");
                (self.rejects, self.answers) = (self.rejects || rejected > 0, self.answers || answered > 0);
                (answered, rejected)
            }
            Outcome::Finished { counts, left, in_all, sent, dollars, without_usage, stopped } => {
                let verb = match job.kind {
                    Kind::Scores => "scored",
                    Kind::Corrections => "corrected",
                    Kind::Judgements => "judged",
                };
                let cost = match (dollars, without_usage) {
                    (None, _) => "cost unknown".to_owned(),
                    (Some(dollars), 0) => format!("${dollars:.4}"),
                    (Some(dollars), without_usage) => {
                        let replies = counted(without_usage, "reply");
                        format!("${dollars:.4} plus the unknown cost of {replies} without usage")
                    }
                };
                schemas::say!(
                    "round {round}: {} {verb}{by}, {} rejected, {} shared a reply; {}, {cost}{}",
                    job.counted(counts.answered),
                    counts.rejected,
                    counts.shared,
                    counted(sent, "request"),
                    if left > 0 { format!("; {left} still pending") } else { String::new() },
                );
                if stopped.is_some() {
                    return stopped;
                }
                self.rejects |= counts.rejected > 0;
                self.answers |= counts.answered > 0;
                self.is_left |= left > 0;
                in_all
            }
        };
        if job.kind == Kind::Scores {
            let least = context.settings.rl.min_coverage * (answered + rejected) as f64;
            *(if answered as f64 >= least { &mut self.covered } else { &mut self.uncovered }) += 1;
        }
        None
    }
}

/// Names the command that comes next.
fn say_next(context: &Context, round: u32, results: &Results) -> Result<()> {
    let flag = context.common_flags();
    let teacher = &context.teacher_flags;
    let batch = if context.batch { " --batch" } else { "" };
    // Opinions of one Teacher compensate for missing ones of another.
    let is_uncovered = results.uncovered > 0 && results.covered == 0;
    if results.is_left {
        schemas::say!("round {round}: next: collect-feedback --round {round} --batch{teacher}{flag}");
    } else if (results.rejects && !results.answers) || is_uncovered {
        schemas::say!(
            "round {round}: next: look at the rejects table, then collect-feedback --round {round} --retry-rejects{batch}{teacher}{flag}"
        );
    } else if is_imported(&context.dataset, round)? {
        schemas::say!(
            "round {round}: all its rationales were imported, and train does not learn from those; next: collect-feedback report --round {round}{flag}"
        );
    } else {
        let next = if is_over(&context.dataset, round)? { round + 1 } else { round };
        schemas::say!("round {round}: next: train --round {next}{}{flag}", context.shared_flags);
    }
    Ok(())
}

/// Whether a round's rationales were all imported: they have no tokens to learn from.
fn is_imported(dataset: &Dataset, round: u32) -> Result<bool> {
    let parts = dataset.parts::<Rollout>(round)?;
    let is_import = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("part-import-"))
    };
    Ok(!parts.is_empty() && parts.iter().all(is_import))
}

/// Whether train has ended a round: the answers of its fine-tuned policy are written last.
fn is_over(dataset: &Dataset, round: u32) -> Result<bool> {
    #[derive(serde::Deserialize)]
    struct StageOf {
        stage: String,
    }
    // A dataset without val and test problems has a part without rows.
    let is_written = dataset.part_path::<Answer>(round, "sft").is_file();
    Ok(is_written
        || dataset.project::<Answer, StageOf>(round, &["stage"])?.iter().any(|row| row.stage == "sft"))
}
