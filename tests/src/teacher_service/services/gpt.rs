//! OpenAI's models, and what each supports.

use super::pictures::Rule;

/// How a model treats temperature, `top_p` and `logprobs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sampling {
    /// Anything.
    Free,
    /// Never: the parameter itself is refused (o-series).
    Never,
    /// Only the default value (GPT-5).
    Default,
    /// Anything at effort none, else only the default value (GPT-5.1 to 5.6).
    AtNone,
    /// Anything at effort none, else the parameter is refused (GPT-6).
    OnlyAtNone,
}

/// A model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gpt {
    pub(crate) id: &'static str,
    pub(crate) sampling: Sampling,
    /// Supported efforts; `None` if the model does not reason.
    pub(crate) efforts: &'static [&'static str],
    pub(crate) effort: &'static str,
    /// Whether writes to the prompt cache cost a fee, and `prompt_cache_options` is supported.
    pub(crate) writes_cost: bool,
    pub(crate) verbosity: bool,
    pub(crate) pictures: Rule,
    pub(crate) most_output: u64,
}

const TO_HIGH: &[&str] = &["low", "medium", "high"];
const MINIMAL: &[&str] = &["minimal", "low", "medium", "high"];
const NONE_TO_HIGH: &[&str] = &["none", "low", "medium", "high"];
const NONE_TO_XHIGH: &[&str] = &["none", "low", "medium", "high", "xhigh"];
const NONE_TO_MAX: &[&str] = &["none", "low", "medium", "high", "xhigh", "max"];
const LOW_TO_MAX: &[&str] = &["low", "medium", "high", "xhigh", "max"];

const TILES: Rule = Rule::Tiles { base: 85, tile: 170 };
const MINI: Rule = Rule::Shrunk { factor: 1.62, most: 1_536.0 };
const NANO: Rule = Rule::Shrunk { factor: 2.46, most: 1_536.0 };

const GPT_4: Gpt = Gpt {
    id: "",
    sampling: Sampling::Free,
    efforts: &[],
    effort: "none",
    writes_cost: false,
    verbosity: false,
    pictures: TILES,
    most_output: 32_768,
};

const GPT_5: Gpt = Gpt {
    sampling: Sampling::Default,
    efforts: MINIMAL,
    effort: "medium",
    verbosity: true,
    pictures: Rule::Tiles { base: 70, tile: 140 },
    most_output: 128_000,
    ..GPT_4
};

const GPT_5_4: Gpt = Gpt {
    sampling: Sampling::AtNone,
    efforts: NONE_TO_XHIGH,
    effort: "none",
    pictures: Rule::Shrunk { factor: 1.2, most: 2_500.0 },
    ..GPT_5
};

const GPT_5_6: Gpt = Gpt {
    efforts: NONE_TO_MAX,
    effort: "medium",
    writes_cost: true,
    pictures: Rule::Original { factor: 1.2, most: 10_000, edge: 6_000.0 },
    ..GPT_5_4
};

const GPT_6: Gpt = Gpt {
    sampling: Sampling::OnlyAtNone,
    pictures: Rule::Original { factor: 1.2, most: 30_000, edge: f64::MAX },
    ..GPT_5_6
};

/// All served models; any other is retired or never existed.
pub(crate) const MODELS: &[Gpt] = &[
    Gpt { id: "gpt-6-astra", efforts: LOW_TO_MAX, ..GPT_6 },
    Gpt { id: "gpt-6.1-sol", efforts: LOW_TO_MAX, ..GPT_6 },
    Gpt { id: "gpt-6.1-terra", ..GPT_6 },
    Gpt { id: "gpt-6-sol", ..GPT_6 },
    Gpt { id: "gpt-6-luna", ..GPT_6 },
    Gpt { id: "gpt-5.6-sol", ..GPT_5_6 },
    Gpt { id: "gpt-5.6-terra", ..GPT_5_6 },
    Gpt { id: "gpt-5.6-luna", ..GPT_5_6 },
    Gpt { id: "gpt-5.5", pictures: GPT_5_6.pictures, ..GPT_5_4 },
    Gpt { id: "gpt-5.4", ..GPT_5_4 },
    Gpt { id: "gpt-5.4-mini", pictures: MINI, ..GPT_5_4 },
    Gpt { id: "gpt-5.4-nano", pictures: NANO, ..GPT_5_4 },
    Gpt { id: "gpt-5.2", pictures: Rule::Shrunk { factor: 1.2, most: 1_536.0 }, ..GPT_5_4 },
    Gpt { id: "gpt-5.1", efforts: NONE_TO_HIGH, pictures: GPT_5.pictures, ..GPT_5_4 },
    Gpt { id: "gpt-5", ..GPT_5 },
    Gpt { id: "gpt-5-mini", pictures: MINI, ..GPT_5 },
    Gpt { id: "gpt-5-nano", pictures: NANO, ..GPT_5 },
    Gpt {
        id: "o3",
        sampling: Sampling::Never,
        efforts: TO_HIGH,
        verbosity: false,
        pictures: Rule::Tiles { base: 75, tile: 150 },
        ..GPT_5
    },
    Gpt { id: "gpt-4.1", ..GPT_4 },
    Gpt { id: "gpt-4.1-mini", pictures: MINI, ..GPT_4 },
    Gpt { id: "gpt-4o", most_output: 16_384, ..GPT_4 },
    Gpt {
        id: "gpt-4o-mini",
        pictures: Rule::Tiles { base: 2_833, tile: 5_667 },
        most_output: 16_384,
        ..GPT_4
    },
];

/// A model by its id, which may end in a date.
pub(crate) fn find(id: &str) -> Option<&'static Gpt> {
    let is_date = |rest: &str| {
        rest.len() == 11 && rest.starts_with('-') && rest.bytes().filter(u8::is_ascii_digit).count() == 8
    };
    MODELS.iter().find(|model| id.strip_prefix(model.id).is_some_and(|rest| rest.is_empty() || is_date(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_exact_but_for_a_date() {
        assert_eq!(find("gpt-4.1-mini-2025-04-14").unwrap().id, "gpt-4.1-mini");
        assert_eq!(find("gpt-4.1").unwrap().id, "gpt-4.1");
        assert!(["gpt-4.1-nano", "o4-mini", "gpt-3.5-turbo", "gpt-6"].iter().all(|id| find(id).is_none()));
    }
}
