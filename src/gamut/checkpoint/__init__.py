"""Hugging Face directories: what a model's name means, and how one is read and written."""

from .generation import GenerationDefaults, read_generation
from .io import atomic_directory, read_json, write_json
from .model import Architecture, architecture, build, load_transformer, read_architecture, skeleton, write_transformer
from .refs import Ref, parse, resolve

__all__ = [
    "Architecture",
    "GenerationDefaults",
    "Ref",
    "architecture",
    "atomic_directory",
    "build",
    "load_transformer",
    "parse",
    "read_architecture",
    "read_generation",
    "read_json",
    "resolve",
    "skeleton",
    "write_json",
    "write_transformer",
]
