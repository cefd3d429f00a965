from dataclasses import dataclass, field
from enum import StrEnum, auto
from pathlib import Path
from typing import ClassVar

import pytest

from fluxcore.training.config import ConfigError, ConfigFile
from fluxcore.training.schedule import ScheduleName
from fluxcore.training.trainer_config import TrackerName, TrainerConfig


class Fruit(StrEnum):
    apple = auto()
    pear = auto()


@dataclass(kw_only=True, slots=True)
class Basket:
    weight: float = 1.0


@dataclass(kw_only=True, slots=True)
class Shop(ConfigFile):
    name: ClassVar[str] = "shop"
    folder: Path
    fruit: Fruit = Fruit.apple
    count: int | None = None
    basket: Basket = field(default_factory=Basket)
    labels: list[str] = field(default_factory=list)

    def __post_init__(self):
        if self.count is not None and self.count < 0:
            raise ValueError(f"`count` must be >= 0, got {self.count}")


def write(path, text):
    path.write_text(text)
    return path


def test_yaml_round_trip(tmp_path):
    shop = Shop(
        folder=Path("/a b/ö"), fruit=Fruit.pear, count=3, basket=Basket(weight=0.25), labels=["no", "1", "x: y"]
    )
    shop.to_yaml(tmp_path / "shop.yaml")
    assert Shop.from_yaml(tmp_path / "shop.yaml") == shop


def test_left_out_keys_keep_their_defaults_and_the_schema_may_be_cited(tmp_path):
    for head in ("", "defaults: [shop_schema, _self_]\n"):
        shop = Shop.from_yaml(write(tmp_path / "shop.yaml", head + "folder: /x\nbasket: {weight: 2}\n"))
        assert shop == Shop(folder=Path("/x"), basket=Basket(weight=2.0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("folder: /x\nfruti: pear\n", "`fruti` is not a key of this configuration\n\nDid you mean `fruit`?"),
        ("folder: /x\nzzz: 1\n", "Keys are: basket, basket.weight, count"),
        (
            "folder: /x\nbasket: {wait: 1}\n",
            "`basket.wait` is not a key of this configuration\n\nDid you mean `basket.weight`",
        ),
        ("folder: /x\nfruit: plum\n", "`fruit`: invalid value 'plum', expected one of [apple, pear]"),
        ("folder: /x\ncount: many\n", "`count`: value 'many' of type 'str' could not be converted to Integer"),
        ("count: 1\n", "`folder` must be given"),
        ("defaults: [shop_schema, _self_]\nfolder: /x\nfruti: pear\n", "Did you mean `fruit`?"),
        ("defaults: [shop_schema, _self_]\nfolder: /x\nfruit: plum\n", "`fruit`: invalid value 'plum'"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path, text, message):
    path = write(tmp_path / "shop.yaml", text)
    with pytest.raises(ConfigError) as caught:
        Shop.from_yaml(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_value_out_of_range_raises_the_check_of_the_class(tmp_path):
    with pytest.raises(ValueError, match=r"`count` must be >= 0, got -1"):
        Shop.from_yaml(write(tmp_path / "shop.yaml", "folder: /x\ncount: -1\n"))


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.yaml"):
        Shop.from_yaml(tmp_path / "nothing.yaml")
    with pytest.raises(ConfigError, match=r"must end in \.yaml"):
        Shop.from_yaml(write(tmp_path / "shop.yml", "folder: /x\n"))


def test_text_becomes_enums_and_paths():
    config = TrainerConfig(schedule="linear", trackers=["wandb"], run_dir="a/b")
    assert (config.schedule, config.trackers, config.run_dir) == (
        ScheduleName.linear,
        [TrackerName.wandb],
        Path("a/b"),
    )
    for keys in ({"schedule": "cosin"}, {"trackers": ["tensorbord"]}):
        with pytest.raises(ValueError, match=r"must be one of .*(cosine|tensorboard).*, got"):
            TrainerConfig(**keys)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be >= 1, got 0"),
        ({"seed": -1}, "`seed` must be >= 0, got -1"),
        ({"lr": float("nan")}, "`lr` must be > 0 and finite, got nan"),
        ({"weight_decay": float("nan")}, "`weight_decay` must be >= 0, got nan"),
        ({"betas": [0.9]}, r"`betas` must be two numbers in \[0, 1\), got \[0.9\]"),
        ({"steps": 1, "tokens": 1}, "`steps` and `tokens` are both given"),
        ({"seq": 0}, "`seq` must be >= 1, got 0"),
        ({"top_p": 0.0}, r"`top_p` must be within \(0, 1\], got 0.0"),
        ({"min_lr_ratio": 2.0}, r"`min_lr_ratio` must be within \[0, 1\], got 2.0"),
    ],
    ids=str,
)
def test_common_keys_are_checked(keys, message):
    with pytest.raises(ValueError, match=message):
        TrainerConfig(**keys)
