"""Writes values/text_metrics.json: ROUGE-L of rouge_score and BLEU of sacrebleu for texts of many kinds."""

import json
import pathlib

import sacrebleu
from rouge_score import rouge_scorer

CASES = [
    [("The map shows Ohio. It is the farthest north.", "The map shows Ohio. It is the farthest north.")],
    [("Look at the compass.\nOhio is farthest north.", "Look at the compass rose. Ohio lies farthest to the north."),
     ("Magnet pair 1 is 2.5 cm apart, so it pulls harder.", "The magnets in Pair 1 are 2.5 cm apart; the pull is stronger.")],
    [("", "A gold solution."), ("A rationale, rather long.", "A gold solution.")],
    [("no word in common", "Etwas ganz Anderes steht hier!")],
    [("one two", "one two three four five six"), ("three", "three"), ("four five", "four five")],
    [("1,000.5-2 (A) \"B\" & <C> {d} [e] f/g h:i j_k x@y ~ a.b c,d 3.4,5 ...!", "1,000.5-2 (A) 'B' &amp; &lt;C&gt; {d} [e] f/g h:i"),
     ("Ein Café für 3€ – naïve", "Ein Café für 3 € - naive")],
    [("the the the the the the the", "the cat is on the mat"), ("a b c d e f g h", "a b c x d e f g h")],
    [("x", "y")],
    [("one two three", "one two three")],
]


def main():
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    found = []
    for pairs in CASES:
        candidates, references = [list(side) for side in zip(*pairs)]
        scores = [scorer.score(reference, candidate)["rougeL"].fmeasure for candidate, reference in pairs]
        found.append({
            "candidates": candidates,
            "references": references,
            "rouge_l": sum(scores) / len(scores),
            "bleu": sacrebleu.corpus_bleu(candidates, [references]).score,
        })
    path = pathlib.Path(__file__).parent / "values" / "text_metrics.json"
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
