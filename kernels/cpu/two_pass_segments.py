"""The two-pass step for a team whose members own segments of the chain.

The chain is cut into segments of consecutive layers, which the members own in turn: member r owns
segments r, r + team, and so on. The rows of the products are divided into as many groups as there
are members. Row a of a suffix product, of G and of a co-state depends only on row a of the product
before it, so that every group of rows travels down the chain and up again by itself, from one
segment's owner to the next: while one member multiplies its segment by the rows of one group,
another does so with another group in a neighbouring segment. The owner of a segment updates it as
soon as the co-states of all groups have passed.

Every weight is read and written by its owner only and stays in the owner's cache. Members hand over
the rows of a group (a few kilobytes) at the borders of segments, and nothing else: a team is as
fast where the cores have no cache in common as where they have. Teams that partitioned the rows of
the products, or every layer, fetched half of the weights from each other in every step, and were
slower than one thread in the former case (26 × 700, 100 × 200).

With N segments of equal length, each of two members has 3 N parts of work in a step, and waits for
the other for 2 more, while the groups turn at the lowest segment.

Every sum has the terms and the order of `regression_loop.descend`: the bits are the same.
"""

from typing import NamedTuple

import numpy as np

from fastdln.kernels.cpu.gemm import NO_PREFETCH, ONE, OVERWRITE, ZERO, add_product
from fastdln.kernels.cpu.groups import (
    Block,
    Costates,
    Extent,
    GradientStep,
    Member,
    Network,
    Operand,
    Regression,
    Span,
    Workspace,
)
from fastdln.kernels.cpu.jit import inlined, kernel, part
from fastdln.kernels.cpu.layout import (
    COLUMNS,
    OFFSET,
    PRODUCT,
    ROWS,
    STRIDE,
    VECTORS,
    Layout,
    aligned_zeros,
)
from fastdln.kernels.cpu.regression_loop import continues, row_residual
from fastdln.kernels.cpu.team import OTHERS, partition
from fastdln.kernels.cpu.tiles import fetch_line, lanes
from fastdln.kernels.cpu.two_pass import (
    TRANSPOSED_VECTORS,
    block_rows,
    copy_last_layer,
    costate_columns,
    finish_costate,
    is_transposed,
    suffix_product,
    transpose_rows,
    update_last_layer,
    update_rows,
)
from fastdln.kernels.cpu.waiting import ENDED, LATE, LINE, await_word, publish, read

# Rows of a narrow layer up to which its transpose is kept from the first group of rows to the last.
KEPT_ROWS = 64


class SegmentWorkspace(NamedTuple):
    """The co-states of all layers, the segments, and what members tell each other.

    Attributes
    ----------
    C : ndarray
        All co-states, laid out as the products; on entry, ``−η_1 G`` of the step before the first.
    scratch : ndarray
        As in `Workspace`.
    transposed : ndarray
        For each member, the transposes of a segment's narrow layers.
    borders : ndarray of int64, shape (segments + 1,)
        Segment s has layers ``borders[s] ≤ l < borders[s + 1]``.
    """

    C: np.ndarray
    scratch: np.ndarray
    transposed: np.ndarray
    borders: np.ndarray


def segment_workspace(
    layout: Layout, workspace: Workspace, team: int, segments: int
) -> tuple[SegmentWorkspace, Workspace]:
    """Return a workspace for teams, and one for a single thread that shares its gradient.

    Parameters
    ----------
    layout : Layout
    workspace : Workspace
    team : int
        Members of the largest team.
    segments : int
        From the members of the largest team to the layers.

    Raises
    ------
    ValueError
        If there are more segments than layers.
    """
    if not 1 <= segments <= layout.depth:
        raise ValueError(f"{segments} segments of a chain of {layout.depth} layers")
    borders = _borders(layout, segments)
    dtype = layout.dtype
    longest = int(np.diff(borders).max())
    kept = TRANSPOSED_VECTORS * lanes(dtype) * KEPT_ROWS
    C = aligned_zeros(layout.product_size, dtype)
    found = SegmentWorkspace(
        C,
        workspace.scratch,
        aligned_zeros(team * longest * kept, dtype),
        borders,
    )
    return found, workspace._replace(C=C)


def _borders(layout: Layout, segments: int) -> np.ndarray:
    """Return borders between which the weights are about equal, the lowest segment half of one.

    While groups turn at the lowest segment, other members wait.
    """
    ends = np.append(layout.layers[:, OFFSET], layout.size)
    goals = layout.size * (np.arange(1, segments) - 0.5) / (segments - 0.5)
    inner = np.rint(np.interp(goals, ends, np.arange(ends.size))).astype(np.int64)
    # Every segment has a layer.
    least = np.arange(1, segments)
    inner = least + np.maximum.accumulate(np.maximum(inner - least, 0))
    return np.concatenate([[0], np.minimum(inner, layout.depth - segments + least), [layout.depth]])


@kernel
def descend_by_segments(
    network: Network,
    workspace: SegmentWorkspace,
    step: GradientStep,
    problem: Regression,
    span: Span,
    member: Member,
) -> int:
    """Advance as `regression_loop.descend` does; the two may alternate between calls.

    A team that is late (see `team.new_barrier`) stops before.

    Parameters
    ----------
    network : Network
    workspace : SegmentWorkspace
    step : GradientStep
    problem : Regression
    span : Span
        From step 0 or later.
    member : Member
        Its barrier has `words` words more than a plain one.

    Returns
    -------
    int
        The last step whose loss is known, by member 0.
    """
    # In the order of a group's way, the parts of a step are the segments up and the segments down.
    segments, t, passed = workspace.borders.size - 1, span.start, 0
    while True:
        if member.rank == 0:
            stop = t >= span.goal or not continues(problem.losses[t], span.floor)
            if stop or read(member.barrier, LATE) != 0:
                for group in range(member.team):
                    publish(member.barrier, _progress(group), ENDED)
                break
        if not _up(network, workspace, step, passed, t - span.start + 1, member):
            break
        passed += segments
        if not _down(network, workspace, passed, t - span.start + 1, member):
            break
        passed += segments
        t += 1
        if member.rank == 0:
            factor = np.float64(step.step_sizes[0])
            problem.losses[t] = _loss(network, problem, workspace, factor)
    return t


def words(team: int, segments: int) -> int:
    """Return the words in which members tell how far groups of rows and updates have come."""
    return team + segments


@inlined
def _progress(group: int) -> int:
    """Return the place of a group's word: how many parts it has passed."""
    return OTHERS + LINE * group


@inlined
def _updates(team: int, segment: int) -> int:
    """Return the place of a segment's word: how many steps have updated it."""
    return OTHERS + LINE * (team + segment)


@part
def _up(
    network: Network,
    workspace: SegmentWorkspace,
    step: GradientStep,
    passed: int,
    update: int,
    member: Member,
) -> bool:
    """Take all groups up through this member's segments and update these.

    Return whether work goes on.
    """
    segments, words = workspace.borders.size - 1, member.barrier
    for segment in range(member.rank, segments, member.team):
        for group in range(member.team):
            if not await_word(words, _progress(group), passed + segment):
                return False
            _costates(network, workspace, step, segment, group, member)
            publish(words, _progress(group), passed + segment + 1)
        _update(network, workspace, step.decay, segment)
        publish(words, _updates(member.team, segment), update)
    return True


@part
def _down(
    network: Network, workspace: SegmentWorkspace, passed: int, update: int, member: Member
) -> bool:
    """Take all groups down through this member's segments; return whether work goes on."""
    segments, words = workspace.borders.size - 1, member.barrier
    segment = (segments - 1 - member.rank) // member.team * member.team + member.rank
    while segment >= 0:
        # The update of the segment below reads this segment's lowest product.
        if segment > 0 and not await_word(words, _updates(member.team, segment - 1), update):
            return False
        for group in range(member.team):
            if not await_word(words, _progress(group), passed + segments - 1 - segment):
                return False
            _suffix_products(network, workspace, segment, group, member.team)
            publish(words, _progress(group), passed + segments - segment)
        segment -= member.team
    return True


@part
def _fetch_rows(array: np.ndarray, start: int, count: int) -> None:
    """Prefetch rows that another member has written, all at once: each line takes some 0.2 µs."""
    line = 64 // array.itemsize
    for i in range(start, start + count, line):
        fetch_line(array, i)


@part
def _suffix_products(
    network: Network, workspace: SegmentWorkspace, segment: int, group: int, team: int
) -> None:
    """Form a group of rows of the suffix products in a segment."""
    layers, borders = network.layers, workspace.borders
    first, end = partition(network.q_padded, group, team)
    layer, last = borders[segment + 1] - 1, layers.shape[0] - 1
    if layer == last:
        copy_last_layer(network, Block(first, end - first, ZERO, layers[last, STRIDE]))
        layer -= 1
    else:
        above = layers[layer + 1, STRIDE]
        start = layers[layer + 1, PRODUCT] + first * above
        _fetch_rows(network.products, start, (end - first) * above)
    while layer >= borders[segment]:
        suffix_product(network, layer, Block(first, end - first, ZERO, layers[layer, VECTORS]))
        layer -= 1


@part
def _loss(
    network: Network, problem: Regression, workspace: SegmentWorkspace, factor: float
) -> float:
    """Return the loss, and write ``−η_1 G``; the rows are added as one thread adds them."""
    total = 0.0
    for a in range(network.q_padded):
        total += row_residual(network, problem, workspace.C, factor, a)
    return problem.constant + 0.5 * total


@part
def _costates(
    network: Network,
    workspace: SegmentWorkspace,
    step: GradientStep,
    segment: int,
    group: int,
    member: Member,
) -> None:
    """Form a group of rows of the co-states above a segment's layers; slot l holds −η_l C_{l-1}."""
    layers, borders, C = network.layers, workspace.borders, workspace.C
    first, stop = partition(network.q_padded, group, member.team)
    begin, end, rows = borders[segment], borders[segment + 1], stop - first
    if segment > 0:
        stride = layers[begin, STRIDE]
        _fetch_rows(C, layers[begin, PRODUCT] + first * stride, rows * stride)
    for layer in range(begin, min(end, layers.shape[0] - 1)):
        c = layers[layer, PRODUCT] + first * layers[layer, STRIDE]
        d = layers[layer + 1, PRODUCT] + first * layers[layer + 1, STRIDE]
        costates = Costates(C, c, C, d, rows)
        height = (layers[layer, ROWS] + 3) // 4 * 4
        if is_transposed(layers, layer) and height <= KEPT_ROWS:
            _by_kept_transpose(network, workspace, costates, layer, layer - begin, group, member)
        else:
            block, row = block_rows(network, layer), ZERO
            while row < height:
                count = min(block, height - row)
                scratch, rank = workspace.scratch, member.rank
                costate_columns(network, costates, layer, row, count, scratch, rank)
                row += block
        finish_costate(network, costates, step.step_sizes, layer, ZERO, height)


@part
def _by_kept_transpose(
    network: Network,
    workspace: SegmentWorkspace,
    costates: Costates,
    layer: int,
    place: int,
    group: int,
    member: Member,
) -> None:
    """Form a group of rows of ``D = C W_lᵀ``; the first group transposes the layer for all.

    Transposing again for every group took a sixth of a step at width 26.
    """
    layers, lane, kept = network.layers, network.lane, workspace.transposed
    stride, above = layers[layer, STRIDE], layers[layer + 1, STRIDE]
    size = TRANSPOSED_VECTORS * lane * KEPT_ROWS
    start = member.rank * (kept.size // member.team) + place * size
    vectors = (layers[layer, ROWS] + lane - 1) // lane
    transposed = Operand(kept, start, vectors * lane, ONE)
    if group == 0:
        W = Operand(network.weights, layers[layer, OFFSET], stride, ONE)
        height = (layers[layer, ROWS] + 3) // 4 * 4
        transpose_rows(W, height, layers[layer, VECTORS], transposed, lane)
    add_product(
        Operand(costates.C, costates.c0, stride, ONE),
        transposed,
        Operand(costates.D, costates.d0, above, ONE),
        Extent(costates.rows, layers[layer, COLUMNS], ZERO, vectors, lane),
        OVERWRITE,
        NO_PREFETCH,
    )


@part
def _update(network: Network, workspace: SegmentWorkspace, decay: float, segment: int) -> None:
    """Update the layers of a segment."""
    layers, C = network.layers, workspace.C
    last = layers.shape[0] - 1
    for layer in range(workspace.borders[segment], workspace.borders[segment + 1]):
        c = layers[layer, PRODUCT]
        if layer == last:
            block = Block(ZERO, network.q, ZERO, layers[last, STRIDE])
            update_last_layer(network, C, c, decay, block)
            return
        height, row = (layers[layer, ROWS] + 3) // 4 * 4, ZERO
        block_height = block_rows(network, layer)
        while row < height:
            count = min(block_height, height - row)
            update_rows(network, C, c, layer, row, count, decay)
            row += block_height
