//! Names under which services offer the same model.

/// Vendors that gateways put before a model's name, with a dot.
const VENDORS: [&str; 2] = ["anthropic.", "openai."];

/// The name without gateway, region, vendor and variant: `claude-haiku-4-5-20251001` for
/// `bedrock/us.anthropic.claude-haiku-4-5-20251001-v1:0`.
pub(super) fn plain(name: &str) -> String {
    let name = name.rsplit('/').next().unwrap_or(name);
    let name = name.split(':').next().unwrap_or(name);
    let mut plain = name;
    for vendor in VENDORS {
        // The vendor comes first, or after a region.
        if let Some((region, model)) = name.split_once(vendor)
            && (region.is_empty() || (region.ends_with('.') && region.matches('.').count() == 1))
        {
            plain = without_version(model);
        }
    }
    // Some gateways write a Claude's version with a dot.
    if plain.starts_with("claude-") { plain.replace('.', "-") } else { plain.to_owned() }
}

/// Without `-v1` at the end.
fn without_version(name: &str) -> &str {
    match name.rsplit_once("-v") {
        Some((model, version)) if !version.is_empty() && version.bytes().all(|c| c.is_ascii_digit()) => model,
        _ => name,
    }
}

/// The name without its date, where it ends in one: `-` or `@`, then YYYYMMDD or YYYY-MM-DD.
pub(super) fn without_date(name: &str) -> Option<&str> {
    let ends_in = |pattern: &str| {
        let at = name.len().checked_sub(pattern.len())?;
        let fits = name.bytes().skip(at).zip(pattern.bytes()).all(|(found, expected)| match expected {
            b'9' => found.is_ascii_digit(),
            b'@' => found == b'-' || found == b'@',
            expected => found == expected,
        });
        if fits { name.get(..at) } else { None }
    };
    ends_in("@99999999").or_else(|| ends_in("@9999-99-99")).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_eight_digits_and_nothing_else() {
        assert_eq!(without_date("claude-haiku-4-5-20251001"), Some("claude-haiku-4-5"));
        assert_eq!(without_date("claude-haiku-4-5@20251001"), Some("claude-haiku-4-5"));
        assert_eq!(without_date("gpt-4o-2024-08-06"), Some("gpt-4o"));
        for other in [
            "claude-sonnet-5-5",
            "claude-sonnet-4-6",
            "gpt-4-0613",
            "gpt-5-2025-08",
            "gpt-5-202508071",
            "claude-haiku-4-5-latest",
            "-20251001",
            "gpt-4o_20240806",
            "é20251001",
        ] {
            assert_eq!(without_date(other), None, "{other}");
        }
    }

    #[test]
    fn gateways_names() {
        for (name, expected) in [
            ("claude-opus-5-5", "claude-opus-5-5"),
            ("anthropic.claude-haiku-5-5", "claude-haiku-5-5"),
            ("us.anthropic.claude-haiku-4-5-20251001-v1:0", "claude-haiku-4-5-20251001"),
            ("bedrock/global.anthropic.claude-opus-4-6-v1", "claude-opus-4-6"),
            ("openai.gpt-6-luna", "gpt-6-luna"),
            ("openai/gpt-6.1-sol", "gpt-6.1-sol"),
            ("openrouter/anthropic/claude-opus-4.5:beta", "claude-opus-4-5"),
            ("vertex_ai/claude-haiku-4-5@20251001", "claude-haiku-4-5@20251001"),
            ("qwen3:8b", "qwen3"),
            ("my.own.anthropic.copy", "my.own.anthropic.copy"),
        ] {
            assert_eq!(plain(name), expected);
        }
    }
}
