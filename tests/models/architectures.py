"""Classes of transformers' models that eager trains at the configs and batches made here."""

from pathlib import Path

NAMES = tuple((Path(__file__).parent / "architectures.txt").read_text().split())
