"""Bits for each group of layers within a budget: NumPy in, NumPy out; imports nothing of ours."""

from dataclasses import dataclass

import numpy as np

_MAX_STATES = 1000  # partial choices kept at once; more take longer and save next to nothing


def allocate(
    error: np.ndarray,
    cost: np.ndarray,
    bits: np.ndarray,
    budget: float,
    max_states: int = _MAX_STATES,
) -> np.ndarray:
    """Choose the option of each group that together have the least error within a budget.

    Minimises the total error subject to ``sum(cost * bits[option]) <= budget``: the
    multiple-choice knapsack problem. The multipliers of the budget at which some choice changes
    are searched by bisection (Shoham and Gersho 1988, "Efficient bit allocation for an arbitrary
    set of quantizers"; as the linear relaxation of Sinha and Zoltners 1979, "The multiple-choice
    knapsack problem"); what the best one leaves of the budget is filled greedily. Options whose
    reduced cost exceeds the remaining duality gap cannot improve on that. The others are decided
    group by group, by merging the partial choices that no other beats in both cost and error,
    and leaving out those that even the relaxation of the remaining groups cannot make better.

    Args:
        error: error of each option, shape (group, option), 0 or more; need not fall with bits.
        cost: what one bit of a group costs, such as its multiply-accumulates, shape (group,).
        bits: bits of the options, increasing, shape (option,).
        budget: the most that ``sum(cost * bits[option])`` may be, up to rounding.
        max_states: partial choices kept at once. Optimal up to rounding unless there were more;
            then those of the least bounds are kept.

    Returns:
        Index of the chosen option, shape (group,).

    Raises:
        ValueError: if the budget is below what the fewest bits cost, a shape is wrong, or a
            value is negative or not finite.

    >>> allocate([[9.0, 1.0, 0.5], [9.0, 4.0, 1.0]], [1.0, 1.0], [2, 4, 8], budget=12)
    array([1, 2])
    """
    error, cost, bits = _checked(error, cost, bits)
    weight = cost[:, None] * bits
    rounding = 4 * (len(cost) + 1) * np.finfo(np.float64).eps  # of sums over the groups
    least = weight[:, 0].sum()
    if not least <= budget * (1 + rounding):
        raise ValueError(
            f"the budget allows {budget / cost.sum():.4g} bits on average; "
            f"the least are {bits[0]:g}, so allow {bits[0]:g} or more"
        )
    capacity = min(budget, weight[:, -1].sum()) * (1 + rounding)
    segments = _segments(error, weight)
    price, bound = segments.relaxed(capacity)
    option = _filled(segments.choice(capacity), error, weight, capacity)
    total = error[np.arange(len(cost)), option].sum()
    if total - bound <= rounding * total:
        return option
    reduced = error + price * weight
    reduced -= reduced.min(axis=1, keepdims=True)
    return _searched(error, weight, capacity, option, reduced, bound, rounding, max_states)


def tie(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sum the rows that share a group, for layers that must have equal bits.

    Args:
        values: errors or costs, shape (layer, ...).
        groups: group of each layer, counted from 0, shape (layer,); ``option[groups]`` takes a
            choice for the groups back to the layers.

    Returns:
        Shape (group, ...).

    >>> tie(np.array([1.0, 2.0, 3.0]), np.array([0, 1, 0]))
    array([4., 2.])
    """
    sums = np.zeros((groups.max(initial=-1) + 1, *values.shape[1:]))
    np.add.at(sums, groups, values)
    return sums


def _checked(
    error: np.ndarray, cost: np.ndarray, bits: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The arguments as float64 arrays that fit each other."""
    error, cost, bits = (np.asarray(values, dtype=np.float64) for values in (error, cost, bits))
    if error.size == 0 or error.shape != cost.shape + bits.shape:
        raise ValueError(
            f"error must have shape (group, option), got {error.shape} "
            f"for costs of shape {cost.shape} and bits of shape {bits.shape}"
        )
    if not (np.isfinite(error).all() and (error >= 0).all()):
        raise ValueError("errors must be finite and 0 or more")
    if not (np.isfinite(cost).all() and (cost > 0).all()):
        raise ValueError("costs must be finite and more than 0")
    if not ((bits[:1] >= 0).all() and (np.diff(bits) > 0).all()):
        raise ValueError(f"bits must be 0 or more and increase, got {bits.tolist()}")
    return error, cost, bits


@dataclass(frozen=True)
class _States:
    """Partial choices: of all groups up to one.

    Attributes:
        weight: shape (state,).
        error: shape (state,).
        option: of that group, shape (state,).
        parent: index of the state of the group before that it goes on from, shape (state,).
    """

    weight: np.ndarray
    error: np.ndarray
    option: np.ndarray
    parent: np.ndarray

    def at(self, index: np.ndarray) -> "_States":
        """Some of the states."""
        arrays = (self.weight, self.error, self.option, self.parent)
        return _States(*(array[index] for array in arrays))

    def extended(self, options: np.ndarray, weight: np.ndarray, error: np.ndarray) -> "_States":
        """With each option of one more group, without those that another beats in both."""
        number = len(self.weight)
        states = _States(
            (self.weight + weight[:, None]).ravel(),
            (self.error + error[:, None]).ravel(),
            np.repeat(options, number),
            np.tile(np.arange(number), len(options)),
        )
        return states.at(_undominated(states.weight, states.error))


@dataclass(frozen=True)
class _Segments:
    """The relaxation in which groups may mix options: steps from each group's first option on.

    Steps are sorted by falling gain per weight, which is the multiplier at which they are taken;
    those of one group lie on the lower convex hull of its options.
    """

    group: np.ndarray
    option: np.ndarray  # to which the step leads
    price: np.ndarray  # error gained per weight
    first: np.ndarray  # option of least weight, shape (group,)
    first_weight: np.ndarray  # shape (group,)
    last_error: np.ndarray  # after every step, shape (group,)
    weight: np.ndarray
    gain: np.ndarray

    def of(self, member: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weight, error and price after each number of steps of the groups in ``member``.

        Errors are summed from the smallest up, so that they are as exact as they are small.
        """
        chosen = member[self.group]
        weight = np.concatenate([[self.first_weight[member].sum()], self.weight[chosen]]).cumsum()
        error = np.concatenate([[self.last_error[member].sum()], self.gain[chosen][::-1]]).cumsum()
        return weight, error[::-1], np.append(self.price[chosen], 0.0)

    def relaxed(self, capacity: float) -> tuple[float, float]:
        """Multiplier of the budget at the relaxation's optimum, and the error there."""
        weight, error, price = self.of(np.ones(len(self.first), dtype=bool))
        whole = max(int(np.searchsorted(weight, capacity, side="right")) - 1, 0)
        return price[whole], error[whole] - price[whole] * max(capacity - weight[whole], 0.0)

    def completed(
        self, states: _States, remaining: np.ndarray, capacity: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Errors of states with the whole steps that fit, and bounds of them; (state,)."""
        weight, error, price = self.of(remaining)
        whole = np.searchsorted(weight, capacity - states.weight, side="right") - 1
        completed = np.where(whole >= 0, states.error + error[whole], np.inf)
        return completed, completed - price[whole] * (capacity - states.weight - weight[whole])

    def choice(self, capacity: float, member: np.ndarray | None = None) -> np.ndarray:
        """Option of each group after the whole steps that fit, shape (group,)."""
        member = np.ones(len(self.first), dtype=bool) if member is None else member
        whole = int(np.searchsorted(self.of(member)[0], capacity, side="right")) - 1
        taken = np.flatnonzero(member[self.group])[: max(whole, 0)]
        option = self.first.copy()
        np.maximum.at(option, self.group[taken], self.option[taken])
        return option


def _segments(error: np.ndarray, weight: np.ndarray) -> _Segments:
    """Lower convex hulls of all groups' options; an infinite error excludes an option."""
    rows, options = np.arange(len(error)), np.arange(error.shape[1])
    first = np.isfinite(error).argmax(axis=1)
    current = first
    steps = []
    limit = np.full(len(error), np.inf)
    for _ in range(error.shape[1] - 1):
        gain = error[rows, current][:, None] - error
        extra = weight - weight[rows, current][:, None]
        price = np.where(options > current[:, None], gain, -np.inf) / np.where(extra > 0, extra, 1)
        following = error.shape[1] - 1 - price[:, ::-1].argmax(axis=1)
        moves = np.flatnonzero(price[rows, following] > 0)
        if not len(moves):
            break
        target = following[moves]
        limit[moves] = np.minimum(limit[moves], price[moves, target])  # rounding may raise it
        steps.append((moves, target, limit[moves], extra[moves, target], gain[moves, target]))
        current = current.copy()
        current[moves] = target
    joined = [np.concatenate(column) for column in zip(*steps, strict=True)]
    if not steps:
        joined = [np.zeros(0, dtype=np.int64)] * 2 + [np.zeros(0)] * 3
    order = np.argsort(-joined[2], kind="stable")
    group, option, price, extra, gain = (column[order] for column in joined)
    return _Segments(
        group, option, price, first, weight[rows, first], error[rows, current], extra, gain
    )


def _filled(
    option: np.ndarray, error: np.ndarray, weight: np.ndarray, capacity: float
) -> np.ndarray:
    """Spend what the choice leaves of the budget where an option gains the most per weight."""
    rows = np.arange(len(option))
    option = option.copy()
    while True:  # each turn lowers the error of a group, so it ends
        left = capacity - weight[rows, option].sum()
        gain = error[rows, option][:, None] - error
        extra = weight - weight[rows, option][:, None]
        useful = (gain > 0) & (extra <= left)
        if not useful.any():
            return option
        rate = np.where(extra > 0, gain / np.where(extra > 0, extra, 1), np.inf)
        group, better = np.unravel_index(np.where(useful, rate, 0).argmax(), rate.shape)
        option[group] = better


def _searched(
    error: np.ndarray,
    weight: np.ndarray,
    capacity: float,
    best: np.ndarray,
    reduced: np.ndarray,
    bound: float,
    rounding: float,
    max_states: int,
) -> np.ndarray:
    """The optimum, from the best choice known and a relaxation's bound.

    Each option adds at least its ``reduced`` cost, shape (group, option), to that bound.
    """
    groups = np.arange(len(error))
    total = error[groups, best].sum()
    allowed = reduced <= total * (1 + rounding) - bound
    segments = _segments(np.where(allowed, error, np.inf), weight)
    # The groups nearest to a change of choice come first: the others are soon decided.
    order = np.lexsort((groups, np.partition(reduced, 1, axis=1)[:, 1], allowed.sum(axis=1) > 1))
    remaining = np.ones(len(error), dtype=bool)
    states = _States(np.zeros(1), np.zeros(1), np.zeros(1, dtype=int), np.zeros(1, dtype=int))
    trail: list[tuple[int, _States]] = []
    for group in order:
        options = np.flatnonzero(reduced[group] <= total * (1 + rounding) - bound)
        remaining[group] = False
        states = states.extended(options, weight[group, options], error[group, options])
        completed, least = segments.completed(states, remaining, capacity)
        first = int(completed.argmin())
        if completed[first] < total:
            total = completed[first]
            best = segments.choice(capacity - states.weight[first], remaining)
            for earlier, reached in reversed([*trail, (group, states)]):
                best[earlier], first = reached.option[first], reached.parent[first]
        kept = np.flatnonzero(least < total * (1 - rounding))
        if len(kept) > max_states:
            kept = np.sort(kept[np.argpartition(least[kept], max_states)[:max_states]])
        if not len(kept):
            break
        states = states.at(kept)
        trail.append((group, states))
    return best


def _undominated(weights: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Indices, by increasing weight, of the states that no other beats in both."""
    order = np.argsort(weights, kind="stable")
    sorted_errors = errors[order]
    before = np.minimum.accumulate(np.concatenate([[np.inf], sorted_errors[:-1]]))
    order = order[sorted_errors < before]
    last_of_weight = np.append(np.diff(weights[order]) > 0, True)
    return np.asarray(order[last_of_weight])
