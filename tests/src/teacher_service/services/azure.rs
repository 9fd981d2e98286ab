//! Azure OpenAI, version 1: OpenAI's models behind Azure's path and key header, named by deployments.

use super::failure::Failure;
use super::{KeyHeader, Profile, Route, Sent, openai};
use crate::teacher_service::wire::Api;

pub(crate) static AZURE: Profile = Profile {
    paths: &[("/openai/v1/chat/completions", Route::Chat)],
    batches: &[("/openai/v1", Api::OpenAi)],
    keys: &[KeyHeader::ApiKey, KeyHeader::Bearer],
    bad_key: || {
        let message = "Access denied due to invalid subscription key or wrong API endpoint.";
        Failure::new(401, "invalid_request_error", "key", message).code("401")
    },
    no_path: |_| Failure::new(404, "invalid_request_error", "path", "Resource not found").code("404"),
    flagged: || {
        let message = "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.";
        Failure::bad("prompt", message).code("content_filter").param()
    },
    check,
    ..openai::PROFILE
};

/// Deployments can have any name; here they are named after their model.
fn check(sent: &Sent<'_>) -> Result<(), Failure> {
    openai::check(sent).map_err(|failure| match failure.code {
        "model_not_found" => {
            let message = "The API deployment for this resource does not exist.";
            Failure::new(404, "invalid_request_error", "model", message).code("DeploymentNotFound")
        }
        _ => failure,
    })
}
