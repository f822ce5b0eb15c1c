"""What other packages bring, from a package that is really installed: the one that docs/extending.md shows, as it
stands there, and bad ones."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from truetune import config, plugins
from truetune.config import Config
from truetune.data import objectives
from truetune.errors import ConfigErrors, InputError
from truetune.models import kinds

Install = Callable[..., None]
GOOD = {
    "truetune.objectives": 'focal = "mine:focal"',
    "truetune.methods": 'orthogonal = "mine:Method"',
    "truetune.models": 'ticket = "mine:ticket"',
}
CODE = """
from truetune.data.objectives import Objective
from truetune.models.kinds import Kind

focal = Objective("focal", rows="sft", unit="tokens", torch="mine:Loss", reads=("margin",))
scored = Objective("focal", rows="sft", torch="mine:Loss", scores=True)
other = Objective("other", rows="sft", torch="mine:Loss")
nowhere = Objective("focal", rows="sft")
labelled = Objective("focal", rows="classification", torch="mine:Loss")
odd = Objective("focal", rows="sft", unit="words", torch="mine:Loss")
ticket = Kind("ticket", register="mine:nothing")
wrong = Kind("ticket", register="mine")

def nothing():
    pass

class Method:
    pass
"""


def forget() -> None:
    for cached in (plugins.points, objectives.brought, kinds.of):
        cached.cache_clear()
    sys.modules.pop("mine", None)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a package with these lines under its groups, and forgets it afterwards."""

    def installed(groups: dict[str, str] = GOOD, code: str = CODE) -> None:
        folder = tmp_path / "site"
        (folder / "mine-1.0.dist-info").mkdir(parents=True)
        (folder / "mine.py").write_text(code)
        (folder / "mine-1.0.dist-info" / "METADATA").write_text("Name: mine\nVersion: 1.0\n")
        entries = "".join(f"[{group}]\n{line}\n".replace('"', "") for group, line in groups.items())
        (folder / "mine-1.0.dist-info" / "entry_points.txt").write_text(entries)
        monkeypatch.syspath_prepend(str(folder))
        forget()

    forget()
    yield installed
    forget()


def loaded(*overrides: str) -> Config:
    return config.load(None, overrides, {"model": "m", "data": "d"}).config


def test_names_of_packages_stand_beside_ours(install: Install) -> None:
    install()
    found = loaded("training.objective=focal", "method.type=orthogonal", "preference.margin=3", "method.r=4")
    assert [found.training.objective, found.method.type] == ["focal", "orthogonal"]
    assert Config.model_validate(found.model_dump(mode="json")) == found
    assert objectives.of("focal").unit == "tokens"


def test_nothing_is_loaded_to_know_its_name(install: Install) -> None:
    install(code="raise SystemError('loaded')")
    assert loaded("training.objective=dpo", "method.type=orthogonal").model_dump()["method"]["type"] == "orthogonal"
    assert objectives.of("dpo").rows == "dpo" and kinds.of("llama") is None
    assert "mine" not in sys.modules
    with pytest.raises(InputError, match="SystemError: loaded"):
        objectives.of("focal")


def test_the_schema_names_them_and_stays_one(install: Install) -> None:
    before = Config.model_json_schema()["$defs"]["Training"]["properties"]["objective"]["enum"]
    install()
    schema = Config.model_json_schema()["$defs"]
    assert schema["Training"]["properties"]["objective"]["enum"] == [*before, "focal"]
    assert schema["Method"]["properties"]["type"]["enum"][-1] == "orthogonal"


@pytest.mark.parametrize(
    ("there", "wish", "near"), [(False, "dpp", "dpo"), (True, "dpp", "dpo"), (True, "fokal", "focal")]
)
def test_a_slip_is_told_with_the_nearest_name(install: Install, there: bool, wish: str, near: str) -> None:
    if there:
        install()
    with pytest.raises(ConfigErrors) as caught:
        loaded(f"training.objective={wish}")
    (finding,) = caught.value.findings
    assert (finding.code, finding.hint) == ("config.choice", f"did you mean `{near}`?")
    assert ("focal" in finding.message) == there


@pytest.mark.parametrize("value", ["7", "[sft]", "null"])
def test_a_name_is_text(install: Install, value: str) -> None:
    install()
    with pytest.raises(ConfigErrors):
        loaded(f"training.objective={value}")


def test_keys_that_it_does_not_read_are_refused(install: Install) -> None:
    install()
    with pytest.raises(ConfigErrors) as caught:
        loaded("training.objective=focal", "preference.beta=0.2", "preference.margin=2")
    (finding,) = caught.value.findings
    assert finding.code == "config.contradiction" and "preference.beta" in finding.where


@pytest.mark.parametrize("what", ["Method", "gone", "scored", "other", "nowhere", "labelled", "odd"])
def test_what_is_no_objective_is_refused_by_name(install: Install, what: str) -> None:
    install({"truetune.objectives": f"focal = mine:{what}"})
    with pytest.raises(InputError) as caught:
        objectives.of("focal")
    assert caught.value.code == "plugin.unusable" and caught.value.where == "mine" and "focal" in caught.value.message


@pytest.mark.parametrize("what", ["Method", "gone", "wrong", "focal"])
def test_what_is_no_kind_is_refused_by_name(install: Install, what: str) -> None:
    install({"truetune.models": f"ticket = mine:{what}"})
    with pytest.raises(InputError) as caught:
        kinds.of("ticket")
    assert caught.value.code == "plugin.unusable" and caught.value.where == "mine"


def test_a_package_that_is_gone(install: Install) -> None:
    with pytest.raises(InputError) as caught:
        objectives.of("focal")
    assert caught.value.code == "plugin.missing" and caught.value.hint


def test_what_the_engine_cannot_use(install: Install) -> None:
    """A loss, a method and a registration are looked at when they are wanted."""
    pytest.importorskip("torch")
    from truetune.engines import base
    from truetune.engines.torch import config as settings
    from truetune.engines.torch import methods
    from truetune.engines.torch import objectives as losses

    install()
    losses.brought.cache_clear()
    ticket = kinds.of("ticket")
    assert ticket
    for use in (
        lambda: losses.of(base.Objective("focal")),
        lambda: methods.brought("orthogonal"),
        lambda: settings.register(ticket),
    ):
        with pytest.raises(InputError) as caught:
            use()
        assert caught.value.code == "plugin.unusable" and caught.value.where == "mine"
    assert settings.brought("llama") is None


def test_the_docs_name_every_group() -> None:
    text = (Path(__file__).parents[2] / "docs" / "extending.md").read_text("utf-8")
    groups = set(re.findall(r'entry-points\."([\w.]+)"', text))
    assert groups == {"truetune.formats", plugins.OBJECTIVES, plugins.METHODS, plugins.MODELS}


def test_mlx_leaves_it_to_torch(install: Install, tmp_path: Path) -> None:
    pytest.importorskip("mlx_lm")
    from truetune import engines

    install()
    for what, chosen in (
        ("objective focal", engines.choose("mlx", tmp_path, "lora", "focal")),
        ("method orthogonal", engines.choose("mlx", tmp_path, "orthogonal", "sft")),
    ):
        assert chosen.name == "torch" and what in chosen.warning
