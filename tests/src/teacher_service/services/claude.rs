//! Claude models, and what each supports.

/// Allowed values of temperature, `top_p` and `top_k`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sampling {
    /// Not temperature and `top_p` together.
    One,
    /// Anything.
    Free,
    /// Defaults only.
    Defaults,
    /// A temperature of 1 or a `top_p` of 0.99, not both, and no `top_k`.
    Fixed,
}

/// Allowed values of `thinking`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Thinking {
    /// Off unless it has a budget.
    Budget,
    /// Off; adaptive, or with a budget.
    Either,
    /// Off; adaptive only.
    Adaptive,
    /// On; may be disabled.
    On,
    /// On; may be disabled up to high effort.
    OnUpToHigh,
    /// Always on.
    Always,
    /// On; `between_tools` turns off what comes before the text, up to high effort.
    BetweenTools,
}

/// A model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claude {
    pub(crate) id: &'static str,
    pub(crate) sampling: Sampling,
    pub(crate) thinking: Thinking,
    /// Supported efforts, lowest first; `None` if the field is refused.
    pub(crate) efforts: &'static [&'static str],
    pub(crate) effort: &'static str,
    /// Minimum tokens that the prompt cache keeps.
    pub(crate) cache_min: u64,
    pub(crate) most_output: u64,
    /// Version 4.7 or later: more tokens of a text, and larger pictures.
    pub(crate) is_new: bool,
    /// Version 4.6 or later: no prefill.
    pub(crate) no_prefill: bool,
}

const TO_HIGH: &[&str] = &["low", "medium", "high"];
const TO_MAX: &[&str] = &["low", "medium", "high", "max"];
const ALL: &[&str] = &["low", "medium", "high", "xhigh", "max"];

const OLD: Claude = Claude {
    id: "",
    sampling: Sampling::One,
    thinking: Thinking::Budget,
    efforts: &[],
    effort: "none",
    cache_min: 4_096,
    most_output: 64_000,
    is_new: false,
    no_prefill: false,
};

const NEW: Claude = Claude {
    id: "",
    sampling: Sampling::Defaults,
    thinking: Thinking::Always,
    efforts: ALL,
    effort: "high",
    cache_min: 512,
    most_output: 128_000,
    is_new: true,
    no_prefill: true,
};

const MIDDLE: Claude = Claude {
    sampling: Sampling::Free,
    thinking: Thinking::Either,
    efforts: TO_MAX,
    effort: "high",
    most_output: 128_000,
    no_prefill: true,
    ..OLD
};

/// All served models; any other is retired or never existed.
pub(crate) const MODELS: &[Claude] = &[
    Claude { id: "claude-fable-5-2", ..NEW },
    Claude { id: "claude-mythos-5-2", ..NEW },
    Claude { id: "claude-fable-5-1", ..NEW },
    Claude { id: "claude-mythos-5-1", ..NEW },
    Claude { id: "claude-fable-5", ..NEW },
    Claude { id: "claude-mythos-5", ..NEW },
    Claude { id: "claude-opus-5-5", effort: "medium", ..NEW },
    Claude { id: "claude-opus-5", thinking: Thinking::OnUpToHigh, ..NEW },
    Claude { id: "claude-opus-4-8", thinking: Thinking::Adaptive, cache_min: 1_024, ..NEW },
    Claude { id: "claude-opus-4-7", thinking: Thinking::Adaptive, cache_min: 2_048, ..NEW },
    Claude { id: "claude-opus-4-6", ..MIDDLE },
    Claude { id: "claude-opus-4-5", efforts: TO_HIGH, effort: "high", ..OLD },
    Claude { id: "claude-sonnet-5-5", thinking: Thinking::BetweenTools, ..NEW },
    Claude { id: "claude-sonnet-5", thinking: Thinking::On, cache_min: 1_024, ..NEW },
    Claude { id: "claude-sonnet-4-6", cache_min: 1_024, ..MIDDLE },
    Claude { id: "claude-sonnet-4-5", cache_min: 1_024, ..OLD },
    Claude {
        id: "claude-haiku-5-5",
        sampling: Sampling::Fixed,
        thinking: Thinking::On,
        effort: "medium",
        ..NEW
    },
    Claude { id: "claude-haiku-4-5", ..OLD },
];

/// A model by its id, which may end in a date of eight digits.
pub(crate) fn find(id: &str) -> Option<&'static Claude> {
    MODELS.iter().find(|model| {
        id.strip_prefix(model.id).is_some_and(|rest| {
            let date = rest.strip_prefix('-').unwrap_or("x");
            rest.is_empty() || (date.len() == 8 && date.bytes().all(|byte| byte.is_ascii_digit()))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_exact_but_for_a_date() {
        assert_eq!(find("claude-haiku-4-5-20251001").unwrap().id, "claude-haiku-4-5");
        assert_eq!(find("claude-sonnet-5-5").unwrap().id, "claude-sonnet-5-5");
        for gone in
            ["claude-sonnet-4-20250514", "claude-opus-4-1", "claude-3-5-haiku-latest", "claude-sonnet-4"]
        {
            assert!(find(gone).is_none(), "{gone}");
        }
    }
}
