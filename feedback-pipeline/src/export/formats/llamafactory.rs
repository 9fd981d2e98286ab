//! Conversations for LLaMA-Factory, in its sharegpt layout: for supervised fine-tuning, preferences (DPO, reward models) and KTO.

use super::conversation::{Message, user};
use super::writer::{Place, Writer};
use crate::error::{Error, Result};
use crate::export::left_out::Split;
use crate::export::lines::{BySplit, JsonLines, Written};
use crate::export::pictures::Found;
use crate::export::select::{Origin, Selection};
use crate::export::source::Feedback;
use schemas::Dataset;
use serde::Serialize;
use serde_json::{Value, json};

/// The file that the loader looks for in the folder.
const INFO: &str = "dataset_info.json";

#[derive(Serialize)]
struct Conversation {
    messages: Vec<Message>,
    images: Vec<String>,
    ares: Origin,
}

#[derive(Serialize)]
struct Preference {
    messages: Vec<Message>,
    chosen: Message,
    rejected: Message,
    images: Vec<String>,
    ares: Origin,
}

#[derive(Serialize)]
struct Labelled {
    messages: Vec<Message>,
    label: bool,
    images: Vec<String>,
    ares: Origin,
}

/// Writes `sft-train.jsonl`, `preference-train.jsonl`, `kto-train.jsonl` and `dataset_info.json`.
#[derive(Default)]
pub(super) struct LlamaFactory {
    sft: BySplit<JsonLines>,
    preference: BySplit<JsonLines>,
    kto: BySplit<JsonLines>,
}

impl Writer for LlamaFactory {
    fn add(&mut self, place: &mut Place<'_>, feedback: &Feedback, picture: Option<&Found>) -> Result<()> {
        let plan = place.plan;
        let selection = Selection::new(plan);
        let prompt = place.prompt(feedback, picture);
        let question = user(if picture.is_some() { format!("<image>{prompt}") } else { prompt });
        let reply = |content: String| Message { role: "assistant", content };
        let answered = |content: String| [question.clone(), vec![reply(content)]].concat();
        let (folder, split) = (place.folder, feedback.split);
        for target in selection.targets(feedback, &mut place.left) {
            let line = Conversation {
                messages: answered(target.text),
                images: place.copied(picture)?,
                ares: target.origin,
            };
            self.sft.push(folder, "sft-*.jsonl", split, line, JsonLines::create)?;
        }
        for pair in selection.pairs(feedback, &mut place.left) {
            let line = Preference {
                messages: question.clone(),
                chosen: reply(pair.chosen),
                rejected: reply(pair.rejected),
                images: place.copied(picture)?,
                ares: pair.origin,
            };
            self.preference.push(folder, "preference-*.jsonl", split, line, JsonLines::create)?;
        }
        for example in selection.labelled(feedback, &mut place.left) {
            let line = Labelled {
                messages: answered(example.text),
                label: example.is_good,
                images: place.copied(picture)?,
                ares: example.origin,
            };
            self.kto.push(folder, "kto-*.jsonl", split, line, JsonLines::create)?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>, place: &Place<'_>, _dataset: &Dataset) -> Result<Vec<Written>> {
        let groups = [
            ("sft", self.sft.finish::<Conversation>()?),
            ("preference", self.preference.finish::<Preference>()?),
            ("kto", self.kto.finish::<Labelled>()?),
        ];
        let mut info = serde_json::Map::new();
        let mut files = Vec::new();
        for (kind, written) in groups {
            for file in written {
                info.insert(name(kind, file.split), entry(kind, &file.name, place.has_pictures));
                files.push(file);
            }
        }
        let path = place.folder.join(INFO);
        let text = serde_json::to_string_pretty(&info).map_err(|e| Error::io("write", &path)(e.into()))?;
        std::fs::write(&path, text + "\n").map_err(Error::io("write", &path))?;
        Ok(files)
    }
}

/// Name by which a file is selected: `ares_sft`, `ares_sft_validation`.
fn name(kind: &str, split: Split) -> String {
    match split {
        Split::Train => format!("ares_{kind}"),
        other => format!("ares_{kind}_{}", other.hub_name()),
    }
}

fn entry(kind: &str, file: &str, has_pictures: bool) -> Value {
    let mut columns = json!({ "messages": "messages" });
    if has_pictures {
        columns["images"] = json!("images");
    }
    match kind {
        "preference" => {
            columns["chosen"] = json!("chosen");
            columns["rejected"] = json!("rejected");
        }
        "kto" => columns["kto_tag"] = json!("label"),
        _ => {}
    }
    let mut entry = json!({
        "file_name": file,
        "formatting": "sharegpt",
        "columns": columns,
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
        },
    });
    if kind == "preference" {
        entry["ranking"] = json!(true);
    }
    entry
}
