//! What an item is asked with: picture → text → key.

use crate::error::Result;
use crate::items::{Item, Job};
use crate::request::image::{ImageLimits, Images, Shown};
use crate::request::prompt;
use crate::teacher::{Key, Picture, Template};
use schemas::settings::{Provider, TeacherSettings};
use schemas::{Dataset, Problem};
use std::sync::Arc;

/// An item with everything that its request needs.
pub struct Question {
    /// The item.
    pub item: Item,
    /// Key of its first request.
    pub key: Key,
    /// Text block of the request.
    pub text: String,
    /// What the request shows.
    pub shown: Shown,
    /// Why it cannot be sent.
    pub unsent: Option<String>,
}

impl Question {
    /// The picture, if there is one.
    pub fn image(&self) -> Option<&Arc<Picture>> {
        self.shown.picture()
    }
}

/// Makes the questions of a job.
pub struct Questions {
    provider: Provider,
    audit: Option<u64>,
    /// The part of a request that all share.
    pub template: Template,
    /// Pictures.
    pub images: Images,
}

impl Questions {
    /// The questions of a job, by the settings and the prompt that it is asked with.
    ///
    /// # Errors
    /// If the dataset's list of missing pictures cannot be read.
    pub fn new(
        dataset: &Dataset,
        teacher: &TeacherSettings,
        job: &Job,
        template: Template,
        limits: ImageLimits,
    ) -> Result<Self> {
        let images = Images::new(dataset, limits)?;
        Ok(Self { provider: teacher.provider, audit: job.audit, template, images })
    }

    /// The question of an item.
    pub fn of(&self, item: Item) -> Question {
        // The embedded Teacher does not use pictures.
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
            let [solution, lecture, caption] =
                [solution, lecture, caption].map(|text| prompt::untagged(text));
            text.push_str(&format!("\n<gold>\n{solution}\n{lecture}\n{caption}\n</gold>"));
        }
        // An audit repeats earlier requests, so its seed is part of the request.
        let keyed = match self.audit {
            Some(seed) => format!("{text}\naudit {seed}"),
            None => text.clone(),
        };
        let image = shown.picture();
        // Without its picture an item has a request of its own that is never sent.
        let key = match &unsent {
            None => self.template.key(image, &keyed, &[]),
            Some(reason) => self.template.key(None, &format!("{keyed}\n{}\n{reason}", item.subject_id), &[]),
        };
        Question { item, key, text, shown, unsent }
    }
}
