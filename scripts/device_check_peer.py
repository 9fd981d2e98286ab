"""transformers' T5 on a GPU, for device_check.py: a fine-tuning step and sampling, one JSON object a line."""

import argparse
import json
import time

import torch
from transformers import T5Config, T5ForConditionalGeneration

SHAPES = {"base": (768, 2048, 12, 12), "large": (1024, 2816, 24, 16)}


def timed(work, repeats):
    """The best of some repetitions, after one that is not measured."""
    best = float("inf")
    for repeat in range(repeats + 1):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        if repeat:
            best = min(best, time.perf_counter() - began)
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="base")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--source", type=int, default=256)
    parser.add_argument("--target", type=int, default=128)
    options = parser.parse_args()
    width, hidden, layers, heads = SHAPES[options.shape]
    config = T5Config(
        d_model=width, d_ff=hidden, num_layers=layers, num_heads=heads, d_kv=64, vocab_size=32_128,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False, dropout_rate=0.1, decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    rows = options.batch // 2
    source = torch.randint(3, 32_000, (rows, options.source), device="cuda")
    target = torch.randint(3, 32_000, (rows, options.target), device="cuda")

    def step():
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(input_ids=source, labels=target).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def report(work, variant, seconds, tokens):
        row = {"work": work, "variant": variant, "seconds": seconds, "tokens_per_s": tokens / seconds,
               "gpu_mb": torch.cuda.max_memory_allocated() / 1e6}
        print(json.dumps(row), flush=True)
        torch.cuda.reset_peak_memory_stats()

    model.train()
    report("sft", f"bfloat16 autocast, {rows} × {options.source} → {options.target}", timed(step, 3),
           rows * (options.source + options.target))
    optimizer.zero_grad(set_to_none=True)
    model = model.eval().bfloat16()
    source = torch.randint(3, 32_000, (options.batch, options.source), device="cuda")

    def sample():
        with torch.no_grad():
            model.generate(input_ids=source, do_sample=True, top_k=50, min_new_tokens=options.target,
                           max_new_tokens=options.target)

    report("sampling", f"bfloat16 weights, {options.batch} × {options.source} → {options.target}", timed(sample, 1),
           options.batch * options.target)


main()
