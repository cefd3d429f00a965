"""Surge and collapse in Hugging Face's Trainer, resumed in the middle."""

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers")
from fluxcore.surge import Every, SurgeCollapse  # noqa: E402
from fluxcore.surge.trainer_callback import FILE, SurgeCollapseCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x, labels):
        return {"loss": (self.layer(x) - labels).square().mean()}


def run(folder, steps, resume=False):
    torch.manual_seed(0)
    model, reports = Model(), []
    callback = SurgeCollapseCallback(
        lambda m, optimizer: SurgeCollapse(m, optimizer, collapse=[Every(2)], surge=[Every(5)], drop_fraction=0.5),
        reports.append,
    )
    data = [{"x": torch.randn(8), "labels": torch.randn(8)} for _ in range(32)]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=4, save_steps=3, logging_steps=1,
        report_to=[], disable_tqdm=True, use_cpu=True, lr_scheduler_type="constant", dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=data, callbacks=[callback])
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-3") if resume else None)
    return model, callback, reports


def test_trainer_collapses_surges_and_resumes(tmp_path):
    model, callback, reports = run(tmp_path, 6)
    assert [report.step for report in reports] == [2, 4, 5, 6]
    assert reports[0].dropped == {"layer.weight": 32}
    assert (tmp_path / "checkpoint-3" / FILE).is_file()
    assert (model.layer.weight[~callback.surge.masks["layer.weight"]] == 0).all()
    again, resumed, rest = run(tmp_path, 6, resume=True)
    assert rest == reports[1:]
    assert torch.equal(again.layer.weight, model.layer.weight)
    assert torch.equal(resumed.surge.masks["layer.weight"], callback.surge.masks["layer.weight"])
