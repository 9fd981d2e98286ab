//! Tokens that services count for pictures.

use schemas::settings::ImageDetail;
use serde::Deserialize;

/// How a model's pictures are counted, and their maximum size.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PictureRule {
    /// Tokens by size.
    pub count: Count,
    /// Maximum edge, in pixels.
    pub max_edge: u32,
    /// Maximum file size, in bytes before base64.
    pub max_bytes: u64,
}

impl Default for PictureRule {
    fn default() -> Self {
        Self { count: Count::Tiles { base: 85, tile: 170 }, max_edge: 8_000, max_bytes: 3_700_000 }
    }
}

/// Tokens by size.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case", deny_unknown_fields)]
pub enum Count {
    /// Anthropic's: patches of 28 pixels with one token each, after the picture is scaled down to a maximum
    /// edge and number of patches.
    Patches28 {
        /// Longest edge in pixels.
        edge: f64,
        /// Maximum tokens.
        most: f64,
    },
    /// OpenAI's newer rule: patches of 32 pixels, with a number of tokens each.
    Patches32 {
        /// Tokens of a patch.
        factor: f64,
        /// Limits of detail high: the picture is scaled down to them.
        high: Fit,
        /// Limits of detail original, if it is offered.
        #[serde(default)]
        original: Option<Fit>,
        /// Whether detail auto is original.
        #[serde(default)]
        auto_is_original: bool,
    },
    /// OpenAI's older rule: tiles of 512 pixels, after the picture is scaled down to 2048 pixels, and its
    /// shorter side to 768.
    Tiles {
        /// Tokens of any picture.
        base: u64,
        /// Tokens of a tile.
        tile: u64,
    },
    /// The same for any picture.
    Fixed {
        /// Tokens.
        tokens: u64,
    },
}

/// Limits to which a picture is scaled down.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fit {
    /// Maximum patches.
    pub patches: f64,
    /// Longest edge in pixels.
    #[serde(default = "no_edge")]
    pub edge: f64,
}

fn no_edge() -> f64 {
    f64::MAX
}

/// Limits of detail low.
const LOW: Fit = Fit { patches: 256.0, edge: 512.0 };

impl PictureRule {
    /// Tokens of a picture of `size` (width, height in pixels) as it is sent.
    pub fn tokens(&self, size: (u32, u32), detail: ImageDetail) -> u64 {
        let size = (f64::from(size.0.max(1)), f64::from(size.1.max(1)));
        match self.count {
            Count::Fixed { tokens } => tokens,
            Count::Patches28 { edge, most } => patches_of_28(size, edge, most),
            Count::Patches32 { factor, high, original, auto_is_original } => {
                let fit = match detail {
                    ImageDetail::Low => LOW,
                    ImageDetail::Original => original.unwrap_or(high),
                    ImageDetail::Auto if auto_is_original => original.unwrap_or(high),
                    ImageDetail::Auto | ImageDetail::High => high,
                };
                // A little less, since factors such as 0.1 are not exact in binary.
                (patches_of_32(size, fit) * factor - 1e-6).ceil() as u64
            }
            Count::Tiles { base, .. } if detail == ImageDetail::Low => base,
            Count::Tiles { base, tile } => base + tile * tiles(size),
        }
    }
}

/// Patches of 28 pixels at the largest size of the same proportions within both limits.
fn patches_of_28((width, height): (f64, f64), edge: f64, most: f64) -> u64 {
    let patches = |scale: f64| (width * scale / 28.0).ceil() * (height * scale / 28.0).ceil();
    let mut scale = (edge / width.max(height)).min(1.0);
    if patches(scale) > most {
        let mut low = 0.0;
        for _ in 0..50 {
            let middle = (low + scale) / 2.0;
            if patches(middle) > most { scale = middle } else { low = middle }
        }
        scale = low;
    }
    patches(scale).max(1.0) as u64
}

/// Patches of 32 pixels after a picture is scaled down, with its proportions kept, so that one side is a
/// whole number of patches.
fn patches_of_32((width, height): (f64, f64), fit: Fit) -> f64 {
    let scale = (fit.edge / width.max(height)).min(1.0);
    let (width, height) = (width * scale / 32.0, height * scale / 32.0);
    // A little less, so that a rounding error does not add a patch.
    let count = |width: f64, height: f64| ((width - 1e-6).ceil() * (height - 1e-6).ceil()).max(1.0);
    if count(width, height) <= fit.patches {
        return count(width, height);
    }
    let shrink = (fit.patches / (width * height)).sqrt();
    let (width, height) = (width * shrink, height * shrink);
    let whole = (width.floor() / width).min(height.floor() / height);
    // Very narrow pictures are less than a patch wide.
    if whole <= 0.0 { fit.patches } else { count(width * whole, height * whole).min(fit.patches) }
}

fn tiles((width, height): (f64, f64)) -> u64 {
    let scale = (2_048.0 / width.max(height)).min(1.0);
    let (width, height) = (width * scale, height * scale);
    let scale = (768.0 / width.min(height)).min(1.0);
    let count = |side: f64| (side * scale / 512.0 - 1e-9).ceil().max(1.0) as u64;
    count(width) * count(height)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::teacher::catalogue::Catalogue;

    const PHOTO: (u32, u32) = (4_032, 3_024);

    fn tokens(model: &str, size: (u32, u32), detail: ImageDetail) -> u64 {
        Catalogue::load("", "").unwrap().model(model).unwrap().picture.tokens(size, detail)
    }

    #[test]
    fn claude_counts_patches_of_28_pixels() {
        let claude = |model, size| tokens(model, size, ImageDetail::Auto);
        for model in ["claude-haiku-4-5", "claude-opus-5-5"] {
            assert_eq!(claude(model, (640, 480)), 414, "{model}: 23 by 18");
            assert_eq!(claude(model, (1_024, 1_024)), 1_369, "{model}: 37 by 37");
            assert_eq!(claude(model, (28, 28)), 1);
            assert_eq!(claude(model, (29, 28)), 2);
            assert_eq!(claude(model, (1, 1)), 1);
        }
        // 49 by 32 patches are the older models' 1568; with 50, the largest picture of these proportions has fewer.
        assert_eq!(claude("claude-haiku-4-5", (1_372, 896)), 1_568);
        assert_eq!(claude("claude-haiku-4-5", (1_373, 896)), 49 * 32);
        assert_eq!(claude("claude-haiku-4-5", (1_400, 924)), 49 * 32);
        assert_eq!(claude("claude-haiku-4-5", (1_568, 1_568)), 39 * 39);
        assert_eq!(claude("claude-opus-4-6", PHOTO), 1_564, "46 by 34 of at most 1568");
        assert_eq!(claude("claude-opus-4-7", PHOTO), 4_740, "79 by 60 of at most 4784");
        assert_eq!(claude("claude-haiku-5-5", (2_576, 1_456)), 92 * 52, "4784: all that fits");
        assert_eq!(claude("claude-haiku-5-5", (5_152, 28)), 92, "the edge");
        assert_eq!(claude("claude-haiku-4-5", (3_136, 28)), 56, "the edge");
    }

    #[test]
    fn newer_gpt_counts_patches_of_32_pixels() {
        use ImageDetail::{Auto, High, Low, Original};
        assert_eq!(tokens("gpt-6-luna", (1_024, 1_024), High), 1_229);
        assert_eq!(tokens("gpt-6-luna", PHOTO, Auto), 14_364);
        assert_eq!(tokens("gpt-6-luna", PHOTO, Original), 14_364);
        assert_eq!(tokens("gpt-6-luna", PHOTO, High), 2_942);
        assert_eq!(tokens("gpt-6-luna", PHOTO, Low), 231, "16 by 12 patches");
        assert_eq!(tokens("gpt-6-luna", (1_600, 1_600), High), 3_000, "50 by 50 patches: all that fit");
        assert!(tokens("gpt-6-luna", (1_601, 1_600), High) <= 3_000);
        assert_eq!(tokens("gpt-5.4", PHOTO, Auto), 2_942);
        assert_eq!(tokens("gpt-5.5", PHOTO, Auto), 11_868, "115 by 86 of at most 10,000 patches");
        assert_eq!(tokens("gpt-6-sol", (2_560, 1_440), High), 2_931, "66 by 37 patches");
        assert_eq!(tokens("gpt-6-sol", (2_560, 1_440), Auto), 4_320);
        assert_eq!(tokens("gpt-5.5", (8_000, 32), High), 77, "64 patches: the edge");
        assert_eq!(tokens("gpt-5-mini", (1_024, 1_024), High), 1_659);
        // Sized down in proportion: 33 by 44 patches, not 1536.
        assert_eq!(tokens("gpt-5-mini", (1_800, 2_400), High), (1_452.0_f64 * 1.62).ceil() as u64);
        assert_eq!(tokens("gpt-5-nano", (32, 32), High), 3);
        assert_eq!(tokens("gpt-5-nano", (33, 32), High), 5);
        assert!(tokens("gpt-6-luna", (8_000, 1), High) <= 3_000);
        assert!(tokens("gpt-5-mini", (100_000, 2), High) > 0);
    }

    #[test]
    fn older_gpt_counts_tiles() {
        let gpt = |model, size| tokens(model, size, ImageDetail::High);
        assert_eq!(gpt("gpt-4o", (1_024, 1_024)), 765);
        assert_eq!(gpt("gpt-4o", (2_048, 4_096)), 1_105);
        assert_eq!(gpt("gpt-4.1", (512, 512)), 255);
        assert_eq!(gpt("gpt-4.1", (513, 512)), 425);
        assert_eq!(tokens("gpt-4.1", (1_024, 1_024), ImageDetail::Low), 85);
        assert_eq!(gpt("gpt-4o-mini", (200, 100)), 8_500);
        assert_eq!(gpt("gpt-5", (1_024, 1_024)), 630);
        assert_eq!(gpt("o3", (1_024, 1_024)), 675);
    }
}
