//! Prices, supported fields and token counts of a model.

use super::{PictureRule, Price};
use chrono::NaiveDate;
use schemas::settings::{ImageDetail, TokenLimitField};
use serde::Deserialize;

/// Limit of a reply by a model that does not think, and by one that does.
const PLAIN_REPLY: u32 = 1_024;
const REPLY_WITH_THINKING: u32 = 8_192;

/// Whether a sampling temperature is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Temperature {
    /// Always.
    #[default]
    Taken,
    /// Never, or only its default.
    Refused,
    /// Only with reasoning effort none.
    WithoutReasoning,
}

/// Tokenizer used to estimate the model's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tokenizer {
    /// cl100k_base, of GPT-3.5 and GPT-4.
    Cl100k,
    /// o200k_base, of GPT-4o and later.
    #[default]
    O200k,
}

/// A model. The default is an unknown one.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Model {
    /// Name under which it was asked for.
    #[serde(skip)]
    pub name: String,
    /// Whether the catalogue lists it, by this name or one like it.
    #[serde(skip)]
    pub is_listed: bool,
    /// Prices; `None` if they are not known.
    pub price: Option<Price>,
    /// Whether a temperature is accepted.
    pub temperature: Temperature,
    /// Levels of effort, lowest first; empty if the field is refused.
    pub efforts: Vec<String>,
    /// Effort if none is sent.
    pub default_effort: Option<String>,
    /// Whether it thinks before replying, unless effort none is sent.
    pub thinking: bool,
    /// Maximum tokens of a reply.
    pub max_output_tokens: u32,
    /// Whether replies can be constrained by a JSON schema.
    pub json_schema: bool,
    /// Field that limits a reply, if the model requires a certain one.
    pub token_limit_field: Option<TokenLimitField>,
    /// Picture detail that limits the price, if the model accepts that field.
    pub image_detail: Option<ImageDetail>,
    /// Minimum tokens of a prefix in the prompt cache; `None` if there is no cache, or it is unknown.
    pub prompt_cache_minimum: Option<u64>,
    /// Whether every prompt is written to the cache for a fee unless that is turned off.
    pub charges_cache_writes: bool,
    /// Whether pictures are accepted.
    pub takes_pictures: bool,
    /// How pictures are counted.
    pub picture: PictureRule,
    /// Tokenizer.
    pub tokenizer: Tokenizer,
    /// Tokens of the model per token of the tokenizer.
    pub tokenizer_factor: f64,
    /// Day of retirement.
    pub ends: Option<NaiveDate>,
    /// Last guaranteed day, if no retirement is announced.
    pub promised_until: Option<NaiveDate>,
    /// Successor of the model.
    pub successor: Option<String>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            name: String::new(),
            is_listed: false,
            price: None,
            temperature: Temperature::Taken,
            efforts: Vec::new(),
            default_effort: None,
            thinking: false,
            max_output_tokens: u32::MAX,
            json_schema: true,
            token_limit_field: None,
            image_detail: None,
            prompt_cache_minimum: None,
            charges_cache_writes: false,
            takes_pictures: true,
            picture: PictureRule::default(),
            tokenizer: Tokenizer::O200k,
            tokenizer_factor: 1.0,
            ends: None,
            promised_until: None,
            successor: None,
        }
    }
}

impl Model {
    /// The cheapest effort: `none` if it is offered, else low, else the lowest.
    pub fn lowest_effort(&self) -> Option<&str> {
        let offered = |wanted: &str| self.efforts.iter().find(|effort| *effort == wanted);
        offered("none").or_else(|| offered("low")).or(self.efforts.first()).map(String::as_str)
    }

    /// Whether replies contain thinking at an effort; `None` means no effort is sent.
    pub fn thinks(&self, effort: Option<&str>) -> bool {
        self.thinking && effort.or(self.default_effort.as_deref()) != Some("none")
    }

    /// Whether a temperature may be sent at an effort; `None` means no effort is sent.
    pub fn takes_temperature(&self, effort: Option<&str>) -> bool {
        match self.temperature {
            Temperature::Taken => true,
            Temperature::Refused => false,
            Temperature::WithoutReasoning => !self.thinks(effort),
        }
    }

    /// Usual limit of a reply in tokens, with room for thinking if there is some.
    pub fn reply_limit(&self, effort: Option<&str>) -> u32 {
        let limit = if self.thinks(effort) { REPLY_WITH_THINKING } else { PLAIN_REPLY };
        limit.min(self.max_output_tokens)
    }

    /// The same for replies about several items, or with reasons.
    pub fn grouped_reply_limit(&self, effort: Option<&str>, reasons: bool) -> u32 {
        let plain = if reasons { 4 * PLAIN_REPLY } else { 2 * PLAIN_REPLY };
        let limit = if self.thinks(effort) { REPLY_WITH_THINKING } else { plain };
        limit.min(self.max_output_tokens)
    }

    /// Whether every prompt is written to the cache for a fee unless that is turned off.
    pub fn charges_cache_writes(&self) -> bool {
        self.charges_cache_writes
    }

    /// Whether it is retired, or will be within this many days.
    pub fn ends_within(&self, today: NaiveDate, days: u32) -> bool {
        self.ends.is_some_and(|end| (end - today).num_days() <= i64::from(days))
    }

    /// A warning about the model's retirement: if it is announced within 60 days, or if the guarantee has
    /// expired.
    pub fn end_notice(&self, today: NaiveDate) -> Option<String> {
        let name = &self.name;
        let instead =
            self.successor.as_ref().map_or(String::new(), |model| format!("; its successor is {model}"));
        if let Some(end) = self.ends.filter(|_| self.ends_within(today, 60)) {
            let when = if end <= today { "has been retired since" } else { "will be retired on" };
            return Some(format!("{name} {when} {end}{instead}"));
        }
        let end = self.promised_until.filter(|end| *end < today)?;
        Some(format!("{name} is guaranteed only until {end} and may be retired soon{instead}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(efforts: &[&str]) -> Model {
        let efforts = efforts.iter().map(|effort| (*effort).to_owned()).collect();
        Model { name: "m".to_owned(), efforts, thinking: true, ..Model::default() }
    }

    fn date(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    #[test]
    fn lowest_effort_that_is_wanted() {
        assert_eq!(model(&["none", "low"]).lowest_effort(), Some("none"));
        assert_eq!(model(&["minimal", "low", "high"]).lowest_effort(), Some("low"));
        assert_eq!(model(&["high", "max"]).lowest_effort(), Some("high"));
        assert_eq!(model(&[]).lowest_effort(), None);
    }

    #[test]
    fn room_for_thinking_where_there_is_some() {
        let reasoning = Model { default_effort: Some("none".to_owned()), ..model(&["none", "low"]) };
        assert_eq!(reasoning.reply_limit(Some("none")), 1_024);
        assert_eq!(reasoning.reply_limit(None), 1_024);
        assert_eq!(reasoning.reply_limit(Some("low")), 8_192);
        assert_eq!(model(&[]).reply_limit(None), 8_192);
        assert_eq!(Model { max_output_tokens: 4_096, ..model(&[]) }.reply_limit(None), 4_096);
        assert_eq!(Model::default().reply_limit(None), 1_024);
        let at_none = Model { temperature: Temperature::WithoutReasoning, ..reasoning };
        assert!(at_none.takes_temperature(None) && !at_none.takes_temperature(Some("low")));
    }

    #[test]
    fn an_end_is_told_sixty_days_before() {
        let ending =
            Model { ends: Some(date("2027-01-14")), successor: Some("gpt-6-luna".to_owned()), ..model(&[]) };
        assert_eq!(ending.end_notice(date("2026-11-14")), None);
        let soon = ending.end_notice(date("2026-11-15")).unwrap();
        assert_eq!(soon, "m will be retired on 2027-01-14; its successor is gpt-6-luna");
        assert!(ending.end_notice(date("2027-01-14")).unwrap().contains("has been retired since"));
        let promised = Model { promised_until: Some(date("2026-10-15")), ..model(&[]) };
        assert_eq!(promised.end_notice(date("2026-10-15")), None);
        assert!(promised.end_notice(date("2026-10-16")).unwrap().contains("may be retired soon"));
    }
}
