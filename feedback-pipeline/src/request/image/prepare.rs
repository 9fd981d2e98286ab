//! Converts a picture to a form that the service accepts: type detected by content, turned upright, limited
//! in size.

use super::whole::is_whole;
use crate::teacher::{Picture, PictureContent};
use bytes::Bytes;
use fast_image_resize::images::Image as Pixels;
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::codecs::jpeg::JpegEncoder;
use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, ImageDecoder, ImageFormat, ImageReader, RgbImage, RgbaImage};
use schemas::settings::Provider;
use std::io::{Cursor, Read, Write};
use std::path::Path;

/// Maximum bytes of a picture; base64 turns them into 5 MB.
const MAX_BYTES: usize = 3_700_000;
/// Maximum bytes of a picture file; larger ones are refused.
const LARGEST_FILE: u64 = 256 << 20;
/// JPEG quality, followed by the qualities tried if the result has too many bytes.
const QUALITIES: [u8; 3] = [90, 80, 70];
/// A converted picture of up to this many bytes stays in memory; a larger one is written to a temporary file.
const FEW_BYTES: usize = 16 << 10;

/// Limits of a service on pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLimits {
    /// Maximum pixels of the longer edge; larger pictures are scaled down.
    pub max_edge: u32,
    /// Maximum bytes, before base64.
    pub max_bytes: usize,
    /// Whether GIFs are accepted; otherwise the first frame is sent as PNG.
    pub takes_gif: bool,
}

impl ImageLimits {
    /// The limits of a provider's services, with edges of at most `max_edge` pixels.
    pub fn new(provider: Provider, max_edge: u32) -> Self {
        // Servers compatible with OpenAI's API rarely accept GIF.
        Self { max_edge: max_edge.max(1), max_bytes: MAX_BYTES, takes_gif: provider == Provider::Anthropic }
    }
}

/// The picture in a file. If it is within the limits, its bytes are unchanged.
///
/// # Errors
/// What is wrong with the picture.
pub(super) fn prepare(path: &Path, limits: ImageLimits) -> Result<Picture, String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(format!("expected at most {} MB, found more", LARGEST_FILE >> 20));
    }
    Ok(match adapt(&bytes, limits)? {
        Adapted::Untouched { media_type, size } => {
            Picture::new(media_type, &bytes, size, PictureContent::Dataset(path.to_path_buf()))
        }
        Adapted::Changed { media_type, size, bytes } => {
            let bytes = Bytes::from(bytes);
            Picture::new(media_type, &bytes, size, keep(bytes.clone()))
        }
    })
}

/// Stores large converted pictures in a temporary file; if that fails, they stay in memory.
fn keep(bytes: Bytes) -> PictureContent {
    let to_file = || {
        let mut file = tempfile::Builder::new().prefix("collect-feedback-").tempfile()?;
        file.write_all(&bytes)?;
        Ok::<_, std::io::Error>(file.into_temp_path())
    };
    match bytes.len() {
        0..=FEW_BYTES => PictureContent::Memory(bytes),
        _ => to_file().map_or_else(|_| PictureContent::Memory(bytes.clone()), PictureContent::Temporary),
    }
}

/// The result of preparing a picture.
#[derive(Debug)]
enum Adapted {
    Untouched { media_type: &'static str, size: (u32, u32) },
    Changed { media_type: &'static str, size: (u32, u32), bytes: Vec<u8> },
}

fn adapt(bytes: &[u8], limits: ImageLimits) -> Result<Adapted, String> {
    let format = image::guess_format(bytes)
        .map_err(|_| "expected png, jpeg, gif or webp, found something else".to_owned())?;
    let media_type =
        media_type(format).ok_or_else(|| format!("expected png, jpeg, gif or webp, found {format:?}"))?;
    let mut decoder =
        ImageReader::with_format(Cursor::new(bytes), format).into_decoder().map_err(|e| e.to_string())?;
    if !is_whole(format, bytes) {
        return Err("it is cut off".to_owned());
    }
    let size = decoder.dimensions();
    // Unreadable metadata is treated as upright.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let has_size = size.0.max(size.1) <= limits.max_edge && bytes.len() <= limits.max_bytes;
    let has_form =
        orientation == Orientation::NoTransforms && (limits.takes_gif || format != ImageFormat::Gif);
    if has_size && has_form {
        return Ok(Adapted::Untouched { media_type, size });
    }
    let decoded = plain(DynamicImage::from_decoder(decoder).map_err(|e| e.to_string())?);
    let is_photograph = match format {
        ImageFormat::Jpeg => true,
        ImageFormat::WebP => is_lossy_webp(bytes) && !decoded.color().has_alpha(),
        _ => false,
    };
    let mut edge = limits.max_edge;
    loop {
        let mut picture = sized_down(&decoded, edge)?;
        picture.apply_orientation(orientation);
        let size = (picture.width(), picture.height());
        if !is_photograph {
            let mut bytes = Vec::new();
            picture.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).map_err(|e| e.to_string())?;
            if bytes.len() <= limits.max_bytes {
                return Ok(Adapted::Changed { media_type: "image/png", size, bytes });
            }
        }
        // A photograph is encoded as JPEG, regardless of its original format: that takes far fewer bytes.
        let picture = opaque(picture);
        for quality in QUALITIES {
            let mut bytes = Vec::new();
            let encoder = JpegEncoder::new_with_quality(&mut bytes, quality);
            picture.write_with_encoder(encoder).map_err(|e| e.to_string())?;
            if bytes.len() <= limits.max_bytes {
                return Ok(Adapted::Changed { media_type: "image/jpeg", size, bytes });
            }
        }
        if edge <= 16 {
            return Err(format!("it does not fit into {} bytes", limits.max_bytes));
        }
        edge = edge.min(size.0.max(size.1)) / 4 * 3;
    }
}

/// The same picture with 8 bits a channel, in grey, RGB or RGBA.
fn plain(picture: DynamicImage) -> DynamicImage {
    match picture {
        DynamicImage::ImageLuma8(_) | DynamicImage::ImageRgb8(_) | DynamicImage::ImageRgba8(_) => picture,
        DynamicImage::ImageLuma16(_) => picture.into_luma8().into(),
        other if other.color().has_alpha() => other.into_rgba8().into(),
        other => other.into_rgb8().into(),
    }
}

/// The same picture with its longer edge of at most `edge` pixels.
fn sized_down(picture: &DynamicImage, edge: u32) -> Result<DynamicImage, String> {
    let (width, height) = (picture.width(), picture.height());
    let longer = width.max(height);
    if longer <= edge {
        return Ok(picture.clone());
    }
    let scaled = |length: u32| {
        let scaled = (u64::from(length) * u64::from(edge) + u64::from(longer) / 2) / u64::from(longer);
        u32::try_from(scaled).unwrap_or(edge).max(1)
    };
    let (new_width, new_height) = (scaled(width), scaled(height));
    let resized = |pixels: &[u8], kind: PixelType| {
        let from = fast_image_resize::images::ImageRef::new(width, height, pixels, kind)
            .map_err(|e| e.to_string())?;
        let mut to = Pixels::new(new_width, new_height, kind);
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
        Resizer::new().resize(&from, &mut to, &options).map_err(|e| e.to_string())?;
        Ok::<_, String>(to.into_vec())
    };
    let smaller: Option<DynamicImage> = match picture {
        DynamicImage::ImageLuma8(picture) => {
            let pixels = resized(picture.as_raw(), PixelType::U8)?;
            GrayImage::from_raw(new_width, new_height, pixels).map(Into::into)
        }
        DynamicImage::ImageRgba8(picture) => {
            let pixels = resized(picture.as_raw(), PixelType::U8x4)?;
            RgbaImage::from_raw(new_width, new_height, pixels).map(Into::into)
        }
        DynamicImage::ImageRgb8(picture) => {
            let pixels = resized(picture.as_raw(), PixelType::U8x3)?;
            RgbImage::from_raw(new_width, new_height, pixels).map(Into::into)
        }
        _ => None, // `plain` returns no other formats
    };
    smaller.ok_or_else(|| "it cannot be sized down".to_owned())
}

/// A picture without transparency, on a white background.
fn opaque(picture: DynamicImage) -> DynamicImage {
    let DynamicImage::ImageRgba8(picture) = picture else { return picture };
    let mut page = RgbImage::new(picture.width(), picture.height());
    for (to, from) in page.pixels_mut().zip(picture.pixels()) {
        let [red, green, blue, alpha] = from.0.map(u32::from);
        to.0 = [red, green, blue].map(|part| ((part * alpha + 255 * (255 - alpha) + 127) / 255) as u8);
    }
    page.into()
}

/// Whether a WebP uses the lossy coding of photographs (`VP8 `), not the lossless one (`VP8L`); animations
/// count as lossless.
fn is_lossy_webp(bytes: &[u8]) -> bool {
    let mut at = 12_usize;
    while let Some(head) = at.checked_add(8).and_then(|end| bytes.get(at..end)) {
        match head.split_at(4) {
            (b"VP8 ", _) => return true,
            (b"VP8L" | b"ANIM", _) => return false,
            (_, length) => {
                let length = length.try_into().map_or(u32::MAX, u32::from_le_bytes) as usize;
                at = at.saturating_add(8).saturating_add(length).saturating_add(length % 2);
            }
        }
    }
    false
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use image::{GenericImageView, Rgb};

    const LIMITS: ImageLimits = ImageLimits { max_edge: 2_048, max_bytes: MAX_BYTES, takes_gif: true };
    const RED: Rgb<u8> = Rgb([220, 20, 20]);
    const BLUE: Rgb<u8> = Rgb([20, 20, 220]);

    /// A picture whose top left quarter is red, the rest blue.
    pub(in crate::request::image) fn drawing(width: u32, height: u32) -> DynamicImage {
        RgbImage::from_fn(width, height, |x, y| if x < width / 2 && y < height / 2 { RED } else { BLUE })
            .into()
    }

    fn noise(width: u32, height: u32) -> DynamicImage {
        let mut state = 1_u32;
        RgbImage::from_fn(width, height, |_, _| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let [a, b, c, _] = state.to_be_bytes();
            Rgb([a, b, c])
        })
        .into()
    }

    pub(in crate::request::image) fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Vec::new();
        picture.write_to(&mut Cursor::new(&mut bytes), format).unwrap();
        bytes
    }

    /// An EXIF block that contains only the orientation.
    fn exif(orientation: u8) -> Vec<u8> {
        let mut block = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
        block.extend([orientation, 0, 0, 0, 0, 0, 0]);
        block
    }

    fn turned_jpeg(picture: &DynamicImage, orientation: u8) -> Vec<u8> {
        let mut bytes = encoded(picture, ImageFormat::Jpeg);
        let block = [b"Exif\0\0".to_vec(), exif(orientation)].concat();
        let length = (block.len() as u16 + 2).to_be_bytes();
        bytes.splice(2..2, [vec![0xff, 0xe1], length.to_vec(), block].concat());
        bytes
    }

    fn changed(bytes: &[u8], limits: ImageLimits) -> (&'static str, (u32, u32), DynamicImage) {
        match adapt(bytes, limits).unwrap() {
            Adapted::Changed { media_type, size, bytes } => {
                assert!(bytes.len() <= limits.max_bytes);
                let picture = image::load_from_memory(&bytes).unwrap();
                assert_eq!(picture.dimensions(), size);
                (media_type, size, picture)
            }
            untouched => panic!("expected another picture, found {untouched:?}"),
        }
    }

    fn untouched(bytes: &[u8], limits: ImageLimits) -> (&'static str, (u32, u32)) {
        match adapt(bytes, limits).unwrap() {
            Adapted::Untouched { media_type, size } => (media_type, size),
            changed => panic!("expected the same bytes, found {changed:?}"),
        }
    }

    fn is_red(picture: &DynamicImage, x: u32, y: u32) -> bool {
        let [red, _, blue, _] = picture.get_pixel(x, y).0;
        red > 128 && blue < 128
    }

    #[test]
    fn pictures_that_fit_are_sent_as_they_are() {
        for (format, media_type) in [
            (ImageFormat::Png, "image/png"),
            (ImageFormat::Jpeg, "image/jpeg"),
            (ImageFormat::Gif, "image/gif"),
            (ImageFormat::WebP, "image/webp"),
        ] {
            assert_eq!(untouched(&encoded(&drawing(20, 10), format), LIMITS), (media_type, (20, 10)));
        }
        assert_eq!(untouched(&turned_jpeg(&drawing(20, 10), 1), LIMITS).1, (20, 10));
        assert_eq!(untouched(&encoded(&drawing(2_048, 4), ImageFormat::Png), LIMITS).1, (2_048, 4));
    }

    #[test]
    fn the_longer_edge_is_brought_to_the_limit() {
        for (from, to) in
            [((3_000, 2_000), (2_048, 1_365)), ((30, 9_000), (7, 2_048)), ((9_000, 1), (2_048, 1))]
        {
            let (media_type, size, picture) =
                changed(&encoded(&drawing(from.0, from.1), ImageFormat::Png), LIMITS);
            assert_eq!((media_type, size), ("image/png", to), "a drawing stays one");
            assert!(from.1 == 1 || (is_red(&picture, 0, 0) && !is_red(&picture, size.0 - 1, size.1 - 1)));
        }
        let photograph = encoded(&drawing(3_000, 2_000), ImageFormat::Jpeg);
        let (media_type, size, _) = changed(&photograph, LIMITS);
        assert_eq!((media_type, size), ("image/jpeg", (2_048, 1_365)), "a photograph stays one");
        assert_eq!(changed(&photograph, ImageLimits { max_edge: 300, ..LIMITS }).1, (300, 200));
    }

    #[test]
    fn pictures_are_turned_upright_whether_sized_down_or_not() {
        let limits = ImageLimits { max_edge: 200, ..LIMITS };
        // Where the red quarter of the stored picture ends up, by the EXIF standard.
        let right_and_bottom = [
            (1, false, false),
            (2, true, false),
            (3, true, true),
            (4, false, true),
            (5, false, false),
            (6, true, false),
            (7, true, true),
            (8, false, true),
        ];
        for (orientation, right, bottom) in right_and_bottom {
            for (stored, longer) in [((80, 40), 80), ((240, 120), 200)] {
                let bytes = turned_jpeg(&drawing(stored.0, stored.1), orientation);
                if orientation == 1 && longer == 80 {
                    continue;
                }
                let (media_type, (width, height), picture) = changed(&bytes, limits);
                let is_upright = if orientation < 5 { (longer, longer / 2) } else { (longer / 2, longer) };
                assert_eq!((media_type, width, height), ("image/jpeg", is_upright.0, is_upright.1));
                for (x, y) in [(false, false), (true, false), (false, true), (true, true)] {
                    let at = |far: bool, length: u32| if far { length - length / 8 } else { length / 8 };
                    let found = is_red(&picture, at(x, width), at(y, height));
                    assert_eq!(
                        found,
                        (x, y) == (right, bottom),
                        "orientation {orientation}, {stored:?}, {x} {y}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_png_may_be_turned_too() {
        let mut bytes = encoded(&drawing(80, 40), ImageFormat::Png);
        let chunk = [b"eXIf".to_vec(), exif(6)].concat();
        let sum = !chunk.iter().fold(u32::MAX, |sum, byte| {
            (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 * (sum & 1)))
        });
        let length = (chunk.len() as u32 - 4).to_be_bytes();
        let behind_head = 8 + 25;
        bytes.splice(behind_head..behind_head, [length.to_vec(), chunk, sum.to_be_bytes().to_vec()].concat());
        let (media_type, size, picture) = changed(&bytes, LIMITS);
        assert_eq!((media_type, size), ("image/png", (40, 80)));
        assert!(is_red(&picture, 39, 0) && !is_red(&picture, 0, 0));
    }

    #[test]
    fn a_gif_is_sent_as_png_where_none_is_taken() {
        let openai = ImageLimits::new(Provider::OpenAi, 2_048);
        let mut moving = Vec::new();
        {
            let mut encoder = image::codecs::gif::GifEncoder::new(&mut moving);
            let frames =
                [drawing(40, 30), noise(40, 30)].map(|picture| image::Frame::new(picture.to_rgba8()));
            encoder.encode_frames(frames).unwrap();
        }
        for bytes in [encoded(&drawing(40, 30), ImageFormat::Gif), moving] {
            assert_eq!(untouched(&bytes, ImageLimits::new(Provider::Anthropic, 2_048)).0, "image/gif");
            let (media_type, size, picture) = changed(&bytes, openai);
            assert_eq!((media_type, size), ("image/png", (40, 30)));
            assert!(is_red(&picture, 3, 3) && !is_red(&picture, 35, 25), "the first frame");
        }
    }

    #[test]
    fn many_bytes_become_few() {
        let tight = ImageLimits { max_bytes: 60_000, ..LIMITS };
        let stored_as_png = encoded(&noise(400, 300), ImageFormat::Png);
        assert!(stored_as_png.len() > tight.max_bytes);
        let (media_type, size, _) = changed(&stored_as_png, tight);
        assert_eq!(media_type, "image/jpeg");
        assert!(size.0 <= 400 && size.0 >= 150, "{size:?}");
        let (media_type, ..) = changed(&encoded(&noise(400, 300), ImageFormat::Jpeg), tight);
        assert_eq!(media_type, "image/jpeg");
    }

    #[test]
    fn all_kinds_of_colours() {
        let small = ImageLimits { max_edge: 20, ..LIMITS };
        let drawing = drawing(40, 40);
        let kinds: [DynamicImage; 7] = [
            drawing.to_luma8().into(),
            drawing.to_luma_alpha8().into(),
            drawing.to_rgba8().into(),
            drawing.to_luma16().into(),
            drawing.to_luma_alpha16().into(),
            drawing.to_rgb16().into(),
            drawing.to_rgba16().into(),
        ];
        for kind in kinds {
            let (media_type, size, picture) = changed(&encoded(&kind, ImageFormat::Png), small);
            assert_eq!((media_type, size), ("image/png", (20, 20)), "{:?}", kind.color());
            let expected = kind.to_rgb8().get_pixel(2, 2).0;
            let found = picture.to_rgb8().get_pixel(1, 1).0;
            let is_close = expected.iter().zip(found).all(|(a, b)| a.abs_diff(b) < 4);
            assert!(is_close, "{:?}: expected {expected:?}, found {found:?}", kind.color());
        }
    }

    #[test]
    fn what_shines_through_becomes_white() {
        let glass = RgbaImage::from_pixel(2, 2, image::Rgba([0, 0, 0, 0]));
        assert_eq!(opaque(glass.into()).to_rgb8().get_pixel(0, 0).0, [255; 3]);
        let shade = RgbaImage::from_pixel(2, 2, image::Rgba([0, 100, 255, 128]));
        assert_eq!(opaque(shade.into()).to_rgb8().get_pixel(1, 1).0, [127, 177, 255]);
    }

    #[test]
    fn what_is_no_picture_or_not_whole_is_told() {
        let message = |bytes: &[u8]| adapt(bytes, LIMITS).unwrap_err();
        assert!(message(b"<html>").contains("found something else"));
        let whole = encoded(&drawing(40, 30), ImageFormat::Jpeg);
        assert_eq!(message(&whole[..whole.len() - 8]), "it is cut off");
    }

    #[test]
    fn large_changed_pictures_lie_in_files_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jpg");
        std::fs::write(&path, turned_jpeg(&noise(600, 400), 6)).unwrap();
        let picture = prepare(&path, LIMITS).unwrap();
        assert!(format!("{picture:?}").contains("Temporary"), "{picture:?}");
        std::fs::write(&path, turned_jpeg(&drawing(60, 40), 6)).unwrap();
        let picture = prepare(&path, LIMITS).unwrap();
        assert!(format!("{picture:?}").contains("Memory"), "{picture:?}");
    }
}
