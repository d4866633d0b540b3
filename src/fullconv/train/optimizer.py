"""The optimizers of trainings, and what they note of each weight."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from fullconv.data.loading import mixed_seed
from fullconv.kernels.openmp import has_torch_threads
from fullconv.net.rewrites.sliced_convolutions import LARGE
from fullconv.net.upscore import Upscore
from fullconv.train.recipe import Recipe

MOMENTS = "exp_avg", "exp_avg_sq"  # torch's names


class FrugalAdamW(AdamW):
    """AdamW that keeps its moments of very large weights in bfloat16, rounded at random.

    Those are float32 weights of a CPU, `LARGE` of them at least; others go by torch. What is drawn
    at random follows from the number of the step and from which of these weights they are.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        fused: bool | None,
    ) -> None:
        super().__init__(groups, lr=lr, betas=betas, fused=fused)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change the weights by their gradients, which are there already."""
        assert closure is None
        gradients = dict[Tensor, Tensor]()
        try:
            for place, (weights, group) in enumerate(self._large()):
                if weights.grad is not None:
                    gradients[weights] = weights.grad
                    self._step(weights, weights.grad, group, place)
                    weights.grad = None  # so that torch passes over them
            super().step()
        finally:
            for weights, gradient in gradients.items():
                weights.grad = gradient

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` told; moments become as precise as they are kept here."""
        saved, large = state_dict["state"], {weights for weights, _ in self._large()}
        learnt = [weights for group in self.param_groups for weights in group["params"]]
        own = {place: saved[place] for place in saved if learnt[place] in large}
        # Torch would make these moments as precise as the weights.
        others = {place: state for place, state in saved.items() if place not in own}
        super().load_state_dict({**state_dict, "state": others})
        for place, state in own.items():
            low = {name: state[name].to(torch.bfloat16) for name in MOMENTS}
            self.state[learnt[place]] = {**state, **low}

    def _large(self) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """Yield very large weights and their groups."""
        if not has_torch_threads():
            return
        for group in self.param_groups:
            for weights in group["params"]:
                here = weights.device.type == "cpu" and weights.dtype == torch.float32
                if here and weights.numel() >= LARGE:
                    yield weights, group

    def _step(self, weights: Tensor, gradient: Tensor, group: dict[str, Any], place: int) -> None:
        from fullconv.kernels.adamw_cpu import Settings, adamw_step

        state: dict[str, Any] = self.state[weights]
        if not state:
            state["step"] = torch.zeros(())
            for name in MOMENTS:
                state[name] = torch.zeros_like(weights, dtype=torch.bfloat16)
        state["step"] += 1
        step, (first, second) = int(state["step"]), (state[name] for name in MOMENTS)
        own = Settings(**{name: group[name] for name in ("lr", "betas", "eps", "weight_decay")})
        seed = mixed_seed(step, place) % 2**32
        adamw_step(weights, _lain_as(weights, gradient), (first, second), own, step, seed)


def make_optimizer(
    net: nn.Module, recipe: Recipe, precision: Literal["fp32", "bf16"] = "fp32"
) -> Optimizer:
    """Return the recipe's optimizer for the learnt parameters of `net`.

    Each of its groups holds a ``factor`` on the learning rate. Weight decay spares normalisation,
    upscores, which it would pull away from interpolation, and biases, if the recipe doesn't say
    otherwise. In bfloat16, AdamW keeps moments of very large weights on CPUs in half the memory.
    """
    upscores = {module.weight for module in net.modules() if isinstance(module, Upscore)}
    groups: dict[tuple[float, bool], list[Tensor]] = {(1.0, True): []}  # the weights come first
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            factor, decayed = _factor_and_decay(name, parameter, recipe)
            decayed = decayed and parameter not in upscores
            groups.setdefault((factor, decayed), []).append(parameter)
    options: list[dict[str, Any]] = [
        {
            "params": parameters,
            "factor": factor,
            "lr": recipe.lr * factor,
            "weight_decay": recipe.weight_decay if decayed else 0.0,
        }
        for (factor, decayed), parameters in groups.items()
    ]
    devices = {parameter.device.type for parameter in net.parameters()}
    fused = devices <= {"cpu", "cuda"} or None  # in one pass, without copies of the gradients
    if recipe.optimizer == "sgd":
        return SGD(options, lr=recipe.lr, momentum=recipe.momentum, fused=fused)
    kind = FrugalAdamW if precision == "bf16" else AdamW
    return kind(options, lr=recipe.lr, betas=(recipe.momentum, 0.999), fused=fused)


def load_optimizer(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Take over a saved state, the moments laid out in memory as the parameters are.

    These may lie otherwise than where the moments were saved, on a processor of another kind, and
    fused steps on CPUs pair values by their places in memory, whatever they stand for.
    """
    optimizer.load_state_dict(saved)
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                moments[name] = _lain_as(parameter, value)


def _lain_as(parameter: Tensor, value: Tensor) -> Tensor:
    """Return a value of each weight, which lies in memory as the weights do."""
    if value.stride() == parameter.stride():
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _factor_and_decay(name: str, parameter: Tensor, recipe: Recipe) -> tuple[float, bool]:
    """Return the factor on a parameter's learning rate, and whether it is decayed."""
    doubled, of_trunk = recipe.doubled_biases, name.startswith("trunk.")
    rate = recipe.trunk_lr if of_trunk else 1.0
    if parameter.ndim > 1 or doubled == "none" or not name.endswith("bias"):
        return rate, parameter.ndim > 1
    # All biases but the trunk's are those of scores.
    return (rate, True) if doubled == "scores" and of_trunk else (2 * rate, False)
