"""How often the watermark is found where it is, after common changes, and where it is not."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage
from sklearn.datasets import load_sample_images

from experiments.benchmarks.configs import Watermark
from jaxnets import data
from jaxnets.commands import checks, common
from jaxnets.commands.configs import constraints
from jaxnets.files import write_json
from jaxnets.media import watermark

#: False-positive rates at which detections are counted.
RATES = (0.01, 0.001)
#: Images that are judged together.
BATCHES = (1, 16, 64)
#: Pixels that the detector takes to be cut off at most, of Fashion-MNIST and of photographs.
_SEARCHED, _SEARCHED_LARGE = 4, 16
_LARGE = 128
#: Keys, and test images of Fashion-MNIST, that there are at most.
_MOST = 10_000
#: Marked images that an attacker who knows the method averages, and how much of what is common to
#: them is subtracted: more than all of it, as the average is of a residual.
_AVERAGED, _STRENGTH = 64, 1.5


def run(config: Watermark) -> dict[str, Any]:
    """The benchmark."""
    constraints.check(config)
    checks.json_file(config)
    test = data.load("fashion_mnist").splits["test"].inputs
    order = np.random.default_rng(0).permutation(len(test))
    small = [
        test[np.take(order, range(key * config.images, (key + 1) * config.images), mode="wrap")]
        for key in range(config.keys)
    ]
    large = [photographs()] * config.keys
    marked = {
        "fashion_mnist 28x28x1": _detections(small, _SEARCHED),
        f"photographs {_LARGE}x{_LARGE}x3": _detections(large, _SEARCHED_LARGE),
    }
    for name, rates in marked.items():
        print(f"{name}: {json.dumps(rates, indent=2)}", flush=True)
    false = _false_positives(watermark.traces(list(test)), 10 * config.keys)
    numbers = {
        "psnr_target_db": watermark.PSNR,
        "false_positives": false,
        "marked": marked,
        "keys": config.keys,
        "images_a_key": config.images,
        "machine": common.machine(),
    }
    print(json.dumps(false, indent=2))
    if config.json is not None:
        write_json(config.json, numbers)
        print(f"written: {config.json}")
    return numbers


def photographs() -> np.ndarray:
    """[30, 128, 128, 3]: squares side by side of scikit-learn's two photographs."""
    return np.stack(
        [
            image[y : y + _LARGE, x : x + _LARGE]
            for image in load_sample_images().images
            for y in range(0, image.shape[0] - _LARGE + 1, _LARGE)
            for x in range(0, image.shape[1] - _LARGE + 1, _LARGE)
        ]
    )


def attacks(shape: tuple[int, ...]) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Name -> what is done to one image [H, W, C]; the detector gets the size back, no more."""
    height, width = shape[:2]
    tenth = max(1, round(0.1 * height))
    half = partial(_resized, height=height // 2, width=width // 2)
    return {
        "none": lambda image: image,
        **{f"JPEG {quality}": partial(_jpeg, quality=quality) for quality in (90, 75, 50)},
        "half size": half,
        "double size": partial(_resized, height=2 * height, width=2 * width),
        "half size and back": lambda image: _resized(half(image), height, width),
        "2 pixels cut off each side": lambda image: image[2:-2, 2:-2],
        f"{tenth} pixels (10%) cut off each side": lambda image: image[tenth:-tenth, tenth:-tenth],
    }


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    _picture(image).save(buffer, "JPEG", quality=quality)
    return _array(Image.open(buffer))


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return _array(_picture(image).resize((width, height), Image.Resampling.BILINEAR))


def _averaging(marked: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Subtracts what images [N, H, W, C] with one mark have in common.

    That is the mean of what a Gaussian of one pixel takes away, in which flat parts count most.
    """
    mean = partial(ndimage.gaussian_filter, sigma=1, radius=3, axes=(1, 2), mode="reflect")
    planes = marked.mean(axis=-1, keepdims=True)
    rest = planes - mean(planes)
    weights = 1 / (mean(rest**2) + 5)
    common = _STRENGTH * (weights * rest).sum(axis=0) / weights.sum(axis=0)
    return lambda image: np.rint(image - common).clip(0, 255).astype(np.uint8)


def _picture(image: np.ndarray) -> Any:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _array(picture: Any) -> np.ndarray:
    pixels = np.asarray(picture)
    return pixels.reshape(*pixels.shape[:2], -1)


def _detections(chosen: list[np.ndarray], searched: int) -> dict[str, Any]:
    """Shares of marked images and batches that are found after each attack.

    Args:
      chosen: images [N, H, W, C] for each key.
      searched: pixels that the detector takes to be cut off at most, where any are.
    """
    shape = chosen[0].shape[1:]
    p_values: dict[str, dict[int, list[float]]] = {}
    noise = []
    for key, images in enumerate(chosen):
        marked = watermark.embed(images, key)
        noise += (((marked - images.astype(np.float64)) ** 2).mean(axis=(1, 2, 3))).tolist()
        erase = _averaging(marked[:_AVERAGED])
        for name, attack in {**attacks(shape), "average subtracted": erase}.items():
            cut = "cut off" in name
            attacked = [attack(image) for image in marked]
            traces = watermark.traces(attacked, size=None if cut else (shape[0], shape[1]))
            by_size = p_values.setdefault(name, {size: [] for size in BATCHES})
            for size in BATCHES:
                by_size[size] += _p_values(traces, key, size, searched if cut else 0)
    psnr = 10 * np.log10(255**2 / np.array(noise))
    return {
        "images": len(noise),
        "images_averaged": min(_AVERAGED, len(chosen[0])),
        "psnr_db": {"mean": round(float(psnr.mean()), 2), "min": round(float(psnr.min()), 2)},
        "pixels_searched_where_cut": searched,
        **{
            f"detection_rate_at_{rate}": {
                name: {
                    f"batch of {size}": round(float((np.array(values) <= rate).mean()), 4)
                    for size, values in by_size.items()
                    if values
                }
                for name, by_size in p_values.items()
            }
            for rate in RATES
        },
    }


def _p_values(traces: np.ndarray, key: int, size: int, crop: int) -> list[float]:
    """Those of every whole batch of so many images."""
    if size == 1:
        return watermark.detect_in(traces, key, crop=crop).p_values.tolist()
    starts = range(0, len(traces) - size + 1, size)
    batches = [watermark.detect_in(traces[i : i + size], key, crop=crop) for i in starts]
    return [batch.batch_p_value for batch in batches]


def _false_positives(traces: np.ndarray, keys: int) -> dict[str, Any]:
    """Shares of unmarked images and batches that pass for marked, over keys and of the worst key.

    Args:
      traces: those of the images.
      keys: how many keys look at them; they mark nothing.
    """
    numbers: dict[str, Any] = {"images": len(traces), "keys": keys}
    for crop in (0, _SEARCHED):
        # A search takes (crop + 1)^2 times as long.
        number = keys if crop == 0 else max(1, keys // 10)
        for size in BATCHES:
            p_values = np.array([_p_values(traces, -1 - key, size, crop) for key in range(number)])
            row: dict[str, Any] = {"looks": p_values.size}
            for rate in RATES:
                share = (p_values <= rate).mean(axis=1)
                row[f"at {rate}"] = {
                    "mean": round(float(share.mean()), 6),
                    "standard_error": round(float(share.std() / max(1, number - 1) ** 0.5), 6),
                    "worst_key": round(float(share.max()), 6),
                }
            numbers[f"batch of {size}" + (f", {crop} pixels searched" if crop else "")] = row
    return numbers
