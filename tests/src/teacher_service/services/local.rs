//! Servers that run any model: vLLM, SGLang and llama.cpp.

use super::desktop::local_thinking;
use super::failure::{self, Failure};
use super::thinking::Shown;
use super::{KeyHeader, OPENAI_LIKE, Profile, Route, Sent, usage};
use crate::teacher_service::wire::Api;

const PATHS: &[(&str, Route)] = &[
    ("/v1/chat/completions", Route::Chat),
    ("/v1/messages", Route::Messages),
    ("/v1/messages/count_tokens", Route::CountTokens),
];

const VLLM_LIKE: Profile = Profile {
    paths: PATHS,
    // Also for the Messages API, whose clients send another header.
    keys: &[KeyHeader::Bearer],
    needs_key: false,
    bad_key: || Failure::new(401, "authentication_error", "key", "Unauthorized"),
    no_path: |_| Failure::new(404, "NotFoundError", "path", "Not Found"),
    blind: |sent| Failure::bad("image", format!("{} is not a multimodal model", sent.model)),
    word: failure::vllm,
    check: vllm,
    thinks: local_thinking,
    shows: |sent| if sent.api == Api::Anthropic { Shown::Block } else { Shown::Reasoning },
    usage: usage::bare,
    ..OPENAI_LIKE
};

pub(crate) static VLLM: Profile = VLLM_LIKE;

pub(crate) static VLLM_WITHOUT_PARSER: Profile = Profile { shows: |_| Shown::Tags, ..VLLM_LIKE };

pub(crate) static SGLANG: Profile = Profile {
    word: failure::sglang,
    shows: |sent| if sent.api == Api::Anthropic { Shown::Block } else { Shown::ReasoningContent },
    ..VLLM_LIKE
};

pub(crate) static LLAMA_CPP: Profile = Profile {
    paths: &[("/v1/chat/completions", Route::Chat), ("/chat/completions", Route::Chat)],
    needs_key: false,
    bad_key: || Failure::new(401, "authentication_error", "key", "Invalid API Key"),
    no_path: |_| Failure::new(404, "not_found_error", "path", "File Not Found"),
    blind: |_| {
        let message =
            "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj";
        Failure::new(500, "server_error", "image", message)
    },
    word: failure::llama_cpp,
    check: |sent| match sent.body["n"].as_u64() {
        Some(n) if n != 1 => Err(Failure::bad("n", "Only one completion choice is allowed")),
        _ => Ok(()),
    },
    thinks: local_thinking,
    shows: |_| Shown::ReasoningContent,
    usage: usage::bare,
    context: Some(8_192),
    ..OPENAI_LIKE
};

fn vllm(sent: &Sent<'_>) -> Result<(), Failure> {
    let values = ["none", "low", "medium", "high", "xhigh", "max", "minimal"];
    match sent.text("reasoning_effort") {
        Some(effort) if !values.contains(&effort) => {
            Err(Failure::bad("reasoning_effort", format!("reasoning_effort: unexpected value '{effort}'"))
                .param())
        }
        _ => Ok(()),
    }
}
