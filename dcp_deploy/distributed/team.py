"""The processes that compute together, and what they exchange: sums over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

BUCKET_BYTES = 25 * 2**20
"""Most bytes of gradients in one message, as in torch's DDP."""
FIRST_BUCKET_BYTES = 2**20
"""The same for the first message, which is small so that sending begins early, as in torch's DDP."""

Wait = Callable[[], object]


def _start_nothing(tensor: Tensor) -> Wait:
    return lambda: None


@dataclass(frozen=True)
class Team:
    """The processes that compute together: this one is ``rank`` of ``size``, both counted over all machines.

    ``start`` begins to sum a tensor in place over all processes, and returns a function that waits for the end.
    Tensors are on the CPU, or each on its process's GPU. All processes must call ``start``, and the methods that use
    it, equally often and in the same order, with tensors of the same shapes and types.
    """

    rank: int = 0
    size: int = 1
    start: Callable[[Tensor], Wait] = _start_nothing

    def add(self, tensor: Tensor) -> Tensor:
        """Return the sum over all processes; ``tensor`` keeps its own values."""
        if self.size == 1:
            return tensor
        total = tensor.detach().clone()
        self.start(total)()
        return total

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` is true in any process."""
        return flag if self.size == 1 else bool(self.add(torch.tensor(float(flag))).item())

    def from_first(self, content: bytes) -> bytes:
        """Return the ``content`` that the first process gives, in every process; the others' is ignored."""
        if self.size == 1:
            return content
        first = self.rank == 0
        length = int(self.add(torch.tensor(len(content) if first else 0)))
        buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8) if first else torch.zeros(length).byte()
        self.start(buffer)()
        return buffer.numpy().tobytes()

    def gather(self, parts: Iterable[Tensor]) -> Tensor:
        """Return the rows of all parts in order: part i of the whole comes from process i modulo ``size``.

        ``parts`` are the float32 tensors [n, D] of this process, in order; the first process has at least one.
        """
        mine = list(parts)
        if self.size == 1:
            return torch.cat(mine)
        counts = torch.zeros(self.size, 3, dtype=torch.int64)
        largest = max((len(part) for part in mine), default=0)
        counts[self.rank] = torch.tensor([len(mine), largest, mine[0].shape[1] if mine else 0])
        counts = self.add(counts)
        number, rows, width = int(counts[:, 0].sum()), int(counts[:, 1].max()), int(counts[:, 2].max())
        lengths, whole = torch.zeros(number, dtype=torch.int64), torch.zeros(number, rows, width)
        for place, part in enumerate(mine):
            lengths[self.rank + place * self.size] = len(part)
            whole[self.rank + place * self.size, : len(part)] = part
        self.start(whole)()
        return torch.cat([part[:length] for part, length in zip(whole, self.add(lengths).tolist(), strict=True)])

    @contextmanager
    def summing(self, network: nn.Module, *, last: bool = True) -> Iterator[None]:
        """Sum the gradients of ``network`` over the processes by the end of the block, while it computes them.

        The block holds one ``backward()``. If it is not the ``last`` of an update, its gradients stay as they are, and
        are summed with the later ones.
        """
        if self.size == 1 or not last:
            yield
            return
        gradients = GradientSum(self, network.parameters())
        try:
            yield
            gradients.finish()
        finally:
            gradients.remove()


ALONE = Team()


class GradientSum:
    """The gradients of one update, summed in messages of 25 MiB, each as soon as its gradients are complete.

    The last layers come first, because their gradients are computed first. Messages start in the same order in every
    process. A parameter without a gradient is left out: it has none in any process.
    """

    def __init__(self, team: Team, parameters: Iterable[nn.Parameter]) -> None:
        self._team = team
        self._buckets = _buckets(reversed([one for one in parameters if one.requires_grad]))
        self._missing = [len(bucket) for bucket in self._buckets]
        self._sent: list[tuple[list[Tensor], Tensor, Wait]] = []
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(self._hook(index))  # type: ignore[no-untyped-call]
            for index, bucket in enumerate(self._buckets)
            for parameter in bucket
        ]

    def _hook(self, index: int) -> Callable[[Tensor], None]:
        def arrived(parameter: Tensor) -> None:
            del parameter
            self._missing[index] -= 1
            while len(self._sent) < len(self._buckets) and not self._missing[len(self._sent)]:
                self._send()

        return arrived

    @torch.no_grad()
    def _send(self) -> None:
        """Begin to sum the next bucket."""
        bucket = self._buckets[len(self._sent)]
        gradients = [parameter.grad for parameter in bucket if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients]) if gradients else torch.empty(0)
        self._sent.append((gradients, flat, self._team.start(flat) if gradients else lambda: None))

    @torch.no_grad()
    def finish(self) -> None:
        """Send what is left, wait for all sums, and put them in place of the gradients."""
        while len(self._sent) < len(self._buckets):
            self._send()
        for gradients, flat, wait in self._sent:
            wait()
            parts = torch.split(flat, [gradient.numel() for gradient in gradients]) if gradients else ()
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def remove(self) -> None:
        """Stop listening to the parameters."""
        for hook in self._hooks:
            hook.remove()


def _buckets(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Split parameters into messages, in this order; one larger than a message has its own."""
    buckets: list[list[nn.Parameter]] = []
    left = 0
    for parameter in parameters:
        size = parameter.numel() * parameter.element_size()
        if not buckets or size > left:
            left = BUCKET_BYTES if buckets else FIRST_BUCKET_BYTES
            buckets.append([])
        buckets[-1].append(parameter)
        left -= size
    return buckets
