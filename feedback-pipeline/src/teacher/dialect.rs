//! The request format that a service accepts: the form of each optional field, from the settings, the catalogue, and the
//! service's refusals.

use super::ServiceError;
use super::catalogue::{Model, Service};
use schemas::settings::{
    ContentForm, ImageDetail, Provider, ResponseFormat, SystemRole, TeacherSettings, TokenLimitField,
};
use std::fmt;

/// Temperature sent if the model accepts one and the settings do not set it.
const TEMPERATURE: f64 = 0.0;
/// Sampling temperature of repeats if none is set.
const TEMPERATURE_OF_REPEATS: f64 = 1.0;

/// How a request is written for one model at one address.
#[derive(Debug, Clone, PartialEq)]
pub struct Dialect {
    /// The API.
    pub provider: Provider,
    /// Name of the field that limits a reply.
    pub token_limit_field: TokenLimitField,
    /// The limit, thinking included.
    pub max_output_tokens: u32,
    /// The limit of a reply about several items.
    grouped_output_tokens: u32,
    /// Sampling temperature, if sent.
    pub temperature: Option<f64>,
    /// Reasoning effort, if sent.
    pub effort: Option<String>,
    /// How JSON is requested.
    pub response_format: ResponseFormat,
    /// Whether options of the service's prompt cache are sent: the system block is marked, or automatic writes are turned off.
    pub prompt_cache: bool,
    /// Message that contains the instructions.
    pub system_role: SystemRole,
    /// Form of the user's message.
    pub content: ContentForm,
    /// Picture detail, if sent.
    pub image_detail: Option<ImageDetail>,
    pinned: Pinned,
}

/// Fields set explicitly: they are sent unchanged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Pinned {
    token_limit_field: bool,
    max_output_tokens: bool,
    temperature: bool,
    effort: bool,
    response_format: bool,
    system_role: bool,
    content: bool,
    image_detail: bool,
}

/// What a refusal means for the dialect.
#[derive(Debug, Clone, PartialEq)]
pub enum Lesson {
    /// The same request may be accepted in this dialect; with a description of the change.
    Changed(Box<Dialect>, String),
    /// The named field is set explicitly.
    Pinned(&'static str),
    /// The model cannot see pictures.
    CannotSee,
    /// Nothing.
    None,
}

/// A field of a request that a refusal can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Temperature,
    TokenLimit,
    ResponseFormat,
    Effort,
    PromptCache,
    ImageDetail,
    SystemRole,
    Content,
}

/// Names by which refusals mention a field; the first match counts, so longer names precede their substrings.
const NAMES: [(&str, Field); 23] = [
    ("output_config.effort", Field::Effort),
    ("output_config.format", Field::ResponseFormat),
    ("reasoning_effort", Field::Effort),
    ("reasoning.effort", Field::Effort),
    ("reasoningeffort", Field::Effort),
    ("effort", Field::Effort),
    ("prompt_cache_options", Field::PromptCache),
    ("prompt_cache_breakpoint", Field::PromptCache),
    ("cache_control", Field::PromptCache),
    ("temperature", Field::Temperature),
    ("max_completion_tokens", Field::TokenLimit),
    ("max_tokens", Field::TokenLimit),
    ("response_format", Field::ResponseFormat),
    ("json_schema", Field::ResponseFormat),
    ("json schema", Field::ResponseFormat),
    ("json_object", Field::ResponseFormat),
    ("output_config", Field::ResponseFormat),
    ("additionalproperties", Field::ResponseFormat),
    ("structured output", Field::ResponseFormat),
    ("schema", Field::ResponseFormat),
    ("too many states", Field::ResponseFormat),
    ("image_url.detail", Field::ImageDetail),
    ("detail", Field::ImageDetail),
];

impl Dialect {
    /// The initial dialect: from the settings, else from the catalogue entries of the model and the service.
    pub fn new(settings: &TeacherSettings, model: &Model, service: &Service) -> Self {
        let is_anthropic = settings.provider == Provider::Anthropic;
        let effort = match &settings.effort {
            Some(effort) => Some(effort.clone()).filter(|effort| !effort.is_empty()),
            None => model.lowest_effort().map(ToOwned::to_owned),
        };
        let of_service = match model.name.contains("claude") {
            true => service.claude_response_format.or(service.response_format),
            false => service.response_format,
        };
        let auto_format = match of_service {
            _ if !model.json_schema => ResponseFormat::None,
            Some(format) => format,
            None => ResponseFormat::JsonSchema,
        };
        Self {
            provider: settings.provider,
            token_limit_field: match settings.token_limit_field {
                TokenLimitField::Auto if is_anthropic => TokenLimitField::MaxTokens,
                TokenLimitField::Auto => service
                    .token_limit_field
                    .or(model.token_limit_field)
                    .unwrap_or(TokenLimitField::MaxTokens),
                set => set,
            },
            max_output_tokens: settings
                .max_output_tokens
                .unwrap_or_else(|| model.reply_limit(effort.as_deref())),
            grouped_output_tokens: settings
                .max_output_tokens
                .unwrap_or_else(|| model.grouped_reply_limit(effort.as_deref(), settings.reasons)),
            temperature: match settings.temperature {
                Some(temperature) => Some(temperature),
                None => model.takes_temperature(effort.as_deref()).then_some(TEMPERATURE),
            },
            effort,
            response_format: match settings.response_format {
                ResponseFormat::Auto => auto_format,
                set => set,
            },
            prompt_cache: is_anthropic || model.charges_cache_writes(),
            system_role: match settings.system_role {
                SystemRole::Auto => SystemRole::System,
                set => set,
            },
            content: match settings.content {
                ContentForm::Auto => ContentForm::Parts,
                set => set,
            },
            image_detail: match settings.image_detail {
                ImageDetail::Auto if is_anthropic => None,
                ImageDetail::Auto => model.image_detail,
                set => Some(set),
            },
            pinned: Pinned {
                token_limit_field: settings.token_limit_field != TokenLimitField::Auto,
                max_output_tokens: settings.max_output_tokens.is_some(),
                temperature: settings.temperature.is_some(),
                effort: settings.effort.is_some(),
                response_format: settings.response_format != ResponseFormat::Auto,
                system_role: settings.system_role != SystemRole::Auto,
                content: settings.content != ContentForm::Auto,
                image_detail: settings.image_detail != ImageDetail::Auto,
            },
        }
    }

    /// The dialect of repeats: at a temperature at which replies differ, unless one is set.
    pub fn for_repeats(self) -> Self {
        match self.temperature {
            Some(_) if !self.pinned.temperature => Self { temperature: Some(TEMPERATURE_OF_REPEATS), ..self },
            _ => self,
        }
    }

    /// The dialect of requests about several items: their replies may be longer.
    pub fn grouped(&self) -> Self {
        Self { max_output_tokens: self.grouped_output_tokens, ..self.clone() }
    }

    /// The lesson from the refusal of a request about several items.
    pub(super) fn learn_grouped(&self, status: u16, error: &ServiceError, has_picture: bool) -> Lesson {
        match self.grouped().learn(status, error, has_picture) {
            Lesson::Changed(mut next, what) => {
                next.grouped_output_tokens = next.max_output_tokens;
                next.max_output_tokens = next.max_output_tokens.min(self.max_output_tokens);
                Lesson::Changed(next, what)
            }
            other => other,
        }
    }

    /// The lesson from the refusal of a request in this dialect, with or without a picture.
    pub fn learn(&self, status: u16, error: &ServiceError, has_picture: bool) -> Lesson {
        if !matches!(status, 400 | 404 | 415 | 422) {
            return Lesson::None;
        }
        let message = error.message.to_ascii_lowercase();
        if has_picture && refuses_pictures(&message) {
            return Lesson::CannotSee;
        }
        let Some(field) = named(&error.param.to_ascii_lowercase(), &message) else { return Lesson::None };
        if status == 404 && field != Field::ResponseFormat {
            return Lesson::None; // a model or an address that does not exist
        }
        self.without(field, &message, has_picture)
    }

    /// The dialect with another form of a field, or without it.
    fn without(&self, field: Field, message: &str, has_picture: bool) -> Lesson {
        let mut next = self.clone();
        let pinned = &self.pinned;
        let (is_pinned, setting) = match field {
            Field::Temperature => (pinned.temperature, "teacher.temperature"),
            Field::TokenLimit => (pinned.token_limit_field, "teacher.token_limit_field"),
            Field::ResponseFormat => (pinned.response_format, "teacher.response_format"),
            Field::Effort => (pinned.effort, "teacher.effort"),
            Field::PromptCache => (false, ""),
            Field::ImageDetail => (pinned.image_detail, "teacher.image_detail"),
            Field::SystemRole => (pinned.system_role, "teacher.system_role"),
            Field::Content => (pinned.content, "teacher.content"),
        };
        if field == Field::TokenLimit
            && let Some(most) = most_allowed(message, self.max_output_tokens)
        {
            if pinned.max_output_tokens {
                return Lesson::Pinned("teacher.max_output_tokens");
            }
            next.max_output_tokens = most;
            next.grouped_output_tokens = most.min(self.grouped_output_tokens);
            return Lesson::Changed(Box::new(next), format!("replies are limited to {most} tokens"));
        }
        if is_pinned {
            return Lesson::Pinned(setting);
        }
        let what = match field {
            Field::Temperature if self.temperature.is_some() => {
                next.temperature = None;
                "temperature is omitted".to_owned()
            }
            Field::TokenLimit if !self.pinned.token_limit_field => {
                next.token_limit_field = match self.token_limit_field {
                    TokenLimitField::MaxCompletionTokens => TokenLimitField::MaxTokens,
                    _ => TokenLimitField::MaxCompletionTokens,
                };
                // If both names are refused, the reason is another one.
                next.pinned.token_limit_field = true;
                format!("the reply limit is sent as {}", next.token_limit_field)
            }
            Field::ResponseFormat if self.response_format != ResponseFormat::None => {
                next.response_format = match (self.response_format, self.provider) {
                    (ResponseFormat::JsonSchema, Provider::OpenAi) => ResponseFormat::JsonObject,
                    _ => ResponseFormat::None,
                };
                match next.response_format {
                    ResponseFormat::JsonObject => "JSON is requested without a schema".to_owned(),
                    _ => "JSON is requested by the prompt only".to_owned(),
                }
            }
            Field::Effort if self.effort.is_some() => {
                next.effort = None;
                "reasoning effort is omitted".to_owned()
            }
            Field::PromptCache if self.prompt_cache => {
                next.prompt_cache = false;
                "prompt cache options are omitted".to_owned()
            }
            Field::ImageDetail if self.image_detail.is_some() => {
                next.image_detail = None;
                "picture detail is omitted".to_owned()
            }
            Field::SystemRole if self.system_role != SystemRole::User => {
                next.system_role = SystemRole::User;
                "instructions are sent in the user message".to_owned()
            }
            Field::Content if has_picture => return Lesson::CannotSee,
            Field::Content if self.content != ContentForm::Text => {
                next.content = ContentForm::Text;
                "messages are sent as plain text".to_owned()
            }
            _ => return Lesson::None,
        };
        Lesson::Changed(Box::new(next), what)
    }
}

/// In terms of the settings, for the ledger: `max_tokens 1024, temperature 0, json_schema`.
impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.token_limit_field, self.max_output_tokens)?;
        if let Some(temperature) = self.temperature {
            write!(f, ", temperature {temperature}")?;
        }
        if let Some(effort) = &self.effort {
            write!(f, ", effort {effort}")?;
        }
        write!(
            f,
            ", {}",
            match self.response_format {
                ResponseFormat::None => "no response format",
                format => format.as_str(),
            }
        )?;
        if let Some(detail) = self.image_detail {
            write!(f, ", image detail {detail}")?;
        }
        if self.system_role == SystemRole::User {
            f.write_str(", instructions in the user's message")?;
        }
        if self.content == ContentForm::Text {
            f.write_str(", plain text content")?;
        }
        Ok(())
    }
}

/// The field that a refusal names: in `param`, else first in the message.
fn named(param: &str, message: &str) -> Option<Field> {
    let in_param = NAMES.iter().find(|(name, _)| param.contains(name)).map(|(_, field)| *field);
    if in_param.is_some() {
        return in_param;
    }
    if says_any(
        message,
        &[
            "system role",
            "role system",
            "role 'system'",
            "role \"system\"",
            "system message",
            "developer instruction",
        ],
    ) || (param.contains("role") && message.contains("system"))
    {
        return Some(Field::SystemRole);
    }
    if says_any(
        message,
        &[
            "content must be a string",
            "content should be a string",
            "content: str",
            "valid string",
            "sequence, expected a string",
        ],
    ) || (param.ends_with("content") && says_any(message, &["string", "str"]))
    {
        return Some(Field::Content);
    }
    let places = NAMES.iter().filter_map(|(name, field)| Some((message.find(name)?, *field)));
    places.min_by_key(|(place, _)| *place).map(|(_, field)| field)
}

/// Whether a refusal says that the model cannot see pictures.
fn refuses_pictures(message: &str) -> bool {
    let names_pictures = says_any(message, &["image", "picture", "vision", "multimodal", "multi-modal"]);
    let refuses = [
        "not support",
        "unsupported",
        "no endpoints",
        "cannot process",
        "can't process",
        "not multimodal",
        "not a multimodal",
        "not a vision",
        "no vision",
        "text-only",
        "text only",
        "is not enabled",
        "mmproj",
        "not allowed",
        "invalid image input",
        "only supports text",
        "only supported by",
        "unknown variant",
        "missing data required",
    ];
    names_pictures && says_any(message, &refuses) && !message.contains("detail")
}

/// The maximum number of tokens that a refusal of the limit names, if any.
fn most_allowed(message: &str, sent: u32) -> Option<u32> {
    if !says_any(message, &["maximum", "at most", "less than or equal", "range", "too large", "exceed", "<="])
    {
        return None;
    }
    let numbers = message.split(|c: char| !c.is_ascii_digit()).filter_map(|text| text.parse::<u32>().ok());
    numbers.filter(|number| (16..sent).contains(number)).max()
}

fn says_any(message: &str, words: &[&str]) -> bool {
    words.iter().any(|words| message.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialect() -> Dialect {
        let settings = TeacherSettings { provider: Provider::OpenAi, ..TeacherSettings::default() };
        let mut dialect = Dialect::new(&settings, &Model::default(), &Service::default());
        dialect.effort = Some("low".to_owned());
        dialect.image_detail = Some(ImageDetail::High);
        dialect.prompt_cache = true;
        dialect
    }

    fn learn(status: u16, param: &str, message: &str, has_picture: bool) -> Lesson {
        let error = ServiceError { param: param.into(), message: message.into(), ..ServiceError::default() };
        dialect().learn(status, &error, has_picture)
    }

    fn changed(lesson: Lesson) -> Dialect {
        match lesson {
            Lesson::Changed(dialect, _) => *dialect,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_field_is_found_and_changed_alone() {
        let before = dialect();
        type Case = (&'static str, &'static str, fn(&Dialect) -> bool);
        let table: [Case; 11] = [
            ("temperature", "", |d| d.temperature.is_none()),
            ("", "temperature: Extra inputs are not permitted", |d| d.temperature.is_none()),
            (
                "max_tokens",
                "Unsupported parameter: 'max_tokens' … Use 'max_completion_tokens' instead.",
                |d| d.token_limit_field == TokenLimitField::MaxCompletionTokens,
            ),
            ("", "Unrecognized request argument supplied: max_tokens", |d| {
                d.token_limit_field == TokenLimitField::MaxCompletionTokens
            }),
            ("", "This response_format type is unavailable now", |d| {
                d.response_format == ResponseFormat::JsonObject
            }),
            ("", "The schema has too many states", |d| d.response_format == ResponseFormat::JsonObject),
            ("reasoning_effort", "", |d| d.effort.is_none()),
            ("prompt_cache_options", "unknown parameter", |d| !d.prompt_cache),
            ("", "System role not supported", |d| d.system_role == SystemRole::User),
            ("messages.1.content", "Input should be a valid string", |d| d.content == ContentForm::Text),
            ("", "max_tokens is too large: 1024. This model supports at most 512 completion tokens", |d| {
                d.max_output_tokens == 512
            }),
        ];
        for (param, message, has_changed) in table {
            let after = changed(learn(400, param, message, false));
            assert!(has_changed(&after), "{param} {message}: {after:?}");
            assert!(!has_changed(&before), "{param} {message}");
        }
    }

    #[test]
    fn a_schema_gives_way_step_by_step() {
        let error =
            ServiceError { message: "response_format is not supported".into(), ..ServiceError::default() };
        let first = changed(dialect().learn(400, &error, false));
        assert_eq!(first.response_format, ResponseFormat::JsonObject);
        let second = changed(first.learn(400, &error, false));
        assert_eq!(second.response_format, ResponseFormat::None);
        assert_eq!(second.learn(400, &error, false), Lesson::None);
    }

    #[test]
    fn a_model_that_cannot_see_is_not_asked_blind() {
        for message in [
            "This model does not support image inputs",
            "No endpoints found that support image input",
            "invalid image input",
            "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj",
            "Invalid content type. image_url is only supported by certain models.",
            "unknown variant `image_url`, expected `text`",
            "this model is missing data required for image input",
        ] {
            assert_eq!(learn(400, "", message, true), Lesson::CannotSee, "{message}");
        }
        assert_eq!(
            learn(422, "messages.1.content", "Input should be a valid string", true),
            Lesson::CannotSee
        );
        assert_eq!(learn(400, "", "the question about an image is unsupported", false), Lesson::None);
    }

    #[test]
    fn what_is_set_by_hand_stays() {
        let settings = TeacherSettings {
            provider: Provider::OpenAi,
            temperature: Some(0.3),
            ..TeacherSettings::default()
        };
        let dialect = Dialect::new(&settings, &Model::default(), &Service::default());
        let error = ServiceError { param: "temperature".into(), ..ServiceError::default() };
        assert_eq!(dialect.learn(400, &error, false), Lesson::Pinned("teacher.temperature"));
    }

    #[test]
    fn other_refusals_teach_nothing() {
        assert_eq!(learn(429, "temperature", "", false), Lesson::None);
        assert_eq!(learn(400, "", "prompt is too long", false), Lesson::None);
        assert_eq!(learn(404, "", "the model `temperature-1` does not exist", false), Lesson::None);
    }
}
