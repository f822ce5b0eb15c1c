"""Adapters by name and version: numbers, stages, removal, lineage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from finished import finished

from truetune.errors import InputError, UsageError
from truetune.registry.catalog import Catalog
from truetune.runs.run import Run


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    return Catalog()


def registered(catalog: Catalog, tmp_path: Path, count: int = 1, name: str = "support") -> list[Run]:
    runs = [finished(tmp_path / f"{name}-run-{number}", f"{name} {number}") for number in range(count)]
    for run in runs:
        catalog.register(run, name)
    return runs


def test_every_run_is_the_next_version_of_its_name(catalog: Catalog, tmp_path: Path) -> None:
    registered(catalog, tmp_path, 3)
    assert [each["address"] for each in catalog.all()] == ["support@3", "support@2", "support@1"]
    assert catalog.find("support")["version"] == 3 and catalog.find("support@1")["run"] == "support-run-0"
    found = catalog.find("support@2")
    assert (found["base"]["name"], found["method"], found["objective"]) == ("starter", "lora", "sft")
    assert found["scores"] == {"steps": 3, "base_loss": 3.0, "eval_loss": 2.0}


@pytest.mark.parametrize(
    ("folder", "given", "name"),
    [
        ("20261121-143005-starter-support-x7k2", None, "starter-support"),
        ("20261121-143005-starter-support-x7k2", "mine", "mine"),
        ("my-run", None, "my-run"),
        ("My Run", None, "starter-my-run"),
        ("last", None, "starter-last"),
    ],
)
def test_a_name_comes_from_the_config_or_the_run(
    catalog: Catalog, tmp_path: Path, folder: str, given: str | None, name: str
) -> None:
    assert catalog.register(finished(tmp_path / folder, name=given))["address"] == f"{name}@1"


def test_a_run_stays_the_version_it_is_where_it_goes(catalog: Catalog, tmp_path: Path) -> None:
    (run,) = registered(catalog, tmp_path)
    assert catalog.register(run)["address"] == "support@1"
    copy = shutil.copytree(run.folder, tmp_path / "copies" / run.id)
    assert catalog.register(Run(copy))["folder"] == str(run.folder)
    shutil.rmtree(run.folder)
    assert catalog.register(Run(copy)) | {"time": 0} == catalog.find("support@1") | {"time": 0}
    assert catalog.find("support@1")["folder"] == str(copy) and len(catalog.all()) == 1
    assert catalog.register(Run(copy), "other")["address"] == "other@1"


def test_one_version_of_a_name_is_in_a_stage(catalog: Catalog, tmp_path: Path) -> None:
    registered(catalog, tmp_path, 2)
    assert catalog.promote("support@1", "production", "it was good")["note"] == "it was good"
    assert catalog.find("support@production")["version"] == 1
    catalog.promote("support", "staging")
    catalog.promote("support", "production")
    assert catalog.find("support@production")["version"] == 2 and catalog.find("support@1")["stage"] is None
    assert catalog.look("support@staging") is None
    catalog.promote("support", None)
    with pytest.raises(InputError, match="there is no adapter `support@production`") as caught:
        catalog.find("support@production")
    assert caught.value.finding.hint == "`support` has the versions 2, 1"


def test_a_number_is_never_given_twice(catalog: Catalog, tmp_path: Path) -> None:
    registered(catalog, tmp_path, 2)
    catalog.remove("support@2")
    assert catalog.register(finished(tmp_path / "later", "later"), "support")["address"] == "support@3"
    catalog.rename("support", "help")
    assert [each["address"] for each in catalog.all()] == ["help@3", "help@1"]
    with pytest.raises(UsageError, match="there is an adapter `support` already, or there was one"):
        catalog.rename("help", "support")
    assert catalog.register(finished(tmp_path / "newest", "newest"), "support")["address"] == "support@4"


def test_what_something_needs_stays(catalog: Catalog, tmp_path: Path) -> None:
    (run,) = registered(catalog, tmp_path)
    child = finished(tmp_path / "child", "child", adapter=str(run.folder / "adapter"))
    catalog.register(child, "child")
    with pytest.raises(UsageError, match="child@1 went on from it"):
        catalog.remove("support@1")
    catalog.promote("child", "production")
    with pytest.raises(UsageError, match="it is in production") as caught:
        catalog.remove("child")
    assert "ft adapters promote child@1 --stage none" in caught.value.finding.hint
    catalog.promote("child", None)
    assert catalog.remove("child")["address"] == "child@1" and child.folder.is_dir()
    catalog.remove("support")
    assert catalog.all() == []


def test_lineage_is_a_tree(catalog: Catalog, tmp_path: Path) -> None:
    registered(catalog, tmp_path)
    second = finished(tmp_path / "second", "second", adapter="support-run-0/adapter")
    third = finished(tmp_path / "third", "third", adapter=str(second.folder / "adapter"))
    catalog.register(second, "support")
    catalog.register(third, "other")
    found = catalog.lineage("other")
    assert found["adapter"]["address"] == "other@1" and found["children"] == []
    (parent,) = found["parents"]
    assert parent["adapter"]["address"] == "support@2" and parent["how"] == "continued"
    assert parent["parents"][0]["adapter"]["address"] == "support@1"
    assert catalog.lineage("support@1")["children"] == ["support@2"]


def test_a_parent_that_nobody_registered_is_named_by_its_folder(catalog: Catalog, tmp_path: Path) -> None:
    stranger = finished(tmp_path / "stranger", "stranger").folder / "adapter"
    catalog.register(finished(tmp_path / "child", "child", adapter=str(stranger)))
    (parent,) = catalog.lineage("child")["parents"]
    assert parent["folder"] == str(stranger) and len(parent["content"]) == 64


@pytest.mark.parametrize("name", ["", "Last", "last", "starter", "a b", "../x", "x" * 65])
def test_a_name_that_no_adapter_may_have(catalog: Catalog, tmp_path: Path, name: str) -> None:
    registered(catalog, tmp_path)
    with pytest.raises(UsageError) as caught:
        catalog.rename("support", name)
    assert caught.value.finding.code == "adapter.name"


def test_what_is_not_finished_is_no_adapter(catalog: Catalog, tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    shutil.rmtree(run.folder / "adapter")
    with pytest.raises(InputError, match="not finished") as caught:
        catalog.register(run)
    assert caught.value.finding.code == "run.unfinished" and catalog.empty


def test_a_near_name_is_named(catalog: Catalog, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        catalog.find("support")
    assert "none is registered yet" in caught.value.finding.hint
    registered(catalog, tmp_path)
    with pytest.raises(InputError) as caught:
        catalog.find("suport")
    assert "did you mean support?" in caught.value.finding.hint


def test_a_list_reads_no_more_than_it_shows(catalog: Catalog, tmp_path: Path) -> None:
    """Of ten thousand adapters the newest are found by an index, and only their rows are read."""
    registered(catalog, tmp_path, 3)
    registered(catalog, tmp_path, 1, "other")
    assert [each["address"] for each in catalog.all(limit=2)] == ["other@1", "support@3"]
    assert [each["address"] for each in catalog.all("support", 2)] == ["support@3", "support@2"]
    assert (catalog.count(), catalog.count("support"), catalog.count("none")) == (4, 3, 0)
    with catalog.index.open() as connection:
        newest = "SELECT name FROM adapters ORDER BY time DESC, name, version DESC LIMIT 2"
        steps = [step[3] for step in connection.execute(f"EXPLAIN QUERY PLAN {newest}")]
    assert len(steps) == 1 and "by_time" in steps[0]
