//! Prepares pictures for the Teacher: type detected by content, turned upright, scaled down to a reasonable
//! cost, hashed. Their bytes stay in files.
//!
//! A picture that cannot be read is an error of its item, never a silent request without it. Pictures that
//! the published source never had are known from the import; requests about such items have a remark in place
//! of the picture.

mod prepare;
mod whole;

pub use prepare::ImageLimits;

use crate::error::Error;
use crate::teacher::Picture;
use image::ImageFormat;
use schemas::{Dataset, Problem};
use std::collections::{BTreeSet, VecDeque};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Number of cached pictures: the samples of one problem follow each other.
const KEPT: usize = 128;

/// Name of the list of problems whose picture the source never had, in the folder of the pictures: one id per line.
pub const NEVER_THERE: &str = "missing.txt";

/// The file extension of a picture, by its bytes.
///
/// # Errors
/// What is wrong: not a picture in a supported format, or a truncated one.
pub fn extension_of(bytes: &[u8]) -> Result<&'static str, String> {
    if schemas::file::is_pointer(bytes) {
        return Err(format!("it is {}", schemas::file::POINTER));
    }
    let format = image::guess_format(bytes).map_err(|_| "no known picture format".to_owned())?;
    let extension = match format {
        ImageFormat::Png => "png",
        ImageFormat::Jpeg => "jpg",
        ImageFormat::Gif => "gif",
        ImageFormat::WebP => "webp",
        other => return Err(format!("it is a {other:?} picture")),
    };
    if whole::is_whole(format, bytes) { Ok(extension) } else { Err("it is cut off".to_owned()) }
}

/// Problems of a dataset whose picture the source never had; `None` if there is no list.
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

/// The picture of an item's request.
#[derive(Debug, Clone)]
pub enum Shown {
    /// Its picture.
    Picture(Arc<Picture>),
    /// No picture, since the problem has none.
    None,
    /// No picture, since the source never had it; the request says so.
    Remark,
}

impl Shown {
    /// The picture, if there is one.
    pub fn picture(&self) -> Option<&Arc<Picture>> {
        match self {
            Self::Picture(picture) => Some(picture),
            Self::None | Self::Remark => None,
        }
    }
}

/// The file of a problem's picture, from its path in the table. It must be below the dataset folder after
/// links are resolved: otherwise a table from elsewhere could name any file on this machine, which would then
/// be sent to the service.
///
/// # Errors
/// The reason, with the path.
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

/// A prepared picture, and the state of its file at that time.
struct Kept {
    file: PathBuf,
    state: (u64, Option<SystemTime>),
    picture: Arc<Picture>,
}

impl Images {
    /// Pictures below a dataset folder, within `limits`.
    ///
    /// # Errors
    /// If the dataset's list of missing pictures cannot be read.
    pub fn new(dataset: &Dataset, limits: ImageLimits) -> Result<Self, Error> {
        Ok(Self {
            never_there: never_there(dataset)?,
            root: dataset.root().to_path_buf(),
            limits,
            recent: Mutex::new(VecDeque::with_capacity(KEPT)),
        })
    }

    /// The picture of a request about a problem, or why the request cannot be sent.
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

    /// True if a problem's picture is missing because the source never had it. If it has been added since, it
    /// is used.
    pub fn was_never_there(&self, problem: &Problem) -> bool {
        problem.image.as_ref().is_some_and(|path| {
            self.never_there.contains(&problem.problem_id) && !self.root.join(path).exists()
        })
    }

    /// True if the dataset has a list of such problems.
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

#[cfg(test)]
mod tests {
    use super::*;
    use ::image::ImageFormat;
    use prepare::tests::{drawing, encoded};
    use schemas::settings::Provider;

    fn dataset() -> (tempfile::TempDir, Dataset) {
        let folder = tempfile::tempdir().unwrap();
        let dataset = Dataset::at(folder.path().join("data"));
        std::fs::create_dir_all(dataset.images_dir()).unwrap();
        (folder, dataset)
    }

    #[test]
    fn paths_stay_in_the_dataset_folder() {
        let (folder, dataset) = dataset();
        let root = dataset.root();
        std::fs::write(folder.path().join("private.png"), "x").unwrap();
        std::fs::write(root.join("images/a.png"), "x").unwrap();
        let links = [("private.png", "away.png"), ("data/images/a.png", "stays.png")];
        for (to, name) in links {
            std::os::unix::fs::symlink(folder.path().join(to), root.join("images").join(name)).unwrap();
        }
        std::os::unix::fs::symlink(folder.path(), root.join("folder")).unwrap();
        let own = root.join("images/a.png").canonicalize().unwrap();
        for path in ["images/a.png", "./images/a.png", "images//a.png", "images/stays.png"] {
            assert_eq!(locate(root, path).as_ref(), Ok(&own), "{path}");
        }
        let absolute = folder.path().join("private.png").display().to_string();
        for path in [
            "../private.png",
            "images/../../private.png",
            "images/away.png",
            "folder/private.png",
            "/etc/hostname",
            absolute.as_str(),
        ] {
            let reason = format!("picture path leaves the dataset folder: {path}");
            assert_eq!(locate(root, path), Err(reason));
        }
        assert_eq!(locate(root, "images/b.png"), Err("missing image: images/b.png".to_owned()));
        // The error must not reveal whether a file outside the dataset exists.
        assert_eq!(
            locate(root, "../no.png"),
            Err("picture path leaves the dataset folder: ../no.png".to_owned())
        );
    }

    #[test]
    fn a_picture_is_prepared_once_and_again_where_its_file_has_changed() {
        let (_folder, dataset) = dataset();
        let images = Images::new(&dataset, ImageLimits::new(Provider::Anthropic, 2_048)).unwrap();
        let path = dataset.images_dir().join("a.png");
        std::fs::write(&path, encoded(&drawing(20, 10), ImageFormat::Png)).unwrap();
        let first = images.get("images/a.png").unwrap();
        assert!(Arc::ptr_eq(&first, &images.get("images/a.png").unwrap()));
        std::fs::write(&path, encoded(&drawing(30, 10), ImageFormat::Png)).unwrap();
        let second = images.get("images/a.png").unwrap();
        assert_eq!((first.size, second.size), ((20, 10), (30, 10)));
        assert_ne!(first.sha256, second.sha256);
    }
}
