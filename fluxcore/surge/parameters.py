"""Which parameters of a model are pruned."""

from torch import nn


def prunable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by name that require a gradient, without biases, norms and embeddings.

    Left out are parameters of fewer than two dimensions, those of `torch.nn.Embedding` and `EmbeddingBag` (and so a
    head that is tied to one), and those of modules whose class is called a norm. A shared parameter comes once.
    """
    left_out: set[int] = set()
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) or "norm" in type(module).__name__.lower():
            left_out |= {id(parameter) for parameter in module.parameters(recurse=False)}
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.ndim >= 2 and id(parameter) not in left_out
    }
