"""The loss inside what wraps modules: sharded parameters (FSDP2) and activation checkpointing."""

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.utils.checkpoint import checkpoint

from rankbound.heads import ChunkedLoss, Head, all_heads

NAMES = ["Linear", "MixtureOfSoftmaxes", "Mixtape", "TaughtFactorized"]


def make(name: str) -> tuple[Head, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return all_heads()[name](16, 50), torch.randn(40, 16), torch.randint(50, (40,))


def sharded(rank: int, port: int, folder: str) -> None:
    """Half of the rows on each of two processes; rank 0 saves the gathered gradients."""
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
    for name in NAMES:
        head, hidden, target = make(name)
        loss = ChunkedLoss(head, logit_budget=400, label_smoothing=0.1)
        fully_shard(loss, mesh=mesh)
        half = slice(20 * rank, 20 * rank + 20)
        loss(hidden[half].requires_grad_(), target[half]).backward()
        gradients = {n: p.grad.full_tensor() for n, p in head.named_parameters()}
        if rank == 0:
            torch.save(gradients, f"{folder}/{name}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")
def test_sharded_gradients_are_those_of_one_process(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(sharded, (port, str(tmp_path)), nprocs=2)
    for name in NAMES:
        head, hidden, target = make(name)
        ChunkedLoss(head, label_smoothing=0.1)(hidden, target).backward()
        found = torch.load(tmp_path / f"{name}.pt")
        for parameter_name, parameter in head.named_parameters():
            assert torch.allclose(found[parameter_name], parameter.grad, atol=1e-6), (name, parameter_name)


@pytest.mark.parametrize("name", NAMES)
def test_checkpointed_gradients_are_those_without(name):
    head, hidden, target = make(name)
    loss = ChunkedLoss(head, logit_budget=400)
    inputs = [hidden.requires_grad_(), *head.parameters()]
    plain = torch.autograd.grad(loss(hidden, target), inputs)
    again = torch.autograd.grad(checkpoint(loss, hidden, target, use_reentrant=False), inputs)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
