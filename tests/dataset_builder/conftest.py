"""Fixtures of the builder's tests: the tiny pipeline as a folder, a taxonomy, a small recipe and what it builds."""

import pytest

from dataset_builder.build import build
from tests.dataset_builder.builder_stand_ins import TAXONOMY, small_recipe


@pytest.fixture(scope="session")
def tiny_model(tiny_pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-t2i"
    tiny_pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def taxonomy_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("taxonomies") / "two.yaml"
    path.write_text(TAXONOMY, "utf8")
    return path


@pytest.fixture
def recipe(tiny_model, taxonomy_file):
    return small_recipe(tiny_model, taxonomy_file)


@pytest.fixture(scope="session")
def built(tiny_model, taxonomy_file, tmp_path_factory):
    """The run folder of the small recipe, built once; tests must not change it."""
    out = tmp_path_factory.mktemp("built")
    build(small_recipe(tiny_model, taxonomy_file), out)
    return out
