"""What the kernels in C do for the trained block is what torch does in float64."""

import copy
from itertools import product

import pytest
import torch
from tiny import FAMILIES, random_batch, random_decoder
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from lastblock.classifier import SequenceClassifier
from lastblock.decoder import few_rows, kernels, layers
from lastblock.decoder.config import Rope
from lastblock.decoder.layers import Linear, RMSNorm, _sees, rotary_tables, rotate
from lastblock.training import AdamW


@pytest.fixture(autouse=True)
def _with_kernels(use_kernels):
    use_kernels(True)


def _close(found, exact, factor=1e-5):
    """Within so much of the largest."""
    assert found.shape == exact.shape
    assert (found.double() - exact).abs().max() <= factor * exact.abs().max() + 1e-30


@pytest.mark.parametrize("rows", [1, 3, 8, 9, 31, 64])
@pytest.mark.parametrize("out", [1, 2, 3, 50, 130])
@pytest.mark.parametrize("size", [1, 16, 47, 100, 576])
def test_products_and_their_gradients_equal_float64(rows, out, size):
    x = torch.randn(rows, size).requires_grad_()
    weight, into = torch.randn(out, size).requires_grad_(), torch.randn(rows, out)
    assert few_rows.can_multiply(x, weight)
    y = few_rows.multiply(x, weight)
    found = torch.autograd.grad((y * into).sum(), (x, weight))
    exact_x, exact_weight = (of.detach().double() for of in (x, weight))
    _close(y.detach(), exact_x @ exact_weight.T)
    _close(found[0], into.double() @ exact_weight)
    _close(found[1], into.double().T @ exact_x)


@pytest.mark.parametrize("rows", [65, 256, 700])
@pytest.mark.parametrize("only", [None, few_rows.Rows(7, 20)])
def test_products_of_many_rows_and_their_gradients_equal_float64(rows, only, monkeypatch):
    monkeypatch.setattr(kernels, "have_faster_products", lambda: True)
    x, weight = torch.randn(rows, 130).requires_grad_(), nn.Parameter(torch.randn(50, 130))
    into = torch.randn(rows, 50 if only is None else only.size)
    assert few_rows.can_multiply(x, weight)
    y = few_rows.multiply(x, weight, only)
    found = torch.autograd.grad((y * into).sum(), (x, weight))
    exact = [of.detach().double().requires_grad_() for of in (x, weight)]
    said = exact[0] @ (exact[1] if only is None else only.of(exact[1])).T
    _close(y.detach(), said.detach())
    for mine, its in zip(found, torch.autograd.grad((said * into).sum(), exact), strict=True):
        _close(mine, its)
    # What is left of the gradient is as large as the weight, not as what it is a product of.
    few_rows.keep_factors(weight)
    (few_rows.multiply(x, weight, only) * into).sum().backward()
    (left,) = few_rows.take_factors(weight)
    assert left.errors is None
    _close(left.inputs, found[1].double() if only is None else only.of(found[1]).double())


def test_many_rows_in_mixed_precision_are_torch_s(monkeypatch):
    monkeypatch.setattr(kernels, "have_faster_products", lambda: True)
    layer, x = Linear(40, 30), torch.randn(few_rows.MOST_ROWS + 1, 40)
    assert layer(x).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def test_all_is_computed_where_there_is_no_other_thread_to_borrow():
    """As where the OpenMP that torch has loaded is not the one that is known."""
    x, weight, means = torch.randn(64, 300), torch.randn(900, 300), torch.randn(64, 12, 300)
    threads, library = torch.get_num_threads(), kernels.library()
    of_values = few_rows.Rows(540, 360)

    def said():
        products = few_rows.multiply(x, weight), few_rows.project(x, weight)
        return [*products, few_rows.values(means, weight, of_values, 12)]

    torch.set_num_threads(2)
    try:
        expected = said()
        library.use_threads_of(None)
        assert all(map(torch.equal, said(), expected))
    finally:
        torch.set_num_threads(threads)
        kernels.library.cache_clear()
        kernels.library()


@pytest.mark.parametrize("rows", [1, 7, 65, 530, 1100])
@pytest.mark.parametrize(("out", "size"), [(1, 1), (50, 47), (192, 576), (600, 30)])
def test_projected_states_and_the_weight_s_gradient_equal_float64(rows, out, size):
    x, into = torch.randn(rows, size), torch.randn(rows, out)
    weight = torch.randn(out, size).requires_grad_()
    y = few_rows.project(x, weight)
    (found,) = torch.autograd.grad((y * into).sum(), weight)
    _close(y.detach(), x.double() @ weight.detach().double().T)
    _close(found, into.double().T @ x.double())


def test_projected_states_may_lie_anywhere():
    x, weight = torch.randn(90, 60)[::3, 10:40], torch.randn(20, 30).requires_grad_()
    y = few_rows.project(x, weight)
    (found,) = torch.autograd.grad(y.sum(), weight)
    _close(y.detach(), x.double() @ weight.detach().double().T)
    _close(found, x.double().sum(0).expand(20, 30))


def test_projections_are_the_same_whoever_computes_them():
    x, weight = torch.randn(1500, 300), torch.randn(200, 300)
    alone, threads = few_rows.project(x[700:701], weight), torch.get_num_threads()
    for number in (1, 2, 3, 7):
        torch.set_num_threads(number)
        try:
            assert torch.equal(few_rows.project(x, weight)[700:701], alone)
        finally:
            torch.set_num_threads(threads)


def test_a_row_says_the_same_whatever_stands_beside_it_and_whoever_multiplies():
    x, weight = torch.randn(40, 300), torch.randn(2000, 300)
    alone = torch.cat([few_rows.multiply(row[None], weight) for row in x])
    threads = torch.get_num_threads()
    for number in (1, 2, 3, 7):
        torch.set_num_threads(number)
        try:
            assert torch.equal(few_rows.multiply(x, weight), alone)
            assert torch.equal(few_rows.multiply(x[3:16], weight), alone[3:16])
        finally:
            torch.set_num_threads(threads)


def test_rows_may_lie_anywhere():
    weight, wide = torch.randn(20, 30), torch.randn(4, 6, 90)
    exact = wide[..., 30:60].double() @ weight.double().T
    _close(few_rows.multiply(wide[..., 30:60], weight), exact)
    _close(
        few_rows.multiply(wide[0].T[:30].T, weight), wide[0, :, :30].double() @ weight.double().T
    )
    standing = torch.randn(30, 5)
    _close(few_rows.multiply(standing.T, weight), standing.T.double() @ weight.double().T)


def test_what_is_not_for_them_is_torch_s(monkeypatch):
    monkeypatch.setattr(kernels, "have_faster_products", lambda: False)
    x, weight = torch.randn(4, 30), torch.randn(20, 30)
    assert few_rows.can_multiply(x, weight)
    assert not few_rows.can_multiply(torch.randn(few_rows.MOST_ROWS + 1, 30), weight)
    assert not few_rows.can_multiply(torch.randn(0, 30), weight)
    assert not few_rows.can_multiply(x.double(), weight.double())
    assert not few_rows.can_multiply(x, weight.bfloat16())
    assert not few_rows.can_multiply(x, torch.randn(30, 20).T)


@pytest.mark.parametrize("rows", [1, 9, 64])
@pytest.mark.parametrize(("first", "size"), [(0, 50), (3, 1), (20, 30)])
def test_products_of_some_rows_of_a_weight_equal_float64(rows, first, size):
    x, only = torch.randn(rows, 70).requires_grad_(), few_rows.Rows(first, size)
    weight, into = torch.randn(50, 70).requires_grad_(), torch.randn(rows, size)
    y = few_rows.multiply(x, weight, only)
    found = torch.autograd.grad((y * into).sum(), (x, weight))
    exact = [of.detach().double().requires_grad_() for of in (x, weight)]
    said = exact[0] @ exact[1][first : first + size].T
    _close(y.detach(), said.detach())
    for mine, its in zip(found, torch.autograd.grad((said * into).sum(), exact), strict=True):
        _close(mine, its)


@pytest.mark.parametrize("batch", [1, 5, 64])
@pytest.mark.parametrize(("heads", "kv_heads"), [(9, 3), (2, 2), (4, 1), (1, 1)])
@pytest.mark.parametrize(("dim", "size"), [(64, 576), (6, 47)])
def test_values_of_means_and_their_gradients_equal_float64(batch, heads, kv_heads, dim, size):
    only = few_rows.Rows(5, kv_heads * dim)
    means = torch.randn(batch, heads, size).requires_grad_()
    weight, into = torch.randn(5 + kv_heads * dim, size).requires_grad_(), torch.randn(batch, 1)
    into = into * torch.randn(heads * dim)
    y = few_rows.values(means, weight, only, kv_heads)
    found = torch.autograd.grad((y * into).sum(), (means, weight))
    exact = [of.detach().double().requires_grad_() for of in (means, weight)]
    of_heads = exact[1][5:].view(kv_heads, dim, size).repeat_interleave(heads // kv_heads, dim=0)
    said = torch.einsum("bhc,hdc->bhd", exact[0], of_heads).flatten(1)
    _close(y.detach(), said.detach())
    for mine, its in zip(found, torch.autograd.grad((said * into).sum(), exact), strict=True):
        _close(mine, its)


@pytest.mark.parametrize("size", [5, 16, 33, 576])
@pytest.mark.parametrize("shape", [(1,), (64,), (3, 7), ()])
def test_rms_norms_and_their_gradients_equal_float64(size, shape):
    x, into = torch.randn(*shape, size).requires_grad_(), torch.randn(*shape, size)
    factor = torch.randn(size).requires_grad_()
    assert few_rows.takes(x, factor)
    y = few_rows.rms_norm(x, factor, 1e-3)
    found = torch.autograd.grad((y * into).sum(), (x, factor))
    exact = [of.detach().double().requires_grad_() for of in (x, factor)]
    said = F.rms_norm(exact[0], (size,), exact[1], eps=1e-3)
    _close(y.detach(), said.detach())
    for mine, its in zip(found, torch.autograd.grad((said * into).sum(), exact), strict=True):
        _close(mine, its)
    assert not few_rows.takes(torch.randn(few_rows.MOST_ROWS + 1, size), factor)
    standing, ones = torch.randn(size, 5), torch.ones(size)
    its = F.rms_norm(standing.T.double(), (size,), eps=1e-3)
    _close(few_rows.rms_norm(standing.T, ones, 1e-3), its)


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("gated", [True, False])
def test_any_number_of_rows_is_taken_where_no_gradient_is_wanted(activation, gated):
    x, norm = torch.randn(5, 300, 66).mul_(4), RMSNorm(66, 1e-5)
    nn.init.normal_(norm.weight)
    assert not few_rows.takes(x, norm.weight)
    with torch.no_grad():
        assert few_rows.takes(x, norm.weight)
        assert not few_rows.takes(x.bfloat16(), norm.weight)
        exact = x.double()
        _close(norm(x), F.rms_norm(exact, (66,), norm.weight.double(), eps=1e-5))
        its = layers.activate(exact, activation, gated)  # float64 is torch's
        torch.testing.assert_close(
            layers.activate(x, activation, gated).double(), its, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (64, 1536), (3, 7, 50), (33,)])
def test_activations_and_their_gradients_equal_float64(activation, gated, shape):
    x = torch.randn(*shape[:-1], shape[-1] * (2 if gated else 1)).mul_(4).requires_grad_()
    into = torch.randn(shape)
    y = few_rows.activate(x, activation, gated)
    (found,) = torch.autograd.grad((y * into).sum(), x)
    exact = x.detach().double().requires_grad_()
    first, second = exact.chunk(2, -1) if gated else (exact, 1.0)
    said = F.silu(first) if activation == "silu" else F.gelu(first, approximate="tanh")
    said = said * second
    slope = torch.autograd.grad((said * into).sum(), exact)[0]
    for mine, its in ((y.detach(), said.detach()), (found, slope)):
        torch.testing.assert_close(mine.double(), its, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_activations_of_what_is_large_or_no_number(activation):
    x = torch.tensor([[-1e4, -200.0, -0.0, 200.0, 1e4, torch.nan]]).requires_grad_()
    y = few_rows.activate(x, activation, gated=False)
    assert y[0, :5].tolist() == pytest.approx([0.0, 0.0, 0.0, 200.0, 1e4], abs=1e-7)
    assert y[0, 5].isnan()
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert slope[0, :5].tolist() == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0], abs=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [[3], [5, 1, 9, 2], [700, 3, 699], [0, 2]])
def test_texts_are_padded_as_torch_does_it(dtype, lengths):
    texts = [torch.randn(length, 576).to(dtype) for length in lengths]
    assert torch.equal(few_rows.padded(texts), pad_sequence(texts, batch_first=True))
    apart = [torch.randn(576, length).T for length in lengths]
    assert torch.equal(few_rows.padded(apart), pad_sequence(apart, batch_first=True))


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (4, 96), (33, 97), (130, 200)])
def test_steps_down_factors_are_those_down_the_gradient(shape):
    ours, beside = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(3))
    theirs = [nn.Parameter(p.detach().clone()) for p in (ours, beside)]
    taken = AdamW([ours, beside], 0.3), torch.optim.AdamW(theirs, weight_decay=0.3, fused=True)
    for step in range(6):
        taken[0].lr = taken[1].param_groups[0]["lr"] = 0.1 / (step + 1)
        x, into = torch.randn(step + 1, shape[1]), torch.randn(step + 1, shape[0])
        for optimizer in taken:
            optimizer.zero_grad()
        # Now and then it is used twice, or in another way besides, or not at all.
        for weight, of_three, multiply in (
            (ours, beside, few_rows.multiply),
            (theirs[0], theirs[1], F.linear),
        ):
            said = (multiply(x, weight) * into).sum() * (step != 4) + of_three.sum()
            if step == 2:
                said = said + (multiply(2 * x, weight) * into).sum()
            if step == 3:
                said = said + weight.square().sum()
            if step != 5:
                said.backward()
        assert step == 3 or ours.grad is None
        for optimizer in taken:
            optimizer.step()
        for mine, its in zip((ours, beside), theirs, strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-5)
        for mine, its in zip(taken[0]._mean, theirs, strict=True):
            torch.testing.assert_close(mine, taken[1].state[its]["exp_avg"], rtol=1e-5, atol=1e-5)


def test_steps_of_a_weight_used_by_rows_are_those_down_the_gradient():
    """As attention uses its queries', keys' and values' weight; and a bias and a head beside it."""
    ours = [nn.Parameter(torch.randn(shape)) for shape in ((50, 30), (33, 30), (7,))]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    taken = AdamW(ours, 0.3), torch.optim.AdamW(theirs, weight_decay=0.3, fused=True)
    queries, keys, values = (few_rows.Rows(*of) for of in ((0, 24), (24, 8), (32, 18)))
    for step in range(6):
        for optimizer in taken:
            optimizer.zero_grad()
        x, means = torch.randn(5, 30), torch.randn(5, 6, 30)
        into = [torch.randn(5, 24), torch.randn(8, 30), torch.randn(5, 36)]
        # Once keys are left out, then values come twice, and then the whole of it once besides.
        weights = [1.0, float(step != 1), 1.0 + (step == 2)]
        said = [
            few_rows.multiply(x, ours[0], queries),
            few_rows.some_rows(ours[0], keys) * 2,
            few_rows.values(means, ours[0], values, 3),
        ]
        of_values = theirs[0][32:].view(3, 6, 30).repeat_interleave(2, dim=0)
        its = [
            x @ theirs[0][:24].T,
            theirs[0][24:32] * 2,
            torch.einsum("bhc,hdc->bhd", means, of_values).flatten(1),
        ]
        for parameters, parts in ((ours, said), (theirs, its)):
            losses = [(a * b).sum() * by for a, b, by in zip(parts, into, weights, strict=True)]
            if step == 1:
                losses.pop(1)
            if step == 2:
                losses.append((parts[2] * into[2]).sum())
            if step == 3:
                losses.append(few_rows.multiply(x, parameters[0]).sum())
            sum(losses, parameters[1].sum() + parameters[2].square().sum()).backward()
        for optimizer in taken:
            optimizer.step()
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)
        for mine, other in zip(taken[0]._square, theirs, strict=True):
            square = taken[1].state[other]["exp_avg_sq"]
            torch.testing.assert_close(mine, square, rtol=1e-4, atol=1e-6)


def test_what_is_written_down_may_lie_the_other_way():
    moved = []
    for turn in (False, True):
        weight, mean, square = torch.ones(6, 5), torch.zeros(6, 5), torch.zeros(6, 5)
        gradient = torch.arange(30.0).view(6, 5)
        gradient = gradient.t().contiguous().t() if turn else gradient
        left = [few_rows.Left(few_rows.Rows(0, 2), torch.ones(3, 2), torch.ones(3, 5))]
        how = {"lr": 0.1, "betas": (0.9, 0.999), "weight_decay": 0.1, "eps": 1e-8}
        size = few_rows.StepSize.of(1, **how)
        few_rows.adamw([few_rows.Moments(weight, mean, square, left, gradient, size)])
        moved.append(torch.stack([weight, mean, square]))
    assert torch.equal(*moved)


def test_only_what_an_optimizer_steps_is_left_as_factors():
    layer, x = Linear(30, 20), torch.randn(4, 30)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    optimizer = AdamW([layer.weight], 0.1)
    optimizer.zero_grad()
    layer(x).sum().backward()
    assert layer.weight.grad is None
    optimizer.step()
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    # A copy of it knows nothing of that.
    optimizer.zero_grad()
    other = copy.deepcopy(layer)
    other.weight.grad = None
    other(x).sum().backward()
    assert other.weight.grad is not None


def _seen(lengths, position, causal, window):
    at = torch.arange(max(lengths))
    return _sees(position[:, None], at, causal, window)


@pytest.mark.parametrize("size", [6, 64, 100])
@pytest.mark.parametrize("centred", [True, False])
def test_norms_of_the_seen_equal_float64(size, centred):
    x = torch.randn(3, 20, size) + 0.5
    for causal, window in product((True, False), (None, 4)):
        position = torch.tensor([19, 0, 7])
        seen = _seen([20], position, causal, window)
        which = few_rows.Seen.of(position, 20, causal, window)
        found = few_rows.normed(x[:, :, :], which, 1e-3, centred)
        read = x.double()[seen]
        if centred:
            read = read - read.mean(1, keepdim=True)
        _close(found, read / (read.square().mean(1, keepdim=True) + 1e-3).sqrt())
        # Texts may lie apart, as where other rows stand before them.
        apart = torch.cat((torch.randn(3, 4, size), x), dim=1)[:, 4:]
        again = few_rows.normed(apart, which, 1e-3, centred)
        assert torch.equal(again, found)


@pytest.mark.parametrize("dim", [2, 10, 64, 96])
@pytest.mark.parametrize(("heads", "kv_heads"), [(9, 3), (2, 2), (4, 1)])
def test_attention_from_one_token_equals_float64(dim, heads, kv_heads):
    size, lengths = 50, [33, 1, 17, 20]
    for causal, window, turned in product((True, False), (None, 5), (True, False)):
        position = torch.tensor(lengths) - 1
        seen = _seen(lengths, position, causal, window)
        which = few_rows.Seen.of(position, 33, causal, window)
        assert len(which) == seen.sum()
        q = torch.randn(4, heads, dim).requires_grad_()
        k = torch.randn(len(which), kv_heads, dim).requires_grad_()
        states, into = torch.randn(len(which), size), torch.randn(4, heads, size)
        rotary = rotary_tables(Rope(10_000.0), dim, 33) if turned else None
        means = few_rows.attend_from(q, k, states, which, 0.3, rotary)
        found = torch.autograd.grad((means * into).sum(), (q, k))

        leaves = [of.detach().double().requires_grad_() for of in (q, k)]
        exact = []
        for text, position_of in enumerate(position):
            own = slice(which.starts[text], which.starts[text + 1])
            query, keys = leaves[0][text], leaves[1][own]
            if rotary is not None:
                cos, sin = (table.double() for table in rotary)
                query = rotate(query, cos[position_of], sin[position_of])
                keys = rotate(keys, cos[seen[text]][:, None], sin[seen[text]][:, None])
            keys = keys.repeat_interleave(heads // kv_heads, dim=1)
            shares = torch.einsum("hd,thd->ht", query, keys).mul(0.3).softmax(-1)
            exact.append(shares @ states[own].double())
        said = torch.stack(exact)
        _close(means.detach(), said.detach())
        for mine, its in zip(found, torch.autograd.grad((said * into).sum(), leaves), strict=True):
            _close(mine, its, 2e-5)


def test_what_is_seen_of_nothing_is_no_number():
    position = torch.tensor([2, -1, 0])
    which = few_rows.Seen.of(position, 3, causal=True, window=None)
    q, k = torch.randn(3, 4, 8).requires_grad_(), torch.randn(4, 2, 8).requires_grad_()
    rotary = rotary_tables(Rope(10_000.0), 8, 3)
    means = few_rows.attend_from(q, k, torch.randn(4, 50), which, 0.3, rotary)
    assert means.isnan().all(2).all(1).tolist() == [False, True, False]
    means[[0, 2]].sum().backward()
    assert q.grad.isfinite().all()
    assert k.grad.isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["causal", "full"])
def test_a_block_at_one_token_and_its_gradients_equal_float64(family, attention):
    classifier = SequenceClassifier(random_decoder(family), 3, attention=attention)
    exact = copy.deepcopy(classifier).double()
    ids, lengths = random_batch()
    x = classifier.prefix(ids, lengths).detach()
    for one, states in ((classifier, x), (exact, x.double())):
        if attention == "full":
            lengths = torch.full_like(lengths, ids.shape[1])
        state = one.decoder.run_at(states, lengths - 1, one.decoder.depth - 1)
        one.head(state).square().sum().backward()
        one.said = state.detach()
    _close(classifier.said, exact.said)
    known = dict(exact.named_parameters())
    for name, parameter in classifier.named_parameters():
        if parameter.grad is not None:
            _close(parameter.grad, known[name].grad, 1e-4)
    assert sum(p.grad is not None for p in classifier.parameters()) >= 6


def test_a_training_step_s_number_of_threads_changes_no_bit():
    said = []
    threads = torch.get_num_threads()
    q, k = torch.randn(9, 6, 64), torch.randn(9 * 200, 2, 64)
    states, into = torch.randn(9 * 200, 576), torch.randn(9, 6, 576)
    position = torch.full((9,), 199)
    seen = few_rows.Seen.of(position, 200, causal=True, window=None)
    x, errors = torch.randn(20, 576), torch.randn(20, 1500)
    for number in (1, 2, 5):
        torch.set_num_threads(number)
        try:
            leaves = [of.clone().requires_grad_() for of in (q, k)]
            means = few_rows.attend_from(*leaves, states, seen, 0.125, None)
            found = [means, *torch.autograd.grad((means * into).sum(), leaves)]
            moved = [torch.full((1500, 576), by) for by in (1.0, 0.1, 0.2)]
            how = {"lr": 0.1, "betas": (0.9, 0.999), "weight_decay": 0.1, "eps": 1e-8}
            left = [few_rows.Left(few_rows.Rows(0, 1500), errors, x)]
            size = few_rows.StepSize.of(3, **how)
            few_rows.adamw([few_rows.Moments(*moved, left, None, size)])
            said.append([*found, *moved])
        finally:
            torch.set_num_threads(threads)
    for other in said[1:]:
        assert all(torch.equal(one, its) for one, its in zip(said[0], other, strict=True))
