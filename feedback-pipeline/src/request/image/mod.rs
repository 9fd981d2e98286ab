//! Pictures as the Teacher gets them: type found by content, upright, sized down to what is worth paying for, hashed. Their
//! bytes stay in files.
//!
//! A picture that cannot be had is an error of its item, never a silent request without it. Pictures that the published
//! source never had are known from the import; such items are asked with a remark in place of the picture.

mod prepare;
mod whole;

pub use prepare::ImageLimits;

use crate::error::Error;
use crate::teacher::Picture;
use schemas::{Dataset, Problem};
use std::collections::{BTreeSet, VecDeque};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Pictures kept ready: the samples of one problem follow each other.
const KEPT: usize = 128;

/// Name of the list of problems whose picture the source never had, in the folder of the pictures: an id a line.
pub const NEVER_THERE: &str = "missing.txt";

/// Problems of a dataset whose picture the source never had; none where there is no list.
pub fn never_there(dataset: &Dataset) -> Result<BTreeSet<String>, Error> {
    let path = dataset.images_dir().join(NEVER_THERE);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            Ok(text.lines().map(str::trim).filter(|id| !id.is_empty()).map(ToOwned::to_owned).collect())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(Error::io("read", &path)(error)),
    }
}

/// What an item's request shows.
#[derive(Debug, Clone)]
pub enum Shown {
    /// Its picture.
    Picture(Arc<Picture>),
    /// No picture, as the problem has none.
    None,
    /// No picture, as the source never had it; the request says so.
    Remark,
}

impl Shown {
    /// The picture, where there is one.
    pub fn picture(&self) -> Option<&Arc<Picture>> {
        match self {
            Self::Picture(picture) => Some(picture),
            Self::None | Self::Remark => None,
        }
    }
}

/// Where a problem's picture is, by its path in the table: below the dataset folder, links followed. Tables of others may
/// name any file of this machine, and it would be sent to the service.
///
/// # Errors
/// Why there is none that may be read, naming the path.
pub fn locate(root: &Path, path: &str) -> Result<PathBuf, String> {
    let leaves = || format!("picture path leaves the dataset folder: {path}");
    let stays = |component: Component<'_>| matches!(component, Component::Normal(_) | Component::CurDir);
    if !Path::new(path).components().all(stays) {
        return Err(leaves());
    }
    let missing = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("missing image: {path}"),
        _ => format!("missing image: {path}: {error}"),
    };
    let file = root.join(path).canonicalize().map_err(missing)?;
    let root = root.canonicalize().map_err(missing)?;
    if file.starts_with(root) { Ok(file) } else { Err(leaves()) }
}

/// Reads and prepares the pictures of a dataset.
pub struct Images {
    never_there: BTreeSet<String>,
    root: PathBuf,
    limits: ImageLimits,
    recent: Mutex<VecDeque<Kept>>,
}

/// A picture that is ready, and the state of its file when it was prepared.
struct Kept {
    file: PathBuf,
    state: (u64, Option<SystemTime>),
    picture: Arc<Picture>,
}

impl Images {
    /// Pictures below a dataset folder, in a form that `limits` allow.
    ///
    /// # Errors
    /// Where the dataset's list of missing pictures cannot be read.
    pub fn new(dataset: &Dataset, limits: ImageLimits) -> Result<Self, Error> {
        Ok(Self {
            never_there: never_there(dataset)?,
            root: dataset.root().to_path_buf(),
            limits,
            recent: Mutex::new(VecDeque::with_capacity(KEPT)),
        })
    }

    /// What a request about a problem shows, or why it cannot be sent.
    ///
    /// # Errors
    /// Why the picture cannot be sent.
    pub fn shown(&self, problem: &Problem) -> Result<Shown, String> {
        match &problem.image {
            None => Ok(Shown::None),
            Some(_) if self.was_never_there(problem) => Ok(Shown::Remark),
            Some(path) => self.get(path).map(Shown::Picture),
        }
    }

    /// True where a problem's picture is missing since the source never had it. One that was put there since is used.
    pub fn was_never_there(&self, problem: &Problem) -> bool {
        problem.image.as_ref().is_some_and(|path| {
            self.never_there.contains(&problem.problem_id) && !self.root.join(path).exists()
        })
    }

    /// True where the dataset has a list of such problems.
    pub fn any_was_never_there(&self) -> bool {
        !self.never_there.is_empty()
    }

    /// The picture at a path relative to the dataset folder.
    ///
    /// # Errors
    /// Why it cannot be sent.
    pub fn get(&self, path: &str) -> Result<Arc<Picture>, String> {
        let file = locate(&self.root, path)?;
        let state = file
            .metadata()
            .map(|metadata| (metadata.len(), metadata.modified().ok()))
            .map_err(|error| format!("unreadable image: {path}: {error}"))?;
        let find = |recent: &VecDeque<Kept>| {
            let kept = recent.iter().find(|kept| kept.file == file && kept.state == state);
            kept.map(|kept| Arc::clone(&kept.picture))
        };
        if let Some(picture) = find(&self.recent.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(picture);
        }
        let picture = prepare::prepare(&file, self.limits)
            .map_err(|message| format!("unreadable image: {path}: {message}"))?;
        let picture = Arc::new(picture);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|kept| kept.file != file);
        if recent.len() >= KEPT {
            recent.pop_front();
        }
        recent.push_back(Kept { file, state, picture: Arc::clone(&picture) });
        Ok(picture)
    }
}
