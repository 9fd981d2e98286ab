-- feedback.sqlite as version 6 of its tables made it.
PRAGMA user_version = 6;
CREATE TABLE prompts (hash TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE asks (
    request_key BLOB NOT NULL UNIQUE, scope TEXT NOT NULL, round INTEGER NOT NULL, subject_id TEXT NOT NULL,
    problem_id TEXT NOT NULL, provider TEXT NOT NULL, model TEXT NOT NULL, prompt_version TEXT NOT NULL,
    user_text TEXT NOT NULL, image_sha256 TEXT, items INTEGER NOT NULL DEFAULT 1);
CREATE TABLE members (
    request_key BLOB NOT NULL, place INTEGER NOT NULL, subject_id TEXT NOT NULL, item_key BLOB NOT NULL, weight INTEGER NOT NULL,
    PRIMARY KEY (request_key, place)) WITHOUT ROWID;
CREATE INDEX members_by_item ON members (item_key);
CREATE TABLE replies (
    request_key BLOB NOT NULL, turn INTEGER NOT NULL, sent_key BLOB NOT NULL, attempts INTEGER NOT NULL,
    status INTEGER NOT NULL, headers TEXT NOT NULL, body BLOB NOT NULL,
    input_tokens INTEGER NOT NULL, cache_write_tokens INTEGER NOT NULL, cache_read_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL, cost_usd REAL, started_at_ms INTEGER NOT NULL, replied_at_ms INTEGER NOT NULL, latency_ms INTEGER NOT NULL, dialect TEXT,
    UNIQUE (request_key, turn));
CREATE TABLE subjects (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, scope TEXT NOT NULL, round INTEGER NOT NULL, subject_id TEXT NOT NULL,
    request_key BLOB NOT NULL, UNIQUE (scope, round, subject_id, request_key));
CREATE TABLE batches (
    plan TEXT PRIMARY KEY, provider TEXT NOT NULL, model TEXT NOT NULL, address TEXT NOT NULL, requests INTEGER NOT NULL,
    planned_at_ms INTEGER NOT NULL, likely_usd REAL NOT NULL, file_id TEXT, batch_id TEXT, closed TEXT, dialect TEXT) WITHOUT ROWID;
CREATE TABLE batch_requests (
    plan TEXT NOT NULL, sent_key BLOB NOT NULL, request_key BLOB NOT NULL, turn INTEGER NOT NULL,
    PRIMARY KEY (plan, sent_key)) WITHOUT ROWID;
CREATE TABLE losses (likely_usd REAL NOT NULL);
CREATE TABLE attempts (
    request_key BLOB NOT NULL, turn INTEGER NOT NULL, sent_key BLOB NOT NULL, status INTEGER NOT NULL, headers TEXT NOT NULL,
    body BLOB NOT NULL, received_at_ms INTEGER NOT NULL, likely_usd REAL);
CREATE TABLE discarded (
    scope TEXT NOT NULL, round INTEGER NOT NULL, request_key BLOB NOT NULL, at_ms INTEGER NOT NULL,
    PRIMARY KEY (scope, round, request_key)) WITHOUT ROWID;
CREATE TABLE rewrites (kind TEXT NOT NULL, round INTEGER NOT NULL, PRIMARY KEY (kind, round)) WITHOUT ROWID;

INSERT INTO prompts VALUES ('0123abcd', 'Score each sentence.');
INSERT INTO asks VALUES (x'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 'scores', 1, 'r1-p1-s0', '1', 'anthropic', 'claude-a', '0123abcd', 'The first rationale.', NULL, 1);
INSERT INTO asks VALUES (x'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'corrections', 1, 'r1-p1-rl', '1', 'openai', 'gpt-a', '0123abcd', 'The second rationale.', 'feed', 1);
INSERT INTO replies VALUES (x'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 0, x'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 2, 200, '{"a":"b"}', CAST('{"scores":[1]}' AS BLOB), 100, 10, 20, 5, 0.25, 1000, 2000, 900, 'max_tokens 64');
INSERT INTO replies VALUES (x'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 0, x'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 1, 413, '{}', x'', 0, 0, 0, 0, NULL, 3000, 4000, 90, NULL);
INSERT INTO subjects (scope, round, subject_id, request_key) VALUES ('scores', 1, 'r1-p1-s0', x'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa');
INSERT INTO subjects (scope, round, subject_id, request_key) VALUES ('corrections', 1, 'r1-p1-rl', x'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb');
INSERT INTO batches (plan, provider, model, address, requests, planned_at_ms, likely_usd) VALUES ('plan', 'openai', 'gpt-a', 'http://127.0.0.1', 1, 5000, 0.5);
INSERT INTO batch_requests VALUES ('plan', x'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', x'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 1);
INSERT INTO losses VALUES (0.125);
INSERT INTO attempts VALUES (x'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 0, x'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 200, '{}', CAST('half' AS BLOB), 1500, 0.0625);
INSERT INTO discarded VALUES ('corrections', 1, x'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 6000);
INSERT INTO asks VALUES (x'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', 'scores', 1, 'r1-p2-s0', '2', 'anthropic', 'claude-b', '0123abcd', 'Two rationales.', NULL, 2);
INSERT INTO members VALUES (x'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', 0, 'r1-p2-s0', x'eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee', 3);
INSERT INTO members VALUES (x'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd', 1, 'r1-p2-s1', x'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff', 1);
INSERT INTO subjects (scope, round, subject_id, request_key) VALUES ('scores', 1, 'r1-p2-s0', x'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd');
INSERT INTO subjects (scope, round, subject_id, request_key) VALUES ('scores', 1, 'r1-p2-s1', x'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd');
