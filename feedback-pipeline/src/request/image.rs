//! Pictures as the Teacher gets them: type found by content, sized down to what providers accept, hashed.
//!
//! A picture that cannot be had is an error of its item, never a silent request without it. Pictures that the published
//! source never had are known from the import; such items are asked with a remark in place of the picture.

use crate::error::Error;
use crate::teacher::Picture;
use base64::Engine as _;
use image::{GenericImageView, ImageFormat, ImageReader};
use schemas::provenance::sha256_hex;
use schemas::{Dataset, Problem};
use std::collections::{BTreeSet, VecDeque};
use std::io::Cursor;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Largest picture in bytes, before base64 makes 5 MB of it.
const MAX_BYTES: usize = 3_700_000;
/// Largest edge in pixels that providers take.
const MAX_EDGE: u32 = 8_000;
/// Edge in pixels to which a picture over a limit is brought: providers scale down to about this anyway.
const TARGET_EDGE: u32 = 1_568;
/// Pictures kept ready: the samples of one problem follow each other.
const KEPT: usize = 16;
/// A GIF ends within so many last bytes.
const BEHIND_A_GIF: usize = 16;

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

/// Reads and prepares the pictures of a dataset.
pub struct Images {
    never_there: BTreeSet<String>,
    root: PathBuf,
    recent: Mutex<VecDeque<(String, Arc<Picture>)>>,
}

impl Images {
    /// Pictures below a dataset folder.
    pub fn new(dataset: &Dataset) -> Result<Self, Error> {
        Ok(Self {
            never_there: never_there(dataset)?,
            root: dataset.root().to_path_buf(),
            recent: Mutex::new(VecDeque::with_capacity(KEPT)),
        })
    }

    /// What a request about a problem shows, or why it cannot be sent.
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

    /// The picture at a path relative to the dataset folder, or why it cannot be sent.
    pub fn get(&self, path: &str) -> Result<Arc<Picture>, String> {
        let found = {
            let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            recent.iter().find(|(known, _)| known == path).map(|(_, image)| Arc::clone(image))
        };
        if let Some(image) = found {
            return Ok(image);
        }
        let bytes = std::fs::read(self.root.join(path)).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => format!("missing image: {path}"),
            _ => format!("missing image: {path}: {error}"),
        })?;
        let image =
            Arc::new(prepare(bytes).map_err(|message| format!("unreadable image: {path}: {message}"))?);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() >= KEPT {
            recent.pop_front();
        }
        recent.push_back((path.to_owned(), Arc::clone(&image)));
        Ok(image)
    }
}

/// Brings a picture's bytes into a form that every provider takes. Bytes that fit already are not touched.
pub fn prepare(bytes: Vec<u8>) -> Result<Picture, String> {
    let reader = ImageReader::new(Cursor::new(&bytes)).with_guessed_format().map_err(|e| e.to_string())?;
    let format = reader.format().ok_or("expected png, jpeg, gif or webp, found something else")?;
    let media_type =
        media_type(format).ok_or_else(|| format!("expected png, jpeg, gif or webp, found {format:?}"))?;
    let size = reader.into_dimensions().map_err(|e| e.to_string())?;
    if !is_whole(format, &bytes) {
        return Err("it is cut off".to_owned());
    }
    if size.0.max(size.1) <= MAX_EDGE && bytes.len() <= MAX_BYTES {
        return Ok(finish(media_type, &bytes, size));
    }
    let picture = image::load_from_memory_with_format(&bytes, format).map_err(|e| e.to_string())?;
    drop(bytes);
    let picture = picture.thumbnail(TARGET_EDGE, TARGET_EDGE);
    let size = picture.dimensions();
    let mut smaller = Vec::new();
    picture.write_to(&mut Cursor::new(&mut smaller), ImageFormat::Png).map_err(|e| e.to_string())?;
    if smaller.len() <= MAX_BYTES {
        return Ok(finish("image/png", &smaller, size));
    }
    smaller.clear(); // a photograph: JPEG takes it in far fewer bytes
    let picture = image::DynamicImage::ImageRgb8(picture.to_rgb8());
    picture.write_to(&mut Cursor::new(&mut smaller), ImageFormat::Jpeg).map_err(|e| e.to_string())?;
    Ok(finish("image/jpeg", &smaller, size))
}

/// Whether a picture has its end: one that lost it would be paid for all the same. Decoding each would take longer than
/// asking about it.
fn is_whole(format: ImageFormat, bytes: &[u8]) -> bool {
    match format {
        ImageFormat::Png => bytes.windows(4).rev().any(|part| part == b"IEND"),
        ImageFormat::Jpeg => jpeg_ends(bytes).unwrap_or(false),
        ImageFormat::Gif => bytes.iter().rev().take(BEHIND_A_GIF).any(|byte| *byte == 0x3b),
        ImageFormat::WebP => {
            let told = bytes.get(4..8).and_then(|told| told.try_into().ok()).map_or(0, u32::from_le_bytes);
            bytes.len() >= told as usize + 8
        }
        _ => true,
    }
}

/// Whether a JPEG's own end is there: not that of a thumbnail in its head. Cameras append whole films behind it.
fn jpeg_ends(bytes: &[u8]) -> Option<bool> {
    let mut at = 2;
    loop {
        let marker = *bytes.get(at + 1)?;
        if bytes[at] != 0xff {
            at += 1; // stray bytes, which readers pass over
            continue;
        }
        match marker {
            0xd9 => return Some(true),
            0xff => at += 1, // filling
            0x01 | 0xd0..=0xd8 => at += 2,
            _ => {
                let length = bytes.get(at + 2..at + 4)?;
                at += 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
                if marker == 0xda {
                    // Coded numbers: a marker is what follows 0xff and is neither stuffing nor a restart.
                    let coded = bytes.get(at..)?;
                    at += coded
                        .windows(2)
                        .position(|pair| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xd0..=0xd7 | 0xff))?;
                }
            }
        }
    }
}

fn media_type(format: ImageFormat) -> Option<&'static str> {
    Some(match format {
        ImageFormat::Png => "image/png",
        ImageFormat::Jpeg => "image/jpeg",
        ImageFormat::Gif => "image/gif",
        ImageFormat::WebP => "image/webp",
        _ => return None,
    })
}

fn finish(media_type: &'static str, bytes: &[u8], size: (u32, u32)) -> Picture {
    let base64 = base64::engine::general_purpose::STANDARD.encode(bytes);
    Picture { media_type, sha256: sha256_hex(bytes), base64, size }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Vec::new();
        image::DynamicImage::new_rgb8(width, height).write_to(&mut Cursor::new(&mut bytes), format).unwrap();
        bytes
    }

    #[test]
    fn type_comes_from_content() {
        let prepared = prepare(picture(20, 10, ImageFormat::Jpeg)).unwrap();
        assert_eq!((prepared.media_type, prepared.size), ("image/jpeg", (20, 10)));
    }

    #[test]
    fn large_pictures_are_sized_down() {
        let prepared = prepare(picture(9_000, 30, ImageFormat::Png)).unwrap();
        assert_eq!(prepared.media_type, "image/png");
        assert_eq!(prepared.size.0, TARGET_EDGE);
    }

    #[test]
    fn a_picture_that_is_cut_off_is_told() {
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif] {
            let whole = picture(40, 30, format);
            assert!(prepare(whole.clone()).is_ok());
            let half = whole[..whole.len() - 8].to_vec();
            assert_eq!(prepare(half).unwrap_err(), "it is cut off", "{format:?}");
        }
        // A thumbnail inside has an end of its own.
        let mut cut = picture(40, 30, ImageFormat::Jpeg);
        let thumbnail = [&[0xff, 0xe1, 0x00, 0x06], &[0xff, 0xd8, 0xff, 0xd9][..]].concat();
        cut.splice(2..2, thumbnail);
        assert!(is_whole(ImageFormat::Jpeg, &cut));
        let film = [cut.clone(), vec![7; 50_000]].concat();
        assert!(is_whole(ImageFormat::Jpeg, &film));
        cut.truncate(cut.len() - 8);
        assert!(!is_whole(ImageFormat::Jpeg, &cut));
    }

    #[test]
    fn text_is_no_picture() {
        assert!(prepare(b"<html>".to_vec()).unwrap_err().contains("found something else"));
    }
}
