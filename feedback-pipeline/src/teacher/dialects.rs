//! The dialect of a run: it starts with what is known, and adapts to refusals.

use super::ServiceError;
use super::dialect::{Dialect, Lesson};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Maximum number of lessons in a run; after further refusals, the run gives up.
const MOST_LESSONS: u32 = 8;

/// The dialect of one model at one address, shared by the jobs of a run.
#[derive(Debug)]
pub struct Dialects {
    first: Arc<Dialect>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    spoken: Spoken,
    /// Whether a request without a picture, and one with a picture, was accepted.
    accepted: [bool; 2],
}

/// A dialect and its number of lessons.
#[derive(Debug, Clone)]
pub struct Spoken {
    /// Lessons so far.
    pub lessons: u32,
    /// The dialect.
    pub dialect: Arc<Dialect>,
}

/// What a refusal leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Repeat the request in the current dialect; with a description if it changed just now.
    Again(Option<String>),
    /// An explicitly set field is refused.
    Pinned(&'static str),
    /// The model cannot see pictures.
    CannotSee,
    /// It says nothing about the dialect.
    Other,
}

impl Dialects {
    /// Starts with a dialect.
    pub fn new(first: Dialect) -> Self {
        let first = Arc::new(first);
        let spoken = Spoken { lessons: 0, dialect: Arc::clone(&first) };
        Self { first, state: Mutex::new(State { spoken, accepted: [false; 2] }) }
    }

    /// The dialect at the start of the run: request keys are computed in it, so they do not depend on lessons.
    pub fn first(&self) -> &Dialect {
        &self.first
    }

    /// The current dialect.
    pub fn spoken(&self) -> Spoken {
        self.state().spoken.clone()
    }

    /// Whether such a request was accepted. Until then only one is in flight, so at most one is refused for
    /// the same reason.
    pub fn is_accepted(&self, has_picture: bool) -> bool {
        self.state().accepted[usize::from(has_picture)]
    }

    /// The service has replied to a request.
    pub fn accept(&self, has_picture: bool) {
        let accepted = &mut self.state().accepted;
        accepted[usize::from(has_picture)] = true;
        accepted[0] = true;
    }

    /// Learns from the refusal of a request, about several items if it `is_group`, that was written after `lessons` lessons.
    pub fn refuse(
        &self,
        lessons: u32,
        status: u16,
        error: &ServiceError,
        has_picture: bool,
        is_group: bool,
    ) -> Refusal {
        let mut state = self.state();
        let spoken = &mut state.spoken;
        let lesson = match is_group {
            true => spoken.dialect.learn_grouped(status, error, has_picture),
            false => spoken.dialect.learn(status, error, has_picture),
        };
        match lesson {
            Lesson::CannotSee => Refusal::CannotSee,
            _ if lessons < spoken.lessons && matches!(status, 400 | 404 | 415 | 422) => Refusal::Again(None),
            Lesson::Pinned(setting) => Refusal::Pinned(setting),
            Lesson::Changed(dialect, what) if spoken.lessons < MOST_LESSONS => {
                *spoken = Spoken { lessons: spoken.lessons + 1, dialect: Arc::new(*dialect) };
                Refusal::Again(Some(what))
            }
            Lesson::Changed(..) | Lesson::None => Refusal::Other,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::{Model, Service};
    use super::*;
    use schemas::settings::{Provider, TeacherSettings};

    #[test]
    fn a_lesson_is_learned_once() {
        let settings = TeacherSettings { provider: Provider::OpenAi, ..TeacherSettings::default() };
        let dialects = Dialects::new(Dialect::new(&settings, &Model::default(), &Service::default()));
        let error = ServiceError { param: "temperature".into(), ..ServiceError::default() };
        let first = dialects.refuse(0, 400, &error, false, false);
        assert_eq!(first, Refusal::Again(Some("temperature is omitted".into())));
        assert_eq!(dialects.refuse(0, 400, &error, false, false), Refusal::Again(None), "it was sent before");
        assert_eq!(dialects.refuse(1, 400, &error, false, false), Refusal::Other, "nothing is left to drop");
        assert_eq!(dialects.spoken().lessons, 1);
        assert!(dialects.first().temperature.is_some() && dialects.spoken().dialect.temperature.is_none());
        assert!(!dialects.is_accepted(false));
        dialects.accept(false);
        assert!(dialects.is_accepted(false) && !dialects.is_accepted(true));
    }

    #[test]
    fn a_limit_that_is_too_high_for_several_items_leaves_that_for_one() {
        let settings = TeacherSettings { provider: Provider::OpenAi, ..TeacherSettings::default() };
        let dialects = Dialects::new(Dialect::new(&settings, &Model::default(), &Service::default()));
        let limits = || {
            let dialect = dialects.spoken().dialect;
            (dialect.max_output_tokens, dialect.grouped().max_output_tokens)
        };
        assert_eq!(limits(), (1_024, 2_048));
        for (most, left) in [(1_500, (1_024, 1_500)), (512, (512, 512))] {
            let message = format!("max_tokens is too large: it must be at most {most}");
            let error = ServiceError { message, param: "max_tokens".into(), ..ServiceError::default() };
            let lessons = dialects.spoken().lessons;
            assert!(matches!(dialects.refuse(lessons, 400, &error, false, true), Refusal::Again(Some(_))));
            assert_eq!(limits(), left);
        }
    }
}
