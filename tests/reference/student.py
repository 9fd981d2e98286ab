"""The student in Python, on top of transformers' T5: MM-CoT's gated fusion of text and picture.

Parameters carry the names that the trainer writes, so a checkpoint loads without renaming.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


class MultimodalT5(T5ForConditionalGeneration):
    """T5 whose encoder states are fused with `image_features` [batch, patches, image_width].

    `image_width=None` builds a plain T5. Recent transformers always tie T5's head to its embedding, so whether
    the head is tied is given here.
    """

    def __init__(self, config, image_width=None, tied=True):
        self.head_is_tied = tied
        super().__init__(config)
        d = config.d_model
        self.encoder.embed_tokens = self.shared
        self.decoder.embed_tokens = self.shared
        if tied:
            self.lm_head.weight = self.shared.weight
        else:
            self.lm_head.weight = nn.Parameter(torch.randn(config.vocab_size, d) * d**-0.5)
        self.has_fusion = image_width is not None
        if self.has_fusion:
            self.encoder.image_dense = nn.Linear(image_width, d)
            self.encoder.mha_layer = nn.MultiheadAttention(d, num_heads=1, batch_first=True)
            self.encoder.gate_dense = nn.Linear(2 * d, d)

    def tie_weights(self, *args, **kwargs):
        """Keeps what the constructor tied."""

    def encode(self, input_ids, attention_mask, image_features=None):
        """Encoder output after fusion; without features, a single row of zeros stands for the missing picture."""
        encoded = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        if self.has_fusion:
            encoder, text = self.encoder, encoded.last_hidden_state
            if image_features is None:
                image_features = text.new_zeros(text.shape[0], 1, encoder.image_dense.in_features)
            picture = encoder.image_dense(image_features)
            attended, _ = encoder.mha_layer(text, picture, picture, need_weights=False)
            gate = torch.sigmoid(encoder.gate_dense(torch.cat([text, attended], dim=-1)))
            encoded.last_hidden_state = (1 - gate) * text + gate * attended
        return encoded

    def logits(self, input_ids, attention_mask, decoder_input_ids, image_features=None):
        """Logits [batch, target, vocabulary] of one full pass."""
        return self(
            encoder_outputs=self.encode(input_ids, attention_mask, image_features),
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            use_cache=False,
        ).logits

    @torch.no_grad()
    def greedy(self, input_ids, attention_mask=None, image_features=None, max_new_tokens=64):
        """Likeliest tokens up to and with eos, one list a row. Every step is a full pass, without a cache."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        encoded = self.encode(input_ids, attention_mask, image_features)
        rows = input_ids.shape[0]
        tokens = torch.full((rows, 1), self.config.decoder_start_token_id)
        done = torch.zeros(rows, dtype=torch.bool)
        for _ in range(max_new_tokens):
            output = self(
                encoder_outputs=encoded, attention_mask=attention_mask, decoder_input_ids=tokens, use_cache=False
            )
            tokens = torch.cat([tokens, output.logits[:, -1].argmax(-1, keepdim=True)], dim=1)
            done |= tokens[:, -1] == self.config.eos_token_id
            if done.all():
                break
        eos = self.config.eos_token_id
        rows = [row[1:] for row in tokens.tolist()]
        return [row[: row.index(eos) + 1] if eos in row else row for row in rows]

    def stored(self):
        """What a checkpoint holds: every tensor once, by name."""
        left_out = COPIES + (("lm_head.weight",) if self.head_is_tied else ())
        state = {name: tensor for name, tensor in self.state_dict().items() if name not in left_out}
        return {name: tensor.detach().contiguous() for name, tensor in state.items()}


def load(folder):
    """The student of a checkpoint folder. Every name and shape must be there, and nothing else."""
    folder = Path(folder)
    told = json.loads((folder / "config.json").read_text())
    found = load_file(folder / "model.safetensors")
    dense = found.get("encoder.image_dense.weight")
    width = None if dense is None else dense.shape[1]
    model = MultimodalT5(T5Config(**told), width, tied="lm_head.weight" not in found).eval()
    expected = model.stored()
    problems = [f"missing: {name}" for name in expected.keys() - found.keys()]
    problems += [f"not expected: {name}" for name in found.keys() - expected.keys()]
    problems += [
        f"{name}: expected {list(expected[name].shape)}, found {list(found[name].shape)}"
        for name in expected.keys() & found.keys()
        if expected[name].shape != found[name].shape
    ]
    problems += [f"{name}: {tensor.dtype}" for name, tensor in found.items() if tensor.dtype != torch.float32]
    if width and told.get("image_feature_width", width) != width:
        problems.append(f"image_feature_width is {told['image_feature_width']}, found {width}")
    if told.get("tie_word_embeddings", True) != model.head_is_tied:
        problems.append(f"tie_word_embeddings is {told.get('tie_word_embeddings')}, tied head: {model.head_is_tied}")
    if problems:
        raise SystemExit(f"{folder}: does not fit\n  " + "\n  ".join(sorted(problems)))
    with torch.no_grad():
        for name, tensor in model.stored().items():
            tensor.copy_(found[name])
    return model
