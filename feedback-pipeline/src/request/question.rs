//! A question: an item with its picture, text and request key.

use crate::error::Result;
use crate::items::{Content, Item, Job};
use crate::request::image::{ImageLimits, Images, Shown};
use crate::request::{prompt, samples};
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
    /// Picture of the request.
    pub shown: Shown,
    /// Why it cannot be sent.
    pub unsent: Option<String>,
    /// The individual questions that this one combines; empty if it asks about one item.
    pub members: Vec<Question>,
    /// Key of the request that asks about this item together with others.
    pub asked_in: Option<Key>,
}

impl Question {
    /// Whether it asks about several items.
    pub fn is_group(&self) -> bool {
        !self.members.is_empty()
    }

    /// The picture, if there is one.
    pub fn image(&self) -> Option<&Arc<Picture>> {
        self.shown.picture()
    }
}

/// Maximum bytes of sentences in one request.
const MOST_BYTES: usize = 24_000;

/// Maximum tokens of one score in a reply, without a reason and with one.
const TOKENS_OF_SCORE: [u32; 2] = [24, 72];

/// Requests about several samples of a problem.
pub struct Grouped {
    /// The part that all requests share.
    pub template: Template,
    /// Maximum samples in one request; 0 for any number.
    pub samples: usize,
    /// Whether the model thinks, which uses up tokens of the reply.
    pub thinks: bool,
    /// Whether each score has a reason.
    pub reasons: bool,
}

impl Grouped {
    /// How many of the questions, from the first, fit into one request.
    fn takes(&self, questions: &[Question]) -> usize {
        let limit = self.template.dialect().max_output_tokens;
        let room = if self.thinks { limit / 2 } else { limit - limit / 8 };
        let most_sentences = (room / TOKENS_OF_SCORE[usize::from(self.reasons)]) as usize;
        let (mut sentences, mut bytes) = (0, 0);
        let fit = questions.iter().take_while(|question| {
            let Content::Scores { sentences: own, .. } = &question.item.content else { return false };
            sentences += own.len();
            bytes += own.iter().map(String::len).sum::<usize>();
            sentences <= most_sentences && bytes <= MOST_BYTES
        });
        let most = if self.samples == 0 { usize::MAX } else { self.samples };
        fit.take(most).count().max(1)
    }
}

/// Makes the questions of a job.
pub struct Questions {
    provider: Provider,
    audit: Option<u64>,
    repeat: u32,
    /// The part of a request that all share.
    pub template: Template,
    /// The same for requests about several samples, and how many they may ask about.
    pub grouped: Option<Grouped>,
    /// Whether scores have reasons: then replies about one item are long too.
    pub reasons: bool,
    /// Pictures.
    pub images: Images,
}

impl Questions {
    /// The questions of a job, from the settings and the prompt.
    ///
    /// # Errors
    /// If the dataset's list of missing pictures cannot be read.
    pub fn new(
        dataset: &Dataset,
        teacher: &TeacherSettings,
        job: &Job,
        template: Template,
        (grouped, reasons): (Option<Grouped>, bool),
        limits: ImageLimits,
    ) -> Result<Self> {
        let images = Images::new(dataset, limits)?;
        Ok(Self {
            provider: teacher.provider,
            audit: job.audit,
            repeat: job.repeat(),
            template,
            grouped,
            reasons,
            images,
        })
    }

    /// The questions grouped into one request each, in order; a group of one is the question itself.
    pub fn in_groups(&self, mut questions: Vec<Question>) -> Vec<Question> {
        let Some(grouped) = &self.grouped else { return questions };
        let mut groups = Vec::new();
        while !questions.is_empty() {
            let rest = questions.split_off(grouped.takes(&questions));
            let mut group = std::mem::replace(&mut questions, rest);
            groups.extend(match group.len() {
                1 => group.pop(),
                _ => self.together(grouped, group),
            });
        }
        groups
    }

    fn together(&self, grouped: &Grouped, members: Vec<Question>) -> Option<Question> {
        let first = members.first()?;
        let (item, shown) = (first.item.clone(), first.shown.clone());
        let samples: Vec<&[String]> = members.iter().map(|member| sentences(&member.item)).collect();
        let mut text = samples::user_text(&item.problem, &shown, &samples);
        self.add_gold(&mut text, &item);
        self.add_repeat(&mut text);
        let key = grouped.template.key(shown.picture(), &text, &[]);
        Some(Question { item, key, text, shown, unsent: None, members, asked_in: None })
    }

    /// The embedded Teacher also reads fields that others are not shown, so they are part of the request.
    fn add_gold(&self, text: &mut String, item: &Item) {
        if self.provider != Provider::Reference {
            return;
        }
        let Problem { solution, lecture, caption, .. } = item.problem.as_ref();
        let [solution, lecture, caption] = [solution, lecture, caption].map(|text| prompt::untagged(text));
        text.push_str(&format!("\n<gold>\n{solution}\n{lecture}\n{caption}\n</gold>"));
    }

    /// A repeat is a distinct request with a different text, so that neither our store nor a cache at the service answers it
    /// with an earlier reply. The first scoring sends the same request as without repeats.
    fn add_repeat(&self, text: &mut String) {
        if self.repeat > 0 {
            text.push_str(&format!("\n\nIndependent scoring no. {}.", self.repeat + 1));
        }
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
        self.add_gold(&mut text, &item);
        self.add_repeat(&mut text);
        // An audit repeats earlier requests, so its seed is part of the request.
        let keyed = match self.audit {
            Some(seed) => format!("{text}\naudit {seed}"),
            None => text.clone(),
        };
        let image = shown.picture();
        // Without its picture, an item has a separate request that is never sent.
        let key = match &unsent {
            None => self.template.key(image, &keyed, &[]),
            Some(reason) => self.template.key(None, &format!("{keyed}\n{}\n{reason}", item.subject_id), &[]),
        };
        Question { item, key, text, shown, unsent, members: Vec::new(), asked_in: None }
    }
}

/// The sentences to score; none for other kinds.
fn sentences(item: &Item) -> &[String] {
    match &item.content {
        Content::Scores { sentences, .. } => sentences,
        Content::Correction { .. } | Content::Judgement { .. } => &[],
    }
}
