"use strict";
// Human labels: scores of sentences, and the better of two rationales. Kept in this browser, downloaded as JSONL.
const labels = (() => {
  const bar = document.getElementById("labels");
  const count = document.getElementById("labelled");
  const { name, round } = document.getElementById("list").dataset;
  const key = `ares-labels/${name}/${round}`;
  const fields = bar.elements;
  let kept = { by: "", scores: {}, pairs: {} };
  let isKept = true;
  let changed = () => {};
  try {
    kept = { ...kept, ...JSON.parse(localStorage.getItem(key) || "{}") };
  } catch {
    isKept = false;
  }

  const entries = () => [...Object.values(kept.scores), ...Object.values(kept.pairs)];
  const tell = () => {
    const [scores, pairs] = [Object.keys(kept.scores).length, Object.keys(kept.pairs).length];
    const lost = isKept ? "" : " This browser does not keep them: download them before you close the page.";
    count.textContent = `${scores} ${scores === 1 ? "sentence" : "sentences"} scored, ${pairs} ${pairs === 1 ? "pair" : "pairs"} compared.${lost}`;
    fields.download.disabled = fields.remove.disabled = scores + pairs === 0;
  };
  const keep = () => {
    try {
      localStorage.setItem(key, JSON.stringify(kept));
    } catch {
      isKept = false;
    }
    tell();
  };
  const put = (group, id, label) => {
    if (label === undefined) delete kept[group][id];
    else kept[group][id] = { ...label, round: Number(round), labelled_at: new Date().toISOString() };
    keep();
  };

  // A label from an earlier report whose text has changed does not count.
  const own = (group, id, texts) => {
    const label = kept[group][id];
    return label && texts.every(([name, text]) => label[name] === text) ? label : undefined;
  };

  const scoreField = (subject, sentence_index, sentence) => {
    const id = `${subject.id}/${sentence_index}`;
    const field = document.createElement("input");
    Object.assign(field, { type: "number", min: 0, max: 1, step: "any", className: "own", placeholder: "–" });
    field.setAttribute("aria-label", `your score of sentence ${sentence_index + 1}, from 0 to 1`);
    field.value = own("scores", id, [["sentence", sentence]])?.score ?? "";
    field.addEventListener("input", () => {
      const score = field.valueAsNumber;
      if (field.validity.valid) {
        const label = { kind: "score", problem_id: subject.problem, rollout_id: subject.id, sentence_index, sentence, score };
        put("scores", id, Number.isFinite(score) ? label : undefined);
      }
    });
    // Arrow keys change a score in steps of 0.1, starting at the neutral score.
    field.addEventListener("keydown", (event) => {
      const step = { ArrowUp: 0.1, ArrowDown: -0.1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const from = Number.isFinite(field.valueAsNumber) ? field.valueAsNumber : 0.5 - step;
      field.value = Math.min(1, Math.max(0, Math.round((from + step) * 10) / 10));
      field.dispatchEvent(new Event("input"));
    });
    return field;
  };

  const pairFields = (problem_id, table, first, second) => {
    const id = `${table}/${first.id}/${second.id}`;
    const texts = [["first_text", first.text], ["second_text", second.text]];
    const box = document.createElement("fieldset");
    box.className = "pair";
    const legend = document.createElement("legend");
    legend.textContent = "Which rationale is better?";
    box.append(legend);
    const said = own("pairs", id, texts)?.better;
    for (const [better, words] of [["first", first.title], ["second", second.title], ["tie", "neither"]]) {
      const label = document.createElement("label");
      const choice = document.createElement("input");
      Object.assign(choice, { type: "radio", name: `pair ${id}`, checked: said === better });
      choice.addEventListener("change", () => {
        const label = { kind: "preference", problem_id, table, first: first.id, second: second.id, better };
        put("pairs", id, { ...label, first_text: first.text, second_text: second.text });
      });
      label.append(choice, ` ${words}`);
      box.append(label);
    }
    return box;
  };

  const download = () => {
    const line = (label) => JSON.stringify({ ...label, by: kept.by });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(entries().map((label) => `${line(label)}\n`), { type: "application/jsonl" }));
    link.download = `labels-${name.replace(/\W+/g, "-")}-round-${round}.jsonl`;
    link.click();
    URL.revokeObjectURL(link.href);
  };

  // Asks for confirmation, since deleting cannot be undone.
  let isSure = false;
  const ask = (again) => {
    isSure = again;
    fields.remove.textContent = again ? "Really delete all?" : "Delete all";
  };
  const remove = () => {
    if (!isSure) return ask(true);
    ask(false);
    Object.assign(kept, { scores: {}, pairs: {} });
    keep();
    changed();
  };

  fields.by.value = kept.by;
  fields.by.addEventListener("input", () => {
    kept.by = fields.by.value.trim();
    keep();
  });
  fields.download.addEventListener("click", download);
  fields.remove.addEventListener("click", remove);
  fields.remove.addEventListener("blur", () => ask(false));
  for (const box of [fields.on, fields.shown]) box.addEventListener("change", () => changed());
  bar.addEventListener("submit", (event) => event.preventDefault());
  tell();

  return {
    scoreField,
    pairFields,
    isOn: () => fields.on.checked,
    // The Teacher's feedback would influence the person.
    isBlind: () => fields.on.checked && !fields.shown.checked,
    has: (problem) => entries().some((label) => label.problem_id === problem),
    whenChanged: (call) => { changed = call; },
  };
})();
