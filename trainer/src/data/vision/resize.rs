//! Resizing of pictures, bit-identical to Pillow and therefore to transformers: two passes, each rounded to bytes, with
//! fixed-point weights. Other libraries differ by 1/255 in some pixels, which a deep network turns into differences of features
//! far above its own rounding.

use image::RgbImage;

/// Fractional bits of a weight.
const PRECISION: u32 = 22;

/// How a new pixel is interpolated from old ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filter {
    /// A triangle of one pixel to each side.
    Bilinear,
    /// Keys's curve with a = −1/2, two pixels to each side.
    Bicubic,
}

impl Filter {
    /// Pixels to each side, when not shrinking.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn at(self, distance: f64) -> f64 {
        const A: f64 = -0.5;
        let x = distance.abs();
        match self {
            Self::Bilinear if x < 1.0 => 1.0 - x,
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }
}

/// The picture as `size` × `size` pixels.
pub(super) fn resized(picture: &RgbImage, size: u32, filter: Filter) -> RgbImage {
    let (width, height) = picture.dimensions();
    let shrinks_by = |side: u32| i64::from(side) - i64::from(size);
    // Found by trying Pillow 13: columns come first in pictures that lose more than twice as many rows as columns.
    if shrinks_by(height) > 0 && shrinks_by(height) > 2 * shrinks_by(width) {
        return with_width(&with_height(picture, size, filter), size, filter);
    }
    with_height(&with_width(picture, size, filter), size, filter)
}

fn with_width(picture: &RgbImage, size: u32, filter: Filter) -> RgbImage {
    if picture.width() == size {
        return picture.clone();
    }
    let mixes = mixes(picture.width(), size, filter);
    RgbImage::from_fn(size, picture.height(), |x, y| {
        mixed(&mixes[x as usize], |place| picture.get_pixel(place, y).0)
    })
}

fn with_height(picture: &RgbImage, size: u32, filter: Filter) -> RgbImage {
    if picture.height() == size {
        return picture.clone();
    }
    let mixes = mixes(picture.height(), size, filter);
    RgbImage::from_fn(picture.width(), size, |x, y| {
        mixed(&mixes[y as usize], |place| picture.get_pixel(x, place).0)
    })
}

/// The old pixels that a new one is computed from: the first index, and the weights from there on.
struct Mix {
    first: u32,
    weights: Vec<i64>,
}

fn mixes(old: u32, new: u32, filter: Filter) -> Vec<Mix> {
    let scale = f64::from(old) / f64::from(new);
    let stretch = scale.max(1.0); // when shrinking, all old pixels contribute
    let support = filter.support() * stretch;
    let mix = |place: u32| {
        let centre = (f64::from(place) + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as u32;
        let end = ((centre + support + 0.5) as u32).min(old);
        let weights: Vec<f64> =
            (first..end).map(|x| filter.at((f64::from(x) - centre + 0.5) / stretch)).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: &f64| (weight / sum * f64::from(1 << PRECISION)).round() as i64;
        Mix { first, weights: weights.iter().map(fixed).collect() }
    };
    (0..new).map(mix).collect()
}

fn mixed(mix: &Mix, old: impl Fn(u32) -> [u8; 3]) -> image::Rgb<u8> {
    let mut sums = [1 << (PRECISION - 1); 3];
    for (place, weight) in (mix.first..).zip(&mix.weights) {
        for (sum, colour) in sums.iter_mut().zip(old(place)) {
            *sum += i64::from(colour) * weight;
        }
    }
    image::Rgb(sums.map(|sum| (sum >> PRECISION).clamp(0, 255) as u8))
}
