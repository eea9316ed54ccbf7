from __future__ import annotations

import torch
from torch import nn

from methods.blocks.steps import at_rates, descend, set_rates


def test_descend_moves_only_the_parameters_of_its_optimisers() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 1)
    before = [weight.detach().clone() for weight in (*first.parameters(), *second.parameters())]
    optimizer = torch.optim.SGD(first.parameters(), lr=0.1)
    loss = second(first(torch.ones(2, 3))).square().mean()
    expected = [
        weight - 0.1 * gradient
        for weight, gradient in zip(
            before[:2], torch.autograd.grad(loss, [*first.parameters()], retain_graph=True), strict=True
        )
    ]
    descend(loss, optimizer)
    for weight, wanted in zip((*first.parameters(), *second.parameters()), (*expected, *before[2:]), strict=True):
        torch.testing.assert_close(weight.detach(), wanted)
    assert all(weight.grad is None for weight in second.parameters())


def test_descend_ignores_parameters_that_the_loss_does_not_use_and_old_gradients() -> None:
    used, unused = nn.Linear(2, 1), nn.Linear(2, 1)
    optimizer = torch.optim.SGD([*used.parameters(), *unused.parameters()], lr=1.0, weight_decay=0.1)
    kept = unused.weight.detach().clone()
    for _ in range(2):
        descend(used(torch.ones(1, 2)).sum(), optimizer)
    assert torch.equal(used.weight.grad, torch.ones(1, 2))
    assert torch.equal(unused.weight, kept)


def test_rates_are_multiples_of_the_initial_ones_of_each_group() -> None:
    layers = nn.Linear(2, 2)
    weight, bias = layers.parameters()
    optimizer = torch.optim.SGD(at_rates((1.0, [weight]), (3.0, iter([bias]))))
    for factor in (0.1, 0.5):
        set_rates([optimizer], factor)
        assert [group["lr"] for group in optimizer.param_groups] == [factor, 3 * factor]
