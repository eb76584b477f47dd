import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from calibzarr.models.compatibility import import_diffusionkit
from calibzarr.models.gradients import receiving_gradients

kit = import_diffusionkit()


def test_gradients_are_those_at_the_outputs_of_the_layers_that_are_named():
    generator = np.random.default_rng(0)
    first, second = nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)
    x, probe = (generator.standard_normal(shape).astype(np.float32) for shape in ((5, 3), (5, 2)))
    received = []

    def receive(layer, weight, inputs, gradient):
        received.append((layer, *map(np.array, (weight, inputs, gradient))))

    def both(x):
        return [second(nn.relu(first(x)))]

    expected = np.array(both(mx.array(x))[0])
    with receiving_gradients({id(first): 7, id(second): 8}, receive):
        (output,), _ = mx.vjp(both, [mx.array(x)], [mx.array(probe)])
    np.testing.assert_array_equal(np.array(output), expected)
    hidden = x @ np.array(first.weight).T
    assert [layer for layer, *_ in received] == [8, 7]  # backwards
    (_, weight, inputs, gradient), (_, _, given, before) = received
    np.testing.assert_array_equal(weight, np.array(second.weight))
    np.testing.assert_allclose(inputs, np.maximum(hidden, 0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(gradient, probe)
    np.testing.assert_array_equal(given, x)
    np.testing.assert_allclose(before, (probe @ weight) * (hidden > 0), rtol=1e-5, atol=1e-6)


def test_layers_that_are_not_named_are_let_be():
    layer, received = nn.Linear(3, 4), []
    with receiving_gradients({}, lambda *found: received.append(found)):
        mx.eval(mx.vjp(lambda x: [layer(x)], [mx.ones((2, 3))], [mx.ones((2, 4))]))
    assert received == []


def test_classes_are_as_before_also_after_an_exception():
    classes = (
        nn.Linear,
        kit.mmdit.MultiModalTransformerBlock,
        kit.mmdit.UnifiedTransformerBlock,
    )
    before = [cls.__call__ for cls in classes]
    with receiving_gradients({}, print):
        assert all(cls.__call__ is not call for cls, call in zip(classes, before, strict=True))
    with pytest.raises(ZeroDivisionError), receiving_gradients({}, print):
        divmod(1, 0)
    assert [cls.__call__ for cls in classes] == before
