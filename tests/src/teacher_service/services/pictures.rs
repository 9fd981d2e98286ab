//! Tokens of pictures, by the services' rules.

use super::failure::Failure;
use crate::teacher_service::wire::Picture;

/// How OpenAI counts a model's pictures.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rule {
    /// Patches of 32 pixels times a factor; the whole picture by default, up to a number of patches that is refused beyond.
    Original { factor: f64, most: u64, edge: f64 },
    /// The same, but scaled down to so many patches by default.
    Shrunk { factor: f64, most: f64 },
    /// A base and tiles of 512 pixels.
    Tiles { base: u64, tile: u64 },
}

/// Patches of a size that a picture covers as it is.
pub(crate) fn patches(picture: &Picture, size: u32) -> u64 {
    u64::from(picture.width.div_ceil(size)) * u64::from(picture.height.div_ceil(size))
}

/// Anthropic's tokens: patches of 28 pixels once the picture fits an edge and a number of tokens.
pub(crate) fn anthropic(picture: &Picture, edge: f64, most: u64) -> u64 {
    let (width, height) = (f64::from(picture.width), f64::from(picture.height));
    let mut scale = (edge / width.max(height)).min(1.0);
    loop {
        let tokens = ((width * scale / 28.0).ceil() * (height * scale / 28.0).ceil()) as u64;
        if tokens <= most {
            return tokens.max(1);
        }
        scale *= 0.998;
    }
}

/// OpenAI's tokens.
pub(crate) fn openai(rule: Rule, picture: &Picture) -> Result<u64, Failure> {
    let detail = picture.detail.as_deref().unwrap_or("auto");
    let factored = |patches: f64, factor: f64| Ok((patches * factor).ceil() as u64);
    match rule {
        Rule::Original { factor, .. } if detail == "high" => {
            factored(fitted(picture, 2_500.0, f64::MAX), factor)
        }
        Rule::Original { factor, .. } if detail == "low" => factored(fitted(picture, 256.0, 512.0), factor),
        Rule::Original { factor, most, edge } => {
            let whole = patches(picture, 32);
            if edge < f64::MAX {
                return factored(fitted(picture, most as f64, edge), factor);
            }
            if whole > most {
                let message = format!(
                    "Invalid image: the image has {whole} patches, which exceeds the maximum of {most}. Resize it or set detail to 'high'."
                );
                return Err(Failure::bad("image", message).code("invalid_image"));
            }
            factored(whole as f64, factor)
        }
        Rule::Shrunk { factor, .. } if detail == "low" => factored(fitted(picture, 256.0, 512.0), factor),
        Rule::Shrunk { factor, most } => factored(fitted(picture, most, 2_048.0), factor),
        Rule::Tiles { base, .. } if detail == "low" => Ok(base),
        Rule::Tiles { base, tile } => {
            let (width, height) = (f64::from(picture.width), f64::from(picture.height));
            let fit = (2_048.0 / width.max(height)).min(1.0);
            let (width, height) = (width * fit, height * fit);
            let fit = (768.0 / width.min(height)).min(1.0);
            let tiles = (width * fit / 512.0).ceil() * (height * fit / 512.0).ceil();
            Ok(base + tile * tiles as u64)
        }
    }
}

/// Patches of 32 pixels after a picture was scaled down, its proportions kept, to an edge and a number of patches.
fn fitted(picture: &Picture, most: f64, edge: f64) -> f64 {
    let fit = (edge / f64::from(picture.width.max(picture.height))).min(1.0);
    let (width, height) = (f64::from(picture.width) * fit / 32.0, f64::from(picture.height) * fit / 32.0);
    if width.ceil() * height.ceil() <= most {
        return width.ceil() * height.ceil();
    }
    let fit = (most / (width * height)).sqrt();
    let (width, height) = (width * fit, height * fit);
    let whole = (width.floor() / width).min(height.floor() / height);
    // Half a thousandth less, so that a whole number of patches is not rounded up.
    ((width * whole - 5e-4).ceil() * (height * whole - 5e-4).ceil()).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: u32, height: u32, detail: Option<&str>) -> Picture {
        Picture { width, height, detail: detail.map(str::to_owned), ..Picture::default() }
    }

    #[test]
    fn anthropic_counts_patches_of_28() {
        assert_eq!(anthropic(&picture(640, 480, None), 1_568.0, 1_568), 414);
        assert_eq!(anthropic(&picture(1_024, 1_024, None), 2_576.0, 4_784), 1_369);
        assert!((1_500..=1_568).contains(&anthropic(&picture(4_032, 3_024, None), 1_568.0, 1_568)));
        assert!((4_600..=4_784).contains(&anthropic(&picture(4_032, 3_024, None), 2_576.0, 4_784)));
    }

    #[test]
    fn openai_counts_patches_of_32_or_tiles() {
        let newest = Rule::Original { factor: 1.2, most: 30_000, edge: f64::MAX };
        let tokens = |rule, width, height, detail| openai(rule, &picture(width, height, detail)).unwrap();
        assert_eq!(tokens(newest, 1_024, 1_024, None), 1_229);
        assert_eq!(tokens(newest, 4_032, 3_024, None), 14_364);
        assert_eq!(tokens(newest, 4_032, 3_024, Some("high")), 2_942);
        assert!(openai(newest, &picture(8_000, 8_000, None)).is_err());
        assert!(tokens(newest, 8_000, 8_000, Some("high")) <= 3_000);
        let mini = Rule::Shrunk { factor: 1.62, most: 1_536.0 };
        assert!(tokens(mini, 4_032, 3_024, None) <= 2_489);
        assert_eq!(tokens(mini, 320, 320, None), 162);
        let tiles = Rule::Tiles { base: 85, tile: 170 };
        assert_eq!(tokens(tiles, 1_024, 1_024, None), 765);
        assert_eq!(tokens(tiles, 1_024, 1_024, Some("low")), 85);
    }
}
