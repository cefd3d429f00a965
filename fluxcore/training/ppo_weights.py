"""What the sources of prompts weigh, by how hard they are at present."""

from fluxcore.data import Loader
from fluxcore.training.difficulty import FrozenCopy, measure_difficulty
from fluxcore.training.ppo_config import PPOKeys
from fluxcore.training.ppo_data import PromptData
from fluxcore.training.run import Run


def reweigh(config: PPOKeys, run: Run, prompts: PromptData, frozen: FrozenCopy, loader: Loader) -> None:
    """Measure how hard each source is, and let the next steps' prompts follow."""
    assert prompts.curriculum is not None
    with run.off_the_clock():
        difficulty = measure_difficulty(
            run.accelerator,
            frozen.model,
            prompts.data.ds,
            {name: prompts.chunks_of(name) for name in prompts.sources},
            count=config.autocurriculum.chunks,
            batch_size=config.batch_size // run.accelerator.num_processes,
            seq=prompts.data.seq,
            seed=config.seed + run.step,
        )
    weights = prompts.curriculum.update(difficulty)
    if run.step < run.total_steps:
        loader.set_weights(weights)
    logged = {f"weight/{name}": weight for name, weight in weights.items()}
    for name, (mean, variance) in difficulty.items():
        logged |= {f"difficulty/{name}": mean, f"variance/{name}": variance}
    run.event("mixture", **logged)
