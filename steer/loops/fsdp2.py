"""Fully sharded data parallelism: every process holds a part of each weight of the trained maps.

    Trainer(strategy="fsdp2", devices=8)        # or strategy=Fsdp2()

Weights, gradients, Adam's averages and the moving average are sharded; a layer is whole only while
it is used. Checkpoints are those of every other strategy, one file with whole weights, so that a
run goes on with any number of processes, or with one.
"""

import copy
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from steer.flow_map import ResidualMap
from steer.networks import Transformer, UNet

__all__ = ["Fsdp2"]

NAME = "fsdp2"
PATIENCE = timedelta(minutes=30)


class Fsdp2(ModelParallelStrategy):
    """PyTorch's FSDP2 over all processes, for `MapTraining` and `RewardTuning`.

    The networks of the trained map and of copies that an objective keeps are sharded, layer by
    layer; frozen bases, teachers and rewards are whole in every process. Callbacks that draw
    samples do so in all processes alike.

    Args:
        timeout: how long a process waits for the others.
        process_group_backend: nccl on GPUs, gloo on CPUs by default.
    """

    def __init__(self, timeout: timedelta = PATIENCE, process_group_backend: str | None = None):
        super().__init__(
            data_parallel_size=1,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )

    def setup_environment(self) -> None:
        """Makes all processes share in the data and in every weight."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


StrategyRegistry.register(NAME, Fsdp2, description="fully sharded data parallelism")


class Sharded(NamedTuple):
    """A map whose network is sharded, and the same network without weights."""

    flow_map: ResidualMap
    skeleton: nn.Module


def shard(module: nn.Module, mesh: DeviceMesh) -> list[Sharded]:
    """Shards the networks of all maps in a module, in place.

    Raises:
        ValueError: weights that are trained and belong to no map.
    """
    maps = [part for part in module.modules() if isinstance(part, ResidualMap)]
    known = {id(weight) for flow_map in maps for weight in flow_map.network.parameters()}
    for name, weight in module.named_parameters():
        if weight.requires_grad and id(weight) not in known:
            raise ValueError(
                f"strategy fsdp2 shards the networks of flow maps, and {name} belongs to none:"
                " train with strategy ddp"
            )
    found = []
    for flow_map in maps:
        if isinstance(flow_map.network, FSDPModule):  # shared with another map
            continue
        for weight in flow_map.network.parameters():
            weight.data = weight.data.contiguous()  # channels may have come last
        found.append(Sharded(flow_map, without_weights(flow_map.network)))
        for layer in layers(flow_map.network):
            fully_shard(layer, mesh=mesh)
        fully_shard(flow_map.network, mesh=mesh)
        flow_map.network.register_forward_hook(reshard)
    return found


def reshard(network: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    """Shards a network after an evaluation without a gradient, as a backward pass would."""
    if isinstance(network, FSDPModule) and not torch.is_grad_enabled():
        network.reshard()


def layers(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of a network: the outermost entries of its lists that have weights.

    None of a network that recomputes its blocks, whose weights are whole until it has.
    """
    if isinstance(module, Transformer | UNet) and module.recompute:
        return
    for child in module.children():
        if not isinstance(child, nn.ModuleList):
            yield from layers(child)
            continue
        for entry in child:
            if isinstance(entry, nn.ModuleList):
                yield from layers(nn.ModuleList([entry]))
            elif any(True for _ in entry.parameters()):
                yield entry


def without_weights(network: nn.Module) -> nn.Module:
    """A copy of a network whose weights take no memory."""
    empty: dict[int, Any] = {
        id(weight): nn.Parameter(torch.empty_like(weight, device="meta"), weight.requires_grad)
        for weight in network.parameters()
    }
    return copy.deepcopy(network, empty)


def make_whole(parts: list[Sharded]) -> None:
    """Gives the maps their networks with whole weights, in every process; all must call it."""
    for flow_map, skeleton in parts:
        state = {name: whole(value) for name, value in flow_map.network.state_dict().items()}
        skeleton.load_state_dict(state, assign=True)
        flow_map.network = skeleton.train(flow_map.network.training)


def whole(weight: Tensor) -> Tensor:
    """A copy of a weight, gathered from all processes where it is sharded; all must call it."""
    if isinstance(weight, DTensor):
        return weight.full_tensor().detach()
    return weight.detach().clone()


def like(weight: Tensor, other: Tensor) -> Tensor:
    """A whole weight, sharded as another one is, if it is."""
    if not isinstance(other, DTensor) or isinstance(weight, DTensor):
        return weight
    moved = weight.to(other.device)
    return distribute_tensor(moved, other.device_mesh, other.placements, src_data_rank=None)


def draws_here(trainer: Trainer, pl_module: LightningModule) -> bool:
    """Whether this process draws samples of the map: the first, or all where it is sharded."""
    return trainer.is_global_zero or pl_module.device_mesh is not None
