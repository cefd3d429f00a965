"""`linear_cross_entropy` under DistributedDataParallel: two gloo processes on one machine."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from fluxcore import LinearOptions, linear_cross_entropy


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


def tokens_of_all():
    return torch.randint(33, (4, 6), generator=torch.Generator().manual_seed(5))


def process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = nn.parallel.DistributedDataParallel(Model())
    model(tokens_of_all()[2 * rank : 2 * rank + 2]).backward()
    torch.save([parameter.grad for parameter in model.parameters()], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")  # third parties, while processes start
def test_two_processes_have_the_gradient_of_the_whole_batch(tmp_path):
    # Not by spawn: the parent may be a worker of pytest-xdist, whose main module cannot be imported anew.
    mp.start_processes(process, (str(tmp_path),), nprocs=2, start_method="fork")
    model = Model()
    model(tokens_of_all()).backward()
    expected = [parameter.grad for parameter in model.parameters()]
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), expected)
