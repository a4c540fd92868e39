"""Without the extra `serve` the command says how to install it."""

from importlib.util import find_spec

import pytest

import detrkit.serving
from detrkit.commands.serve import serve
from detrkit.config.serving import ServeConfig
from detrkit.errors import MissingExtraError


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detrkit.serving, "PACKAGES", ("a_package_that_nobody_has",))
    with pytest.raises(MissingExtraError, match=r'detrkit serve needs .*pip install "detrkit\[serve\]"'):
        serve(ServeConfig(weights=["runs/x"]))
    with pytest.raises(MissingExtraError, match=r"detrkit\[serve\]"):
        detrkit.serving.create_app({})


@pytest.mark.skipif(find_spec("fastapi") is not None, reason="the extra serve is installed")
def test_the_other_tests_of_serving() -> None:
    pytest.skip("the extra serve is not installed")
