"""A model under DistributedDataParallel, one process of two: `python -m support.linear_ddp RANK FOLDER`.

Each rank writes the gradients that it ends with to FOLDER/RANK.pt.
"""

import sys

import torch
import torch.distributed as dist
from torch import nn

from fluxcore import LinearOptions, linear_cross_entropy

RANKS = 2


class Model(nn.Module):
    """An embedding tied to its head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(33, 8)
        self.bias = nn.Parameter(torch.randn(33))

    def forward(self, tokens):
        hidden = self.embedding(tokens[:, :-1]).tanh()
        options = {"linear_bias": self.bias, "options": LinearOptions(rows=3)}
        return linear_cross_entropy(hidden, self.embedding.weight, tokens[:, 1:], **options)


def tokens_of_all() -> torch.Tensor:
    return torch.randint(33, (2 * RANKS, 6), generator=torch.Generator().manual_seed(5))


def main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    model = nn.parallel.DistributedDataParallel(Model())
    model(tokens_of_all()[2 * rank : 2 * rank + 2]).backward()
    torch.save([parameter.grad for parameter in model.parameters()], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
