//! Pictures of a report as data URIs, each only once, and scaled down if they are large.

use crate::request::image::locate;
use base64::Engine as _;
use image::codecs::jpeg::JpegEncoder;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbaImage};
use schemas::provenance::sha256_hex;
use std::collections::HashMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};

/// Maximum total size of the pictures, so that the file still opens on a phone.
pub const MOST_PICTURE_BYTES: usize = 24 << 20;
/// Smaller pictures are embedded unchanged.
const SMALL_BYTES: usize = 16 << 10;
/// Edge to which larger pictures are scaled down; the page never shows them larger.
const EDGE: u32 = 360;

/// Why a card has no picture although its problem has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Without {
    /// The file is missing or is no picture.
    Unreadable,
    /// [`MOST_PICTURE_BYTES`] was reached.
    Full,
}

/// The pictures of a report.
pub(super) struct Pictures {
    root: PathBuf,
    pub(super) uris: Vec<String>,
    bytes: usize,
    most: usize,
    by_content: HashMap<String, usize>,
    pub(super) left_out: usize,
    pub(super) unreadable: usize,
}

impl Pictures {
    pub(super) fn new(root: &Path, most: usize) -> Self {
        let (uris, by_content) = (Vec::new(), HashMap::new());
        Self { root: root.to_path_buf(), uris, bytes: 0, most, by_content, left_out: 0, unreadable: 0 }
    }

    /// Index of a picture among [`Pictures::uris`].
    pub(super) fn add(&mut self, path: &str) -> Result<usize, Without> {
        let found = locate(&self.root, path).ok().and_then(|file| std::fs::read(file).ok());
        let Some(bytes) = found else {
            self.unreadable += 1;
            return Err(Without::Unreadable);
        };
        let digest = sha256_hex(&bytes);
        if let Some(index) = self.by_content.get(&digest) {
            return Ok(*index);
        }
        let Some((media_type, bytes)) = small(bytes) else {
            self.unreadable += 1;
            return Err(Without::Unreadable);
        };
        let uri =
            format!("data:{media_type};base64,{}", base64::engine::general_purpose::STANDARD.encode(bytes));
        if self.bytes + uri.len() > self.most {
            self.left_out += 1;
            return Err(Without::Full);
        }
        self.bytes += uri.len();
        self.uris.push(uri);
        self.by_content.insert(digest, self.uris.len() - 1);
        Ok(self.uris.len() - 1)
    }
}

/// The picture unchanged if it is small, else in the format with the fewest bytes.
fn small(bytes: Vec<u8>) -> Option<(&'static str, Vec<u8>)> {
    let format = image::guess_format(&bytes).ok()?;
    let media_type = match format {
        ImageFormat::Png => "image/png",
        ImageFormat::Jpeg => "image/jpeg",
        ImageFormat::Gif => "image/gif",
        ImageFormat::WebP => "image/webp",
        _ => return None,
    };
    let mut decoder = ImageReader::with_format(Cursor::new(&bytes), format).into_decoder().ok()?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).ok()?;
    if bytes.len() <= SMALL_BYTES {
        return Some((media_type, bytes));
    }
    if picture.width().max(picture.height()) > EDGE {
        picture = picture.resize(EDGE, EDGE, image::imageops::FilterType::Triangle);
    }
    picture.apply_orientation(orientation);
    let mut png = Vec::new();
    picture.write_to(&mut Cursor::new(&mut png), ImageFormat::Png).ok()?;
    let mut jpeg = Vec::new();
    on_white(&picture).write_with_encoder(JpegEncoder::new_with_quality(&mut jpeg, 82)).ok()?;
    [(media_type, bytes), ("image/png", png), ("image/jpeg", jpeg)]
        .into_iter()
        .min_by_key(|(_, bytes)| bytes.len())
}

/// JPEG has no transparency, so the background is white.
fn on_white(picture: &DynamicImage) -> DynamicImage {
    let mut white = RgbaImage::from_pixel(picture.width(), picture.height(), image::Rgba([255; 4]));
    image::imageops::overlay(&mut white, &picture.to_rgba8(), 0, 0);
    DynamicImage::ImageRgba8(white).to_rgb8().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: u32, height: u32) -> Vec<u8> {
        // Noise, so that it does not compress.
        let picture = RgbaImage::from_fn(width, height, |x, y| {
            let mixed = (x * 2_654_435 + y * 40_503).wrapping_mul(2_246_822_519).to_le_bytes();
            image::Rgba([mixed[0], mixed[1], mixed[2], 255])
        });
        let mut bytes = Vec::new();
        picture.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).unwrap();
        bytes
    }

    #[test]
    fn the_same_picture_is_there_once_and_large_ones_shrink() {
        let folder = tempfile::TempDir::new().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        write("a.png", &png(4, 4));
        write("b.png", &png(4, 4));
        write("large.png", &png(900, 300));
        write("no.png", b"<svg onload=alert(1)>");
        let mut pictures = Pictures::new(folder.path(), 300_000);
        assert_eq!((pictures.add("a.png"), pictures.add("b.png")), (Ok(0), Ok(0)));
        assert_eq!(pictures.add("large.png"), Ok(1));
        assert!(pictures.uris[1].len() < 200_000, "{}", pictures.uris[1].len());
        assert_eq!(pictures.add("no.png"), Err(Without::Unreadable));
        assert_eq!(pictures.add("missing.png"), Err(Without::Unreadable));
        assert_eq!(pictures.unreadable, 2);
        let mut pictures = Pictures::new(folder.path(), 100);
        assert_eq!((pictures.add("large.png"), pictures.left_out), (Err(Without::Full), 1));
    }
}
