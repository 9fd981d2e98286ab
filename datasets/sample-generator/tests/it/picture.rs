//! Reads pictures only by their colours, without knowing how they were drawn.

use crate::folder;
use schemas::Problem;
use std::fs::File;
use std::io::BufReader;

/// Red, green, blue.
pub(crate) type Rgb = [u8; 3];

/// The colours named in questions.
pub(crate) fn rgb(name: &str) -> Rgb {
    match name {
        "red" => [214, 36, 36],
        "blue" => [32, 80, 216],
        "green" => [24, 150, 64],
        "yellow" => [250, 206, 16],
        "purple" => [142, 48, 172],
        "orange" => [240, 128, 16],
        "teal" => [0, 150, 160],
        "brown" => [122, 74, 34],
        _ => panic!("no such colour: {name}"),
    }
}

/// A picture, decoded.
pub(crate) struct Picture {
    dots: Vec<Rgb>,
    pub(crate) width: usize,
    pub(crate) height: usize,
}

impl Picture {
    pub(crate) fn of(problem: &Problem) -> Self {
        let path = folder().join(problem.image.as_ref().unwrap());
        let mut decoder = png::Decoder::new(BufReader::new(File::open(path).unwrap()));
        decoder.set_transformations(png::Transformations::EXPAND);
        let mut reader = decoder.read_info().unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut bytes).unwrap();
        assert_eq!(info.color_type, png::ColorType::Rgb);
        Self {
            dots: bytes.as_chunks::<3>().0.to_vec(),
            width: info.width as usize,
            height: info.height as usize,
        }
    }

    pub(crate) fn at(&self, x: usize, y: usize) -> Rgb {
        self.dots[y * self.width + x]
    }

    /// All pixels of a colour, as (x, y).
    pub(crate) fn dots(&self, colour: Rgb) -> impl Iterator<Item = (usize, usize)> {
        (0..self.dots.len())
            .filter(move |&at| self.dots[at] == colour)
            .map(|at| (at % self.width, at / self.width))
    }

    /// Number of connected patches of a colour with at least `least` pixels.
    pub(crate) fn patches(&self, colour: Rgb, least: usize) -> Vec<Vec<(usize, usize)>> {
        let mut open: Vec<bool> = self.dots.iter().map(|&dot| dot == colour).collect();
        let mut patches = Vec::new();
        for start in 0..open.len() {
            let mut patch = Vec::new();
            let mut edge = vec![start];
            while let Some(at) = edge.pop() {
                if std::mem::take(&mut open[at]) {
                    let (x, y) = (at % self.width, at / self.width);
                    patch.push((x, y));
                    edge.extend((x > 0).then(|| at - 1));
                    edge.extend((x + 1 < self.width).then_some(at + 1));
                    edge.extend((y > 0).then(|| at.wrapping_sub(self.width)));
                    edge.extend((y + 1 < self.height).then_some(at + self.width));
                }
            }
            if patch.len() >= least {
                patches.push(patch);
            }
        }
        patches
    }
}

/// Mean position of some pixels.
pub(crate) fn middle(dots: impl Iterator<Item = (usize, usize)>) -> (f64, f64) {
    let (mut x, mut y, mut count) = (0.0, 0.0, 0.0);
    for dot in dots {
        (x, y, count) = (x + dot.0 as f64, y + dot.1 as f64, count + 1.0);
    }
    assert!(count > 0.0, "no dot of that colour");
    (x / count, y / count)
}
