//! Settings: precedence, refusals, and display.

use crate::support::message;
use clap::{Args, Command, FromArgMatches};
use schemas::settings::{Origin, Preset, Provider, Resolved, SettingFlags};
use schemas::{Result, Settings};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

type FeedbackFlags = SettingFlags<0>;
type TrainerFlags = SettingFlags<1>;

fn resolve(file: &str, flags: &[(&str, &str)]) -> Result<Resolved> {
    let flags = flags.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
    Resolved::from_parts(Some((Path::new("ares.toml"), file)), &flags)
}

fn in_file(file: &str) -> String {
    message(resolve(file, &[]))
}

fn in_flag(key: &str, text: &str) -> String {
    message(resolve("", &[(key, text)]))
}

#[test]
fn unknown_keys_name_the_nearest() {
    assert_eq!(
        in_file("[rollout]\ntopk = 5\n"),
        "ares.toml: unknown key `rollout.topk`; did you mean `top_k`?"
    );
    assert_eq!(
        in_file("[limits]\nrequest_per_minute = 5\n"),
        "ares.toml: unknown key `limits.request_per_minute`; did you mean `requests_per_minute`?"
    );
    assert_eq!(
        in_file("[teachers]\nmodel = \"m\"\n"),
        "ares.toml: teachers: expected [[teachers]], a list of sections"
    );
    assert_eq!(in_flag("rl.pases", "3"), "flags: unknown key `rl.pases`; did you mean `passes`?");
}

#[test]
fn keys_in_the_wrong_place_name_the_right_one() {
    assert_eq!(in_file("[rl]\ntop_k = 5\n"), "ares.toml: unknown key `rl.top_k`; it belongs to `[rollout]`");
    assert_eq!(
        in_file("max_usd = 5\n"),
        "ares.toml: `max_usd` is outside a section; it belongs to `[budget]`"
    );
    assert_eq!(in_file("colour = 5\n"), "ares.toml: `colour` is outside a section");
}

#[test]
fn wrong_types() {
    assert_eq!(
        in_file("[rollout]\nsamples = \"four\"\n"),
        "ares.toml: rollout.samples: expected a whole number of at least 0, found \"four\""
    );
    assert_eq!(
        in_file("[rollout]\nsamples = -1\n"),
        "ares.toml: rollout.samples: expected a whole number of at least 0, found -1"
    );
    assert_eq!(
        in_file("[rl]\npasses = 5_000_000_000\n"),
        "ares.toml: rl.passes: invalid value: integer `5000000000`, expected u32"
    );
    assert_eq!(in_file("[rl]\nclip = true\n"), "ares.toml: rl.clip: expected a number, found true");
    assert_eq!(in_file("[rl]\nwhiten = 1\n"), "ares.toml: rl.whiten: expected true or false, found 1");
    assert_eq!(in_file("[teacher]\nmodel = 4\n"), "ares.toml: teacher.model: expected a text, found 4");
    assert_eq!(
        in_file("[student]\ndevice = \"tpu\"\n"),
        "ares.toml: student.device: unknown variant `tpu`, expected one of `auto`, `cpu`, `cuda`"
    );

    assert_eq!(
        in_flag("rollout.samples", "four"),
        "--samples: rollout.samples: expected a whole number of at least 0, found `four`"
    );
    assert_eq!(
        in_flag("rollout.samples", "-1"),
        "--samples: rollout.samples: expected a whole number of at least 0, found -1"
    );
    assert_eq!(in_flag("rl.clip", "0,2"), "--clip: rl.clip: expected a number, found `0,2`");
    assert_eq!(in_flag("rl.whiten", "yes"), "--whiten: rl.whiten: expected true or false, found `yes`");
    assert_eq!(
        in_flag("teacher.provider", "anthropics"),
        "--teacher: teacher.provider: unknown variant `anthropics`, expected one of `anthropic`, `openai`, \
         `reference`"
    );
}

#[test]
fn broken_files() {
    let message = in_file("[rl]\nclip = = 2\n");
    assert!(message.starts_with("ares.toml: TOML parse error at line 2, column 8\n"), "{message}");
    assert_eq!(
        crate::support::message(Resolved::load(Some(Path::new("/no/such/ares.toml")), &BTreeMap::new())),
        "cannot read /no/such/ares.toml: No such file or directory (os error 2)"
    );
}

#[test]
fn values_out_of_range() {
    assert_eq!(
        in_file("[rollout]\ntop_p = 1.5\n"),
        "ares.toml: rollout.top_p: expected a number above 0, at most 1, found 1.5"
    );
    assert_eq!(
        in_flag("rollout.temperature", "0"),
        "--rollout-temperature: rollout.temperature: expected a number above 0, found 0"
    );
    assert_eq!(
        in_flag("teacher.temperature", "2.5"),
        "--teacher-temperature: teacher.temperature: expected a number from 0 to 2, found 2.5"
    );
    assert_eq!(
        in_flag("budget.max_usd", "-1"),
        "--max-usd: budget.max_usd: expected a number of at least 0, found -1"
    );
    assert_eq!(
        in_flag("budget.max_usd", "nan"),
        "--max-usd: budget.max_usd: expected a number of at least 0, found NaN"
    );
    assert_eq!(
        in_flag("limits.concurrency", "0"),
        "--concurrency: limits.concurrency: expected at least 1, found 0"
    );
    assert_eq!(in_file("[rl]\nminibatch = 0\n"), "ares.toml: rl.minibatch: expected at least 1, found 0");
    assert_eq!(
        in_flag("student.lora_rank", "70000"),
        "--student-lora-rank: student.lora_rank: expected at most 65536, found 70000"
    );
    assert_eq!(
        in_flag("student.lora_alpha", "0"),
        "--student-lora-alpha: student.lora_alpha: expected a number above 0, found 0"
    );
    assert_eq!(
        in_file("[student]\nlora_targets = \"q,,v\"\n"),
        "ares.toml: student.lora_targets: expected all-linear, or layer names separated by commas, found `q,,v`"
    );
}

#[test]
fn flags_beat_the_file_and_the_file_beats_defaults() {
    let file = "[rollout]\nsamples = 6\ntop_k = 7\n[budget]\nmax_usd = 3\n";
    let resolved =
        resolve(file, &[("rollout.samples", "8"), ("limits.requests_per_minute", "1_000")]).unwrap();
    let settings = &resolved.settings;
    assert_eq!(settings.rollout.samples, 8);
    assert_eq!(settings.rollout.top_k, 7);
    assert_eq!(settings.rollout.seed, 42);
    assert_eq!(settings.budget.max_usd, Some(3.0));
    assert_eq!(settings.limits.requests_per_minute, Some(1000));

    assert_eq!(resolved.origin("rollout.samples"), &Origin::Flag("--samples".into()));
    assert_eq!(resolved.origin("rollout.top_k"), &Origin::File("ares.toml".into()));
    assert_eq!(resolved.origin("rollout.seed"), &Origin::Default);

    let defaults = Resolved::from_parts(None, &BTreeMap::new()).unwrap();
    assert_eq!(defaults.settings, Settings::default());
    assert_eq!(resolve("", &[]).unwrap().settings, Settings::default());
}

#[test]
fn a_preset_lies_between_the_defaults_and_what_is_set() {
    let file = "[round]\npreset = \"paper-large\"\n[rl]\npasses = 7\nmax_kl = 0.3\n";
    let resolved = resolve(file, &[("sft.batch", "3")]).unwrap();
    let settings = &resolved.settings;
    assert_eq!((settings.rl.minibatch, settings.rl.whiten, settings.sft.epochs), (2, false, 50));
    assert_eq!((settings.rl.passes, settings.rl.max_kl, settings.sft.batch), (7, Some(0.3), 3));
    assert_eq!(resolved.origin("rl.minibatch"), &Origin::Preset(Preset::PaperLarge));
    assert_eq!(resolved.origin("rl.passes"), &Origin::File("ares.toml".into()));
    assert_eq!(resolved.origin("sft.batch"), &Origin::Flag("--sft-batch".into()));
    assert!(resolved.show().contains("# preset paper-large"), "{}", resolved.show());
    let flag = resolve("[round]\npreset = \"paper-large\"\n", &[("round.preset", "paper-base")]).unwrap();
    assert_eq!((flag.settings.rl.minibatch, flag.settings.rl.passes), (8, 10), "the flag names the preset");
    assert!(in_file("[round]\npreset = \"paper\"\n").contains("round.preset: unknown variant `paper`"));
}

/// The values of the paper's table of hyperparameters and of its public code, which are not the defaults.
#[test]
fn the_preset_of_the_paper_is_the_paper() {
    let rl = resolve("", &[("round.preset", "paper-base")]).unwrap().settings.rl;
    assert_eq!((rl.passes, rl.minibatch, rl.accumulation), (10, 8, 8));
    assert_eq!(
        (rl.learning_rate, rl.clip, rl.kl_coefficient, rl.gamma, rl.lambda),
        (2e-5, 0.2, 1e-4, 1.0, 0.95)
    );
    assert_eq!((rl.max_grad_norm, rl.max_kl, rl.kl_penalty), (Some(0.0), Some(0.0), 0.0));
    assert!(rl.whiten && rl.value_loss && !rl.penalize_empty);
    let names = (rl.baseline.as_str(), rl.gae_unit.as_str(), rl.whiten_over.as_str(), rl.schedule.as_str());
    assert_eq!(names, ("sampled", "token", "minibatch", "constant"));
    let defaults = Settings::default().rl;
    let names = (defaults.baseline.as_str(), defaults.gae_unit.as_str(), defaults.schedule.as_str());
    assert_eq!(names, ("leave_one_out", "sentence", "linear"));
}

#[test]
fn a_reward_by_the_answer_needs_its_weight() {
    assert_eq!(
        in_file("[rl]\nanswer_reward = \"alone\"\n"),
        "defaults: rl.answer_weight: expected a number above 0 with rl.answer_reward = alone, found 0"
    );
    assert_eq!(
        in_file("[rl]\nanswer_reward = \"product\"\nanswer_weight = 1.5\n"),
        "ares.toml: rl.answer_weight: expected a number above 0, at most 1, with rl.answer_reward = product, found 1.5"
    );
}

#[test]
fn values_need_passes() {
    assert_eq!(
        in_file("[rl]\nbaseline = \"model\"\nvalue_passes = 0\n"),
        "ares.toml: rl.value_passes: expected at least 1 with rl.baseline = model, found 0"
    );
}

#[test]
fn returns_by_sentence_are_no_baseline_of_tokens_discounted_one_by_one() {
    assert_eq!(
        in_file("[rl]\ngae_unit = \"token\"\ngamma = 0.5\n"),
        "ares.toml: rl.gae_unit: expected sentence with rl.baseline = leave_one_out and rl.gamma below 1, found token"
    );
}

#[test]
fn a_file_is_read_from_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    std::fs::write(&path, "[teacher]\nprovider = \"openai\"\n").unwrap();
    let resolved = Resolved::load(Some(&path), &BTreeMap::new()).unwrap();
    assert_eq!(resolved.settings.teacher.provider, Provider::OpenAi);
    assert_eq!(resolved.origin("teacher.provider"), &Origin::File(path));
}

#[test]
fn show_gives_every_value_and_its_origin() {
    let file = "[budget]\nmax_usd = 3\n";
    let shown = resolve(file, &[("limits.requests_per_minute", "50")]).unwrap().show();
    let start = shown.find("[limits]").unwrap();
    let end = shown.find("[student]").unwrap();
    assert_eq!(
        &shown[start..end],
        "\
[limits]
requests_per_minute = 50                     # --requests-per-minute
input_tokens_per_minute = (unset)            # default
output_tokens_per_minute = (unset)           # default
concurrency = 512                            # default

[budget]
max_usd = 3.0                                # ares.toml
prices = \"\"                                  # default

"
    );
    for key in Settings::keys() {
        assert!(shown.lines().any(|line| line.starts_with(&format!("{} = ", key.name))), "{}", key.path());
    }
}

#[test]
fn every_key_has_a_flag_of_its_own() {
    let mut flags = HashSet::new();
    let mut paths = HashSet::new();
    for key in Settings::keys() {
        assert!(flags.insert(key.flag()), "two settings are --{}", key.flag());
        assert!(paths.insert(key.path()), "two settings are {}", key.path());
        assert!(!key.meaning.is_empty());
    }
    for key in Settings::keys() {
        let qualified = key.qualified_flag();
        assert!(qualified == key.flag() || flags.insert(qualified.clone()), "two settings are --{qualified}");
        if let Some(former) = key.former_flag() {
            assert!(flags.insert(former.to_owned()), "two settings are --{former}");
        }
    }
}

#[test]
fn flags_others_rely_on() {
    let flags: HashSet<String> = Settings::keys().iter().map(|key| key.flag()).collect();
    for flag in [
        "teacher",
        "model",
        "base-url",
        "requests-per-minute",
        "input-tokens-per-minute",
        "output-tokens-per-minute",
        "concurrency",
        "max-usd",
    ] {
        assert!(flags.contains(flag), "--{flag}");
    }
}

#[test]
fn flags_are_read_from_the_command_line() {
    let command = || TrainerFlags::augment_args(FeedbackFlags::augment_args(Command::new("ares")));
    let matches = command()
        .try_get_matches_from([
            "ares",
            "--teacher",
            "anthropic",
            "--samples=2",
            "--rl-learning-rate",
            "1e-3",
            "--rollout-seed",
            "7",
            "--max-usd",
            "-1",
        ])
        .unwrap();
    let feedback = FeedbackFlags::from_arg_matches(&matches).unwrap();
    let trainer = TrainerFlags::from_arg_matches(&matches).unwrap();
    let pairs = |values: &BTreeMap<String, String>| {
        values.iter().map(|(key, text)| format!("{key}={text}")).collect::<Vec<_>>()
    };
    assert_eq!(
        pairs(feedback.values()),
        ["budget.max_usd=-1", "rollout.seed=7", "teacher.provider=anthropic"]
    );
    assert_eq!(pairs(trainer.values()), ["rl.learning_rate=1e-3", "rollout.samples=2", "rollout.seed=7"]);

    // Older flags of the answer model, from before the student could have an adapter.
    let arguments = ["ares", "--lora-rank", "2", "--lora-alpha", "4", "--student-lora-rank", "8"];
    let matches = command().try_get_matches_from(arguments).unwrap();
    let trainer = TrainerFlags::from_arg_matches(&matches).unwrap();
    assert_eq!(pairs(trainer.values()), ["answer.lora_alpha=4", "answer.lora_rank=2", "student.lora_rank=8"]);

    let error = command().try_get_matches_from(["ares", "--sample", "2"]).unwrap_err();
    assert!(error.to_string().contains("a similar argument exists: '--samples'"), "{error}");
}

const TWO: &str = "[teacher]\nprovider = \"openai\"\nmodel = \"a\"\nrepeats = 3\nreasons = true\ncombine = \"median\"\n\
                   [limits]\nconcurrency = 9\n\
                   [[teachers]]\nprovider = \"anthropic\"\nmodel = \"b\"\nbase_url = \"http://b\"\nconcurrency = 4\ntemperature = 1\n\
                   [[teachers]]\nprovider = \"openai\"\nmodel = \"c\"\nrepeats = 1\n";

#[test]
fn further_teachers_inherit_what_makes_opinions_comparable() {
    let settings = resolve(TWO, &[]).unwrap().settings;
    let [b, c] = &settings.teachers[..] else { panic!("{:?}", settings.teachers) };
    assert_eq!((b.teacher.repeats, c.teacher.repeats, b.teacher.reasons), (3, 1, true));
    assert_eq!((b.teacher.temperature, c.teacher.temperature), (Some(1.0), None));
    assert_eq!((b.teacher.base_url.as_str(), c.teacher.base_url.as_str()), ("http://b", ""));
    assert_eq!((b.limits.concurrency, c.limits.concurrency), (4, 512));
    let shown = resolve(TWO, &[]).unwrap().show();
    assert!(
        shown.ends_with("\n[[teachers]]\nmodel = \"c\"\nprovider = \"openai\"\nreasons = true\n"),
        "{shown}"
    );
    assert_eq!(resolve("", &[]).unwrap().settings.teachers, []);
}

#[test]
fn a_further_teacher_that_flags_name_takes_the_main_place() {
    let flags = [("teacher.provider", "anthropic"), ("teacher.model", "b"), ("limits.concurrency", "2")];
    let settings = resolve(TWO, &flags).unwrap().settings;
    assert_eq!((settings.teacher.base_url.as_str(), settings.teacher.repeats), ("http://b", 3));
    assert_eq!((settings.limits.concurrency, settings.teacher.combine.as_str()), (2, "median"));
    assert_eq!(settings.teachers.len(), 1);
    // A Teacher without an entry replaces the main one.
    let settings = resolve(TWO, &[("teacher.model", "d")]).unwrap().settings;
    assert_eq!((settings.teacher.model.as_str(), settings.teachers.len()), ("d", 2));
}

#[test]
fn further_teachers_are_checked() {
    let entry = |lines: &str| in_file(&format!("[teacher]\nmodel = \"a\"\n[[teachers]]\n{lines}\n"));
    assert_eq!(
        entry("provider = \"openai\"\nmodle = \"b\""),
        "ares.toml: unknown key `modle` of [[teachers]]; did you mean `model`?"
    );
    assert_eq!(
        entry("combine = \"mean\""),
        "ares.toml: unknown key `combine` of [[teachers]]; it belongs to `[teacher]`, for all Teachers"
    );
    assert_eq!(
        entry("provider = \"openai\"\ntemperature = 3"),
        "ares.toml: temperature of [[teachers]] 1: expected a number from 0 to 2, found 3"
    );
    assert_eq!(
        entry("provider = \"openai\"\nrepeats = \"two\""),
        "ares.toml, [[teachers]] 1: teacher.repeats: expected a whole number of at least 0, found \"two\""
    );
    assert_eq!(
        entry(""),
        "ares.toml: model of [[teachers]] 1: expected a model that no other Teacher has (for several scorings by one: \
         repeats), found reference-v2"
    );
    let secret = entry("provider = \"openai\"\napi_key_env = \"sk-1234\"");
    assert!(secret.contains("api_key_env") && !secret.contains("1234"), "a key is not repeated: {secret}");
    assert_eq!(
        in_file("[rl]\nmax_spread = 2\n"),
        "ares.toml: rl.max_spread: expected a number from 0 to 1, found 2"
    );
}

/// The page on settings lists every key with its default and meaning, in the order of the sections.
#[test]
fn the_page_on_settings_is_true() {
    let table = toml::Table::try_from(Settings::default()).unwrap();
    let (mut expected, mut section) = (String::new(), "");
    for key in Settings::keys() {
        if key.section != section {
            section = key.section;
            expected += &format!("{}[{section}]\n", if expected.is_empty() { "" } else { "\n" });
        }
        let line = match table[key.section].get(key.name) {
            Some(value) => format!("{} = {value}", key.name),
            None => format!("# {} =", key.name),
        };
        expected += &format!("{line:<38} # {}\n", key.meaning);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/settings.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let begin = page.find("```toml\n[teacher]\n").unwrap() + "```toml\n".len();
    let end = begin + page[begin..].find("```").unwrap();
    if std::env::var_os("ARES_WRITE_DOCS").is_some() {
        std::fs::write(&path, format!("{}{expected}{}", &page[..begin], &page[end..])).unwrap();
        return;
    }
    assert!(page[begin..end] == expected, "docs/settings.md: ARES_WRITE_DOCS=1 writes the list anew");
}
