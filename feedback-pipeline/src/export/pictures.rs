//! The pictures of an export: found in the dataset folder, embedded or copied.

use super::left_out::Reason;
use crate::error::{Error, Result};
use crate::request::image::{locate, never_there};
use image::ImageFormat;
use schemas::{Dataset, IdSet, Problem};
use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

/// Leading bytes that identify a picture's type.
const HEAD: u64 = 64;
/// Folder of an export's pictures.
const FOLDER: &str = "images";

/// A picture of the dataset.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Path in the export, with `/`.
    pub(super) name: String,
    file: PathBuf,
}

impl Found {
    /// The file's bytes, as they are.
    pub(super) fn bytes(&self) -> Result<Vec<u8>> {
        std::fs::read(&self.file).map_err(Error::io("read", &self.file))
    }
}

/// Finds pictures.
pub(super) struct Pictures {
    root: PathBuf,
    problems: PathBuf,
    never_there: BTreeSet<String>,
    are_wanted: bool,
}

impl Pictures {
    pub(super) fn new(dataset: &Dataset, are_wanted: bool) -> Result<Self> {
        Ok(Self {
            root: dataset.root().to_path_buf(),
            problems: dataset.problems_path(),
            never_there: never_there(dataset)?,
            are_wanted,
        })
    }

    /// The picture of a problem, `None` if it has none to show, or why the problem is left out.
    ///
    /// # Errors
    /// If its path leaves the dataset folder.
    pub(super) fn of(&self, problem: &Problem) -> Result<std::result::Result<Option<Found>, Reason>> {
        let Some(path) = problem.image.as_ref().filter(|_| self.are_wanted) else { return Ok(Ok(None)) };
        let stays = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        let is_missing = Path::new(path).components().all(stays) && !self.root.join(path).exists();
        let file = match locate(&self.root, path) {
            Ok(file) => file,
            // The source never had it, and the Teacher was asked without it as well.
            Err(_) if is_missing && self.never_there.contains(&problem.problem_id) => return Ok(Ok(None)),
            Err(_) if is_missing => return Ok(Err(Reason::PictureMissing)),
            Err(reason) => {
                let place = format!("{}, problem `{}`", self.problems.display(), problem.problem_id);
                return Err(Error::bad_input(place, reason));
            }
        };
        if !is_picture(&file) {
            return Ok(Err(Reason::PictureUnreadable));
        }
        Ok(Ok(Some(Found { name: name(path), file })))
    }

    /// Whether a problem is meant to be shown with a picture.
    pub(super) fn has(&self, problem: &Problem) -> bool {
        self.are_wanted && problem.image.is_some()
    }
}

fn is_picture(file: &Path) -> bool {
    let mut head = Vec::new();
    let read = std::fs::File::open(file).and_then(|file| file.take(HEAD).read_to_end(&mut head));
    let format = read.ok().and_then(|_| image::guess_format(&head).ok());
    matches!(format, Some(ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::Gif | ImageFormat::WebP))
}

/// A picture's path in the export: below `images`, like the dataset's own.
fn name(path: &str) -> String {
    let parts = Path::new(path).components().filter_map(|part| match part {
        Component::Normal(part) => Some(part.to_string_lossy().into_owned()),
        _ => None,
    });
    let parts: Vec<String> = parts.collect();
    match parts.split_first() {
        Some((first, rest)) if first == FOLDER && !rest.is_empty() => parts.join("/"),
        _ => format!("{FOLDER}/{}", parts.join("/")),
    }
}

/// Pictures copied into an export.
#[derive(Debug, Default)]
pub(super) struct Copies {
    copied: IdSet,
    /// Number of files.
    pub(super) files: u64,
    /// Their size.
    pub(super) bytes: u64,
}

impl Copies {
    /// Copies a picture into an export's folder, once.
    pub(super) fn add(&mut self, folder: &Path, found: &Found) -> Result<()> {
        if !self.copied.insert(&found.file.to_string_lossy()) {
            return Ok(());
        }
        let target = folder.join(&found.name);
        if target.exists() {
            let message = format!("expected one picture to be named `{}`, found another", found.name);
            return Err(Error::bad_input(found.file.display().to_string(), message));
        }
        let parent = target.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        self.bytes += std::fs::copy(&found.file, &target).map_err(Error::io("write", &target))?;
        self.files += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_named_below_images() {
        let names = [
            ("images/a.png", "images/a.png"),
            ("./images//b/a.png", "images/b/a.png"),
            ("a.png", "images/a.png"),
            ("images", "images/images"),
            ("pictures/a.png", "images/pictures/a.png"),
        ];
        for (path, expected) in names {
            assert_eq!(name(path), expected, "{path}");
        }
    }

    #[test]
    fn two_pictures_of_one_name_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let found = |name: &str| {
            let file = folder.path().join(name);
            std::fs::write(&file, name).unwrap();
            Found { name: "images/a.png".into(), file }
        };
        let (mut copies, first) = (Copies::default(), found("first"));
        let to = folder.path().join("export");
        copies.add(&to, &first).unwrap();
        copies.add(&to, &first).unwrap();
        assert_eq!((copies.files, copies.bytes), (1, 5));
        assert_eq!(copies.add(&to, &found("second")).unwrap_err().exit_code(), 2);
    }
}
