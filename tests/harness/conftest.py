"""The tests inside the public harnesses, which have an environment each: `make test-harness`.

It runs them without the conftest.py above: before anything imports transformers, the operators must be declared.
"""

import os

import torchvision_operators  # noqa: F401

os.environ["HF_HUB_OFFLINE"] = "1"
