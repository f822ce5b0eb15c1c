"""Tiny models for the tests of the engines, each made once in a session."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """The folder of a tiny model: `models("llama", attention_bias=True)`."""
    pytest.importorskip("torch")
    from truetune.engines.torch import tiny

    root, made = tmp_path_factory.mktemp("tiny"), {}

    def get(name, **settings):
        key = name + json.dumps(settings)
        if key not in made:
            made[key] = tiny.make(root / str(len(made)), name, **settings)
        return made[key]

    return get


@pytest.fixture
def llama(models):
    return models("llama")
