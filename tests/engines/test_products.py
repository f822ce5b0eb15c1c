"""Both libraries' products against the plain formula in float64."""

from __future__ import annotations

import pytest
import torch

from truetune.engines.torch import products


def near(found: torch.Tensor, exact: torch.Tensor) -> bool:
    return bool((found.double() - exact).abs().max() <= 1e-6 * exact.abs().max() * found.shape[-1] ** 0.5)


@pytest.fixture(params=["oneDNN", "MKL"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "oneDNN" and not products.available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(products, "here", lambda: request.param == "oneDNN")
    return str(request.param)


@pytest.mark.parametrize(("rows", "inside", "outside"), [(1, 48, 32), (63, 48, 80), (200, 96, 33), (1030, 40, 72)])
@pytest.mark.parametrize("turned", [False, True], ids=["rows", "columns"])
def test_products_are_those_of_the_formula(library: str, rows: int, inside: int, outside: int, turned: bool) -> None:
    torch.manual_seed(rows)
    x, grad = torch.randn(rows, inside), torch.randn(rows, outside)
    W = torch.randn(inside, outside).t() if turned else torch.randn(outside, inside)  # as GPT-2 keeps it, and others
    small, A = torch.randn(rows, 8), torch.randn(8, inside)
    assert near(products.forward(x, W), x.double() @ W.double().t())
    assert near(products.backward(grad, W), grad.double() @ W.double())
    exact = grad.double() @ W.double() + small.double() @ A.double()
    assert near(products.sum_backward(grad, W, small, A), exact)


def test_a_product_does_not_depend_on_the_rows_beside_it(library: str) -> None:
    x, W = torch.randn(256, 64), torch.randn(48, 64)
    assert torch.equal(products.forward(x, W), products.forward(x.clone(), W))
    assert near(products.forward(x, W)[:70], products.forward(x[:70], W).double())


def test_other_formats_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "here", lambda: True)
    for dtype in (torch.bfloat16, torch.float64):
        x, W = torch.randn(100, 16).to(dtype), torch.randn(24, 16).to(dtype)
        assert products.forward(x, W).dtype == dtype
        assert not products.wide(x, W)


def test_a_library_keeps_code_for_few_numbers_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that stays: oneDNN's code for each number of rows, 0.7 MB with each matrix, of 400 numbers."""
    if not products.available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(products, "here", lambda: True)
    W, seen = torch.randn(24, 16), set()
    linear = torch.ops.mkldnn._linear_pointwise

    def noted(x: torch.Tensor, *others: object) -> torch.Tensor:
        seen.add(len(x))
        return linear(x, *others)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", noted)
    for rows in range(600, 1000):
        assert products.forward(torch.randn(rows, 16), W).shape == (rows, 24)
    assert len(seen) == 13 and all(rows % products.ROUND == 0 for rows in seen)
