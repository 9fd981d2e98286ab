//! Whether a picture is complete. A truncated one would be charged like any other, and decoding every picture
//! takes longer than sending it. Data after the end is ignored; cameras append whole videos there.

use image::ImageFormat;

/// Whether a picture's end is present.
pub(super) fn is_whole(format: ImageFormat, bytes: &[u8]) -> bool {
    let end = match format {
        ImageFormat::Png => png_ends(bytes),
        ImageFormat::Jpeg => jpeg_ends(bytes),
        ImageFormat::Gif => gif_ends(bytes),
        ImageFormat::WebP => webp_ends(bytes),
        _ => Some(()),
    };
    end.is_some()
}

/// Walks the chunks: length, type, content, checksum.
fn png_ends(bytes: &[u8]) -> Option<()> {
    let mut at = 8_usize;
    loop {
        let length = u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?);
        if bytes.get(at + 4..at + 8)? == b"IEND" {
            return Some(());
        }
        at = at.checked_add(12)?.checked_add(usize::try_from(length).ok()?)?;
    }
}

/// Walks the markers, so that the end of a thumbnail in the header is not taken for the picture's.
fn jpeg_ends(bytes: &[u8]) -> Option<()> {
    let mut at = 2;
    loop {
        let (first, marker) = (*bytes.get(at)?, *bytes.get(at + 1)?);
        if first != 0xff {
            at += 1; // stray bytes, which readers pass over
            continue;
        }
        match marker {
            0xd9 => return Some(()),
            0xff => at += 1, // padding
            0x01 | 0xd0..=0xd8 => at += 2,
            _ => {
                let length = bytes.get(at + 2..at + 4)?;
                at += 2 + usize::from(u16::from_be_bytes(length.try_into().ok()?));
                if marker == 0xda {
                    // Entropy-coded data: a marker is a byte after 0xff that is neither stuffing nor a
                    // restart.
                    let coded = bytes.get(at..)?;
                    at += coded.windows(2).position(
                        |pair| matches!(pair, [0xff, next] if !matches!(next, 0x00 | 0xd0..=0xd7 | 0xff)),
                    )?;
                }
            }
        }
    }
}

/// Walks the blocks, so that a byte of pixel data is not taken for the end.
fn gif_ends(bytes: &[u8]) -> Option<()> {
    /// Bytes of a colour table, by the flags that announce it.
    fn colours(flags: u8) -> usize {
        if flags & 0x80 == 0 { 0 } else { 6 << (flags & 7) }
    }
    let mut at = 13 + colours(*bytes.get(10)?);
    loop {
        match *bytes.get(at)? {
            0x3b => return Some(()),
            0x21 => at = after_sub_blocks(bytes, at + 2)?,
            // An image: position and size, colour table, initial code size, pixels.
            0x2c => at = after_sub_blocks(bytes, at + 10 + colours(*bytes.get(at + 9)?) + 1)?,
            _ => at += 1, // stray bytes, which readers pass over
        }
    }
}

fn after_sub_blocks(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            length => at += 1 + usize::from(length),
        }
    }
}

/// The length is in the header.
fn webp_ends(bytes: &[u8]) -> Option<()> {
    let length = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?);
    (bytes.len() as u64 >= u64::from(length) + 8).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::image::prepare::tests::{drawing, encoded};

    const FORMATS: [ImageFormat; 4] =
        [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::WebP];

    #[test]
    fn whatever_stands_behind_the_end() {
        for format in FORMATS {
            let whole = encoded(&drawing(40, 30), format);
            assert!(is_whole(format, &whole), "{format:?}");
            for behind in [vec![0; 5], vec![0; 40_000], vec![0x3b; 3], vec![0xff; 9], b"a text".repeat(99)] {
                assert!(is_whole(format, &[whole.clone(), behind].concat()), "{format:?}");
            }
        }
    }

    #[test]
    fn every_cut_is_seen() {
        for format in FORMATS {
            let whole = encoded(&drawing(40, 30), format);
            // Readers need neither a PNG's last checksum nor the padding byte of a WebP.
            let needed = whole.len() - if format == ImageFormat::Png { 4 } else { 0 };
            for length in 0..needed {
                assert!(!is_whole(format, &whole[..length]), "{format:?}, {length} of {needed} bytes");
            }
        }
    }

    #[test]
    fn a_thumbnails_end_is_not_the_pictures() {
        let mut cut = encoded(&drawing(40, 30), ImageFormat::Jpeg);
        let thumbnail = [&[0xff, 0xe1, 0x00, 0x06], &[0xff, 0xd8, 0xff, 0xd9][..]].concat();
        cut.splice(2..2, thumbnail);
        assert!(is_whole(ImageFormat::Jpeg, &cut));
        cut.truncate(cut.len() - 8);
        assert!(!is_whole(ImageFormat::Jpeg, &cut));
    }
}
