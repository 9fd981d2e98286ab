//! Requests: the ledger of calls to the Teacher.

use crate::column::{TimestampMs, table};

table! {
    /// One item's call: answered, shared with another item, or failed permanently.
    Request, "requests", by_round true {
        request_key: String, "Hash of the whole request.";
        kind: String, "Kind of request.", one_of ["scores", "corrections", "judgements", "audit"];
        subject_id: String, "rollout_id or rationale_id of the item.";
        round: u32, "ARES round.";
        provider: String, "anthropic, openai or reference.";
        model: String, "Model that was asked.";
        status: String, "ok, or the reason of the failure.";
        attempts: u32, "Requests sent, retries included; 0 if the reply was shared, or if another item of the same request counts them.", unit "requests";
        cached: bool, "True if another row paid for the reply.";
        input_tokens: u64, "Input tokens not read from the provider's prompt cache, including those written to it, summed over attempts.", unit "tokens";
        cached_input_tokens: u64, "Input tokens read from the provider's prompt cache.", unit "tokens";
        output_tokens: u64, "Output tokens, summed over attempts.", unit "tokens";
        cost_usd: Option<f64>, "Cost of all attempts; null if the price is unknown.", unit "US dollars";
        latency_ms: u32, "Time from sending the last attempt to its reply.", unit "ms";
        started_at: TimestampMs, "Time the first attempt was sent.", unit "ms since 1970, UTC";
        dialect: Option<String>, "Format of the request: parameters and reply format; null if unknown.", since 1;
        items: Option<u32>, "Number of items in the request, among which its tokens and cost are split; null if this was the only one.", unit "items", since 2;
        repeat: Option<u32>, "Which of the Teacher's scorings of the rationale was asked for, from 0; null in older files, and for other kinds.", since 3;
    }
}
