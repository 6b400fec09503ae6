"""Data sets by name, and the pipelines that turn them into batches."""

from jaxnets.columns import normalise, to_uint8
from jaxnets.data.cache import cache_dir
from jaxnets.data.dataset import DataSet, Split, missing_classes
from jaxnets.data.dividing import joined, split_validation, take_per_class
from jaxnets.data.inspect import contact_sheet, describe, example_page
from jaxnets.data.lazy import LazyRows
from jaxnets.data.order import Order
from jaxnets.data.pipeline import (
    ResidentPipeline,
    StreamingPipeline,
    eval_batches,
    make_pipeline,
)
from jaxnets.data.sources import DATA_SOURCES, load
from jaxnets.data.views import Views

__all__ = [
    "DATA_SOURCES",
    "DataSet",
    "LazyRows",
    "Order",
    "ResidentPipeline",
    "Split",
    "StreamingPipeline",
    "Views",
    "cache_dir",
    "contact_sheet",
    "describe",
    "eval_batches",
    "example_page",
    "joined",
    "load",
    "make_pipeline",
    "missing_classes",
    "normalise",
    "split_validation",
    "take_per_class",
    "to_uint8",
]
