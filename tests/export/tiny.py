"""Tiny models with random weights, and their tokenizers; nothing is downloaded."""

import cpu_torch  # noqa: F401, before torch
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForTokenClassification,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

# Each message's role and text; a picture is the token <image>.
TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
EDGE, PATCH = 16, 8


def tokenizer():
    """A tokenizer with one token per byte, and a few special ones."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    made.add_special_tokens({"additional_special_tokens": ["<image>"]})
    made.chat_template = TEMPLATE
    return made


def config(words):
    return LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        bos_token_id=None,
    )


def language_model(words):
    torch.manual_seed(1)
    return LlamaForCausalLM(config(words))


def step_classifier(words):
    torch.manual_seed(1)
    return LlamaForTokenClassification(config(words))


def vision_model(words):
    """A vision-language model and its processor."""
    torch.manual_seed(1)
    sees = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=EDGE,
        patch_size=PATCH,
        projection_dim=16,
    )
    token = words.convert_tokens_to_ids("<image>")
    both = LlavaConfig(vision_config=sees, text_config=config(words), image_token_index=token)
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": EDGE}, crop_size={"height": EDGE, "width": EDGE}, do_convert_rgb=True
        ),
        tokenizer=words,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
        image_token="<image>",
    )
    return LlavaForConditionalGeneration(both), processor
