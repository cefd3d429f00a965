import torch
from accelerate import Accelerator
from torch import nn

from fluxcore.surge import Every, LossPlateau, SurgeCollapse


def begin():
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=0.01))
    surge = SurgeCollapse(
        accelerator.unwrap_model(model),
        optimizer.optimizer,
        collapse=[Every(3)],
        surge=[Every(5), LossPlateau(4)],
        drop_fraction=0.3,
    )
    accelerator.register_for_checkpointing(surge)
    return accelerator, model, optimizer, surge


def go_on(accelerator, model, optimizer, surge, steps):
    for step in steps:
        inputs = torch.randn(16, 8, generator=torch.Generator().manual_seed(step))
        loss = model(inputs).square().mean()
        accelerator.backward(loss)
        optimizer.step()
        surge.step(loss.detach())
        optimizer.zero_grad()
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def test_a_saved_state_goes_on_bit_for_bit(tmp_path):
    whole = go_on(*begin(), range(12))
    run = begin()
    go_on(*run, range(7))
    run[0].save_state(tmp_path / "state")
    resumed = begin()
    resumed[0].load_state(tmp_path / "state")
    after = go_on(*resumed, range(7, 12))
    assert resumed[3].steps == 12
    assert all(torch.equal(after[name], whole[name]) for name in whole)
    assert any((weight == 0).any() for weight in whole.values())
