//! Pictures of 128×128 pixels in fifteen colours, without blending: identical on every machine.
//!
//! Shapes are large and colours far apart, so that a vision model with patches of 16 or 32 pixels can see
//! what a question asks about.

use crate::font;
use std::borrow::Cow;

/// Width and height of every picture.
pub(crate) const SIZE: i32 = 128;

/// The colours of all pictures; the discriminant is the palette index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Colour {
    White,
    Paper,
    Line,
    Black,
    Red,
    Blue,
    Green,
    Yellow,
    Purple,
    Orange,
    Teal,
    Brown,
    Grey,
    Meadow,
    Water,
}

/// Red, green, blue of each colour, by palette index.
pub(crate) const PALETTE: [[u8; 3]; 15] = [
    [255, 255, 255],
    [246, 240, 222],
    [205, 198, 180],
    [30, 30, 30],
    [214, 36, 36],
    [32, 80, 216],
    [24, 150, 64],
    [250, 206, 16],
    [142, 48, 172],
    [240, 128, 16],
    [0, 150, 160],
    [122, 74, 34],
    [128, 128, 128],
    [226, 240, 214],
    [216, 232, 246],
];

/// A picture being drawn. Anything outside it is clipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Canvas {
    dots: Vec<u8>,
}

impl Canvas {
    /// A picture of one colour.
    pub(crate) fn new(background: Colour) -> Self {
        Self { dots: vec![background as u8; (SIZE * SIZE) as usize] }
    }

    fn dot(&mut self, x: i32, y: i32, colour: Colour) {
        if (0..SIZE).contains(&x) && (0..SIZE).contains(&y) {
            self.dots[(y * SIZE + x) as usize] = colour as u8;
        }
    }

    /// A filled rectangle with its upper left corner at (`x`, `y`).
    pub(crate) fn rectangle(&mut self, x: i32, y: i32, width: i32, height: i32, colour: Colour) {
        for row in y..y + height {
            for column in x..x + width {
                self.dot(column, row, colour);
            }
        }
    }

    /// A filled circle.
    pub(crate) fn circle(&mut self, x: i32, y: i32, radius: i32, colour: Colour) {
        for row in -radius..=radius {
            for column in -radius..=radius {
                if column * column + row * row <= radius * (radius + 1) {
                    self.dot(x + column, y + row, colour);
                }
            }
        }
    }

    /// A filled triangle.
    pub(crate) fn triangle(&mut self, corners: [(i32, i32); 3], colour: Colour) {
        let side = |(ax, ay): (i32, i32), (bx, by): (i32, i32), x: i32, y: i32| {
            (bx - ax) * (y - ay) - (by - ay) * (x - ax)
        };
        let [a, b, c] = corners;
        for y in a.1.min(b.1).min(c.1)..=a.1.max(b.1).max(c.1) {
            for x in a.0.min(b.0).min(c.0)..=a.0.max(b.0).max(c.0) {
                let sides = [side(a, b, x, y), side(b, c, x, y), side(c, a, x, y)];
                if sides.iter().all(|&side| side >= 0) || sides.iter().all(|&side| side <= 0) {
                    self.dot(x, y, colour);
                }
            }
        }
    }

    /// A line drawn with a square brush of `width` pixels.
    pub(crate) fn line(&mut self, from: (i32, i32), to: (i32, i32), width: i32, colour: Colour) {
        let steps = (to.0 - from.0).abs().max((to.1 - from.1).abs()).max(1);
        for step in 0..=steps {
            let x = from.0 + (to.0 - from.0) * step / steps;
            let y = from.1 + (to.1 - from.1) * step / steps;
            self.rectangle(x - width / 2, y - width / 2, width, width, colour);
        }
    }

    /// Text with its upper left corner at (`x`, `y`).
    pub(crate) fn text(&mut self, x: i32, y: i32, text: &str, colour: Colour) {
        for (at, character) in (0..).zip(text.chars()) {
            for (row, bits) in (0..).zip(font::rows(character)) {
                for column in 0..5 {
                    if bits >> (4 - column) & 1 == 1 {
                        self.dot(x + at * font::ADVANCE + column, y + row, colour);
                    }
                }
            }
        }
    }

    /// Text with its middle at (`x`, `y`).
    pub(crate) fn text_around(&mut self, x: i32, y: i32, text: &str, colour: Colour) {
        let width = text.chars().count() as i32 * font::ADVANCE - 1;
        self.text(x - width / 2, y - font::HEIGHT / 2, text, colour);
    }

    /// The picture as a PNG file with a palette, two pixels per byte.
    ///
    /// # Errors
    /// If the encoder fails.
    pub(crate) fn png(&self) -> Result<Vec<u8>, png::EncodingError> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, SIZE as u32, SIZE as u32);
        encoder.set_color(png::ColorType::Indexed);
        encoder.set_depth(png::BitDepth::Four);
        encoder.set_palette(Cow::from(PALETTE.as_flattened()));
        encoder.set_compression(png::Compression::High);
        let mut writer = encoder.write_header()?;
        let packed: Vec<u8> = self.dots.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        writer.write_image_data(&packed)?;
        writer.finish()?;
        Ok(bytes)
    }
}
