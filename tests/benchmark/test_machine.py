"""Arithmetic, bytes and memory of things small enough to be counted by hand."""

import torch
from torch import nn

from detrkit.benchmark.machine import Work, count_work, measure_machine
from detrkit.benchmark.peak_memory import bytes_of, peak_growth
from detrkit.benchmark.train_step import PHASES, Step

CPU = torch.device("cpu")


def test_a_linear_layer() -> None:
    layer, rows = nn.Linear(64, 32, bias=False), torch.randn(10, 64)
    assert count_work(lambda: layer(rows)) == Work(2 * 10 * 64 * 32, 4 * (10 * 64 + 64 * 32 + 10 * 32))


def test_a_convolution_forward_and_backward() -> None:
    layer, maps = nn.Conv2d(3, 8, 3, padding=1, bias=False), torch.randn(2, 3, 10, 12)
    once = 2 * (2 * 10 * 12) * 8 * 3 * 9
    assert count_work(lambda: layer(maps)).flops == once
    assert count_work(lambda: layer(maps).sum().backward()).flops == 2 * once  # once more for the weights' gradient


def test_views_cost_nothing() -> None:
    numbers = torch.zeros(6, 4)
    assert count_work(lambda: numbers.view(4, 6).t()[1:]).bytes == 0
    assert count_work(lambda: numbers + 1).bytes == 2 * 4 * 24


def test_peak_memory_is_that_of_the_fullest_moment() -> None:
    def run() -> None:
        first = torch.zeros(1000)
        second = first + 1  # both are there
        del first, second
        torch.zeros(500)

    for _ in range(2):  # the second time the process has the memory already
        grown = peak_growth(run, CPU)
        assert grown is not None
        assert 8000 <= grown < 8064  # numbers such as the 1 are tensors too


def test_a_tensor_that_is_there_twice_counts_once() -> None:
    shared = torch.zeros(10, dtype=torch.float64)
    assert bytes_of([shared, shared[:5], torch.zeros(3, dtype=torch.uint8)]) == 83


def test_the_machine_is_measured() -> None:
    machine = measure_machine(CPU, {"fp32"}, seconds=0.02)
    assert machine.device == "cpu"
    assert machine.name
    assert machine.threads == torch.get_num_threads()
    assert 1e8 < machine.peaks["fp32"] < 1e14
    assert 1e8 < machine.bandwidth < 1e13


def test_a_step_updates_weights_and_times_its_phases() -> None:
    layer = nn.Linear(4, 1, bias=False)
    before = layer.weight.detach().clone()
    rows = torch.ones(3, 4)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0)
    step = Step(lambda: layer(rows), lambda out: out.sum(), layer, optimizer, CPU)
    assert step.holds() == 16
    step()
    torch.testing.assert_close(layer.weight, before - 0.1)
    assert layer.weight.grad is None
    assert step.holds() == 16 + 2 * 16 + 4  # weights, two moments, the number of steps
    shares = step.shares()
    assert tuple(shares) == PHASES
    assert abs(sum(shares.values()) - 1) < 1e-9
