import subprocess
import sys
from inspect import signature
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional

from fusion_engine import BackendError
from fusion_engine.probe import evaluate, linear
from fusion_engine.probe import probe as probe_artifact
from fusion_engine.probe.linear import LEARNING_RATES, WEIGHT_DECAY, ProbeStack, train_probes

EPS = float(np.finfo(np.float32).eps)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def minibatches(count, size, dim, classes, seed=1):
    rng = generator(seed)
    return [
        (torch.randn(size, dim, generator=rng), torch.randint(classes, (size,), generator=rng))
        for _ in range(count)
    ]


def peers(stack, rates, fused):
    """PyTorch's own layers and optimisers, starting where the stack is."""
    made = []
    for weight, bias, rate in zip(stack.weight, stack.bias, rates, strict=True):
        model = torch.nn.Linear(stack.weight.shape[2], stack.weight.shape[1])
        with torch.no_grad():
            model.weight.copy_(weight)
            model.bias.copy_(bias)
        optimizer = torch.optim.Adam(
            model.parameters(), lr=rate, weight_decay=WEIGHT_DECAY, fused=fused
        )
        made.append((model, optimizer))
    return made


def test_the_numbers_are_the_papers():
    """And they are what is used when nobody says otherwise."""
    assert linear.WEIGHT_DECAY == 1e-8
    assert linear.BATCH_SIZE == 200
    assert ProbeStack(3, 2, (1e-3,), generator())._optimizer.param_groups[0]["weight_decay"] == 1e-8
    for function in (train_probes, evaluate, probe_artifact):
        defaults = {p.name: p.default for p in signature(function).parameters.values()}
        assert (defaults["max_epochs"], defaults["patience"]) == (200, 20)
        assert defaults["learning_rates"] == (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
        assert defaults["seeds"] == (0, 1, 2)


def test_gradients_are_those_of_autograd():
    rates = (1e-3, 1e-2)
    stack = ProbeStack(37, 5, rates, generator())
    models = peers(stack, rates, fused=None)
    ((x, y),) = minibatches(1, 20, 37, 5)
    stack.step(x, y)
    for place, (model, _) in enumerate(models):
        functional.cross_entropy(model(x), y).backward()
        # Sums of 20 products, in another order.
        for got, expected in (
            (stack._weight_grad[place], model.weight.grad),
            (stack._bias_grad[place], model.bias.grad),
        ):
            torch.testing.assert_close(got, expected, rtol=0, atol=20 * EPS)


@pytest.mark.parametrize("fused", [True, None], ids=["fused", "default"])
def test_the_step_is_that_of_torch_adam(fused):
    """Given the same gradients: bit for bit the fused kernel's, and the default's but for rounding.

    A step is at most lr / (1 − β₁)-fold a quotient of about ten roundings (Kingma & Ba 2015).
    """
    steps = 6
    stack = ProbeStack(33, 4, LEARNING_RATES, generator())
    models = peers(stack, LEARNING_RATES, fused)
    for x, y in minibatches(steps, 16, 33, 4):
        stack.step(x, y)
        for place, (model, optimizer) in enumerate(models):
            model.weight.grad = stack._weight_grad[place].clone()
            model.bias.grad = stack._bias_grad[place].clone()
            optimizer.step()
    for place, (model, _) in enumerate(models):
        rate = LEARNING_RATES[place]
        bound = 0.0 if fused else steps * (10 * rate + float(stack.weight[place].abs().max())) * EPS
        for got, expected in ((stack.weight[place], model.weight), (stack.bias[place], model.bias)):
            torch.testing.assert_close(got, expected.detach(), rtol=0, atol=bound)


def test_the_initial_weights_are_distributed_as_those_of_a_linear_layer():
    stack = ProbeStack(400, 100, (1e-3, 1e-2), generator())
    torch.testing.assert_close(stack.weight[0], stack.weight[1], rtol=0, atol=0)
    assert float(stack.weight.abs().max()) <= 1 / 20
    # 40 000 samples of ±1/20: the deviation of their deviation is below one per cent.
    assert float(stack.weight.std()) == pytest.approx(1 / 20 / 3**0.5, rel=0.03)
    assert float(stack.bias.abs().max()) <= 1 / 20


def test_what_leaves_the_step_does_not_change_the_others():
    """Models that go on keep their weights and moments, and take the steps they would have."""
    batches = minibatches(12, 25, 48, 6)
    whole, cut = (ProbeStack(48, 6, LEARNING_RATES, generator()) for _ in range(2))
    kept = list(range(len(LEARNING_RATES)))
    for number, (x, y) in enumerate(batches):
        whole.step(x, y)
        cut.step(x, y)
        if number in (3, 7):
            leaving = 2 if number == 3 else 0
            del kept[leaving]
            cut.keep([place for place in range(len(cut)) if place != leaving])
            assert len(cut._optimizer.state) == 2 * len(cut)
    assert cut.weight.shape[0] == len(kept) == 5
    # The rounding of the products differs with their width, and Adam's quotient can magnify it.
    torch.testing.assert_close(cut.weight, whole.weight[kept], rtol=0, atol=1e-5)
    assert float((whole.weight[kept][0] - whole.weight[kept][-1]).abs().max()) > 1e-2


PROBLEMS = {
    "two classes": {"size": 5000, "dim": 20, "classes": 2, "distance": 2.0},
    "many classes": {"size": 6000, "dim": 40, "classes": 10, "distance": 4.0},
    "uneven columns": {"size": 5000, "dim": 40, "classes": 4, "distance": 3.0, "spread": 1e3},
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_against_logistic_regression(name, make_problem):
    """The same linear model, fitted to its optimum by somebody else.

    On m test examples both accuracies scatter by √(p(1 − p)/m) around the truth. The two are of
    the same examples, which they get right or wrong together for the most part, so two of these
    deviations are a generous bound; there are enough examples for each weight that neither the
    penalty of the one nor the early stopping of the other matters.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    problem = make_problem(**PROBLEMS[name])
    (x, y), (valid_x, valid_y), (test_x, test_y) = (
        problem.part(*ends) for ends in ((0, -3000), (-3000, -2000), (-2000, None))
    )
    scaler = StandardScaler().fit(x)
    x, valid_x, test_x = (scaler.transform(part) for part in (x, valid_x, test_x))
    expected = LogisticRegression(max_iter=1000).fit(x, y).score(test_x, test_y)
    rates = (1e-3, 3e-3, 1e-2)
    trained = train_probes(x, y, valid_x, valid_y, classes=problem.classes, learning_rates=rates)
    noise = (expected * (1 - expected) / len(test_y)) ** 0.5
    for probes in trained:
        probe = max(probes, key=lambda probe: probe.valid_accuracy)
        got = float((probe.predict(test_x) == test_y).mean())
        assert got == pytest.approx(expected, abs=2 * noise)
    assert 1.5 / problem.classes < expected < 0.95


@pytest.fixture(scope="module")
def trained(make_problem):
    """Probes of two seeds, on a problem small enough to be learnt by heart."""
    problem = make_problem(300, 40, 3, distance=1.5)
    data = (*problem.part(0, 150), *problem.part(150, 300))
    options = {"classes": 3, "learning_rates": (1e-3, 1e-2), "patience": 6}
    torch.set_num_threads(1)
    return data, options, train_probes(*data, seeds=(0, 1), **options)


def history(data, options, seed, rate, epochs):
    """Validation accuracy of the last weights after 1, 2, … epochs, by runs that end there."""
    x, y, valid_x, valid_y = data
    run = linear._Run(seed, torch.from_numpy(x), options["classes"], (rate,), 10**6)
    accuracies = []
    for _ in range(epochs):
        for batch in run.batches(torch.from_numpy(x)):
            run.stack.step(torch.from_numpy(x[batch]), torch.from_numpy(y[batch]))
        weight, bias = run.stack.weight[0].numpy(), run.stack.bias[0].numpy()
        accuracies.append(float(((valid_x @ weight.T + bias).argmax(1) == valid_y).mean()))
    return accuracies


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("place", [0, 1])
def test_early_stopping_and_the_best_weights(trained, seed, place):
    """Against a loop that never stops and looks back: another model's leaving changes nothing."""
    data, options, probes = trained
    probe = probes[seed][place]
    accuracies = history(data, options, seed, options["learning_rates"][place], probe.epochs)
    assert probe.best_epoch == int(np.argmax(accuracies)) + 1
    assert probe.valid_accuracy == pytest.approx(max(accuracies), abs=1e-12)
    assert probe.epochs == probe.best_epoch + options["patience"]
    # No pause before was as long.
    best = np.maximum.accumulate(accuracies[: probe.best_epoch])
    rises = [0, *(1 + np.flatnonzero(np.diff(best) > 0)), probe.best_epoch - 1]
    assert max(b - a for a, b in pairwise(rises)) <= options["patience"]
    # The weights are those of the best epoch, and the last ones are worse.
    valid_x, valid_y = data[2:]
    assert float((probe.predict(valid_x) == valid_y).mean()) == pytest.approx(probe.valid_accuracy)
    assert accuracies[-1] < probe.valid_accuracy


def test_models_stop_at_different_times(trained):
    epochs = {probe.epochs for probes in trained[2] for probe in probes}
    assert len(epochs) > 1


def test_the_most_epochs(trained):
    data, options, _ = trained
    seen = []
    ((probe, _),) = train_probes(*data, seeds=(0,), max_epochs=3, progress=seen.append, **options)
    assert probe.epochs == 3
    assert seen == [1, 2, 3]


def test_a_seed_gives_the_same_bits_alone_and_together(trained):
    data, options, probes = trained
    for seed in (0, 1):
        (again,) = train_probes(*data, seeds=(seed,), **options)
        for a, b in zip(again, probes[seed], strict=True):
            np.testing.assert_array_equal(a.weight, b.weight)
            np.testing.assert_array_equal(a.bias, b.bias)
            assert (a.best_epoch, a.epochs) == (b.best_epoch, b.epochs)
    assert np.abs(probes[0][0].weight - probes[1][0].weight).max() > 1e-2


def test_a_seed_is_also_the_order_of_the_minibatches(make_problem):
    x = torch.zeros(450, 3)
    runs = [linear._Run(seed, x, 2, (1e-3,), 20) for seed in (0, 0, 1)]
    first, same, other = ([run.batches(x) for _ in range(2)] for run in runs)
    for epoch in range(2):
        assert [len(batch) for batch in first[epoch]] == [200, 200, 50]
        assert sorted(torch.cat(first[epoch]).tolist()) == list(range(450))
        torch.testing.assert_close(first[epoch], same[epoch], rtol=0, atol=0)
        assert not torch.equal(torch.cat(first[epoch]), torch.cat(other[epoch]))
    assert not torch.equal(torch.cat(first[0]), torch.cat(first[1]))
    assert [len(batch) for batch in runs[0].batches(x[:7])] == [7]


def test_a_stopped_model_takes_no_more_steps(trained, monkeypatch):
    """The width of the products falls as models stop."""
    data, options, probes = trained
    widths = []
    step = ProbeStack.step
    monkeypatch.setattr(
        ProbeStack, "step", lambda self, x, y: (widths.append(len(self)), step(self, x, y))[1]
    )
    train_probes(*data, seeds=(0,), **options)
    assert sum(widths) == sum(probe.epochs for probe in probes[0])  # one minibatch an epoch


def test_devices():
    for device in ("gpu", "cuda:", "cuda:x", "cpu:0", ""):
        with pytest.raises(ValueError, match="expected 'cpu', 'cuda' or 'cuda:N'"):
            linear.check_device(device)
    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match="train on device='cpu'"):
            linear.check_device("cuda")


def test_what_is_learnt_by_heart_leaves_no_denormal_numbers():
    """A probability of e^-95 is denormal: products with such numbers take many times as long."""
    stack = ProbeStack(3, 2, (1e-3,), torch.Generator().manual_seed(0))
    with torch.no_grad():
        stack.weight.zero_()
        stack.bias.copy_(torch.tensor([[95.0, 0.0]]))
    assert 0 < stack.logits(torch.ones(1, 3)).softmax(2)[0, 0, 1] < torch.finfo(torch.float32).tiny
    stack.step(torch.ones(1, 3), torch.tensor([0]))
    # Adam's first step is the learning rate, whatever the gradient's size; of none it is nothing.
    assert not stack.weight.any()


@pytest.mark.gpu
def test_on_a_gpu(trained):
    """The same seed starts from the same weights, and comes to as good a probe."""
    data, options, probes = trained
    on_gpu = train_probes(*data, seeds=(0,), device="cuda", **options)[0]
    for got, expected in zip(on_gpu, probes[0], strict=True):
        assert got.valid_accuracy == pytest.approx(expected.valid_accuracy, abs=2 / 150)


def test_torch_is_imported_at_use_and_its_absence_explained():
    program = (
        "import sys\n"
        "import fusion_engine.probe as probe\n"
        "assert not {'torch', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "sys.modules['torch'] = None\n"
        "import numpy as np\n"
        "try:\n"
        "    probe.train_probes(*[np.zeros((2, 2), np.float32)] * 4, classes=2)\n"
        "except probe.linear.BackendError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert 'pip install ".[probe]"' in done.stdout
