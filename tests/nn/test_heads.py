"""The vocabulary head: the token table itself where it is tied, with the bias and the transform that a config asks for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from gamut.checkpoint import architecture
from gamut.nn import HeadConfig
from gamut.nn.heads import VocabularyHead

X = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))
TABLE = torch.randn(40, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def head(tiny_config, spread):
    def make(**fields) -> VocabularyHead:
        config = architecture(tiny_config("bert")).config
        return spread(VocabularyHead(replace(config, head=HeadConfig(**fields))))

    return make


def test_tied_without_more_is_the_table(head):
    tied = head()
    assert not list(tied.parameters())
    torch.testing.assert_close(tied(X, TABLE), X @ TABLE.T)


def test_untied_reads_its_own_matrix(head):
    untied = head(tied=False)
    torch.testing.assert_close(untied(X, TABLE), X @ untied.weight.T)


def test_bias(head):
    biased = head(bias=True)
    assert biased.bias.any()
    torch.testing.assert_close(biased(X, TABLE), X @ TABLE.T + biased.bias)


def test_transform(head):
    transformed = head(transform="gelu")
    dense, norm = transformed.transform.dense, transformed.transform.norm
    hidden = F.layer_norm(F.gelu(X @ dense.weight.T + dense.bias), (16,), norm.weight, norm.bias, norm.eps)
    torch.testing.assert_close(transformed(X, TABLE), hidden @ TABLE.T)


def test_the_table_learns_through_the_head(head):
    table = TABLE.clone().requires_grad_()
    head()(X, table).sum().backward()
    torch.testing.assert_close(table.grad, X.sum((0, 1)).expand(40, 16))
