"""Mistakes in the parameters are one clear line, before anything runs."""

from collections.abc import Callable

import pytest

from training.config import ConfigError, DiffusionDPOConfig
from training.losses import LOSSES


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"beta": 0.0}, "beta: 0.0, expected a number above 0"),
        ({"beta": float("nan")}, "beta: nan"),
        ({"loss_type": "sigmoyd"}, "loss_type: 'sigmoyd', expected one of " + ", ".join(sorted(LOSSES))),
        ({"sft_weight": -1.0}, "sft_weight: -1.0"),
        ({"sft_target": "winner"}, "sft_target: 'winner', expected one of data, reference, reference_both"),
        ({"prompt_dropout": 1.5}, "prompt_dropout: 1.5, expected a share from 0 to 1"),
        ({"prior_empty_share": -0.1}, "prior_empty_share"),
        ({"prior_batch_size": -1}, "prior_batch_size: -1"),
        ({"prior_weight": 1.0, "prior_batch_size": 0}, "prior_weight: 1.0 with prior_batch_size 0"),
        ({"dpo_weight": 0.0, "sft_weight": 0.0, "prior_weight": 0.0}, "nothing to train"),
        ({"unsafe_prompt_weight": 0.0, "safe_prompt_weight": 0.0}, "both 0"),
        ({"remove_unused_columns": True}, "remove_unused_columns: True, expected False"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it(
    config: Callable[..., DiffusionDPOConfig], changes: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError) as error:
        config(**changes)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_defaults_are_the_official_trainers(tmp_path) -> None:
    config = DiffusionDPOConfig(str(tmp_path))
    assert (config.beta, config.loss_type, config.prompt_dropout) == (5000.0, "sigmoid", 0.2)
    assert config.report_to == [] and config.remove_unused_columns is False


def test_every_field_of_ours_has_a_help_text_and_stands_in_the_docstring() -> None:
    ours = DiffusionDPOConfig.__annotations__
    for name in ours:
        assert DiffusionDPOConfig.__dataclass_fields__[name].metadata["help"]
        assert name in (DiffusionDPOConfig.__doc__ or "")
