//! What an item is asked with: picture → text → key.

use crate::cache::Cache;
use crate::due::{Item, Job};
use crate::error::Result;
use crate::image::{Images, Prepared, Shown};
use crate::prompt::{self, SystemPrompt};
use crate::teacher::{Key, Template};
use crate::verdict::{self, Verdict};
use schemas::settings::{Provider, TeacherSettings};
use schemas::{Dataset, Problem, TimestampMs};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// An item with everything that its request needs.
pub(crate) struct Question {
    pub(crate) item: Item,
    pub(crate) key: Key,
    pub(crate) text: String,
    pub(crate) shown: Shown,
    /// Why it cannot be sent.
    pub(crate) unsent: Option<String>,
}

impl Question {
    /// The picture, where there is one.
    pub(crate) fn image(&self) -> Option<&Prepared> {
        self.shown.picture().map(Arc::as_ref)
    }
}

/// Makes the questions of a job.
pub struct Questions {
    provider: Provider,
    audit: Option<u64>,
    /// Whether what was rejected is asked anew.
    pub(crate) retry_rejects: bool,
    /// When the run began, in ms since 1970: what it rejects itself is not asked again.
    began_ms: i64,
    /// The part of a request that all share.
    pub(crate) template: Template,
    /// Pictures.
    pub(crate) images: Images,
}

impl Questions {
    /// The questions of a job, by the settings and the prompt that it is asked with.
    ///
    /// # Errors
    /// Where the dataset's list of missing pictures cannot be read.
    pub fn new(
        dataset: &Dataset,
        teacher: &TeacherSettings,
        job: &Job,
        prompt: &SystemPrompt,
        retry_rejects: bool,
    ) -> Result<Self> {
        Ok(Self {
            provider: teacher.provider,
            audit: job.audit,
            retry_rejects,
            began_ms: TimestampMs::now().0,
            template: Template::new(teacher, job.kind, prompt),
            images: Images::new(dataset)?,
        })
    }

    /// The question that an item is due with: another than one whose reply was rejected, where such are asked anew.
    pub(crate) fn due(&self, item: Item, cache: &Cache) -> Result<Question> {
        let mut question = self.of(item);
        while self.retry_rejects && question.unsent.is_none() {
            let replies = cache.replies(&question.key)?;
            let verdict = verdict::of(self.provider, &question.item.content, &replies);
            let is_of_this_run = replies.last().is_some_and(|reply| reply.replied_at_ms >= self.began_ms);
            if !matches!(verdict, Verdict::Reject { .. }) || is_of_this_run {
                break;
            }
            // The same for whoever asks after the same reject, so that a run that was killed goes on with it.
            let mut hash = Sha256::new();
            hash.update(b"asked anew after ");
            hash.update(question.key);
            question.key = hash.finalize().into();
        }
        Ok(question)
    }

    /// The question of an item.
    pub(crate) fn of(&self, item: Item) -> Question {
        // The embedded Teacher looks at no picture, so it misses none.
        let (shown, unsent) = match self.provider {
            Provider::Reference => (Shown::None, None),
            _ => match self.images.shown(&item.problem) {
                Ok(shown) => (shown, None),
                Err(reason) => (Shown::None, Some(reason)),
            },
        };
        let mut text = prompt::user_text(&item, &shown);
        if self.provider == Provider::Reference {
            // It also reads what no other Teacher is shown, so that belongs to the request.
            let Problem { solution, lecture, caption, .. } = item.problem.as_ref();
            text.push_str(&format!("\n<gold>\n{solution}\n{lecture}\n{caption}\n</gold>"));
        }
        // An audit asks anew what was asked before, so its seed belongs to the request.
        let keyed = match self.audit {
            Some(seed) => format!("{text}\naudit {seed}"),
            None => text.clone(),
        };
        let image = shown.picture().map(Arc::as_ref);
        // Without its picture an item has a request of its own that is never sent.
        let key = match &unsent {
            None => self.template.key(image, &keyed, &[]),
            Some(reason) => self.template.key(None, &format!("{keyed}\n{}\n{reason}", item.subject_id), &[]),
        };
        Question { item, key, text, shown, unsent }
    }
}
