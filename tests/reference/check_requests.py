"""Checks request bodies against the request types in the providers' own packages, anthropic and openai.

    python3 -m venv /tmp/sdk && /tmp/sdk/bin/pip install -r tests/reference/requirements-sdk.txt
    simulated-teacher --data datasets/NAME --log-requests LOG.jsonl
    /tmp/sdk/bin/python tests/reference/check_requests.py LOG.jsonl...

A line of a log is `{"path": "/v1/messages", "body": {...}}`; the path says which API the body is for. The requests of a
batch may be logged one per line, with the path the batch was sent to. A line may also come from an OpenAI batch file:
`{"custom_id": ..., "method": "POST", "url": "/v1/chat/completions", "body": {...}}`.

Unknown fields, wrong types and missing fields are errors at any depth, as is a JSON schema that the package would change before
sending it. Exit status: 0 all bodies are valid, 1 some are not, 2 bad usage, 77 skipped because the packages are not installed.
"""

import argparse
import collections
import collections.abc
import json
import re
import sys
import types
import typing
from pathlib import Path

SKIPPED = 77

# Fields that a provider documents but the types of its newest package lack: path in the body -> type and models.
DOCUMENTED = {
    # The package uses API version 2026-10-21, which dropped the sampling parameters. collect-feedback uses 2023-06-01, where models
    # up to Claude 4.6 accept them. Sources: https://platform.claude.com/docs/en/api/versioning, and the last package that has
    # the field, anthropic 0.125.0: `temperature: float`, "Ranges from 0.0 to 1.0".
    ("anthropic", "temperature"): (float, r"claude-(haiku-4-5|sonnet-4-[56]|opus-4-[156])(-\d{8})?"),
}

# The API version that accepts these fields.
ANTHROPIC_VERSION = "2023-06-01"

# Fields that tell the members of a union apart.
TAGS = ("type", "role")

# Parameters in the same types that are sent as HTTP headers, not in the body.
HEADERS = {"anthropic": {"betas", "user_profile_id", "workspace_id"}, "openai": set()}


class Fault(typing.NamedTuple):
    """What is wrong with one field."""

    path: str
    expected: str
    found: str

    def __str__(self):
        return f"{self.path or 'body'}: expected {self.expected}, found {self.found}"


def brief(value):
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def join(path, name):
    return f"{path}.{name}" if path else name


class Types:
    """Walks JSON values along the type hints of one package."""

    def __init__(self, provider):
        import typing_extensions

        self.provider = provider
        self.typing = typing_extensions
        self.known = {}

    def fields(self, typed_dict):
        """Each field's type, and whether it must be there."""
        if typed_dict not in self.known:
            hints = self.typing.get_type_hints(typed_dict, include_extras=True)
            inherited = {}
            for base in getattr(typed_dict, "__orig_bases__", ()):
                if self.typing.is_typeddict(base):
                    inherited |= self.fields(base)
            fields = {}
            for name, hint in hints.items():
                required = inherited[name][1] if name in inherited else typed_dict.__total__
                while self.typing.get_origin(hint) in (self.typing.Required, self.typing.NotRequired, self.typing.Annotated):
                    if self.typing.get_origin(hint) is not self.typing.Annotated:
                        required = self.typing.get_origin(hint) is self.typing.Required
                    hint = self.typing.get_args(hint)[0]
                fields[name] = (hint, required)
            self.known[typed_dict] = fields
        return self.known[typed_dict]

    def check(self, hint, value, path=""):
        """All faults of a value."""
        hint = getattr(hint, "__value__", hint)
        origin, arguments = self.typing.get_origin(hint), self.typing.get_args(hint)
        if origin is self.typing.Annotated:
            return self.check(arguments[0], value, path)
        if origin in (typing.Union, types.UnionType):
            return self.check_union(arguments, value, path)
        if origin is self.typing.Literal:
            same = any(type(value) is type(one) and value == one for one in arguments)
            return [] if same else [Fault(path, self.name(hint), brief(value))]
        if hint in (typing.Any, object):
            return []
        if self.typing.is_typeddict(hint):
            return self.check_object(hint, value, path)
        if origin is dict or origin in (collections.abc.Mapping, collections.abc.MutableMapping):
            if not isinstance(value, dict):
                return [Fault(path, "an object", brief(value))]
            return [fault for name, one in value.items() for fault in self.check(arguments[1], one, join(path, name))]
        if origin is list or origin in (collections.abc.Iterable, collections.abc.Sequence):
            if not isinstance(value, list):
                return [Fault(path, "a list", brief(value))]
            return [fault for place, one in enumerate(value) for fault in self.check(arguments[0], one, f"{path}[{place}]")]
        return [] if self.is_plain(hint, value) else [Fault(path, self.name(hint), brief(value))]

    @staticmethod
    def is_plain(hint, value):
        """Whether a value is of a plain type. Other classes (files, models of replies) are never found in a body."""
        if hint in (None, type(None)):
            return value is None
        if hint is float:
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        if hint is int:
            return isinstance(value, int) and not isinstance(value, bool)
        return hint in (str, bool) and isinstance(value, hint)

    def check_object(self, typed_dict, value, path):
        if not isinstance(value, dict):
            return [Fault(path, "an object", brief(value))]
        fields = self.fields(typed_dict)
        faults = []
        for name, one in value.items():
            if name in fields and not (path == "" and name in HEADERS[self.provider]):
                faults += self.check(fields[name][0], one, join(path, name))
            else:
                faults += self.check_unknown(name, one, join(path, name), value)
        missing = [name for name, (_, required) in fields.items() if required and name not in value]
        return faults + [Fault(join(path, name), f"the field ({typed_dict.__name__})", "nothing") for name in missing]

    def check_unknown(self, name, one, path, whole):
        """A field that the types lack is an error unless DOCUMENTED has it."""
        unknown = Fault(path, "no such field", brief(one))
        inside = re.sub(r"^requests\[\d+\]\.params\.", "", path)
        if (self.provider, inside) not in DOCUMENTED:
            return [unknown]
        hint, models = DOCUMENTED[self.provider, inside]
        if not re.fullmatch(models, str(whole.get("model"))):
            return [unknown._replace(expected=f"no such field for {whole.get('model')}")]
        return self.check(hint, one, path)

    def check_union(self, members, value, path):
        """The faults of the member that fits best; objects are told apart by TAGS."""
        results = []
        for member in self.flat(members):
            faults = self.check(member, value, path)
            if not faults:
                return []
            results.append((member, faults))
        alike = [(member, faults) for member, faults in results if self.is_alike(member, value)]
        certain = len(alike) == 1 or isinstance(value, list)
        tagged = [faults for member, faults in alike if certain or self.has_tags(member, value)]
        if tagged:
            return min(tagged, key=len)
        names = [self.tags(member) for member, _ in alike] or [self.name(member) for member, _ in results]
        return [Fault(path, " or ".join(dict.fromkeys(names)), brief(value))]

    def is_alike(self, member, value):
        """Whether both are objects, or both lists."""
        if isinstance(value, dict):
            return self.typing.is_typeddict(member) or self.name(member) == "an object"
        return isinstance(value, list) and self.name(member) == "a list"

    def flat(self, members):
        for member in members:
            member = getattr(member, "__value__", member)
            if self.typing.get_origin(member) is self.typing.Annotated:
                member = self.typing.get_args(member)[0]
            if self.typing.get_origin(member) in (typing.Union, types.UnionType):
                yield from self.flat(self.typing.get_args(member))
            else:
                yield member

    def literals(self, typed_dict):
        fields = self.fields(typed_dict) if self.typing.is_typeddict(typed_dict) else {}
        tags = {name: self.typing.get_args(fields[name][0]) for name in TAGS if name in fields}
        return {name: known for name, known in tags.items() if known}

    def has_tags(self, typed_dict, value):
        return all(value.get(name) in known for name, known in self.literals(typed_dict).items())

    def tags(self, typed_dict):
        literals = self.literals(typed_dict)
        return " and ".join(f"{name} {'|'.join(map(str, known))}" for name, known in literals.items()) or self.name(typed_dict)

    def name(self, hint):
        origin, arguments = self.typing.get_origin(hint), self.typing.get_args(hint)
        if origin is self.typing.Literal:
            return "|".join(map(json.dumps, arguments))
        if hint in (None, type(None)):
            return "null"
        if origin is not None and not self.typing.is_typeddict(hint):
            return "a list" if origin in (list, collections.abc.Iterable, collections.abc.Sequence) else "an object"
        plain = {str: "a string", int: "an integer", float: "a number", bool: "a boolean"}
        return plain.get(hint, getattr(hint, "__name__", str(hint)))


class Anthropic:
    """Bodies of the Messages API and of its batches."""

    def __init__(self):
        from anthropic import transform_schema
        from anthropic.types import MessageCountTokensParams
        from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
        from anthropic.types.messages.batch_create_params import BatchCreateParams

        self.types = Types("anthropic")
        self.transform = transform_schema
        self.message, self.count, self.batch = MessageCreateParamsNonStreaming, MessageCountTokensParams, BatchCreateParams

    def check_message(self, body):
        return self.types.check(self.message, body) + self.check_schema(body)

    def check_count(self, body):
        return self.types.check(self.count, body) + self.check_schema(body)

    def check_batch(self, body):
        faults = self.types.check(self.batch, body)
        requests = body.get("requests") if isinstance(body, dict) else None
        requests = requests if isinstance(requests, list) else []
        ids = collections.Counter(request.get("custom_id") for request in requests if isinstance(request, dict))
        twice = [(name, times) for name, times in ids.items() if times > 1]
        faults += [Fault("requests", "unique custom_ids", f"{name!r} {times} times") for name, times in twice]
        for place, request in enumerate(requests):
            if isinstance(request, dict):
                faults += self.check_schema(request.get("params"), f"requests[{place}].params.")
        return faults

    def check_schema(self, body, path=""):
        """The package moves keywords that the API does not accept into descriptions."""
        schema = at(body, "output_config", "format", "schema")
        if not isinstance(schema, dict):
            return []
        where = f"{path}output_config.format.schema"
        try:
            sent = without_type_of_enum(self.transform(json.loads(json.dumps(schema))))
        except ValueError as error:
            return [Fault(where, f"a schema ({error})", brief(schema))]
        if sent == without_type_of_enum(schema):
            return []
        return [Fault(where, f"as the package would send it, {brief(sent)}", brief(schema))]


def with_sorted_names(schema):
    """A schema whose lists of required fields are sorted: their order says nothing, and a log may reorder fields."""
    if isinstance(schema, list):
        return [with_sorted_names(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: sorted(value) if name == "required" and isinstance(value, list) else with_sorted_names(value)
        for name, value in schema.items()
    }


class OpenAi:
    """Bodies of the chat completions API and of the Batch API, and the lines of batch files."""

    def __init__(self):
        from openai.lib._pydantic import _ensure_strict_json_schema
        from openai.types import BatchCreateParams
        from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming

        self.types = Types("openai")
        self.strict = _ensure_strict_json_schema
        self.completion, self.batch = CompletionCreateParamsNonStreaming, BatchCreateParams

    def check_completion(self, body):
        faults = self.types.check(self.completion, body)
        asked = at(body, "response_format", "json_schema")
        schema = at(asked, "schema")
        if not isinstance(schema, dict) or asked.get("strict") is not True:
            return faults
        copy = json.loads(json.dumps(schema))
        sent = self.strict(copy, path=(), root=copy)
        if with_sorted_names(sent) != with_sorted_names(schema):
            where = "response_format.json_schema.schema"
            faults.append(Fault(where, f"as the package would send it, {brief(sent)}", brief(schema)))
        return faults

    def check_batch(self, body):
        return self.types.check(self.batch, body)

    def check_line(self, line):
        """A line of a batch file. The package has no type for it."""
        expected = {"custom_id": str, "method": "POST", "url": "/v1/chat/completions", "body": dict}
        faults = [Fault(name, "no such field", brief(line[name])) for name in line if name not in expected]
        for name, kind in expected.items():
            if name not in line:
                faults.append(Fault(name, "the field", "nothing"))
            elif not (line[name] == kind if isinstance(kind, str) else isinstance(line[name], kind)):
                faults.append(Fault(name, kind if isinstance(kind, str) else kind.__name__, brief(line[name])))
        inside = self.check_completion(line["body"]) if isinstance(line.get("body"), dict) else []
        return faults + [fault._replace(path=join("body", fault.path)) for fault in inside]


def at(value, *names):
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def without_type_of_enum(schema):
    """A schema without the types beside enums, which are redundant and which the package drops."""
    if isinstance(schema, list):
        return [without_type_of_enum(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {name: without_type_of_enum(one) for name, one in schema.items() if not (name == "type" and "enum" in schema)}


class Checker:
    """Picks the check for a request by its path."""

    def __init__(self):
        self.anthropic, self.openai = Anthropic(), OpenAi()
        self.counts = collections.Counter()

    def check(self, record):
        """The kind of a request, and its faults."""
        if not isinstance(record, dict):
            return "unknown", [Fault("", "an object", brief(record))]
        if "path" not in record:
            return "OpenAI batch line", self.openai.check_line(record)
        path, body = str(record["path"]).split("?")[0].rstrip("/"), record.get("body")
        alone = isinstance(body, dict) and "messages" in body
        kinds = [
            ("/messages/count_tokens", "Anthropic token count", self.anthropic.check_count),
            ("/messages/batches", "Anthropic batch request", self.anthropic.check_message if alone else None),
            ("/messages/batches", "Anthropic batch", self.anthropic.check_batch),
            ("/messages", "Anthropic message", self.anthropic.check_message),
            ("/chat/completions", "OpenAI chat completion", self.openai.check_completion),
            ("/files", "OpenAI batch request", self.openai.check_completion),
            ("/batches", "OpenAI batch", self.openai.check_batch),
        ]
        for end, name, check in kinds:
            if check and path.endswith(end):
                return name, check(body) + (self.check_version(record) if name.startswith("Anthropic") else [])
        return "unknown", [Fault("path", "a path of a known API", brief(record["path"]))]

    @staticmethod
    def check_version(record):
        """The version of the API, if it was logged."""
        version = at(record, "headers", "anthropic-version")
        if version in (None, ANTHROPIC_VERSION):
            return []
        return [Fault("headers.anthropic-version", ANTHROPIC_VERSION, brief(version))]

    def check_log(self, path):
        """Counts the requests of a log and returns their faults with line numbers."""
        faults = []
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except ValueError as error:
                    name, found = "unknown", [Fault("", "JSON", str(error))]
                else:
                    name, found = self.check(record)
                    if name == "Anthropic batch":
                        inside = at(record, "body", "requests")
                        self.counts["Anthropic batch request"] += len(inside) if isinstance(inside, list) else 0
                self.counts[name] += 1
                faults += [(number, f"{name}: {fault}") for fault in found]
        return faults

    def __str__(self):
        return ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items())) or "no requests"


def listing(faults, most=50):
    """Faults as lines of text; those that differ only in list positions are reported once."""
    groups = {}
    for number, fault in faults:
        groups.setdefault(re.sub(r"\[\d+\]", "[]", fault), []).append((number, fault))
    lines = [
        f"line {alike[0][0]}: {alike[0][1]}" + (f" (and {len(alike) - 1} more like it)" if len(alike) > 1 else "")
        for alike in groups.values()
    ]
    return lines[:most] + ([f"... and {len(lines) - most} other kinds of faults"] if len(lines) > most else [])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logs", nargs="+", type=Path, metavar="LOG.jsonl")
    options = parser.parse_args()
    try:
        checker = Checker()
    except ImportError as error:
        print(f"SKIPPED: {error}; see tests/reference/requirements-sdk.txt")
        return SKIPPED
    count = 0
    for log in options.logs:
        faults = checker.check_log(log)
        count += len(faults)
        for line in listing(faults):
            print(f"{log}: {line}")
    print(f"{checker}: {count} faults")
    return 1 if count or not checker.counts else 0


if __name__ == "__main__":
    sys.exit(main())
