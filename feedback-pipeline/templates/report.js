// The list of rationales: filters, order, pages. Texts of models and datasets are inserted as text, never as HTML.
(() => {
  const PAGE = 20;
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const cards = read("cards");
  const pictures = read("pictures");
  const form = document.getElementById("filters");
  const list = document.getElementById("list");
  const found = document.getElementById("found");
  const place = document.getElementById("place");
  const previous = document.getElementById("previous");
  const next = document.getElementById("next");
  const letter = (index) => String.fromCharCode(65 + index);
  let shown = [];
  let page = 0;

  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  // The values that the filters test, computed once per card.
  cards.forEach((card, order) => {
    const means = card.samples
      .map((sample) => sample.lines.map((line) => line[1]).filter((score) => score !== null))
      .filter((scores) => scores.length > 0)
      .map((scores) => scores.reduce((sum, score) => sum + score, 0) / scores.length);
    const texts = [card.id, card.subject, card.skill, card.question, card.hint, card.solution, ...card.choices];
    for (const part of [...card.samples, ...card.said]) for (const line of part.lines) texts.push(line[0]);
    for (const said of card.said) for (const part of said.correction || []) texts.push(part[1]);
    Object.assign(card, {
      order,
      // A hash of the id, for a shuffled order that is always the same.
      coin: [...card.id].reduce((sum, char) => Math.imul(sum ^ char.codePointAt(0), 0x01000193) >>> 0, 0x811c9dc5),
      means,
      spread: means.length > 1 ? Math.max(...means) - Math.min(...means) : -1,
      text: texts.filter(Boolean).join("\n").toLowerCase(),
      repeats: [...card.samples, ...card.said].some((part) => part.lines.some((line) => line[2])),
    });
  });

  const options = (name, values) => {
    const select = form.elements[name];
    const sorted = [...new Set(values.filter(Boolean))].sort();
    for (const value of sorted) select.append(new Option(value, value));
    select.closest("label").hidden = sorted.length < 2;
  };
  options("split", cards.map((card) => card.split));
  options("subject", cards.map((card) => card.subject));
  options("skill", cards.map((card) => card.skill));
  // Controls that cannot change anything are not shown.
  const useful = (name, test) => { form.elements[name].closest("label").hidden = !cards.some(test); };
  useful("changed", (card) => card.said.some((said) => said.changed !== undefined));
  useful("answer", (card) => card.answers.some((answer) => answer.correct !== null));
  useful("rejected", (card) => card.rejects);
  useful("repeats", (card) => card.repeats);
  if (!cards.some((card) => card.spread >= 0)) form.elements.sort.querySelector("[value=spread]").remove();

  const fits = (wanted) => (card) => {
    if (wanted.split && card.split !== wanted.split) return false;
    if (wanted.subject && card.subject !== wanted.subject) return false;
    if (wanted.skill && card.skill !== wanted.skill) return false;
    if (card.mean === undefined ? wanted.bounded : card.mean < wanted.low - 1e-9 || card.mean > wanted.high + 1e-9) return false;
    if (wanted.changed && !card.said.some((said) => said.changed === (wanted.changed === "yes"))) return false;
    if (wanted.answer && !card.answers.some((answer) => answer.correct === (wanted.answer === "right"))) return false;
    if (wanted.rejected && !card.rejects) return false;
    if (wanted.repeats && !card.repeats) return false;
    if (wanted.mine && labels.has(card.id) !== (wanted.mine === "yes")) return false;
    return wanted.words.every((word) => card.text.includes(word));
  };

  // Cards without a score come last in any order.
  const sorts = {
    worst: (a, b) => (a.mean ?? 2) - (b.mean ?? 2) || a.order - b.order,
    best: (a, b) => (b.mean ?? -1) - (a.mean ?? -1) || a.order - b.order,
    spread: (a, b) => b.spread - a.spread || a.order - b.order,
    order: (a, b) => a.order - b.order,
    shuffled: (a, b) => a.coin - b.coin || a.order - b.order,
  };

  const number = (field, otherwise) => (Number.isFinite(field.valueAsNumber) ? field.valueAsNumber : otherwise);
  const apply = () => {
    const fields = form.elements;
    const [low, high] = [number(fields.low, 0), number(fields.high, 1)];
    const wanted = {
      split: fields.split.value, subject: fields.subject.value, skill: fields.skill.value,
      low, high, bounded: low > 0 || high < 1, changed: fields.changed.value, answer: fields.answer.value,
      rejected: fields.rejected.checked, repeats: fields.repeats.checked, mine: labels.isOn() ? fields.mine.value : "",
      words: fields.text.value.toLowerCase().split(/\s+/).filter(Boolean),
    };
    fields.mine.closest("label").hidden = !labels.isOn();
    shown = cards.filter(fits(wanted)).sort(sorts[fields.sort.value]);
    page = 0;
    render();
  };

  // `subject`: the rollout that a person can score.
  const lines = (part, subject) => part.lines.map(([text, score, repeat], at) => {
    const line = make("p", repeat ? "line repeat" : "line");
    if (subject && labels.isOn()) line.append(labels.scoreField(subject, at, text));
    const known = score !== null && !labels.isBlind();
    const grade = known ? `s${Math.round(score * 10)}` : "";
    if (known) line.append(make("span", `score ${grade}`, Number.isInteger(Math.round(score * 1000) / 100) ? score.toFixed(1) : score.toFixed(2)));
    const said = make("span", `words ${grade}`, text);
    const reason = !labels.isBlind() && part.reasons && part.reasons[at];
    if (reason) {
      const body = make("span");
      body.append(said, make("span", "reason", reason));
      line.append(body);
    } else {
      line.append(said);
    }
    if (repeat) line.title = "repeated in this rationale";
    return line;
  });

  const column = (title, detail, part, subject) => {
    const said = make("div", "said");
    const heading = make("h4", "", title);
    if (detail) heading.append(make("span", "", ` ${detail}`));
    said.append(heading, ...lines(part, subject));
    if (part.lines.length === 0) said.append(make("p", "quiet", "The rationale is empty."));
    if (part.truncated) said.append(make("p", "quiet", "Cut off by the token limit."));
    return said;
  };

  const stages = { base: "Base student", rl: "After RL", sft: "After SFT" };
  const saidColumns = (said) => {
    const columns = [column(stages[said.stage] || said.stage, "greedy", said)];
    if (labels.isBlind()) return columns;
    if (said.correction) {
      const corrected = make("div", "said");
      corrected.append(make("h4", "", "What the Teacher corrected"));
      const text = make("p", "diff");
      for (const [tag, words] of said.correction) text.append(tag === 0 ? document.createTextNode(words) : make(tag < 0 ? "del" : "ins", "", words));
      corrected.append(text);
      columns.push(corrected);
    } else if (said.changed === false) {
      columns[0].append(make("p", "quiet", "The Teacher changed nothing."));
    }
    return columns;
  };

  const idOf = (card, sample) => sample.id ?? `${card.id}-r${list.dataset.round}-s${sample.number}`;
  const whole = (part) => part.lines.map((line) => line[0]).join(" ");

  // Two samples of a problem, always the same two, and the rationales of the first and the last student.
  const pairs = (card) => {
    const found = [];
    const count = card.samples.length;
    if (count > 1) {
      const first = card.coin % count;
      const second = (first + 1 + (card.coin >>> 8) % (count - 1)) % count;
      const side = (index) => ({ id: idOf(card, card.samples[index]), title: `Sample ${index + 1}`, text: whole(card.samples[index]) });
      found.push(["rollouts", side(Math.min(first, second)), side(Math.max(first, second))]);
    }
    const [base, sft] = ["base", "sft"].map((stage) => card.said.find((said) => said.stage === stage));
    if (base && sft) {
      const side = (said) => ({ id: said.id, title: stages[said.stage], text: whole(said) });
      found.push(["rationales", side(base), side(sft)]);
    }
    return found.filter(([, first, second]) => first.text !== second.text);
  };

  const draw = (card) => {
    const article = make("article", "card");
    const heading = make("h3");
    heading.append(make("b", "", card.id));
    const about = [card.split, card.subject, card.skill, card.grade].filter(Boolean).join(" · ");
    heading.append(` · ${about}${card.mean === undefined || labels.isBlind() ? "" : ` · mean score ${card.mean.toFixed(2)}`}`);
    const problem = make("div", "problem");
    const words = make("div");
    words.append(make("p", "question", card.question));
    if (card.hint) words.append(make("p", "hint", card.hint));
    const choices = make("ul", "choices");
    card.choices.forEach((choice, index) => {
      const right = index === card.answer;
      choices.append(make("li", right ? "right" : "", `(${letter(index)}) ${choice}${right ? " ✓ right" : ""}`));
    });
    words.append(choices);
    if (card.solution) {
      const solution = make("details");
      solution.append(make("summary", "", "Solution of the dataset"), make("p", "diff", card.solution));
      words.append(solution);
    }
    problem.append(words);
    if (card.picture !== undefined) {
      const picture = make("img");
      picture.src = pictures[card.picture];
      picture.alt = `picture of problem ${card.id}`;
      problem.append(picture);
    } else if (card.without_picture) {
      problem.append(make("p", "quiet", card.without_picture));
    }
    article.append(heading, problem);
    if (card.samples.length > 0) {
      const samples = make("div", "columns");
      card.samples.forEach((sample, index) => {
        const scores = sample.lines.map((line) => line[1]).filter((score) => score !== null);
        const mean = scores.length ? `mean ${(scores.reduce((sum, score) => sum + score, 0) / scores.length).toFixed(2)}` : "not scored";
        const subject = { id: idOf(card, sample), problem: card.id };
        samples.append(column(`Sample ${index + 1}`, labels.isBlind() ? "" : mean, sample, subject));
      });
      article.append(samples);
    }
    if (card.said.length > 0) {
      const said = make("div", "columns");
      card.said.forEach((part) => said.append(...saidColumns(part)));
      article.append(said);
    }
    if (labels.isOn()) article.append(...pairs(card).map((pair) => labels.pairFields(card.id, ...pair)));
    if (labels.isBlind()) return article;
    const tags = make("p", "tags");
    for (const answer of card.answers) {
      const mark = answer.correct === null ? "right answer hidden" : answer.correct ? "✓ right" : "✗ wrong";
      const what = answer.predicted === null ? "no answer read" : `answered (${letter(answer.predicted)})`;
      tags.append(make("span", "", `${(stages[answer.stage] || answer.stage).toLowerCase()}: ${what}, ${mark}`));
    }
    for (const [against, verdict] of card.judged || []) tags.append(make("span", "", `against ${against}: ${verdict}`));
    for (const [kind, reason] of card.rejects || []) tags.append(make("span", "", `rejected (${kind}): ${reason}`));
    if (tags.childElementCount > 0) article.append(tags);
    return article;
  };

  const render = () => {
    const pages = Math.max(1, Math.ceil(shown.length / PAGE));
    const start = page * PAGE;
    list.replaceChildren(...shown.slice(start, start + PAGE).map(draw));
    found.textContent = `${shown.length.toLocaleString("en")} of ${cards.length.toLocaleString("en")} problems`;
    place.textContent = `page ${page + 1} of ${pages}`;
    previous.disabled = page === 0;
    next.disabled = page + 1 >= pages;
  };

  const turn = (step) => {
    page += step;
    render();
    found.scrollIntoView();
  };
  previous.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", apply);
  form.addEventListener("reset", () => setTimeout(apply));
  labels.whenChanged(apply);
  apply();
})();
