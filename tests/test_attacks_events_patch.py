"""Universal patch: the same events for every recording, inside the region and the budget; the best where that can be told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from event_victim import (
    WINDOWS,
    check_alone_and_together,
    counts,
    digits,
    fooled,
    labels_of,
    tiny_batch,
    tiny_model,
    trained,
)

from robustsnn.attacks.events.patch import RandomPatch, UniversalPatch
from robustsnn.datasets.digits_events import load_digits_events
from robustsnn.errors import RobustSNNError
from robustsnn.events import EventBatch, Sensor


def fitted(budget: int = 12, **options: object) -> UniversalPatch:
    learn = tiny_batch(9, (40, 30, 35, 50))
    return UniversalPatch(tiny_model(), WINDOWS, budget, area=0.2, **options).fit(learn, labels_of(tiny_model(), learn))


@pytest.mark.parametrize("binary", [False, True])
def test_the_same_events_in_the_region_and_the_budget(binary):
    events = tiny_batch(0)
    labels = labels_of(tiny_model(), events)
    for patch in (fitted(binary=binary), RandomPatch(tiny_model(), WINDOWS, 12, area=0.2, binary=binary)):
        after = patch(events, labels)
        change = counts(after) - counts(events)
        assert (change == change[:1]).all()
        assert 0 < change[0].sum() <= 12
        assert change.min() == 0
        region = patch.region(events.sensor)
        assert region.sum() == 6
        assert (change[..., ~region] == 0).all()
        found = patch.changes(events, after)
        assert not found.removed.any()
        assert found.added.tolist() == [int(change[0].sum())] * 3


def test_region_is_a_disc():
    patch = RandomPatch(tiny_model(), WINDOWS, 5, area=5 / 81, centre=(2, 6))
    cross = {(2, 6), (1, 6), (3, 6), (2, 5), (2, 7)}
    assert {tuple(pixel) for pixel in patch.region(Sensor(9, 9)).nonzero().tolist()} == cross
    assert RandomPatch(tiny_model(), WINDOWS, 5, area=1.0).region(Sensor(4, 7)).all()
    assert RandomPatch(tiny_model(), WINDOWS, 5, area=1e-6).region(Sensor(5, 5)).nonzero().tolist() == [[2, 2]]


def test_best_patch_of_a_linear_model():
    """Against all pixels, polarities and steps ranked by hand; one round, so one event for an entry."""
    weights = torch.randn(4, 2, 6, 5, generator=torch.Generator().manual_seed(0))

    def model(frames: torch.Tensor) -> torch.Tensor:
        one = (frames * weights).flatten(1).sum(1)
        return torch.stack([torch.full_like(one, 1e3), one], 1)

    events = tiny_batch(1)
    patch = UniversalPatch(model, WINDOWS, 4, area=0.2, rounds=1)
    learnt = patch.fit(events, torch.zeros(3, dtype=torch.long))
    gain = torch.where(patch.region(events.sensor), weights, -torch.inf).flatten()
    assert learnt.pattern(events.sensor).flatten().nonzero()[:, 0].tolist() == sorted(gain.topk(4).indices.tolist())


def test_results_belong_to_recordings():
    events = tiny_batch(5)
    labels = labels_of(tiny_model(), events)
    check_alone_and_together(fitted(), events, labels)
    check_alone_and_together(RandomPatch(tiny_model(), WINDOWS, 12, area=0.2), events, labels)


def test_learning_leaves_the_model_alone_and_takes_batches():
    learn = tiny_batch(9, (40, 30, 35, 50))
    labels = labels_of(tiny_model(), learn)
    model = tiny_model().train()
    patches = [
        UniversalPatch(model, WINDOWS, 12, area=0.2, batch_size=size).fit(learn, labels).pattern(learn.sensor)
        for size in (1, 3, 4)
    ]
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert torch.equal(patches[0], patches[1])
    assert torch.equal(patches[0], patches[2])


def test_beats_chance_on_recordings_it_has_not_seen():
    model, windows = trained()
    learn = load_digits_events().train.batch(range(100))
    events, labels = digits()
    patch = UniversalPatch(model, windows, 150, area=0.1).fit(*learn)
    chance = max(
        fooled(RandomPatch(model, windows, 150, area=0.1, seed=seed)(events, labels), labels) for seed in range(3)
    )
    assert fooled(patch(events, labels), labels) >= chance + 5


def test_wrong_input():
    with pytest.raises(RobustSNNError, match="number of events"):
        UniversalPatch(tiny_model(), WINDOWS, 0.1)
    with pytest.raises(RobustSNNError, match="area"):
        UniversalPatch(tiny_model(), WINDOWS, 5, area=1.5)
    with pytest.raises(RobustSNNError, match="rounds"):
        UniversalPatch(tiny_model(), WINDOWS, 5, rounds=0)
    events, labels = tiny_batch(0), torch.zeros(3, dtype=torch.long)
    with pytest.raises(RobustSNNError, match="call fit"):
        UniversalPatch(tiny_model(), WINDOWS, 5)(events, labels)
    with pytest.raises(RobustSNNError, match="centre"):
        RandomPatch(tiny_model(), WINDOWS, 5, centre=(6, 0))(events, labels)
    with pytest.raises(RobustSNNError, match="no recordings"):
        UniversalPatch(tiny_model(), WINDOWS, 5).fit(EventBatch.of([], Sensor(6, 5)), labels[:0])
    other = EventBatch(*(np.zeros(9, int) for _ in range(4)), np.array([0, 9]), Sensor(6, 6))
    with pytest.raises(RobustSNNError, match="learnt on a sensor"):
        fitted(5).perturb(other, labels[:1], np.array([5]))
