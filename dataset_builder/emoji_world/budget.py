"""A training loop with a budget of steps and minutes that can be killed at any moment and resumed.

The learning rate follows whichever part of the budget is further spent, so that it always ends at zero. Used to make
the emoji world's own models; experts are trained by `training.DiffusionDPOTrainer`."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm


@dataclass
class Budget:
    """Limits of one model's training.

    Args:
        steps (`int`): optimiser steps at most.
        minutes (`float`): minutes of work at most, summed over resumed runs.
        learning_rate (`float`): the peak; it warms up over `warmup` steps and falls along a half cosine to zero.
        warmup (`int`, *optional*, defaults to 100): steps.
        ema (`float`, *optional*, defaults to 0.0): decay of an exponential moving average of the weights; 0 keeps none.
        save_every (`float`, *optional*, defaults to 60.0): seconds between two saved states.
    """

    steps: int
    minutes: float
    learning_rate: float
    warmup: int = 100
    ema: float = 0.0
    save_every: float = 60.0


def device() -> torch.device:
    """The GPU when there is one, the CPU otherwise."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(
    name: str,
    module: nn.Module,
    batch: Callable[[int], dict[str, torch.Tensor]],
    loss: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    budget: Budget,
    state_file: Path,
) -> dict[str, float]:
    """Train `module` in place; returns steps, minutes and the running mean of the loss.

    The networks run in bfloat16 under autocast, a third faster on CPUs with its instructions; weights stay float32,
    and `loss` should turn outputs into float32 before it compares them.

    `batch(step)` must depend on nothing but `step`, then a resumed run sees the data of the run that was never killed.
    On return the module holds the averaged weights where `budget.ema` asks for them."""
    module.train()
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=budget.learning_rate, weight_decay=0.01)
    average = [p.detach().clone() for p in parameters] if budget.ema else []
    step, seconds, mean = 0, 0.0, 0.0
    if state_file.exists():
        state = torch.load(state_file, map_location="cpu", weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        step, seconds, mean = state["step"], state["seconds"], state["mean"]
        for kept, saved in zip(average, state["average"], strict=True):
            kept.copy_(saved)
    where = next(module.parameters()).device
    started = saved_at = time.monotonic()
    before = seconds
    bar = tqdm(total=budget.steps, initial=step, desc=name, unit="step", mininterval=10)
    while True:
        seconds = before + time.monotonic() - started
        spent = max(step / budget.steps, seconds / (60 * budget.minutes))
        if spent >= 1 or time.monotonic() - saved_at > budget.save_every:
            _save(state_file, module, optimizer, average, step, seconds, mean)
            saved_at = time.monotonic()
        if spent >= 1:
            break
        rate = budget.learning_rate * min(1.0, (step + 1) / budget.warmup) * 0.5 * (1 + math.cos(math.pi * spent))
        for group in optimizer.param_groups:
            group["lr"] = rate
        inputs = {key: tensor.to(where) for key, tensor in batch(step).items()}
        with torch.autocast(where.type, torch.bfloat16):
            value = loss(inputs)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if budget.ema:
            # A young average forgets its start faster.
            decay = min(budget.ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        mean = value.item() if step == 1 else 0.98 * mean + 0.02 * value.item()
        bar.update()
        bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
    bar.close()
    with torch.no_grad():
        for parameter, kept in zip(parameters, average, strict=False):
            parameter.copy_(kept)
    module.eval()
    return {"steps": step, "minutes": seconds / 60, "loss": mean}


def _save(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: list[torch.Tensor],
    step: int,
    seconds: float,
    mean: float,
) -> None:
    state = {
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average,
        "step": step,
        "seconds": seconds,
        "mean": mean,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)
