"""A small ViT folder with random weights, pixels and last hidden states; pictures, their pixels as Pillow resizes them, and hidden states."""

import json
import shutil
from pathlib import Path

import numpy
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import ViTConfig, ViTModel

FOLDER = Path(__file__).parent / "values" / "vit"
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    torch.manual_seed(7)
    model = ViTModel(
        ViTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            image_size=32,
            patch_size=8,
            initializer_range=0.2,
        )
    ).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(0.2 * torch.randn_like(parameter))
            elif "layernorm" in name:
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
    model.save_pretrained(FOLDER)
    preprocessor = {"do_resize": True, "image_mean": MEAN, "image_std": STD, "size": {"height": 32, "width": 32}}
    (FOLDER / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")

    pixels = torch.randn(2, 3, 32, 32)
    values = {"pixels": pixels}
    for name, picture in pictures().items():
        picture.save(FOLDER / f"{name}.png")
        for resample in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC):
            small = numpy.asarray(picture.resize((32, 32), resample)) / 255.0
            read = torch.tensor((small - MEAN) / STD, dtype=torch.float32).permute(2, 0, 1).contiguous()
            values[f"{name}.{resample.name.lower()}"] = read
    with torch.no_grad():
        values["last_hidden_state"] = model(pixel_values=pixels).last_hidden_state
        for name in pictures():
            read = values[f"{name}.bilinear"].unsqueeze(0)
            values[f"{name}.hidden"] = model(pixel_values=read).last_hidden_state
    save_file(values, FOLDER / "expected.safetensors")


def pictures():
    """A smooth wide one, a tall one of noise, and one that is enlarged."""
    y, x = numpy.mgrid[0:50, 0:72]
    smooth = numpy.stack([128 + 127 * numpy.sin(x / 9), 128 + 127 * numpy.cos(y / 7), (x * 3 + y * 2) % 256], axis=-1)
    noise = numpy.random.default_rng(3)
    return {
        "picture": Image.fromarray(smooth.astype(numpy.uint8)),
        "tall": Image.fromarray(noise.integers(0, 256, (95, 41, 3), dtype=numpy.uint8)),
        "tiny": Image.fromarray(noise.integers(0, 256, (7, 9, 3), dtype=numpy.uint8)),
    }


if __name__ == "__main__":
    main()
