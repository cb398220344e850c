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
from lastblock.decoder import few_rows
from lastblock.decoder.config import Rope
from lastblock.decoder.layers import Linear, _sees, rotary_tables, rotate
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


def test_what_is_not_for_them_is_torch_s():
    x, weight = torch.randn(4, 30), torch.randn(20, 30)
    assert few_rows.can_multiply(x, weight)
    assert not few_rows.can_multiply(torch.randn(few_rows.MOST_ROWS + 1, 30), weight)
    assert not few_rows.can_multiply(torch.randn(0, 30), weight)
    assert not few_rows.can_multiply(x.double(), weight.double())
    assert not few_rows.can_multiply(x, weight.bfloat16())
    assert not few_rows.can_multiply(x, torch.randn(30, 20).T)


@pytest.mark.parametrize("size", [5, 16, 33, 576])
@pytest.mark.parametrize("shape", [(1,), (64,), (3, 7), ()])
def test_rms_norms_and_their_gradients_equal_float64(size, shape):
    x, into = torch.randn(*shape, size).requires_grad_(), torch.randn(*shape, size)
    assert few_rows.can_norm(x, torch.ones(size))
    y = few_rows.rms_norm(x, 1e-3)
    (found,) = torch.autograd.grad((y * into).sum(), x)
    exact = x.detach().double().requires_grad_()
    said = F.rms_norm(exact, (size,), eps=1e-3)
    _close(y.detach(), said.detach())
    _close(found, torch.autograd.grad((said * into).sum(), exact)[0])
    assert not few_rows.can_norm(torch.randn(few_rows.MOST_ROWS + 1, size), torch.ones(size))
    standing = torch.randn(size, 5)
    _close(few_rows.rms_norm(standing.T, 1e-3), F.rms_norm(standing.T.double(), (size,), eps=1e-3))


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
        found = few_rows.normed(x[:, :, :], few_rows.Seen.of(seen, position), 1e-3, centred)
        read = x.double()[seen]
        if centred:
            read = read - read.mean(1, keepdim=True)
        _close(found, read / (read.square().mean(1, keepdim=True) + 1e-3).sqrt())
        # Texts may lie apart, as where other rows stand before them.
        apart = torch.cat((torch.randn(3, 4, size), x), dim=1)[:, 4:]
        again = few_rows.normed(apart, few_rows.Seen.of(seen, position), 1e-3, centred)
        assert torch.equal(again, found)


@pytest.mark.parametrize("dim", [2, 10, 64, 96])
@pytest.mark.parametrize(("heads", "kv_heads"), [(9, 3), (2, 2), (4, 1)])
def test_attention_from_one_token_equals_float64(dim, heads, kv_heads):
    size, lengths = 50, [33, 1, 17, 20]
    for causal, window, turned in product((True, False), (None, 5), (True, False)):
        position = torch.tensor(lengths) - 1
        seen = _seen(lengths, position, causal, window)
        which = few_rows.Seen.of(seen, position)
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
    position, lengths = torch.tensor([2, -1, 0]), torch.tensor([3, 0, 1])
    seen = torch.arange(3) < lengths[:, None]
    which = few_rows.Seen.of(seen, position)
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
    seen = few_rows.Seen.of(_seen([200], position, True, None), position)
    x, errors = torch.randn(20, 576), torch.randn(20, 1500)
    for number in (1, 2, 5):
        torch.set_num_threads(number)
        try:
            leaves = [of.clone().requires_grad_() for of in (q, k)]
            means = few_rows.attend_from(*leaves, states, seen, 0.125, None)
            found = [means, *torch.autograd.grad((means * into).sum(), leaves)]
            moved = [torch.full((1500, 576), by) for by in (1.0, 0.1, 0.2)]
            how = {"step": 3, "lr": 0.1, "betas": (0.9, 0.999), "weight_decay": 0.1, "eps": 1e-8}
            few_rows.adamw(*moved, (errors, x), **how)
            said.append([*found, *moved])
        finally:
            torch.set_num_threads(threads)
    for other in said[1:]:
        assert all(torch.equal(one, its) for one, its in zip(said[0], other, strict=True))
