use super::*;
use crate::teacher::Usage;
use schemas::settings::{ImageDetail, ResponseFormat, TokenLimitField};

fn built_in() -> Catalogue {
    Catalogue::load("", "").unwrap()
}

fn known(name: &str) -> Model {
    built_in().model(name).unwrap_or_else(|| panic!("{name} is not listed"))
}

/// A catalogue with an own file of models and one of prices.
fn with(models: &str, prices: &str) -> Result<Catalogue> {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        if text.is_empty() { String::new() } else { path.display().to_string() }
    };
    Catalogue::load(&path("models.toml", models), &path("prices.toml", prices))
}

fn complaint(models: &str, prices: &str) -> String {
    let error = with(models, prices).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    error.to_string()
}

/// Name; input, output, cache write and cache read in dollars per million tokens.
type Row = (&'static str, f64, f64, f64, f64);

const ANTHROPIC: [Row; 18] = [
    ("claude-fable-5-2", 8.0, 40.0, 10.0, 0.2),
    ("claude-mythos-5-2", 8.0, 40.0, 10.0, 0.2),
    ("claude-fable-5-1", 10.0, 50.0, 12.5, 0.25),
    ("claude-mythos-5-1", 10.0, 50.0, 12.5, 0.25),
    ("claude-fable-5", 10.0, 50.0, 12.5, 1.0),
    ("claude-mythos-5", 10.0, 50.0, 12.5, 1.0),
    ("claude-opus-5-5", 4.0, 20.0, 5.0, 0.2),
    ("claude-opus-5", 5.0, 25.0, 6.25, 0.5),
    ("claude-opus-4-8", 5.0, 25.0, 6.25, 0.5),
    ("claude-opus-4-7", 5.0, 25.0, 6.25, 0.5),
    ("claude-opus-4-6", 5.0, 25.0, 6.25, 0.5),
    ("claude-opus-4-5", 5.0, 25.0, 6.25, 0.5),
    ("claude-sonnet-5-5", 2.0, 10.0, 2.5, 0.1),
    ("claude-sonnet-5", 2.0, 10.0, 2.5, 0.2),
    ("claude-sonnet-4-6", 3.0, 15.0, 3.75, 0.3),
    ("claude-sonnet-4-5", 3.0, 15.0, 3.75, 0.3),
    ("claude-haiku-5-5", 0.1, 0.5, 0.125, 0.01),
    ("claude-haiku-4-5", 1.0, 5.0, 1.25, 0.1),
];

const OPENAI: [Row; 22] = [
    ("gpt-6-astra", 10.0, 50.0, 12.5, 1.0),
    ("gpt-6.1-sol", 2.0, 10.0, 2.5, 0.1),
    ("gpt-6.1-terra", 1.0, 5.0, 1.25, 0.05),
    ("gpt-6-sol", 2.0, 10.0, 2.5, 0.2),
    ("gpt-6-luna", 0.1, 0.5, 0.125, 0.01),
    ("gpt-5.6-sol", 4.0, 20.0, 5.0, 0.4),
    ("gpt-5.6-terra", 2.0, 12.0, 2.5, 0.2),
    ("gpt-5.6-luna", 0.2, 1.2, 0.25, 0.02),
    ("gpt-5.5", 5.0, 30.0, 5.0, 0.5),
    ("gpt-5.4", 2.5, 15.0, 2.5, 0.25),
    ("gpt-5.4-mini", 0.75, 4.5, 0.75, 0.075),
    ("gpt-5.4-nano", 0.2, 1.25, 0.2, 0.02),
    ("gpt-5.2", 1.75, 14.0, 1.75, 0.175),
    ("gpt-5.1", 1.25, 10.0, 1.25, 0.125),
    ("gpt-5", 1.25, 10.0, 1.25, 0.125),
    ("gpt-5-mini", 0.25, 2.0, 0.25, 0.025),
    ("gpt-5-nano", 0.05, 0.4, 0.05, 0.005),
    ("o3", 2.0, 8.0, 2.0, 0.5),
    ("gpt-4.1", 2.0, 8.0, 2.0, 0.5),
    ("gpt-4.1-mini", 0.4, 1.6, 0.4, 0.1),
    ("gpt-4o", 2.5, 10.0, 2.5, 1.25),
    ("gpt-4o-mini", 0.15, 0.6, 0.15, 0.075),
];

#[test]
fn every_price() {
    for (name, input, output, write, read) in ANTHROPIC.into_iter().chain(OPENAI) {
        let price = known(name).price.unwrap_or_else(|| panic!("{name} has no price"));
        let found = (price.input, price.output, price.cache_write, price.cache_read, price.batch_factor);
        assert_eq!(found, (input, output, write, read, 0.5), "{name}");
    }
}

#[test]
fn longer_prompts_of_the_models_that_charge_more_for_them() {
    let usage = |prompt| Usage { input: prompt, cache_write: 0, cache_read: 0, output: 1_000 };
    let dollars = |name: &str, prompt| known(name).price.unwrap().cost(&usage(prompt)) * 1e6;
    let near =
        |found: f64, expected: f64| assert!((found - expected).abs() < 1e-6, "{found}, not {expected}");
    near(dollars("claude-haiku-5-5", 100_000), 10_000.0 + 500.0);
    near(dollars("claude-haiku-5-5", 100_001), 50_000.5 + 2_500.0);
    for (name, input, output, ..) in OPENAI {
        let has_tier = name.starts_with("gpt-6")
            || ["gpt-5.4", "gpt-5.5"].contains(&name)
            || name.starts_with("gpt-5.6");
        let (more, longer) = if has_tier { (2.0, 1.5) } else { (1.0, 1.0) };
        near(dollars(name, 272_000), 272_000.0 * input + 1_000.0 * output);
        near(dollars(name, 272_001), 272_001.0 * input * more + 1_000.0 * output * longer);
    }
    for (name, input, output, ..) in ANTHROPIC.into_iter().filter(|row| row.0 != "claude-haiku-5-5") {
        near(dollars(name, 900_000), 900_000.0 * input + 1_000.0 * output);
    }
}

#[test]
fn what_claude_models_take() {
    // Name, temperature, lowest effort, default effort, thinking, output, cache minimum, newer tokenizer.
    for (name, taken, effort, default, thinking, output, cache, is_new) in [
        ("claude-haiku-4-5", true, None, None, false, 64_000, 4_096, false),
        ("claude-sonnet-4-5", true, None, None, false, 64_000, 1_024, false),
        ("claude-opus-4-5", true, Some("low"), Some("high"), false, 64_000, 4_096, false),
        ("claude-opus-4-6", true, Some("low"), Some("high"), false, 128_000, 4_096, false),
        ("claude-sonnet-4-6", true, Some("low"), Some("high"), false, 128_000, 1_024, false),
        ("claude-opus-4-7", false, Some("low"), Some("high"), false, 128_000, 2_048, true),
        ("claude-opus-4-8", false, Some("low"), Some("high"), false, 128_000, 1_024, true),
        ("claude-sonnet-5", false, Some("low"), Some("high"), true, 128_000, 1_024, true),
        ("claude-opus-5", false, Some("low"), Some("high"), true, 128_000, 512, true),
        ("claude-fable-5", false, Some("low"), Some("high"), true, 128_000, 512, true),
        ("claude-fable-5-2", false, Some("low"), Some("high"), true, 128_000, 512, true),
        ("claude-opus-5-5", false, Some("low"), Some("medium"), true, 128_000, 512, true),
        ("claude-sonnet-5-5", false, Some("low"), Some("high"), true, 128_000, 1_024, true),
        ("claude-haiku-5-5", false, Some("low"), Some("medium"), true, 128_000, 512, true),
    ] {
        let model = known(name);
        let lowest = model.lowest_effort();
        assert_eq!(model.takes_temperature(lowest), taken, "{name}");
        assert_eq!(lowest, effort, "{name}");
        if !model.efforts.is_empty() {
            assert_eq!(model.default_effort.as_deref(), default, "{name}");
        }
        assert_eq!(model.reply_limit(lowest), if thinking { 8_192 } else { 1_024 }, "{name}");
        assert_eq!(model.max_output_tokens, output, "{name}");
        assert_eq!(model.prompt_cache_minimum, Some(cache), "{name}");
        assert_eq!(model.tokenizer_factor, if is_new { 1.5 } else { 1.15 }, "{name}");
        let photo = model.picture.tokens((4_032, 3_024), ImageDetail::Auto);
        assert_eq!(photo > 1_568, is_new, "{name}: {photo}");
        assert!(model.json_schema && model.image_detail.is_none() && !model.charges_cache_writes(), "{name}");
    }
}

#[test]
fn what_gpt_models_take() {
    // Name, lowest effort, default effort, temperature there, writes are charged.
    for (name, effort, default, taken, charges) in [
        ("gpt-6-astra", Some("low"), Some("medium"), false, true),
        ("gpt-6.1-sol", Some("low"), Some("medium"), false, true),
        ("gpt-6.1-terra", Some("none"), Some("medium"), true, true),
        ("gpt-6-sol", Some("none"), Some("medium"), true, true),
        ("gpt-6-luna", Some("none"), Some("medium"), true, true),
        ("gpt-5.6-sol", Some("none"), Some("medium"), true, true),
        ("gpt-5.6-terra", Some("none"), Some("medium"), true, true),
        ("gpt-5.6-luna", Some("none"), Some("medium"), true, true),
        ("gpt-5.5", Some("none"), Some("medium"), true, false),
        ("gpt-5.4", Some("none"), Some("none"), true, false),
        ("gpt-5.4-mini", Some("none"), Some("none"), true, false),
        ("gpt-5.2", Some("none"), Some("none"), true, false),
        ("gpt-5.1", Some("none"), Some("none"), true, false),
        ("gpt-5", Some("low"), Some("medium"), false, false),
        ("gpt-5-nano", Some("low"), Some("medium"), false, false),
        ("o3", Some("low"), Some("medium"), false, false),
        ("gpt-4.1", None, None, true, false),
        ("gpt-4o-mini", None, None, true, false),
    ] {
        let model = known(name);
        let lowest = model.lowest_effort();
        assert_eq!((lowest, model.default_effort.as_deref()), (effort, default), "{name}");
        assert_eq!(model.takes_temperature(lowest), taken, "{name}");
        assert!(!model.takes_temperature(Some("high")) || effort.is_none(), "{name}");
        let thinks = !matches!(effort, None | Some("none"));
        assert_eq!(model.reply_limit(lowest), if thinks { 8_192 } else { 1_024 }, "{name}");
        assert_eq!(model.charges_cache_writes(), charges, "{name}");
        assert_eq!(model.image_detail, Some(ImageDetail::High), "{name}: the bill is bounded");
        assert!(model.json_schema, "{name}");
        let wants = effort.map(|_| TokenLimitField::MaxCompletionTokens);
        assert_eq!(model.token_limit_field, wants, "{name}");
    }
}

#[test]
fn dated_versions_and_gateways_names() {
    let catalogue = built_in();
    let input = |name: &str| catalogue.model(name).and_then(|model| model.price).map(|price| price.input);
    assert_eq!(input("claude-haiku-4-5-20251001"), Some(1.0));
    assert_eq!(input("claude-haiku-4-5@20251001"), Some(1.0));
    assert_eq!(input("gpt-4o-mini-2024-07-18"), Some(0.15));
    assert_eq!(input("gpt-4o-2024-08-06"), Some(2.5));
    assert_eq!(input("us.anthropic.claude-haiku-4-5-20251001-v1:0"), Some(1.0));
    assert_eq!(input("openrouter/anthropic/claude-opus-5.5"), Some(4.0));
    assert_eq!(input("openai.gpt-6-luna"), Some(0.1));
    assert_eq!(catalogue.model("openai/gpt-6-luna").unwrap().name, "openai/gpt-6-luna");
    // Versions are no dates.
    assert_eq!((input("claude-sonnet-5"), input("claude-sonnet-5-5")), (Some(2.0), Some(2.0)));
    assert_eq!(known("claude-sonnet-5-5").price.unwrap().cache_read, 0.1);
    assert!(known("claude-sonnet-4").ends.is_some() && known("claude-sonnet-4-6").ends.is_none());
    for other in ["gpt-4o-audio-preview", "claude-opus-5-6", "claude-haiku-5", "gpt-6", "llama", ""] {
        assert_eq!(input(other), None, "{other}");
    }
}

#[test]
fn names_that_are_not_listed_are_like_their_family() {
    let catalogue = built_in();
    let guess = |name: &str| catalogue.model_or_unlisted(name);
    let next = guess("claude-opus-7");
    assert_eq!((next.name.as_str(), &next.price), ("claude-opus-7", &None));
    assert!(!next.takes_temperature(Some("low")) && next.thinks(Some("low")));
    assert!(guess("gpt-7-luna").charges_cache_writes());
    assert!(!guess("claude-3-opus-20240229").json_schema);
    assert_eq!(guess("gpt-4-0613").tokenizer, Tokenizer::Cl100k);
    assert_eq!(guess("Qwen/Qwen3-8B").reply_limit(None), 8_192);
    assert_eq!(guess("grok-4.20-non-reasoning").reply_limit(None), 1_024);
    assert_eq!(guess("grok-4.20-reasoning").reply_limit(None), 8_192);
    let unknown = guess("my-llama");
    assert_eq!(unknown, Model { name: "my-llama".to_owned(), ..Model::default() });
    assert!(unknown.takes_temperature(None) && unknown.lowest_effort().is_none());
}

#[test]
fn what_ends_and_what_comes_then() {
    let date = |text: &str| -> Date { text.parse().unwrap() };
    for (name, ends) in [
        ("gpt-5", "2026-12-11"),
        ("gpt-5-mini", "2026-12-11"),
        ("gpt-5-nano", "2026-12-11"),
        ("o3", "2026-12-11"),
        ("gpt-5.1", "2027-04-01"),
        ("gpt-5.4-nano", "2027-04-01"),
        ("gpt-4.1", "2027-01-14"),
        ("gpt-4.1-mini", "2027-01-14"),
        ("gpt-4o", "2027-01-14"),
        ("gpt-4o-mini", "2027-01-14"),
        ("gpt-4.1-nano", "2026-10-23"),
        ("o1", "2026-10-23"),
        ("o3-mini", "2026-10-23"),
        ("o4-mini", "2026-10-23"),
        ("gpt-4", "2026-10-23"),
        ("gpt-3.5-turbo", "2026-10-23"),
        ("claude-sonnet-4", "2026-06-15"),
        ("claude-opus-4", "2026-06-15"),
        ("claude-opus-4-1", "2026-08-05"),
        ("claude-3-5-haiku", "2026-02-19"),
        ("claude-3-7-sonnet", "2026-02-19"),
    ] {
        let model = known(name);
        assert_eq!(model.ends, Some(date(ends)), "{name}");
        assert!(model.price.is_some(), "{name}: old ledgers need it");
    }
    let today = date("2026-11-28");
    let catalogue = built_in();
    let ending: Vec<&str> = catalogue
        .models
        .iter()
        .filter(|(_, model)| model.ends.is_some_and(|end| end > today) && model.end_notice(today).is_some())
        .map(|(name, _)| name.as_str())
        .collect();
    let expected =
        ["gpt-4.1", "gpt-4.1-mini", "gpt-4o", "gpt-4o-mini", "gpt-5", "gpt-5-mini", "gpt-5-nano", "o3"];
    assert_eq!(ending, expected);
    for (name, model) in &catalogue.models {
        if let Some(successor) = &model.successor {
            let successor = catalogue.model(successor).unwrap_or_else(|| panic!("{name}: {successor}"));
            assert!(successor.ends.is_none() && successor.end_notice(today).is_none(), "{name}");
        }
    }
    assert!(known("claude-haiku-4-5").end_notice(today).unwrap().contains("claude-haiku-5-5"));
    for usual in ["claude-haiku-5-5", "gpt-6-luna"] {
        assert_eq!(known(usual).end_notice(today), None);
    }
}

#[test]
fn services_by_their_hosts() {
    let catalogue = built_in();
    let name = |host: &str| catalogue.service(host).name;
    for (host, expected) in [
        ("api.anthropic.com", "Anthropic"),
        ("API.OpenAI.com:443", "OpenAI"),
        ("eu.api.openai.com", "OpenAI (regional)"),
        ("mine.openai.azure.com", "Azure OpenAI"),
        ("bedrock-runtime.us-east-1.amazonaws.com", "Amazon Bedrock"),
        ("bedrock-mantle.eu-west-1.api.aws", "Amazon Bedrock"),
        ("generativelanguage.googleapis.com", "Gemini"),
        ("us-central1-aiplatform.googleapis.com", "Google Vertex AI"),
        ("openrouter.ai", "OpenRouter"),
        ("api.deepseek.com", "DeepSeek"),
        ("api.mistral.ai", "Mistral"),
        ("api.x.ai", "xAI"),
        ("api.groq.com", "Groq"),
        ("api.together.xyz", "Together"),
        ("api.fireworks.ai", "Fireworks"),
        ("127.0.0.1:11434", "Ollama"),
        ("localhost:1234", "LM Studio"),
        ("localhost:8000", ""),
        ("openrouter.ai.example.org", ""),
        ("notapi.openai.com.example.org", ""),
    ] {
        assert_eq!(name(host), expected, "{host}");
    }
    assert_eq!(catalogue.service("example.org"), Service::default());
    assert_eq!(catalogue.service("mine.openai.azure.com").auth, Auth::ApiKey);
    assert_eq!(catalogue.service("api.anthropic.com").auth, Auth::XApiKey);
    let field = |host: &str| catalogue.service(host).token_limit_field;
    assert_eq!(field("api.mistral.ai"), Some(TokenLimitField::MaxTokens));
    assert_eq!(field("api.x.ai"), Some(TokenLimitField::MaxCompletionTokens));
    let deepseek = catalogue.service("api.deepseek.com");
    assert_eq!(deepseek.response_format, Some(ResponseFormat::JsonObject));
    let groq = catalogue.service("api.groq.com");
    assert!(groq.requests_header_is_per_day && !groq.believes_request_header);
    assert!(catalogue.service("api.x.ai").completion_excludes_reasoning);
}

#[test]
fn an_own_file_is_laid_over_entries_and_single_fields() {
    let own = r#"
        as_of = 2027-03-01
        [models."gpt-6-luna".price]
        input = 0.2
        [models."gpt-6-luna-2026-09-22"]
        max_output_tokens = 500
        [models."my-llama"]
        price = { input = 1, output = 2, cache_write = 1, cache_read = 1 }
        takes_pictures = false
        [models."house-gpt"]
        like = "gpt-4.1"
        [models."gpt-5.1"]
        picture = { count = { by = "fixed", tokens = 7 } }
        [services.House]
        hosts = ["*.house.example"]
        auth = "api-key"
        [services.Mistral]
        takes_gif = true
    "#;
    let catalogue = with(own, "").unwrap();
    assert_eq!(catalogue.as_of, "2027-03-01");
    let luna = catalogue.model("gpt-6-luna").unwrap();
    let price = luna.price.clone().unwrap();
    assert_eq!((price.input, price.output, price.tiers.len()), (0.2, 0.5, 1));
    let dated = catalogue.model("gpt-6-luna-2026-09-22").unwrap();
    assert_eq!((dated.max_output_tokens, dated.price, dated.efforts), (500, luna.price, luna.efforts));
    let llama = catalogue.model("my-llama").unwrap();
    assert_eq!((llama.price.unwrap().batch_factor, llama.takes_pictures), (1.0, false));
    let house = catalogue.model("house-gpt").unwrap();
    assert_eq!((house.price, house.ends), (known("gpt-4.1").price, None));
    let counted = catalogue.model("gpt-5.1").unwrap().picture.tokens((9, 9), ImageDetail::Auto);
    assert_eq!(counted, 7);
    assert_eq!(catalogue.service("a.house.example").auth, Auth::ApiKey);
    let mistral = catalogue.service("api.mistral.ai");
    assert!(mistral.takes_gif && mistral.token_limit_field == Some(TokenLimitField::MaxTokens));
    assert_eq!(catalogue.model("gpt-6-sol").unwrap(), known("gpt-6-sol"));
}

#[test]
fn a_file_of_prices_changes_prices_alone() {
    let own = r#"
        as_of = "2026-01-01"
        [models.my-llama]
        input = 1
        output = 2
        cache_write = 1
        cache_read = 1
        [models."claude-haiku-5-5"]
        input = 3
        output = 4
        cache_write = 5
        cache_read = 6
        batch_factor = 0.25
    "#;
    let catalogue = with("", own).unwrap();
    assert_eq!(catalogue.as_of, "2026-01-01");
    let haiku = catalogue.model("claude-haiku-5-5-20261007").unwrap();
    let expected = Price {
        input: 3.0,
        output: 4.0,
        cache_write: 5.0,
        cache_read: 6.0,
        batch_factor: 0.25,
        tiers: Vec::new(),
    };
    assert_eq!(haiku.price, Some(expected));
    assert_eq!(haiku.efforts, known("claude-haiku-5-5").efforts);
    assert_eq!(catalogue.model("my-llama").unwrap().price.unwrap().batch_factor, 1.0);
    assert!(catalogue.model("gpt-6-luna").unwrap().price.is_some());
    // Prices win over those of an own file of models.
    let both = with("[models.my-llama]\nthinking = true", own).unwrap().model("my-llama").unwrap();
    assert!(both.thinking && both.price.is_some());
}

#[test]
fn mistakes_in_own_files_are_named() {
    let message = complaint("[models.x]\ntemprature = \"taken\"", "");
    assert!(
        message.contains("models.\"x\"") && message.contains("nearest known one is `temperature`"),
        "{message}"
    );
    let message = complaint("[modells.x]", "");
    assert!(message.contains("unknown key `modells`; the nearest known one is `models`"), "{message}");
    let message = complaint("[services.X]\nhost = [\"x\"]", "");
    assert!(message.contains("services.X") && message.contains("`hosts`"), "{message}");
    let message = complaint("[models.x]\nlike = \"y\"", "");
    assert!(message.contains("there is no model `y`"), "{message}");
    let message = complaint("[models.x]\nlike = \"y\"\n[models.y]\nlike = \"x\"", "");
    assert!(message.contains("`like` leads back to itself"), "{message}");
    let message = complaint("[models.x]\nends = \"soon\"", "");
    assert!(message.contains("models.\"x\""), "{message}");
    let message = complaint("models = 3", "");
    assert!(message.contains("expected a table"), "{message}");
    let message = complaint("[models.x", "");
    assert!(message.contains("models.toml"), "{message}");
    let row = "input = 1\noutput = 2\ncache_write = 1\ncache_read = -1";
    let message = complaint("", &format!("as_of = \"x\"\n[models.m]\n{row}"));
    assert!(message.contains("at least 0"), "{message}");
    let message = complaint("", "[models.m]\ninputt = 1");
    assert!(message.contains("`input`"), "{message}");
    let message = complaint("", "as_of = \"x\"\n[model.m]\ninput = 1");
    assert!(message.contains("nearest known one is `models`"), "{message}");
    assert_eq!(Catalogue::load("/nowhere/models.toml", "").unwrap_err().exit_code(), 2);
}

#[test]
fn the_built_in_file_is_whole() {
    let catalogue = built_in();
    assert!(catalogue.as_of.parse::<Date>().is_ok(), "{}", catalogue.as_of);
    assert!(catalogue.models.len() > 50 && catalogue.services.len() > 15);
    let all = catalogue.models.values().chain(catalogue.unlisted.iter().map(|(_, model)| model));
    assert!(all.clone().all(|model| model.max_output_tokens >= 1_024 && model.tokenizer_factor >= 1.0));
    assert!(catalogue.unlisted.iter().all(|(_, model)| model.price.is_none()));
}
