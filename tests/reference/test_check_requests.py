"""Tests of check_requests.py with good and bad bodies. Needs the packages of requirements-sdk.txt."""

import copy
import json
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from check_requests import DOCUMENTED, Checker, listing

SCHEMA = {
    "type": "object",
    "properties": {"better": {"type": "string", "enum": ["A", "B", "tie"]}},
    "required": ["better"],
    "additionalProperties": False,
}
DROP = object()


def message(model="claude-haiku-5-5"):
    picture = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    return {
        "model": model,
        "max_tokens": 1024,
        "system": [{"type": "text", "text": "You compare.", "cache_control": {"type": "ephemeral"}}],
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": copy.deepcopy(SCHEMA)}},
        "messages": [
            {"role": "user", "content": [{"type": "image", "source": picture}, {"type": "text", "text": "<problem>"}]},
            {"role": "assistant", "content": "{"},
            {"role": "user", "content": "That is no JSON."},
        ],
    }


def completion(model="gpt-6-luna"):
    picture = {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "high"}
    breakpoint = {"mode": "explicit"}
    return {
        "model": model,
        "max_completion_tokens": 1024,
        "reasoning_effort": "none",
        "temperature": 0,
        "prompt_cache_options": {"mode": "explicit"},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "judgements", "strict": True, "schema": copy.deepcopy(SCHEMA)},
        },
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "You compare.", "prompt_cache_breakpoint": breakpoint}]},
            {"role": "user", "content": [{"type": "image_url", "image_url": picture}, {"type": "text", "text": "<problem>"}]},
            {"role": "assistant", "content": "{"},
            {"role": "user", "content": "That is no JSON."},
        ],
    }


def changed(body, path, value):
    """The body with one field set, added or dropped. Numbers in the dotted path are list positions."""
    body = copy.deepcopy(body)
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    inside = body
    for part in way:
        inside = inside[part]
    if value is DROP:
        del inside[last]
    else:
        inside[last] = value
    return body


class Check(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.checker = Checker()

    def faults(self, record):
        return self.checker.check(record)[1]

    def good(self, record):
        self.assertEqual([str(fault) for fault in self.faults(record)], [])

    def bad(self, record, path):
        found = [fault.path for fault in self.faults(record)]
        self.assertTrue(any(one == path for one in found), f"expected a fault at {path}, found {found}")

    def test_good_messages(self):
        body = message()
        self.good({"path": "/v1/messages", "body": body})
        for path, value in [
            ("output_config", DROP),
            ("system", DROP),
            ("system", "You compare."),
            ("thinking", {"type": "disabled"}),
            ("system.0.cache_control.ttl", "1h"),
            ("output_config.effort", None),
        ]:
            with self.subTest(path=path):
                self.good({"path": "/v1/messages", "body": changed(body, path, value)})
        count = changed(body, "max_tokens", DROP)
        self.good({"path": "/v1/messages/count_tokens", "body": count})

    def test_bad_messages(self):
        for path, value, where in [
            ("max_tokens", DROP, "max_tokens"),
            ("max_tokens", "1024", "max_tokens"),
            ("max_tokens", 1024.5, "max_tokens"),
            ("max_tokens", True, "max_tokens"),
            ("model", None, "model"),
            ("messages", DROP, "messages"),
            ("messages", "hello", "messages"),
            ("max_completion_tokens", 5, "max_completion_tokens"),
            ("top_p", 0.99, "top_p"),
            ("output_format", {"type": "json_schema"}, "output_format"),
            ("workspace_id", "w", "workspace_id"),
            ("stream", True, "stream"),
            ("output_config.effort", "none", "output_config.effort"),
            ("output_config.verbosity", "low", "output_config.verbosity"),
            ("output_config.format.type", "json", "output_config.format.type"),
            ("output_config.format.name", "x", "output_config.format.name"),
            ("output_config.format.schema", [], "output_config.format.schema"),
            ("output_config.format.schema", {"properties": {}}, "output_config.format.schema"),
            ("output_config.format.schema.additionalProperties", DROP, "output_config.format.schema"),
            ("output_config.format.schema.properties.better.maxLength", 3, "output_config.format.schema"),
            ("system.0.cache_control.type", "lasting", "system[0].cache_control.type"),
            ("system.0.cache_control.mode", "x", "system[0].cache_control.mode"),
            ("system.0.text", 5, "system[0].text"),
            ("messages.0.role", "boss", "messages[0]"),
            ("messages.0.name", "x", "messages[0].name"),
            ("messages.0.content.0.type", "picture", "messages[0].content[0]"),
            ("messages.0.content.0.detail", "high", "messages[0].content[0].detail"),
            ("messages.0.content.0.source.media_type", "image/bmp", "messages[0].content[0].source.media_type"),
            ("messages.0.content.0.source.data", DROP, "messages[0].content[0].source.data"),
            ("messages.0.content.1.text", DROP, "messages[0].content[1].text"),
            ("messages.2.content", 5, "messages[2].content"),
            ("thinking", {"type": "enabled"}, "thinking.budget_tokens"),
        ]:
            with self.subTest(path=path, value=str(value)):
                self.bad({"path": "/v1/messages", "body": changed(message(), path, value)}, where)

    def test_temperature_of_older_claude_models_alone(self):
        for model, taken in [("claude-haiku-4-5", True), ("claude-opus-4-6", True), ("claude-haiku-4-5-20251001", True)] + [
            (model, False) for model in ("claude-haiku-5-5", "claude-sonnet-5", "claude-opus-5-5", "claude-opus-4-7")
        ]:
            with self.subTest(model=model):
                body = changed(message(model), "temperature", 0)
                for record, path in [
                    ({"path": "/v1/messages", "body": body}, "temperature"),
                    (
                        {"path": "/v1/messages/batches", "body": {"requests": [{"custom_id": "a", "params": body}]}},
                        "requests[0].params.temperature",
                    ),
                ]:
                    self.good(record) if taken else self.bad(record, path)
        self.bad({"path": "/v1/messages", "body": changed(message("claude-haiku-4-5"), "temperature", "0")}, "temperature")

    def test_batches_of_messages(self):
        body = {"requests": [{"custom_id": "a", "params": message()}, {"custom_id": "b", "params": message()}]}
        self.good({"path": "/v1/messages/batches", "body": body})
        for path, value, where in [
            ("requests.1.custom_id", "a", "requests"),
            ("requests.1.custom_id", DROP, "requests[1].custom_id"),
            ("requests.1.params.nonsense", 1, "requests[1].params.nonsense"),
            ("requests.1.params.output_config.format.schema.minimum", 1, "requests[1].params.output_config.format.schema"),
            ("requests.1.method", "POST", "requests[1].method"),
            ("endpoint", "/v1/messages", "endpoint"),
            ("requests", {}, "requests"),
        ]:
            with self.subTest(path=path):
                self.bad({"path": "/v1/messages/batches", "body": changed(body, path, value)}, where)

    def test_good_completions(self):
        body = completion()
        self.good({"path": "/v1/chat/completions", "body": body})
        for path, value in [
            ("max_tokens", 1024),
            ("response_format", DROP),
            ("response_format", {"type": "json_object"}),
            ("messages.0.content", "You compare."),
            ("messages.1.content", "<problem>"),
            ("temperature", 0.5),
            ("verbosity", "low"),
        ]:
            with self.subTest(path=path):
                self.good({"path": "/compatible/v1/chat/completions?x=y", "body": changed(body, path, value)})

    def test_bad_completions(self):
        for path, value, where in [
            ("model", DROP, "model"),
            ("model", 6, "model"),
            ("max_completion_tokens", "1024", "max_completion_tokens"),
            ("max_output_tokens", 5, "max_output_tokens"),
            ("system", "x", "system"),
            ("temperature", "0", "temperature"),
            ("temperature", False, "temperature"),
            ("reasoning_effort", "off", "reasoning_effort"),
            ("prompt_cache_options.mode", "auto", "prompt_cache_options.mode"),
            ("prompt_cache_options.depth", 1, "prompt_cache_options.depth"),
            ("response_format.type", "json", "response_format"),
            ("response_format.schema", {}, "response_format.schema"),
            ("response_format.json_schema.name", DROP, "response_format.json_schema.name"),
            ("response_format.json_schema.strict", "yes", "response_format.json_schema.strict"),
            ("response_format.json_schema.schema.required", [], "response_format.json_schema.schema"),
            ("messages.0.content.0.cache_control", {}, "messages[0].content[0].cache_control"),
            ("messages.0.content.0.prompt_cache_breakpoint", True, "messages[0].content[0].prompt_cache_breakpoint"),
            ("messages.0.content.0.prompt_cache_breakpoint.mode", "x", "messages[0].content[0].prompt_cache_breakpoint.mode"),
            ("messages.1.content.0.image_url", "data:", "messages[1].content[0].image_url"),
            ("messages.1.content.0.image_url.detail", "highest", "messages[1].content[0].image_url.detail"),
            ("messages.1.content.0.image_url.media_type", "image/png", "messages[1].content[0].image_url.media_type"),
            ("messages.1.content.1.text", None, "messages[1].content[1].text"),
            ("messages.1.role", "human", "messages[1]"),
        ]:
            with self.subTest(path=path, value=str(value)):
                self.bad({"path": "/v1/chat/completions", "body": changed(completion(), path, value)}, where)

    def test_batch_files_and_batches(self):
        line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": completion()}
        self.good(line)
        for path, value, where in [
            ("custom_id", DROP, "custom_id"),
            ("method", "GET", "method"),
            ("url", "/v1/responses", "url"),
            ("params", {}, "params"),
            ("body", [], "body"),
            ("body.nonsense", 1, "body.nonsense"),
        ]:
            with self.subTest(path=path):
                self.bad(changed(line, path, value), where)
        batch = {
            "input_file_id": "file-1",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {"plan": "a"},
        }
        self.good({"path": "/v1/batches", "body": batch})
        for path, value, where in [
            ("completion_window", "1h", "completion_window"),
            ("endpoint", DROP, "endpoint"),
            ("metadata.plan", 5, "metadata.plan"),
            ("file", "x", "file"),
        ]:
            with self.subTest(path=path):
                self.bad({"path": "/v1/batches", "body": changed(batch, path, value)}, where)

    def test_requests_of_batches_on_lines_of_their_own(self):
        for path, body in [("/v1/messages/batches", message()), ("/v1/files", completion())]:
            with self.subTest(path=path):
                self.good({"path": path, "body": body})
                self.bad({"path": path, "body": changed(body, "nonsense", 1)}, "nonsense")
        self.bad({"path": "/v1/messages/batches", "body": {}}, "requests")

    def test_version_of_the_messages_api(self):
        record = {"path": "/v1/messages", "headers": {"anthropic-version": "2023-06-01"}, "body": message()}
        self.good(record)
        self.bad(changed(record, "headers.anthropic-version", "2026-10-21"), "headers.anthropic-version")

    def test_unknown_paths_and_lines(self):
        self.bad({"path": "/v1/complete", "body": {}}, "path")
        self.bad({"path": "/v1/messages", "body": "text"}, "")
        self.bad([], "")

    def test_no_field_is_listed_that_the_packages_have(self):
        for (provider, name), _ in DOCUMENTED.items():
            kind = {"anthropic": self.checker.anthropic.message, "openai": self.checker.openai.completion}[provider]
            self.assertNotIn(name, kind.__annotations__)

    def test_logs_are_counted(self):
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log.jsonl"
            records = [{"path": "/v1/messages", "body": message()}, {"path": "/v1/messages", "body": {}}]
            log.write_text("".join(json.dumps(record) + "\n" for record in records) + "{\n")
            checker = Checker()
            faults = checker.check_log(log)
        self.assertEqual(checker.counts["Anthropic message"], 2)
        self.assertEqual(len(faults), 4, faults)
        lines = listing(faults + [(4, faults[0][1])])
        self.assertEqual(len(lines), 4, lines)
        self.assertIn("line 2: Anthropic message: max_tokens: expected the field", lines[0])
        self.assertIn("(and 1 more like it)", lines[0])


if __name__ == "__main__":
    unittest.main()
