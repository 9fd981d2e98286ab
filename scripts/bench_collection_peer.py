#!/usr/bin/env python3
"""Runs the whole collection step on transformers, with the peers' student (`mmt5.py` and `common.py` of --peers).

For each of --samples rationales a problem: sampling, then log-probabilities of the policy, of a reference and values, each
with a pass of its own that runs its encoder again. --public is the public code's way: no key-value cache while sampling,
sources padded to 512 tokens in the passes. One sample is timed and counts --samples times, since all cost the same.
"""
import argparse
import sys
import time
import warnings

warnings.filterwarnings("ignore")
parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--peers", required=True)
parser.add_argument("--shape", default="base")
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--prompt", type=int, default=256)
parser.add_argument("--new", type=int, default=128)
parser.add_argument("--samples", type=int, default=4)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--iters", type=int, default=1)
parser.add_argument("--public", action="store_true")
options = parser.parse_args()
sys.path.insert(0, options.peers)

import common  # noqa: E402
import mmt5  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(options.threads)
policy = mmt5.build(options.shape).eval()
reference = mmt5.build(options.shape).eval()
value = mmt5.build(options.shape, mmt5.MMT5Value).eval()
policy.generation_config.eos_token_id = None
pad = 512 if options.public else None
ids, mask, _, image = mmt5.batch(options.shape, options.batch, options.prompt, 1)
padded_ids, padded_mask, _, padded_image = mmt5.batch(options.shape, options.batch, options.prompt, 1, pad_to=pad)


def logprobs(model, tokens):
    logits = model(input_ids=padded_ids, attention_mask=padded_mask, image_ids=padded_image,
                   decoder_input_ids=tokens, use_cache=False).logits[:, :-1]
    return torch.log_softmax(logits, -1).gather(-1, tokens[:, 1:].unsqueeze(-1))


def sample():
    with torch.no_grad():
        start = time.perf_counter()
        tokens = policy.generate(input_ids=ids, attention_mask=mask, image_ids=image, do_sample=True, top_k=50,
                                 max_new_tokens=options.new, use_cache=not options.public)
        sampled = time.perf_counter() - start
        assert tokens.shape[1] == options.new + 1, tokens.shape
        for model in (policy, reference):
            logprobs(model, tokens)
        value(input_ids=padded_ids, attention_mask=padded_mask, image_ids=padded_image, decoder_input_ids=tokens)
    return sampled


sampling = []
times, cpu = common.timed(lambda: sampling.append(sample()), 0 if options.public else 1, options.iters)
common.emit(bench="collection", shape=options.shape, public=options.public, samples=options.samples,
            min_s=min(times) * options.samples, cpu_s=min(cpu) * options.samples,
            sampling_s=min(sampling) * options.samples)
